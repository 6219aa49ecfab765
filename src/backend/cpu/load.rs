//! How matrices come to their places: packed from the model's files, or read as an earlier start packed them.
#![expect(unsafe_code, reason = "threads write their shares of one region")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::memory::{Part, Region};
use super::model::{Matrix, Share};
use super::pool::{Pool, Thread, share};
use crate::error::{Error, Result};
use crate::format::dequantize::{Codebook, IQ4_CODEBOOK};
use crate::format::loss;
use crate::format::packed::{Format, Refused, TILE, pack_row};
use crate::format::quantize::Quant;
use crate::format::repack::{self, Contents, Layout, Repack, Writer};
use crate::format::weights::{Room, Rows, Weights};
use crate::terminal::progress::{Mode, Progress};

/// Counts the changes of what packing makes of the same rows; `format::packed` and this file decide that.
const LAYOUT: u32 = 2;
/// Packing so many bytes takes seconds, and so does quantizing a tenth of them: it is shown.
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
    let mut region = Region::new(bytes)?;
    share_out(names, &mut matrices, &mut region, pool.threads())?;
    let region = Arc::new(region);
    let quant = weights.quant();
    let slot = repack.slot(weights, &layout(names, &matrices, quant));
    let seconds = || start.elapsed().as_secs_f64();
    if slot.as_ref().is_some_and(|slot| slot.read(|file| read(file, &mut matrices, pool))) {
        tracing::info!("packed weights read in {:.2} s", seconds());
        return Ok(Loaded { matrices, region, writer: None });
    }
    let (doing, done, long) = match quant {
        Quant::None => ("packing weights", "weights packed".to_owned(), LONG),
        quant => ("quantizing weights", format!("weights packed as {}", quant.name()), LONG / 10),
    };
    let mode = if bytes < long { Mode::Quiet } else { repack.progress };
    Packer { weights, pool, progress: Progress::new(mode, doing, bytes as u64), done: 0.into() }
        .all(names, &mut matrices)?;
    tracing::info!("{done} in {:.2} s", seconds());
    tell_losses(names, weights)?;
    let mut writer = slot.and_then(|slot| slot.write(Shares::of(&matrices, &region)));
    if repack.wait {
        writer.iter_mut().for_each(Writer::wait);
    }
    Ok(Loaded { matrices, region, writer })
}

/// Says of types that are not packed as they are what that costs, to who wants to know.
fn tell_losses(names: &[(String, usize)], weights: &Weights) -> Result<()> {
    if tracing::enabled!(tracing::Level::INFO) {
        for (types, loss) in loss::measure(weights, names.iter().map(|(name, _)| &**name))? {
            if loss.rms() > 0.0 {
                tracing::info!("{}", loss::line(types, &loss));
            }
        }
    }
    Ok(())
}

/// A matrix without its place.
fn described(name: &str, weights: &Weights) -> Result<Matrix> {
    let info = weights.info(name)?;
    let (rows, k) = (info.shape[0], info.shape[1]);
    Ok(Matrix { format: Format::of(info.dtype), rows, k, codebook: IQ4_CODEBOOK, shares: Vec::new() })
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

fn layout(names: &[(String, usize)], matrices: &[Matrix], quant: Quant) -> Layout {
    let part = |((name, _), m): (&(String, usize), &Matrix)| repack::Part {
        name: name.clone(),
        format: m.format,
        rows: m.rows,
        k: m.k,
    };
    let parts = names.iter().zip(matrices).map(part).collect();
    let options = if quant == Quant::None { "-" } else { quant.name() };
    Layout { backend: "cpu", version: LAYOUT, options: options.into(), parts }
}

/// Every thread reads its shares; the codebooks are read behind them.
fn read(file: &repack::Reader, matrices: &mut [Matrix], pool: &mut Pool) {
    pool.run(&|thread: Thread<'_>| {
        for (part, matrix) in matrices.iter().enumerate() {
            let Share { first, bytes } = &matrix.shares[thread.index];
            // SAFETY: each thread writes its own shares, and nobody reads them before the pool has finished.
            let into = unsafe { bytes.slice_mut(0, bytes.len()) };
            file.read(part, first * matrix.format.tile_bytes(matrix.k), into);
        }
    });
    for (part, matrix) in matrices.iter_mut().enumerate().filter(|(_, matrix)| matrix.format == Format::Lut4) {
        let mut codebook = [0; size_of::<Codebook>()];
        file.read(part, matrix.format.matrix_bytes(matrix.rows, matrix.k), &mut codebook);
        matrix.codebook = codebook.map(u8::cast_signed);
    }
}

/// Packs rows of the model's files.
struct Packer<'a> {
    weights: &'a Weights,
    pool: &'a mut Pool,
    progress: Progress,
    /// Bytes packed.
    done: AtomicU64,
}

impl Packer<'_> {
    fn all(mut self, names: &[(String, usize)], matrices: &mut [Matrix]) -> Result<()> {
        self.learn(names);
        // The largest first: while a tensor is packed its stored bytes are in memory too, and later there is less room.
        let mut by_size: Vec<_> = names.iter().zip(matrices).collect();
        by_size.sort_by_key(|(_, matrix)| std::cmp::Reverse(matrix.rows * matrix.k));
        for ((name, _), matrix) in by_size {
            self.matrix(name, matrix)?;
        }
        self.progress.finish();
        Ok(())
    }

    /// Has codebooks learned, each by one thread: a matrix alone has too little of that to be shared.
    fn learn(&mut self, names: &[(String, usize)]) {
        let weights = self.weights;
        if weights.quant() == Quant::Learned {
            self.pool.run(&|thread: Thread<'_>| {
                for (name, _) in names.iter().skip(thread.index).step_by(thread.count) {
                    let _ = weights.rows(name, |_| ()); // whoever packs it fails of the same
                }
            });
        }
    }

    /// Packs a matrix, every thread its share.
    fn matrix(&mut self, name: &str, matrix: &mut Matrix) -> Result<()> {
        let failed = Mutex::new(None);
        let Self { pool, progress, done, .. } = self;
        self.weights.rows(name, |rows| {
            matrix.codebook = rows.codebook();
            pool.run(&|thread: Thread<'_>| {
                let share = &matrix.shares[thread.index];
                let tile_bytes = matrix.format.tile_bytes(matrix.k);
                let mut room = Room::default();
                for i in 0..share.bytes.len() / tile_bytes {
                    // SAFETY: each thread writes its own share, and nobody reads it before the pool has finished.
                    let tile = unsafe { share.bytes.slice_mut(i * tile_bytes, tile_bytes) };
                    if let Err(e) = pack(rows, share.first + i, &mut room, tile)
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

/// Packs the rows of tile `number`, whatever is in `tile`.
fn pack(rows: &Rows<'_>, number: usize, room: &mut Room, tile: &mut [u8]) -> Result<(), Refused> {
    tile.fill(0); // a cached file that turned out to be damaged may have been read into it
    let first = number * TILE;
    (0..TILE.min(rows.len() - first))
        .try_for_each(|lane| pack_row(rows.dtype(), rows.row(first + lane, room)?, tile, lane))
}

/// What is written to disk: each matrix's shares, in their order, with what holds their memory, and its codebook.
struct Shares {
    matrices: Vec<Kept>,
    _region: Arc<Region>,
}

struct Kept {
    shares: Vec<Part<u8>>,
    codebook: Option<[u8; size_of::<Codebook>()]>,
}

impl Shares {
    fn of(matrices: &[Matrix], region: &Arc<Region>) -> Self {
        let kept = |matrix: &Matrix| Kept {
            shares: matrix.shares.iter().map(|share| share.bytes).collect(),
            codebook: (matrix.format == Format::Lut4).then(|| matrix.codebook.map(i8::cast_unsigned)),
        };
        Self { matrices: matrices.iter().map(kept).collect(), _region: region.clone() }
    }
}

impl Contents for Shares {
    fn runs(&self, part: usize) -> Vec<&[u8]> {
        let Kept { shares, codebook } = &self.matrices[part];
        // SAFETY: the region lives as long as this, and weights are not written after they were loaded.
        let tiles = shares.iter().map(|run| unsafe { run.slice(0, run.len()) });
        tiles.chain(codebook.as_ref().map(|codebook| &codebook[..])).collect()
    }
}
