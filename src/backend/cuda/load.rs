//! Matrices on their way to the GPU: packed by all threads into memory that the GPU reads by itself, half of it while the
//! other half is on its way.

use std::thread;

use super::args::Matrix as Place;
use super::gpu::{Gpu, Pinned};
use super::layout::{Planes, magnitudes, matrix_bytes, plane_bytes};
use super::memory::Arena;
use super::model::Matrix;
use crate::error::{Error, Result};
use crate::format::dequantize::Codebook;
use crate::format::packed::{Format, Refused, TILE, pack_row};
use crate::format::weights::{Room, Rows, Weights};
use crate::stats::cores::Cores;
use crate::terminal::progress::{Mode, Progress};

/// Bytes of a thread's share of a half: some rows of the widest matrix.
const SHARE: usize = 512 << 10;
/// At most: each has its share of memory that the system cannot move.
const MOST_THREADS: usize = 32;
/// Loading so many bytes takes seconds: it is shown.
const LONG: u64 = 1_000_000_000;

/// Some rows of a matrix, packed for the GPU.
struct Packed {
    first: usize,
    rows: usize,
}

/// Loads matrices one after the other.
pub struct Loader<'a> {
    pub weights: &'a Weights,
    pub gpu: &'a mut dyn Gpu,
    pub arena: Arena,
    halves: [Pinned; 2],
    /// The half to be packed next; the other is on its way.
    half: usize,
    threads: usize,
    /// Bytes of a thread's share.
    share: usize,
    progress: Progress,
    begin: u64,
}

impl<'a> Loader<'a> {
    /// `bytes` is all that will be loaded, to the memory from `arena` on.
    ///
    /// # Errors
    /// When there is no memory to pack in.
    pub fn new(weights: &'a Weights, bytes: u64, arena: Arena, mode: Mode, gpu: &'a mut dyn Gpu) -> Result<Self> {
        let threads = Cores::of_process().usual().min(MOST_THREADS);
        let share = SHARE.max(widest_row(weights) * TILE);
        let halves = [gpu.take_pinned(threads * share)?, gpu.take_pinned(threads * share)?];
        let mode = if bytes < LONG { Mode::Quiet } else { mode };
        let progress = Progress::new(mode, "loading weights", bytes);
        Ok(Self { weights, gpu, begin: arena.next, arena, halves, half: 0, threads, share, progress })
    }

    /// Waits for what is on its way.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn finish(self) -> Result<()> {
        self.progress.finish();
        self.gpu.wait()
    }

    /// # Errors
    /// When it is missing, or holds NaN or infinite numbers; or when the GPU fails.
    pub fn matrix(&mut self, name: &str) -> Result<Matrix> {
        let info = self.weights.info(name)?;
        let (format, rows, k) = (Format::of(info.dtype), info.shape[0], info.shape[1]);
        let place = self.arena.take(matrix_bytes(format, rows, k));
        let place = Place { planes: place, rows: rows as i32, k: k as i32, codebook: [0; size_of::<Codebook>()] };
        let mut matrix = Matrix { format, place };
        let weights = self.weights;
        let codebook = weights.rows(name, |stored| self.rows(stored, &matrix).map(|()| stored.codebook()))?;
        let codebook = codebook.map_err(|e| e.of(name, weights))?;
        if format == Format::Lut4 {
            let mixed = || Error::model(format!("{name} has a codebook whose halves are of both signs"));
            matrix.place.codebook = magnitudes(&codebook).ok_or_else(mixed)?;
        }
        self.progress.set(self.arena.next - self.begin);
        Ok(matrix)
    }

    /// Packs all rows of a matrix and sends them.
    fn rows(&mut self, stored: &Rows<'_>, matrix: &Matrix) -> std::result::Result<(), Failed> {
        let (format, k) = (matrix.format, matrix.place.k as usize);
        // Whole tiles, as they are packed.
        let each = (self.share / matrix_bytes(format, TILE, k)).max(1) * TILE;
        for first in (0..stored.len()).step_by(each * self.threads) {
            let shares: Vec<Packed> = (first..stored.len())
                .step_by(each)
                .take(self.threads)
                .map(|first| Packed { first, rows: each.min(stored.len() - first) })
                .collect();
            let half = &mut self.halves[self.half];
            let jobs = shares.iter().zip(half.bytes_mut().chunks_exact_mut(self.share));
            pack_all(stored, format, k, jobs)?;
            // The other half has arrived by then, and may be written again.
            self.gpu.wait().map_err(Failed::Gpu)?;
            self.send(&shares, matrix).map_err(Failed::Gpu)?;
            self.half = 1 - self.half;
        }
        Ok(())
    }

    /// Sends what was packed, plane by plane.
    fn send(&mut self, shares: &[Packed], matrix: &Matrix) -> Result<()> {
        let (format, k) = (matrix.format, matrix.place.k as usize);
        for (i, share) in shares.iter().enumerate() {
            let (mut from, mut plane) = (i * self.share, matrix.place.planes);
            for row_bytes in plane_bytes(format, k) {
                let (at, bytes) = (plane + (share.first * row_bytes) as u64, share.rows * row_bytes);
                self.gpu.send(&self.halves[self.half], from, at, bytes)?;
                from += bytes;
                plane += (matrix.place.rows as usize * row_bytes) as u64;
            }
        }
        Ok(())
    }
}

/// Bytes of the longest row.
fn widest_row(weights: &Weights) -> usize {
    let infos = weights.names().filter_map(|name| weights.info(name).ok());
    let rows = infos.filter(|info| info.shape.len() == 2).map(|t| matrix_bytes(Format::of(t.dtype), 1, t.shape[1]));
    rows.max().unwrap_or(0)
}

/// Why a matrix cannot be loaded.
enum Failed {
    Rows(Refused),
    Gpu(Error),
}

impl Failed {
    fn of(self, name: &str, weights: &Weights) -> Error {
        match self {
            Self::Rows(refused) => refused.of(name).in_file(weights.path()),
            Self::Gpu(error) => error,
        }
    }
}

/// Packs shares of a matrix's rows, a thread each.
fn pack_all<'s>(
    stored: &Rows<'_>,
    format: Format,
    k: usize,
    jobs: impl Iterator<Item = (&'s Packed, &'s mut [u8])>,
) -> std::result::Result<(), Failed> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            jobs.map(|(share, into)| scope.spawn(move || pack(stored, format, k, share, into))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(packed) => packed.map_err(Failed::Rows),
            Err(_) => Err(Failed::Gpu(Error::runtime("a thread failed while packing weights"))),
        })
    })
}

fn pack(
    stored: &Rows<'_>,
    format: Format,
    k: usize,
    share: &Packed,
    into: &mut [u8],
) -> std::result::Result<(), Refused> {
    let (mut tile, mut room) = (vec![0; format.tile_bytes(k)], Room::default());
    let bytes = &mut into[..matrix_bytes(format, share.rows, k)];
    let mut planes = Planes { format, rows: share.rows, k, bytes };
    for first in (0..share.rows).step_by(TILE) {
        tile.fill(0);
        let lanes = TILE.min(share.rows - first);
        for lane in 0..lanes {
            pack_row(stored.dtype(), stored.row(share.first + first + lane, &mut room)?, &mut tile, lane)?;
        }
        (0..lanes).for_each(|lane| planes.put(first + lane, &tile, lane));
    }
    Ok(())
}
