//! Token ids against llama.cpp's, for five vocabularies and thousands of strings (tests/data/tokens).
//!
//! The vocabularies are not in the repository: `make test` fetches them and says where they are.

use std::path::PathBuf;

use serde::Deserialize;
use taper::format::gguf::Gguf;
use taper::text::{Specials, Tokenizer};

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    text: String,
    #[serde(default)]
    hex: String,
    ids: Vec<u32>,
}

fn vocabulary(name: &str) -> Gguf {
    let find = |variable: &str| {
        let value = std::env::var_os(variable);
        PathBuf::from(value.unwrap_or_else(|| panic!("{variable} is not set: run `make test`, which fetches the vocabularies")))
    };
    let path = match name {
        "smollm" => find("TAPER_TEST_MODEL"),
        _ => find("TAPER_TEST_VOCABS").join(format!("ggml-vocab-{name}.gguf")),
    };
    Gguf::open(&path).unwrap()
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(&vocabulary(name).metadata, None).unwrap()
}

fn rows(file: &str) -> Vec<Row> {
    let path = format!("{}/tests/data/tokens/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let rows: Vec<Row> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!rows.is_empty());
    rows
}

/// Compares all rows and shows the first differences.
fn compare(file: &str, encode: impl Fn(&Row) -> Vec<u32>) {
    let rows = rows(file);
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let ids = encode(row);
            (ids != row.ids).then(|| format!("{:?}{}\n  expected {:?}\n  got      {ids:?}", row.text, row.hex, row.ids))
        })
        .collect();
    let shown = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{file}: {} of {} differ\n{shown}", wrong.len(), rows.len());
}

fn plain(name: &str) {
    let tokenizer = tokenizer(name);
    compare(name, |row| tokenizer.encode(&row.text, Specials::Plain).unwrap());
}

#[test]
fn smollm_ids_equal_llama_cpps() {
    plain("smollm");
}

#[test]
fn llama_spm_ids_equal_llama_cpps() {
    plain("llama-spm");
}

#[test]
fn llama_bpe_ids_equal_llama_cpps() {
    plain("llama-bpe");
}

#[test]
fn gpt2_ids_equal_llama_cpps() {
    plain("gpt-2");
}

#[test]
fn qwen2_ids_equal_llama_cpps() {
    plain("qwen2");
}

/// A prompt that begins with BOS gets a second one from llama.cpp, which warns about it. Ours has one.
#[test]
fn prompts_with_control_tokens_equal_llama_cpps_but_for_a_doubled_bos() {
    for name in ["smollm", "llama-spm", "llama-bpe"] {
        let tokenizer = tokenizer(name);
        compare(&format!("{name}-special"), |row| {
            let mut ids = tokenizer.encode_prompt(&row.text).unwrap();
            let bos = tokenizer.bos().unwrap();
            if row.ids.starts_with(&[bos, bos]) && row.ids[1..] == ids {
                ids.insert(0, bos);
            }
            ids
        });
    }
}

#[test]
fn bytes_that_are_not_utf8_give_llama_cpps_ids() {
    for name in ["smollm", "llama-spm"] {
        let tokenizer = tokenizer(name);
        compare(&format!("{name}-bytes"), |row| {
            let digits: Vec<char> = row.hex.chars().collect();
            let bytes = digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap());
            tokenizer.encode_bytes(&bytes.collect::<Vec<_>>(), Specials::Plain).unwrap()
        });
    }
}
