//! Whole models that are wrong somewhere: each is refused when it is opened, by a message that names the place.

#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use common::gguf_builder::GgufBuilder;
use common::tiny::{self, Tiny};
use taper::error::Kind;
use taper::format::DType;
use taper::model::config::Config;
use taper::registry::{FileKind, ModelFiles};
use taper::{Error, LoadOptions, Options, Sampling, Taper};

fn open(gguf: &GgufBuilder) -> Result<Taper, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    gguf.write(&path);
    let files = ModelFiles { name: "tiny".into(), kind: FileKind::Gguf(path) };
    Taper::open(&files, &LoadOptions::default())
}

fn refused(gguf: &GgufBuilder) -> String {
    let e = open(gguf).map(|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Model, "{e}");
    assert!(e.to_string().contains("tiny.gguf"), "the file is named: {e}");
    e.what().to_owned()
}

/// Everything but the tensors, with sizes of the test's choice.
fn sized(config: &Config) -> GgufBuilder {
    tiny::with_vocabulary(tiny::with_sizes(GgufBuilder::new(), config), 61)
}

/// A whole model whose tensors the test may change.
fn with_tensors(change: impl FnOnce(&mut Tiny)) -> GgufBuilder {
    let mut tiny = Tiny::plain(tiny::config(), 1);
    change(&mut tiny);
    tiny.with_tensors(sized(&tiny::config()))
}

#[test]
fn a_whole_model_loads_and_generates() {
    let mut taper = open(&with_tensors(|_| {})).unwrap();
    let options = Options { max_tokens: Some(5), sampling: Sampling::greedy(), ..Options::default() };
    let answer = taper.generate("ABC", &options).unwrap();
    assert_eq!(answer.tokens.len(), 5);
    // BOS, the space in front (three unknown bytes to this vocabulary), three letters.
    assert_eq!(answer.done.prompt_tokens, 7);
    let e = taper.template().unwrap_err();
    assert_eq!(e.what(), "`tiny` has no chat template: it is a base model, which completes text");
}

#[test]
fn impossible_sizes_are_refused() {
    let config = tiny::config();
    for (config, what) in [
        (Config { heads: 0, ..config.clone() }, "the model's heads is 0; 1 to 65536 is possible"),
        (
            Config { kv_heads: 12, ..config.clone() },
            "6 attention heads cannot share 12 key/value heads: not a multiple",
        ),
        (Config { kv_heads: 0, ..config.clone() }, "the model's key/value heads is 0; 1 to 65536 is possible"),
        (Config { layers: 0, ..config.clone() }, "the model's layers is 0; 1 to 4096 is possible"),
        (Config { layers: 1 << 31, ..config.clone() }, "the model's layers is 2147483648; 1 to 4096 is possible"),
        (Config { hidden: 0, ..config.clone() }, "the model's hidden size is 0; 1 to 16777216 is possible"),
        (Config { context: 0, ..config.clone() }, "the model's context length is 0; 1 to 2097152 is possible"),
        (Config { head_dim: 7, ..config.clone() }, "head size 7 is odd; rotary embedding needs pairs"),
        (Config { rms_eps: f32::NAN, ..config.clone() }, "RMSNorm's epsilon is NaN"),
    ] {
        assert_eq!(refused(&sized(&config)), what);
    }
}

#[test]
fn metadata_of_the_wrong_kind_is_refused() {
    let base = || sized(&tiny::config());
    let huge = base().raw_value(
        "llama.rope.dimension_count",
        common::gguf_builder::value_type::U64,
        &(1u64 << 32).to_le_bytes(),
    );
    assert_eq!(refused(&huge), "metadata `llama.rope.dimension_count` is not an integer from 0 to 2^32 - 1");
    assert_eq!(
        refused(&base().u32("llama.rope.dimension_count", 4)),
        "llama.rope.dimension_count is 4, head size is 10: taper needs them equal"
    );
    assert_eq!(
        refused(&base().str("llama.rope.scaling.type", "yarn")),
        "RoPE scaling `yarn` is not supported (supported: linear, llama3)"
    );
    assert_eq!(
        refused(&base().u32("llama.expert_count", 8)),
        "the model's architecture is `llama with experts (Mixtral)`, which taper does not run"
    );
    assert_eq!(refused(&base().f32("llama.rope.freq_base", 0.0)), "the RoPE base is 0; it must be positive");
    assert_eq!(refused(&base().str("llama.vocab_size", "many")), "metadata `llama.vocab_size` is not an integer");
    let none = GgufBuilder::new();
    assert_eq!(refused(&none), "the model's architecture is `(none)`, which taper does not run");
}

#[test]
fn missing_misshapen_and_unknown_tensors_are_refused() {
    assert_eq!(
        refused(&with_tensors(|t| drop(t.tensors.remove("blk.1.ffn_up.weight")))),
        "tensor `blk.1.ffn_up.weight` is missing"
    );
    assert_eq!(
        refused(&with_tensors(|t| t.tensors.get_mut("blk.0.attn_k.weight").unwrap().0 = vec![36, 20])),
        "tensor `blk.0.attn_k.weight` is [36, 20]; the configuration says [20, 36]"
    );
    assert_eq!(
        refused(&with_tensors(|t| drop(
            t.tensors.insert("blk.0.attn_q_norm.weight".into(), (vec![10], vec![1.0; 10]))
        ))),
        "tensor `blk.0.attn_q_norm.weight` is not part of a Llama"
    );
    assert_eq!(
        refused(&with_tensors(|t| drop(t.tensors.insert("blk.2.ffn_norm.weight".into(), (vec![36], vec![1.0; 36]))))),
        "tensor `blk.2.ffn_norm.weight` belongs to no layer: the model has 2"
    );
}

#[test]
fn values_that_are_no_numbers_are_refused_by_their_tensors_name() {
    for bad in [f32::NAN, f32::INFINITY] {
        let what = refused(&with_tensors(|t| t.tensors.get_mut("blk.1.ffn_down.weight").unwrap().1[7] = bad));
        assert!(what.contains("`blk.1.ffn_down.weight`"), "{what}");
    }
    // The scale of a quantized block.
    let tiny = Tiny::plain(Config { hidden: 32, ..tiny::config() }, 1);
    let gguf = tiny.tensors.iter().fold(sized(&tiny.config), |gguf, (name, (shape, values))| {
        if name == "blk.0.ffn_up.weight" {
            let blocks = shape.iter().product::<usize>() / 32;
            let mut bytes = vec![0u8; blocks * 18];
            bytes[18..20].copy_from_slice(&[0x00, 0x7e]); // the second block's f16 scale is NaN
            gguf.tensor_raw(name, DType::Q4_0, shape, &bytes)
        } else {
            gguf.tensor_f32(name, shape, values)
        }
    });
    let what = refused(&gguf);
    assert!(what.contains("`blk.0.ffn_up.weight`"), "{what}");
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let tiny = Tiny::plain(tiny::config(), 1);
    let gguf =
        tiny::with_vocabulary(tiny::with_sizes(GgufBuilder::new(), &tiny.config), 62).u32("llama.vocab_size", 61);
    assert_eq!(refused(&tiny.with_tensors(gguf)), "the tokenizer has 62 tokens, the model's embedding 61");
}
