//! Token ids against llama.cpp's, for five vocabularies and thousands of strings (tests/data/tokens).
//!
//! The vocabularies are not in the repository: `make test` fetches them and says where they are.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod common;

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use taper::format::gguf::{Gguf, Metadata};
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
    let path = match name {
        "smollm" => common::smollm2(),
        _ => common::vocabularies().join(format!("ggml-vocab-{name}.gguf")),
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

/// The tokenizer of a GGUF file as a Hugging Face folder, loaded again.
fn through_folder(name: &str) -> Tokenizer {
    let meta = vocabulary(name).metadata;
    let texts = meta.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let kinds = meta.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    let vocab: HashMap<&str, usize> = texts.iter().copied().zip(0..).collect();
    let added: Vec<Value> = (0..texts.len())
        .filter(|&id| matches!(kinds[id], 2..=4))
        .map(|id| json!({"id": id, "content": texts[id], "special": kinds[id] != 4}))
        .collect();
    let special = |key: &str| texts[meta.u32(key).unwrap().unwrap() as usize];
    let bos = special("tokenizer.ggml.bos_token_id");
    let template =
        json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": bos}}, {"Sequence": {"id": "A"}}]});
    let mut file = if name == "llama-spm" { sentencepiece(&meta, &texts, &kinds) } else { byte_level(name, &meta) };
    file["model"]["vocab"] = json!(vocab);
    file["added_tokens"] = json!(added);
    file["post_processor"] = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]});

    let folder = tempfile::tempdir().unwrap();
    let mut config = json!({"bos_token": bos, "eos_token": {"content": special("tokenizer.ggml.eos_token_id")}});
    if name == "smollm" {
        config["add_bos_token"] = json!(false); // against the template above
    }
    let end_ids = json!({"eos_token_id": Tokenizer::from_gguf(&meta, None).unwrap().end_tokens()});
    for (file, content) in
        [("tokenizer.json", file), ("tokenizer_config.json", config), ("generation_config.json", end_ids)]
    {
        std::fs::write(folder.path().join(file), content.to_string()).unwrap();
    }
    Tokenizer::from_folder(folder.path()).unwrap()
}

/// The parts of tokenizer.json as the models' makers published them.
fn byte_level(name: &str, meta: &Metadata) -> Value {
    let byte_level = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let pre_tokenizers = match name {
        "smollm" => json!([{"type": "Digits", "individual_digits": true}, byte_level(true)]),
        "llama-bpe" => {
            let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
            json!([{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}, byte_level(false)])
        }
        "gpt-2" => json!([byte_level(true)]),
        other => panic!("no pre-tokenizer for {other}"),
    };
    let merges = meta.strings("tokenizer.ggml.merges").unwrap().unwrap();
    // Both ways of writing merges.
    let merges = match name {
        "gpt-2" => json!(merges),
        _ => json!(merges.iter().map(|m| m.split(' ').collect::<Vec<_>>()).collect::<Vec<_>>()),
    };
    json!({
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "merges": merges, "ignore_merges": name == "llama-bpe"}
    })
}

/// Llama 2's tokenizer.json, with merges made from the scores as Hugging Face's converter makes them: every way to
/// write a token as two others, best token first.
fn sentencepiece(meta: &Metadata, texts: &[&str], kinds: &[i32]) -> Value {
    let scores = meta.f32s("tokenizer.ggml.scores").unwrap().unwrap();
    let ids: HashMap<&str, usize> = texts.iter().copied().zip(0..).filter(|&(_, id)| kinds[id] == 1).collect();
    let mut merges = Vec::new();
    for &text in texts.iter().filter(|text| ids.contains_key(*text)) {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut ways: Vec<_> = cuts.filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?))).collect();
        ways.sort_unstable();
        merges.extend(ways.into_iter().map(|(l, r)| (scores[ids[text]], [texts[l], texts[r]])));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        ]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "merges": merges.into_iter().map(|(_, merge)| merge).collect::<Vec<_>>()
        }
    })
}

#[test]
fn a_tokenizer_json_gives_the_ids_of_the_gguf() {
    for name in ["smollm", "llama-bpe", "gpt-2", "llama-spm"] {
        let (gguf, folder) = (tokenizer(name), through_folder(name));
        compare(name, |row| folder.encode(&row.text, Specials::Plain).unwrap());
        if name != "gpt-2" {
            for row in rows(&format!("{name}-special")) {
                assert_eq!(
                    folder.encode_prompt(&row.text).unwrap(),
                    gguf.encode_prompt(&row.text).unwrap(),
                    "{}",
                    row.text
                );
            }
        }
        assert_eq!((folder.bos(), folder.eos(), folder.end_tokens()), (gguf.bos(), gguf.eos(), gguf.end_tokens()));
        for id in 0..gguf.vocab_len() as u32 {
            assert_eq!(folder.token_bytes(id), gguf.token_bytes(id), "{name} {id}");
            assert_eq!(folder.is_control(id), gguf.is_control(id), "{name} {id}");
        }
    }
}
