//! Products of a text's numbers with matrices, by tiles that threads share.

use std::ops::Range;

use half::f16;

use crate::backend::cpu::kernels::{Isa, Kernels};
use crate::backend::cpu::matmul::{GROUP_BYTES, Job};
use crate::backend::cpu::rows::{Lane, Rest};
use crate::backend::cpu::step::{Panel, panels};
use crate::error::Result;
use crate::format::DType;
use crate::format::packed::{CODEBOOK, Format, GROUP, TILE, pack_row};

/// Rows that go through a matrix while its tile is in the first-level cache.
pub const BLOCK: usize = 96;

/// Bytes of a cache line, where panels and tiles begin.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

fn lines(bytes: usize) -> Vec<Line> {
    vec![Line([0; 64]); bytes.div_ceil(size_of::<Line>())]
}

/// How matrices are held and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Single,
    Int8,
}

/// A matrix (n, k), for rows of activations.
pub struct Dense {
    kernels: &'static Kernels,
    format: Format,
    /// (tiles, tile bytes)
    tiles: Vec<Line>,
    n: usize,
    k: usize,
}

/// Room for panels of activations, used again and again.
#[derive(Default)]
pub struct Room {
    threads: usize,
    /// In f32.
    numbers: Vec<f32>,
    codes: Vec<Line>,
    rests: Vec<Line>,
    flags: Vec<u8>,
}

impl Dense {
    /// Packs `weights`, (n, k); both multiples of 32.
    ///
    /// # Errors
    /// When a weight is no number, or the processor lacks what `TAPER_CPU` names.
    ///
    /// # Panics
    /// When the numbers do not go together.
    pub fn new(weights: &[f32], k: usize, precision: Precision, tensor: &str) -> Result<Self> {
        let n = weights.len() / k;
        assert!(weights.len() == n * k && n.is_multiple_of(GROUP) && k.is_multiple_of(GROUP), "{n} rows of {k}");
        let (dtype, format) = match precision {
            Precision::Single => (DType::F32, Format::Single),
            Precision::Int8 => (DType::Q8_0, Format::Int8),
        };
        let tile = format.tile_bytes(k);
        let mut tiles = lines(n / TILE * tile);
        // SAFETY: bytes of the lines, all of them initialized.
        let bytes = unsafe { std::slice::from_raw_parts_mut(tiles.as_mut_ptr().cast::<u8>(), n / TILE * tile) };
        let mut row = Vec::with_capacity(4 * k);
        for (at, numbers) in weights.chunks_exact(k).enumerate() {
            row.clear();
            match precision {
                Precision::Single => row.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
                Precision::Int8 => numbers.as_chunks().0.iter().for_each(|group| q8_0(group, &mut row)),
            }
            let to = &mut bytes[at / TILE * tile..][..tile];
            pack_row(dtype, &row, to, at % TILE).map_err(|e| e.of(tensor))?;
        }
        Ok(Self { kernels: Kernels::of(Isa::from_env()?)?, format, tiles, n, k })
    }

    /// `out` += x · Wᵀ, where `x` is (rows, k) and `out` (rows, n).
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn add(&self, x: &[f32], room: &mut Room, out: &mut [f32]) {
        let rows = x.len() / self.k;
        assert!(x.len() == rows * self.k && out.len() == rows * self.n, "{} and {} numbers", x.len(), out.len());
        for (x, out) in x.chunks(BLOCK * self.k).zip(out.chunks_mut(BLOCK * self.n)) {
            self.add_block(x, room, out);
        }
    }

    fn add_block(&self, x: &[f32], room: &mut Room, out: &mut [f32]) {
        let panels: Vec<Panel> = panels(x.len() / self.k, self.kernels.max_panel).collect();
        let prepared: Vec<Prepared> =
            if self.format.is_float() { self.interleaved(x, &panels, room) } else { self.quantized(x, &panels, room) };
        let block = Block { matrix: self, panels: &panels, prepared: &prepared, out: out.as_mut_ptr() };
        let (tiles, threads) = (self.n / TILE, room.threads.max(1));
        let share = |i: usize| tiles * i / threads..tiles * (i + 1) / threads;
        if threads == 1 {
            return block.multiply(share(0));
        }
        std::thread::scope(|scope| {
            let block = &block;
            for i in 1..threads {
                scope.spawn(move || block.multiply(share(i)));
            }
            block.multiply(share(0));
        });
    }

    /// Panels in f32.
    fn interleaved(&self, x: &[f32], panels: &[Panel], room: &mut Room) -> Vec<Prepared> {
        let panel_len = self.kernels.max_panel * self.k;
        room.numbers.resize(panels.len() * panel_len, 0.0);
        let to = room.numbers.chunks_exact_mut(panel_len);
        panels
            .iter()
            .zip(to)
            .map(|(panel, to)| {
                for row in 0..panel.rows {
                    let from = &x[(panel.first + row) * self.k..][..self.k];
                    for (to, x) in to.chunks_exact_mut(panel.width).zip(from) {
                        to[row] = *x;
                    }
                }
                Prepared { panel: to.as_ptr().cast(), rest: std::ptr::null(), flags: std::ptr::null() }
            })
            .collect()
    }

    /// Panels in int8, with what outliers leave.
    fn quantized(&self, x: &[f32], panels: &[Panel], room: &mut Room) -> Vec<Prepared> {
        let (kernels, groups) = (self.kernels, self.k / GROUP);
        let padded = groups.next_multiple_of(2);
        let bytes = kernels.max_panel * padded * GROUP_BYTES;
        room.fit(panels.len() * bytes, panels.len() * padded);
        let (codes, rests) = (room.codes.as_mut_ptr().cast::<u8>(), room.rests.as_mut_ptr().cast::<u8>());
        let flags = room.flags.as_mut_ptr();
        let prepare = |(at, panel): (usize, &Panel)| {
            // SAFETY: `fit` made room for so many panels.
            let (codes, rests, flags) =
                unsafe { (codes.add(at * bytes), rests.add(at * bytes), flags.add(at * padded)) };
            for row in 0..panel.rows {
                let lane = Lane { panel: codes, width: panel.width, row };
                let from = &x[(panel.first + row) * self.k..][..self.k];
                // SAFETY: the row has its groups and the panels room for them; nobody else has `room`.
                unsafe { (kernels.quantize_with_rest)(from.as_ptr(), groups, lane, Rest { panel: rests, flags }) };
            }
            Prepared { panel: codes, rest: rests, flags }
        };
        panels.iter().enumerate().map(prepare).collect()
    }
}

/// Rows that go through a matrix together.
struct Block<'a> {
    matrix: &'a Dense,
    panels: &'a [Panel],
    prepared: &'a [Prepared],
    /// (rows, n)
    out: *mut f32,
}

// SAFETY: threads read the panels, and each writes the columns of its own tiles.
unsafe impl Sync for Block<'_> {}

impl Block<'_> {
    /// The columns of some tiles.
    fn multiply(&self, tiles: Range<usize>) {
        let Dense { kernels, format, n, k, .. } = self.matrix;
        for tile in tiles {
            for (panel, prepared) in self.panels.iter().zip(self.prepared) {
                let job = Job {
                    format: *format,
                    weights: self.matrix.tiles.as_ptr().cast::<u8>().wrapping_add(tile * format.tile_bytes(*k)),
                    tiles: 1,
                    units: format.units(*k),
                    codebook: CODEBOOK.map(|c| (c as u8) ^ 0x80),
                    panel: prepared.panel,
                    rest: prepared.rest,
                    rest_flags: prepared.flags,
                    width: panel.width,
                    rows: panel.rows,
                    out: self.out.wrapping_add(panel.first * n + tile * TILE),
                    stride: *n,
                    last_lanes: TILE,
                    add: true,
                };
                // SAFETY: the tile is one of the matrix's, the panel is in its room, and `out` has a column for each row of
                // weights (`Dense::add` looks); the processor has the instructions.
                unsafe { (kernels.matmul)(&job) };
            }
        }
    }
}

/// Where a panel is, as a job wants it.
struct Prepared {
    panel: *const u8,
    rest: *const u8,
    flags: *const u8,
}

impl Room {
    /// For products that so many threads share.
    pub fn of(threads: usize) -> Self {
        Self { threads, ..Self::default() }
    }

    /// Room for so many bytes and flags; no flag is set.
    fn fit(&mut self, bytes: usize, flags: usize) {
        for panels in [&mut self.codes, &mut self.rests] {
            if panels.len() * size_of::<Line>() < bytes {
                *panels = lines(bytes);
            }
        }
        self.flags.clear();
        self.flags.resize(flags, 0);
    }
}

/// A block of `Q8_0`: the scale in f16, then 32 bytes.
fn q8_0(group: &[f32; GROUP], out: &mut Vec<u8>) {
    let largest = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    // What is no number makes a scale that `pack_row` refuses.
    let scale = f16::from_f32(if group.iter().all(|x| x.is_finite()) { largest / 127.0 } else { f32::NAN });
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    out.extend(scale.to_le_bytes());
    out.extend(group.map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8));
}

#[cfg(test)]
mod tests {
    use super::super::tests::numbers;
    use super::*;

    #[test]
    fn a_matrix_comes_near_the_product_whatever_the_neighbours() {
        near_the_product(Precision::Single, 1e-12);
        near_the_product(Precision::Int8, 1e-4);
    }

    fn near_the_product(precision: Precision, most: f32) {
        let (n, k, rows) = (64, 96, 101);
        let (weights, x) = (numbers(3, n * k), numbers(4, rows * k));
        let dense = Dense::new(&weights, k, precision, "w").unwrap();
        let mut out = vec![1.0; rows * n];
        dense.add(&x, &mut Room::default(), &mut out);
        let (mut error, mut size) = (0.0, 0.0);
        for (row, out) in x.chunks(k).zip(out.chunks(n)) {
            for (weights, got) in weights.chunks(k).zip(out) {
                let exact = weights.iter().zip(row).map(|(a, b)| a * b).sum::<f32>();
                error += (got - 1.0 - exact).powi(2);
                size += exact.powi(2);
            }
        }
        assert!(error < most * size, "{precision:?}: {error} of {size}");
        let mut alone = vec![1.0; n];
        dense.add(&x[70 * k..71 * k], &mut Room::default(), &mut alone);
        assert_eq!(alone, out[70 * n..71 * n]);
    }

    #[test]
    fn as_many_threads_as_there_are_change_no_bit() {
        // 6 tiles of columns, and more rows than a block: of 7 threads one has nothing to do.
        let (n, k, rows) = (96, 96, BLOCK + 5);
        let (weights, x) = (numbers(5, n * k), numbers(6, rows * k));
        for precision in [Precision::Single, Precision::Int8] {
            let dense = Dense::new(&weights, k, precision, "w").unwrap();
            let product = |threads| {
                let mut out = vec![1.0; rows * n];
                dense.add(&x, &mut Room::of(threads), &mut out);
                out
            };
            let alone = product(1);
            for threads in [2, 3, 7] {
                assert_eq!(product(threads), alone, "{precision:?}, {threads} threads");
            }
        }
    }
}
