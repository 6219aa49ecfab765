//! A step of one row as one kernel that stays: `persistent.cuh`.

use super::args::{Input, Persistent as Args, PersistentLayer, bytes_of};
use super::few::coded_bytes;
use super::gpu::{Address, Gpu, Launch, Order};
use super::layout::matrix_bytes;
use super::memory::{Arena, Buffers, SPAN, chunks};
use super::model::{Layer, Model};
use super::{Cuda, Options};
use crate::backend::{KvType, Limits};
use crate::error::Result;
use crate::format::packed::Format;
use crate::model::config::Config;

/// Types of weights that there are kernels for, all of a model's being one of them.
const FORMATS: [Format; 3] = [Format::Affine4, Format::Affine4Min, Format::Lut4];
/// Threads of a block: warps that compute, one that fills the ring, one that meets the other blocks'.
const THREADS: u32 = 32 * 18;
/// Shared memory in front of rows and slots: `Desk` of `persistent.cuh`.
const DESK: usize = 1840;
/// Slots of the ring at most, and as few as it takes to ask for weights ahead.
const MOST_SLOTS: usize = 64;
const FEWEST_SLOTS: usize = 4;
/// Bytes of a slot, where rows are not longer; its planes begin on boundaries of 16.
const SLOT: usize = 9504;
const MARGIN: usize = 96;
/// Slots under way at a time: enough to keep the memory busy, and no more. H100, matrices of a token of TinyLlama:
const AHEAD: i32 = 2;

/// Places in the GPU's memory that such a kernel has for itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Persistent {
    /// (layers)
    layers: Address,
    /// Rows that blocks hand each other, tagged numbers, one behind the other: see [`Self::new`].
    query: Address,
    attended: Address,
    hidden: Address,
    gated: Address,
    partials: Address,
    /// 1: phases that blocks are done with; 0 between steps.
    met: Address,
    /// Of all of it.
    bytes: usize,
}

impl Persistent {
    /// Takes no room where a model's sizes or the options leave no such kernel.
    pub fn new(arena: &mut Arena, config: &Config, limits: &Limits, options: Options) -> Self {
        if !takes(config, options) {
            return Self::default();
        }
        let first = arena.next;
        let mut numbers = |count: usize| arena.take(4 * count);
        let mut this = Self {
            query: numbers(config.q_dim() + 2 * config.kv_dim()),
            attended: numbers(config.q_dim()),
            hidden: numbers(2 * config.hidden),
            gated: numbers(config.ffn),
            partials: numbers(config.heads * chunks(limits) * (config.head_dim + 2)),
            met: numbers(1),
            layers: numbers(config.layers * size_of::<PersistentLayer>() / 4),
            bytes: 0,
        };
        this.bytes = (arena.next - first) as usize;
        this
    }
}

/// Whether there are kernels for such a model, whatever its weights are. Numbers of layers that follow each other have other tags, which takes two
/// of them.
fn takes(config: &Config, options: Options) -> bool {
    options.kv_type == KvType::F16
        && options.flash_attention
        && [64, 128].contains(&config.head_dim)
        && config.heads / config.kv_heads <= 8
        && config.layers > 1
}

/// Writes what such kernels begin with.
///
/// # Errors
/// When the GPU fails.
pub fn prepare(model: &Model, buffers: &Buffers, limits: &Limits, options: Options, gpu: &mut dyn Gpu) -> Result<()> {
    let (config, to) = (&model.config, &buffers.persistent);
    if !takes(config, options) {
        return Ok(());
    }
    gpu.write(to.query, &vec![0; to.bytes])?;
    let layers: Vec<_> = model.layers.iter().map(of_layer).collect();
    debug_assert!(chunks(limits) > 0);
    gpu.write(to.layers, bytes_of(&layers))
}

fn of_layer(layer: &Layer) -> PersistentLayer {
    let [q, k, v] = layer.qkv;
    PersistentLayer {
        attn_norm: layer.attn_norm,
        ffn_norm: layer.ffn_norm,
        bias: layer.bias,
        planes: [q, k, v, layer.o, layer.gate, layer.up, layer.down].map(|m| m.place.planes),
    }
}

/// How a block's shared memory is cut up.
struct Cut {
    staged: usize,
    slots: usize,
    slot: usize,
    residual: usize,
    shared: usize,
}

impl Cut {
    /// `None` where there is too little of it.
    fn new(config: &Config, format: Format, gpu: &dyn Gpu) -> Option<Self> {
        let staged = coded_bytes(config.hidden, true)
            .max(coded_bytes(config.q_dim(), false))
            .max(coded_bytes(config.ffn, false));
        // What the warps of attention share: `Room` of `decode.cuh`.
        let attending = 8 * 8 * (4 * (config.head_dim + 16) + 8);
        let two_rows = 2 * matrix_bytes(format, 1, config.hidden);
        let row = matrix_bytes(format, 1, config.ffn).max(matrix_bytes(format, 1, config.q_dim()));
        let slot = SLOT.max(two_rows.max(row) + MARGIN).next_multiple_of(16);
        let residual = 4 * config.hidden.div_ceil(gpu.multiprocessors()).next_multiple_of(4);
        // Keys and values of a chunk.
        let chunk = 2 * 2 * SPAN * config.head_dim;
        let before = DESK + staged.max(attending) + residual + chunk;
        let slots = (gpu.shared_memory().checked_sub(before)? / slot).min(MOST_SLOTS);
        (slots >= FEWEST_SLOTS).then(|| Self { staged, slots, slot, residual, shared: before + slots * slot })
    }
}

impl Cuda {
    /// Whether one kernel can do all of a step of one row.
    pub fn can_persist(&self) -> bool {
        let (config, head) = (&self.model.config, self.model.head);
        let is_like_head = |l: &Layer| {
            [l.qkv[0], l.qkv[1], l.qkv[2], l.o, l.gate, l.up, l.down]
                .iter()
                .all(|m| m.format == head.format && m.place.codebook == head.place.codebook)
        };
        takes(config, self.options)
            && self.gpu.overlaps()
            && FORMATS.contains(&head.format)
            && self.model.layers.iter().all(is_like_head)
            && Cut::new(config, head.format, &*self.gpu).is_some()
    }

    /// A step of one row behind its first kernel, the head with it.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_persistent(&mut self, draws: Address) -> Result<()> {
        let (config, places, mine) = (&self.model.config, self.places(), self.buffers.persistent);
        let head = self.model.head;
        let Some(cut) = Cut::new(config, head.format, &*self.gpu) else {
            return Err(crate::error::Error::runtime("a block has too little shared memory for a step"));
        };
        let row = self.row(mine.hidden, self.model.output_norm, config.hidden);
        let (cache, _) = self.new_rows(1, places.cells);
        let args = Args {
            layers: mine.layers,
            output_norm: self.model.output_norm,
            stream: self.buffers.hidden,
            query: mine.query,
            attended: mine.attended,
            hidden: mine.hidden,
            gated: mine.gated,
            met: mine.met,
            angles: places.angles,
            place: places.cells,
            cache,
            attend: super::args::Decode {
                query: mine.query,
                partials: mine.partials,
                ..self.decode_args(self.layer_offset(1))
            },
            head: self.head_args(Input { row, ready: self.buffers.normed }, 1, draws),
            count: config.layers as i32,
            width: config.hidden as i32,
            ffn: config.ffn as i32,
            eps: config.rms_eps,
            inverse: row.inverse,
            slots: cut.slots as i32,
            slot: cut.slot as i32,
            ahead: AHEAD,
            staged: cut.staged as i32,
            residual: cut.residual as i32,
        };
        let launch = Launch {
            kernel: &format!("persistent_{:?}_{}", head.format, config.head_dim),
            grid: [self.gpu.multiprocessors() as u32, 1, 1],
            threads: THREADS,
            shared: cut.shared,
            order: Order::Together,
        };
        self.launch(&launch, args)
    }
}
