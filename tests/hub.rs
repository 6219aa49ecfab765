//! Downloads from the hub by the real binary, against a hub of the test's own.
#![cfg(feature = "hub")]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

#[path = "hub/busy.rs"]
mod busy;
mod common;
#[path = "hub/leftovers.rs"]
mod leftovers;
#[path = "hub/server.rs"]
mod server;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::hash;
use common::program::taper;
use server::{COMMIT, Fault, File, Hub};
use tempfile::TempDir;

/// 300 kB that are no two alike, beginning like a GGUF.
fn weights() -> Vec<u8> {
    let numbers = (0u32..75_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
    b"GGUF".iter().copied().chain(numbers).collect()
}

fn gguf() -> File {
    File::lfs("w.gguf", &weights())
}

/// A hub, and a machine that knows nothing yet.
struct Place {
    hub: Hub,
    folder: TempDir,
}

impl Place {
    fn with(files: &[File]) -> Self {
        let place = Self { hub: Hub::with(files), folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("config")).unwrap();
        place
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn cache(&self, below: &str) -> PathBuf {
        self.path("hub/models--ada--tiny").join(below)
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        self.cache(&format!("snapshots/{COMMIT}/{name}"))
    }

    fn blob(&self, file: &File) -> PathBuf {
        self.cache("blobs").join(file.hash())
    }

    fn incomplete(&self, file: &File) -> PathBuf {
        self.blob(file).with_extension("incomplete")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = taper();
        command.env_remove("TAPER_OFFLINE").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("TAPER_CACHE_DIR", self.path("cache")).env("TAPER_CONFIG_DIR", self.path("config"));
        command.env("HF_HOME", self.folder.path()).env("HF_ENDPOINT", self.hub.address());
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", "30");
        command
    }

    fn pull(&self, spec: &str) -> Output {
        self.command(&["models", "pull", spec]).output().unwrap()
    }

    /// Pulls, and expects the file to be there.
    fn pulled(&self, file: &File) -> String {
        let output = self.pull("hf:ada/tiny");
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", self.snapshot(&file.name).display()));
        assert_eq!(fs::read(self.snapshot(&file.name)).unwrap(), file.bytes);
        assert!(!self.incomplete(file).exists());
        told
    }

    /// Pulls, and expects a failure of the model's or the hub's.
    fn refused(&self, spec: &str) -> String {
        self.refused_within(spec, "30")
    }

    /// The same, with so many seconds of patience.
    fn refused_within(&self, spec: &str, seconds: &str) -> String {
        let mut command = self.command(&["models", "pull", spec]);
        let output = command.env("HF_HUB_DOWNLOAD_TIMEOUT", seconds).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{told}");
        told
    }

    /// The requests for bytes: the file behind the redirect, and the range.
    fn byte_requests(&self) -> Vec<String> {
        self.hub.requests().into_iter().filter(|request| request.starts_with("GET /cdn/")).collect()
    }
}

#[test]
fn a_file_comes_once_into_the_cache_that_the_hubs_programs_share() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    let told = place.pulled(&file);
    assert!(told.contains("downloading w.gguf: 300.0 kB") && told.contains("downloading w.gguf: done"), "{told}");
    let link = fs::read_link(place.snapshot("w.gguf")).unwrap();
    assert_eq!(link, PathBuf::from(format!("../../blobs/{}", file.hash())));
    assert_eq!(fs::read_to_string(place.cache("refs/main")).unwrap(), COMMIT);
    assert_eq!(place.byte_requests(), ["GET /cdn/w.gguf"]);

    place.pulled(&file);
    assert_eq!(place.hub.requests(), [""; 0], "what is there costs no request");
    let verify = place.command(&["models", "verify", "-q", "hf:ada/tiny"]).output().unwrap();
    assert_eq!(String::from_utf8(verify.stdout).unwrap(), "hf:ada/tiny  w.gguf  good\n");
    fs::write(place.blob(&file), vec![0; file.bytes.len()]).unwrap();
    let verify = place.command(&["models", "verify", "-q", "hf:ada/tiny"]).output().unwrap();
    let told = String::from_utf8(verify.stderr).unwrap();
    assert!(verify.status.code() == Some(3) && told.contains("taper models pull hf:ada/tiny"), "{told}");
    assert!(place.command(&["models", "rm", "-y", "hf:ada/tiny"]).status().unwrap().success());
    assert!(!place.blob(&file).exists() && !place.snapshot("w.gguf").exists());
}

#[test]
fn a_folder_of_small_and_large_files_comes_whole() {
    let files = [
        File::plain("config.json", b"{}"),
        File::plain("README.md", b"not needed"),
        File::plain("tokenizer.json", b"{\"a\": 1}"),
        File::plain("model.safetensors.index.json", b"{\"weight_map\": {}}"),
        File::lfs("model-00001-of-00002.safetensors", b"first"),
        File::lfs("model-00002-of-00002.safetensors", b"second"),
    ];
    let place = Place::with(&files);
    let output = place.pull("hf:ada/tiny");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in files.iter().filter(|file| file.name != "README.md") {
        assert_eq!(fs::read(place.snapshot(&file.name)).unwrap(), file.bytes, "{}", file.name);
        assert!(place.blob(file).exists(), "{} is named by its hash", file.name);
    }
    assert!(!place.snapshot("README.md").exists());
}

#[test]
fn a_cut_connection_is_taken_up_where_it_ended() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    place.hub.fail(&[Fault::Cut(1000), Fault::Cut(0), Fault::Cut(70_000)]);
    place.pulled(&file);
    let ranges = ["", " bytes=1000-300003", " bytes=1000-300003", " bytes=71000-300003"];
    assert_eq!(place.byte_requests(), ranges.map(|range| format!("GET /cdn/w.gguf{range}")));
}

#[test]
fn a_killed_download_goes_on_in_the_next_run() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    place.hub.fail(&[Fault::Slow]);
    let mut child = place.command(&["models", "pull", "hf:ada/tiny"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let have = || place.incomplete(&file).metadata().map_or(0, |found| found.len());
    while have() < 50_000 {
        assert!(Instant::now() < deadline, "the download never came so far");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let left = have();
    assert!(left < 300_000 && !place.snapshot("w.gguf").exists() && !place.cache("refs").exists());
    place.hub.requests();
    let told = place.pulled(&file);
    assert!(told.contains("going on with w.gguf"), "{told}");
    assert_eq!(place.byte_requests(), [format!("GET /cdn/w.gguf bytes={left}-300003")]);
}

#[test]
fn what_an_earlier_run_left_is_trusted_only_if_it_fits() {
    let file = gguf();
    for left in [vec![7; 1000], vec![7; 400_000], file.bytes[..1000].to_vec()] {
        let place = Place::with(std::slice::from_ref(&file));
        fs::create_dir_all(place.cache("blobs")).unwrap();
        fs::write(place.incomplete(&file), &left).unwrap();
        let told = place.pulled(&file);
        assert_eq!(told.contains("starting again"), left == vec![7; 1000], "{told}");
    }
}

#[test]
fn a_server_that_knows_no_ranges_is_put_up_with() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    place.hub.fail(&[Fault::Cut(1000), Fault::NoRanges]);
    place.pulled(&file);
    assert_eq!(place.byte_requests().len(), 2);
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    for file in [gguf(), File::plain("w.gguf", b"GGUF in git")] {
        let place = Place::with(std::slice::from_ref(&file));
        place.hub.fail(&[Fault::Garbage]);
        let told = place.refused("hf:ada/tiny");
        assert!(told.contains("what came is not the file") && told.contains(&file.hash()), "{told}");
        assert!(!place.incomplete(&file).exists() && !place.blob(&file).exists() && !place.snapshot("").exists());
        place.pulled(&file);
    }
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    for (status, headers, expected) in [
        (
            "401 Unauthorized",
            "X-Error-Message: Access to model ada/tiny is restricted.\r\n",
            &["is restricted", "HF_TOKEN", "licence"][..],
        ),
        ("403 Forbidden", "X-Error-Message: no way\r\n", &["no way", "accept the licence"]),
        ("404 Not Found", "", &["the hub has no such model", "check the name"]),
        ("429 Too Many Requests", "Retry-After: 3600\r\n", &["too many requests", "try again in 3600 s"]),
        ("503 Service Unavailable", "", &["the hub answered 503", "try again later"]),
    ] {
        let place = Place::with(&[gguf()]);
        place.hub.refuse(status, headers);
        // Twice the patience is how long a busy hub is asked again.
        let told = place.refused_within("hf:ada/tiny", if status.starts_with("503") { "1" } else { "30" });
        assert!(expected.iter().all(|part| told.contains(part)), "{status}: {told}");
        assert!(told.contains("in hf:ada/tiny"), "{told}");
    }
}

#[test]
fn a_stall_ends_and_keeps_what_came() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    place.hub.fail(&[Fault::Stall(1000), Fault::Stall(0), Fault::Stall(0), Fault::Stall(0)]);
    let told = place.refused_within("hf:ada/tiny", "1");
    assert!(
        told.contains("cannot reach the hub: nothing came for 1 s") && told.contains("goes on from there"),
        "{told}"
    );
    assert!(told.contains("\nnothing came for 1 s: trying again, 1.0 kB are here\n"), "{told}");
    assert_eq!(place.incomplete(&file).metadata().unwrap().len(), 1000);
    place.pulled(&file);
}

#[test]
fn a_hub_that_cannot_be_reached_is_said_to_be() {
    let place = Place::with(&[]);
    let output =
        place.command(&["models", "pull", "hf:ada/tiny"]).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(3) && told.contains("cannot reach the hub: ") && told.contains("HF_ENDPOINT"),
        "{told}"
    );
}

#[test]
fn two_at_once_download_once() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    place.hub.fail(&[Fault::Slow]);
    let children = [0, 1].map(|_| place.command(&["models", "pull", "hf:ada/tiny"]).spawn().unwrap());
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(place.byte_requests(), ["GET /cdn/w.gguf"]);
    assert_eq!(fs::read(place.snapshot("w.gguf")).unwrap(), file.bytes);
}

#[test]
fn another_programs_lock_is_waited_for() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    let path = place.path("hub/.locks/models--ada--tiny").join(format!("{}.lock", file.hash()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let lock = fs::File::create(path).unwrap();
    lock.lock().unwrap();
    let mut child = place.command(&["models", "pull", "hf:ada/tiny"]).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert_eq!(told, "waiting for another program that is fetching w.gguf\n");
    assert_eq!(place.byte_requests(), [""; 0]);
    lock.unlock().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(place.snapshot("w.gguf").exists());
}

#[test]
fn offline_asks_nobody() {
    let place = Place::with(&[gguf()]);
    for (name, args) in [("HF_HUB_OFFLINE", &[][..]), ("TAPER_OFFLINE", &[]), ("X", &["--offline"])] {
        let mut command = place.command(&["models", "pull", "hf:ada/tiny"]);
        let output = command.args(args).env(name, "1").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(3)
                && told.contains("hf:ada/tiny is not on this machine, and taper is offline"),
            "{told}"
        );
    }
    assert_eq!(place.hub.requests(), [""; 0]);
    assert!(!place.path("hub").exists(), "nothing is written to say no");
    place.pulled(&gguf());
    let output = place.command(&["models", "pull", "hf:ada/tiny:w.gguf", "--offline"]).output().unwrap();
    assert!(output.status.success(), "what is there is found offline");
}

#[test]
fn what_does_not_fit_on_the_disk_is_refused_before_it_is_fetched() {
    let file = File { claims: Some(1 << 60), ..gguf() };
    let place = Place::with(&[file]);
    let output = place.pull("hf:ada/tiny");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("no room") && told.contains("HF_HUB_CACHE"), "{told}");
    assert_eq!(place.byte_requests(), [""; 0]);
}

#[test]
fn a_cache_that_cannot_be_written_to_is_no_full_disk() {
    let place = Place::with(&[gguf()]);
    // Where no folder can be made, `df` tells 0 bytes free.
    let mut command = place.command(&["models", "pull", "hf:ada/tiny"]);
    let output = command.env("HF_HUB_CACHE", "/proc/taper").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && told.contains("cannot write to the hub's cache: No such file"),
        "{told}"
    );
    assert!(told.contains("set HF_HUB_CACHE to a folder that can be written to"), "{told}");
    assert_eq!(place.byte_requests(), [""; 0]);
}

#[test]
fn of_several_files_the_choice_is_told_and_can_be_made() {
    let small = File::lfs("m-Q2_K.gguf", b"GGUF small");
    let place = Place::with(&[small.clone(), File::lfs("m-Q4_K_M.gguf", b"GGUF right")]);
    let told = place.pulled(&File::lfs("m-Q4_K_M.gguf", b"GGUF right"));
    assert!(told.contains("several GGUF files; taking m-Q4_K_M.gguf") && told.contains("m-Q2_K.gguf"), "{told}");
    for spec in ["hf:ada/tiny:m-Q2_K.gguf", "hf:ada/tiny:Q2_K"] {
        let output = place.pull(spec);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", place.snapshot(&small.name).display()));
    }
    assert!(place.refused("hf:ada/tiny:Q8_0").contains("there are m-Q2_K.gguf, m-Q4_K_M.gguf"));
}

#[test]
fn the_token_goes_to_the_hub() {
    for token in ["hf_secret", "hf_secret\n", " hf_secret\r\n"] {
        let place = Place::with(&[gguf()]);
        place.command(&["models", "pull", "hf:ada/tiny"]).env("HF_TOKEN", token).output().unwrap();
        let requests = place.hub.requests();
        let listing = requests.iter().find(|request| request.contains("/api/models")).unwrap();
        assert!(listing.ends_with("Bearer hf_secret"), "{token:?}: {requests:?}");
    }
}

#[test]
fn a_model_of_the_list_comes_from_its_hub_source_and_its_promised_hash_counts() {
    let file = gguf();
    let place = Place::with(std::slice::from_ref(&file));
    let manifest = |hash: &str| {
        let text = format!(
            "default = \"mine\"\n[[model]]\nname = \"mine\"\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n[[model.source]]\n\
             hub = \"ada/tiny\"\nrevision = \"main\"\nfiles = [{{ name = \"w.gguf\", sha256 = \"{hash}\" }}]\n"
        );
        fs::write(place.path("config/models.toml"), text).unwrap();
    };
    manifest(&"0".repeat(64));
    let told = place.refused("mine");
    assert!(told.contains("models.toml expects SHA-256 0000") && told.contains(&file.hash()), "{told}");
    assert_eq!(place.byte_requests(), [""; 0]);
    manifest(&file.hash());
    let output = place.pull("mine");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // And -m finds it: this is no model, which its reader says.
    let output = place.command(&["-m", "mine", "-p", "x", "--offline"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(3) && told.contains("GGUF version"), "{told}");
    let list = place.command(&["models", "list"]).output().unwrap();
    assert!(String::from_utf8(list.stdout).unwrap().contains("mine (default)         300.0 kB"));
}
