//! Measures every tier on a memory's own vectors.

use std::time::{Duration, Instant};

use super::report::{Report, Row};
use super::{Mapped, TIERS, Tier};
use crate::error::{Error, Result};
use crate::memory::index::{self, Effort, Index, Plan, Target, choose, faiss};
use crate::memory::{Hit, Vectors};

/// Vectors that are held out to ask with.
const HELD_OUT: usize = 256;
/// Fewer vectors are too few to say anything.
const LEAST: usize = 1000;
/// Hits that an exact rerank chooses from.
const SHORTLIST: usize = 100;
/// Queries at once, beside one.
const BATCH: usize = 32;
/// At least so long is each speed measured.
const PATIENCE: Duration = Duration::from_millis(300);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Of the index that is chosen, for comparison.
    pub target_recall: f32,
    /// Vectors of the memory that take part, so that it ends: Nyström's features cost a million operations a vector.
    pub most: usize,
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { target_recall: 0.98, most: 100_000, threads: 1 }
    }
}

/// Builds and measures every tier, exact FAISS and the index that [`index::build`] chooses, on the same vectors and the
/// same held-out queries. `progress` hears the name of each before it is built.
///
/// # Errors
/// When the memory is too small to say anything, vectors cannot be read, or there is no memory.
pub fn bench(vectors: &(dyn Vectors + Sync), options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let used = vectors.len().min(options.most);
    if used < LEAST {
        return Err(Error::usage(format!("{used} records are too few to compare forms on: {LEAST} are the least"))
            .help("add more, or let more take part: --records"));
    }
    let stride = used / HELD_OUT.min(used / 4);
    let rest = Rest { vectors, used, stride };
    let mut queries = vec![0.0; used.div_ceil(stride) * vectors.dim()];
    for (i, out) in queries.chunks_exact_mut(vectors.dim()).enumerate() {
        vectors.read(i * stride, out)?;
    }
    progress("exact FAISS");
    let (row, truth) = yardstick(&rest, &queries, options.threads)?;
    let bench = Bench { rest: &rest, queries: &queries, truth: &truth, threads: options.threads };
    let mut rows = vec![row];
    for tier in &TIERS {
        progress(tier.name);
        rows.push(bench.tier(tier)?);
    }
    progress("the chosen index");
    let (row, chosen) = bench.chosen(options.target_recall)?;
    rows.push(row);
    Ok(Report { vectors: rest.len(), dim: rest.dim(), queries: truth.len(), shortlist: SHORTLIST, chosen, rows })
}

/// The vectors that are not held out: the first of every `stride` is.
struct Rest<'a> {
    vectors: &'a (dyn Vectors + Sync),
    used: usize,
    stride: usize,
}

impl Rest<'_> {
    fn original(&self, row: usize) -> usize {
        row + row / (self.stride - 1) + 1
    }
}

impl Vectors for Rest<'_> {
    fn dim(&self) -> usize {
        self.vectors.dim()
    }
    fn len(&self) -> usize {
        self.used - self.used.div_ceil(self.stride)
    }
    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        self.vectors.read(self.original(row), out)
    }
    fn id(&self, row: usize) -> i64 {
        self.vectors.id(self.original(row))
    }
}

/// Exact FAISS, and what it finds.
fn yardstick(rest: &Rest, queries: &[f32], threads: usize) -> Result<(Row, Vec<Vec<Hit>>)> {
    faiss::set_threads(threads);
    let dim = rest.dim();
    let start = Instant::now();
    let mut flat = faiss::Flat::new(dim)?;
    index::each_chunk(rest, |_, chunk| flat.add(chunk))?;
    let build = start.elapsed();
    let truth = flat.search(queries, choose::K)?;
    let row = Row {
        name: "exact FAISS".to_owned(),
        bytes: 4.0 * dim as f64,
        build: build.as_secs_f64(),
        recall: 1.0,
        reranked: 1.0,
        single: speed(queries, dim, |query| flat.search(query, choose::K).map(drop))?,
        batched: speed(queries, dim * BATCH, |batch| flat.search(batch, choose::K).map(drop))? * BATCH as f64,
    };
    Ok((row, truth))
}

/// Finds the best for a query, told whether to rerank.
type Search<'a> = dyn Fn(&[f32], bool) -> Result<Vec<Hit>> + Sync + 'a;

struct Bench<'a> {
    rest: &'a Rest<'a>,
    queries: &'a [f32],
    truth: &'a [Vec<Hit>],
    threads: usize,
}

impl Bench<'_> {
    fn tier(&self, tier: &Tier) -> Result<Row> {
        let start = Instant::now();
        let map = tier.map.learn(self.rest)?;
        let mapped = map.as_deref().map(|map| Mapped { vectors: self.rest, map });
        let coded: &dyn Vectors = match &mapped {
            Some(mapped) => mapped,
            None => self.rest,
        };
        let plan = tier.sub.map_or(Plan::Int8, |sub| Plan::Codes { lists: 1, sub });
        let effort = Effort { reach: 1, rerank: SHORTLIST };
        let index = Index::with(coded, plan, effort, self.threads)?;
        let build = start.elapsed().as_secs_f64();
        let features = |query: &[f32]| match &map {
            None => query.to_vec(),
            Some(map) => {
                let mut out = vec![0.0; map.dim()];
                map.apply(query, &mut out);
                out
            }
        };
        let alone = Effort { rerank: choose::K, ..effort };
        let bytes = match tier.sub {
            Some(sub) => coded.dim().div_ceil(sub) as f64 / 2.0,
            None => coded.dim() as f64 + 4.0,
        };
        self.row(tier.name.to_owned(), bytes, build, &|query, reranks| {
            let found = index.candidates(&features(query), if reranks { effort } else { alone })?;
            if reranks { index::rerank(self.rest, query, found, choose::K) } else { Ok(found) }
        })
    }

    fn chosen(&self, target_recall: f32) -> Result<(Row, String)> {
        let start = Instant::now();
        let target = Target { recall: target_recall, threads: self.threads, ..Target::default() };
        let index = index::build(self.rest, &target)?;
        let build = start.elapsed().as_secs_f64();
        let bytes = index.memory() as f64 / index.len() as f64;
        let row = self.row("the chosen index".to_owned(), bytes, build, &|query, reranks| {
            if reranks || index.memory() == 0 {
                return index.search(self.rest, query, choose::K);
            }
            index.candidates(query, Effort { rerank: choose::K, ..index.effort() })
        })?;
        Ok((row, index.describe()))
    }

    /// Measures `search`.
    fn row(&self, name: String, bytes: f64, build: f64, search: &Search) -> Result<Row> {
        let dim = self.rest.dim();
        let recall = |reranks| -> Result<f64> {
            let mut found = 0;
            for (query, truth) in self.queries.chunks_exact(dim).zip(self.truth) {
                let hits = search(query, reranks)?;
                found += truth.iter().filter(|t| hits.iter().any(|hit| hit.row == t.row)).count();
            }
            Ok(found as f64 / self.truth.iter().map(Vec::len).sum::<usize>().max(1) as f64)
        };
        let of_one = |query: &[f32]| search(query, true).map(drop);
        let of_batch = |batch: &[f32]| {
            let share = (batch.len() / dim).div_ceil(self.threads.max(1)) * dim;
            std::thread::scope(|scope| {
                let threads: Vec<_> = batch
                    .chunks(share)
                    .map(|share| scope.spawn(move || share.chunks_exact(dim).try_for_each(of_one)))
                    .collect();
                threads.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|_| Err(Error::runtime("a thread that searches has stopped")))
                })
            })
        };
        Ok(Row {
            name,
            bytes,
            build,
            recall: recall(false)?,
            reranked: recall(true)?,
            single: speed(self.queries, dim, of_one)?,
            batched: speed(self.queries, dim * BATCH, of_batch)? * BATCH as f64,
        })
    }
}

/// Calls a second, with one part of the queries after another.
fn speed(queries: &[f32], part: usize, mut search: impl FnMut(&[f32]) -> Result<()>) -> Result<f64> {
    let (start, mut calls) = (Instant::now(), 0);
    for part in queries.chunks_exact(part).cycle() {
        search(part)?;
        calls += 1;
        if start.elapsed() >= PATIENCE {
            break;
        }
    }
    Ok(f64::from(calls) / start.elapsed().as_secs_f64())
}
