//! BERT (Devlin et al. 2018) on the CPU backend's kernels.
//!
//! Texts stand one behind another, without padding. What has another shape than the kernels take is left to candle.

use std::collections::HashMap;

use candle_core::Tensor;
use candle_transformers::models::bert::{Config, HiddenAct, PositionEmbeddingType};

use crate::backend::cpu::encoder::{Attention, BLOCK, Dense, Ops, Precision, Room};
use crate::error::{Error, Result};

pub(super) struct Encoder {
    ops: Ops,
    heads: usize,
    hidden: usize,
    ffn: usize,
    eps: f32,
    /// (vocab, hidden)
    words: Vec<f32>,
    /// (positions, hidden), with the one type of token that there is added.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// A matrix, and what is added to its results.
struct Linear {
    matrix: Dense,
    bias: Vec<f32>,
}

struct Layer {
    /// Queries, keys and values: (3 · hidden, hidden)
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// Whether the kernels take a model of this shape.
pub(super) fn takes(config: &Config) -> bool {
    let head = config.hidden_size / config.num_attention_heads.max(1);
    config.hidden_size.is_multiple_of(32)
        && config.intermediate_size.is_multiple_of(32)
        && head.is_multiple_of(16)
        && config.hidden_act == HiddenAct::Gelu
        && config.position_embedding_type == PositionEmbeddingType::Absolute
}

impl Encoder {
    /// From the tensors of a file.
    ///
    /// # Errors
    /// When one is absent, or of another shape than the configuration says.
    pub(super) fn new(config: &Config, tensors: &HashMap<String, Tensor>, precision: Precision) -> Result<Self> {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let prefix = if tensors.contains_key("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let file = File { tensors, prefix, precision };
        let mut positions =
            file.numbers("embeddings.position_embeddings.weight", config.max_position_embeddings * hidden)?;
        let types = file.numbers("embeddings.token_type_embeddings.weight", config.type_vocab_size * hidden)?;
        for row in positions.chunks_exact_mut(hidden) {
            add(row, &types[..hidden]);
        }
        let layer = |at: usize| {
            let name = |part: &str| format!("encoder.layer.{at}.{part}");
            Ok(Layer {
                qkv: file.linear(
                    &["query", "key", "value"].map(|part| name(&format!("attention.self.{part}"))),
                    hidden,
                    hidden,
                )?,
                attended: file.linear(&[name("attention.output.dense")], hidden, hidden)?,
                attended_norm: file.norm(&name("attention.output.LayerNorm"), hidden)?,
                up: file.linear(&[name("intermediate.dense")], ffn, hidden)?,
                down: file.linear(&[name("output.dense")], hidden, ffn)?,
                norm: file.norm(&name("output.LayerNorm"), hidden)?,
            })
        };
        Ok(Self {
            ops: Ops::of_processor()?,
            heads: config.num_attention_heads,
            hidden,
            ffn,
            eps: config.layer_norm_eps as f32,
            words: file.numbers("embeddings.word_embeddings.weight", config.vocab_size * hidden)?,
            positions,
            norm: file.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// Token vectors of texts, one behind another: (tokens of all, hidden). The same on any number of threads.
    pub(super) fn forward(&self, texts: &[&[u32]], threads: usize) -> Vec<f32> {
        let h = self.hidden;
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        let mut states = Vec::with_capacity(tokens * h); // (tokens, hidden)
        for text in texts {
            for (id, position) in text.iter().zip(self.positions.chunks_exact(h)) {
                let word = &self.words[*id as usize * h..][..h];
                states.extend(word.iter().zip(position).map(|(a, b)| a + b));
            }
        }
        self.normed(&self.norm, &mut states);
        let mut room = Room::of(threads);
        let (mut qkv, mut attended) = (vec![0.0; tokens * 3 * h], vec![0.0; tokens * h]);
        let (mut wide, mut scratch) = (vec![0.0; tokens.min(BLOCK) * self.ffn], Vec::new());
        for layer in &self.layers {
            layer.qkv.apply(&states, &mut room, &mut qkv);
            let mut at = 0;
            for text in texts {
                let rows = at..at + text.len();
                let (qkv, out) =
                    (&qkv[3 * h * rows.start..3 * h * rows.end], &mut attended[h * rows.start..h * rows.end]);
                self.ops.attend(Attention { qkv, heads: self.heads, dim: h / self.heads, out }, &mut scratch);
                at = rows.end;
            }
            layer.attended.add(&attended, &mut room, &mut states);
            self.normed(&layer.attended_norm, &mut states);
            for states in states.chunks_mut(BLOCK * h) {
                let wide = &mut wide[..states.len() / h * self.ffn];
                layer.up.apply(states, &mut room, wide);
                self.ops.gelu(wide);
                layer.down.add(wide, &mut room, states);
                self.normed(&layer.norm, states);
            }
        }
        states
    }

    fn normed(&self, norm: &Norm, states: &mut [f32]) {
        self.ops.layer_norm(states, &norm.weight, &norm.bias, self.eps);
    }
}

impl Linear {
    /// `out` = x · Wᵀ + b
    fn apply(&self, x: &[f32], room: &mut Room, out: &mut [f32]) {
        for row in out.chunks_exact_mut(self.bias.len()) {
            row.copy_from_slice(&self.bias);
        }
        self.matrix.add(x, room, out);
    }

    /// `out` += x · Wᵀ + b
    fn add(&self, x: &[f32], room: &mut Room, out: &mut [f32]) {
        for row in out.chunks_exact_mut(self.bias.len()) {
            add(row, &self.bias);
        }
        self.matrix.add(x, room, out);
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (x, b) in to.iter_mut().zip(from) {
        *x += b;
    }
}

struct File<'a> {
    tensors: &'a HashMap<String, Tensor>,
    prefix: &'a str,
    precision: Precision,
}

impl File<'_> {
    /// A tensor's numbers, which must be so many.
    fn numbers(&self, name: &str, count: usize) -> Result<Vec<f32>> {
        let name = format!("{}{name}", self.prefix);
        let wrong = |what: String| {
            Error::model(format!("the embedder's weights cannot be used: tensor `{name}` {what}"))
                .help("the file is damaged, or of another model than its config.json: download it again")
        };
        let tensor = self.tensors.get(&name).ok_or_else(|| wrong("is absent".to_owned()))?;
        let read = || tensor.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>();
        let numbers = read().map_err(|e| wrong(format!("cannot be read: {e}")).caused_by(e))?;
        if numbers.len() != count {
            return Err(wrong(format!("has {} numbers, and config.json asks for {count}", numbers.len())));
        }
        Ok(numbers)
    }

    fn norm(&self, name: &str, n: usize) -> Result<Norm> {
        let part = |part: &str| self.numbers(&format!("{name}.{part}"), n);
        Ok(Norm { weight: part("weight")?, bias: part("bias")? })
    }

    /// Matrices (n, k) below one another.
    fn linear(&self, names: &[String], n: usize, k: usize) -> Result<Linear> {
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weights.extend(self.numbers(&format!("{name}.weight"), n * k)?);
            bias.extend(self.numbers(&format!("{name}.bias"), n)?);
        }
        Ok(Linear { matrix: Dense::new(&weights, k, self.precision, &names.join(", "))?, bias })
    }
}
