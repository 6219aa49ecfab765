//! What lies in the hub's cache, as `taper models` tells it: beginnings of files.

use std::fs;

use super::{Place, gguf};

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
    let models = "[[model]]\nname = \"mine\"\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n[[model.source]]\n\
        hub = \"ada/tiny\"\nrevision = \"main\"\nfiles = [{ name = \"w.gguf\" }]\n";
    fs::write(place.path("config/models.toml"), models).unwrap();
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
