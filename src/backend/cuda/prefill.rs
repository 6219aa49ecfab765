//! Steps of many rows: matrices and attention on tensor cores, see `gemm.cu` and `prefill.cu`. And attention as it is written down,
//! `plain.cu`, for steps of any size.
#![expect(unsafe_code, reason = "arguments of kernels are read as bytes")]

use super::args::{Attend, Part, Plain, bytes_of};
use super::gpu::{Address, Gpu};
use super::memory::PLAIN_ROWS;
use super::{Cuda, NONE, number_bytes};
use crate::backend::{KvType, Seq};
use crate::error::Result;
use crate::format::packed::Format;
use crate::model::config::Config;

/// Of a block's tile: rows of activations and of a matrix, `ROWS` and `COLUMNS` of `tile.cuh`.
const TILE_ROWS: usize = 64;
const TILE_COLUMNS: usize = 128;
/// Queries of a block: `QUERIES` of `prefill.cu`.
const QUERIES: usize = 128;
/// Threads of a block.
const POSITIONS: usize = super::THREADS as usize;

/// A kernel, and its grid.
pub type Launch = (&'static str, [u32; 3]);

/// The name of a matrix kernel.
macro_rules! many {
    ($what:literal, $format:expr) => {
        match $format {
            Format::Affine4 => concat!($what, "_Affine4_many"),
            Format::Affine4Min => concat!($what, "_Affine4Min_many"),
            Format::Lut4 => concat!($what, "_Lut4_many"),
            Format::Int8 => concat!($what, "_Int8_many"),
            Format::Int8Min => concat!($what, "_Int8Min_many"),
            Format::Q4K => concat!($what, "_Q4K_many"),
            Format::Q6K => concat!($what, "_Q6K_many"),
            Format::Half => concat!($what, "_Half_many"),
            Format::BHalf => concat!($what, "_BHalf_many"),
            Format::Single => concat!($what, "_Single_many"),
        }
    };
}

fn row_tiles(rows: usize) -> u32 {
    rows.div_ceil(TILE_ROWS) as u32
}

/// For a matrix of `columns` rows.
pub fn linear(format: Format, columns: usize, rows: usize) -> Launch {
    (many!("linear", format), [columns.div_ceil(TILE_COLUMNS) as u32, row_tiles(rows), 1])
}

/// For the parts that are not [`NONE`].
pub fn qkv(format: Format, parts: &[Part], rows: usize) -> Launch {
    let taken = parts.iter().filter(|part| part.kind != NONE);
    let tiles: usize = taken.map(|part| (part.matrix.rows as usize).div_ceil(TILE_COLUMNS)).sum();
    (many!("qkv", format), [tiles as u32, row_tiles(rows), 1])
}

/// For gate and up matrices of `ffn` rows: a tile has half its columns of each.
pub fn gated(format: Format, ffn: usize, rows: usize) -> Launch {
    (many!("gated", format), [ffn.div_ceil(TILE_COLUMNS / 2) as u32, row_tiles(rows), 1])
}

/// `AttendArgs` of `prefill.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct AttendTiles {
    query: Address,
    cache: Address,
    page: i64,
    layer: i64,
    tables: Address,
    table: Address,
    positions: Address,
    tiles: Address,
    out: Address,
    scale: f32,
    heads: i32,
    kv_heads: i32,
    window: i32,
}

/// `PlainArgs` of `plain.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct AttendPlainly {
    query: Address,
    cache: Address,
    page: i64,
    layer: i64,
    tables: Address,
    table: Address,
    positions: Address,
    scores: Address,
    out: Address,
    context: i64,
    scale: f32,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    window: i32,
    is_half: i32,
    first: i32,
    pad: i32,
}

// SAFETY: `repr(C)`, and the fields' sizes are multiples of their neighbours' alignment.
unsafe impl Plain for AttendTiles {}
// SAFETY: as above.
unsafe impl Plain for AttendPlainly {}

/// The kernel for heads of a size, where there is one.
fn attend_kernel(config: &Config, kv_type: KvType) -> Option<&'static str> {
    if kv_type != KvType::F16 || config.heads / config.kv_heads > QUERIES {
        return None;
    }
    Some(match config.head_dim {
        32 => "attend_many_32",
        48 => "attend_many_48",
        64 => "attend_many_64",
        80 => "attend_many_80",
        96 => "attend_many_96",
        112 => "attend_many_112",
        128 => "attend_many_128",
        _ => return None,
    })
}

/// What blocks of attention have: first rows and counts, each of one sequence; those with the longest contexts first, so that no
/// long one is left for the end.
#[derive(Default)]
pub struct Tiles {
    /// (tiles, first | count)
    numbers: Vec<u32>,
    order: Vec<(u32, [u32; 2])>,
}

impl Tiles {
    /// Those of a step; tells the GPU.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn plan(&mut self, seqs: &[Seq], config: &Config, to: Address, gpu: &mut dyn Gpu) -> Result<()> {
        let most = (QUERIES / (config.heads / config.kv_heads)).max(1) as u32;
        self.order.clear();
        for seq in seqs {
            for first in seq.rows.clone().step_by(most as usize) {
                let count = most.min(seq.rows.end - first);
                let end = seq.kv_len - (seq.rows.end - (first + count));
                self.order.push((end, [first, count]));
            }
        }
        self.order.sort_unstable_by_key(|(end, [first, _])| (u32::MAX - end, *first));
        self.numbers.clear();
        self.numbers.extend(self.order.iter().flat_map(|(_, tile)| tile));
        gpu.write(to, bytes_of(&self.numbers))
    }

    fn count(&self) -> u32 {
        self.order.len() as u32
    }
}

impl Cuda {
    /// Whether steps of many rows have their attention on tensor cores.
    pub(super) fn attends_in_tiles(&self) -> bool {
        attend_kernel(&self.model.config, self.options.kv_type).is_some()
    }

    /// Attention of many rows, where there is a kernel for it; whether there is.
    pub(super) fn attend_many(&mut self, a: Attend) -> Result<bool> {
        let Some(kernel) = attend_kernel(&self.model.config, self.options.kv_type) else {
            return Ok(false);
        };
        let args = AttendTiles {
            query: a.query,
            cache: a.cache,
            page: a.page,
            layer: a.layer,
            tables: a.tables,
            table: a.table,
            positions: a.positions,
            tiles: self.buffers.tiles,
            out: a.out,
            scale: a.scale,
            heads: a.heads,
            kv_heads: a.kv_heads,
            window: a.window,
        };
        let grid = [a.kv_heads as u32, self.tiles.count(), 1];
        self.launch(kernel, grid, args).map(|()| true)
    }

    /// Attention of any number of rows, as many at a time as there is room for scores of.
    pub(super) fn attend_plainly(&mut self, a: Attend) -> Result<()> {
        let (rows, longest) = (self.step.rows(), self.step.longest());
        for first in (0..rows).step_by(PLAIN_ROWS) {
            let args = AttendPlainly {
                query: a.query,
                cache: a.cache,
                page: a.page,
                layer: a.layer,
                tables: a.tables,
                table: a.table,
                positions: a.positions,
                scores: self.buffers.scores,
                out: a.out,
                context: self.limits.context as i64,
                scale: a.scale,
                heads: a.heads,
                kv_heads: a.kv_heads,
                head_dim: a.head_dim,
                window: a.window,
                is_half: (number_bytes(self.options.kv_type) == 2).into(),
                first: first as i32,
                pad: 0,
            };
            let (heads, some) = (a.heads as u32, PLAIN_ROWS.min(rows - first) as u32);
            self.launch("plain_scores", [longest.div_ceil(POSITIONS) as u32, heads, some], args)?;
            self.launch("plain_softmax", [1, heads, some], args)?;
            self.launch("plain_values", [1, heads, some], args)?;
        }
        Ok(())
    }
}
