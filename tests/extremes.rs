//! The real binary with numbers and input that nobody means: it answers or refuses, and does neither by dying.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use common::program::{failed, piped, succeeded, taper};

const U64_MAX: &str = "18446744073709551615";
const PROSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/text/prose.txt");

fn with_model(args: &[&str]) -> std::process::Command {
    let mut command = taper();
    command.env("TAPER_MODEL", common::smollm2()).args(args);
    command
}

#[test]
fn a_context_that_no_machine_has_is_refused_with_both_numbers() {
    for args in [
        &["-p", "x", "-c", U64_MAX][..],
        &["perplexity", "-f", PROSE, "-c", U64_MAX],
        &["--estimate-memory", "-c", U64_MAX],
        &["--bench", "-p", "4294967295"],
        &["--bench", "-n", "4294967295"],
        &["--bench", "-d", "4294967295"],
        &["--bench", "--prompts", "-n", "4294967295"],
    ] {
        let (code, error) = failed(&mut with_model(args));
        assert_eq!(code, 4, "{args:?}: {error}");
        let (asked, most) = error.split_once("; the longest there can be is ").unwrap();
        assert!(asked.starts_with("error: a context of ") && most.starts_with("2147483647\n"), "{args:?}: {error}");
        assert!(
            error.ends_with("give a smaller --ctx-size, or none to take what fits; under --bench shorter lengths\n")
        );
    }
    // One that can be counted, and is still too large for any memory.
    let (code, error) = failed(&mut with_model(&["-p", "x", "-c", "2147483647"]));
    assert!(
        code == 4 && error.contains(" with a context of 2147483647 (") && error.contains("are available"),
        "{error}"
    );
}

#[test]
fn lengths_beyond_counting_are_usage_errors() {
    for (flag, n) in [("-n", "9223372036854775807"), ("-p", U64_MAX)] {
        let (code, error) = failed(&mut with_model(&["--bench", flag, n]));
        assert!(code == 2 && error.contains(&format!("under --bench, {flag} takes lengths")), "{error}");
    }
}

#[test]
fn limits_beyond_counting_limit_nothing() {
    let args = ["--raw", "-q", "-p", "1, 2, 3,", "-c", "32", "--temp", "1", "-s", "7"];
    let limits = ["--min-tokens", U64_MAX, "--top-k", U64_MAX, "-n", "9223372036854775807"];
    let plain = ["--min-tokens", "1000", "--top-k", "0", "-n", "-1"];
    let answer = |more: &[&str]| succeeded(with_model(&args).args(more));
    assert_eq!(answer(&limits), answer(&plain));
}

#[test]
fn more_threads_than_cores_are_too_many_and_said_to_be() {
    let answer = ["--raw", "-p", "1, 2, 3,", "-n", "8", "--temp", "0", "-t", "1024"];
    let told = |more: &[&str]| String::from_utf8(with_model(&answer).args(more).output().unwrap().stderr).unwrap();
    let most = taper::stats::cores::Cores::of_process().most();
    let told_once = told(&[]);
    assert!(told_once.starts_with("warning: 1024 threads are asked for, and this process may use "), "{told_once}");
    assert!(told_once.contains(&format!(": {most} compute")), "{told_once}");
    assert_eq!(told_once.matches("1024").count(), 1);
    assert_eq!(told(&["-q"]), "");
}

#[test]
#[cfg(target_os = "linux")]
fn a_limit_that_the_shell_sets_is_no_abort() {
    let script = "ulimit -v 1000000; exec \"$0\" -m \"$1\" --device reference -p x -c 8192";
    let program = taper().get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(script).arg(program).arg(common::smollm2()).stdin(std::process::Stdio::null());
    let (code, error) = failed(&mut shell);
    assert!(
        code == 4 && error.contains("with a context of 8192 (") && error.contains("gives no such amount"),
        "{error}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn endless_input_ends_with_an_error() {
    for (args, what) in [
        (&["--json"][..], "standard input"),
        (&["tokenize"], "standard input"),
        (&["-f", "/dev/zero"], "the prompt"),
        (&["perplexity", "-f", "/dev/zero"], "the text"),
    ] {
        let output = with_model(args).stdin(std::fs::File::open("/dev/zero").unwrap()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.starts_with(&format!("error: cannot read {what}: it is longer than 67.1 MB\n")), "{error}");
        assert!(error.ends_with("no model takes as much at once: give a part of it\n"), "{error}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_fifo_for_the_settings_is_refused_and_one_among_the_sessions_is_none() {
    let fifo = |path: &std::path::Path| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let folder = tempfile::tempdir().unwrap();
    fifo(&folder.path().join("config.toml"));
    fifo(&folder.path().join("sessions/pipe.jsonl"));
    let (code, error) = failed(with_model(&["-p", "x"]).env("TAPER_CONFIG_DIR", folder.path()));
    assert!(code == 2 && error.starts_with("error: cannot read the settings: it is not a regular file\n"), "{error}");
    assert!(taper::session::Sessions::new(folder.path()).list().is_empty());
}

#[test]
fn input_that_is_no_text_is_named_with_the_byte() {
    let output = piped(&mut with_model(&["-p", "What is this?"]), b"ab\xff");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*error), (Some(2), "error: standard input is no text: byte 2 is not UTF-8\n"));
}
