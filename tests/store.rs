//! The store of a memory: what is acknowledged stays, what is damaged is told, and nothing is mixed up.
#![cfg(feature = "memory")]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

#[path = "store/any_text.rs"]
mod any_text;
mod common;

use std::path::{Path, PathBuf};

use common::apart::with_own_mounts;
use proptest::prelude::*;
use taper::memory::Memories;
use taper::memory::store::{Access, Model, Passage, Problem, Store};

const DIM: usize = 8;

fn model() -> Model {
    Model { name: "embedder".to_owned(), dim: DIM, probe: vector(0) }
}

/// A unit vector that tells its number.
fn vector(n: usize) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    let angle = n as f32 / 100.0;
    (vector[n % DIM], vector[(n + 1) % DIM]) = (angle.cos(), angle.sin());
    vector
}

fn open(path: &Path) -> Store {
    let mut store = Store::open(path, Access::Create).unwrap();
    store.set_model(&model()).unwrap();
    store
}

/// Adds what is not there yet of a source whose passages are "NAME VERSION NUMBER".
fn add(store: &mut Store, name: &str, version: &str, passages: usize) -> Vec<i64> {
    let mut source = store.begin(name, version.as_bytes(), passages).unwrap();
    let mut ids = Vec::new();
    for n in source.done..passages {
        let (text, vector) = (format!("{name} {version} {n}"), vector(n));
        let passage = Passage { begins: n * 10, ends: n * 10 + 9, text: &text, vector: &vector };
        ids.extend(store.append(&mut source, &[passage]).unwrap());
    }
    ids
}

fn texts(store: &Store) -> Vec<String> {
    store.ids().unwrap().into_iter().map(|id| store.record(id).unwrap().unwrap().text).collect()
}

fn in_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memories/test.sqlite");
    (folder, path)
}

#[test]
fn records_are_there_again_with_their_sources_and_vectors() {
    let (_folder, path) = in_folder();
    let ids = add(&mut open(&path), "a", "1", 3);
    let store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(store.model().unwrap(), Some(model()));
    assert_eq!(store.ids().unwrap(), ids);
    let record = store.record(ids[2]).unwrap().unwrap();
    assert_eq!((record.source.as_str(), record.begins, record.ends, record.text.as_str()), ("a", 20, 29, "a 1 2"));
    let mut all = Vec::new();
    store.vectors(0, |id, vector| all.push((id, vector.to_vec()))).unwrap();
    assert_eq!(all, [(ids[0], vector(0)), (ids[1], vector(1)), (ids[2], vector(2))]);
    assert_eq!(store.check(|problem| panic!("{problem:?}")).unwrap(), 3);
    assert_eq!(store.record(ids[2] + 1).unwrap(), None);
}

#[cfg(unix)]
#[test]
fn a_memory_is_the_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = in_folder();
    let mut store = open(&path);
    add(&mut store, "a", "1", 1);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(mode(&path.with_extension("sqlite-wal")), 0o600);
}

#[test]
fn adding_goes_on_where_it_stopped_and_a_new_version_replaces_the_old_one_when_it_is_whole() {
    let (_folder, path) = in_folder();
    let mut store = open(&path);
    let ids = add(&mut store, "a", "1", 2);
    assert_eq!(add(&mut store, "a", "1", 2), [0; 0]);
    // A third of another version: both are there.
    let mut source = store.begin("a", b"2", 3).unwrap();
    store.append(&mut source, &[Passage { begins: 0, ends: 1, text: "a 2 0", vector: &vector(0) }]).unwrap();
    assert_eq!(texts(&store), ["a 1 0", "a 1 1", "a 2 0"]);
    drop(store);
    let mut store = open(&path);
    let before = store.removals().unwrap();
    assert_eq!(add(&mut store, "a", "2", 3).len(), 2);
    assert_eq!(texts(&store), ["a 2 0", "a 2 1", "a 2 2"]);
    assert_ne!(store.removals().unwrap(), before);
    assert!(store.ids().unwrap()[0] > ids[1], "identities are not given twice");
    // A version that was never finished gives way to the next; an empty one is whole at once.
    store.begin("a", b"3", 5).unwrap();
    store.begin("a", b"4", 5).unwrap();
    assert_eq!(store.source("a", b"3").unwrap(), None);
    store.begin("a", b"5", 0).unwrap();
    assert_eq!(texts(&store), [""; 0]);
}

#[test]
fn the_content_hash_is_that_of_the_records_whatever_their_order_and_history() {
    let (folder, path) = in_folder();
    let mut one = open(&path);
    add(&mut one, "a", "1", 3);
    add(&mut one, "b", "1", 2);
    let mut other = open(&folder.path().join("other.sqlite"));
    add(&mut other, "b", "0", 4);
    add(&mut other, "b", "1", 2);
    add(&mut other, "gone", "1", 1);
    add(&mut other, "a", "1", 3);
    assert_eq!(other.remove_source("gone").unwrap(), 1);
    assert_eq!(one.content_hash().unwrap(), other.content_hash().unwrap());
    let ids = other.ids().unwrap();
    other.remove(&ids[..1]).unwrap();
    assert_ne!(one.content_hash().unwrap(), other.content_hash().unwrap());
}

#[test]
fn what_was_removed_is_in_no_file_any_more() {
    let (_folder, path) = in_folder();
    let mut store = open(&path);
    let ids = add(&mut store, "secret source", "1", 2);
    assert_eq!(store.remove(&[ids[0]]).unwrap(), 1);
    assert_eq!(store.remove(&[ids[0], ids[1], 99]).unwrap(), 1);
    assert!(store.sources().unwrap().is_empty(), "a source of which nothing is left goes too");
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
}

#[test]
fn two_processes_may_add_to_one_memory_and_neither_loses_a_record() {
    let (_folder, path) = in_folder();
    open(&path);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let path = &path;
            scope.spawn(move || add(&mut open(path), name, "1", 30));
        }
    });
    let store = open(&path);
    assert_eq!(store.count().unwrap(), 90);
    let sources = store.sources().unwrap();
    assert!(sources.iter().all(|source| (source.records, source.missing) == (30, 0)), "{sources:?}");
}

#[test]
fn who_adds_the_same_source_at_the_same_time_is_told_and_nothing_is_there_twice() {
    let (_folder, path) = in_folder();
    let (mut one, mut other) = (open(&path), open(&path));
    let mut slow = one.begin("a", b"1", 2).unwrap();
    add(&mut other, "a", "1", 2);
    let passage = Passage { begins: 0, ends: 1, text: "a 1 0", vector: &vector(0) };
    let error = one.append(&mut slow, &[passage]).unwrap_err().to_string();
    assert!(error.starts_with("another taper is adding the same source"), "{error}");
    assert_eq!(texts(&one), ["a 1 0", "a 1 1"]);
}

#[test]
fn who_has_a_memory_open_that_another_taper_removes_is_told_and_keeps_nothing_in_the_air() {
    let data = tempfile::tempdir().unwrap();
    let memories = Memories::new(data.path());
    let mut open = || {
        let mut store = memories.open("m", Access::Create).unwrap();
        store.set_model(&model()).unwrap();
        store
    };
    let mut store = open();
    add(&mut store, "a", "1", 2);
    let mut source = store.begin("b", b"1", 2).unwrap();
    memories.remove("m").unwrap();
    let passage = Passage { begins: 0, ends: 1, text: "b 1 0", vector: &vector(0) };
    // With none in its place, and then with another.
    for made_again in [false, true] {
        let other = made_again.then(&mut open);
        let told = [
            store.append(&mut source, std::slice::from_ref(&passage)).unwrap_err(),
            store.remove(&[1]).unwrap_err(),
            store.count().unwrap_err(),
            store.removals().unwrap_err(),
        ];
        for error in told.map(|e| e.to_string()) {
            assert!(error.starts_with("another taper has removed the memory\n"), "{error}");
            assert!(error.contains("what is added again makes a new one"), "{error}");
        }
        assert_eq!(other.map_or(0, |other| other.count().unwrap()), 0, "it is not the new one's");
    }
    // What the old one leaves behind does not touch the new one's log.
    add(&mut open(), "c", "1", 3);
    let other = open();
    drop(store);
    assert_eq!(other.count().unwrap(), 3);
    drop(other);
    assert_eq!(open().count().unwrap(), 3);
}

#[test]
fn a_memory_is_removed_once_a_change_that_is_under_way_is_done() {
    let data = tempfile::tempdir().unwrap();
    let memories = Memories::new(data.path());
    let path = memories.path("m").unwrap();
    memories.open("m", Access::Create).unwrap();
    let busy = rusqlite::Connection::open(&path).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| memories.remove("m"));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(path.exists() && !removing.is_finished(), "another taper is at a change");
        busy.execute_batch("COMMIT").unwrap();
        removing.join().unwrap().unwrap();
    });
    assert!(!path.exists());
}

#[test]
fn vectors_that_are_none_are_refused_and_nothing_of_the_batch_is_kept() {
    let (_folder, path) = in_folder();
    let mut store = open(&path);
    let mut source = store.begin("a", b"1", 2).unwrap();
    for bad in [vec![0.0; DIM], vec![f32::NAN; DIM], vec![f32::INFINITY; DIM], vec![1.0; DIM], vec![1.0], vec![]] {
        let good = vector(0);
        let batch = [&good, &bad].map(|vector| Passage { begins: 0, ends: 1, text: "x", vector });
        let error = store.append(&mut source, &batch).unwrap_err().to_string();
        assert!(error.contains("is no unit vector of 8: nothing was kept"), "{error}");
    }
    assert_eq!(store.count().unwrap(), 0);
}

#[test]
fn another_embedder_is_refused_by_what_it_makes_not_by_its_name() {
    let (_folder, path) = in_folder();
    let mut store = open(&path);
    store.set_model(&Model { name: "the same by another name".to_owned(), ..model() }).unwrap();
    assert_eq!(store.model().unwrap().unwrap().name, "embedder");
    let refusal = |model: Model| open(&path).set_model(&model).unwrap_err().to_string();
    let other = refusal(Model { probe: vector(3), ..model() });
    assert!(other.starts_with("the memory's vectors are embedder's, and embedder makes others"), "{other}");
    assert!(other.contains("take --embedder embedder, or another memory"), "{other}");
    let narrow = refusal(Model { name: "small".to_owned(), dim: 4, probe: vec![1.0, 0.0, 0.0, 0.0] });
    assert!(
        narrow.starts_with("the memory's vectors are embedder's and have 8 components, those of small have 4"),
        "{narrow}"
    );
    refusal(Model { probe: vec![f32::NAN; DIM], ..model() });
}

#[test]
fn damage_is_found_and_told() {
    let (_folder, path) = in_folder();
    let mut store = open(&path);
    let ids = add(&mut store, "a", "1", 3);
    drop(store);
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("UPDATE vectors SET vector = zeroblob(32) WHERE id = ?", [ids[0]]).unwrap();
    db.execute("UPDATE records SET text = 'forged' WHERE id = ?", [ids[1]]).unwrap();
    db.execute("DELETE FROM vectors WHERE id = ?", [ids[2]]).unwrap();
    drop(db);
    let mut store = open(&path);
    let mut problems = Vec::new();
    assert_eq!(store.check(|problem| problems.push(problem)).unwrap(), 3);
    assert_eq!(problems, [Problem::Vector(ids[0]), Problem::Text(ids[1]), Problem::Vector(ids[2])]);
    let error = store.vectors(0, |_, _| {}).unwrap_err().to_string();
    assert!(error.starts_with(&format!("the vector of record {} is damaged", ids[0])), "{error}");
    assert!(error.contains("taper memory rebuild makes it again"), "{error}");
    store.replace_vectors(&[(ids[0], &vector(0)), (ids[2], &vector(2))]).unwrap();
    let mut problems = Vec::new();
    store.check(|problem| problems.push(problem)).unwrap();
    assert_eq!(problems, [Problem::Text(ids[1])]);
}

#[test]
fn a_file_that_is_no_memory_or_of_a_newer_taper_is_refused_and_left_as_it_is() {
    let (_folder, path) = in_folder();
    drop(open(&path));
    let refusal = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(&path, Access::Create).err().unwrap().to_string();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        error
    };
    let text = refusal(&b"Dear diary, ".repeat(100));
    assert!(text.starts_with("cannot open the memory: it is no SQLite file"), "{text}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains("restore the file from a backup"), "{text}");
    std::fs::remove_file(&path).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    drop(db);
    let foreign = Store::open(&path, Access::Create).err().unwrap().to_string();
    assert!(foreign.starts_with("a database, but no memory of taper's"), "{foreign}");
    std::fs::remove_file(&path).unwrap();
    drop(open(&path));
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let newer = Store::open(&path, Access::Existing).err().unwrap().to_string();
    assert!(newer.starts_with("the memory's form is number 99, and this taper knows those up to 3"), "{newer}");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(Store::open(&path, Access::Create).err().unwrap().to_string().contains("not a file"));
}

#[test]
fn a_memory_of_an_older_taper_is_brought_up_to_date() {
    let (_folder, path) = in_folder();
    add(&mut open(&path), "a", "1", 3);
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("DROP TABLE search; DROP TABLE cut; PRAGMA user_version = 1").unwrap(); // what later steps make
    drop(db);
    let store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!((store.count().unwrap(), store.index().unwrap(), store.wanted().unwrap().recall), (3, None, 0.98));
    assert_eq!(store.chunk_tokens().unwrap(), 200);
}

#[test]
fn a_file_damaged_at_random_gives_errors_and_no_wrong_records() {
    let (_folder, path) = in_folder();
    add(&mut open(&path), "a", "1", 40);
    let (whole, expected) = (std::fs::read(&path).unwrap(), texts(&open(&path)));
    let mut seed = 7u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    for round in 0..150 {
        let mut bytes = whole.clone();
        for _ in 0..=round % 20 {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        if round % 5 == 0 {
            bytes.truncate(random(bytes.len()));
        }
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(path.with_extension(format!("sqlite{suffix}")));
        }
        std::fs::write(&path, &bytes).unwrap();
        let Ok(store) = Store::open(&path, Access::Existing) else { continue };
        let mut wrong = Vec::new();
        let Ok(_) = store.check(|problem| wrong.push(problem.id())) else { continue };
        for id in store.ids().unwrap_or_default() {
            if let (false, Ok(Some(record))) = (wrong.contains(&id), store.record(id)) {
                assert!(expected.contains(&record.text) || store.model().is_err(), "{record:?}");
            }
        }
    }
}

#[test]
fn a_full_disk_loses_nothing_that_was_kept() {
    let script = r#"
        mount -t tmpfs -o size=1m tmpfs "$FOLDER"
        exec "$0" --exact fills_a_disk --ignored --nocapture
    "#;
    let Some(mut command) = with_own_mounts(script) else { return };
    let folder = tempfile::tempdir().unwrap();
    command.arg(std::env::current_exe().unwrap()).env("FOLDER", folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "it fills the disk that FOLDER is on: run by the test above"]
fn fills_a_disk() {
    let path = Path::new(&std::env::var_os("FOLDER").unwrap()).join("m.sqlite");
    let mut store = open(&path);
    let mut source = store.begin("a", b"1", 1000).unwrap();
    let (text, mut kept) = ("x".repeat(4000), 0);
    let error = loop {
        let vector = vector(kept);
        match store.append(&mut source, &[Passage { begins: 0, ends: 1, text: &text, vector: &vector }]) {
            Ok(_) => kept += 1,
            Err(e) => break e.to_string(),
        }
        assert!(kept < 1000, "the disk is not full");
    };
    assert!(error.starts_with("cannot write the memory: the disk is full"), "{error}");
    assert!(kept > 3, "{kept}");
    assert_eq!(store.count().unwrap(), kept);
    drop(store);
    let store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(store.check(|problem| panic!("{problem:?}")).unwrap(), kept);
}

#[test]
fn a_memory_that_may_not_be_written_is_read() {
    let script = r#"
        mount --bind "$FOLDER" "$FOLDER"
        mount -o remount,bind,ro "$FOLDER"
        exec "$0" --exact reads_what_may_not_be_written --ignored --nocapture
    "#;
    let Some(mut command) = with_own_mounts(script) else { return };
    let folder = tempfile::tempdir().unwrap();
    add(&mut open(&folder.path().join("a b%.sqlite")), "a", "1", 2);
    command.arg(std::env::current_exe().unwrap()).env("FOLDER", folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "FOLDER is mounted read-only by the test above"]
fn reads_what_may_not_be_written() {
    let path = Path::new(&std::env::var_os("FOLDER").unwrap()).join("a b%.sqlite");
    let mut store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(texts(&store), ["a 1 0", "a 1 1"]);
    let error = store.remove(&[1]).unwrap_err().to_string();
    assert!(error.starts_with("the memory may not be written"), "{error}");
}

proptest! {
    #[test]
    fn any_text_is_cut_and_any_export_is_refused_or_read(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "word", " ", "\n", "\n\n", "# ", "```\n", "~~~", ". ", "é", "。", "\t", "\u{feff}", "\0", "\u{2028}", "\r\n",
            "{\"taper_memory\":1}\n", "{\"source\":\"a\",\"hash\":\"00\"}\n", "{\"begins\":0,\"ends\":9,\"text\":\"x\"}\n",
            "{\"begins\":9,\"ends\":0,\"text\":\"x\"}\n", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ]), 0..60),
    ) {
        any_text::check(pieces.concat().as_bytes());
    }
}

#[test]
fn an_export_is_read_source_by_source() {
    let export = b"{\"taper_memory\":1}\n{\"source\":\"a\",\"hash\":\"00ff\"}\n{\"begins\":0,\"ends\":9,\"text\":\"x\"}\n{\"source\":\"b\",\"hash\":\"\"}\n";
    assert!(any_text::check(export));
    let mut read = Vec::new();
    taper::memory::exchange::read(&export[..], "embedder", |source| {
        read.push((source.name, source.hash, source.records.len()));
        Ok(())
    })
    .unwrap();
    assert_eq!(read, [("a".to_owned(), vec![0, 255], 1), ("b".to_owned(), vec![], 0)]);
}
