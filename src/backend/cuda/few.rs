//! How kernels over a matrix are cut into blocks, with few rows of activations: `gemv.cuh`, and `several.cuh` in several.rs.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::gpu::Gpu;
use super::layout::{matrix_bytes, planes};
use super::several;
use crate::format::packed::{Format, GROUP};

/// Warps of a block: `WARPS` of `common.cuh`.
const WARPS: usize = 8;

/// Whether blocks make of the one row what they multiply, of so many bytes of shared memory: `STAGED` of `stream.cuh`. A long row in
/// floating point may leave nothing to weights; kernels of several rows read it where it is.
pub fn stages(format: Format, rows: usize, k: usize, is_normed: bool, room: usize) -> bool {
    rows == 1 && staged_bytes(format, k, is_normed) + MOST_OF_A_WARP + OWN_SHARED <= room
}

/// Bytes of a staged row: `bytes` of `stage.cuh` and of `numbers.cuh`.
fn staged_bytes(format: Format, k: usize, is_normed: bool) -> usize {
    if format.is_float() { k / GROUP * (4 * GROUP + 16) } else { coded_bytes(k, is_normed) }
}

/// The same of one in int8.
pub fn coded_bytes(k: usize, is_normed: bool) -> usize {
    (k / GROUP * if is_normed { 88 } else { 48 }).next_multiple_of(16)
}

/// How blocks of kernels with one row of packed numbers share a multiprocessor: see `most_registers` of `gemv.cuh`. Answers are the same.
/// Those of 8 bits have too many bytes under way to share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// A block of a kernel that adds to the residual stream beside one of the kernel before or behind it.
    Beside,
    /// One block by itself, of as many warps as pay; of narrow models two may fit even so.
    Alone,
}

/// Warps of a block. With 13 to 16, the fullest quarter of a multiprocessor has four of them, and its registers leave room for four of a
/// kernel that adds; with 17 it has five, which do not.
const BESIDE: RangeInclusive<usize> = 13..=16;
const ALONE: RangeInclusive<usize> = 17..=24;
/// The same of a kernel that adds, alone.
const MOST_ADDING: usize = 32;

/// A kernel over the rows of a matrix, with few rows of activations.
pub struct Few<'a> {
    pub what: &'a str,
    pub format: Format,
    /// Rows of a tile, which is what a warp computes at a time.
    pub tile: usize,
    pub tiles: usize,
    /// Of the activations.
    pub k: usize,
    pub is_normed: bool,
    pub rows: usize,
}

/// A launch of such a kernel.
pub struct Cut {
    /// Rows of activations that a block takes.
    pub at_once: usize,
    pub blocks: usize,
    /// Warps of a block, and the shared memory that it takes.
    pub warps: usize,
    pub shared: usize,
}

impl Few<'_> {
    /// What a block can have: the same of `gemv.cuh`.
    fn most_warps(&self, at_once: usize, sharing: Sharing) -> usize {
        match (self.what, self.takes(sharing)) {
            _ if at_once > 1 => WARPS,
            _ if self.format.is_float() => 16,
            ("logits", _) => 24,
            (_, Sharing::Beside) => *BESIDE.end(),
            ("add_linear", Sharing::Alone) => MOST_ADDING,
            ("gated", Sharing::Alone) => *ALONE.start(),
            (_, Sharing::Alone) => *ALONE.end(),
        }
    }

    /// Whether a group has 8 bits a number, or more.
    fn is_long(&self) -> bool {
        matrix_bytes(self.format, 1, GROUP * 8) >= GROUP * 8
    }

    fn takes(&self, sharing: Sharing) -> Sharing {
        if self.is_long() { Sharing::Alone } else { sharing }
    }

    /// Warps that a block has even if there is nothing for some to do: see [`Sharing`].
    fn least_warps(&self, most: usize, sharing: Sharing) -> usize {
        let least = match (self.what, sharing) {
            ("add_linear" | "logits", _) => 1,
            _ if self.format.is_float() || self.is_long() => 1,
            (_, Sharing::Beside) => *BESIDE.start(),
            (_, Sharing::Alone) => *ALONE.start(),
        };
        least.max(self.quantizing_warps(most)).min(most)
    }

    /// Shared memory of a block with so many warps that have tiles: `stage.cuh`, and `Stream` of `stream.cuh`.
    fn shared(&self, at_once: usize, warps: usize) -> usize {
        let lots = match (self.tile, self.is_long()) {
            (_, true) => 3,
            (1, false) => 4,
            (_, false) => 2,
        };
        let rows = if at_once == 1 { staged_bytes(self.format, self.k, self.is_normed) } else { 0 };
        rows + warps * lots * self.tile * piece_bytes(self.format)
    }

    /// Of several packed rows, teams of warps (`several.rs`), or a row a block where blocks have no room for more. Otherwise one block a
    /// multiprocessor, of as few warps as it takes to have all tiles in as few turns as there can be, and of as many as it takes to
    /// quantize four numbers each and as [`Sharing`] asks for; with several rows in floating point, blocks of 8 warps for one turn.
    pub fn cut(&self, gpu: &dyn Gpu, sharing: Sharing) -> Cut {
        let is_float = self.format.is_float();
        if self.rows > 1
            && !is_float
            && let Some(cut) = several::cut(self, gpu)
        {
            return cut;
        }
        let at_once = if is_float && !self.is_staged(gpu) { 4 } else { 1 };
        let most = self.most_that_fit(at_once, gpu, sharing);
        if at_once > 1 {
            return Cut { at_once, blocks: self.tiles.div_ceil(most), warps: most, shared: self.shared(at_once, most) };
        }
        let turns = self.tiles.div_ceil(gpu.multiprocessors() * most);
        let warps = self.tiles.div_ceil(gpu.multiprocessors() * turns);
        let blocks = self.tiles.div_ceil(turns * warps);
        let warps = warps.max(self.least_warps(most, sharing));
        let shared = self.shared(at_once, warps.min(self.tiles.div_ceil(blocks)));
        Cut { at_once, blocks, warps, shared: shared.max(self.least_shared(gpu, sharing)) }
    }

    /// So much that a multiprocessor has no room for two blocks, of a kernel whose registers leave some: see `most_registers` of `gemv.cuh`.
    fn least_shared(&self, gpu: &dyn Gpu, sharing: Sharing) -> usize {
        if self.what == "add_linear" && self.takes(sharing) == Sharing::Beside {
            gpu.shared_memory() / 2 + OF_ANY_BLOCK
        } else {
            0
        }
    }

    /// As many as it takes to quantize four numbers each.
    fn quantizing_warps(&self, most: usize) -> usize {
        most.min(QUANTIZING_WARPS).min(self.k.div_ceil(4 * 32))
    }

    /// Warps of a block that have room beside their activations.
    fn most_that_fit(&self, at_once: usize, gpu: &dyn Gpu, sharing: Sharing) -> usize {
        let fits = |warps: &usize| self.shared(at_once, *warps) <= gpu.shared_memory() - OWN_SHARED;
        (1..=self.most_warps(at_once, sharing)).rev().find(fits).unwrap_or(1)
    }

    /// Two kernels with one row in one launch, and how many of its blocks are the first one's.
    pub fn cut_with(&self, second: &Self, gpu: &dyn Gpu, sharing: Sharing) -> (Cut, usize) {
        let both = [self, second];
        let most = self.most_that_fit(1, gpu, sharing).min(second.most_that_fit(1, gpu, sharing));
        let blocks = |turns: usize, warps: usize| both.map(|few| few.tiles.div_ceil(turns * warps));
        let fits = |turns: usize, warps: usize| blocks(turns, warps).iter().sum::<usize>() <= gpu.multiprocessors();
        let turns = (1..=self.tiles.max(second.tiles)).find(|turns| fits(*turns, most)).unwrap_or(1);
        let warps = (1..=most).find(|warps| fits(turns, *warps)).unwrap_or(most);
        let [split, rest] = blocks(turns, warps);
        let warps = warps.max(self.least_warps(most, sharing));
        let shared = |few: &Self, blocks: usize| few.shared(1, warps.min(few.tiles.div_ceil(blocks)));
        let cut =
            Cut { at_once: 1, blocks: split + rest, warps, shared: shared(self, split).max(shared(second, rest)) };
        (cut, split)
    }

    fn is_staged(&self, gpu: &dyn Gpu) -> bool {
        stages(self.format, self.rows, self.k, self.is_normed, gpu.shared_memory())
    }
}

/// Warps of a block that are there to quantize alone, at most: their registers keep the next kernel's blocks out.
const QUANTIZING_WARPS: usize = 24;
/// Numbers of a strip: 32 groups, see `lines.cuh`.
pub const STRIP: usize = 32 * GROUP;
/// Shared memory that every block takes beside its own.
const OF_ANY_BLOCK: usize = 1024;
/// Bytes that a warp's weights take at most: three lots of two rows of a strip in f32.
const MOST_OF_A_WARP: usize = 3 * 2 * STRIP * 4;
/// Shared memory that kernels over matrices have beside what a launch gives them, at most.
pub const OWN_SHARED: usize = 5120;

/// Bytes of what a warp has of a row at a time: `PIECE` of `lines.cuh`.
fn piece_bytes(format: Format) -> usize {
    let groups = STRIP / GROUP * together(format);
    let of_plane = |&(bytes, share): &(usize, usize)| (groups / share * bytes).next_multiple_of(16);
    planes(format).iter().map(of_plane).sum()
}

/// Strips of a row that are computed together: `TOGETHER` of `stream.cuh`.
fn together(format: Format) -> usize {
    if format.is_float() { 1 } else { 2 }
}
