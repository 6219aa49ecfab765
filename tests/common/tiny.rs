//! Small random models, of shapes that no real one has.

use std::collections::BTreeMap;

use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::format::weights::Weights;
use taper::model::config::Config;
use taper::model::rope::{Rope, Scaling};
use taper::model::tensors::{self, Extras};

use super::gguf_builder::GgufBuilder;

/// A model's numbers: name → (shape, values), all f32.
pub struct Tiny {
    pub config: Config,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness for weights, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.signed()).collect()
    }

    pub fn ids(&mut self, n: usize, vocab: usize) -> Vec<u32> {
        (0..n).map(|_| (self.next() % vocab as u64) as u32).collect()
    }
}

/// 2 layers, 3 query heads a key head, sizes that divide nothing.
pub fn config() -> Config {
    Config {
        layers: 2,
        hidden: 36,
        ffn: 50,
        heads: 6,
        kv_heads: 2,
        head_dim: 10, // heads * head_dim is not hidden
        vocab: 61,
        context: 256,
        rms_eps: 1e-5,
        rope: Rope { base: 10_000.0, scaling: Scaling::None },
        window: None,
    }
}

impl Tiny {
    pub fn new(config: Config, extras: Extras, seed: u64) -> Self {
        let mut random = Random(seed);
        let shapes: BTreeMap<String, Vec<usize>> = tensors::shapes(&config, extras).into_iter().collect();
        let tensors = shapes.into_iter().map(|(name, shape)| {
            let n: usize = shape.iter().product();
            let values = match shape.as_slice() {
                [_, columns] => random.values(n).iter().map(|x| x * 1.7 / (*columns as f32).sqrt()).collect(),
                // Norms and rotary divisors are near 1.
                _ if name.ends_with(".weight") => random.values(n).iter().map(|x| 1.0 + 0.3 * x).collect(),
                _ => random.values(n),
            };
            (name, (shape, values))
        });
        Self { tensors: tensors.collect(), config }
    }

    /// The plain kind: tied head, no biases.
    pub fn plain(config: Config, seed: u64) -> Self {
        Self::new(config, Extras { tied: true, qkv_bias: false, rope_factors: false }, seed)
    }

    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.tensors.get(name).map(|(_, values)| values.as_slice())
    }

    /// As a GGUF without metadata.
    pub fn gguf(&self) -> GgufBuilder {
        self.with_tensors(GgufBuilder::new())
    }

    pub fn with_tensors(&self, gguf: GgufBuilder) -> GgufBuilder {
        self.tensors.iter().fold(gguf, |b, (name, (shape, values))| b.tensor_f32(name, shape, values))
    }

    pub fn weights(&self) -> Weights {
        let gguf = Gguf::parse(&Mapping::from_bytes(self.gguf().bytes(), "tiny.gguf")).unwrap();
        Weights::from_gguf(&gguf)
    }
}

/// Adds a SentencePiece vocabulary of `<unk>`, `<s>`, `</s>` and single characters.
pub fn with_vocabulary(gguf: GgufBuilder, vocab: usize) -> GgufBuilder {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..vocab as u32 - 3).map(|i| char::from_u32('A' as u32 + i).unwrap().to_string()));
    let scores: Vec<f32> = (0..vocab).map(|i| -(i as f32)).collect();
    let types: Vec<i32> = [2, 3, 3].into_iter().chain(std::iter::repeat(1)).take(vocab).collect();
    gguf.str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &types)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
}

/// The metadata of a whole model, without vocabulary.
pub fn with_sizes(gguf: GgufBuilder, config: &Config) -> GgufBuilder {
    let size = |n: usize| n as u32;
    gguf.str("general.architecture", "llama")
        .u32("llama.block_count", size(config.layers))
        .u32("llama.embedding_length", size(config.hidden))
        .u32("llama.feed_forward_length", size(config.ffn))
        .u32("llama.attention.head_count", size(config.heads))
        .u32("llama.attention.head_count_kv", size(config.kv_heads))
        .u32("llama.attention.key_length", size(config.head_dim))
        .u32("llama.context_length", size(config.context))
        .f32("llama.attention.layer_norm_rms_epsilon", config.rms_eps)
}
