//! A graph of near neighbours, in which a search walks towards the query.
//!
//! Every vector has edges to at most [`DEGREE`] others, chosen so that they lie in different directions (the "robust prune"
//! of Vamana, Subramanya et al., 2019). The first vectors, drawn by lot, are pivots: all of them are compared with
//! a query, and the walk begins at the nearest few, so that clusters far from each other are all within reach without
//! the layers of HNSW. Vectors are compared as bytes, or ([`disk`]) as two bits a component where the graph is on the disk.

mod build;
pub(super) mod disk;
pub(super) mod nodes;
#[cfg(test)]
mod tests;

use super::int8::{Int8, Query};
use super::shortlist::Shortlist;
use crate::backend::cpu::scans::Scans;
use crate::memory::Hit;

/// Edges of a vector at most.
pub(super) const DEGREE: usize = 32;
/// Pivots that a walk begins at.
const ENTRIES: usize = 8;
/// As many pivots at least. A graph of no more than these is all compared.
const PIVOTS: usize = 256;
/// In place of an edge, behind the last of a vector.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Graph {
    /// (vectors, [`DEGREE`])
    pub(super) edges: Vec<u32>,
}

/// How many of the first vectors are pivots.
fn pivots(count: usize) -> usize {
    (count.isqrt() / 2).max(PIVOTS).min(count)
}

fn neighbours(edges: &[u32], of: u32) -> &[u32] {
    let all = &edges[of as usize * DEGREE..][..DEGREE];
    &all[..all.iter().position(|to| *to == NONE).unwrap_or(DEGREE)]
}

impl Graph {
    /// The nearest of what a walk that keeps the best `beam` in sight has seen, best first.
    pub(super) fn search(&self, int8: &Int8, scans: Scans, query: &Query, beam: usize) -> Vec<Hit> {
        let mut walk = Walk::default();
        let pivots = pivots(self.edges.len() / DEGREE);
        walk.towards(&mut Place { edges: &self.edges, pivots, int8, scans }.from(query), beam);
        walk.best.into_iter().map(|seen| seen.hit).collect()
    }

    pub(super) fn memory(&self) -> usize {
        4 * self.edges.len()
    }
}

/// What a walk goes over, with the query that it goes towards. `sums` is room that it may use.
trait Ground {
    /// The scores of all pivots; −∞ of those that were forgotten, or lead nowhere in particular.
    fn pivots(&mut self, sums: &mut Vec<i32>, scores: &mut Vec<f32>);

    /// Appends the neighbours of a vector.
    fn open(&mut self, row: u32, neighbours: &mut Vec<u32>);

    /// Hears of what will be opened next, unless something nearer is found now.
    fn expect(&self, row: u32);

    /// Makes `scores` those of `rows`.
    fn scores(&mut self, rows: &[u32], sums: &mut Vec<i32>, scores: &mut Vec<f32>);
}

/// A graph in memory, or as much of it as is built.
#[derive(Clone, Copy)]
struct Place<'a> {
    edges: &'a [u32],
    pivots: usize,
    int8: &'a Int8,
    scans: Scans,
}

impl<'a> Place<'a> {
    fn from(self, query: &'a Query) -> Held<'a> {
        Held { place: self, query }
    }
}

struct Held<'a> {
    place: Place<'a>,
    query: &'a Query,
}

impl Ground for Held<'_> {
    fn pivots(&mut self, sums: &mut Vec<i32>, scores: &mut Vec<f32>) {
        let Place { int8, scans, pivots, .. } = self.place;
        sums.resize(pivots, 0);
        scores.resize(pivots, 0.0);
        int8.scores(scans, self.query, 0, sums, scores);
        for (score, scale) in scores.iter_mut().zip(&int8.scales) {
            if *scale <= 0.0 {
                *score = f32::NEG_INFINITY;
            }
        }
    }

    fn open(&mut self, row: u32, to: &mut Vec<u32>) {
        to.extend_from_slice(neighbours(self.place.edges, row));
    }

    fn expect(&self, row: u32) {
        self.place.scans.prefetch(&self.place.edges[row as usize * DEGREE..][..DEGREE]);
    }

    fn scores(&mut self, rows: &[u32], sums: &mut Vec<i32>, scores: &mut Vec<f32>) {
        sums.resize(rows.len(), 0);
        scores.resize(rows.len(), 0.0);
        self.place.int8.scores_of(self.place.scans, self.query, rows, sums, scores);
    }
}

#[derive(Clone, Copy)]
struct Seen {
    hit: Hit,
    /// Whether its neighbours were looked at.
    opened: bool,
}

/// A walk, and the memory that the next can use again.
#[derive(Default)]
struct Walk {
    /// The best of what was seen, best first.
    best: Vec<Seen>,
    /// What was opened, in that order.
    opened: Vec<Hit>,
    met: Met,
    new: Vec<u32>,
    sums: Vec<i32>,
    scores: Vec<f32>,
}

impl Walk {
    fn towards(&mut self, ground: &mut impl Ground, beam: usize) {
        self.best.clear();
        self.opened.clear();
        self.met.clear(beam);
        self.enter(ground, beam);
        let mut next = 0;
        while let Some(seen) = self.best.get_mut(next) {
            if std::mem::replace(&mut seen.opened, true) {
                next += 1;
                continue;
            }
            let hit = seen.hit;
            self.opened.push(hit);
            self.new.clear();
            ground.open(hit.row, &mut self.new);
            let met = &mut self.met;
            self.new.retain(|to| met.insert(*to));
            if let Some(seen) = self.best[next..].iter().find(|seen| !seen.opened) {
                ground.expect(seen.hit.row);
            }
            next = self.look(ground, beam).min(next + 1);
        }
    }

    /// Begins with the best pivots.
    fn enter(&mut self, ground: &mut impl Ground, beam: usize) {
        ground.pivots(&mut self.sums, &mut self.scores);
        let mut entries = Shortlist::new(ENTRIES);
        for (row, score) in self.scores.iter().enumerate() {
            entries.push(Hit { row: row as u32, score: *score });
        }
        for hit in entries.into_hits() {
            self.met.insert(hit.row);
            self.keep(hit, beam);
        }
    }

    /// Scores the new ones, and says where the first of those that are kept is.
    fn look(&mut self, ground: &mut impl Ground, beam: usize) -> usize {
        ground.scores(&self.new, &mut self.sums, &mut self.scores);
        let mut first = usize::MAX;
        for i in 0..self.new.len() {
            first = first.min(self.keep(Hit { row: self.new[i], score: self.scores[i] }, beam));
        }
        first
    }

    fn keep(&mut self, hit: Hit, beam: usize) -> usize {
        // Most are not kept.
        if self.best.len() == beam && self.best.last().is_some_and(|last| last.hit.score > hit.score) {
            return usize::MAX;
        }
        let at = self.best.partition_point(|seen| seen.hit.order(&hit).is_lt());
        if at >= beam {
            return usize::MAX;
        }
        self.best.truncate(beam - 1);
        self.best.insert(at, Seen { hit, opened: false });
        at
    }
}

/// The set of vectors that were seen: a table of open addresses, a power of two long, never more than half full.
#[derive(Default)]
struct Met {
    table: Vec<u32>,
    count: usize,
}

impl Met {
    /// Nothing was seen yet; with a beam of `beam`, a dozen times as much will be.
    fn clear(&mut self, beam: usize) {
        let len = (32 * beam).next_power_of_two().clamp(1 << 10, 1 << 16).max(self.table.len());
        self.table.clear();
        self.table.resize(len, NONE);
        self.count = 0;
    }

    /// Whether it is new.
    fn insert(&mut self, row: u32) -> bool {
        if 2 * self.count >= self.table.len() {
            let len = 2 * self.table.len();
            let rows = std::mem::replace(&mut self.table, vec![NONE; len]);
            self.count = 0;
            for row in rows.into_iter().filter(|row| *row != NONE) {
                self.insert(row);
            }
        }
        let mask = self.table.len() - 1;
        // Fibonacci hashing: the upper bits of the product depend on all of the row's.
        let mut at = (u64::from(row).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize & mask;
        while self.table[at] != NONE {
            if self.table[at] == row {
                return false;
            }
            at = (at + 1) & mask;
        }
        self.table[at] = row;
        self.count += 1;
        true
    }
}
