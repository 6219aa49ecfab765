//! `taper doctor` and `taper completions`, run by the real binary; completions are sourced in the shells themselves.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::path::Path;
use std::process::Command;

use common::program::{failed, succeeded, taper};
use serde_json::Value;

#[test]
fn doctor_tells_what_the_system_tells() {
    let cache = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(cache.path().join("models/some-model")).unwrap();
    std::fs::write(cache.path().join("models/some-model/model.gguf"), vec![0; 1000]).unwrap();
    let doctor = |args: &[&str]| succeeded(taper().env("TAPER_CACHE_DIR", cache.path()).arg("doctor").args(args));
    let found: Value = serde_json::from_str(&doctor(&["--json", "-t", "1"])).unwrap();
    let cores = taper::stats::cores::Cores::of_process();
    assert_eq!(found["processor"]["cores"], cores.usual());
    assert_eq!(found["processor"]["usable"], cores.processors);
    assert_eq!(found["bandwidth"]["threads"], 1);
    assert!(found["bandwidth"]["bytes_per_second"].as_f64().unwrap() > 1e8, "{found}");
    assert_eq!(found["backend"]["name"], "cpu");
    assert_eq!(found["models"][0]["name"], "some-model");
    assert_eq!(found["models"][0]["bytes"], 1000);
    assert_eq!(found["folders"][0]["path"], cache.path().to_str().unwrap());
    if cfg!(target_os = "linux") {
        let memory = |name: &str| found["memory"][name].as_u64().unwrap();
        assert!(memory("available") > 0 && memory("available") < memory("total"), "{found}");
        let online = found["processor"]["online"].as_u64().unwrap();
        assert!(online >= found["processor"]["cores"].as_u64().unwrap(), "{found}");
    }
    let text = doctor(&[]);
    for word in ["processor ", "features ", "cores ", "memory ", "bandwidth ", "backend ", "some-model (1.0 kB)"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(cache.path().join("bandwidth.json").exists(), "the chat's line can use it");
}

#[test]
fn a_mistake_in_the_settings_stops_only_what_needs_them() {
    let config = tempfile::tempdir().unwrap();
    std::fs::write(config.path().join("config.toml"), "tmp = 1\n").unwrap();
    let with_mistake = |args: &[&str]| {
        let mut command = taper();
        command.env("TAPER_CONFIG_DIR", config.path()).args(args);
        command
    };
    let text = succeeded(&mut with_mistake(&["doctor", "-t", "1"]));
    assert!(text.contains("\nsettings   there is no setting `tmp`; there are model, ctx-size,"), "{text}");
    assert!(text.contains("config.toml, line 1, column 1\n"), "{text}");
    let json: Value = serde_json::from_str(&succeeded(&mut with_mistake(&["doctor", "-t", "1", "--json"]))).unwrap();
    assert!(json["settings_error"].as_str().unwrap().starts_with("there is no setting `tmp`"), "{json}");
    assert!(succeeded(&mut with_mistake(&["completions", "bash"])).contains("--bench"));
    assert!(succeeded(&mut with_mistake(&["models", "list"])).contains("smollm2-135m"));
    // It may be what forbids the network.
    for args in [&["models", "pull", "smollm2-135m"][..], &["-p", "x"]] {
        let (code, error) = failed(&mut with_mistake(args));
        assert!(code == 2 && error.starts_with("error: there is no setting `tmp`"), "{error}");
    }
}

/// Whether a shell is installed; a test without it says that it did nothing, and under CI=true it fails.
#[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
fn installed(shell: &str) -> bool {
    let there = Command::new(shell).args(["-c", "exit 0"]).status().is_ok_and(|status| status.success());
    if !there {
        assert_ne!(std::env::var_os("CI").as_deref(), Some("true".as_ref()), "{shell} is not installed");
        println!("skipped: {shell} is not installed");
    }
    there
}

/// What `script` prints in a shell, with the file of completions as its first argument.
fn in_shell(shell: &str, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions");
    std::fs::write(&file, succeeded(taper().args(["completions", shell]))).unwrap();
    let mut command = Command::new(shell);
    if shell == "bash" {
        command.args(["--norc", "--noprofile"]);
    }
    command.args(["-c", script]);
    if shell != "fish" {
        command.arg(Path::new(shell)); // the script's name: what follows is $1
    }
    let output = command.arg(&file).env("HOME", folder.path()).output().unwrap();
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_flags_commands_and_values() {
    if !installed("bash") {
        return;
    }
    let complete = |words: &str, last: &str, before: &str| {
        let script = format!(
            "source \"$1\"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); \
             _taper taper '{last}' '{before}'; echo \"${{COMPREPLY[@]}}\"; complete -p taper"
        );
        in_shell("bash", &script)
    };
    let flags = complete("taper --be", "--be", "taper");
    assert!(flags.starts_with("--bench\n") && flags.contains("-F _taper"), "{flags}");
    assert!(complete("taper do", "do", "taper").starts_with("doctor\n"));
    assert!(complete("taper --output ''", "", "--output").starts_with("md json csv\n"));
}

#[test]
fn zsh_takes_the_script_and_ties_it_to_the_name() {
    if installed("zsh") {
        let script = "autoload -U compinit && compinit -D -u; source \"$1\"; print -r -- $_comps[taper]; print -r -- $functions[_taper]";
        let text = in_shell("zsh", script);
        assert!(text.starts_with("_taper\n") && text.contains("--bench[") && text.contains("--ctx-size="), "{text}");
    }
}

#[test]
fn fish_completes_flags_with_their_help() {
    if installed("fish") {
        let text = in_shell("fish", "source $argv[1]; complete -C 'taper --ben'; complete -C 'taper doc'");
        assert!(text.contains("--bench\tMeasure prompt and generation speed") && text.contains("doctor\t"), "{text}");
    }
}

#[test]
fn another_shell_is_refused_with_those_there_are() {
    let (code, error) = failed(taper().args(["completions", "tcsh"]));
    assert!(code == 2 && error.contains("bash, zsh, fish"), "{error}");
}
