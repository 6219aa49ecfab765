//! `taper models`, the real binary: a registry of one made-up model in the user's models.toml, its files put into the
//! cache by hand.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use common::gguf_builder::GgufBuilder;
use common::hash::hex;
use common::program::taper;
use common::pty::start;
use serde_json::Value;
use sha2::{Digest, Sha256};
use taper::format::DType;
use tempfile::TempDir;

/// A cache and a configuration folder of the test's own.
struct Place {
    folder: TempDir,
    gguf: Vec<u8>,
}

impl Place {
    /// With a models.toml that knows `tiny`, which is not fetched.
    fn new() -> Self {
        let gguf = GgufBuilder::new()
            .str("general.architecture", "llama")
            .str("general.license", "mit")
            .u32("llama.block_count", 3)
            .u32("llama.context_length", 2048)
            .tensor_f32("a", &[2, 3], &[1.0; 6])
            .tensor_raw("b", DType::Q4_0, &[1, 32], &[0; 18])
            .bytes();
        let sha256 = hex(&Sha256::digest(&gguf));
        let place = Self { folder: tempfile::tempdir().unwrap(), gguf };
        fs::create_dir(place.path("config")).unwrap();
        let manifest = format!(
            r#"default = "tiny"
[[model]]
name = "tiny"
aliases = ["little"]
description = "made up"
licence = "MIT"
kind = "chat"
[[model.source]]
wheel = "made-up"
version = "1.0"
bytes = 1000
files = [{{ name = "w.gguf", member = "m/w.gguf", bytes = {}, sha256 = "{sha256}" }}]
"#,
            place.gguf.len()
        );
        fs::write(place.path("config/models.toml"), manifest).unwrap();
        place
    }

    /// With `tiny` on the machine.
    fn installed() -> Self {
        let place = Self::new();
        fs::create_dir_all(place.path("cache/models/tiny")).unwrap();
        fs::write(place.weights(), &place.gguf).unwrap();
        place
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn weights(&self) -> PathBuf {
        self.path("cache/models/tiny/w.gguf")
    }

    fn models(&self, args: &[&str]) -> Output {
        let mut command = taper();
        command.arg("models").args(args);
        command.env("TAPER_CACHE_DIR", self.path("cache")).env("TAPER_CONFIG_DIR", self.path("config"));
        command.env("HF_HUB_CACHE", self.path("hub")).env("COLUMNS", "100");
        command.output().unwrap()
    }

    /// Exit code, standard output, standard error, with this test's folder called DIR.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.models(args);
        let folder = self.folder.path().display().to_string();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(&folder, "DIR");
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.models(args).stdout).unwrap()
    }
}

#[test]
fn help_is_as_reviewed() {
    let place = Place::new();
    for args in [&["--help"][..], &["pull", "--help"], &["rm", "--help"]] {
        let name = format!("models_help {}", args[0].replace("--help", ""));
        insta::assert_snapshot!(name, place.run(args).1);
    }
}

#[test]
fn list_tells_what_is_here() {
    let line = |place: &Place| place.run(&["list"]).1.lines().find(|l| l.starts_with("tiny")).unwrap().to_owned();
    assert_eq!(
        line(&Place::new()).split_whitespace().collect::<Vec<_>>(),
        ["tiny", "(default)", "no", "MIT", "made", "up"]
    );
    let place = Place::installed();
    let size = format!("{} bytes", place.gguf.len());
    assert!(line(&place).contains(&size), "{}", line(&place));
    let all = place.json(&["list", "--json"]);
    let names: Vec<_> = all.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"tiny") && names.contains(&"smollm2-135m") && names.contains(&"llama-3.2-1b-instruct"));
    assert_eq!((all[0]["installed"].clone(), all[1]["installed"].clone()), (true.into(), false.into()));
    fs::write(place.weights(), b"cut").unwrap();
    assert!(line(&place).contains("incomplete"), "{}", line(&place));
}

#[test]
fn show_has_the_path_the_sources_and_the_insides_of_a_gguf() {
    let place = Place::installed();
    let (code, text, _) = place.run(&["show", "little"]);
    assert_eq!(code, 0);
    let hash = hex(&Sha256::digest(&place.gguf));
    insta::assert_snapshot!("models_show", text.replace(&hash, "HASH"));
    let shown = place.json(&["show", "--json", "tiny"]);
    assert_eq!(shown["path"], place.weights().display().to_string());
    assert_eq!(shown["sources"][0]["files"][0]["sha256"], hash.as_str());
    assert_eq!((shown["gguf"]["layers"].clone(), shown["gguf"]["context"].clone()), (3.into(), 2048.into()));
    let q4_0 = serde_json::json!({ "type": "Q4_0", "tensors": 1, "bytes": 18 });
    assert_eq!(shown["gguf"]["tensors"][1], q4_0);
}

#[test]
fn show_of_what_is_not_here_says_how_to_fetch_it() {
    let place = Place::new();
    assert!(place.run(&["show", "tiny"]).1.contains("not on this machine; `taper models pull tiny`"));
    let shown = place.json(&["show", "--json", "tiny"]);
    assert_eq!((shown["path"].clone(), shown["gguf"].clone()), (Value::Null, Value::Null));
    let (code, _, error) = place.run(&["show", "tin"]);
    assert!(code == 3 && error.contains("did you mean tiny?"), "{error}");
}

#[test]
fn show_takes_a_gguf_that_taper_cannot_run() {
    let place = Place::new();
    let path = place.path("other.gguf");
    GgufBuilder::new().str("general.architecture", "gem\u{1b}[31mma3").u32("gemma3.block_count", 9).write(&path);
    let shown = place.json(&["show", "--json", path.to_str().unwrap()]);
    assert_eq!(
        (shown["gguf"]["architecture"].clone(), shown["path"].clone()),
        ("gem\u{1b}[31mma3".into(), path.display().to_string().into())
    );
    fs::write(&path, b"GGUF").unwrap();
    let (code, out, error) = place.run(&["show", "--json", path.to_str().unwrap()]);
    assert!(code == 3 && out.is_empty() && error.contains("other.gguf"), "{error}");
}

#[test]
fn pull_prints_the_path_and_offline_says_what_is_missing() {
    let place = Place::installed();
    assert_eq!(place.run(&["pull", "tiny"]), (0, "DIR/cache/models/tiny/w.gguf\n".into(), String::new()));
    assert_eq!(place.json(&["pull", "tiny", "--json"])["path"], place.weights().display().to_string());
    let (code, out, error) = Place::new().run(&["pull", "tiny"]);
    assert!(
        code == 3 && out.is_empty() && error.contains("tiny is not on this machine, and taper is offline"),
        "{error}"
    );
    let (code, _, error) = place.run(&["pull", "./mine.gguf"]);
    assert!(code == 3 && error.contains("No such file"), "{error}");
    let (code, _, error) = place.run(&["pull", place.weights().to_str().unwrap()]);
    assert!(code == 2 && error.contains("nothing to pull"), "{error}");
}

#[test]
fn rm_removes_only_with_consent() {
    let place = Place::installed();
    let (code, _, error) = place.run(&["rm", "tiny"]);
    assert!(code == 2 && error.contains("no terminal to ask on") && error.contains("add -y"), "{error}");
    assert!(place.weights().exists());
    let (code, out, _) = place.run(&["rm", "-y", "little"]);
    assert_eq!((code, out), (0, format!("removed tiny, {} bytes\n", place.gguf.len())));
    assert!(!place.weights().exists());
    let (code, _, error) = place.run(&["rm", "-y", "tiny"]);
    assert!(code == 3 && error.contains("nothing to remove"), "{error}");
    fs::write(place.path("mine.gguf"), &place.gguf).unwrap();
    let (code, _, error) = place.run(&["rm", "-y", place.path("mine.gguf").to_str().unwrap()]);
    assert!(code == 2 && error.contains("delete it yourself") && place.path("mine.gguf").exists(), "{error}");
}

#[test]
fn what_a_killed_pip_left_is_told_and_can_be_removed() {
    let place = Place::new();
    let part = place.path("cache/models/tiny/.part/pip/deep");
    fs::create_dir_all(&part).unwrap();
    fs::write(part.join("made_up.whl"), [0; 2000]).unwrap();
    let list = place.run(&["list"]).1;
    assert!(list.contains("tiny (default)         no, 2.0 kB unfinished"), "{list}");
    assert_eq!(place.json(&["list", "--json"])[0]["unfinished_bytes"], 2000);
    assert!(place.run(&["show", "tiny"]).1.contains("unfinished  2.0 kB of a download in DIR/cache/models/tiny;"));
    let (code, out, _) = place.run(&["rm", "-y", "tiny"]);
    assert_eq!((code, out.as_str()), (0, "removed tiny, 2.0 kB\n"));
    assert!(!place.path("cache/models/tiny/.part").exists());
    assert_eq!(place.run(&["rm", "-y", "tiny"]).0, 3);
}

#[test]
fn rm_asks_on_a_terminal_and_takes_only_yes() {
    let place = Place::installed();
    let ask = |reply: &str| {
        let mut command = taper();
        command.args(["models", "rm", "tiny"]);
        command.env("TAPER_CACHE_DIR", place.path("cache")).env("TAPER_CONFIG_DIR", place.path("config"));
        let mut terminal = start(command);
        terminal.exp_string("[y/N] ").unwrap();
        terminal.send_line(reply).unwrap();
        terminal.exp_eof().unwrap()
    };
    assert!(ask("").contains("tiny stays") && ask("no").contains("tiny stays") && place.weights().exists());
    assert!(ask("y").contains("removed tiny") && !place.weights().exists());
}

#[test]
fn verify_finds_damage_and_says_what_to_do() {
    let place = Place::installed();
    let (code, out, error) = place.run(&["verify"]);
    assert_eq!((code, out.as_str()), (0, "tiny  w.gguf  good\n"));
    assert!(error.starts_with("reading w.gguf: ") && error.ends_with("reading w.gguf: done\n"), "{error}");

    let mut damaged = place.gguf.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(place.weights(), &damaged).unwrap();
    let (code, out, error) = place.run(&["verify", "-q", "tiny"]);
    assert!(code == 3 && out.starts_with("tiny  w.gguf  damaged: the file's SHA-256 is "), "{out}");
    assert!(error.contains("in DIR/cache/models/tiny/w.gguf") && error.contains("taper models pull tiny"), "{error}");
    let report = place.json(&["verify", "-q", "--json"]);
    assert_eq!((report["ok"].clone(), report["files"][0]["status"].clone()), (false.into(), "damaged".into()));

    let (code, _, error) = Place::new().run(&["verify", "tiny"]);
    assert!(code == 3 && error.contains("tiny is not on this machine"), "{error}");
    assert_eq!(Place::new().run(&["verify"]), (0, String::new(), "no model is on this machine\n".into()));
}

#[test]
fn verify_of_a_file_of_ones_own_says_that_no_hash_is_known() {
    let place = Place::installed();
    let (code, out, _) = place.run(&["verify", place.weights().to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (0, "w  w.gguf  there is no known hash to compare it with\n"));
}

#[test]
fn verify_finds_a_file_of_ones_own_that_was_cut() {
    let place = Place::installed();
    let path = place.path("half.gguf");
    fs::write(&path, &place.gguf[..place.gguf.len() - 1]).unwrap();
    let (code, out, error) = place.run(&["verify", path.to_str().unwrap()]);
    assert!(code == 3 && out.starts_with("half  half.gguf  damaged: tensor `b`"), "{out}{error}");
    assert!(error.contains("in DIR/half.gguf") && error.contains("download or convert it again"), "{error}");
    assert!(!error.contains("taper models rm"), "it is not taper's to remove: {error}");

    let folder = place.path("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), b"{}").unwrap();
    fs::write(folder.join("model.safetensors"), b"\x10\0\0\0\0\0\0\0{}").unwrap();
    let report = place.json(&["verify", "--json", folder.to_str().unwrap()]);
    let statuses = [0, 1].map(|file| report["files"][file]["status"].clone());
    assert_eq!((report["ok"].clone(), statuses), (false.into(), ["unknown".into(), "damaged".into()]));
}
