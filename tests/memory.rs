//! `--estimate-memory` against what the real binary takes, and synthetic models of every size.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::program::{failed, succeeded, taper};
use serde_json::Value;

fn estimate(model: &str, device: &str, context: usize) -> Value {
    estimate_with(model, &["--device", device], context)
}

fn estimate_with(model: &str, how: &[&str], context: usize) -> Value {
    let context = context.to_string();
    let args = ["-m", model, "--estimate-memory", "-c", &context, "-o", "json"];
    serde_json::from_str(&succeeded(taper().args(args).args(how))).unwrap()
}

fn of(estimate: &Value, name: &str) -> u64 {
    estimate[name].as_u64().unwrap()
}

/// Bytes of the largest memory that answering took, and the last line of its JSON.
#[cfg(target_os = "linux")]
fn peak(model: &str, how: &[&str], context: usize, prompt: &str) -> (u64, Value) {
    let size = context.to_string();
    // End tokens do not count, so the answer ends with the context.
    let args = ["-m", model, "-c", &size, "--raw", "--json", "--temp", "0"];
    let mut child = taper()
        .args(args)
        .args(how)
        .args(["--min-tokens", "100000", "-p", prompt])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    // The high-water mark only grows, and is reached with the last of the prompt, well before the end.
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
        peak = peak.max(mark.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let last = String::from_utf8(output.stdout).unwrap().lines().last().map(str::to_owned).unwrap();
    (peak, serde_json::from_str(&last).unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn the_estimate_is_within_five_percent_of_the_measured_peak() {
    let smollm2 = common::smollm2().display().to_string();
    // A word is one token of SmolLM2, and six bytes to a vocabulary that knows no words.
    let synth = ("synth:smollm2-135m:q8_0", 6);
    let (reference, cpu) = (&["--device", "reference"][..], &["--device", "cpu"][..]);
    let small = &["--device", "cpu", "--optimize-memory"][..];
    let both = &[128, 1024][..];
    let mut cases = vec![(smollm2.as_str(), 1, reference, both), (smollm2.as_str(), 1, cpu, both)];
    // At a short context it takes less than the file's pages and the packed weights together while those are made.
    cases.push((smollm2.as_str(), 1, small, &both[1..]));
    cases.extend([reference, cpu].map(|how| (synth.0, synth.1, how, both)));
    cases.push(("synth:smollm2-135m:f16", 6, cpu, both));
    if std::env::var_os("TAPER_SOAK").is_some() {
        cases.push(("synth:tinyllama-1.1b", 6, reference, both));
    }
    for (model, tokens_a_word, how, contexts) in cases {
        for &context in contexts {
            let estimate = estimate_with(model, how, context);
            let prompt = " one".repeat((context - 24) / tokens_a_word);
            let (peak, done) = peak(model, how, context, &prompt);
            let used = done["prompt_tokens"].as_u64().unwrap() + done["generated_tokens"].as_u64().unwrap();
            assert_eq!(used, context as u64, "{model}: the whole context is used");
            let estimated = estimate["total_bytes"].as_u64().unwrap();
            let off = (estimated as f64 - peak as f64) / peak as f64;
            println!("{model}, {how:?}, context {context}: estimated {estimated}, peak {peak}, {:+.1} %", 100.0 * off);
            assert!(off.abs() < 0.05, "{model}, {how:?}, context {context}: estimated {estimated}, measured {peak}");
        }
    }
}

#[test]
fn an_estimate_adds_up_and_names_the_longest_context_that_fits() {
    let small = estimate("synth:llama-3.1-8b:q4_k_m", "reference", 1024);
    let parts = ["weights_bytes", "kv_bytes", "workspace_bytes", "program_bytes"];
    assert_eq!(of(&small, "total_bytes"), parts.iter().map(|part| of(&small, part)).sum::<u64>());
    assert_eq!(of(&small, "weights_bytes"), 4 * 8_030_261_248);
    // 32 layers of 8 heads of 128 numbers, keys and values in f32.
    assert_eq!(of(&small, "kv_bytes"), 1024 * 32 * 2 * 1024 * 4);
    assert_eq!(small["fits"], of(&small, "total_bytes") <= of(&small, "available_bytes"));

    let huge = estimate("synth:smollm2-135m", "reference", 1_000_000_000);
    assert_eq!((&huge["fits"], &huge["batch"]), (&false.into(), &64.into()));
    assert!(of(&huge, "longest_context") <= 8192, "{huge}");
    let table = succeeded(taper().args(["-m", "synth:smollm2-135m", "-c", "1000000000", "--estimate-memory"]));
    assert!(table.contains("| KV cache, f32 | ") && table.contains("It does not fit: "), "{table}");
}

#[test]
fn a_model_of_the_registry_is_estimated_from_its_shape_before_its_download() {
    let three = estimate("llama3.2", "reference", 4096);
    let name = |estimate: &Value| estimate["model"].as_str().unwrap().to_owned();
    assert_eq!((name(&three), of(&three, "weights_bytes")), ("llama-3.2-3b-instruct".to_owned(), 4 * 3_212_749_824));

    let here = estimate(common::smollm2().to_str().unwrap(), "cpu", 4096);
    let absent = estimate("smollm2-135m", "cpu", 4096);
    for part in ["weights_bytes", "kv_bytes", "workspace_bytes", "total_bytes"] {
        let off = of(&absent, part) as f64 / of(&here, part) as f64 - 1.0;
        // The file keeps its head in eight bits, the shape has all in four.
        assert!(off.abs() < 0.15, "{part}: {here} {absent}");
    }

    let output = taper().args(["-m", "tinyllama", "--estimate-memory"]).output().unwrap();
    let (table, note) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(note.contains("tinyllama-1.1b-chat is not on this machine: the estimate is from its shape"), "{note}");
    assert!(table.starts_with("tinyllama-1.1b-chat, reference backend, context 2048, "), "{table}");
    let (code, error) = failed(taper().args(["-m", "all-minilm-l6-v2", "--estimate-memory"]));
    assert!(code == 3 && error.contains("is not a chat model"), "{error}");
}

#[test]
fn what_does_not_fit_exits_4_with_both_numbers_before_a_weight_is_made() {
    let start = Instant::now();
    let (code, error) = failed(taper().args(["-m", "synth:70b:q4_k_m", "-c", "100000000", "-p", "x"]));
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("error: the model needs ") && error.contains(" weights, "), "{error}");
    assert!(error.contains("are available") && error.contains("synth:llama-2-70b:q4_k_m"), "{error}");
    // Making 40 GB takes longer than this on any machine.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn the_longest_context_that_can_be_counted_is_estimated_and_refused_like_any_that_does_not_fit() {
    let most = i32::MAX.to_string();
    let (code, error) = failed(taper().args(["-m", "synth:smollm2-135m", "-c", &most, "-p", "x"]));
    assert!(code == 4 && error.contains("are available"), "{error}");
    let args = ["-m", "synth:smollm2-135m", "-c", &most, "--estimate-memory"];
    assert!(succeeded(taper().args(args)).contains("It does not fit"));
}

#[test]
fn a_synthetic_model_is_measured_like_any_other() {
    let args = ["-m", "synth:smollm2-135m", "--bench", "-p", "4", "-n", "2", "-r", "1", "-o", "json"];
    let rows: Vec<Value> = serde_json::from_str(&succeeded(taper().args(args))).unwrap();
    for row in &rows {
        assert_eq!(row["model"], "synth:smollm2-135m:q4_0");
        assert_eq!(row["n_params"], 134_515_008);
        // All matrices at 18 bytes for 32 numbers, 61 norms of 576 in f32.
        assert_eq!(row["size_bytes"], (134_515_008 - 61 * 576) / 32 * 18 + 61 * 576 * 4);
        assert!(row["tokens_per_second"]["mean"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_shape_or_type_that_is_not_there_exits_3_with_those_that_are() {
    let (code, error) = failed(taper().args(["-m", "synth:gpt-4", "-p", "x"]));
    assert!(code == 3 && error.contains("`gpt-4` is no shape") && error.contains("llama-2-70b"), "{error}");
    let (code, error) = failed(taper().args(["-m", "synth:7b:q2", "--estimate-memory"]));
    assert!(code == 3 && error.contains("`q2` is no type") && error.contains("q4_k_m"), "{error}");
}
