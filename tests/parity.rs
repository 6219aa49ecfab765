//! SmolLM2's logits against candle-transformers' own Llama, which none of us wrote, and GGUF against safetensors.
//!
//! The safetensors folder is SmolLM2's GGUF dequantized to f32 and written by the test, its Q and K rows put back into
//! Hugging Face's order: the same weights in the form that candle-transformers reads.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use common::runner::{Pool, step};
use common::{export, max_relative};
use taper::backend::Limits;
use taper::backend::candle::{self, Candle};
use taper::format::gguf::Gguf;
use taper::format::weights::Weights;
use taper::model::config::Config;

const LIMITS: Limits = Limits { context: 512, sequences: 2, chunk: 128, pages: 32 };
const TEXT: &str = include_str!("data/text/prose.txt");

fn load(config: &Config, weights: &Weights) -> Candle {
    let infos: Vec<_> = weights.names().map(|n| weights.info(n).unwrap()).collect();
    Candle::load(config, weights, &candle::plan(config, &infos, LIMITS)).unwrap()
}

/// The logits after all of `ids`, pushed through in chunks of 128.
fn ours(backend: &mut Candle, ids: &[u32]) -> Vec<f32> {
    common::runner::in_chunks(backend, &mut Pool::new(LIMITS.pages), ids, LIMITS.chunk)
}

#[test]
fn logits_agree_with_candle_transformers_and_between_containers() {
    let gguf = Gguf::open(&common::smollm2()).unwrap();
    let config = Config::from_gguf(&gguf.metadata).unwrap();
    let folder = tempfile::tempdir().unwrap();
    export::safetensors_folder(&Weights::from_gguf(&gguf), &config, folder.path());

    let from_folder = Config::from_json(&folder.path().join("config.json")).unwrap();
    assert_eq!(from_folder, config);
    let mut ours_gguf = load(&config, &Weights::from_gguf(&gguf));
    let weights = Weights::from_safetensors(folder.path(), config.heads, config.kv_heads).unwrap();
    let mut ours_safetensors = load(&config, &weights);

    let json = std::fs::read(folder.path().join("config.json")).unwrap();
    let their_config = serde_json::from_slice::<LlamaConfig>(&json).unwrap().into_config(false);
    let tensors = candle_core::safetensors::load(folder.path().join("model.safetensors"), &Device::Cpu).unwrap();
    let theirs = Llama::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &their_config).unwrap();
    let their_logits = |ids: &[u32], cache: &mut Cache, pos: usize| {
        let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        theirs.forward(&ids, pos, cache).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let new_cache = || Cache::new(true, DType::F32, &their_config, &Device::Cpu).unwrap();

    let tokenizer = taper::text::Tokenizer::from_gguf(&gguf.metadata, None).unwrap();
    let ids = tokenizer.encode(&TEXT[..4000], taper::text::Specials::Plain).unwrap();
    for n in [1, 2, 31, 32, 33, 129, 300, 500] {
        let expected = their_logits(&ids[..n], &mut new_cache(), 0);
        let got = ours(&mut ours_gguf, &ids[..n]);
        let difference = max_relative(&expected, &got);
        assert!(difference <= 1e-4, "{n} tokens: {difference}");
        assert_eq!(got, ours(&mut ours_safetensors, &ids[..n]), "GGUF and safetensors, {n} tokens");
    }

    // Token by token, as in decoding.
    let mut cache = new_cache();
    let mut running = Pool::new(LIMITS.pages).sequence(80);
    their_logits(&ids[..64], &mut cache, 0);
    step(&mut ours_gguf, &mut [(&mut running, &ids[..64])]);
    for pos in 64..80 {
        let expected = their_logits(&ids[pos..=pos], &mut cache, pos);
        let got = step(&mut ours_gguf, &mut [(&mut running, &ids[pos..=pos])]).remove(0);
        assert!(max_relative(&expected, &got) <= 1e-4, "position {pos}");
    }
}

#[test]
fn real_logits_do_not_depend_on_chunks_or_neighbours() {
    let gguf = Gguf::open(&common::smollm2()).unwrap();
    let config = Config::from_gguf(&gguf.metadata).unwrap();
    let mut backend = load(&config, &Weights::from_gguf(&gguf));
    let tokenizer = taper::text::Tokenizer::from_gguf(&gguf.metadata, None).unwrap();
    let prompts: Vec<Vec<u32>> = (0..7)
        .map(|i| tokenizer.encode(&TEXT[i * 500..i * 500 + 60 * (i + 1)], taper::text::Specials::Plain).unwrap())
        .collect();
    let alone: Vec<Vec<f32>> = prompts.iter().map(|ids| ours(&mut backend, ids)).collect();
    for chunk in [1, 17, 64] {
        // One row at a time is slow: the two shortest prompts stand for all.
        for (ids, alone) in prompts.iter().zip(&alone).take(if chunk == 1 { 2 } else { 7 }) {
            let got = common::runner::in_chunks(&mut backend, &mut Pool::new(LIMITS.pages), ids, chunk);
            assert!(max_relative(alone, &got) <= 1e-4, "{} tokens in chunks of {chunk}", ids.len());
        }
    }
    let mut pool = Pool::new(LIMITS.pages);
    let mut running: Vec<_> = prompts.iter().map(|ids| pool.sequence(ids.len())).collect();
    let mut parts: Vec<_> = running.iter_mut().zip(&prompts).map(|(r, ids)| (r, ids.as_slice())).collect();
    for (together, alone) in step(&mut backend, &mut parts).iter().zip(&alone) {
        assert!(max_relative(alone, together) <= 1e-4, "in a batch of 7");
    }
}
