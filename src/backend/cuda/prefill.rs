//! Steps of many rows: matrices and attention on tensor cores, see `gemm.cu` and `prefill.cu`. And attention as it is written down,
//! `plain.cu`, for steps of any size.
#![expect(unsafe_code, reason = "arguments of kernels are read as bytes")]

use super::Cuda;
use super::args::{Activations, Attend, Gated, Matrix as Place, NONE, Plain, Qkv, bytes_of};
use super::gpu::Address;
use super::memory::PLAIN_ROWS;
use super::model::Matrix;
use crate::backend::{KvType, Seq};
use crate::error::Result;
use crate::format::packed::Format;
use crate::model::config::Config;

/// Of a block's tile: rows of activations and of a matrix, `ROWS` and `COLUMNS` of `tile.cuh`.
const TILE_ROWS: usize = 64;
const TILE_COLUMNS: usize = 128;
/// Queries of a block: `QUERIES` of `prefill.cu`.
const QUERIES: usize = 128;
/// Heads that `prefill.cu` has kernels for.
const HEAD_DIMS: [usize; 7] = [32, 48, 64, 80, 96, 112, 128];

/// `NormArgs` of `norm.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Norm {
    x: Address,
    weight: Address,
    to: Activations,
    eps: f32,
    pad: i32,
}

/// `LinearArgs` of `gemm.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct AddLinear {
    matrix: Place,
    x: Activations,
    stream: Address,
    rows: i32,
    pad: i32,
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
    kept: i32,
    first: i32,
    pad: i32,
}

// SAFETY: `repr(C)`, and the fields' sizes are multiples of their neighbours' alignment.
unsafe impl Plain for Norm {}
// SAFETY: as above.
unsafe impl Plain for AddLinear {}
// SAFETY: as above.
unsafe impl Plain for AttendTiles {}
// SAFETY: as above.
unsafe impl Plain for AttendPlainly {}

/// What blocks of attention have: first rows and counts, each of one sequence; those with the longest contexts first, so that no
/// long one is left for the end.
#[derive(Default)]
pub struct Tiles {
    /// (tiles, first | count)
    numbers: Vec<u32>,
    order: Vec<(u32, [u32; 2])>,
}

impl Tiles {
    /// Those of a step.
    fn plan(&mut self, seqs: &[Seq], config: &Config) {
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
    }

    fn count(&self) -> u32 {
        self.order.len() as u32
    }
}

impl Cuda {
    /// Tells the GPU which blocks attention of the step's many rows has.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn plan_tiles(&mut self) -> Result<()> {
        self.tiles.plan(self.step.seqs(), &self.model.config);
        self.gpu.write(self.buffers.tiles, bytes_of(&self.tiles.numbers))
    }

    /// The residual stream of many rows, normed.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn normed(&mut self, weight: Address) -> Result<Activations> {
        let to = self.buffers.normed;
        let args = Norm { x: self.buffers.hidden, weight, to, eps: self.model.config.rms_eps, pad: 0 };
        self.plainly("norm_quantize", [self.step.rows() as u32, 1, 1], args)?;
        Ok(to)
    }

    /// A kernel over a matrix of a format, of so many tiles along it.
    fn over_many<A: Plain>(&mut self, what: &str, format: Format, tiles: usize, args: A) -> Result<()> {
        let grid = [tiles as u32, self.step.rows().div_ceil(TILE_ROWS) as u32, 1];
        self.plainly(&format!("{what}_{format:?}_many"), grid, args)
    }

    /// Adds a matrix's product to the residual stream, or to other numbers.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn add_many(&mut self, matrix: Matrix, x: Activations, stream: Address) -> Result<()> {
        let rows = self.step.rows() as i32;
        let args = AddLinear { matrix: matrix.place, x, stream, rows, pad: 0 };
        self.over_many("add_linear", matrix.format, (matrix.place.rows as usize).div_ceil(TILE_COLUMNS), args)
    }

    /// For the parts that are not `NONE`.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn qkv_many(&mut self, format: Format, args: Qkv) -> Result<()> {
        let taken = args.parts.iter().filter(|part| part.kind != NONE);
        let tiles = taken.map(|part| (part.matrix.rows as usize).div_ceil(TILE_COLUMNS)).sum();
        self.over_many("qkv", format, tiles, args)
    }

    /// A tile has half its columns of each matrix.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn gated_many(&mut self, format: Format, args: Gated) -> Result<()> {
        self.over_many("gated", format, (args.gate.rows as usize).div_ceil(TILE_COLUMNS / 2), args)
    }

    /// The kernel for attention of many rows, where there is one for such heads.
    fn attend_kernel(&self) -> Option<String> {
        let config = &self.model.config;
        let what = match self.options.kv_type {
            KvType::F16 => "attend_many",
            KvType::Q8_0 => "attend_many_q8",
            KvType::F32 => return None,
        };
        let is_made = config.heads / config.kv_heads <= QUERIES && HEAD_DIMS.contains(&config.head_dim);
        is_made.then(|| format!("{what}_{}", config.head_dim))
    }

    /// Attention of many rows, where there is a kernel for it; whether there is.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn attend_many(&mut self, a: Attend) -> Result<bool> {
        let Some(kernel) = self.attend_kernel() else {
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
        self.plainly(&kernel, grid, args).map(|()| true)
    }

    /// Attention of any number of rows, as many at a time as there is room for scores of.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn attend_plainly(&mut self, a: Attend) -> Result<()> {
        let rows = self.step.rows();
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
                kept: a.kept,
                first: first as i32,
                pad: 0,
            };
            let (heads, some) = (a.heads as u32, PLAIN_ROWS.min(rows - first) as u32);
            self.plainly("plain_scores", [a.chunks as u32, heads, some], args)?;
            self.plainly("plain_softmax", [1, heads, some], args)?;
            self.plainly("plain_values", [1, heads, some], args)?;
        }
        Ok(())
    }
}
