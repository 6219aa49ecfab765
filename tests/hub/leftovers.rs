//! What lies in the hub's cache, as `taper models` tells it: models, and beginnings of files.

use std::fs;

use taper::terminal::progress::megabytes;

use super::common::gguf_builder::GgufBuilder;
use super::common::tiny;
use super::server::File;
use super::{Place, gguf};

/// A list with one model of the test's hub.
const MINE: &str = "[[model]]\nname = \"mine\"\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n[[model.source]]\n\
        hub = \"ada/tiny\"\nrevision = \"main\"\nfiles = [{ name = \"w.gguf\" }]\n";

/// The exit code, and what is said on both streams.
fn told(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    let output = place.command(args).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn what_an_unfinished_download_left_is_told_and_can_be_removed() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    let text = |args: &[&str]| told(&place, args);
    let left = || {
        fs::create_dir_all(place.cache("blobs")).unwrap();
        fs::write(place.incomplete(&file), &file.bytes[..1000]).unwrap();
    };
    left();
    let shown = text(&["models", "show", "hf:ada/tiny"]).1;
    assert!(shown.contains("not on this machine") && shown.contains("unfinished  1.0 kB of a download in "), "{shown}");
    assert!(text(&["models", "show", "--json", "hf:ada/tiny"]).1.contains(r#""unfinished_bytes":1000"#));

    let lock_path = place.path("hub/.locks/models--ada--tiny").join(format!("{}.lock", file.hash()));
    fs::create_dir_all(lock_path.parent().unwrap()).unwrap();
    let lock = fs::File::create(lock_path).unwrap();
    lock.lock().unwrap();
    let (code, said) = text(&["models", "rm", "-y", "hf:ada/tiny"]);
    assert!(code == Some(1) && said.contains("another program is fetching this file"), "{said}");
    assert!(place.incomplete(&file).exists());
    drop(lock);
    assert_eq!(text(&["models", "rm", "-y", "hf:ada/tiny"]), (Some(0), "removed hf:ada/tiny, 1.0 kB\n".into()));
    assert!(!place.incomplete(&file).exists());
    let (code, said) = text(&["models", "rm", "-y", "hf:ada/tiny"]);
    assert!(code == Some(3) && said.contains("nothing to remove"), "{said}");

    // The same of a model of the list.
    fs::write(place.path("config/models.toml"), MINE).unwrap();
    left();
    let list = text(&["models", "list"]).1;
    assert!(list.contains("no, 1.0 kB unfinished"), "{list}");
    assert_eq!(text(&["models", "rm", "-y", "mine"]), (Some(0), "removed mine, 1.0 kB\n".into()));
    assert!(!place.incomplete(&file).exists());

    // Once a file is there, what is unfinished is of another, and stays.
    place.pulled(&file);
    fs::write(place.cache("blobs/0000.incomplete"), b"other").unwrap();
    assert_eq!(text(&["models", "rm", "-y", "hf:ada/tiny:w.gguf"]).0, Some(0));
    assert!(place.cache("blobs/0000.incomplete").exists() && !place.blob(&file).exists());
}

/// A file that begins as one of a Llama does.
fn llama(name: &str) -> File {
    let sized = tiny::with_sizes(GgufBuilder::new().str("general.name", name), &tiny::config());
    File::lfs(name, &tiny::with_vocabulary(sized, 61).bytes())
}

#[test]
fn models_of_the_cache_are_listed_and_verified_by_their_names_of_the_hub() {
    let other = GgufBuilder::new().str("general.architecture", "gemma3").u32("gemma3.block_count", 9).bytes();
    let files = [llama("a-Q8_0.gguf"), llama("b-Q4_0.gguf"), File::lfs("c.gguf", &other)];
    let place = Place::with(&files);
    for file in &files {
        assert!(place.pull(&format!("hf:ada/tiny:{}", file.name)).status.success());
    }
    let (_, list) = told(&place, &["models", "list"]);
    let row = |name: &str| list.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    let size = megabytes(files[0].bytes.len() as u64);
    for name in ["hf:ada/tiny:a-Q8_0.gguf", "hf:ada/tiny:b-Q4_0.gguf"] {
        let row = row(name).unwrap();
        assert!(row.contains(&size) && row.ends_with("in the hub's cache"), "{list}");
    }
    assert_eq!(row("hf:ada/tiny:c.gguf"), None, "taper does not run it");
    let (_, json) = told(&place, &["models", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let found = json.as_array().unwrap().iter().find(|model| model["name"] == "hf:ada/tiny:a-Q8_0.gguf").unwrap();
    assert_eq!(found["path"], place.snapshot("a-Q8_0.gguf").display().to_string());

    fs::write(place.blob(&files[1]), b"cut").unwrap();
    let (code, report) = told(&place, &["models", "verify", "-q"]);
    assert!(code == Some(3) && report.contains("hf:ada/tiny:a-Q8_0.gguf  a-Q8_0.gguf  good\n"), "{report}");
    assert!(report.contains("hf:ada/tiny:b-Q4_0.gguf  b-Q4_0.gguf  damaged"), "{report}");
}

#[test]
fn a_model_of_the_list_is_not_listed_again_by_its_name_of_the_hub() {
    let file = llama("w.gguf");
    let place = Place::with(std::slice::from_ref(&file));
    place.pulled(&file);
    fs::write(place.cache("blobs/0000.incomplete"), b"other").unwrap();
    let names = || {
        let (_, list) = told(&place, &["models", "list"]);
        let name = |line: &str| line.split("  ").next().unwrap_or_default().to_owned();
        list.lines().map(name).filter(|name| name.contains("ada") || name == "mine").collect::<Vec<_>>()
    };
    assert_eq!(names(), ["hf:ada/tiny:w.gguf", "hf:ada/tiny"], "and the beginning of another file");
    fs::write(place.path("config/models.toml"), MINE).unwrap();
    assert_eq!(names(), ["mine", "hf:ada/tiny"]);
}
