//! A model's weights as the kernels read them: packed, and for each thread its share of all matrices in the order of a
//! step.
//!
//! A thread that reads one long run of memory keeps the processor's prefetchers busy across matrices: 13 to 15 % faster
//! on a small model than halves of each matrix.
#![expect(unsafe_code, reason = "rows are read where threads wrote them")]

use std::sync::Arc;

use super::embedding::Embedding;
use super::load;
use super::memory::{Part, Region};
use super::pool::Pool;
use crate::error::Result;
use crate::format::TensorInfo;
use crate::format::dequantize::Codebook;
use crate::format::packed::{Format, TILE, unpack_row};
use crate::format::repack::{Repack, Writer};
use crate::format::weights::Weights;
use crate::model::config::Config;
use crate::model::tensors::{self, of_layer};

/// A packed matrix, its tiles shared out to the threads.
pub struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub k: usize,
    /// What its codes stand for, in formats that have one.
    pub codebook: Codebook,
    pub(super) shares: Vec<Share>,
}

/// A thread's tiles of a matrix.
pub(super) struct Share {
    /// The number of its first tile.
    pub first: usize,
    pub bytes: Part<u8>,
}

impl Matrix {
    /// Thread `index`'s first tile, and how many it has.
    pub fn tiles(&self, index: usize) -> (usize, usize) {
        let share = &self.shares[index];
        (share.first, share.bytes.len() / self.format.tile_bytes(self.k))
    }

    /// Tile `tile` of thread `index`, counted from its first.
    pub fn tile(&self, index: usize, tile: usize) -> *const u8 {
        self.shares[index].bytes.at(tile * self.format.tile_bytes(self.k))
    }

    /// Writes a row's numbers to `out`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let tile = row / TILE;
        let Some(share) = self.shares.iter().rfind(|s| s.first <= tile && s.bytes.len() > 0) else { return };
        let bytes = self.format.tile_bytes(self.k);
        // SAFETY: weights are not written after they were loaded.
        let tile = unsafe { share.bytes.slice((tile - share.first) * bytes, bytes) };
        unpack_row(self.format, &self.codebook, tile, row % TILE, out);
    }
}

pub struct Layer {
    pub attn_norm: Vec<f32>,
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    /// Of Q, K and V.
    pub bias: Option<[Vec<f32>; 3]>,
    pub o: Matrix,
    pub ffn_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

pub struct Model {
    pub config: Config,
    pub layers: Vec<Layer>,
    pub output_norm: Vec<f32>,
    pub head: Matrix,
    /// Where token embeddings are read; `None` where they are the head's rows.
    pub embedding: Option<Embedding>,
    pub frequencies: Vec<f32>,
    /// Holds the matrices' bytes.
    _region: Arc<Region>,
}

/// Matrices of a layer in the order of a step, with how many tiles go together.
const MATRICES: [(&str, usize); 7] = [
    ("attn_q.weight", 1),
    ("attn_k.weight", 1),
    ("attn_v.weight", 1),
    ("attn_output.weight", 1),
    // Whole groups of the activations that they make.
    ("ffn_gate.weight", 2),
    ("ffn_up.weight", 2),
    ("ffn_down.weight", 1),
];

/// Why this backend does not take a model; `None` when it does.
pub fn refusal(config: &Config) -> Option<String> {
    let sizes =
        [("hidden size", config.hidden, 32), ("feed-forward size", config.ffn, 32), ("head size", config.head_dim, 16)];
    let odd = sizes.iter().find(|(_, n, step)| !n.is_multiple_of(*step));
    odd.map(|(what, n, step)| format!("the {what} of {n} is no multiple of {step}")).or_else(|| {
        (!config.q_dim().is_multiple_of(32))
            .then(|| format!("{} numbers of queries are no multiple of 32", config.q_dim()))
    })
}

/// The tensors that become matrices: not the embedding where another one is the head.
fn packed<'t>(tensors: &'t [&TensorInfo]) -> impl Iterator<Item = &'t TensorInfo> {
    let untied = tensors.iter().any(|t| t.name == tensors::OUTPUT);
    let is_packed = move |t: &&&TensorInfo| t.shape.len() == 2 && !(untied && t.name == tensors::EMBEDDING);
    tensors.iter().filter(is_packed).copied()
}

/// Bytes of the packed matrices.
pub fn packed_bytes(tensors: &[&TensorInfo]) -> u64 {
    let bytes = |t: &TensorInfo| Format::of(t.dtype).matrix_bytes(t.shape[0], t.shape[1]) as u64;
    packed(tensors).map(bytes).sum()
}

/// Whether there are matrices in floating point.
pub fn has_floats(tensors: &[&TensorInfo]) -> bool {
    packed(tensors).any(|t| Format::of(t.dtype).is_float())
}

impl Model {
    /// Packs a model's weights for the threads of `pool`, or reads what an earlier start packed. With it comes who keeps
    /// them for the next start.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or unknown, or one with NaN or infinite numbers.
    pub fn load(
        config: &Config,
        weights: &Weights,
        pool: &mut Pool,
        repack: &Repack,
    ) -> Result<(Self, Option<Writer>)> {
        let extras = tensors::check(config, weights)?;
        let head = if extras.tied { tensors::EMBEDDING } else { tensors::OUTPUT };
        let names = (0..config.layers).flat_map(|l| MATRICES.map(|(part, step)| (of_layer(l, part), step)));
        let names: Vec<(String, usize)> = names.chain([(head.to_owned(), 1)]).collect();
        let load::Loaded { mut matrices, region, writer } = load::matrices(&names, weights, pool, repack)?;
        let vector = |name: &str, n: usize| weights.f32(name, &[n]);
        let mut next = || matrices.remove(0);
        let layers = (0..config.layers).map(|l| {
            let bias = |part: &str, n: usize| vector(&of_layer(l, &format!("attn_{part}.bias")), n);
            let bias = || -> Result<[Vec<f32>; 3]> {
                Ok([bias("q", config.q_dim())?, bias("k", config.kv_dim())?, bias("v", config.kv_dim())?])
            };
            Ok(Layer {
                attn_norm: vector(&of_layer(l, "attn_norm.weight"), config.hidden)?,
                q: next(),
                k: next(),
                v: next(),
                bias: extras.qkv_bias.then(bias).transpose()?,
                o: next(),
                ffn_norm: vector(&of_layer(l, "ffn_norm.weight"), config.hidden)?,
                gate: next(),
                up: next(),
                down: next(),
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let factors = extras.rope_factors.then(|| vector(tensors::ROPE_FACTORS, config.head_dim / 2)).transpose()?;
        let model = Self {
            layers,
            output_norm: vector(tensors::OUTPUT_NORM, config.hidden)?,
            head: next(),
            embedding: (!extras.tied).then(|| Embedding::of(weights)).transpose()?,
            frequencies: config.rope.frequencies(config.head_dim, factors.as_deref()),
            config: config.clone(),
            _region: region,
        };
        Ok((model, writer))
    }

    /// Whether there are matrices in floating point.
    pub fn has_floats(&self) -> bool {
        let of_layer = |l: &Layer| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down].map(|m| m.format.is_float());
        self.head.format.is_float() || self.layers.iter().any(|l| of_layer(l).contains(&true))
    }

    /// Whether token embeddings are the head's rows.
    pub fn is_tied(&self) -> bool {
        self.embedding.is_none()
    }
}
