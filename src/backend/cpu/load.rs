//! How matrices come to their places: packed from the model's files, or read as an earlier start packed them.
#![expect(unsafe_code, reason = "threads write their shares of one region")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::memory::{Part, Region};
use super::model::{Matrix, Share, TAIL};
use super::pool::{Pool, Thread, share};
use crate::error::{Error, Result};
use crate::format::DType;
use crate::format::packed::{Format, NotFinite, TILE, pack_row};
use crate::format::repack::{self, Contents, Layout, Repack, Writer};
use crate::format::weights::{RowOrder, Weights};
use crate::terminal::progress::{Mode, Progress};

/// Counts the changes of what packing makes of the same rows; `format::packed` and this file decide that.
const LAYOUT: u32 = 2;
/// Packing so many bytes takes seconds: it is shown.
const LONG: usize = 1_000_000_000;

/// A model's matrices, in the order of their names.
pub struct Loaded {
    pub matrices: Vec<Matrix>,
    /// Holds their bytes.
    pub region: Arc<Region>,
    pub writer: Option<Writer>,
}

/// Loads the matrices `names`, given in the order of a step, with how many tiles of each go together.
///
/// # Errors
/// A tensor that is missing, or holds NaN or infinite numbers; or when the memory is not there.
pub fn matrices(names: &[(String, usize)], weights: &Weights, pool: &mut Pool, repack: &Repack) -> Result<Loaded> {
    let start = Instant::now();
    let mut matrices = names.iter().map(|(name, _)| described(name, weights)).collect::<Result<Vec<_>>>()?;
    let bytes: usize = matrices.iter().map(|m| m.format.matrix_bytes(m.rows, m.k)).sum();
    let mut region = Region::new(bytes + TAIL)?;
    share_out(names, &mut matrices, &mut region, pool.threads())?;
    let region = Arc::new(region);
    let slot = repack.slot(weights, &layout(names, &matrices));
    let seconds = || start.elapsed().as_secs_f64();
    if slot.as_ref().is_some_and(|slot| slot.read(|file| read(file, &matrices, pool))) {
        tracing::info!("packed weights read in {:.2} s", seconds());
        return Ok(Loaded { matrices, region, writer: None });
    }
    let mode = if bytes < LONG { Mode::Quiet } else { repack.progress };
    Packer { weights, pool, progress: Progress::new(mode, "packing weights", bytes as u64), done: 0.into() }
        .all(names, &matrices)?;
    tracing::info!("weights packed in {:.2} s", seconds());
    let mut writer = slot.and_then(|slot| slot.write(Shares::of(&matrices, &region)));
    if repack.wait {
        writer.iter_mut().for_each(Writer::wait);
    }
    Ok(Loaded { matrices, region, writer })
}

/// A matrix without its place.
fn described(name: &str, weights: &Weights) -> Result<Matrix> {
    let info = weights.info(name)?;
    Ok(Matrix { format: Format::of(info.dtype), rows: info.shape[0], k: info.shape[1], shares: Vec::new() })
}

/// Places for the matrices: one thread's after the other's, in the order of `names`.
fn share_out(names: &[(String, usize)], matrices: &mut [Matrix], region: &mut Region, threads: usize) -> Result<()> {
    for thread in 0..threads {
        for ((_, step), matrix) in names.iter().zip(matrices.iter_mut()) {
            let tiles = matrix.rows.div_ceil(TILE);
            let steps = share(tiles.div_ceil(*step), thread, threads);
            let (first, end) = (steps.start * step, (steps.end * step).min(tiles));
            let bytes = region.take((end - first) * matrix.format.tile_bytes(matrix.k))?;
            matrix.shares.push(Share { first, bytes });
        }
    }
    Ok(())
}

fn layout(names: &[(String, usize)], matrices: &[Matrix]) -> Layout {
    let part = |((name, _), m): (&(String, usize), &Matrix)| repack::Part {
        name: name.clone(),
        format: m.format,
        rows: m.rows,
        k: m.k,
    };
    let parts = names.iter().zip(matrices).map(part).collect();
    Layout { backend: "cpu", version: LAYOUT, options: "-".into(), parts }
}

/// Every thread reads its shares.
fn read(file: &repack::Reader, matrices: &[Matrix], pool: &mut Pool) {
    pool.run(&|thread: Thread<'_>| {
        for (part, matrix) in matrices.iter().enumerate() {
            let Share { first, bytes } = &matrix.shares[thread.index];
            // SAFETY: each thread writes its own shares, and nobody reads them before the pool has finished.
            let into = unsafe { bytes.slice_mut(0, bytes.len()) };
            file.read(part, first * matrix.format.tile_bytes(matrix.k), into);
        }
    });
}

/// Packs rows of the model's files.
struct Packer<'a> {
    weights: &'a Weights,
    pool: &'a mut Pool,
    progress: Progress,
    /// Bytes packed.
    done: AtomicU64,
}

/// A matrix as the model's files hold it.
struct Source<'a> {
    dtype: DType,
    rows: usize,
    order: RowOrder,
    bytes: &'a [u8],
}

impl Packer<'_> {
    fn all(mut self, names: &[(String, usize)], matrices: &[Matrix]) -> Result<()> {
        // The largest first: while a tensor is packed its stored bytes are in memory too, and later there is less room.
        let mut by_size: Vec<_> = names.iter().zip(matrices).collect();
        by_size.sort_by_key(|(_, matrix)| std::cmp::Reverse(matrix.rows * matrix.k));
        for ((name, _), matrix) in by_size {
            self.matrix(name, matrix)?;
        }
        self.progress.finish();
        Ok(())
    }

    /// Packs a matrix, every thread its share.
    fn matrix(&mut self, name: &str, matrix: &Matrix) -> Result<()> {
        let info = self.weights.info(name)?;
        let order = self.weights.row_order(name)?;
        let failed = Mutex::new(None);
        let Self { pool, progress, done, .. } = self;
        self.weights.read_once(name, |bytes| {
            let source = Source { dtype: info.dtype, rows: matrix.rows, order, bytes };
            pool.run(&|thread: Thread<'_>| {
                let share = &matrix.shares[thread.index];
                let tile_bytes = matrix.format.tile_bytes(matrix.k);
                for i in 0..share.bytes.len() / tile_bytes {
                    // SAFETY: each thread writes its own share, and nobody reads it before the pool has finished.
                    let tile = unsafe { share.bytes.slice_mut(i * tile_bytes, tile_bytes) };
                    if let Err(e) = source.pack(share.first + i, tile)
                        && let Ok(mut failed) = failed.lock()
                    {
                        *failed = Some(e);
                    }
                }
                let bytes = share.bytes.len() as u64;
                progress.set(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
            });
        })?;
        match failed.into_inner() {
            Ok(None) => Ok(()),
            Ok(Some(e)) => Err(e.of(name).in_file(self.weights.path())),
            Err(_) => Err(Error::runtime("a thread failed while packing weights")),
        }
    }
}

impl Source<'_> {
    /// Packs the rows of tile `number`, whatever is in `tile`.
    fn pack(&self, number: usize, tile: &mut [u8]) -> Result<(), NotFinite> {
        tile.fill(0); // a cached file that turned out to be damaged may have been read into it
        let row_bytes = self.bytes.len() / self.rows;
        let first = number * TILE;
        (0..TILE.min(self.rows - first)).try_for_each(|lane| {
            let row = self.order.stored_row(first + lane);
            pack_row(self.dtype, &self.bytes[row * row_bytes..][..row_bytes], tile, lane)
        })
    }
}

/// What is written to disk: each matrix's shares, in their order, with what holds their memory.
struct Shares {
    matrices: Vec<Vec<Part<u8>>>,
    _region: Arc<Region>,
}

impl Shares {
    fn of(matrices: &[Matrix], region: &Arc<Region>) -> Self {
        let parts = |matrix: &Matrix| matrix.shares.iter().map(|share| share.bytes).collect();
        Self { matrices: matrices.iter().map(parts).collect(), _region: region.clone() }
    }
}

impl Contents for Shares {
    fn runs(&self, part: usize) -> Vec<&[u8]> {
        // SAFETY: the region lives as long as this, and weights are not written after they were loaded.
        self.matrices[part].iter().map(|run| unsafe { run.slice(0, run.len()) }).collect()
    }
}
