//! Finds the vectors nearest to a query.
//!
//! An index is a cache: all that it knows comes from the [`Vectors`], and what it finds is always scored by them
//! exactly ("reranked"), so that approximation can lose a hit but never misstate one. It is exact while that is quick;
//! beyond, vectors are held as bytes, then with a graph over them. Under a bound of memory that has no room for these,
//! bytes and graph stay in the index's file, and two bits a component in memory find the way; where there is no room for
//! these either, 4-bit codes of product quantization are held in inverted lists (clusters, of which the nearest few are
//! scanned). Vectors are read from the disk for the shortlist alone. [`build`] measures on the memory's own vectors what reaches a recall,
//! and takes the fastest.
//!
//! FAISS clusters, assigns, learns rotations and is the yardstick ([`faiss`]); what a search runs through is ours
//! ([`crate::backend::cpu::scans`]), and so is the file ([`mod@file`]).

pub mod choose;
pub mod faiss;
pub mod file;
mod graph;
mod int8;
mod layout;
mod lists;
mod packed;
mod pq;
mod search;
mod shortlist;
#[cfg(test)]
pub(in crate::memory) mod tests;

use crate::backend::cpu::scans::Scans;
use crate::error::{Error, Result};
use crate::memory::ids::Ids;
use crate::memory::{Hit, Vectors};
pub use choose::{Target, build};
pub use layout::Plan;
use layout::{Form, Layout};
pub(in crate::memory) use lists::each_chunk;
pub use search::Effort;

/// The `k` best of all vectors by a plain scan, which needs no index.
///
/// # Errors
/// When a vector cannot be read, or `query` has another dimension.
pub fn exact(vectors: &dyn Vectors, query: &[f32], k: usize) -> Result<Vec<Hit>> {
    same_dim(vectors.dim(), query)?;
    search::exact(vectors, Scans::of_processor()?, query, k)
}

/// The `k` best of `candidates`, scored exactly.
pub(in crate::memory) fn rerank(
    vectors: &dyn Vectors,
    query: &[f32],
    candidates: Vec<Hit>,
    k: usize,
) -> Result<Vec<Hit>> {
    search::rerank(vectors, Scans::of_processor()?, query, candidates.into_iter().map(|hit| hit.row).collect(), k)
}

/// See the module. Belongs to the vectors that it was built from; rows that were added behind them are all read, until it
/// is built anew.
#[derive(Debug)]
pub struct Index {
    dim: usize,
    count: usize,
    /// The records of its rows.
    ids: Ids,
    scans: Scans,
    /// None: every search reads all vectors.
    layout: Option<Layout>,
    effort: Effort,
    /// Share of the true ten best that were found, when it was built.
    recall: f32,
}

impl Index {
    /// An index of exactly this form, which looks as hard as told; nothing is measured.
    ///
    /// # Errors
    /// When vectors cannot be read, or FAISS has no memory.
    pub fn with(vectors: &dyn Vectors, plan: Plan, effort: Effort, threads: usize) -> Result<Self> {
        faiss::set_threads(threads);
        let scans = Scans::of_processor()?;
        let layout = Layout::build(vectors, plan, scans, threads)?;
        let (dim, count, ids) = (vectors.dim(), vectors.len(), ids(vectors));
        Ok(Self { dim, count, ids, scans, layout: Some(layout), effort, recall: f32::NAN })
    }

    /// The `k` best of the vectors, scored exactly.
    ///
    /// # Errors
    /// When a vector or the index's file cannot be read, or query or vectors are not those of this index.
    pub fn search(&self, vectors: &dyn Vectors, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        self.search_with(vectors, query, k, self.effort)
    }

    /// The same, looking as hard as told.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_with(&self, vectors: &dyn Vectors, query: &[f32], k: usize, effort: Effort) -> Result<Vec<Hit>> {
        same_dim(self.dim, query)?;
        if vectors.len() < self.count || vectors.dim() != self.dim {
            return Err(Error::runtime(format!(
                "the index is of {} vectors with {} components, the memory has {} with {}",
                self.count,
                self.dim,
                vectors.len(),
                vectors.dim()
            ))
            .help("rebuild it: taper memory rebuild NAME"));
        }
        let Some(layout) = &self.layout else { return search::exact(vectors, self.scans, query, k) };
        // More hits than the index was tuned for need a longer shortlist in proportion.
        let more = k.div_ceil(choose::K).max(1);
        let effort =
            Effort { rerank: effort.rerank.saturating_mul(more).max(k), reach: effort.reach.saturating_mul(more) };
        let found = layout.candidates(self.scans, query, effort)?;
        let newer = self.count as u32..vectors.len() as u32;
        let rows = found.into_iter().map(|hit| hit.row).chain(newer).collect();
        search::rerank(vectors, self.scans, query, rows, k)
    }

    /// What a search would read, at most `effort.rerank` rows, with the scores of the form that is scanned; best first.
    ///
    /// # Errors
    /// When the index's file cannot be read.
    pub(in crate::memory) fn candidates(&self, query: &[f32], effort: Effort) -> Result<Vec<Hit>> {
        let Some(layout) = &self.layout else { return Ok(Vec::new()) };
        let mut found = layout.candidates(self.scans, query, effort)?;
        found.sort_unstable_by(Hit::order);
        Ok(found)
    }

    /// Vectors in it.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records that it is of, by row.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Takes the vectors of rows, which ascend, out of it: what is left of them says nothing of what they were.
    ///
    /// # Errors
    /// When the index's file cannot be read.
    pub fn forget(&mut self, rows: &[u32]) -> Result<()> {
        self.layout.as_mut().map_or(Ok(()), |layout| layout.forget(self.scans, rows))
    }

    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// The share of the ten best that searches found when this was built and measured; NaN where nothing was.
    pub fn recall(&self) -> f32 {
        self.recall
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        self.layout.as_ref().map_or(0, Layout::memory)
    }

    /// What was built, in a line, and of how many vectors.
    pub fn describe(&self) -> String {
        if self.layout.is_none() {
            return format!("exact scan of {} vectors", self.count);
        }
        format!("{} vectors: {}", self.count, self.form())
    }

    /// What was built, in a line.
    pub fn form(&self) -> String {
        let Some(layout) = &self.layout else { return "exact scan".to_owned() };
        let Effort { reach, rerank } = self.effort;
        let form = match &layout.form {
            Form::Int8(_) => "all scanned as int8".to_owned(),
            Form::Graph(..) => format!("a graph of int8, {reach} kept in sight"),
            Form::Disk(_) => format!("a graph on the disk, by 2-bit codes, {reach} kept in sight"),
            Form::Codes(coded) => {
                let codes = coded.quantizer.dim.div_ceil(coded.quantizer.sub);
                format!("{} lists, {reach} scanned, as {codes} 4-bit codes (OPQ+PQ)", layout.lists.count())
            }
        };
        let megabytes = self.memory() as f64 / 1e6;
        format!("{form}, the best {rerank} exactly; recall@10 {:.3}, {megabytes:.1} MB", self.recall)
    }
}

fn ids(vectors: &dyn Vectors) -> Ids {
    (0..vectors.len()).map(|row| vectors.id(row)).collect()
}

fn same_dim(dim: usize, query: &[f32]) -> Result<()> {
    if query.len() == dim {
        return Ok(());
    }
    Err(Error::runtime(format!("the query has {} components, the vectors have {dim}", query.len())))
}
