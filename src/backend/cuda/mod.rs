//! The CUDA backend: the kernels of `kernels/cuda` on one NVIDIA GPU.
//!
//! Weights are laid out anew when a model is loaded (`layout`, `model`); weights, pages and activations are three pieces of
//! the GPU's memory, taken before the first step (`memory`). A phase is one to three kernels in one stream, activations
//! handed on in int8. Sampling and token embeddings are the host's. What the backend asks of the GPU is the trait
//! [`Gpu`]: tests run the same backend and the same kernels on the host.
//!
//! **Nothing of this has run on a GPU yet**: it is compiled by nvcc, and compared with the reference on the host. So it is
//! taken only when `--device cuda` asks for it.

mod args;
mod gpu;
mod images;
pub mod layout;
mod memory;
mod model;
mod prefill;
pub mod probe;
mod step;

pub use gpu::{Address, Gpu, Nvidia, THREADS};
pub use model::refusal;

use self::args::{
    Activations, Attend, Cache, Gated, Linear, NONE, Norm, Part, Plain, Qkv, Quantize, bytes_of, bytes_of_mut,
};
use self::memory::{Arena, Buffers, CHUNK, FEW};
use self::model::{Matrix, Model};
use self::prefill::Tiles;
use self::step::Step;
use super::outcome::Outcome;
use super::{
    Backend, Batch, KvType, Limits, MemoryPlan, MemoryUse, Out, PAGE, PageId, PageOp, Phases, Probe, Slot, StepOut,
};
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::packed::{Format, GROUP};
use crate::format::weights::Weights;
use crate::model::config::Config;

/// Query heads of a block: `HEADS` of `attention.cu`.
const HEADS: usize = 8;
/// Rows of a matrix that a block gives, of `linear` and `qkv`.
const BLOCK_ROWS: usize = 16;

/// How to run on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub kv_type: KvType,
    /// Whether attention is blocked; otherwise it is written plainly, to check the blocked forms by.
    pub flash_attention: bool,
}

/// Bytes this backend takes of the GPU's memory.
pub fn plan(config: &Config, tensors: &[&TensorInfo], limits: Limits, options: &Options) -> MemoryPlan {
    let mut arena = Arena::default();
    Buffers::new(&mut arena, config, &limits, options.flash_attention);
    let page = page_numbers(config) * number_bytes(options.kv_type);
    MemoryPlan {
        limits,
        weights: model::weight_bytes(tensors),
        kv: (limits.pages as u64).saturating_mul(page as u64),
        workspace: arena.next,
    }
}

/// Numbers of a page: (layers, K | V, `kv_heads`, `PAGE`, `head_dim`).
fn page_numbers(config: &Config) -> usize {
    2 * config.layers * config.kv_dim() * PAGE
}

/// Keys and values are f16, or else f32.
fn number_bytes(kv_type: KvType) -> usize {
    if kv_type == KvType::F16 { 2 } else { 4 }
}

/// The CUDA backend.
pub struct Cuda {
    gpu: Box<dyn Gpu>,
    model: Model,
    buffers: Buffers,
    limits: Limits,
    pages: Address,
    options: Options,
    step: Step,
    tiles: Tiles,
    /// The head's, of all rows that were asked for.
    logits: Vec<f32>,
    outcome: Outcome,
    memory: MemoryUse,
}

/// The name of a matrix kernel, for one row of activations or several.
macro_rules! kernel {
    ($what:literal, $format:expr, $rows:expr) => {
        match ($format, $rows == 1) {
            (Format::Affine4, true) => concat!($what, "_Affine4_1"),
            (Format::Affine4, false) => concat!($what, "_Affine4_4"),
            (Format::Affine4Min, true) => concat!($what, "_Affine4Min_1"),
            (Format::Affine4Min, false) => concat!($what, "_Affine4Min_4"),
            (Format::Lut4, true) => concat!($what, "_Lut4_1"),
            (Format::Lut4, false) => concat!($what, "_Lut4_4"),
            (Format::Int8, true) => concat!($what, "_Int8_1"),
            (Format::Int8, false) => concat!($what, "_Int8_4"),
            (Format::Int8Min, true) => concat!($what, "_Int8Min_1"),
            (Format::Int8Min, false) => concat!($what, "_Int8Min_4"),
            (Format::Q4K, true) => concat!($what, "_Q4K_1"),
            (Format::Q4K, false) => concat!($what, "_Q4K_4"),
            (Format::Q6K, true) => concat!($what, "_Q6K_1"),
            (Format::Q6K, false) => concat!($what, "_Q6K_4"),
            (Format::Half, true) => concat!($what, "_Half_1"),
            (Format::Half, false) => concat!($what, "_Half_4"),
            (Format::BHalf, true) => concat!($what, "_BHalf_1"),
            (Format::BHalf, false) => concat!($what, "_BHalf_4"),
            (Format::Single, true) => concat!($what, "_Single_1"),
            (Format::Single, false) => concat!($what, "_Single_4"),
        }
    };
}

/// Blocks along the rows of activations.
fn row_blocks(rows: usize) -> u32 {
    if rows == 1 { 1 } else { rows.div_ceil(4) as u32 }
}

impl Cuda {
    /// Lays the weights out in the memory of `gpu`, and takes room for pages and activations.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or unknown, or one with NaN or infinite numbers; or when the GPU has not the
    /// memory.
    pub fn load(
        mut gpu: Box<dyn Gpu>,
        config: &Config,
        weights: &Weights,
        plan: &MemoryPlan,
        options: &Options,
    ) -> Result<Self> {
        let model = Model::load(config, weights, plan.weights, &mut *gpu)?;
        let workspace = gpu.take(plan.workspace as usize)?;
        Ok(Self {
            pages: gpu.take(plan.kv as usize)?,
            buffers: Buffers::new(&mut Arena { next: workspace }, config, &plan.limits, options.flash_attention),
            limits: plan.limits,
            options: *options,
            step: Step::default(),
            tiles: Tiles::default(),
            logits: Vec::new(),
            outcome: Outcome::default(),
            memory: MemoryUse { weights: plan.weights, kv: plan.kv },
            gpu,
            model,
        })
    }

    fn launch<A: Plain>(&mut self, kernel: &'static str, grid: [u32; 3], args: A) -> Result<()> {
        self.gpu.launch(kernel, grid, bytes_of(&[args]))
    }

    /// Activations of `k` numbers a row.
    fn x(&self, k: usize) -> Activations {
        Activations { k: k as i64, ..self.buffers.x }
    }

    /// The residual stream, normed and quantized: all rows, or those that `which` names.
    fn norm(&mut self, weight: Address, which: Address, rows: usize) -> Result<()> {
        let Config { hidden, rms_eps: eps, .. } = self.model.config;
        let args = Norm { x: self.buffers.hidden, weight, which, to: self.x(hidden), eps, pad: 0 };
        self.launch("norm_quantize", [rows as u32, 1, 1], args)
    }

    fn linear(&mut self, matrix: Matrix, x: Activations, out: Address, rows: usize, add: bool) -> Result<()> {
        let args = Linear { matrix: matrix.place, x, out, rows: rows as i32, add: add.into() };
        let columns = matrix.place.rows as usize;
        let (kernel, grid) = if rows > FEW {
            prefill::linear(matrix.format, columns, rows)
        } else {
            (kernel!("linear", matrix.format, rows), [columns.div_ceil(BLOCK_ROWS) as u32, row_blocks(rows), 1])
        };
        self.launch(kernel, grid, args)
    }

    /// Numbers from a page's first to a layer's.
    fn layer_offset(&self, layer: usize) -> i64 {
        (page_numbers(&self.model.config) / self.model.config.layers * layer) as i64
    }

    fn cache(&self, layer: usize) -> Cache {
        let config = &self.model.config;
        Cache {
            bytes: self.pages,
            page: page_numbers(config) as i64,
            layer: self.layer_offset(layer),
            kv_heads: config.kv_heads as i32,
            head_dim: config.head_dim as i32,
            is_half: (self.options.kv_type == KvType::F16).into(),
            pad: 0,
        }
    }

    fn page_address(&self, page: PageId) -> Result<Address> {
        if page as usize >= self.limits.pages {
            return Err(Error::runtime(format!("page {page} is outside the pool of {}", self.limits.pages)));
        }
        Ok(self.pages
            + u64::from(page) * (page_numbers(&self.model.config) * number_bytes(self.options.kv_type)) as u64)
    }

    /// Goes through a page's numbers: their place among [`PageOp`]'s, and among the GPU's.
    fn page_order(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Config { layers, kv_heads, head_dim, .. } = self.model.config;
        (0..2 * layers * PAGE * kv_heads).flat_map(move |row| {
            let (head, offset, block) = (row % kv_heads, row / kv_heads % PAGE, row / kv_heads / PAGE);
            let there = ((block * kv_heads + head) * PAGE + offset) * head_dim;
            (0..head_dim).map(move |d| (row * head_dim + d, there + d))
        })
    }

    fn check_page(&self, len: usize) -> Result<()> {
        let needed = page_numbers(&self.model.config);
        if len != needed {
            return Err(Error::runtime(format!("a page holds {needed} numbers, not {len}")));
        }
        Ok(())
    }
}

impl Phases for Cuda {
    fn layers(&self) -> usize {
        self.model.layers.len()
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        batch.check(&self.model.config, self.limits.pages)?;
        if batch.rows.len() > self.limits.chunk {
            return Err(Error::runtime(format!("a step of {} rows is larger than was planned", batch.rows.len())));
        }
        self.step.take_in(batch, &self.model, &self.outcome)?;
        self.step.upload(&self.buffers, &mut *self.gpu)?;
        if self.step.rows() > FEW && self.attends_in_tiles() {
            self.tiles.plan(self.step.seqs(), &self.model.config, self.buffers.tiles, &mut *self.gpu)?;
        }
        Ok(())
    }

    fn qkv(&mut self, layer: usize) -> Result<()> {
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
        let (matrices, bias, norm) = (l.qkv, l.bias, l.attn_norm);
        self.norm(norm, 0, rows)?;
        // One launch for all parts of a format.
        for (first, leader) in matrices.iter().enumerate() {
            if matrices[..first].iter().any(|m| m.format == leader.format) {
                continue;
            }
            let part = |i: usize| Part {
                matrix: matrices[i].place,
                bias: bias[i],
                kind: if matrices[i].format == leader.format { i as i64 } else { NONE },
            };
            let args = Qkv {
                parts: std::array::from_fn(part),
                x: self.x(self.model.config.hidden),
                cache: self.cache(layer),
                query: self.buffers.query,
                angles: self.buffers.angles,
                places: self.buffers.places,
                rows: rows as i32,
                pad: 0,
            };
            let widest = self.model.config.q_dim().max(self.model.config.kv_dim());
            let (kernel, grid) = if rows > FEW {
                prefill::qkv(leader.format, &args.parts, rows)
            } else {
                (kernel!("qkv", leader.format, rows), [widest.div_ceil(BLOCK_ROWS) as u32, row_blocks(rows), 3])
            };
            self.launch(kernel, grid, args)?;
        }
        Ok(())
    }

    fn attend(&mut self, layer: usize) -> Result<()> {
        let (rows, config) = (self.step.rows(), &self.model.config);
        let chunks = self.step.longest().div_ceil(CHUNK);
        let args = Attend {
            query: self.buffers.query,
            cache: self.pages,
            page: page_numbers(config) as i64,
            layer: self.layer_offset(layer),
            tables: self.buffers.tables,
            table: self.buffers.table,
            positions: self.buffers.positions,
            partials: self.buffers.partials,
            out: self.buffers.attended,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            heads: config.heads as i32,
            kv_heads: config.kv_heads as i32,
            head_dim: config.head_dim as i32,
            window: config.window.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX)),
            chunks: chunks as i32,
            is_half: (self.options.kv_type == KvType::F16).into(),
            pad: 0,
        };
        let heads = config.heads as u32;
        let blocks = (config.kv_heads * (config.heads / config.kv_heads).div_ceil(HEADS)) as u32;
        if !self.options.flash_attention {
            return self.attend_plainly(args);
        }
        if rows > FEW && self.attend_many(args)? {
            return Ok(());
        }
        if rows > FEW {
            return self.launch("attend_row", [1, blocks, rows as u32], args);
        }
        self.launch("attend_chunk", [chunks as u32, blocks, rows as u32], args)?;
        self.launch("attend_join", [1, heads, rows as u32], args)
    }

    fn attn_out(&mut self, layer: usize) -> Result<()> {
        let (rows, x) = (self.step.rows(), self.x(self.model.config.q_dim()));
        self.launch("quantize_rows", [rows as u32, 1, 1], Quantize { x: self.buffers.attended, to: x })?;
        self.linear(self.model.layers[layer].o, x, self.buffers.hidden, rows, true)
    }

    fn gate_up(&mut self, layer: usize) -> Result<()> {
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
        let (gate, up, norm) = (l.gate, l.up, l.ffn_norm);
        self.norm(norm, 0, rows)?;
        let args = Gated {
            gate: gate.place,
            up: up.place,
            x: self.x(self.model.config.hidden),
            to: self.buffers.gated,
            rows: rows as i32,
            pad: 0,
        };
        let ffn = self.model.config.ffn;
        let (kernel, grid) = if rows > FEW {
            prefill::gated(gate.format, ffn, rows)
        } else {
            (kernel!("gated", gate.format, rows), [(ffn / GROUP) as u32, row_blocks(rows), 1])
        };
        self.launch(kernel, grid, args)
    }

    fn down(&mut self, layer: usize) -> Result<()> {
        let rows = self.step.rows();
        self.linear(self.model.layers[layer].down, self.buffers.gated, self.buffers.hidden, rows, true)
    }

    fn head(&mut self, out: &[Out<'_>]) -> Result<()> {
        let vocab = self.model.config.vocab;
        self.logits.resize(out.len() * vocab, 0.0);
        let at_once = self.limits.sequences.clamp(1, self.limits.chunk);
        for (i, some) in out.chunks(at_once).enumerate() {
            self.step.ask_for(some, &self.buffers, &mut *self.gpu)?;
            self.norm(self.model.output_norm, self.buffers.which, some.len())?;
            let x = self.x(self.model.config.hidden);
            self.linear(self.model.head, x, self.buffers.logits, some.len(), false)?;
            let into = &mut self.logits[i * at_once * vocab..][..some.len() * vocab];
            self.gpu.read(self.buffers.logits, bytes_of_mut(into))?;
        }
        self.outcome.settle(self.step.seqs(), out, self.logits.chunks_exact(vocab))
    }
}

impl Backend for Cuda {
    fn config(&self) -> &Config {
        &self.model.config
    }

    fn collect(&mut self) -> Result<StepOut<'_>> {
        Ok(self.outcome.step())
    }

    fn pages(&mut self, op: PageOp<'_>) -> Result<()> {
        let bytes = page_numbers(&self.model.config) * number_bytes(self.options.kv_type);
        match op {
            PageOp::Copy { from, to } => {
                let (from, to) = (self.page_address(from)?, self.page_address(to)?);
                self.gpu.copy(from, to, bytes)
            }
            PageOp::Read { page, into } => {
                let at = self.page_address(page)?;
                self.check_page(into.len())?;
                let mut stored = vec![0; bytes];
                self.gpu.read(at, &mut stored)?;
                for (here, there) in self.page_order() {
                    into[here] = match self.options.kv_type {
                        KvType::F16 => half::f16::from_le_bytes([stored[2 * there], stored[2 * there + 1]]).to_f32(),
                        _ => f32::from_le_bytes(std::array::from_fn(|i| stored[4 * there + i])),
                    };
                }
                Ok(())
            }
            PageOp::Write { page, from } => {
                let at = self.page_address(page)?;
                self.check_page(from.len())?;
                let mut stored = vec![0; bytes];
                for (here, there) in self.page_order() {
                    match self.options.kv_type {
                        KvType::F16 => {
                            stored[2 * there..][..2].copy_from_slice(&half::f16::from_f32(from[here]).to_le_bytes());
                        }
                        _ => stored[4 * there..][..4].copy_from_slice(&from[here].to_le_bytes()),
                    }
                }
                self.gpu.write(at, &stored)
            }
        }
    }

    fn memory(&self) -> MemoryUse {
        self.memory
    }
}

impl Cuda {
    fn slot(&self, slot: Slot) -> (Address, usize) {
        let config = &self.model.config;
        match slot {
            Slot::Hidden => (self.buffers.hidden, config.hidden),
            Slot::Query => (self.buffers.query, config.q_dim()),
            Slot::Attended => (self.buffers.attended, config.q_dim()),
            Slot::Gated => (self.buffers.gated.numbers, config.ffn),
        }
    }
}

impl Probe for Cuda {
    fn put(&mut self, slot: Slot, values: &[f32]) -> Result<()> {
        let (place, _) = self.slot(slot);
        self.gpu.write(place, bytes_of(values))?;
        if slot == Slot::Gated {
            // What `down` reads is what `gate_up` made of them.
            let args = Quantize { x: place, to: self.buffers.gated };
            self.launch("quantize_rows", [self.step.rows() as u32, 1, 1], args)?;
        }
        Ok(())
    }

    fn get(&mut self, slot: Slot) -> Result<Vec<f32>> {
        let (place, columns) = self.slot(slot);
        let mut values = vec![0.0; self.step.rows() * columns];
        self.gpu.read(place, bytes_of_mut(&mut values))?;
        Ok(values)
    }
}
