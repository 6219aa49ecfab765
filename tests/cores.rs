//! More threads than cores: one processor by `taskset`, half of one by a control group. The real binary.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::program::{succeeded, taper};
use serde_json::Value;

/// taper on the CPU backend, behind another program.
fn behind(program: &str, before: &[&str], args: &[&str]) -> Command {
    let on_cpu = taper();
    let mut command = Command::new(program);
    command.args(before).arg(on_cpu.get_program()).args(args);
    common::program::forget_environment(&mut command);
    for (name, value) in on_cpu.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TAPER_DEVICE", "cpu").env("TAPER_MODEL", common::smollm2());
    command
}

/// taper on the first processor that this process may use.
fn on_one_processor(args: &[&str]) -> Command {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = allowed.split([',', '-']).next().unwrap();
    behind("taskset", &["-c", first], args)
}

const ANSWER: [&str; 8] = ["--raw", "--temp", "0", "-n", "8", "-p", "1, 2, 3,", "-c"];

#[test]
fn threads_without_a_processor_of_their_own_do_not_compute_and_are_mentioned_once() {
    let told = |more: &[&str]| {
        let output = on_one_processor(&[&ANSWER[..], &["64"], more].concat()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), " 4, 5, 6\n");
        String::from_utf8(output.stderr).unwrap().split("[ prompt").next().unwrap().to_owned()
    };
    for threads in ["2", "8"] {
        let expected =
            format!("warning: {threads} threads are asked for, and this process may use 1 core: 1 computes\n");
        assert_eq!(told(&["-t", threads]), expected);
        assert_eq!(told(&["-t", threads, "-q"]), "");
    }
    assert_eq!(told(&["-t", "1"]), "");
    assert_eq!(told(&[]), "");
}

#[test]
fn doctor_says_what_affinity_leaves() {
    let text = succeeded(&mut on_one_processor(&["doctor"]));
    assert!(text.contains("\ncores      1 usable of ") && text.contains(", 1 thread, "), "{text}");
    let json: Value = serde_json::from_str(&succeeded(&mut on_one_processor(&["doctor", "--json"]))).unwrap();
    assert_eq!((&json["processor"]["usable"], &json["processor"]["cores"]), (&1.into(), &1.into()));
    assert_eq!(json["bandwidth"]["threads"], 1);
}

/// A control group of half a processor, of version 1 or 2. It goes when this does.
struct HalfCore(PathBuf);

impl HalfCore {
    /// `None`, and a line that says so, where the system lets us make none.
    fn new() -> Option<Self> {
        let (root, name) = (Path::new("/sys/fs/cgroup"), format!("taper-test-{}", std::process::id()));
        let (group, limits): (PathBuf, &[(&str, &str)]) = if root.join("cgroup.controllers").exists() {
            (root.join(name), &[("cpu.max", "50000 100000")])
        } else {
            (root.join("cpu").join(name), &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")])
        };
        let made = fs::create_dir(&group).and_then(|()| {
            let made = Self(group.clone());
            limits.iter().try_for_each(|(file, limit)| fs::write(made.0.join(file), limit))?;
            Ok(made)
        });
        made.inspect_err(|e| skipped(&group, e)).ok()
    }

    fn run(&self, args: &[&str]) -> Command {
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", self.0.display());
        behind("sh", &["-c", &enter], args)
    }
}

impl Drop for HalfCore {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0); // its processes have ended
    }
}

/// Where it is seen although the test passes.
fn skipped(group: &Path, e: &std::io::Error) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {} cannot be made: {e}", group.display());
}

#[test]
fn half_a_core_is_enough_for_one_thread_and_said_to_be() {
    let Some(half) = HalfCore::new() else { return };
    let output = half.run(&[&ANSWER[..], &["64", "-t", "2"]].concat()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("warning: 2 threads are asked for, and this process may use 0.50 cores' time: 1 computes\n"),
        "{error}"
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), " 4, 5, 6\n");
    let text = succeeded(&mut half.run(&["doctor"]));
    assert!(text.contains("\ncores      1 usable of ") && text.contains(": 0.50 cores' time, "), "{text}");
}
