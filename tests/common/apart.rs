//! Programs in Linux namespaces of their own: without a network, with a disk of a few kilobytes, with folders that cannot
//! be written to. What a script mounts is seen by nobody else, and goes when it ends.
#![allow(dead_code, reason = "every test file uses the part that it needs")]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

use std::process::{Command, Stdio};

/// Runs a shell script that may mount what it likes. `None`, and a line that says so, where the system does not let us;
/// root under CI must be let.
pub fn with_own_mounts(script: &str) -> Option<Command> {
    apart("--mount", script)
}

/// Runs a shell script that has no network, not even to this machine itself. `None` as above.
pub fn without_network(script: &str) -> Option<Command> {
    apart("--net", script)
}

fn apart(namespace: &str, script: &str) -> Option<Command> {
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = Command::new("unshare");
    command.arg(namespace).args((!is_root).then_some("--map-root-user"));
    let allowed = {
        let mut probe = Command::new("unshare");
        probe.args(command.get_args()).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    if !allowed {
        let must = is_root && std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!must, "`unshare {namespace}` is not allowed, which CI does not forgive");
        report(namespace);
        return None;
    }
    command.args(["sh", "-euc", script]);
    Some(command)
}

/// Where it is seen although the test passes.
fn report(namespace: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: `unshare {namespace}` is not allowed here");
}
