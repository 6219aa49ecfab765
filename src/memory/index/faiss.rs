//! What is left to FAISS: clustering, assignment, the rotation before product quantization, and exact search as the
//! yardstick.
//!
//! FAISS's own files are never read or written: its readers trust what they read.
#![expect(unsafe_code, reason = "the thread counts of OpenMP and OpenBLAS, and a length that the crate leaves unset")]

use faiss::cluster::{Clustering, ClusteringParameters};
use faiss::index::flat::FlatIndex;
use faiss::vector_transform::{OPQMatrix, VectorTransform};
use faiss::{ConcurrentIndex, Index};

use crate::error::{Error, Result};
use crate::memory::Hit;

unsafe extern "C" {
    fn omp_set_num_threads(threads: std::ffi::c_int);
    fn openblas_set_num_threads(threads: std::ffi::c_int);
}

/// How many threads FAISS takes from now on, when called from this thread.
pub fn set_threads(threads: usize) {
    let threads = i32::try_from(threads.max(1)).unwrap_or(i32::MAX);
    // SAFETY: both take any positive number; OpenBLAS locks around a change.
    unsafe {
        omp_set_num_threads(threads);
        openblas_set_num_threads(threads);
    }
}

fn failed(doing: &str) -> impl FnOnce(faiss::error::Error) -> Error {
    move |e| Error::runtime(format!("FAISS cannot {doing}: {e}")).caused_by(e)
}

/// The means of `k` clusters of `points`: (k, dim). Iterations and the seed of the start are fixed, so equal points
/// give equal means on a machine.
///
/// # Errors
/// When there are fewer points than clusters, or no memory.
pub fn kmeans(points: &[f32], dim: usize, k: usize, iterations: u32) -> Result<Vec<f32>> {
    let doing = "cluster the vectors";
    let mut parameters = ClusteringParameters::new();
    parameters.set_niter(iterations);
    parameters.set_seed(1);
    // The caller draws the sample: FAISS should take all of it, and not complain on the terminal of a small one.
    parameters.set_min_points_per_centroid(1);
    parameters.set_max_points_per_centroid(u32::MAX >> 1);
    let mut clustering = Clustering::new_with_params(dim as u32, k as u32, &parameters).map_err(failed(doing))?;
    let mut index = FlatIndex::new_l2(dim as u32).map_err(failed(doing))?;
    clustering.train(points, &mut index).map_err(failed(doing))?;
    Ok(clustering.centroids().map_err(failed(doing))?.concat())
}

/// Which of a set of means is nearest to a point.
pub struct Nearest {
    index: FlatIndex,
}

impl Nearest {
    /// `means` is (k, dim).
    pub fn new(means: &[f32], dim: usize) -> Result<Self> {
        let mut index = FlatIndex::new_l2(dim as u32).map_err(failed("assign the vectors"))?;
        index.add(means).map_err(failed("assign the vectors"))?;
        Ok(Self { index })
    }

    /// For each point of `points`, (n, dim), the number of the nearest mean.
    pub fn assign(&self, points: &[f32]) -> Result<Vec<u32>> {
        let found = ConcurrentIndex::assign(&self.index, points, 1).map_err(failed("assign the vectors"))?;
        // No number at all for a vector that has NaN in it: the first mean is as good as another.
        Ok(found.labels.iter().map(|label| label.get().unwrap_or(0) as u32).collect())
    }
}

/// A rotation after which product quantization into `parts` loses least (optimized product quantization, Ge et al.
/// 2013): (dim, dim), row-major; the rotated x is Rx.
pub fn opq(points: &[f32], dim: usize, parts: usize, iterations: u32) -> Result<Vec<f32>> {
    let doing = "learn a rotation";
    let mut matrix = OPQMatrix::new(dim as u32, parts as u32, dim as u32).map_err(failed(doing))?;
    matrix.set_niter(iterations);
    matrix.train(points.len() / dim, points).map_err(failed(doing))?;
    let mut unit = vec![0.0; dim * dim];
    for i in 0..dim {
        unit[i * dim + i] = 1.0;
    }
    let mut columns = matrix.apply_noalloc(&unit);
    // SAFETY: the crate reserves room for these dim² numbers and has FAISS write all of them, but leaves the length at
    // 0.
    unsafe { columns.set_len(dim * dim) };
    let mut rotation = vec![0.0; dim * dim];
    for (i, column) in columns.chunks_exact(dim).enumerate() {
        for (j, x) in column.iter().enumerate() {
            rotation[j * dim + i] = *x;
        }
    }
    Ok(rotation)
}

/// FAISS's exact index by inner product.
pub struct Flat {
    index: FlatIndex,
}

impl Flat {
    pub fn new(dim: usize) -> Result<Self> {
        Ok(Self { index: FlatIndex::new_ip(dim as u32).map_err(failed("make an exact index"))? })
    }

    /// Adds `vectors`, (n, dim), behind those that it has.
    pub fn add(&mut self, vectors: &[f32]) -> Result<()> {
        self.index.add(vectors).map_err(failed("add to the exact index"))
    }

    pub fn clear(&mut self) -> Result<()> {
        self.index.reset().map_err(failed("empty the exact index"))
    }

    /// The `k` best for each of `queries`, (n, dim); fewer where there are fewer.
    pub fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>> {
        let doing = "search the exact index";
        let found = ConcurrentIndex::search(&self.index, queries, k).map_err(failed(doing))?;
        let hits = found.labels.chunks(k).zip(found.distances.chunks(k));
        Ok(hits
            .map(|(labels, scores)| {
                let hits = labels.iter().zip(scores);
                hits.filter_map(|(label, score)| Some(Hit { row: label.get()? as u32, score: *score })).collect()
            })
            .collect())
    }
}
