//! Vectors against those of sentence-transformers, and `taper embed`.
#![cfg(feature = "memory")]
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::path::Path;

use half::f16;
use taper::memory::embed::{Compute, Embedder};
use taper::registry::resolve;

fn embedder() -> Embedder {
    Embedder::open(&resolve::at_path(&common::embedder()).unwrap()).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Texts with the vectors that sentence-transformers makes of them (`tests/tools/golden_embeddings.py`).
fn golden() -> Vec<(String, Vec<f32>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/embeddings");
    let texts = std::fs::read_to_string(folder.join("texts.jsonl")).unwrap();
    let bytes = std::fs::read(folder.join("vectors.f16")).unwrap();
    let numbers: Vec<f32> = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let texts: Vec<String> = texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(texts.len() * 384, numbers.len());
    texts.into_iter().zip(numbers.chunks_exact(384).map(<[f32]>::to_vec)).collect()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let golden = golden();
    let texts: Vec<&str> = golden.iter().map(|(text, _)| text.as_str()).collect();
    for (compute, most) in [(Compute::Single, 1e-6), (Compute::Int8, 1.5e-3), (Compute::Reference, 1e-6)] {
        // candle takes its time in this profile.
        let step = if compute == Compute::Reference { 5 } else { 1 };
        let files = resolve::at_path(&common::embedder()).unwrap();
        let embedder = Embedder::open_for(&files, compute).unwrap();
        assert_eq!((golden.len(), embedder.dim()), (200, 384));
        let some: Vec<&str> = texts.iter().copied().step_by(step).collect();
        let got = embedder.embed(&some).unwrap();
        let mut worst = (0.0, "");
        for ((text, expected), got) in golden.iter().step_by(step).zip(&got) {
            let differs = 1.0 - cosine(expected, got);
            if differs > worst.0 {
                worst = (differs, text);
            }
            let length: f32 = got.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
        }
        assert!(worst.0 < most, "{compute:?}: 1 − cosine is {:e} for {:?}", worst.0, worst.1);
    }
}

#[test]
fn a_text_has_the_same_vector_alone_and_among_others() {
    let (embedder, golden) = (embedder(), golden());
    let texts: Vec<&str> = golden.iter().map(|(text, _)| text.as_str()).collect();
    let together = embedder.embed(&texts).unwrap();
    for at in (0..200).step_by(23) {
        let alone = embedder.embed_one(texts[at]).unwrap();
        assert!(cosine(&alone, &together[at]) > 1.0 - 1e-6, "{:?}", texts[at]);
        assert_eq!(alone, embedder.embed_one(texts[at]).unwrap(), "from the cache");
    }
}

#[test]
fn what_is_behind_the_last_token_that_fits_changes_nothing() {
    let embedder = embedder();
    let text = "word ".repeat(embedder.max_tokens());
    let longer = text.clone() + "and something else entirely";
    let vectors = embedder.embed(&[&text, &longer, &text[5..]]).unwrap();
    assert!(cosine(&vectors[0], &vectors[1]) > 1.0 - 1e-6);
    assert_eq!(embedder.token_starts(&longer).unwrap().len(), 254 + 4);
}

#[test]
fn what_is_no_embedder_is_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(common::embedder().join(name), to).unwrap();
    };
    for name in ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"] {
        copy(name);
    }
    let refusal = |name: &str, wrong: &[u8], expected: &str| {
        std::fs::write(folder.path().join(name), wrong).unwrap();
        let error = match Embedder::open(&resolve::at_path(folder.path()).unwrap()) {
            Ok(_) => panic!("{name} is taken"),
            Err(e) => e.to_string(),
        };
        assert!(error.contains(expected) && error.contains(name), "{error}");
        copy(name);
    };
    refusal("config.json", b"{}", "not a BERT embedder's configuration: missing field");
    let config = std::fs::read_to_string(common::embedder().join("config.json")).unwrap();
    let heads = config.replace("\"num_attention_heads\": 12", "\"num_attention_heads\": 7");
    refusal("config.json", heads.as_bytes(), "hidden_size 384 does not divide into 7 attention heads");
    let narrow = config.replace("\"hidden_size\": 384", "\"hidden_size\": 96");
    let error = {
        std::fs::write(folder.path().join("config.json"), narrow).unwrap();
        Embedder::open(&resolve::at_path(folder.path()).unwrap()).err().unwrap().to_string()
    };
    assert!(error.contains("the embedder's weights cannot be used") && error.contains("of another model"), "{error}");
    copy("config.json");
    refusal("tokenizer.json", b"{}", "the embedder's tokenizer cannot be used");
    refusal("1_Pooling/config.json", br#"{"pooling_mode_max_tokens": true}"#, "pools in a way");
    let weights = std::fs::read(common::embedder().join("model.safetensors")).unwrap();
    refusal("model.safetensors", &weights[..weights.len() / 2], "the embedder's weights cannot be used");
}
