//! Inverted lists: vectors grouped around the means of clusters, of which a search looks at the nearest few.

use super::faiss;
use super::int8::{self, Int8};
use super::shortlist::Shortlist;
use crate::backend::cpu::scans::{BLOCK, Scans};
use crate::error::Result;
use crate::memory::{Hit, Vectors};

/// Of the clustering.
const ITERATIONS: u32 = 10;
/// Vectors that a mean is learnt from.
const SAMPLE: usize = 48;
/// Vectors that are read and assigned at once.
const CHUNK: usize = 8192;

/// Which vectors are in which list. A vector's position is its place in the lists, one after another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lists {
    pub(super) dim: usize,
    /// (lists, dim padded to 16); empty where all vectors are in one list.
    pub(super) means: Vec<f32>,
    /// Where a list begins: (lists + 1)
    pub(super) starts: Vec<u32>,
    /// The row at a position: (vectors)
    pub(super) rows: Vec<u32>,
    /// What follows from the means: they in bytes, and half of their squared lengths.
    coarse: Int8,
    halves: Vec<f32>,
}

/// A list to look at.
pub(super) struct Probe {
    pub(super) list: usize,
    /// The query's product with the list's mean.
    pub(super) product: f32,
}

impl Lists {
    pub(super) fn new(dim: usize, means: Vec<f32>, starts: Vec<u32>, rows: Vec<u32>) -> Self {
        let padded = dim.next_multiple_of(16);
        let mut coarse = Int8::new(dim, means.len() / padded);
        let mut halves = Vec::with_capacity(means.len() / padded);
        for (i, mean) in means.chunks_exact(padded).enumerate() {
            coarse.set(i, &mean[..dim]);
            halves.push(mean.iter().map(|x| x * x).sum::<f32>() / 2.0);
        }
        Self { dim, means, starts, rows, coarse, halves }
    }

    /// All vectors in one list, in this order.
    pub(super) fn one(dim: usize, rows: Vec<u32>) -> Self {
        Self::new(dim, Vec::new(), vec![0, rows.len() as u32], rows)
    }

    /// Clusters all vectors.
    ///
    /// # Errors
    /// When vectors cannot be read, or FAISS has no memory.
    pub(super) fn cluster(vectors: &dyn Vectors, lists: usize) -> Result<Self> {
        let (dim, count) = (vectors.dim(), vectors.len());
        let means = faiss::kmeans(&sample(vectors, lists * SAMPLE)?, dim, lists, ITERATIONS)?;
        let nearest = faiss::Nearest::new(&means, dim)?;
        let mut list_of = Vec::with_capacity(count);
        each_chunk(vectors, |_, chunk| {
            list_of.extend(nearest.assign(chunk)?);
            Ok(())
        })?;
        let mut starts = vec![0u32; lists + 1];
        for list in &list_of {
            starts[*list as usize + 1] += 1;
        }
        for i in 0..lists {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut rows = vec![0; count];
        for (row, list) in list_of.iter().enumerate() {
            rows[next[*list as usize] as usize] = row as u32;
            next[*list as usize] += 1;
        }
        let padded = dim.next_multiple_of(16);
        let mut wide = vec![0.0; lists * padded];
        for (to, from) in wide.chunks_exact_mut(padded).zip(means.chunks_exact(dim)) {
            to[..dim].copy_from_slice(from);
        }
        Ok(Self::new(dim, wide, starts, rows))
    }

    pub(super) fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The list of a position.
    pub(super) fn of(&self, position: usize) -> usize {
        self.starts.partition_point(|start| *start as usize <= position) - 1
    }

    /// The positions of a list.
    pub(super) fn range(&self, list: usize) -> std::ops::Range<usize> {
        self.starts[list] as usize..self.starts[list + 1] as usize
    }

    /// The first block of each list's 4-bit codes, and behind the last: (lists + 1).
    pub(super) fn blocks(&self) -> Vec<u32> {
        let mut at = 0;
        let mut blocks = vec![0];
        for list in 0..self.count() {
            at += self.range(list).len().div_ceil(BLOCK) as u32;
            blocks.push(at);
        }
        blocks
    }

    /// The mean of a list, padded to a multiple of 16; nothing where there is but one list.
    pub(super) fn mean(&self, list: usize) -> Option<&[f32]> {
        let padded = self.dim.next_multiple_of(16);
        self.means.get(list * padded..(list + 1) * padded)
    }

    /// The lists whose means are nearest to the query, nearest first. Nearest by distance, as vectors were assigned;
    /// the products that decide are of bytes, which only matters between means that are about as near.
    pub(super) fn probe(&self, scans: Scans, query: &[f32], padded: &[f32], probes: usize) -> Vec<Probe> {
        if self.means.is_empty() {
            return vec![Probe { list: 0, product: 0.0 }];
        }
        let n = self.count();
        let mut scores = vec![0.0; n];
        self.coarse.scores(scans, &int8::Query::new(query), 0, &mut vec![0; n], &mut scores);
        let mut best = Shortlist::new(probes.min(n));
        for (list, (score, half)) in scores.iter().zip(&self.halves).enumerate() {
            best.push(Hit { row: list as u32, score: score - half });
        }
        let probe = |hit: Hit| {
            let list = hit.row as usize;
            Probe { list, product: self.mean(list).map_or(0.0, |mean| scans.dot(mean, padded)) }
        };
        best.into_sorted().into_iter().map(probe).collect()
    }

    pub(super) fn memory(&self) -> usize {
        4 * (self.means.len() + self.starts.len() + self.rows.len() + self.halves.len()) + self.coarse.memory()
    }
}

/// `n` vectors at equal distances over all rows, or all where there are fewer: (n, dim).
pub(super) fn sample(vectors: &dyn Vectors, n: usize) -> Result<Vec<f32>> {
    let (dim, count) = (vectors.dim(), vectors.len());
    let n = n.min(count);
    let mut out = vec![0.0; n * dim];
    for (i, out) in out.chunks_exact_mut(dim).enumerate() {
        vectors.read(i * count / n, out)?;
        // FAISS refuses to cluster such.
        if !out.iter().all(|x| x.is_finite()) {
            out.fill(0.0);
        }
    }
    Ok(out)
}

/// Calls `work` with the first row and the vectors of each chunk of all rows.
pub(in crate::memory) fn each_chunk(
    vectors: &dyn Vectors,
    mut work: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let dim = vectors.dim();
    let mut chunk = vec![0.0; CHUNK * dim];
    for first in (0..vectors.len()).step_by(CHUNK) {
        let n = CHUNK.min(vectors.len() - first);
        for (i, out) in chunk[..n * dim].chunks_exact_mut(dim).enumerate() {
            vectors.read(first + i, out)?;
        }
        work(first, &chunk[..n * dim])?;
    }
    Ok(())
}
