//! Which tensors a Llama has, and the check that a file has them and no others.
//!
//! An unknown tensor (a bias, a second norm) means another model: running on without it would give a fast wrong answer.

use std::collections::BTreeMap;

use super::config::Config;
use crate::error::{Error, Result};
use crate::format::weights::Weights;

pub const EMBEDDING: &str = "token_embd.weight";
pub const OUTPUT: &str = "output.weight";
pub const OUTPUT_NORM: &str = "output_norm.weight";
/// Divisors of the rotary frequencies, (`head_dim` / 2); Llama 3.1 and later as GGUF.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The name of a layer's tensor.
pub fn of_layer(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

/// What a model's files hold beyond what every Llama has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extras {
    /// The head is the embedding, read again.
    pub tied: bool,
    /// Q, K and V add a bias.
    pub qkv_bias: bool,
    pub rope_factors: bool,
}

/// Checks names and shapes of all tensors against the configuration.
///
/// # Errors
/// A tensor that is missing, has another shape, or that this program would not use.
pub fn check(config: &Config, weights: &Weights) -> Result<Extras> {
    let extras = Extras {
        tied: !weights.contains(OUTPUT),
        qkv_bias: weights.contains("blk.0.attn_q.bias"),
        rope_factors: weights.contains(ROPE_FACTORS),
    };
    let expected: BTreeMap<String, Vec<usize>> = shapes(config, extras).into_iter().collect();
    for (name, shape) in &expected {
        let info = weights.info(name)?;
        if info.shape != *shape {
            return Err(Error::model(format!("tensor `{name}` is {:?}; the configuration says {shape:?}", info.shape))
                .in_file(weights.path()));
        }
    }
    if let Some(unknown) = weights.names().find(|n| !expected.contains_key(*n)) {
        if layer_of(unknown).is_some_and(|layer| layer >= config.layers) {
            return Err(Error::model(format!(
                "tensor `{unknown}` belongs to no layer: the model has {}",
                config.layers
            ))
            .in_file(weights.path())
            .help("the file is damaged: download it again"));
        }
        return Err(Error::model(format!("tensor `{unknown}` is not part of a Llama"))
            .in_file(weights.path())
            .help("ignoring it would give wrong answers: this model needs another architecture"));
    }
    Ok(extras)
}

/// The layer whose tensor this is.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Every tensor of a model and its shape, row-major.
pub fn shapes(config: &Config, extras: Extras) -> Vec<(String, Vec<usize>)> {
    let &Config { hidden, ffn, vocab, .. } = config;
    let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
    let mut all = vec![(EMBEDDING.to_owned(), vec![vocab, hidden]), (OUTPUT_NORM.to_owned(), vec![hidden])];
    if !extras.tied {
        all.push((OUTPUT.to_owned(), vec![vocab, hidden]));
    }
    if extras.rope_factors {
        all.push((ROPE_FACTORS.to_owned(), vec![config.head_dim / 2]));
    }
    for layer in 0..config.layers {
        let mut part = |name: &str, shape: &[usize]| all.push((of_layer(layer, name), shape.to_vec()));
        part("attn_norm.weight", &[hidden]);
        part("attn_q.weight", &[q_dim, hidden]);
        part("attn_k.weight", &[kv_dim, hidden]);
        part("attn_v.weight", &[kv_dim, hidden]);
        part("attn_output.weight", &[hidden, q_dim]);
        part("ffn_norm.weight", &[hidden]);
        part("ffn_gate.weight", &[ffn, hidden]);
        part("ffn_up.weight", &[ffn, hidden]);
        part("ffn_down.weight", &[hidden, ffn]);
        if extras.qkv_bias {
            part("attn_q.bias", &[q_dim]);
            part("attn_k.bias", &[kv_dim]);
            part("attn_v.bias", &[kv_dim]);
        }
    }
    all
}
