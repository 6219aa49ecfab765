//! `taper memory`, `taper embed` and a chat with a memory: the real program with the real embedder.
#![cfg(feature = "memory")]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::apart::with_own_mounts;
use common::program::{failed, piped, succeeded, taper};
use common::pty::{Home, brings, ends_well, next_prompt, say};
use common::tiny::Random;
use serde_json::Value;
use sha2::{Digest, Sha256};
use taper::memory::embed::Embedder;
use taper::memory::store::{Access, Passage, Store};
use taper::registry::resolve::at_path;
use tempfile::TempDir;

/// A folder of the user's, with the test embedder as theirs.
struct User(TempDir);

impl User {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join("files").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn taper(&self, args: &[&str]) -> Command {
        let mut command = taper();
        command.args(args).env("TAPER_DATA_DIR", self.path("data")).env("TAPER_EMBEDDER", common::embedder());
        command
    }

    fn memory(&self, args: &[&str]) -> String {
        succeeded(&mut self.taper(&[&["memory"], args].concat()))
    }

    fn refused(&self, args: &[&str]) -> String {
        failed(&mut self.taper(&[&["memory"], args].concat())).1
    }

    fn lines(&self, args: &[&str]) -> Vec<Value> {
        self.memory(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn stats(&self, name: &str) -> Value {
        serde_json::from_str(&self.memory(&["stats", name, "--json"])).unwrap()
    }

    fn store(&self, name: &str) -> PathBuf {
        self.path(&format!("data/memories/{name}.sqlite"))
    }
}

const NOTES: &str = "# Garden\n\nThe tomatoes were sown on the third of March.\n\n# House\n\nThe boiler was repaired by Mrs. Okafor in \
                     October.\n\n# Car\n\nThe licence plate ends with 4711.\n";

#[test]
fn the_passage_that_answers_comes_first_with_its_source_and_offsets() {
    let user = User::new();
    let notes = user.file("notes.md", NOTES);
    let code = user.file("sub/add.rs", "/// Adds two numbers.\nfn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n");
    let folder = user.path("files");
    let said = user.memory(&["add", "home", folder.to_str().unwrap()]);
    assert_eq!(said, "home: 2 records added from 2 sources\n");
    let found = user.lines(&["search", "home", "function that sums integers", "--json", "-k", "2"]);
    assert_eq!((found.len(), found[0]["rank"].as_u64(), found[1]["rank"].as_u64()), (2, Some(1), Some(2)));
    assert_eq!(found[0]["source"], code.to_str().unwrap());
    assert!(found[0]["score"].as_f64() > found[1]["score"].as_f64());
    let (begins, ends) = (found[1]["offset"].as_u64().unwrap() as usize, found[1]["end"].as_u64().unwrap() as usize);
    assert_eq!(found[1]["text"], NOTES[begins..ends]);
    let shown = user.memory(&["show", "home", &found[1]["id"].to_string()]);
    assert_eq!(shown, NOTES);
    let text = user.memory(&["search", "home", "when were the tomatoes planted?"]);
    assert!(
        text.starts_with("[1] 0.") && text.contains(notes.to_str().unwrap()) && text.contains("\n    The tomatoes"),
        "{text}"
    );
    assert_eq!(user.memory(&["list"]), "home  2 records\n");
    assert!(user.memory(&["list", "home"]).contains("notes.md  1 record from id 1\n"));
}

#[test]
fn what_is_there_is_not_added_again_and_what_changed_is_replaced() {
    let user = User::new();
    let notes = user.file("notes.md", NOTES);
    let path = notes.to_str().unwrap();
    user.memory(&["add", "m", path]);
    let hash = user.stats("m")["content_hash"].clone();
    assert_eq!(user.memory(&["add", "m", path]), "m: 0 records added from 0 sources, 1 unchanged\n");
    user.file("notes.md", NOTES.replace("4711", "4712"));
    assert_eq!(user.memory(&["add", "m", path]), "m: 1 record added from 1 source\n");
    assert_ne!(user.stats("m")["content_hash"], hash);
    assert_eq!(user.stats("m")["records"], 1);
    user.file("notes.md", NOTES);
    user.memory(&["add", "m", path]);
    assert_eq!(user.stats("m")["content_hash"], hash, "the same records have the same hash");
    let output = piped(&mut user.taper(&["memory", "add", "m", "-"]), b"A text from a pipe.");
    assert!(output.status.success());
    assert!(user.memory(&["list", "m"]).contains("stdin:"));
    user.file("notes.md", "");
    user.memory(&["add", "m", path]);
    assert_eq!(user.stats("m")["records"], 1, "an empty file has no passages");
}

#[test]
fn of_a_page_what_people_read_is_added_and_offsets_are_bytes_of_that() {
    let user = User::new();
    let page = |script: &str| {
        let tomatoes = "The tomatoes were s&ouml;wn on the <b>third</b> of March. ".repeat(20);
        format!(
            "<!doctype html><script>{script}</script><nav>Home</nav><h1>Garden</h1><p>{tomatoes}<h2>Soil</h2><p>Loam."
        )
    };
    let path = user.file("page.html", page("let a = '<p>none</p>'"));
    let path = path.to_str().unwrap();
    user.memory(&["add", "m", path]);
    let text = format!(
        "# Garden\n\n{}\n\n## Soil\n\nLoam.",
        "The tomatoes were söwn on the third of March. ".repeat(20).trim()
    );
    let found = user.lines(&["search", "m", "soil", "--json"]);
    assert!(found.len() > 1, "{found:?}");
    for found in &found {
        let (begins, ends) = (found["offset"].as_u64().unwrap() as usize, found["end"].as_u64().unwrap() as usize);
        assert_eq!(found["text"], text[begins..ends]);
    }
    user.file("page.html", page("other()"));
    assert_eq!(user.memory(&["add", "m", path]), "m: 0 records added from 0 sources, 1 unchanged\n");
    let output = piped(&mut user.taper(&["memory", "add", "m", "-"]), b"<html><script>no</script><p>Piped &amp; read.");
    assert!(output.status.success());
    let piped = user.lines(&["search", "m", "Piped & read.", "--json", "-k", "1"]);
    assert_eq!(piped[0]["text"], "Piped & read.");
    assert_eq!(Path::new(piped[0]["source"].as_str().unwrap()).extension(), Some("html".as_ref()), "{piped:?}");
    let pdf = user.refused(&["add", "m", user.file("a.pdf", "%PDF-1.7\n").to_str().unwrap()]);
    assert!(
        pdf.contains("a PDF, which is not read") && pdf.contains("pdftotext FILE - | taper memory add NAME -"),
        "{pdf}"
    );
}

#[test]
fn what_was_exported_is_the_same_memory_where_it_is_imported() {
    let user = User::new();
    user.file("a.md", NOTES);
    user.file("b.txt", "Text with \"quotes\", a tab\tand a \u{1F600}.\n\n".repeat(60));
    user.memory(&["add", "one", user.path("files").to_str().unwrap()]);
    let lines = user.memory(&["export", "one"]);
    let file = user.file("export.jsonl", &lines);
    let records = user.stats("one")["records"].clone();
    let said = user.memory(&["import", "two", file.to_str().unwrap()]);
    assert_eq!(said, format!("two: {records} records added from 2 sources\n"));
    assert_eq!(user.stats("one")["content_hash"], user.stats("two")["content_hash"]);
    let again = piped(&mut user.taper(&["memory", "import", "two"]), lines.as_bytes());
    assert_eq!(String::from_utf8(again.stdout).unwrap(), "two: 0 records added from 2 sources\n");
    assert_eq!(user.memory(&["export", "two"]), lines);
    for (bad, expected) in [
        ("", "there is nothing to import"),
        ("hello\n", "line 1 is none of a memory's export: it is no JSON from character 1 on\n"),
        ("[]\n", "line 1 is none of a memory's export: it is no header\n"),
        ("{\"taper_memory\":2}\n", "it has form 2, and this taper knows 1"),
        ("{\"taper_memory\":1,\"model\":\"other\"}\n", "it is of other, and this memory of all-minilm-l6-v2"),
        (
            "{\"taper_memory\":1}\n{\"begins\":0,\"ends\":1,\"text\":\"x\"}\n",
            "line 2 is none of a memory's export: a record before any source",
        ),
        (
            "{\"taper_memory\":1}\n{\"source\":\"a\",\"hash\":\"0\"}\n",
            "line 2 is none of a memory's export: its hash is none",
        ),
        ("{\"taper_memory\":1}\n{}\n", "line 2 is none of a memory's export: it is neither a source nor a record\n"),
        ("{\"taper_memory\":1}\n\n", "line 2 is none of a memory's export: it is empty\n"),
    ] {
        let output = piped(&mut user.taper(&["memory", "import", "bad"]), bad.as_bytes());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(expected), "{bad}: {error}");
        assert!(!user.store("bad").exists(), "{bad} made a memory");
    }
}

#[test]
fn what_cannot_be_done_is_said_with_what_to_do() {
    let user = User::new();
    let none = user.refused(&["search", "none", "x"]);
    assert!(
        none.contains("there is no memory `none`") && none.contains("taper memory add none FILE makes it"),
        "{none}"
    );
    for (bound, what) in [("--index-memory=1e9", "'1e9'"), ("--index-memory=-5", "'-5'")] {
        let refused = user.refused(&["rebuild", "m", bound]);
        assert!(
            refused.contains(what) && refused.contains("a bound is a whole number of megabytes, as 120"),
            "{refused}"
        );
    }
    user.memory(&["add", "m", user.file("a.txt", "Some text.").to_str().unwrap()]);
    assert!(user.refused(&["stats", "n"]).contains("there are: m; "));
    assert!(
        user.refused(&["add", "../m", "x"]).contains("No such file")
            || user.refused(&["list", "../m"]).contains("is no name")
    );
    assert!(user.refused(&["list", "../m"]).contains("`../m` is no name for a memory"));
    assert!(user.refused(&["show", "m", "7"]).contains("the memory has no record 7"));
    assert!(user.refused(&["rm", "m", "1", "7"]).contains("the memory has no record 7"));
    assert_eq!(user.stats("m")["records"], 1, "all or nothing");
    assert!(user.refused(&["rm", "m", "--source", "b"]).contains("the memory has no source `b`"));
    assert!(user.refused(&["rm", "m"]).contains("there is no terminal to ask on"));
    assert!(user.refused(&["search", "m", " "]).contains("the query is empty"));
    let program = user.file("program", b"\x7fELF\x02\0\0");
    let binary = user.refused(&["add", "m", program.to_str().unwrap()]);
    assert!(binary.contains("no text: byte 5 is 0") && binary.contains("program"), "{binary}");
    let latin = user.file("latin.txt", b"caf\xe9");
    assert!(user.refused(&["add", "m", latin.to_str().unwrap()]).contains("no text: byte 3 is not UTF-8"));
    let wide = user.file("wide.txt", b"\xff\xfeh\0i\0");
    let utf16 = user.refused(&["add", "m", wide.to_str().unwrap()]);
    assert!(utf16.contains("UTF-16, which is not read") && utf16.contains("iconv -f UTF-16 -t UTF-8 FILE"), "{utf16}");
    user.file("empty.txt", b"");
    let folder = user.taper(&["memory", "add", "m", user.path("files").to_str().unwrap()]).output().unwrap();
    let (out, said) = (String::from_utf8(folder.stdout).unwrap(), String::from_utf8(folder.stderr).unwrap());
    assert_eq!(out, "m: 0 records added from 0 sources, 1 unchanged, 1 without text, 3 left out\n");
    assert!(said.contains("left out") && said.contains("latin.txt: no text: byte 3 is not UTF-8"), "{said}");
    assert_eq!(user.memory(&["rm", "m", "1"]), "removed 1 record\n");
    let empty = user.refused(&["bench", "m"]);
    assert!(empty.contains("the memory m is empty") && empty.contains("taper memory add m FILE adds to it"), "{empty}");
    assert!(user.memory(&["rm", "m", "-y"]).starts_with("removed m"));
    assert!(!user.store("m").exists());
}

#[test]
fn what_was_kept_before_an_error_is_told_and_nothing_makes_no_memory() {
    let user = User::new();
    let (good, bad) = (user.file("a.txt", "Some text."), user.file("b.bin", b"\x7fELF\0"));
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let refused = user.refused(&["add", "new", bad]);
    assert!(refused.contains("no text: byte 4 is 0") && !refused.contains("before the error"), "{refused}");
    std::fs::create_dir(user.path("empty")).unwrap();
    let refused = user.refused(&["add", "new", user.path("empty").to_str().unwrap()]);
    assert!(refused.contains("there is no text to add, and no memory new yet"), "{refused}");
    assert!(!user.store("new").exists());

    let refused = user.refused(&["add", "m", good, bad]);
    assert!(
        refused.contains("m: 1 record added from 1 source before the error; what was added is kept\n"),
        "{refused}"
    );
    assert_eq!(user.stats("m")["records"], 1);
    assert_eq!(user.memory(&["add", "m", user.path("empty").to_str().unwrap()]), "m: 0 records added from 0 sources\n");

    let lines = user.memory(&["export", "m"]) + "{\"source\":\"b\",\"hash\":\"00\"}\n{\"begins\":0,\n";
    let refused = user.refused(&["import", "copy", user.file("x.jsonl", lines).to_str().unwrap()]);
    assert!(refused.contains("copy: 1 record added from 1 source before the error; they are kept\n"), "{refused}");
    assert!(refused.contains("line 5 is none of a memory's export"), "{refused}");
    assert_eq!(user.stats("copy")["records"], 1);
}

#[test]
fn a_file_is_one_source_whatever_way_was_named_and_its_mark_of_utf8_is_no_text() {
    let user = User::new();
    let path = user.file("f.txt", "\u{FEFF}Some text about boilers.\n");
    user.file("a/g.txt", "Another text.");
    user.memory(&["add", "m", path.to_str().unwrap()]);
    let way = user.path("files/a/../f.txt");
    assert_eq!(user.memory(&["add", "m", way.to_str().unwrap()]), "m: 0 records added from 0 sources, 1 unchanged\n");
    let found = &user.lines(&["search", "m", "boilers", "--json"])[0];
    assert_eq!((&found["text"], &found["offset"]), (&"Some text about boilers.".into(), &3.into()), "{found}");
    assert_eq!(found["end"], 27);
    let page = user.file("p.html", "\u{FEFF}<html><p>A page.</p></html>");
    user.memory(&["add", "page", page.to_str().unwrap()]);
    assert_eq!(user.lines(&["search", "page", "page", "--json"])[0]["text"], "A page.");
}

#[test]
fn passages_are_as_long_as_was_asked_for_which_is_kept() {
    let user = User::new();
    let sentences: Vec<String> =
        (0..60).map(|n| format!("Sentence number {n} tells of house {n} in the street.")).collect();
    let path = user.file("a.txt", sentences.join(" "));
    let path = path.to_str().unwrap();
    for (tokens, takes) in [("19", "take --chunk-tokens 20"), ("255", "take --chunk-tokens 254")] {
        let refused = user.refused(&["add", "m", path, "--chunk-tokens", tokens]);
        let what = format!("passages of up to {tokens} tokens: all-minilm-l6-v2 takes 20 to 254");
        assert!(refused.contains(&what) && refused.contains(takes), "{refused}");
        assert!(!user.store("m").exists(), "{tokens} tokens made a memory");
    }
    user.memory(&["add", "m", path]);
    let (records, tokens) = (user.stats("m")["records"].clone(), user.stats("m")["chunk_tokens"].clone());
    assert_eq!(tokens, 200);
    user.memory(&["add", "m", path, "--chunk-tokens", "40"]);
    let shorter = user.stats("m");
    assert!(shorter["records"].as_u64() > records.as_u64().map(|records| 4 * records), "{shorter}");
    assert_eq!((&shorter["sources"], &shorter["chunk_tokens"]), (&1.into(), &40.into()));
    assert!(user.memory(&["stats", "m"]).contains("\npassages      of up to 40 tokens\n"));
    // Without being said again.
    let other = user.file("b.txt", sentences.join(" "));
    user.memory(&["add", "m", other.to_str().unwrap()]);
    assert_eq!(user.stats("m")["records"].as_u64(), shorter["records"].as_u64().map(|records| 2 * records));
    // One that was stopped when passages were cut at other places begins anew, though they were as many.
    let third = user.file("c.txt", sentences.join(" "));
    let mut store = Store::open(&user.store("m"), Access::Existing).unwrap();
    let (hash, count) = (Sha256::digest(sentences.join(" ")), shorter["records"].as_u64().unwrap() as usize);
    let mut source = store.begin(third.to_str().unwrap(), &hash, count).unwrap();
    let vector = unit(Random(1).values(384));
    store.append(&mut source, &[Passage { begins: 0, ends: 10, text: "Sentence n", vector: &vector }]).unwrap();
    user.memory(&["add", "m", third.to_str().unwrap()]);
    let added = store.versions().unwrap().pop().unwrap();
    let records = store.records_of(added.id).unwrap();
    assert_eq!((added.name.as_str(), records.len()), (third.to_str().unwrap(), count));
    assert!(records.iter().all(|record| record.ends != 10), "{records:?}");
}

#[test]
fn a_line_of_megabytes_and_a_file_of_gigabytes_are_survived() {
    let user = User::new();
    let long = user.file("long.txt", "x".repeat(100_000) + " " + &"word ".repeat(2_000));
    assert!(user.memory(&["add", "m", long.to_str().unwrap()]).ends_with("from 1 source\n"));
    let huge = user.path("files/huge.txt");
    std::fs::File::create(&huge).unwrap().set_len(1 << 30).unwrap();
    let error = user.refused(&["add", "m", huge.to_str().unwrap()]);
    assert!(error.contains("the file is larger than 67.1 MB") && error.contains("cut it into several"), "{error}");
}

#[test]
fn a_damaged_vector_is_made_again_from_its_text() {
    let user = User::new();
    user.memory(&["add", "m", user.file("a.md", NOTES).to_str().unwrap()]);
    let hash = user.stats("m")["content_hash"].clone();
    rusqlite::Connection::open(user.store("m"))
        .unwrap()
        .execute("UPDATE vectors SET vector = zeroblob(1536)", [])
        .unwrap();
    let error = user.refused(&["search", "m", "tomatoes"]);
    assert!(error.contains("the vector of record 1 is damaged") && error.contains("taper memory rebuild"), "{error}");
    let rebuilt = user.memory(&["rebuild", "m"]);
    assert_eq!(
        rebuilt,
        format!("m: 1 record, 0 sound, 1 vector made again\ncontent_hash {}\n", hash.as_str().unwrap())
    );
    assert!(user.memory(&["search", "m", "tomatoes"]).contains("tomatoes"));
}

fn unit(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.into_iter().map(|x| x / length).collect()
}

/// What a run that must succeed says on standard error.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn help_is_as_reviewed() {
    for name in ["memory", "memory add", "memory search", "memory rebuild", "memory bench", "embed"] {
        let words: Vec<&str> = name.split(' ').chain(["--help"]).collect();
        let help = succeeded(taper().args(words).env("COLUMNS", "100"));
        insta::assert_snapshot!(format!("help_{}", name.replace(' ', "_")), help);
    }
}

fn filled(user: &User, name: &str, records: usize) {
    fill(&user.store(name), records);
}

/// Makes a memory of so many records whose vectors mean nothing.
fn fill(path: &Path, records: usize) {
    let model = Embedder::open(&at_path(&common::embedder()).unwrap()).unwrap().model().unwrap();
    let mut store = Store::open(path, Access::Create).unwrap();
    store.set_model(&model).unwrap();
    let vectors: Vec<Vec<f32>> = (0..records).map(|n| unit(Random(n as u64).values(model.dim))).collect();
    let mut source = store.begin("made", b"1", records).unwrap();
    let passages: Vec<Passage> = vectors
        .iter()
        .enumerate()
        .map(|(n, vector)| Passage { begins: n, ends: n + 1, text: "Nothing.", vector })
        .collect();
    store.append(&mut source, &passages).unwrap();
}

#[test]
fn a_larger_memory_gets_an_index_which_is_made_anew_when_it_is_damaged() {
    let user = User::new();
    filled(&user, "m", 1400);
    let notes = user.file("notes.md", NOTES);
    let added = said(&mut user.taper(&["memory", "add", "m", notes.to_str().unwrap()]));
    assert!(added.contains("index: 1401 vectors: all scanned as int8, the best "), "{added}");
    assert_eq!((&user.stats("m")["indexed"], &user.stats("m")["target_recall"]), (&1401.into(), &0.98.into()));
    let search = &["memory", "search", "m", "when were the tomatoes planted?", "-k", "1"];
    assert!(user.memory(&search[1..]).contains("The tomatoes were sown"));
    let index = user.store("m").with_extension("index");
    assert_eq!(std::fs::metadata(&index).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&index, "not an index").unwrap();
    let again = said(&mut user.taper(search));
    assert!(
        again.contains("the index file is not this memory's, or gone") && again.contains("\nindex: 1401 vectors"),
        "{again}"
    );
    assert_eq!(said(&mut user.taper(search)), "");
    let asked = said(&mut user.taper(&["memory", "rebuild", "m", "--target-recall", "1"]));
    assert!(asked.contains("index: none, a search compares all of 1401 records") && !index.exists(), "{asked}");
    let refused = user.refused(&["rebuild", "m", "--target-recall", "0.2"]);
    assert!(refused.contains("a share is a number from 0.5 to 1"), "{refused}");
    let few = user.refused(&["bench", "m", "--records", "900"]);
    assert!(few.contains("900 records are too few to compare forms on: 1000 are the least"), "{few}");
    user.memory(&["rebuild", "m", "--target-recall", "0.9"]);
    user.memory(&["rm", "m", "-y"]);
    assert_eq!(std::fs::read_dir(user.path("data/memories")).unwrap().count(), 0, "something is left behind");
}

#[test]
fn stats_tell_what_the_index_is_and_what_is_wrong_with_it() {
    let user = User::new();
    filled(&user, "m", 1500);
    user.memory(&["rebuild", "m", "--index-memory", "120", "--target-recall", "0.95"]);
    user.memory(&["rm", "m", "7", "8", "1500"]);
    user.memory(&["add", "m", user.file("notes.md", NOTES).to_str().unwrap()]);
    let stats = user.memory(&["stats", "m"]);
    let index = "index         of 1497 records: all scanned as int8, the best ";
    assert!(stats.contains(index) && stats.contains("; 1 newer compared beside it\n"), "{stats}");
    assert!(stats.contains("target        recall 0.95, at most 120.0 MB of memory\n"), "{stats}");
    let json = user.stats("m");
    assert_eq!((&json["indexed"], &json["index_memory"]), (&1497.into(), &120_000_000.into()));
    assert!(json["index"].as_str().unwrap().starts_with("all scanned as int8") && json["index_problem"].is_null());

    let file = user.store("m").with_extension("index");
    std::fs::write(&file, "not an index").unwrap();
    assert_eq!(user.stats("m")["index_problem"], "its file is damaged, or another memory's");
    std::fs::remove_file(&file).unwrap();
    let stats = user.memory(&["stats", "m"]);
    assert!(stats.contains("index         none: its file is gone; `taper memory rebuild m` makes it\n"), "{stats}");

    std::fs::create_dir(&file).unwrap();
    let search = user.taper(&["memory", "search", "m", "when were the tomatoes planted?", "-k", "1"]).output().unwrap();
    let (out, said) = (String::from_utf8(search.stdout).unwrap(), String::from_utf8(search.stderr).unwrap());
    assert!(search.status.success() && out.contains("The tomatoes were sown"), "{out}{said}");
    assert!(said.contains("m.index is no file\n  remove it, then: taper memory rebuild m"), "{said}");
    let refused = user.taper(&["memory", "rebuild", "m"]).output().unwrap();
    let advice = String::from_utf8(refused.stderr).unwrap();
    assert!(advice.contains("what is in the place of the memory's index is no file"), "{advice}");
    assert!(advice.contains("remove it, then: taper memory rebuild m\n"), "{advice}");
    let stats = user.memory(&["stats", "m"]);
    assert!(stats.contains("is no file; remove it, then `taper memory rebuild m` makes it\n"), "{stats}");
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, "not an index").unwrap();
    let told = self::said(&mut user.taper(&["memory", "rm", "m", "900"]));
    let lost = "index: its file could not be read, all are compared now; `taper memory rebuild m` makes one";
    assert!(told.contains(lost), "{told}");
}

#[test]
fn what_a_source_took_on_the_disk_is_given_back() {
    let user = User::new();
    filled(&user, "m", 3000);
    user.memory(&["add", "m", user.file("notes.md", NOTES).to_str().unwrap()]);
    let before = std::fs::metadata(user.store("m")).unwrap().len();
    let said = said(&mut user.taper(&["memory", "rm", "m", "--source", "made"]));
    let after = std::fs::metadata(user.store("m")).unwrap().len();
    assert!(after * 10 < before && said.contains("the file is 5."), "{before} {after} {said}");
    assert!(said.contains("MB smaller\nindex: none, a search compares all of 1 record\n"), "{said}");
    assert!(user.memory(&["search", "m", "tomatoes", "-k", "1"]).contains("The tomatoes were sown"));
}

/// Kills `command` after a while; whether it was still running.
fn killed_after(command: &mut Command, pause: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(pause);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    running
}

/// Records of the store, without a taper.
fn records(path: &Path) -> i64 {
    let db = rusqlite::Connection::open(path).unwrap();
    db.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap_or(0) // one that was just made has no tables
}

#[test]
fn killed_at_any_moment_nothing_that_was_kept_is_lost() {
    let user = User::new();
    for n in 0..4 {
        let sentences: Vec<String> =
            (0..20).map(|k| format!("Sentence {k} of file {n} tells of number {}.\n\n", n * 1000 + k)).collect();
        user.file(&format!("{n}.txt"), sentences.concat());
    }
    let folder = user.path("files");
    let folder = folder.to_str().unwrap();
    let start = std::time::Instant::now();
    user.memory(&["add", "whole", folder]);
    let takes = start.elapsed();
    let whole = user.stats("whole");
    let rounds = if std::env::var_os("TAPER_SOAK").is_some() { 200 } else { 5 };
    let (mut interrupted, mut kept) = (0, 0);
    for round in 0u64..rounds {
        // From before it begins until after it should have ended, however fast the machine is.
        let pause = takes.mul_f64((round * 37 % 101) as f64 / 80.0);
        let command = match round % 4 {
            2 => &["memory", "rebuild", "m"][..],
            3 => &["memory", "rm", "m", "--source", "no such"],
            _ => &["memory", "add", "m", folder],
        };
        interrupted += usize::from(killed_after(&mut user.taper(command), pause));
        if user.store("m").exists() {
            let now = records(&user.store("m"));
            assert!(now >= kept, "{now} records are left of {kept}");
            kept = now;
        }
        if kept > 1 && round % 5 == 4 {
            // What rm has told to be gone is gone, and what it has not told of is whole.
            let sources = user.lines(&["list", "m", "--json"]);
            let id = sources.iter().find_map(|source| source["first"].as_i64()).unwrap().to_string(); // one may be begun only
            user.memory(&["rm", "m", &id]);
            kept -= 1;
            assert_eq!(records(&user.store("m")), kept);
        }
        if kept > 0 {
            assert!(user.memory(&["rebuild", "m"]).contains(&format!(", {kept} sound, 0 vectors made again")));
        }
    }
    assert!(interrupted > 0);
    _ = writeln!(std::io::stderr(), "{interrupted} of {rounds} were killed before their end; {kept} records are left");
    // What rm took out of sources that were whole comes back only with a fresh start.
    if user.store("m").exists() {
        user.memory(&["rm", "m", "-y"]);
    }
    killed_after(&mut user.taper(&["memory", "add", "m", folder]), takes.mul_f64(0.7));
    user.memory(&["add", "m", folder]);
    assert_eq!(user.stats("m")["content_hash"], whole["content_hash"]);
}

#[test]
fn full_disks_and_folders_that_may_not_be_written_are_told() {
    let user = User::new();
    let notes = user.file("notes.md", NOTES);
    user.memory(&["add", "m", notes.to_str().unwrap()]);
    let script = r#"mount --bind "$FOLDER" "$FOLDER"; mount -o remount,bind,ro "$FOLDER"
        "$0" memory search m tomatoes --json; "$0" memory rm m 1 || "$0" memory add new "$NOTES" || "$0" memory rebuild m ||
        true"#;
    let Some(mut command) = with_own_mounts(script) else { return };
    let program = user.taper(&[]);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.arg(program.get_program()).env("FOLDER", user.path("data")).env("NOTES", notes).stdin(Stdio::null());
    let output = command.output().unwrap();
    let (out, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.contains("tomatoes"), "{out}{said}");
    for what in [
        "the memory may not be written",
        "cannot make the memory: Read-only",
        "the records were checked, but nothing was written: the memory may not be",
    ] {
        assert!(said.contains(what), "{said}");
    }
    assert!(out.contains("m: 1 record, 1 sound, 0 vectors made again"), "{out}");
}

#[test]
fn vectors_are_printed_as_json_and_as_numpys_arrays() {
    let user = User::new();
    let line = succeeded(&mut user.taper(&["embed", "a text"]));
    let vector: Vec<f32> = serde_json::from_str(&line).unwrap();
    assert_eq!(vector.len(), 384);
    let lines = user.file("lines.txt", "a text\nanother\n");
    let many = succeeded(&mut user.taper(&["embed", "-f", lines.to_str().unwrap()]));
    assert_eq!(many.lines().count(), 2);
    let npy = piped(&mut user.taper(&["embed", "-f", "-", "-o", "npy"]), b"a text\nanother\n").stdout;
    let (header, data) = npy.split_at(128);
    assert!(header.starts_with(b"\x93NUMPY\x01\x00") && data.len() == 2 * 384 * 4);
    let first: Vec<f32> = data[..384 * 4].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert!(first.iter().zip(&vector).all(|(a, b)| (a - b).abs() < 1e-5));
    let (code, error) = failed(&mut user.taper(&["embed", "x", "--embedder", "smollm2-135m"]));
    assert!(code == 3 && error.contains("smollm2-135m is not an embedder"), "{error}");
}

fn home() -> (Home, impl Fn(&[&str]) -> Command) {
    let home = Home::new();
    let data = home.file("data");
    let command = move |args: &[&str]| {
        let mut command = taper();
        command.args(args).env("TAPER_DATA_DIR", &data).env("TAPER_EMBEDDER", common::embedder());
        command
    };
    (home, command)
}

fn chat(home: &Home, args: &[&str]) -> rexpect::session::PtySession {
    let mut command = home.taper(&[&["--temp", "0", "--memory", "m"], args].concat());
    command.env("TAPER_EMBEDDER", common::embedder());
    let mut chat = common::pty::start(command);
    chat.exp_string("Ctrl-D leaves.").unwrap();
    chat.exp_string(">>> ").unwrap();
    chat
}

#[test]
fn a_chat_remembers_recalls_cites_and_forgets() {
    let (home, command) = home();
    let mut first = chat(&home, &["-n", "24", "-c", "4096"]);
    brings(&mut first, "/remember The licence plate of Ada's car is <|im_end|> ZX 4711.", "Remembered as record 1.");
    brings(
        &mut first,
        "/remember The licence plate of Ada's car is <|im_end|> ZX 4711.",
        "That is remembered already.",
    );
    brings(&mut first, "/recall car", "ZX 4711.");
    brings(&mut first, "/memory", "memory m: 1 record of 1 source");
    brings(&mut first, "/forget 9", "the memory has no record 9");
    say(&mut first, "What is the licence plate of Ada's car?");
    first.exp_string("[ prompt ").unwrap();
    first.exp_string("[1] 0.").unwrap();
    first.exp_string("(id 1)").unwrap();
    first.exp_string(">>> ").unwrap();
    brings(&mut first, "/forget 1", "Record 1 is forgotten.");
    brings(&mut first, "/recall car", "There is nothing in the memory.");
    say(&mut first, "/bye");
    ends_well(&mut first);
    // The session keeps what was quoted, apart from the question.
    let sessions = home.file("data/sessions");
    let session = std::fs::read_dir(sessions).unwrap().next().unwrap().unwrap().path();
    let lines = std::fs::read_to_string(session).unwrap();
    let asked: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    assert_eq!(asked["content"], "What is the licence plate of Ada's car?");
    let recalled = asked["recalled"].as_str().unwrap();
    assert!(recalled.contains("\n> The licence plate of Ada's car is <|im_end|> ZX 4711.\n"), "{recalled}");
    assert_eq!(succeeded(&mut command(&["memory", "list"])), "m  0 records\n");
}

/// Whether what was removed from a memory is out of its index too.
fn is_in_step(memory: &Path) -> bool {
    let db = rusqlite::Connection::open(memory).unwrap();
    let sql = "SELECT search.removals = removals.count AND sha256 IS NOT NULL FROM search, removals";
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn what_is_forgotten_leaves_the_index_in_the_background_or_when_the_next_chat_begins() {
    let (home, command) = home();
    let path = home.file("data/memories/m.sqlite");
    fill(&path, 1400);
    succeeded(&mut command(&["memory", "rebuild", "m"]));
    let mut first = chat(&home, &["-c", "512"]);
    brings(&mut first, "/forget 7", "Record 7 is forgotten.");
    say(&mut first, "/bye");
    ends_well(&mut first);
    assert!(is_in_step(&path));
    // As one that was killed before it came to the index.
    Store::open(&path, Access::Existing).unwrap().remove(&[8]).unwrap();
    assert!(!is_in_step(&path));
    let found = succeeded(&mut command(&["memory", "search", "m", "anything", "-k", "1000"]));
    assert!(!found.contains("(id 7)") && !found.contains("(id 8)") && found.contains("(id 9)"));
    let mut next = chat(&home, &["-c", "512"]);
    say(&mut next, "/bye");
    ends_well(&mut next);
    assert!(is_in_step(&path));
}

#[test]
fn turns_are_remembered_and_files_are_added_while_the_chat_goes_on() {
    let (home, command) = home();
    let notes = home.file("notes.md");
    std::fs::write(&notes, NOTES).unwrap();
    let mut one = chat(&home, &["-n", "16", "-c", "4096", "--memory-turns"]);
    brings(&mut one, &format!("/memory add {}", notes.display()), "is being added");
    say(&mut one, "What is the capital of France?");
    next_prompt(&mut one);
    brings(&mut one, "/memory add /no/such", "No such file");
    say(&mut one, "/bye");
    ends_well(&mut one);
    let listed = succeeded(&mut command(&["memory", "list", "m"]));
    assert!(listed.contains("notes.md  1 record ") && listed.contains("turn 2"), "{listed}");
    let turn = succeeded(&mut command(&["memory", "search", "m", "capital of France", "-k", "1"]));
    assert!(turn.contains("User: What is the capital of France?") && turn.contains("Assistant: "), "{turn}");
    let mut none = home.chat(&[]);
    brings(&mut none, "/remember x", "this chat has no memory");
    say(&mut none, "/bye");
    ends_well(&mut none);
}

#[test]
fn one_shot_quotes_what_is_relevant_and_prints_its_source() {
    let user = User::new();
    user.memory(&["add", "m", user.file("notes.md", NOTES).to_str().unwrap()]);
    let ask = |args: &[&str]| {
        let mut command = user.taper(&["--temp", "0", "-n", "8", "-c", "2048", "-m"]);
        let memory: &[&str] = if args.contains(&"--memory") { &[] } else { &["--memory", "m"] };
        let output = command.arg(common::smollm2()).args(memory).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(ask(&["-p", "Who repaired the boiler?"]).contains("notes.md, bytes 0 to"));
    let unrelated = ask(&["-p", "qwertz uiop asdf"]);
    assert!(!unrelated.contains("notes.md"), "{unrelated}");
    assert!(!ask(&["-p", "Who repaired the boiler?", "--memory-budget", "20"]).contains("notes.md"));
    assert!(!ask(&["-q", "-p", "Who repaired the boiler?"]).contains("notes.md"));
    assert_eq!(user.stats("m")["records"], 1);
    ask(&["-p", "Who repaired the boiler?", "--memory-turns"]);
    assert_eq!(user.stats("m")["records"], 2);
    let slip = |args: &[&str]| ask(&[&["-p", "Who?", "--memory"], args].concat());
    assert!(slip(&["notes"]).contains("There was no memory notes: an empty one is made\n"));
    assert!(!slip(&["notes"]).contains("There was no memory") && !slip(&["no", "-q"]).contains("There was no memory"));
    assert!(slip(&["nodes"]).contains("There was no memory nodes: an empty one is made; did you mean notes?\n"));
    assert!(user.refused(&["stats", "notess"]).contains("did you mean notes?"));
}
