//! A search: scan, shorten, rerank.

use super::int8;
use super::layout::{Coded, Layout};
use super::shortlist::Shortlist;
use crate::backend::cpu::scans::{BLOCK, Scans};
use crate::error::Result;
use crate::memory::{Hit, Vectors};

/// Vectors that are scanned between looks at the threshold; their scores stay in the first-level cache.
const STRIDE: usize = 512;

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// What is scanned; the other, where there is one, has a say in what is read.
    pub scan: Scan,
    /// Lists that are scanned.
    pub probes: usize,
    /// Vectors that the scan of 4-bit codes leaves.
    pub shortlist: usize,
    /// Vectors that are read and scored exactly.
    pub rerank: usize,
}

/// What a search reads first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Every vector as it is.
    Exact,
    /// Vectors as bytes.
    Int8,
    /// 4-bit codes of product quantization.
    Pq,
}

/// The `k` best of all vectors, each read and scored.
pub(super) fn exact(vectors: &dyn Vectors, scans: Scans, query: &[f32], k: usize) -> Result<Vec<Hit>> {
    let dim = vectors.dim();
    let query = padded(query);
    let mut vector = vec![0.0; query.len()];
    let mut best = Shortlist::new(k);
    for row in 0..vectors.len() {
        vectors.read(row, &mut vector[..dim])?;
        best.push(Hit { row: row as u32, score: scans.dot(&query, &vector) });
    }
    Ok(best.into_sorted())
}

/// The `k` best of `candidates`, read and scored, in the order of their rows: that of the disk.
pub(super) fn rerank(
    vectors: &dyn Vectors,
    scans: Scans,
    query: &[f32],
    mut candidates: Vec<u32>,
    k: usize,
) -> Result<Vec<Hit>> {
    candidates.sort_unstable();
    let dim = vectors.dim();
    let query = padded(query);
    let mut vector = vec![0.0; query.len()];
    let mut best = Shortlist::new(k);
    for row in candidates {
        vectors.read(row as usize, &mut vector[..dim])?;
        best.push(Hit { row, score: scans.dot(&query, &vector) });
    }
    Ok(best.into_sorted())
}

fn padded(query: &[f32]) -> Vec<f32> {
    let mut padded = query.to_vec();
    padded.resize(query.len().next_multiple_of(16), 0.0);
    padded
}

impl Layout {
    /// Rows worth an exact look, at most `effort.rerank`, with the scores that say so; in no order.
    pub(super) fn candidates(&self, scans: Scans, query: &[f32], effort: Effort) -> Vec<Hit> {
        let query = &Query { scans, floats: query, padded: padded(query), bytes: int8::Query::new(query) };
        let mut found = match (&self.pq, &self.int8) {
            (Some(coded), int8) if effort.scan == Scan::Pq || int8.is_none() => {
                let refine = int8.is_some() && effort.shortlist > effort.rerank;
                let size = if refine { effort.shortlist } else { effort.rerank };
                let found = self.scan_codes(coded, query, effort.probes, size);
                if refine { self.rescore(found, query, effort.rerank) } else { found }
            }
            _ => self.scan_bytes(query, effort.probes, effort.rerank),
        };
        for hit in &mut found {
            hit.row = self.lists.rows[hit.row as usize];
        }
        found
    }

    /// The best positions by 4-bit codes.
    fn scan_codes(&self, coded: &Coded, query: &Query, probes: usize, size: usize) -> Vec<Hit> {
        let table = coded.quantizer.table(query.scans, query.floats);
        let mut best = Shortlist::new(size);
        let mut sums = [[0u16; BLOCK]; STRIDE / BLOCK];
        for probe in self.lists.probe(query.scans, query.floats, &query.padded, probes) {
            let range = self.lists.range(probe.list);
            let offset = table.offset + probe.product;
            let codes = &coded.codes[coded.blocks[probe.list] as usize * table.bytes.len()..];
            for first in range.clone().step_by(STRIDE) {
                let n = STRIDE.min(range.end - first);
                let blocks = n.div_ceil(BLOCK);
                let at = (first - range.start) / BLOCK * table.bytes.len();
                query.scans.look_up_blocks(
                    &codes[at..][..blocks * table.bytes.len()],
                    &table.bytes,
                    &mut sums[..blocks],
                );
                for (i, sums) in sums[..blocks].iter().enumerate() {
                    let n = BLOCK.min(n - i * BLOCK);
                    push_above(&mut best, &sums[..n], offset, table.step, first + i * BLOCK);
                }
            }
        }
        best.into_hits()
    }

    /// The best positions by bytes.
    fn scan_bytes(&self, query: &Query, probes: usize, size: usize) -> Vec<Hit> {
        let Some(int8) = &self.int8 else { return Vec::new() };
        let mut best = Shortlist::new(size);
        let (mut sums, mut scores) = ([0; STRIDE], [0.0; STRIDE]);
        for probe in self.lists.probe(query.scans, query.floats, &query.padded, probes) {
            let range = self.lists.range(probe.list);
            for first in range.clone().step_by(STRIDE) {
                let n = STRIDE.min(range.end - first);
                int8.scores(query.scans, &query.bytes, first, &mut sums, &mut scores[..n]);
                for (i, score) in scores[..n].iter().enumerate() {
                    best.push(Hit { row: (first + i) as u32, score: *score });
                }
            }
        }
        best.into_hits()
    }

    /// The best of `hits` by bytes.
    fn rescore(&self, hits: Vec<Hit>, query: &Query, size: usize) -> Vec<Hit> {
        let Some(int8) = &self.int8 else { return hits };
        let mut best = Shortlist::new(size);
        for hit in hits {
            let score = int8.score(query.scans, &query.bytes, hit.row as usize);
            best.push(Hit { row: hit.row, score });
        }
        best.into_hits()
    }
}

/// A query in the forms that a search needs.
struct Query<'a> {
    scans: Scans,
    floats: &'a [f32],
    padded: Vec<f32>,
    bytes: int8::Query,
}

/// Pushes the vectors from position `first` on whose scores, offset + step · sum, are above the threshold.
fn push_above(best: &mut Shortlist, sums: &[u16], offset: f32, step: f32, first: usize) {
    // Nearly no vector is: one comparison of whole numbers for all of them. Casting saturates, and makes 0 of NaN.
    let least = ((best.threshold() - offset) / step).floor() as i32;
    if i32::from(sums.iter().fold(0, |m, sum| m.max(*sum))) < least {
        return;
    }
    for (i, sum) in sums.iter().enumerate() {
        if i32::from(*sum) >= least {
            best.push(Hit { row: (first + i) as u32, score: offset + step * f32::from(*sum) });
        }
    }
}
