//! A machine that does not help: no network, no room on the disk, a cache that cannot be written to. The real binary.
#![cfg(all(target_os = "linux", feature = "hub"))]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;
#[path = "hub/server.rs"]
mod server;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use common::program::forget_environment;
use common::{apart, hash}; // server.rs takes `hash` from the test's root
use server::{Fault, File, Hub};
use tempfile::TempDir;

/// 1 MB that compresses well: the wheel fits where the weights do not.
const WHEEL_WEIGHTS: usize = 1_000_000;

/// A hub, a Python that makes wheels, and a folder `disk` for all that taper writes.
struct Place {
    hub: Hub,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let weights: Vec<u8> = b"GGUF".iter().copied().chain((0..300_000u32).map(|n| (n % 251) as u8)).collect();
        let place = Self { hub: Hub::with(&[File::lfs("w.gguf", &weights)]), folder: tempfile::tempdir().unwrap() };
        for folder in ["disk", "config"] {
            fs::create_dir(place.path(folder)).unwrap();
        }
        // Whatever else writes to the disk may do so while pip downloads.
        place.script(
            "python",
            &format!(
                r#"[ -e "$PYTHON_CALLS" ] || eval "$MEANWHILE"
                echo called >> "$PYTHON_CALLS"
                while [ "$1" != -d ]; do shift; done
                exec python3 -c 'import sys, zipfile
z = zipfile.ZipFile(sys.argv[1] + "/big-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED)
z.writestr("big/w.gguf", bytes({WHEEL_WEIGHTS}))
z.close()' "$2""#
            ),
        );
        let hash = "d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025"; // of a million zeros
        let models = format!(
            "default = \"big\"\n[[model]]\nname = \"big\"\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n\
             [[model.source]]\nwheel = \"big\"\nversion = \"1.0\"\nbytes = 2000\n\
             files = [{{ name = \"w.gguf\", member = \"big/w.gguf\", bytes = {WHEEL_WEIGHTS}, sha256 = \"{hash}\" }}]\n"
        );
        fs::write(place.path("config/models.toml"), models).unwrap();
        place
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn script(&self, name: &str, body: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a shell script that knows `$TAPER`, `$DISK` and `$MODEL`, the test model's file. Its exit code and what it
    /// said on both streams; `None` where `apart` must skip.
    fn run(&self, script: Option<Command>) -> Option<(i32, String)> {
        let mut script = script?;
        forget_environment(&mut script);
        script.env("TAPER", cargo_bin("taper")).env("DISK", self.path("disk")).env("MODEL", common::smollm2());
        script.env("TAPER_CACHE_DIR", self.path("disk/cache")).env("TAPER_DATA_DIR", self.path("disk/data"));
        script.env("TAPER_CONFIG_DIR", self.path("config")).env("TAPER_PYTHON", self.path("python"));
        script.env("HF_HUB_CACHE", self.path("disk/hub")).env("HF_ENDPOINT", self.hub.address());
        script.env("PYTHON_CALLS", self.path("python-calls")).env("MEANWHILE", "true");
        let output = script.stdin(Stdio::null()).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        Some((output.status.code().unwrap(), String::from_utf8(told).unwrap()))
    }

    /// Pulls a model onto a disk of 2 MB, which `meanwhile` may fill in the file `$DISK/filler`; says what that leaves of
    /// the model, and pulls it again with room.
    fn on_a_small_disk(&self, model: &str, before: &str, meanwhile: &str) -> Option<(i32, String)> {
        self.run(apart::with_own_mounts(&format!(
            r#"mount -t tmpfs -o size=2m tmpfs "$DISK"
            export MEANWHILE='{meanwhile}'
            {before}
            "$TAPER" models pull {model} || echo "exit $?"
            find "$DISK" -path '*/models/*/*' -printf 'left: %p\n'
            rm "$DISK/filler"
            exec "$TAPER" models pull {model}"#
        )))
    }

    fn without_network(&self, script: &str) -> Option<(i32, String)> {
        self.run(apart::without_network(script))
    }

    fn python_was_called(&self) -> bool {
        self.path("python-calls").exists()
    }
}

#[test]
fn offline_a_model_that_is_here_answers_without_a_network() {
    let place = Place::new();
    let question = r#"exec "$TAPER" --offline -m "$MODEL" --temp 0 -n 24 -p 'What is the capital of France?'"#;
    let Some((code, told)) = place.without_network(question) else { return };
    assert!(code == 0 && told.contains("Paris"), "{told}");
}

#[test]
fn offline_a_model_that_is_absent_is_refused_and_nothing_is_tried() {
    let place = Place::new();
    for model in ["hf:ada/tiny", "big"] {
        let Some((code, told)) = place.without_network(&format!(r#"exec "$TAPER" --offline -m {model} -p x"#)) else {
            return;
        };
        let refusal = format!("error: {model} is not on this machine, and taper is offline");
        assert!(code == 3 && told.starts_with(&refusal), "{told}");
    }
    assert!(!place.python_was_called());
    // There was no network indeed: who tries fails otherwise.
    let (code, told) = place.without_network(r#"exec "$TAPER" -m hf:ada/tiny -p x"#).unwrap();
    assert!(code == 3 && told.contains("cannot reach the hub"), "{told}");
    assert_eq!(place.hub.requests(), [""; 0]);
}

/// Leaves 150 kB of the small disk.
const FILL: &str = r#"head -c 1900k /dev/zero > "$DISK/filler""#;

#[test]
fn what_the_disk_has_no_room_for_is_refused_before_anything_is_fetched() {
    for (model, needs, variable) in [("hf:ada/tiny", "300.0 kB", "HF_HUB_CACHE"), ("big", "1.0 MB", "TAPER_CACHE_DIR")]
    {
        let place = Place::new();
        let Some((code, told)) = place.on_a_small_disk(model, FILL, "true") else { return };
        let refusal = format!("error: the disk has no room for the download: it needs {needs}, ");
        let advice = format!("free some space, or set {variable} to a folder on a larger disk");
        assert!(code == 0 && told.contains("exit 1\n"), "{told}");
        assert!(told.contains(&refusal) && told.contains(&advice) && !told.contains("going on"), "{told}");
    }
}

#[test]
fn a_download_that_fills_the_disk_goes_on_when_there_is_room() {
    let place = Place::new();
    place.hub.fail(&[Fault::Slow]);
    // Until the first bytes are here, then all that is left.
    let fill = r#"(until [ -n "$(find "$DISK/hub" -name "*.incomplete" -size +0 2>/dev/null)" ]; do sleep 0.01; done
        head -c 2000k /dev/zero > "$DISK/filler") 2>/dev/null &"#;
    let Some((code, told)) = place.on_a_small_disk("hf:ada/tiny", fill, "true") else { return };
    let full = "error: cannot write the model: No space left on device";
    let advice = "free some space, or set HF_HUB_CACHE to a folder on a larger disk; what came is kept";
    assert!(code == 0 && told.contains("exit 1\n"), "{told}");
    assert!(told.contains(full) && told.contains(advice) && told.contains("going on with w.gguf: "), "{told}");
}

#[test]
fn a_wheel_whose_weights_do_not_fit_leaves_nothing_behind() {
    let place = Place::new();
    let Some((code, told)) = place.on_a_small_disk("big", "", FILL) else { return };
    let full = "error: cannot write the model: No space left on device";
    assert!(code == 0 && told.contains("exit 1\n") && told.contains(full), "{told}");
    assert!(told.contains("free some space, or set TAPER_CACHE_DIR to a folder on a larger disk"), "{told}");
    let left: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("left: ")).collect();
    assert_eq!(left, [place.path("disk/cache/models/big/.lock").to_str().unwrap()], "{told}");
}

/// A script in which the disk has the default model and cannot be written to.
fn read_only(script: &str) -> Option<Command> {
    apart::with_own_mounts(&format!(
        r#"mount --bind "$DISK" "$DISK"
        mount -o remount,bind,ro "$DISK"
        {script}"#
    ))
}

#[test]
fn a_cache_that_is_read_only_serves_what_is_in_it() {
    let place = Place::new();
    let folder = place.path("disk/cache/models/smollm2-135m");
    fs::create_dir_all(&folder).unwrap();
    let weights = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    symlink(common::smollm2(), &weights).unwrap();
    let question = r#"exec "$TAPER" -m smollm2-135m --temp 0 -n 24 -p 'What is the capital of France?'"#;
    let Some((code, told)) = place.run(read_only(question)) else { return };
    assert!(code == 0 && told.contains("Paris") && told.contains("[ prompt "), "{told}");
    for (command, named, advice) in [
        ("models pull big", "disk/cache/models/big", "set TAPER_CACHE_DIR to a folder that can be written to"),
        (
            "models pull hf:ada/tiny",
            "disk/hub/models--ada--tiny",
            "set HF_HUB_CACHE to a folder that can be written to",
        ),
        ("models rm -y smollm2-135m", "disk/cache/models/smollm2-135m", ""),
    ] {
        let (code, told) = place.run(read_only(&format!(r#"exec "$TAPER" {command}"#))).unwrap();
        assert!(code == 1 && told.contains("Read-only file system"), "{command}: {told}");
        assert!(told.contains(named) && told.contains(advice), "{command}: {told}");
    }
    assert!(weights.exists() && !place.python_was_called());
}
