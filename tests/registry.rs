//! The registry from outside: a made-up model in a wheel that the test builds, fetched by the machine's own pip from
//! a folder instead of an index.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "common/hash.rs"]
mod hash;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hash::hex;
use sha2::{Digest, Sha256};
use taper::config::Dirs;
use taper::error::Kind;
use taper::format::weights::Weights;
use taper::registry::manifest::Source;
use taper::registry::{Fetch, FileKind, Manifest, ModelFiles, ModelKind, resolve_in};
use taper::terminal::progress::Mode;
use tempfile::TempDir;

const WEIGHTS: &[u8] = b"GGUF and then what would be weights";

/// A scratch folder with a cache, a folder of wheels for pip, and a Python that sees only those wheels.
struct Place {
    folder: TempDir,
}

impl Place {
    /// With a wheel `made-up 1.0` of these members.
    fn with_wheel(members: &[(&str, &[u8])]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("wheels")).unwrap();
        write_wheel(&place.path("wheels/made_up-1.0-py3-none-any.whl"), members);
        let wheels = place.path("wheels").display().to_string();
        let log = place.path("pip.log").display().to_string();
        place.script(&format!(
            "echo called >> '{log}'; PIP_NO_INDEX=1 PIP_FIND_LINKS='{wheels}' PIP_CONFIG_FILE=/dev/null exec python3 \"$@\""
        ));
        place
    }

    fn with_weights() -> Self {
        Self::with_wheel(&[("made_up/w.gguf", WEIGHTS)])
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Makes `body` what is run in place of Python.
    fn script(&self, body: &str) {
        fs::write(self.path("python"), format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(self.path("python"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn dirs(&self) -> Dirs {
        Dirs::below(self.folder.path())
    }

    fn fetch(&self) -> Fetch {
        Fetch {
            offline: false,
            kind: ModelKind::Chat,
            progress: Mode::Quiet,
            python: self.path("python").into(),
            hub_cache: self.path("hub"),
        }
    }

    fn resolve(&self, manifest: &Manifest) -> taper::error::Result<ModelFiles> {
        resolve_in(manifest, "tiny", &self.dirs(), &self.fetch())
    }

    fn pip_calls(&self) -> usize {
        fs::read_to_string(self.path("pip.log")).map_or(0, |log| log.lines().count())
    }

    /// What is in the model's folder, but for its lock.
    fn installed(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("cache/models/tiny")).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|e| e.file_name().into_string().unwrap()).filter(|n| n != ".lock").collect();
        names.sort();
        names
    }
}

fn write_wheel(path: &Path, members: &[(&str, &[u8])]) {
    let mut wheel = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let metadata: [(&str, &[u8]); 3] = [
        ("made_up-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n"),
        ("made_up-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("made_up-1.0.dist-info/RECORD", b""),
    ];
    for (name, bytes) in members.iter().chain(&metadata) {
        wheel.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        wheel.write_all(bytes).unwrap();
    }
    wheel.finish().unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The manifest of one model `tiny` in the wheel `made-up 1.0`; `files` is the TOML of its files.
fn manifest_of(files: &str) -> Manifest {
    let text = format!(
        r#"
default = "tiny"
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
files = [{files}]
[[model.source]]
hub = "somebody/tiny"
revision = "main"
files = [{{ name = "tiny.gguf" }}]
"#
    );
    Manifest::parse(&text, "test").unwrap()
}

fn file(name: &str, member: &str, bytes: usize, sha256: &str) -> String {
    format!(r#"{{ name = "{name}", member = "{member}", bytes = {bytes}, sha256 = "{sha256}" }}, "#)
}

fn weights() -> Manifest {
    manifest_of(&file("w.gguf", "made_up/w.gguf", WEIGHTS.len(), &sha256(WEIGHTS)))
}

#[test]
fn a_model_is_fetched_once_and_then_found() {
    let place = Place::with_weights();
    let path = place.path("cache/models/tiny/w.gguf");
    let expected = ModelFiles { name: "tiny".into(), kind: FileKind::Gguf(path.clone()) };
    assert_eq!(place.resolve(&weights()).unwrap(), expected);
    assert_eq!(fs::read(&path).unwrap(), WEIGHTS);
    assert_eq!(place.installed(), ["w.gguf"]);

    // From here on neither pip nor a network is needed, whatever the model is called.
    let offline = Fetch { offline: true, python: "/nonexistent".into(), ..place.fetch() };
    for name in ["tiny", "little", "Tiny", "LITTLE"] {
        assert_eq!(resolve_in(&weights(), name, &place.dirs(), &offline).unwrap(), expected);
    }
    assert_eq!(place.pip_calls(), 1);
}

#[test]
fn a_model_of_several_files_becomes_a_folder() {
    let members: [(&str, &[u8]); 3] =
        [("made_up/c.json", b"{}"), ("made_up/deep/p.json", b"[1]"), ("made_up/model.safetensors", b"tensors")];
    let place = Place::with_wheel(&members);
    let names = ["config.json", "1_Pooling/config.json", "model.safetensors"];
    let files =
        names.iter().zip(members).map(|(name, (member, bytes))| file(name, member, bytes.len(), &sha256(bytes)));
    let found = place.resolve(&manifest_of(&files.collect::<Vec<_>>().concat())).unwrap();
    let folder = place.path("cache/models/tiny");
    assert_eq!(found.kind, FileKind::Folder(folder.clone()));
    for (name, (_, bytes)) in names.iter().zip(members) {
        assert_eq!(fs::read(folder.join(name)).unwrap(), bytes);
    }
    assert_eq!(place.installed(), ["1_Pooling", "config.json", "model.safetensors"]);
}

#[test]
fn a_file_that_is_not_the_manifests_is_not_installed() {
    let (length, right) = (WEIGHTS.len(), sha256(WEIGHTS));
    for (member, bytes, hash, expected) in [
        ("made_up/w.gguf", length, sha256(b"other"), "SHA-256"),
        ("made_up/w.gguf", length - 1, right.clone(), "longer than"),
        ("made_up/w.gguf", length + 1, right.clone(), "expected 36"),
        ("made_up/absent.gguf", length, right, "made_up/absent.gguf"),
    ] {
        let place = Place::with_weights();
        let error = place.resolve(&manifest_of(&file("w.gguf", member, bytes, &hash))).unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("nothing was installed"), "{text}");
        assert!(place.installed().is_empty(), "{:?}", place.installed());
    }
}

#[test]
fn one_bad_file_keeps_its_good_neighbours_out() {
    let place = Place::with_wheel(&[("made_up/c.json", b"{}"), ("made_up/m", b"tensors")]);
    let files = file("config.json", "made_up/c.json", 2, &sha256(b"{}"))
        + &file("model.safetensors", "made_up/m", 7, &sha256(b"others!"));
    place.resolve(&manifest_of(&files)).unwrap_err();
    assert!(place.installed().is_empty());
}

#[test]
fn a_wheel_that_is_no_archive_is_refused() {
    let place = Place::with_weights();
    // A pip that succeeds and delivers rubbish: the folder is the argument after `-d`.
    place.script(r#"while [ "$1" != -d ]; do shift; done; echo rubbish > "$2/made_up-1.0-py3-none-any.whl""#);
    let error = place.resolve(&weights()).unwrap_err();
    assert!(error.kind() == Kind::Model && error.to_string().contains("not a wheel"), "{error}");
    assert!(place.installed().is_empty());
}

#[test]
fn offline_refuses_and_says_what_is_missing_and_how_to_get_it() {
    let place = Place::with_weights();
    let offline = Fetch { offline: true, ..place.fetch() };
    let error = resolve_in(&weights(), "tiny", &place.dirs(), &offline).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    let text = error.to_string();
    for part in ["offline", "models/tiny/w.gguf", "--offline", "HF_HUB_OFFLINE", "somebody/tiny"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(place.pip_calls(), 0);
    assert!(!place.path("cache").exists(), "nothing is written to say no");
}

#[test]
fn what_pip_says_is_passed_on_with_the_command_and_the_way_around() {
    let place = Place::with_weights();
    fs::remove_file(place.path("wheels/made_up-1.0-py3-none-any.whl")).unwrap();
    let error = place.resolve(&weights()).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    let text = error.to_string();
    for part in ["No matching distribution found for made-up==1.0", "-m pip download --no-deps", "somebody/tiny"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(place.installed().is_empty());
}

#[test]
fn what_does_not_fit_on_the_disk_is_refused_before_pip_is_called() {
    let place = Place::with_weights();
    let huge = manifest_of(&file("w.gguf", "made_up/w.gguf", 1 << 60, &sha256(WEIGHTS)));
    let error = place.resolve(&huge).unwrap_err();
    assert_eq!(error.kind(), Kind::Runtime);
    let text = error.to_string();
    assert!(text.contains("no room for the download: it needs 1152921504.61 GB, "), "{text}");
    assert!(text.contains("models/tiny") && text.contains("TAPER_CACHE_DIR"), "{text}");
    assert_eq!(place.pip_calls(), 0);
    assert!(place.installed().is_empty());
}

#[test]
fn a_disk_that_fills_while_pip_downloads_is_told_without_a_traceback() {
    let place = Place::with_weights();
    place.script("echo 'Traceback (most recent call last):\nOSError: [Errno 28] No space left on device' >&2; exit 2");
    let error = place.resolve(&weights()).unwrap_err();
    assert_eq!(error.kind(), Kind::Runtime);
    let text = error.to_string();
    assert!(text.contains("the disk became full while tiny was downloaded") && !text.contains("Traceback"), "{text}");
    assert!(text.contains("TAPER_CACHE_DIR"), "{text}");
}

#[test]
fn without_python_the_error_says_what_to_install() {
    let place = Place::with_weights();
    let fetch = Fetch { python: "/nonexistent/python".into(), ..place.fetch() };
    let error = resolve_in(&weights(), "tiny", &place.dirs(), &fetch).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    let text = error.to_string();
    for part in ["/nonexistent/python", "TAPER_PYTHON", "somebody/tiny"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn two_at_once_download_once() {
    let place = Place::with_weights();
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| place.resolve(&weights()).unwrap()));
        for each in both {
            assert_eq!(each.join().unwrap().kind, FileKind::Gguf(place.path("cache/models/tiny/w.gguf")));
        }
    });
    assert_eq!(place.pip_calls(), 1);
    assert_eq!(place.installed(), ["w.gguf"]);
}

/// Not a test of its own: what [`a_killed_process_frees_the_lock_and_is_swept_up_after`] kills.
#[test]
fn child_that_downloads_forever() {
    let Some(folder) = std::env::var_os("TAPER_TEST_CHILD").map(PathBuf::from) else { return };
    let dirs = Dirs::below(&folder);
    let fetch = Fetch { python: folder.join("python").into(), ..Fetch::from_env(|_| None) };
    let _ = resolve_in(&weights(), "tiny", &dirs, &fetch);
}

#[test]
fn a_killed_process_frees_the_lock_and_is_swept_up_after() {
    let place = Place::with_weights();
    let working = fs::read_to_string(place.path("python")).unwrap();
    // A pip that has part of a wheel and then hangs; it tells its id, to be ended with its parent.
    place.script(&format!(
        r#"while [ "$1" != -d ]; do shift; done; echo half > "$2/made_up-1.0-py3-none-any.whl"
echo $$ > '{0}.tmp'; mv '{0}.tmp' '{0}'; exec sleep 60"#,
        place.path("hanging").display()
    ));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_downloads_forever"])
        .env("TAPER_TEST_CHILD", place.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !place.path("hanging").exists() {
        assert!(Instant::now() < deadline, "the child never came to its download");
        std::thread::sleep(Duration::from_millis(10));
    }
    fs::write(place.path("python"), working).unwrap();

    std::thread::scope(|scope| {
        let second = scope.spawn(|| place.resolve(&weights()));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!second.is_finished() && place.pip_calls() == 0, "it has to wait while the first one lives");
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        second.join().unwrap().unwrap();
    });
    assert_eq!(place.installed(), ["w.gguf"]);
    assert_eq!(fs::read(place.path("cache/models/tiny/w.gguf")).unwrap(), WEIGHTS);
    let pid = fs::read_to_string(place.path("hanging")).unwrap();
    Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[test]
fn leftovers_and_files_of_the_wrong_size_are_replaced() {
    let place = Place::with_weights();
    let folder = place.path("cache/models/tiny");
    fs::create_dir_all(folder.join(".part/files")).unwrap();
    fs::write(folder.join(".part/files/w.gguf"), b"half").unwrap();
    fs::write(folder.join("w.gguf"), b"cut short").unwrap();
    place.resolve(&weights()).unwrap();
    assert_eq!(fs::read(folder.join("w.gguf")).unwrap(), WEIGHTS);
    assert_eq!(place.installed(), ["w.gguf"]);
}

#[test]
fn a_cache_that_cannot_be_written_says_which_variable_to_set() {
    let place = Place::with_weights();
    // A file where the folder should be stops every user, root among them.
    fs::write(place.path("cache"), b"in the way").unwrap();
    let error = place.resolve(&weights()).unwrap_err().to_string();
    assert!(error.contains("models/tiny") && error.contains("TAPER_CACHE_DIR"), "{error}");
    // No model folder can be made in /proc; neither can it anywhere that is read-only.
    let dirs = Dirs::from_env(|name| (name == "TAPER_CACHE_DIR").then(|| "/proc/taper".into()));
    let error = resolve_in(&weights(), "tiny", &dirs, &place.fetch()).unwrap_err().to_string();
    assert!(error.contains("/proc/taper") && error.contains("TAPER_CACHE_DIR"), "{error}");
    assert_eq!(place.pip_calls(), 0, "this is found out before anything is downloaded");
}

#[test]
fn a_model_of_the_other_kind_is_refused_before_it_is_downloaded() {
    let place = Place::with_weights();
    let fetch = Fetch { kind: ModelKind::Embedder, ..place.fetch() };
    let error = resolve_in(&weights(), "tiny", &place.dirs(), &fetch).unwrap_err();
    assert!(error.to_string().contains("tiny is not an embedder, it is a chat model"), "{error}");
    assert_eq!(place.pip_calls(), 0);
}

#[test]
fn the_users_models_toml_is_laid_over_the_embedded_one() {
    let place = Place::with_weights();
    let offline = Fetch { offline: true, ..place.fetch() };
    let spec = |spec: &str| taper::registry::resolve(spec, &place.dirs(), &offline).unwrap_err().to_string();
    assert!(spec("mine").contains("there is no model named `mine`"));
    fs::create_dir(place.path("config")).unwrap();
    let path = place.path("config/models.toml");
    let wheel = |version: &str| {
        format!(
            "default = \"mine\"\n[[model]]\nname = \"mine\"\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n\
             [[model.source]]\nwheel = \"made-up\"\nversion = {version}\nbytes = 9\nfiles = [{}]\n",
            file("w.gguf", "made_up/w.gguf", WEIGHTS.len(), &sha256(WEIGHTS))
        )
    };
    fs::write(&path, wheel("\"1.0\"")).unwrap();
    assert!(spec("default").contains("mine is not on this machine"), "{}", spec("default"));
    assert!(spec("smollm2-135m").contains("smollm2-135m is not on this machine"));
    let found = taper::registry::resolve("mine", &place.dirs(), &place.fetch()).unwrap();
    assert_eq!(found.kind, FileKind::Gguf(place.path("cache/models/mine/w.gguf")));

    // A mistake is told with its place, and does not stop those who name a file.
    fs::write(&path, wheel("1.0")).unwrap();
    let error = spec("smollm2-135m");
    assert!(error.contains(&format!("in {}, line 9, column 11", path.display())), "{error}");
    let gguf = place.path("cache/models/mine/w.gguf").display().to_string();
    taper::registry::resolve(&gguf, &place.dirs(), &offline).unwrap();

    fs::write(&path, b"\xff").unwrap();
    assert!(spec("mine").contains("cannot read your list of models") && spec("mine").contains("models.toml"));
}

/// Resolves `spec` where nothing can be fetched.
fn resolve_path(spec: &str) -> taper::error::Result<ModelFiles> {
    let place = Place::with_weights();
    let offline = Fetch { offline: true, ..place.fetch() };
    resolve_in(&Manifest::embedded().unwrap(), spec, &place.dirs(), &offline)
}

#[test]
fn paths_of_files_and_folders_are_taken_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("my model.gguf");
    let blob = folder.path().join("sha256-0123");
    fs::write(&gguf, b"").unwrap(); // what is wrong inside is for its reader to say
    fs::write(&blob, b"GGUF....").unwrap();
    for (path, name) in [(&gguf, "my model"), (&blob, "sha256-0123")] {
        let found = resolve_path(path.to_str().unwrap()).unwrap();
        assert_eq!(found, ModelFiles { name: name.into(), kind: FileKind::Gguf(path.clone()) });
    }
    // A folder is its only GGUF file, and of several the user has to take one.
    let spec = folder.path().to_str().unwrap();
    assert_eq!(resolve_path(spec).unwrap().kind, FileKind::Gguf(gguf));
    fs::write(folder.path().join("another.gguf"), b"").unwrap();
    let error = resolve_path(spec).unwrap_err().to_string();
    assert!(error.contains("of the 2 GGUF files in it take one: ") && error.contains("another.gguf"), "{error}");

    fs::write(folder.path().join("config.json"), b"{}").unwrap();
    fs::write(folder.path().join("model-00001-of-00002.safetensors"), b"").unwrap();
    let found = resolve_path(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(found.kind.path(), folder.path());
    assert!(matches!(found.kind, FileKind::Folder(_)));
}

#[test]
fn a_folder_whose_shards_lie_elsewhere_is_refused_by_the_shards_name() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), b"{}").unwrap();
    let index = br#"{"weight_map": {"lm_head.weight": "../out.safetensors"}}"#;
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    let found = resolve_path(folder.path().to_str().unwrap()).unwrap();
    let error = Weights::from_safetensors(found.kind.path(), 1, 1).unwrap_err().to_string();
    assert!(error.contains("the index names the shard \"../out.safetensors\""), "{error}");
}

#[test]
fn what_is_no_model_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("text"), b"Once upon a time").unwrap();
    fs::write(at("short"), b"GG").unwrap();
    fs::write(at("model.safetensors"), b"........").unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("torch")).unwrap();
    fs::write(at("torch/config.json"), b"{}").unwrap();
    fs::write(at("torch/pytorch_model.bin"), b"").unwrap();
    fs::create_dir(at("ggufs")).unwrap();
    fs::write(at("ggufs/a.gguf"), b"").unwrap();
    fs::write(at("ggufs/b.gguf"), b"").unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo.gguf")).status().unwrap().success());
    for (spec, expected) in [
        (at("text"), "not a GGUF file"),
        (at("short"), "not a GGUF file"),
        (at("model.safetensors"), "give the folder"),
        (at("empty"), "no config.json"),
        (at("torch"), "no weights as safetensors"),
        (at("ggufs"), "ggufs/a.gguf"),
        (at("fifo.gguf"), "neither a file nor a folder"),
        (at("absent.gguf"), "No such file"),
        ("absent.gguf".into(), "No such file"),
        ("hf:somebody/model".into(), "hf:somebody/model is not on this machine, and taper is offline"),
        ("hf:somebody".into(), "hf:USER/REPO"),
        ("smolm2-135m".into(), "did you mean smollm2-135m?"),
        ("gpt-oss".into(), "known models: smollm2-135m, tinyllama-1.1b-chat, llama-3.2-1b-instruct"),
        ("src".into(), "write ./src"),
        (String::new(), "no model is named: what -m was given is empty"),
    ] {
        let error = resolve_path(&spec).unwrap_err();
        assert_eq!(error.kind(), Kind::Model, "{error}");
        assert!(error.to_string().contains(expected), "{spec}: {error}");
    }
}

#[test]
fn the_embedded_manifest_has_the_models_that_are_promised() {
    let manifest = Manifest::embedded().unwrap();
    let default = manifest.find(manifest.default_model()).unwrap();
    assert_eq!((default.name.as_str(), default.kind), ("smollm2-135m", ModelKind::Chat));
    assert_eq!(default.wheel().unwrap().files[0].bytes, 98_362_432);
    assert_eq!(default.hub().unwrap().repo, "HuggingFaceTB/SmolLM2-135M-Instruct");
    for (name, licence, gguf, weights) in [
        ("tinyllama-1.1b-chat", "Apache-2.0", "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", 1),
        ("llama-3.2-1b-instruct", "Llama 3.2 Community License", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", 1),
        ("llama-3.2-3b-instruct", "Llama 3.2 Community License", "Llama-3.2-3B-Instruct-Q4_K_M.gguf", 2),
        ("llama-3.1-8b-instruct", "Llama 3.1 Community License", "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", 4),
    ] {
        let model = manifest.find(name).unwrap();
        let [Source::Hub(small), Source::Hub(whole)] = &model.sources[..] else { panic!("{name}") };
        assert_eq!((model.licence.as_str(), small.files[0].name.as_str(), small.gated), (licence, gguf, false));
        assert_eq!(whole.files.iter().filter(|file| file.name.ends_with(".safetensors")).count(), weights);
        assert_eq!(whole.gated, name.starts_with("llama"), "Meta's own repositories ask for a token");
        // Nobody checked these, so nothing is claimed of them.
        assert!(small.files.iter().chain(&whole.files).all(|file| file.sha256.is_none() && file.bytes.is_none()));
    }
    let embedder = manifest.find("all-minilm-l6-v2").unwrap();
    assert_eq!(embedder.kind, ModelKind::Embedder);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(embedder.wheel().unwrap().files.iter().any(|file| file.name == name), "{name}");
    }
}
