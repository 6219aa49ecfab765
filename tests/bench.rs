//! The benchmark, run by the real binary: its rows, its three forms, what it refuses.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use common::program::{failed, succeeded, taper};
use serde_json::Value;

fn rows(args: &[&str]) -> Vec<Value> {
    let text = succeeded(taper().arg("-m").arg(common::smollm2()).args(["--bench", "-o", "json"]).args(args));
    serde_json::from_str(&text).unwrap()
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["test"].as_str().unwrap()).collect()
}

#[test]
fn lists_of_lengths_and_depths_give_a_row_each_with_the_documented_keys() {
    // 40 is no whole number of pages: what of it no page shares is computed with the prompt.
    let rows = rows(&["-p", "8,16", "-n", "4", "-d", "0,40", "-r", "1", "-t", "1000"]);
    assert_eq!(names(&rows), ["pp8", "pp16", "tg4", "pp8 @ d40", "pp16 @ d40", "tg4 @ d40"]);
    let keys = [
        "model",
        "size_bytes",
        "n_params",
        "backend",
        "threads",
        "kv_type",
        "flash_attention",
        "test",
        "tokens_per_second",
        "gigabytes_per_second",
        "bandwidth_fraction",
        "output_hash",
    ];
    let cores = std::thread::available_parallelism().unwrap().get(); // more threads would wait for them
    for row in &rows {
        assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
        let number = |value: &Value| value.as_f64().unwrap();
        let rate = &row["tokens_per_second"];
        assert!(
            number(&rate["mean"]) > 0.0 && number(&rate["median"]) > 0.0 && number(&rate["stddev"]) >= 0.0,
            "{row}"
        );
        let fraction = number(&row["bandwidth_fraction"]);
        assert!(fraction > 0.0 && fraction < 2.0, "{row}");
        assert_eq!((&row["threads"], &row["output_hash"]), (&cores.into(), &rows[0]["output_hash"]));
    }
    // The file's bytes: all tensors are read for a token (the head is the embedding), beside one row of 576 numbers in
    // Q8_0 and, 1.5 tokens on average, the 46,080 bytes of a token's keys and values in f32.
    let of = |name: &str| rows.iter().find(|row| row["test"] == name).unwrap();
    let bytes = |row: &Value| {
        row["gigabytes_per_second"].as_f64().unwrap() * 1e9 / row["tokens_per_second"]["mean"].as_f64().unwrap()
    };
    assert!((bytes(of("tg4")) - (96_576_768.0 + 612.0 + 1.5 * 46_080.0)).abs() < 1.0, "{}", bytes(of("tg4")));
    assert!((bytes(of("tg4 @ d40")) - bytes(of("tg4")) - 40.0 * 46_080.0).abs() < 1.0);
}

#[test]
fn csv_is_a_header_and_a_line_a_row() {
    let text = succeeded(
        taper().arg("-m").arg(common::smollm2()).args(["--bench", "-p", "0", "-n", "2", "-r", "1", "-o", "csv"]),
    );
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0].len()), (2, lines[1].len()));
    assert_eq!(
        &lines[0][7..11],
        ["test", "tokens_per_second_mean", "tokens_per_second_stddev", "tokens_per_second_median"]
    );
    assert_eq!(lines[1][7], "tg2");
    assert!(lines[1][8].parse::<f64>().unwrap() > 0.0);
}

#[test]
fn five_kinds_of_prompts_are_measured_prefill_and_decode_apart() {
    let rows = rows(&["--prompts", "-n", "3", "-r", "1"]);
    let kinds: Vec<&str> = rows.iter().map(|row| row["prompt"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["short factual", "scientific explanation", "poem", "simple retrieval", "literature summary"]);
    for row in &rows {
        assert!(row["prefill_tokens_per_second"]["mean"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["decode_tokens_per_second"]["mean"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["generated_tokens"], 3);
    }
    let tokens: Vec<u64> = rows.iter().map(|row| row["prompt_tokens"].as_u64().unwrap()).collect();
    assert_eq!((tokens.iter().min(), tokens.iter().max()), (tokens.first(), tokens.last()), "{tokens:?}");
}

#[test]
fn the_measured_bandwidth_is_kept_for_the_line_after_an_answer() {
    let cache = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = taper();
        command.env("TAPER_CACHE_DIR", cache.path()).arg("-m").arg(common::smollm2()).args(args);
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let answer = ["--raw", "-p", "1, 2, 3,", "-n", "3", "-t", "2", "-s", "7"];
    let before = run(&answer);
    assert!(before.contains(" t/s | seed 7 ]"), "{before}");
    run(&["--bench", "-p", "1", "-n", "0", "-r", "1", "-t", "2"]);
    let after = run(&answer);
    assert!(after.contains(" GB/s, ") && after.contains(" % of memory bandwidth | seed 7 ]"), "{after}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_the_model_is_loaded() {
    for (args, expected) in [
        (&["--bench", "-p", "8,x"][..], "under --bench, -p takes lengths in tokens"),
        (&["--bench", "-p", "What is this?"], "for example -p 128,512"),
        (&["--bench", "-n", "4,-1"], "under --bench, -n takes lengths in tokens"),
        (&["--bench", "-p", "99999999999"], "under --bench, -p takes lengths in tokens"),
        (&["--bench", "-p", "0", "-n", "0", "-d", "0,8"], "leaves nothing to measure"),
        (&["--bench", "--prompts", "-p", "8"], "--prompts has its own prompts"),
        (&["--bench", "--prompts", "-d", "8"], "leave -d out"),
        (&["--bench", "--prompts", "-n", "1,2"], "one length of at least 2 tokens"),
        (&["-p", "x", "-d", "8"], "--bench"),
        (&["-p", "x", "--prompts"], "--bench"),
    ] {
        let (code, error) = failed(taper().args(["-m", "no-such-model"]).args(args));
        assert!(code == 2 && error.contains(expected), "{args:?}: {code} {error}");
    }
}
