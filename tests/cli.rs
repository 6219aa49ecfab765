//! The real binary with the real model: what it prints where, and how it exits.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::gguf_builder::GgufBuilder;
use common::program::{failed, piped, succeeded, taper};
use common::tiny::{self, Tiny};
use serde_json::Value;

/// taper with the test model.
fn with_model() -> Command {
    let mut command = taper();
    command.env("TAPER_MODEL", common::smollm2());
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Exit code and standard error of a run that must print nothing.
fn failure(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(stdout(&output), "");
    let temp = std::env::temp_dir().display().to_string();
    format!("exit {}\n{}", output.status.code().unwrap(), stderr(&output).replace(&temp, "TMP"))
}

#[test]
fn help_is_as_reviewed() {
    let help =
        |args: &[&str]| String::from_utf8(taper().args(args).env("COLUMNS", "100").output().unwrap().stdout).unwrap();
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help_short", help(&["-h"]));
    insta::assert_snapshot!("help_perplexity", help(&["perplexity", "--help"]));
    insta::assert_snapshot!("help_tokenize", help(&["tokenize", "--help"]));
}

#[test]
fn a_prompt_is_answered_on_standard_output_alone() {
    let output =
        with_model().args(["-p", "What is the capital of France?", "--temp", "0", "-n", "16"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "The capital of France is Paris.\n");
    let line = stderr(&output);
    assert!(
        line.starts_with("[ prompt ") && line.contains(" t/s | generation ") && line.lines().count() == 1,
        "{line}"
    );
    assert!(!line.contains('\u{1b}'), "no escapes in a pipe: {line:?}");
}

#[test]
fn quiet_prints_the_answer_and_nothing_else() {
    let output = with_model().args(["-q", "-p", "Say hi.", "-n", "4", "-s", "1"]).output().unwrap();
    assert_eq!(stderr(&output), "");
    assert!(output.status.success());
}

#[test]
fn piped_text_is_put_before_the_prompt() {
    // "2 + 2 =" raw: the continuation shows that both parts arrived, in order.
    let mut raw = with_model();
    raw.args(["--raw", "-q", "--json", "--temp", "0", "-n", "1", "-p", "4, 5,"]);
    let both = piped(&mut raw, b"1, 2, 3,\n");
    let mut alone = with_model();
    alone.args(["--raw", "-q", "--json", "--temp", "0", "-n", "1", "-p", "1, 2, 3,\n\n4, 5,"]);
    let one = alone.output().unwrap();
    let count = |o: &Output| events(o).last().unwrap()["prompt_tokens"].clone();
    assert_eq!(count(&both), count(&one));
    assert_eq!(events(&both)[0], events(&one)[0]);

    let mut only_piped = with_model();
    only_piped.args(["-q", "--temp", "0", "-n", "16"]);
    assert_eq!(
        stdout(&piped(&mut only_piped, b"What is the capital of France?\n")),
        "The capital of France is Paris.\n"
    );
}

#[test]
fn a_dash_for_the_file_is_standard_input() {
    let mut command = with_model();
    command.args(["-q", "--raw", "--temp", "0", "-n", "2", "-f", "-"]);
    assert_eq!(stdout(&piped(&mut command, b"1, 2, 3,")), " 4\n");
}

fn events(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_lines_hold_every_token_and_a_summary() {
    let mut command = with_model();
    command.args(["--json", "-p", "What is the capital of France?", "--temp", "0", "-s", "7"]);
    let output = command.output().unwrap();
    let events = events(&output);
    let (done, tokens) = events.split_last().unwrap();
    let text: String = tokens.iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(text, "The capital of France is Paris.");
    assert!(tokens.iter().all(|t| t["event"] == "token" && t["id"].is_u64()));
    assert_eq!(done["event"], "done");
    assert_eq!(done["finish_reason"], "stop");
    assert_eq!(done["generated_tokens"], tokens.len());
    assert_eq!(done["seed"], 7);
    assert!(done["prompt_tokens"].as_u64().unwrap() > 10);
    assert!(done["prompt_seconds"].as_f64().unwrap() > 0.0 && done["generation_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_last_json_line_tells_what_went_wrong_whenever_it_did() {
    let long = "word ".repeat(100);
    let folder = tempfile::tempdir().unwrap();
    let base = base_model(folder.path());
    let biases: Vec<String> = (0..61).map(|id| format!("--logit-bias={id}-inf")).collect();
    let biases: Vec<&str> = biases.iter().map(String::as_str).collect();
    for (args, code, prompt_tokens, expected) in [
        (&["-p", "x", "-m", "/dev/null/absent.gguf"][..], 3, 0..1, "cannot open the model"),
        (&["-p", "x", "--temp", "-1"], 2, 0..1, "--temp is -1"),
        (&["-p", "x", "-n", "1,2"], 2, 0..1, "--predict is given 2 numbers"),
        (&["-f", "/dev/null/absent"], 2, 0..1, "cannot read the prompt"),
        (&["-p", " "], 2, 0..1, "the prompt is empty"),
        (&["-p", &long, "-c", "64"], 4, 100..200, "the prompt has 1"),
        (&[&["-p", "ABC", "-m", &base, "-s", "7"], &biases[..]].concat(), 1, 7..8, "no usable logits"),
    ] {
        let output = with_model().arg("--json").args(args).output().unwrap();
        let done = events(&output).pop().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {done}");
        assert_eq!((&done["event"], &done["finish_reason"]), (&"done".into(), &"error".into()), "{args:?}: {done}");
        assert!(done["error"].as_str().unwrap().contains(expected), "{args:?}: {done}");
        assert!(prompt_tokens.contains(&done["prompt_tokens"].as_u64().unwrap()), "{args:?}: {done}");
        assert_eq!(done["generated_tokens"], 0);
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
}

/// A small model with random weights and no chat template, as a file in `folder`.
fn base_model(folder: &Path) -> String {
    let path = folder.join("base.gguf");
    let config = tiny::config();
    let sized = tiny::with_sizes(GgufBuilder::new(), &config);
    Tiny::plain(config.clone(), 1).with_tensors(tiny::with_vocabulary(sized, config.vocab)).write(&path);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_base_model_is_told_of_but_not_under_quiet() {
    let folder = tempfile::tempdir().unwrap();
    let model = base_model(folder.path());
    let told = |args: &[&str]| {
        let output = taper().args(["-m", &model, "-p", "ABC", "-n", "2"]).args(args).output().unwrap();
        assert!(output.status.success());
        stderr(&output).to_owned()
    };
    assert!(
        told(&[]).starts_with("base is a base model (it has no chat template): the prompt is completed as it stands\n")
    );
    assert_eq!(told(&["-q"]), "");
}

#[test]
fn an_interrupted_answer_ends_with_130_and_says_so_but_not_under_quiet() {
    for (quiet, told) in [("-v", "[interrupted]\n"), ("-q", "")] {
        let mut child = with_model()
            .args([quiet, "--json", "-p", "Tell me a very long story.", "--min-tokens", "4000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap(); // a token: it is answering
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
        assert_eq!(last["finish_reason"], "interrupted");
        assert!(last["generated_tokens"].as_u64().unwrap() > 0 && last.get("error").is_none(), "{last}");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        assert!(
            stderr(&output).ends_with(told) && (quiet == "-v" || stderr(&output).is_empty()),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn without_a_home_a_models_path_is_enough_and_a_name_tells_what_is_missing() {
    let homeless = || {
        let mut command = with_model();
        for name in ["HOME", "XDG_CACHE_HOME", "TAPER_CACHE_DIR", "TAPER_DATA_DIR", "TAPER_CONFIG_DIR"] {
            command.env_remove(name);
        }
        command
    };
    let args = ["-q", "--raw", "--temp", "0", "-n", "2", "-p", "1, 2, 3,"];
    assert_eq!(succeeded(homeless().args(args)), " 4\n");
    assert!(succeeded(homeless().args(["doctor", "-t", "1"])).contains("cache      nowhere: HOME is not set\n"));
    let (code, error) = failed(homeless().args(["-p", "x", "-m", "smollm2-135m"]));
    let expected = "error: cannot tell where the cache folder is: HOME is not set\n  \
                    set HOME, or name the folder itself in TAPER_CACHE_DIR\n";
    assert_eq!((code, &*error), (1, expected));
}

#[test]
fn a_flag_wins_over_another_flags_variable() {
    let mut command = with_model();
    command.env("TAPER_FILE", "/dev/null/absent").env("TAPER_QUIET", "1").env("TAPER_SEED", "");
    let output = command.args(["-v", "--raw", "--temp", "0", "-n", "2", "-p", "1, 2, 3,"]).output().unwrap();
    assert!(stderr(&output).starts_with("info: "), "{}", stderr(&output));
    assert_eq!(stdout(&output), " 4\n");
}

#[test]
fn the_end_of_an_answer_is_told_apart() {
    let run = |args: &[&str]| {
        let output = with_model().args(["--json", "--raw", "--temp", "0"]).args(args).output().unwrap();
        let all = events(&output);
        let text: String = all.iter().filter_map(|e| e["text"].as_str()).collect();
        (text, all.last().unwrap()["finish_reason"].as_str().unwrap().to_owned())
    };
    let counting = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,";
    assert_eq!(run(&["-p", counting, "-n", "7"]), (" 11, 12".into(), "length".into()));
    // A stop text over several tokens, and one that begins like it before.
    assert_eq!(run(&["-p", counting, "-n", "40", "--stop", ", 14"]), (" 11, 12, 13".into(), "stop".into()));
    // Not before the least length.
    let (late, _) = run(&["-p", counting, "-n", "20", "--stop", ",", "--min-tokens", "9"]);
    assert!(late.starts_with(" 11, 12,"), "{late}");
    assert_eq!(run(&["-p", counting, "-n", "0"]), (String::new(), "length".into()));
    // 33 is SmolLM2's "1": forbidden, the count must go another way.
    assert!(!run(&["-p", counting, "-n", "6", "--logit-bias", "33-inf"]).0.starts_with(" 11"));
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let run = |seed: &str| {
        let args = ["-q", "-p", "Tell me a story.", "-n", "24", "--temp", "1", "-s", seed];
        String::from_utf8(with_model().args(args).output().unwrap().stdout).unwrap()
    };
    let first = run("1");
    assert_eq!(first, run("1"));
    assert_ne!(first, run("2"));
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let long = "word ".repeat(100);
    insta::assert_snapshot!(failure(with_model().args(["-c", "64", "--raw", "-p", &long])));
}

#[test]
fn the_context_ends_an_answer_but_never_cuts_the_prompt() {
    let args = ["-c", "32", "--raw", "--json", "--temp", "0", "-p", "1, 2, 3, 4, 5,"];
    let output = with_model().args(args).output().unwrap();
    let done = events(&output).pop().unwrap();
    assert_eq!(done["finish_reason"], "length");
    assert_eq!(done["prompt_tokens"].as_u64().unwrap() + done["generated_tokens"].as_u64().unwrap(), 32);
}

#[test]
fn usage_errors_exit_2_and_say_what_is_possible() {
    for args in [
        &["--temp", "-1", "-p", "x"][..],
        &["--top-p", "2", "-p", "x"],
        &["-p", " "],
        &["-n", "1,2", "-p", "x"],
        &["-f", "/nonexistent/prompt.txt"],
        &["--logit-bias", "x", "-p", "x"],
        &["--no-such-flag"],
        &["-n", "2", "-n", "0", "-p", "x"],
        &["-s", "-2", "-p", "x"],
        &["-m", "x", "tokenize"],
        &["run", "smollm2"],
        &["-p", "hi", "there"],
        &["--bench", "--json"],
        &["-sysfoo"],
        &["--bench", "-p", "hello"],
        &["--bench", "-p", "0", "-n", "0"],
    ] {
        let failure = failure(taper().args(args));
        insta::assert_snapshot!(format!("usage {}", args.join(" ").replace('/', "_")), failure);
        assert!(failure.starts_with("exit 2\n"), "{failure}");
    }
}

#[test]
fn model_errors_exit_3_and_say_what_to_do() {
    let temp = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let path = |name: &str| temp.path().join(name);
    std::fs::write(path("empty.gguf"), b"").unwrap();
    std::fs::write(path("text.gguf"), b"this is no model").unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    GgufBuilder::new().str("general.architecture", "gemma3").write(&path("gemma.gguf"));
    for name in ["absent.gguf", "empty.gguf", "text.gguf", "folder", "gemma.gguf"] {
        let failure = failure(taper().arg("-p").arg("x").arg("-m").arg(path(name)));
        let failure = failure.replace(&*temp.path().file_name().unwrap().to_string_lossy(), "DIR");
        insta::assert_snapshot!(format!("model {name}"), failure);
        assert!(failure.starts_with("exit 3\n"), "{failure}");
    }
    for name in ["no-such-model", "smollm2-135m", "smolm2-135m", "smollm2-135m:latest", ""] {
        let failure = failure(taper().args(["-p", "x", "-m", name]));
        insta::assert_snapshot!(format!("model {name}").replace(':', "_"), failure);
        assert!(failure.starts_with("exit 3\n"), "{failure}");
    }
}

#[test]
fn a_context_that_cannot_fit_in_memory_exits_4() {
    let failure = failure(with_model().args(["-c", "100000000", "-p", "x"]));
    assert!(failure.starts_with("exit 4\nerror: the model needs "), "{failure}");
    assert!(
        failure.contains(" with a context of 100000000 ")
            && failure.contains("are available")
            && failure.contains("--ctx-size"),
        "{failure}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = with_model()
        .args(["-p", "Count to a hundred.", "--temp", "0", "-n", "200"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
#[cfg(target_os = "linux")]
fn help_that_cannot_be_written_is_an_error() {
    for args in [&["--help"][..], &["-h"], &["--version"], &["models", "--help"], &["help", "doctor"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = taper().args(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).starts_with("error: cannot write the output: No space left"), "{}", stderr(&output));
    }
}

#[test]
fn tokenize_reads_bytes_and_prints_one_json_array() {
    let ids = |args: &[&str], input: &[u8]| {
        let output = piped(with_model().arg("tokenize").args(args), input);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str::<Vec<u32>>(stdout(&output)).unwrap()
    };
    assert_eq!(ids(&[], b"<|im_end|>"), [2]);
    assert!(ids(&["--no-special"], b"<|im_end|>").len() > 1);
    assert_eq!(ids(&[], b""), [0u32; 0]);
    // Every byte counts: the last newlines, a NUL, bytes that are not UTF-8.
    assert_ne!(ids(&[], b"a\n"), ids(&[], b"a\n\n"));
    assert!(!ids(&["--no-special"], b"\x00\xff\xfe a").is_empty());
}

#[test]
fn perplexity_is_llama_perplexitys() {
    let golden: Value = serde_json::from_str(include_str!("data/perplexity.json")).unwrap();
    // The exact one: flash attention in f32 rounds a little.
    let golden = &golden["f32_no_flash_attention"];
    let output = with_model()
        .args([
            "perplexity",
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/text/prose.txt"),
            "-c",
            "512",
            "-o",
            "json",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let ours: Value = serde_json::from_str(stdout(&output)).unwrap();
    let relative = |name: &str| {
        let (a, b) = (ours[name].as_f64().unwrap(), golden[name].as_f64().unwrap());
        (a - b).abs() / b
    };
    assert!(relative("perplexity") < 1e-3, "{ours} {golden}");
    assert!(relative("stderr") < 1e-3, "{ours} {golden}");
    assert_eq!(ours["chunks"], golden["chunks"]);
    assert_eq!(ours["tokens"], golden["chunks"].as_u64().unwrap() * 255);
}

#[test]
fn the_benchmark_measures_and_checks_itself() {
    let output = with_model().args(["--bench", "-p", "8", "-n", "4", "-r", "2", "-o", "json"]).output().unwrap();
    let rows: Vec<Value> = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(rows.iter().map(|r| r["test"].as_str().unwrap()).collect::<Vec<_>>(), ["pp8", "tg4"]);
    for row in &rows {
        assert!(row["tokens_per_second"]["mean"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["size_bytes"], 96_576_768);
        assert_eq!(row["n_params"], 134_515_008);
    }
    assert!(rows[1]["gigabytes_per_second"].as_f64().unwrap() > 0.0);
    // The ids of " 11, 12, 13, 14,": known from llama.cpp's golden of the same kind.
    assert_eq!(rows[0]["output_hash"], rows[1]["output_hash"]);
    insta::assert_snapshot!(rows[0]["output_hash"].as_str().unwrap());
}

#[test]
#[cfg(target_os = "linux")]
fn the_binary_needs_only_the_c_library() {
    let binary = taper().get_program().to_owned();
    let output = Command::new("ldd").arg(binary).output().unwrap();
    let allowed = ["linux-vdso.", "libc.", "libm.", "libgcc_s.", "ld-linux"];
    for line in stdout(&output).lines() {
        assert!(allowed.iter().any(|name| line.contains(name)), "{line}");
    }
    assert!(stdout(&output).contains("libc."));
}

#[test]
fn the_divergence_of_the_cpu_backend_is_small_and_of_the_reference_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, &include_bytes!("data/text/prose.txt")[..1500]).unwrap();
    let divergence = |device: &str| -> Value {
        let mut taper = taper();
        taper
            .args(["perplexity", "--kl", "-c", "128", "-o", "json", "--device", device])
            .arg("-m")
            .arg(common::smollm2());
        let json: Value = serde_json::from_str(&succeeded(taper.arg("-f").arg(&text))).unwrap();
        json["divergence"].clone()
    };
    let (cpu, reference) = (divergence("cpu"), divergence("reference"));
    assert!(reference["mean"].as_f64().unwrap().abs() < 1e-8 && reference["same_likeliest"] == 1.0, "{reference}");
    let mean = cpu["mean"].as_f64().unwrap();
    assert!(mean > 1e-4 && mean < 0.015, "{cpu}");
    assert!(cpu["percentile_99"].as_f64().unwrap() > mean && cpu["same_likeliest"].as_f64().unwrap() > 0.9, "{cpu}");

    let mut bench = taper();
    bench
        .args(["--bench", "--check", "--device", "cpu", "-p", "0", "-n", "1", "-r", "1"])
        .arg("-m")
        .arg(common::smollm2());
    let table = succeeded(&mut bench);
    assert!(table.contains("Divergence from the reference over 225 tokens: 0.0"), "{table}");
}
