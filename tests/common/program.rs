//! Runs the real binary.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use assert_cmd::cargo::CommandCargoExt;

/// Takes away what the environment says to taper, to the hub's programs and about proxies. What answers is the reference: its
/// words are those of the other engines in f32, and it is slow enough to be interrupted.
pub fn forget_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_uppercase();
        let known = ["TAPER_", "HF_", "HUGGING", "NO_COLOR"].iter().any(|prefix| text.starts_with(prefix));
        if known || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("TAPER_DEVICE", "reference");
}

/// taper in an environment of its own: no settings of the user's, no network, and folders that not even root can make.
pub fn taper() -> Command {
    let mut command = Command::cargo_bin("taper").unwrap();
    forget_environment(&mut command);
    for folder in ["CACHE", "DATA", "CONFIG"] {
        command.env(format!("TAPER_{folder}_DIR"), format!("/dev/null/{}", folder.to_lowercase()));
    }
    command.env("TAPER_OFFLINE", "1").stdin(Stdio::null());
    command
}

/// Standard output of a run that must succeed.
pub fn succeeded(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and standard error of a run that must print nothing.
pub fn failed(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{command:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Runs with this on standard input.
pub fn piped(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}
