//! Tokenizers from files that are odd, damaged or hostile; ids are compared in `tokenizer_golden.rs`.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "tokenizer/any_vocabulary.rs"]
mod any_vocabulary;

mod common;

use std::cell::Cell;
use std::time::{Duration, Instant};

use common::gguf_builder::GgufBuilder;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use taper::error::Result;
use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::text::{Detokenizer, Specials, Tokenizer};

/// GGUF's numbers for kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

fn load(file: &GgufBuilder, pre: Option<&str>) -> Result<Tokenizer> {
    Tokenizer::from_gguf(&Gguf::parse(&Mapping::from_bytes(file.bytes(), "test.gguf")).unwrap().metadata, pre)
}

fn refusal(file: &GgufBuilder) -> String {
    load(file, None).unwrap_err().to_string()
}

/// Byte-level BPE with one merge, "a" + "b".
fn byte_level() -> GgufBuilder {
    byte_level_with(
        &[("<|im_end|>", CONTROL), ("a", NORMAL), ("b", NORMAL), ("ab", NORMAL), ("<x>", USER_DEFINED)],
        &["a b"],
    )
}

fn byte_level_with(tokens: &[(&str, i32)], merges: &[&str]) -> GgufBuilder {
    let (texts, kinds): (Vec<&str>, Vec<i32>) = tokens.iter().copied().unzip();
    GgufBuilder::new()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .strings("tokenizer.ggml.merges", merges)
}

fn sentencepiece_with(tokens: &[(&str, i32, f32)]) -> GgufBuilder {
    GgufBuilder::new()
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &tokens.iter().map(|t| t.0).collect::<Vec<_>>())
        .i32s("tokenizer.ggml.token_type", &tokens.iter().map(|t| t.1).collect::<Vec<_>>())
        .f32s("tokenizer.ggml.scores", &tokens.iter().map(|t| t.2).collect::<Vec<_>>())
}

/// Llama 2's layout: unknown, BOS, EOS, then the rest.
const SENTENCEPIECE: &[(&str, i32, f32)] = &[
    ("<unk>", UNKNOWN, 0.0),
    ("<s>", CONTROL, 0.0),
    ("</s>", CONTROL, 0.0),
    ("<0x41>", BYTE, 0.0),
    ("▁", NORMAL, -1.0),
    ("b", NORMAL, -2.0),
    ("▁b", NORMAL, -3.0),
    ("<s", NORMAL, -4.0),
    (">", NORMAL, -5.0),
    ("<", NORMAL, -6.0),
    ("s", NORMAL, -7.0),
];

fn vocabulary(name: &str) -> Tokenizer {
    let path = match name {
        "smollm" => common::smollm2(),
        _ => common::vocabularies().join(format!("ggml-vocab-{name}.gguf")),
    };
    Tokenizer::from_gguf(&Gguf::open(&path).unwrap().metadata, None).unwrap()
}

fn written(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect()
}

#[test]
fn contradictions_in_the_file_are_named() {
    let base = || GgufBuilder::new().str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "gpt-2");
    let two = ["a", "b"];
    let spm = |tokens: &[(&str, i32, f32)]| sentencepiece_with(&[&SENTENCEPIECE[..3], tokens].concat());
    let cases = [
        (GgufBuilder::new(), "no `tokenizer.ggml.model`"),
        (GgufBuilder::new().str("tokenizer.ggml.model", "bert"), "kind `bert`"),
        (base(), "no `tokenizer.ggml.tokens`"),
        (base().strings("tokenizer.ggml.tokens", &two), "no `tokenizer.ggml.merges`"),
        (base().u32("tokenizer.ggml.tokens", 1), "`tokenizer.ggml.tokens` is not an array of strings"),
        (
            base().strings("tokenizer.ggml.tokens", &two).i32s("tokenizer.ggml.token_type", &[1]),
            "2 tokens, but 1 token types",
        ),
        (byte_level_with(&[("a", NORMAL), ("a", NORMAL)], &[]), "tokens 0 and 1 are both `a`"),
        (byte_level_with(&[("a", NORMAL), ("b", NORMAL)], &["a b"]), "names `ab`, which is not in the vocabulary"),
        (byte_level_with(&[("a", NORMAL)], &["aaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbb"]), "not in the vocabulary"),
        (byte_level_with(&[("a", NORMAL)], &["aa"]), "`aa`, not two tokens"),
        (byte_level_with(&[("a", NORMAL)], &[""]), "not two tokens"),
        (byte_level_with(&[("<0xG1>", BYTE)], &[]), "marked as a byte but reads `<0xG1>`"),
        (byte_level_with(&[("é", BYTE)], &[]), "marked as a byte"),
        (byte_level().u32("tokenizer.ggml.eos_token_id", 5), "end token has the id 5, but the vocabulary has 5 tokens"),
        (byte_level().u32("tokenizer.ggml.bos_token_id", u32::MAX), "beginning token has the id 4294967295"),
        (byte_level().u32("tokenizer.ggml.eot_token_id", 99), "end token has the id 99"),
        (sentencepiece_with(SENTENCEPIECE).str("tokenizer.ggml.add_bos_token", "yes"), "not true or false"),
        (spm(&[("a", NORMAL, f32::NAN)]), "score of token 3 is not a number"),
        (
            sentencepiece_with(&[("a", NORMAL, 0.0), ("b", CONTROL, 0.0)]).u32("tokenizer.ggml.unknown_token_id", 9),
            "id 9",
        ),
    ];
    for (file, says) in cases {
        let message = refusal(&file);
        assert!(message.contains(says), "expected {says}: {message}");
        assert!(message.contains("test.gguf"), "{message}");
    }
    let no_scores = GgufBuilder::new().str("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", &["a"; 1]);
    assert!(refusal(&no_scores).contains("no `tokenizer.ggml.scores`"));
    let short = no_scores.strings("x", &["y"]).f32s("tokenizer.ggml.scores", &[0.0, 0.0]);
    assert!(refusal(&short).contains("1 tokens, but 2 scores"));
}

#[test]
fn an_unknown_pretokenizer_is_refused_and_can_be_overridden() {
    let tokens =
        || GgufBuilder::new().str("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", &["1", "2", "12"]);
    let file = tokens().strings("tokenizer.ggml.merges", &["1 2"]);
    assert!(refusal(&file).contains("--pre NAME"));
    let file = file.str("tokenizer.ggml.pre", "klingon");
    assert!(refusal(&file).contains("`klingon`"));
    let ids = |pre| load(&file, Some(pre)).unwrap().encode("12", Specials::Plain).unwrap();
    assert_eq!(ids("gpt-2"), [2]);
    assert_eq!(ids("smollm"), [0, 1]);
}

#[test]
fn control_tokens_count_only_where_they_are_wanted_and_user_defined_ones_always() {
    let tokenizer = load(&byte_level(), None).unwrap();
    let text = "ab<|im_end|>a<x>b";
    assert_eq!(tokenizer.encode(text, Specials::Parse).unwrap(), [3, 0, 1, 4, 2]);
    let plain = tokenizer.encode(text, Specials::Plain).unwrap();
    assert_eq!(plain, [3, 1, 4, 2], "this vocabulary cannot spell the rest");
}

/// llama.cpp would merge "<s" and ">" here, since it looks up merged text among all tokens.
#[test]
fn plain_text_is_never_merged_into_a_control_token() {
    let spm = load(&sentencepiece_with(SENTENCEPIECE).bool("tokenizer.ggml.add_space_prefix", false), None).unwrap();
    assert_eq!(spm.encode("<s>", Specials::Plain).unwrap(), [7, 8]);
    assert_eq!(spm.encode("<s>", Specials::Parse).unwrap(), [1]);
    let tokens = [("a", NORMAL), ("b", NORMAL), ("ab", CONTROL)];
    let bpe = load(&byte_level_with(&tokens, &["a b"]), Some("llama-bpe")).unwrap();
    assert_eq!(bpe.encode("ab", Specials::Plain).unwrap(), [0, 1]);
}

#[test]
fn of_equal_scores_the_leftmost_pair_is_merged_first() {
    let ids = |tokens: &[(&str, i32, f32)], text| {
        let file = sentencepiece_with(&[&SENTENCEPIECE[..3], tokens].concat());
        let tokenizer = load(&file.bool("tokenizer.ggml.add_space_prefix", false), None).unwrap();
        tokenizer.encode(text, Specials::Plain).unwrap()
    };
    let run = [("a", NORMAL, -1.0), ("aa", NORMAL, -2.0), ("aaa", NORMAL, 0.0)];
    assert_eq!(ids(&run, "aaaaa"), [5, 4]);
    // Zeros are equal whatever their signs.
    let zeros = [("a", NORMAL, -1.0), ("b", NORMAL, -1.0), ("ab", NORMAL, -0.0), ("ba", NORMAL, 0.0)];
    assert_eq!(ids(&zeros, "aba"), [5, 3]);
}

#[test]
fn what_has_no_token_becomes_bytes_or_the_unknown_token() {
    let tokenizer = load(&sentencepiece_with(SENTENCEPIECE), None).unwrap();
    assert_eq!(tokenizer.encode("bAé b", Specials::Plain).unwrap(), [6, 3, 0, 0, 6]);
    assert_eq!(written(&tokenizer, &[6, 3, 0, 1, 999]), b" bA");
}

#[test]
fn bos_and_eos_are_added_as_the_file_says_and_never_twice() {
    let prompt = |file: &GgufBuilder, text| load(file, None).unwrap().encode_prompt(text).unwrap();
    let spm = sentencepiece_with(SENTENCEPIECE);
    assert_eq!(prompt(&spm, "b"), [1, 6]);
    assert_eq!(prompt(&spm, "<s>b"), [1, 6]);
    assert_eq!(prompt(&spm, ""), [1]);
    let both = spm.bool("tokenizer.ggml.add_eos_token", true);
    assert_eq!(prompt(&both, "b"), [1, 6, 2]);
    assert_eq!(prompt(&both, "b</s>"), [1, 6, 2]);
    let bpe = byte_level().u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
    assert_eq!(prompt(&bpe, "ab"), [3], "byte-level BPE has no BOS by default");
    assert_eq!(load(&bpe, Some("llama3")).unwrap().encode_prompt("ab").unwrap(), [1, 3], "but Llama 3 has");
    assert_eq!(prompt(&bpe.bool("tokenizer.ggml.add_bos_token", true), "ab"), [1, 3]);
}

#[test]
fn every_end_of_an_answer_is_known() {
    let tokens = [("<|im_end|>", NORMAL), ("a", NORMAL), ("<|endoftext|>", CONTROL), ("[stop]", CONTROL), ("", UNUSED)];
    let tokenizer = load(&byte_level_with(&tokens, &[]).u32("tokenizer.ggml.eot_token_id", 3), None).unwrap();
    assert_eq!(tokenizer.end_tokens(), [0, 2, 3]);
    assert!(tokenizer.is_control(0), "a known end is a control token, whatever the file says");
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.vocab_len()), (None, None, 5));
    assert_eq!((tokenizer.token_text(4), tokenizer.token_text(5)), (Some("[EMPTY_4]"), None));
    assert_eq!(tokenizer.id_of("[stop]"), Some(3));
    let end = |name| vocabulary(name).end_tokens().to_vec();
    assert_eq!(end("smollm"), [0, 2]);
    assert_eq!(end("llama-spm"), [2]);
    assert_eq!(end("llama-bpe"), [128001, 128009]);
}

#[test]
fn all_text_comes_back_as_it_was() {
    let samples =
        ["", "hello world", "  two\n\n\tkinds ", "żółć 中文 😀", "a\0b", "<|im_end|></s>", "ǅ\u{301}\u{FFFD}"];
    for name in ["smollm", "llama-spm", "llama-bpe", "gpt-2", "qwen2"] {
        let tokenizer = vocabulary(name);
        let space = if name == "llama-spm" { " " } else { "" };
        for text in samples {
            let ids = tokenizer.encode(text, Specials::Plain).unwrap();
            let mut stream = Detokenizer::new();
            let back: String = ids.iter().map(|&id| stream.push(tokenizer.token_bytes(id))).collect();
            let space = if text.is_empty() { "" } else { space };
            assert_eq!(back + &stream.finish(), format!("{space}{text}"), "{name}");
        }
    }
}

/// SentencePiece can write any byte. Byte-level BPE repairs what is not UTF-8; SmolLM2 lacks six control characters.
#[test]
fn every_byte_value_is_tokenized() {
    let (spm, gpt2, smollm) = (vocabulary("llama-spm"), vocabulary("gpt-2"), vocabulary("smollm"));
    for byte in 0..=255u8 {
        let back = |t: &Tokenizer| written(t, &t.encode_bytes(&[byte], Specials::Plain).unwrap());
        assert_eq!(back(&spm), [b' ', byte]);
        let repaired = String::from_utf8_lossy(&[byte]).into_owned();
        assert_eq!(back(&gpt2), repaired.as_bytes());
        let lacks = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D].contains(&byte);
        assert_eq!(back(&smollm), if lacks { b"" } else { repaired.as_bytes() });
    }
}

/// Takes about half a second in a release build. The bound is for busy machines: quadratic time would be hours.
#[test]
fn a_megabyte_of_one_character_is_tokenized_in_good_time() {
    for name in ["smollm", "llama-spm", "llama-bpe"] {
        let tokenizer = vocabulary(name);
        let space = usize::from(name == "llama-spm");
        for unit in [" ", "é"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = Instant::now();
            let ids = tokenizer.encode(&text, Specials::Parse).unwrap();
            assert!(start.elapsed() < Duration::from_mins(1), "{name} {unit:?}: {:?}", start.elapsed());
            assert_eq!(written(&tokenizer, &ids).len(), text.len() + space, "{name} {unit:?}");
        }
    }
}

#[test]
fn long_runs_of_any_character_come_back_whole() {
    for name in ["smollm", "llama-spm", "llama-bpe"] {
        let tokenizer = vocabulary(name);
        let space = if name == "llama-spm" { " " } else { "" };
        for unit in ["a", "\n", "0", "<", "'", "\u{301}", "<|", "a1 "] {
            let text = unit.repeat(10_000);
            let ids = tokenizer.encode(&text, Specials::Parse).unwrap();
            assert_eq!(written(&tokenizer, &ids), format!("{space}{text}").as_bytes(), "{name} {unit:?}");
        }
    }
}

fn from_json(tokenizer: &Value) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Tokenizer::from_folder(folder.path())
}

#[test]
fn damaged_folders_are_refused() {
    let bpe = |vocab: Value, merges: Value| json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    let with = |key: &str, value: Value| {
        let mut file = bpe(json!({"a": 0}), json!([]));
        file[key] = value;
        file
    };
    let id = |id: u32| json!([{"id": id, "content": "<x>"}]);
    let cases = [
        (json!({}), "missing field `model`"),
        (json!({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}), "kind `Unigram`"),
        (json!({"model": {"type": "BPE", "vocab": {}}}), "missing field `merges`"),
        (bpe(json!({"a": -1}), json!([])), "not understood"),
        (bpe(json!({"a": 0, "b": 0}), json!([])), "both have the id 0"),
        (bpe(json!({"a": u32::MAX}), json!([])), "1 tokens, but ids up to 4294967295"),
        (with("added_tokens", id(1 << 30)), "2 tokens, but ids up to 1073741824"),
        (bpe(json!({"a": 0, "b": 1}), json!(["a b"])), "names `ab`"),
        (bpe(json!({"a": 0}), json!([["aaaaaaaa", "bbbbbbbb"]])), "names `aaaaaaaa`"),
        (bpe(json!({"a": 0}), json!(["a"])), "not two tokens"),
        (with("pre_tokenizer", json!({"type": "Klingon"})), "`pre_tokenizer` of the tokenizer is not understood"),
        (
            with("pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"})),
            "not understood",
        ),
        (with("normalizer", json!(7)), "`normalizer` of the tokenizer is not understood"),
        (
            json!({"model": {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "</w>"}}),
            "end_of_word_suffix",
        ),
    ];
    for (file, says) in cases {
        let message = from_json(&file).unwrap_err().to_string();
        assert!(message.contains(says) && message.contains("tokenizer.json"), "expected {says}: {message}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(Tokenizer::from_folder(folder.path()).unwrap_err().to_string().contains("no tokenizer.json"));
    std::fs::write(folder.path().join("tokenizer.json"), "[".repeat(100_000)).unwrap();
    assert!(Tokenizer::from_folder(folder.path()).unwrap_err().to_string().contains("not valid"));
}

#[test]
fn a_folders_ends_are_named_in_three_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: Value| std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    let vocab = json!({"a": 0, "b": 1, "c": 2, "d": 3});
    write("tokenizer.json", json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}}));
    let load = || Tokenizer::from_folder(folder.path());
    assert_eq!(load().unwrap().end_tokens(), [] as [u32; 0]);
    write("config.json", json!({"bos_token_id": 0, "eos_token_id": 1}));
    write("generation_config.json", json!({"eos_token_id": [3, 1]}));
    let tokenizer = load().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.end_tokens()), (Some(0), Some(3), &[1, 3][..]));
    write("tokenizer_config.json", json!({"bos_token": null, "eos_token": {"content": "c"}}));
    let tokenizer = load().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.end_tokens()), (None, Some(2), &[1, 2, 3][..]));
    write("config.json", json!({"eos_token_id": 4}));
    assert!(load().unwrap_err().to_string().contains("end token has the id 4, but the vocabulary has 4 tokens"));
}

/// Metaspace with `prepend_scheme: first` (Mistral) puts its space at the beginning of a prompt only.
#[test]
fn a_folders_space_in_front_is_put_where_its_rules_say() {
    let file = |scheme: &str| {
        json!({
            "added_tokens": [{"id": 3, "content": "<s>", "special": true}, {"id": 6, "content": "<u>", "rstrip": true}],
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false},
            "model": {"type": "BPE", "vocab": {"▁": 0, "a": 1, "▁a": 2, "<0x0A>": 5}, "merges": ["▁ a"], "byte_fallback": true}
        })
    };
    let ids = |scheme| from_json(&file(scheme)).unwrap().encode("a<s>a\n", Specials::Parse).unwrap();
    assert_eq!(ids("first"), [2, 3, 1, 5]);
    assert_eq!(ids("always"), [2, 3, 2, 5]);
    let tokenizer = from_json(&file("first")).unwrap();
    let plain = tokenizer.encode("<u>  a<s>", Specials::Plain).unwrap();
    assert_eq!(plain, [6, 1], "<u> is no control token and swallows blanks; <s> is one, and here cannot be spelled");
    assert_eq!(written(&tokenizer, &[2, 3, 5, 4, 99]), b" a\n", "id 4 is a hole");
    assert_eq!((tokenizer.vocab_len(), tokenizer.token_text(4)), (7, Some("[PAD4]")));
}

/// Bytes that `any_vocabulary.rs` reads as a vocabulary: a few tokens of few characters, so that many are sound.
fn vocabularies() -> impl Strategy<Value = Vec<u8>> {
    let token = "[\x00-\x07][\x01-\x7f]([ab▁<>]{1,3}|<0x4[0-9]>)";
    let parts =
        (any::<u8>(), vec(token, 0..12), vec("[ab]{1,2} [ab]{1,2}", 0..4), vec(any::<u8>(), 0..40), "[ab<> é]{0,40}");
    parts.prop_map(|(settings, tokens, merges, noise, text)| {
        let fixed = ["\x02 <unk>", "\x01 a", "\x01 b", "\x01 ab"].map(String::from);
        let lines = [&fixed[..], &tokens, &[String::new()], &merges, &[String::new(), text]].concat().join("\n");
        [&[settings], lines.as_bytes(), &noise].concat()
    })
}

#[test]
fn any_vocabulary_is_refused_or_works() {
    let accepted = Cell::new(0);
    let mut runner =
        TestRunner::new_with_rng(Config::with_cases(1000), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&vocabularies(), |bytes| {
        accepted.set(accepted.get() + u32::from(any_vocabulary::check(&bytes)));
        Ok(())
    });
    result.unwrap();
    assert!(accepted.get() > 100, "only {} were not refused: this tests little", accepted.get());
}
