//! The flags that trade speed, memory and exactness, by the real binary: what they choose, say and refuse.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::process::{Command, Output};

use common::program::{failed, succeeded, taper};
use serde_json::Value;

/// taper with the test model on the CPU backend.
fn on_cpu() -> Command {
    let mut command = taper();
    command.env("TAPER_DEVICE", "cpu").env("TAPER_MODEL", common::smollm2());
    command
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// What a short answer says on standard error, up to the line of its speeds.
fn told(command: &mut Command) -> String {
    let output = command.args(["--raw", "--temp", "0", "-n", "2", "-c", "64", "-p", "1, 2, 3,"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(output.stdout, b" 4\n");
    stderr(&output).split("[ prompt").next().unwrap().to_owned()
}

#[test]
fn every_type_and_both_forms_of_attention_say_the_same() {
    // Counting: the likeliest token is far ahead of the next, whatever rounding does. Two chunks of context.
    let prompt = (1..=70).map(|n| format!("{n},")).collect::<Vec<_>>().join(" ");
    for kv_type in ["f32", "f16", "q8_0"] {
        for attention in ["on", "off"] {
            let args = ["-q", "--raw", "--temp", "0", "-n", "10", "-c", "512", "-p", &prompt];
            let how = ["--kv-type", kv_type, "--flash-attention", attention];
            let said = succeeded(on_cpu().args(args).args(how));
            assert!(said.starts_with(" 71, 72"), "{kv_type}, {attention}: {said}");
        }
    }
}

#[test]
fn verbose_and_the_benchmark_tell_the_type_and_the_bytes_that_are_read() {
    let line = told(on_cpu().args(["-v", "--kv-type", "q8_0", "--flash-attention", "off"]));
    assert!(line.contains("keys and values in q8_0, plain attention, 256 rows a step"), "{line}");
    let bench = |kv_type: &str, form: &str| {
        let args = ["--bench", "-p", "0", "-n", "2", "-d", "100", "-r", "1", "--kv-type", kv_type, "-o", form];
        succeeded(on_cpu().args(args))
    };
    let row =
        |kv_type: &str| -> Value { serde_json::from_str::<Vec<Value>>(&bench(kv_type, "json")).unwrap().remove(0) };
    let (half, byte) = (row("f16"), row("q8_0"));
    assert_eq!((&half["kv_type"], &byte["kv_type"]), (&"f16".into(), &"q8_0".into()));
    assert_eq!(byte["flash_attention"], true);
    let bytes = |row: &Value| {
        row["gigabytes_per_second"].as_f64().unwrap() * 1e9 / row["tokens_per_second"]["mean"].as_f64().unwrap()
    };
    // 100 and 101 tokens are read: 30 layers of 3 heads of 64 numbers, keys and values, in 128 or in 68 bytes.
    assert!((bytes(&half) - bytes(&byte) - 100.5 * f64::from(30 * 3 * 2 * (128 - 68))).abs() < 1.0, "{half} {byte}");
    assert!(bench("q8_0", "md").contains("| KV | test |") && bench("q8_0", "md").contains(" | q8_0 | tg2 @ d100 | "));
}

#[test]
fn the_reference_refuses_a_type_that_it_does_not_keep_and_says_what_to_do() {
    let (code, error) = failed(taper().args(["-m", "no-such-model", "-p", "x", "--kv-type", "q8_0"]));
    let expected = "error: --kv-type q8_0 is asked for; the reference backend keeps keys and values in f32 alone\n  \
                    leave --device or --kv-type out\n";
    assert_eq!((code, &*error), (2, expected));

    let mut of_environment = taper();
    of_environment.env("TAPER_KV_TYPE", "f16").args(["-m", "no-such-model", "-p", "x"]);
    let (code, error) = failed(&mut of_environment);
    assert!(code == 2 && error.contains("--kv-type f16 is asked for"), "{error}");
}

#[test]
fn the_reference_takes_flash_attention_with_a_word_and_its_absence_without() {
    let reference = |args: &[&str]| told(taper().arg("-m").arg(common::smollm2()).args(args));
    let expected = "warning: the reference backend has plain attention alone: its answers are the same\n";
    assert_eq!(reference(&["--flash-attention", "on"]), expected);
    assert_eq!(reference(&["--flash-attention", "off", "--kv-type", "f32"]), "");
    assert_eq!(reference(&["-q", "--flash-attention", "on"]), "");
}

#[test]
fn optimize_memory_takes_less_and_says_how_but_not_under_quiet_and_other_flags_win() {
    let line = told(on_cpu().arg("--optimize-memory"));
    assert!(line.starts_with("--optimize-memory takes the cpu backend, kernels for "), "{line}");
    assert!(line.ends_with("keys and values in q8_0, blocked attention, 48 rows a step\n"), "{line}");
    assert_eq!(told(on_cpu().args(["--optimize-memory", "-q"])), "");
    let line = told(on_cpu().args(["--optimize-memory", "--kv-type", "f32"]));
    assert!(line.contains("keys and values in f32, ") && line.ends_with("; other flags had their say\n"), "{line}");

    let estimate = |args: &[&str]| -> Value {
        let args = [&["--estimate-memory", "-c", "2048", "-o", "json"], args].concat();
        serde_json::from_str(&succeeded(on_cpu().args(args))).unwrap()
    };
    let (small, usual) = (estimate(&["--optimize-memory"]), estimate(&[]));
    let of = |estimate: &Value, part: &str| estimate[part].as_u64().unwrap();
    assert_eq!((&small["kv_type"], &usual["kv_type"]), (&"q8_0".into(), &"f16".into()));
    assert_eq!((&small["batch"], &usual["batch"]), (&48.into(), &256.into()));
    assert_eq!(of(&small, "kv_bytes") * 128, of(&usual, "kv_bytes") * 68);
    assert!(of(&small, "workspace_bytes") * 3 < of(&usual, "workspace_bytes"), "{small} {usual}");

    // The reference has no smaller keys and values, but smaller steps.
    let line = told(on_cpu().args(["--optimize-memory", "--device", "reference"]));
    assert!(line.contains("keys and values in f32, plain attention, 48 rows a step"), "{line}");
}

#[test]
fn max_speed_says_that_the_defaults_are_it_only_where_they_are() {
    let line = told(on_cpu().env_remove("TAPER_DEVICE").arg("--max-speed"));
    let expected = "--max-speed takes the defaults, there is nothing better: the cpu backend, kernels for ";
    assert!(line.starts_with(expected), "{line}");
    assert!(line.ends_with("keys and values in f16, blocked attention, 256 rows a step\n"), "{line}");
    let line = told(on_cpu().args(["--max-speed", "--flash-attention", "off"]));
    assert!(line.starts_with("--max-speed takes the cpu backend, ") && line.contains("plain attention"), "{line}");
    assert!(line.ends_with("; other flags had their say\n"), "{line}");
}

#[test]
fn the_two_goals_together_are_a_usage_error_wherever_they_come_from() {
    let (code, error) = failed(taper().args(["-p", "x", "--optimize-memory", "--max-speed"]));
    assert!(code == 2 && error.contains("'--optimize-memory' cannot be used with '--max-speed'"), "{error}");
    let both = || {
        let mut command = taper();
        command.env("TAPER_OPTIMIZE_MEMORY", "1").env("TAPER_MAX_SPEED", "1").args(["-m", "no-such-model", "-p", "x"]);
        command
    };
    let (code, error) = failed(&mut both());
    assert!(code == 2 && error.starts_with("error: --optimize-memory and --max-speed are both asked for\n"), "{error}");
    // A flag wins over the other's variable: what is missing then is the model.
    assert_eq!(failed(both().arg("--max-speed")).0, 3);
}

#[test]
fn the_settings_file_has_them_too() {
    let folder = tempfile::tempdir().unwrap();
    let with = |settings: &str| {
        std::fs::write(folder.path().join("config.toml"), settings).unwrap();
        let mut command = on_cpu();
        command.env("TAPER_CONFIG_DIR", folder.path());
        command
    };
    let line = told(with("kv-type = \"f32\"\nflash-attention = \"off\"\n").arg("-v"));
    assert!(line.contains("keys and values in f32, plain attention"), "{line}");
    let line = told(with("optimize-memory = true\n").args(["--kv-type", "q8_0"]));
    assert!(line.contains("keys and values in q8_0, blocked attention, 48 rows"), "{line}");
    let (code, error) = failed(with("kv-type = \"q4_0\"\n").args(["-p", "x"]));
    assert!(code == 2 && error.contains("invalid value 'q4_0' for '--kv-type <TYPE>'"), "{error}");
}
