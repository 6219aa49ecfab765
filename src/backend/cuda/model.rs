//! A model's weights in the GPU's memory.

use std::collections::HashMap;
use std::time::Instant;

use super::args::{Matrix as Place, bytes_of};
use super::gpu::{Address, Gpu};
use super::layout::matrix_bytes;
use super::load::Loader;
use super::memory::Arena;
use crate::error::Result;
use crate::format::TensorInfo;
use crate::format::packed::Format;
use crate::format::weights::Weights;
use crate::model::config::Config;
use crate::model::tensors::{self, of_layer};
use crate::terminal::progress::Mode;

/// The widest head that attention takes: `MAX_DIM` of `attention.cu`.
const MAX_HEAD_DIM: usize = 256;

/// A matrix, and the format that chooses its kernels.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    pub format: Format,
    pub place: Place,
}

pub struct Layer {
    pub attn_norm: Address,
    pub qkv: [Matrix; 3],
    /// Of Q, K and V; 0 for none.
    pub bias: [Address; 3],
    pub o: Matrix,
    pub ffn_norm: Address,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

impl Layer {
    /// Whether gate and up matrices are of two.
    pub fn has_two_types(&self) -> bool {
        self.gate.format != self.up.format
    }
}

pub struct Model {
    pub config: Config,
    pub layers: Vec<Layer>,
    pub output_norm: Address,
    /// The head itself, where they are tied.
    pub embedding: Matrix,
    pub head: Matrix,
    pub frequencies: Vec<f32>,
}

/// Why this backend does not take a model; `None` when it does.
pub fn refusal(config: &Config) -> Option<String> {
    let sizes = [
        ("hidden size", config.hidden, 32),
        ("feed-forward size", config.ffn, 32),
        ("width of all queries", config.q_dim(), 32),
        ("head size", config.head_dim, 8),
    ];
    let odd = sizes.iter().find(|(_, n, step)| !n.is_multiple_of(*step));
    odd.map(|(what, n, step)| format!("the {what} of {n} is no multiple of {step}")).or_else(|| {
        (config.head_dim > MAX_HEAD_DIM)
            .then(|| format!("the head size of {} is above {MAX_HEAD_DIM}", config.head_dim))
    })
}

/// Whether gate and up matrices of a layer are of two types, by a model's tensors.
pub fn have_two_types(tensors: &[&TensorInfo]) -> bool {
    let formats = |part: &str| -> HashMap<&str, Format> {
        tensors.iter().filter_map(|t| Some((t.name.strip_suffix(part)?, Format::of(t.dtype)))).collect()
    };
    formats("ffn_gate.weight") != formats("ffn_up.weight")
}

/// Bytes of all weights.
pub fn weight_bytes(tensors: &[&TensorInfo]) -> u64 {
    let mut arena = Arena::default();
    for t in tensors {
        match t.shape[..] {
            [rows, k] => {
                arena.take(matrix_bytes(Format::of(t.dtype), rows, k));
            }
            [n] => {
                arena.take(4 * n);
            }
            _ => {}
        }
    }
    arena.next
}

impl Model {
    /// # Errors
    /// A tensor that is missing, misshapen or unknown, or one with NaN or infinite numbers; or when the GPU fails.
    pub fn load(config: &Config, weights: &Weights, bytes: u64, mode: Mode, gpu: &mut dyn Gpu) -> Result<Self> {
        let start = Instant::now();
        let extras = tensors::check(config, weights)?;
        let base = gpu.take(bytes as usize)?;
        let mut loader = Loader::new(weights, bytes, Arena { next: base }, mode, gpu)?;
        let layers =
            (0..config.layers).map(|l| loader.layer(l, config, extras.qkv_bias)).collect::<Result<Vec<_>>>()?;
        let embedding = loader.matrix(tensors::EMBEDDING)?;
        let head = if extras.tied { embedding } else { loader.matrix(tensors::OUTPUT)? };
        let output_norm = loader.vector(tensors::OUTPUT_NORM, config.hidden)?;
        debug_assert!(loader.arena.next <= base + bytes, "the plan is too small");
        let factors =
            extras.rope_factors.then(|| weights.f32(tensors::ROPE_FACTORS, &[config.head_dim / 2])).transpose()?;
        loader.finish()?;
        tracing::info!("weights loaded in {:.2} s", start.elapsed().as_secs_f64());
        Ok(Self {
            layers,
            output_norm,
            embedding,
            head,
            frequencies: config.rope.frequencies(config.head_dim, factors.as_deref()),
            config: config.clone(),
        })
    }
}

impl Loader<'_> {
    fn layer(&mut self, l: usize, config: &Config, has_bias: bool) -> Result<Layer> {
        let mut matrix = |part: &str| self.matrix(&of_layer(l, part));
        let qkv = [matrix("attn_q.weight")?, matrix("attn_k.weight")?, matrix("attn_v.weight")?];
        let (o, gate) = (matrix("attn_output.weight")?, matrix("ffn_gate.weight")?);
        let (up, down) = (matrix("ffn_up.weight")?, matrix("ffn_down.weight")?);
        let mut bias = [0; 3];
        if has_bias {
            for (bias, (part, n)) in
                bias.iter_mut().zip([("q", config.q_dim()), ("k", config.kv_dim()), ("v", config.kv_dim())])
            {
                *bias = self.vector(&of_layer(l, &format!("attn_{part}.bias")), n)?;
            }
        }
        Ok(Layer {
            attn_norm: self.vector(&of_layer(l, "attn_norm.weight"), config.hidden)?,
            ffn_norm: self.vector(&of_layer(l, "ffn_norm.weight"), config.hidden)?,
            qkv,
            bias,
            o,
            gate,
            up,
            down,
        })
    }

    fn vector(&mut self, name: &str, n: usize) -> Result<Address> {
        let place = self.arena.take(4 * n);
        self.gpu.write(place, bytes_of(&self.weights.f32(name, &[n])?))?;
        Ok(place)
    }
}
