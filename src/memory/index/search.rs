//! A search: scan, shorten, rerank.

use super::int8::{self, Int8};
use super::layout::{Coded, Form, Layout};
use super::shortlist::Shortlist;
use crate::backend::cpu::scans::{BLOCK, Scans};
use crate::error::Result;
use crate::memory::{Hit, Vectors};

/// Vectors that are scanned between looks at the threshold; their scores fit in the first-level cache.
const STRIDE: usize = 512;

/// A walk that keeps more than this part of a graph in sight would see most of it, one vector at a time and in no order: all are
/// scanned instead.
const PART: usize = 64;

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Lists that are scanned, or vectors that a walk through the graph keeps in sight.
    pub reach: usize,
    /// Vectors that are read and scored exactly.
    pub rerank: usize,
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
    ///
    /// # Errors
    /// When what is on the disk cannot be read.
    pub(super) fn candidates(&self, scans: Scans, query: &[f32], effort: Effort) -> Result<Vec<Hit>> {
        let mut found = match &self.form {
            Form::Int8(int8) => scan_bytes(int8, scans, &int8::Query::new(query), effort.rerank),
            Form::Graph(int8, graph) => {
                let query = int8::Query::new(query);
                let reach = effort.reach.max(effort.rerank);
                let mut found = if reach > int8.scales.len() / PART {
                    Vec::new()
                } else {
                    graph.search(int8, scans, &query, reach)
                };
                // Nothing, too, where every pivot was forgotten.
                if found.is_empty() {
                    found = scan_bytes(int8, scans, &query, effort.rerank);
                }
                found.truncate(effort.rerank);
                found
            }
            Form::Disk(disk) => {
                let reach = effort.reach.max(effort.rerank);
                let mut found = disk.search(scans, query, reach, reach > disk.nodes.len() / PART)?;
                found.truncate(effort.rerank);
                found
            }
            Form::Codes(coded) => self.scan_codes(coded, scans, query, effort),
        };
        for hit in &mut found {
            hit.row = self.lists.rows[hit.row as usize];
        }
        Ok(found)
    }

    /// The best positions by 4-bit codes.
    fn scan_codes(&self, coded: &Coded, scans: Scans, query: &[f32], effort: Effort) -> Vec<Hit> {
        let table = coded.quantizer.table(scans, query);
        let mut best = Shortlist::new(effort.rerank);
        let mut sums = [[0u16; BLOCK]; STRIDE / BLOCK];
        for probe in self.lists.probe(scans, query, &padded(query), effort.reach) {
            let range = self.lists.range(probe.list);
            let offset = table.offset + probe.product;
            let codes = &coded.codes[coded.blocks[probe.list] as usize * table.bytes.len()..];
            for first in range.clone().step_by(STRIDE) {
                let n = STRIDE.min(range.end - first);
                let blocks = n.div_ceil(BLOCK);
                let at = (first - range.start) / BLOCK * table.bytes.len();
                scans.look_up_blocks(&codes[at..][..blocks * table.bytes.len()], &table.bytes, &mut sums[..blocks]);
                for (i, sums) in sums[..blocks].iter().enumerate() {
                    let n = BLOCK.min(n - i * BLOCK);
                    push_above(&mut best, &sums[..n], offset, table.step, first + i * BLOCK);
                }
            }
        }
        best.into_hits()
    }
}

/// The best positions by bytes.
pub(super) fn scan_bytes(int8: &Int8, scans: Scans, query: &int8::Query, size: usize) -> Vec<Hit> {
    let count = int8.scales.len();
    let mut best = Shortlist::new(size);
    let (mut sums, mut scores) = ([0; STRIDE], [0.0; STRIDE]);
    for first in (0..count).step_by(STRIDE) {
        let n = STRIDE.min(count - first);
        int8.scores(scans, query, first, &mut sums, &mut scores[..n]);
        for (i, score) in scores[..n].iter().enumerate() {
            best.push(Hit { row: (first + i) as u32, score: *score });
        }
    }
    best.into_hits()
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
