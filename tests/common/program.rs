//! Runs the real binary.
#![allow(dead_code, reason = "every test file uses the part that it needs")]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

use std::process::{Command, Stdio};

use assert_cmd::cargo::CommandCargoExt;

/// Takes away what the environment says to taper, to the hub's programs and about proxies: no test sees the settings of
/// whoever runs it.
pub fn forget_environment(command: &mut Command) {
    let ours = |name: &str| ["TAPER_", "HF_", "HUGGING"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ours(&text) || text.to_ascii_lowercase().ends_with("_proxy") || text == "NO_COLOR" {
            command.env_remove(&name);
        }
    }
}

/// taper in an environment of its own: no settings of the user's, no network, a cache that cannot be made.
pub fn taper() -> Command {
    let mut command = Command::cargo_bin("taper").unwrap();
    forget_environment(&mut command);
    command.env("TAPER_CACHE_DIR", "/nonexistent/cache").env("TAPER_OFFLINE", "1").stdin(Stdio::null());
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
