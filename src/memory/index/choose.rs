//! The choice of an index: by size, and by what reaches a recall when measured on the memory's own vectors (as FANNS
//! does, Jiang et al. 2023).

use std::time::Instant;

use super::layout::{Form, Layout, Plan};
use super::lists::{each_chunk, sample};
use super::search::{self, Effort};
use super::{Index, faiss};
use crate::backend::cpu::scans::Scans;
use crate::error::Result;
use crate::memory::{Hit, Vectors};

/// Recall is that of this many hits.
pub const K: usize = 10;
/// Up to so many components in all, every search reads all vectors.
pub const EXACT: usize = 1 << 19;
/// Up to so many vectors, all are scanned as bytes.
const FLAT: usize = 10_000;
/// Vectors that are asked for, to measure recall: its standard error is about 0.003 at 0.98.
const QUESTIONS: usize = 400;
/// Recall on vectors that were not asked for may be a little lower.
const SLACK: f32 = 0.003;
/// What a walk keeps in sight at least. A memory's own vectors have others like them, and would be found with less; what
/// people ask has not.
const SIGHT: usize = 64;
/// The same of a graph on the disk, where what is in sight is there by an estimate.
const DISK_SIGHT: usize = 96;
/// The longest list of vectors to read.
const MOST: usize = 4096;

/// What an index is to reach.
#[derive(Debug, Clone)]
pub struct Target {
    /// The share of the ten best that must be found; from 1 on every search is exact.
    pub recall: f32,
    /// Bytes of memory that the index may hold; none: what it takes.
    pub memory: Option<usize>,
    /// Threads that build it.
    pub threads: usize,
    /// Queries to measure with, (n, dim). None: vectors of the memory ask for their neighbours, and means of two of them.
    pub queries: Vec<f32>,
}

impl Default for Target {
    fn default() -> Self {
        Self { recall: 0.98, memory: None, threads: 1, queries: Vec::new() }
    }
}

/// Whether so many vectors are all to be compared, or are compared as fast: [`build`] makes no more than an exact scan then.
pub fn needs_none(dim: usize, count: usize, target: &Target) -> bool {
    target.recall >= 1.0 || dim * count <= EXACT || plan(dim, count, target.memory).is_none()
}

/// Builds the fastest index that reaches the target on this machine; where none does, the one with the best recall.
///
/// # Errors
/// When vectors cannot be read, or FAISS has no memory.
pub fn build(vectors: &dyn Vectors, target: &Target) -> Result<Index> {
    let scans = Scans::of_processor()?;
    let (dim, count) = (vectors.dim(), vectors.len());
    let none = Effort { reach: 0, rerank: 0 };
    let exact = Index { dim, count, ids: super::ids(vectors), scans, layout: None, effort: none, recall: 1.0 };
    let Some(plan) = plan(dim, count, target.memory).filter(|_| !needs_none(dim, count, target)) else {
        return Ok(exact);
    };
    faiss::set_threads(target.threads);
    let layout = Layout::build(vectors, plan, scans, target.threads)?;
    let questions = Questions::new(vectors, target)?;
    let tuning = Tuning { layout: &layout, vectors, scans, questions: &questions, goal: goal(target) };
    let Tuned { effort, recall, .. } = tuning.tune()?;
    Ok(Index { layout: Some(layout), effort, recall, ..exact })
}

fn goal(target: &Target) -> f32 {
    (target.recall + SLACK).min(f32::midpoint(target.recall, 1.0))
}

/// What to build for so many vectors; none where nothing fits the bound.
fn plan(dim: usize, count: usize, memory: Option<usize>) -> Option<Plan> {
    let fits = |plan: &Plan| memory.is_none_or(|bound| plan.memory(dim, count) <= bound);
    let all = if count <= FLAT { Plan::Int8 } else { Plan::Graph };
    let lists = if count <= FLAT { 1 } else { lists(count) };
    let codes =
        [2, 3, 4, 6, 8, 12, 16].map(|sub| Plan::Codes { lists, sub: super::pq::sub_dim(dim, dim.div_ceil(sub)) });
    let disk = (count > FLAT).then_some(Plan::Disk);
    std::iter::once(all).chain(disk).chain(codes).find(fits)
}

/// About twice the square root.
fn lists(count: usize) -> usize {
    (2 * count.isqrt()).next_multiple_of(16)
}

/// Queries with their true answers.
struct Questions {
    /// (n, dim)
    queries: Vec<f32>,
    truth: Vec<Vec<u32>>,
    /// The row that a query is, which is no answer.
    own: Vec<Option<u32>>,
}

impl Questions {
    fn new(vectors: &dyn Vectors, target: &Target) -> Result<Self> {
        let (dim, count) = (vectors.dim(), vectors.len());
        let (queries, own) = if target.queries.is_empty() {
            let n = QUESTIONS.min(count);
            let mut queries = sample(vectors, n)?;
            let mut own: Vec<_> = (0..n).map(|i| Some((i * count / n) as u32)).collect();
            for i in (1..n).step_by(2) {
                between(&mut queries, dim, i, ((i + n / 2) % n) & !1); // an even one, which is still itself
                own[i] = None;
            }
            (queries, own)
        } else {
            let n = target.queries.len() / dim;
            (target.queries.clone(), vec![None; n])
        };
        let mut truth = truth(vectors, &queries, K + 1)?;
        for (hits, own) in truth.iter_mut().zip(&own) {
            hits.retain(|hit| Some(hit.row) != *own);
            hits.truncate(K);
        }
        let truth = truth.into_iter().map(|hits| hits.into_iter().map(|hit| hit.row).collect()).collect();
        Ok(Self { queries, truth, own })
    }

    /// The share of the true answers among candidates.
    fn recall(&self, mut candidates: impl FnMut(&[f32]) -> Result<Vec<Hit>>) -> Result<f32> {
        let dim = self.queries.len() / self.own.len().max(1);
        let (mut found, mut all) = (0, 0);
        for (query, truth) in self.queries.chunks_exact(dim.max(1)).zip(&self.truth) {
            let rows: std::collections::HashSet<u32> = candidates(query)?.iter().map(|hit| hit.row).collect();
            found += truth.iter().filter(|row| rows.contains(row)).count();
            all += truth.len();
        }
        Ok(found as f32 / all.max(1) as f32)
    }
}

/// Moves query `i` to between it and `other`. What people ask lies between passages, not among the likes of one.
fn between(queries: &mut [f32], dim: usize, i: usize, other: usize) {
    for x in 0..dim {
        queries[i * dim + x] += queries[other * dim + x];
    }
    let query = &mut queries[i * dim..][..dim];
    let length = query.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        for x in query {
            *x /= length;
        }
    }
}

/// The `k` best for each query, by FAISS.
///
/// # Errors
/// When vectors cannot be read, or FAISS has no memory.
pub fn truth(vectors: &dyn Vectors, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>> {
    let mut flat = faiss::Flat::new(vectors.dim())?;
    let mut best: Vec<Vec<Hit>> = vec![Vec::new(); queries.len() / vectors.dim()];
    each_chunk(vectors, |first, chunk| {
        flat.clear()?;
        flat.add(chunk)?;
        for (best, hits) in best.iter_mut().zip(flat.search(queries, k)?) {
            best.extend(hits.into_iter().map(|hit| Hit { row: hit.row + first as u32, ..hit }));
            best.sort_unstable_by(Hit::order);
            best.truncate(k);
        }
        Ok(())
    })?;
    Ok(best)
}

/// The search for the least effort that reaches a recall.
struct Tuning<'a> {
    layout: &'a Layout,
    vectors: &'a dyn Vectors,
    scans: Scans,
    questions: &'a Questions,
    goal: f32,
}

struct Tuned {
    effort: Effort,
    recall: f32,
    /// A query's, in seconds.
    time: f64,
}

impl Tuned {
    fn is_better(&self, other: &Self, target: f32) -> bool {
        match (self.recall >= target, other.recall >= target) {
            (true, true) => self.time < other.time,
            (false, false) => self.recall > other.recall,
            (reaches, _) => reaches,
        }
    }
}

impl Tuning<'_> {
    fn recall(&self, effort: Effort) -> Result<f32> {
        self.questions.recall(|query| self.layout.candidates(self.scans, query, effort))
    }

    /// The smallest number with which `effort` reaches the goal, within a sixteenth; the last of `ladder` where none does.
    fn smallest(&self, ladder: &[usize], effort: impl Fn(usize) -> Effort) -> Result<usize> {
        let fails = |x: usize| self.recall(effort(x)).map(|recall| recall < self.goal);
        let mut at = 0;
        let mut behind = ladder.len();
        while at < behind {
            let middle = usize::midpoint(at, behind);
            if fails(ladder[middle])? {
                at = middle + 1;
            } else {
                behind = middle;
            }
        }
        let Some(found) = ladder.get(at) else { return Ok(ladder.last().copied().unwrap_or(1)) };
        let (mut high, mut low) = (*found, if at == 0 { *found } else { ladder[at - 1] });
        while high - low > (high / 16).max(1) {
            let middle = usize::midpoint(low, high);
            if fails(middle)? {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(high)
    }

    /// First the least reach with as long a list of candidates as may be, then the shortest list of candidates. Of lists a
    /// few more may leave a shorter list of candidates, so that is tried too, and what is fastest then is taken.
    fn tune(&self) -> Result<Tuned> {
        let reaches = match &self.layout.form {
            Form::Int8(_) => vec![1],
            Form::Graph(..) => ladder(SIGHT, MOST),
            Form::Disk(_) => ladder(DISK_SIGHT, MOST),
            Form::Codes(_) => ladder(1, self.layout.lists.count()),
        };
        let least = self.smallest(&reaches, |reach| Effort { reach, rerank: self.most(reach) })?;
        let more = if matches!(self.layout.form, Form::Codes(_)) { 2 } else { 0 };
        let mut best: Option<Tuned> = None;
        for reach in std::iter::once(least).chain(reaches.into_iter().filter(|reach| *reach > least).take(more)) {
            let rerank = self.smallest(&ladder(K, self.most(reach)), |rerank| Effort { reach, rerank })?;
            let effort = Effort { reach, rerank };
            let tuned = Tuned { effort, recall: self.recall(effort)?, time: self.time(effort)? };
            if best.as_ref().is_none_or(|best| tuned.is_better(best, self.goal)) {
                best = Some(tuned);
            }
        }
        let most = Effort { reach: least, rerank: self.most(least) };
        match best {
            Some(best) => Ok(best),
            None => Ok(Tuned { effort: most, recall: self.recall(most)?, time: f64::INFINITY }),
        }
    }

    /// The most candidates that so far a reach can give.
    fn most(&self, reach: usize) -> usize {
        if matches!(self.layout.form, Form::Graph(..) | Form::Disk(_)) { reach } else { MOST }
    }

    /// A query's time, in seconds.
    fn time(&self, effort: Effort) -> Result<f64> {
        let start = Instant::now();
        let dim = self.vectors.dim();
        for query in self.questions.queries.chunks_exact(dim) {
            let found = self.layout.candidates(self.scans, query, effort)?;
            let rows = found.into_iter().map(|hit| hit.row).collect();
            search::rerank(self.vectors, self.scans, query, rows, K)?;
        }
        Ok(start.elapsed().as_secs_f64() / self.questions.own.len().max(1) as f64)
    }
}

/// Numbers from `first` on, each a quarter or less above the one before; the last is `last`.
fn ladder(first: usize, last: usize) -> Vec<usize> {
    let next = |n: &usize| (*n < last).then(|| (n + (n / 4).max(1)).min(last));
    std::iter::successors(Some(first.min(last)), next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_size_and_memory() {
        let million = |memory| plan(384, 1_000_000, memory);
        assert_eq!(plan(384, 10_000, None), Some(Plan::Int8));
        assert_eq!(million(None), Some(Plan::Graph));
        assert_eq!(million(Some(115_000_000)), Some(Plan::Disk));
        assert_eq!(plan(384, 10_000, Some(3_000_000)), Some(Plan::Codes { lists: 1, sub: 2 }));
        assert_eq!(million(Some(60 << 20)), Some(Plan::Codes { lists: 2000, sub: 4 }));
        assert_eq!(million(Some(1 << 20)), None);
    }

    #[test]
    fn a_ladder_ends_where_it_should() {
        assert_eq!(ladder(1, 7), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(ladder(10, 20), [10, 12, 15, 18, 20]);
        assert_eq!(ladder(10, 4), [4]);
    }
}
