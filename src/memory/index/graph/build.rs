//! How a graph comes to be, and how vectors go out of it.
//!
//! Vectors join in batches (as in `ParlayANN`, Manohar et al., 2024): those of a batch look for their neighbours in
//! the graph as it was before, then edges back are added, target by target. Neither depends on the order in which threads
//! do it, so the same vectors give the same graph anywhere.

use super::{DEGREE, Graph, NONE, Place, Walk, neighbours, pivots};
use crate::backend::cpu::memory::reserved;
use crate::backend::cpu::scans::Scans;
use crate::memory::Hit;
use crate::memory::index::int8::Int8;

/// What a walk keeps in sight to find a new vector's neighbours.
const BEAM: usize = 128;
/// An edge is left out when another one leads to a place that is so much nearer to its end, in squared distance. This is
/// 1.05 squared: of 200,000 vectors a walk that keeps 48 in sight finds 0.985, after 950 products; with Vamana's 1.2 it
/// finds 0.973, after 730, with 1.0 (as in HNSW) 0.979, after 840.
const DETOUR: f32 = 1.1025;
/// An odd number whose bits look like chance: 2³² divided by the golden ratio.
const LOT: u32 = 0x9E37_79B1;
/// A batch is this part of the graph that it joins, but not less and not more than so many.
const BATCH: (usize, usize, usize) = (50, 256, 20_000);

impl Graph {
    /// The graph of all vectors. The first of them are the pivots, so they should be in no order.
    pub(in crate::memory::index) fn build(int8: &Int8, scans: Scans, threads: usize) -> Self {
        let count = int8.scales.len();
        let pivots = pivots(count);
        let mut edges = reserved(count * DEGREE);
        edges.resize(count * DEGREE, NONE);
        let mut done = 0;
        while done < count {
            let (part, least, most) = BATCH;
            let end = if done == 0 { pivots } else { (done + (done / part).clamp(least, most)).min(count) };
            let (old, new) = edges.split_at_mut(done * DEGREE);
            let place = Place { edges: old, pivots, int8, scans };
            let mut back = join(place, &mut new[..(end - done) * DEGREE], threads);
            back.sort_unstable();
            link_back(int8, scans, &mut edges[..end * DEGREE], &back, threads);
            done = end;
        }
        connect(Place { edges: &[], pivots, int8, scans }, &mut edges);
        Self { edges }
    }

    /// Takes vectors out, in ascending order: whoever had an edge to one gets edges to its neighbours instead. Their bytes
    /// must still be there.
    pub(in crate::memory::index) fn forget(&mut self, int8: &Int8, scans: Scans, gone: &[u32]) {
        let is_gone = |row: &u32| gone.binary_search(row).is_ok();
        let mut chooser = Chooser::new(int8, scans);
        for row in 0..(self.edges.len() / DEGREE) as u32 {
            let own = neighbours(&self.edges, row);
            if !own.iter().any(is_gone) || is_gone(&row) {
                continue;
            }
            let theirs = own.iter().filter(|to| is_gone(to)).flat_map(|to| neighbours(&self.edges, *to));
            let candidates: Vec<u32> =
                own.iter().chain(theirs).copied().filter(|to| !is_gone(to) && *to != row).collect();
            let chosen = chooser.among(row, &candidates);
            set(&mut self.edges[row as usize * DEGREE..][..DEGREE], chosen);
        }
        for row in gone {
            self.edges[*row as usize * DEGREE..][..DEGREE].fill(NONE);
        }
    }
}

/// Gives those that no way leads to from a pivot an edge from the nearest that a walk finds, if it has room for one: where
/// everybody has nearer neighbours, nobody may have kept an edge to them.
fn connect(place: Place, edges: &mut [u32]) {
    let mut reached = vec![false; edges.len() / DEGREE];
    for pivot in 0..place.pivots as u32 {
        spread(edges, pivot, &mut reached);
    }
    let mut walk = Walk::default();
    for row in 0..reached.len() as u32 {
        if reached[row as usize] {
            continue;
        }
        walk.towards(&mut Place { edges, ..place }.from(&place.int8.query(row)), BEAM);
        let has_room = |from: &u32| neighbours(edges, *from).len() < DEGREE;
        let mut near = walk.best.iter().map(|seen| seen.hit.row);
        let Some(from) = near.clone().find(has_room).or_else(|| near.next()) else { continue };
        let at = neighbours(edges, from).len().min(DEGREE - 1);
        edges[from as usize * DEGREE + at] = row;
        spread(edges, row, &mut reached);
    }
}

/// Notes what can be reached from `row`.
fn spread(edges: &[u32], row: u32, reached: &mut [bool]) {
    let mut next = vec![row];
    while let Some(row) = next.pop() {
        if !std::mem::replace(&mut reached[row as usize], true) {
            next.extend(neighbours(edges, row));
        }
    }
}

fn set(edges: &mut [u32], to: &[u32]) {
    edges.fill(NONE);
    edges[..to.len()].copy_from_slice(to);
}

/// Chooses the edges of new vectors, and gives them turned round: (to, from). The first vectors of all see each other.
fn join(place: Place, new: &mut [u32], threads: usize) -> Vec<(u32, u32)> {
    let done = place.edges.len() / DEGREE;
    let all: Vec<u32> = if done == 0 { (0..(new.len() / DEGREE) as u32).collect() } else { Vec::new() };
    let share = (new.len() / DEGREE).div_ceil(threads.max(1)) * DEGREE;
    let work = |first: usize, new: &mut [u32]| {
        let mut walk = Walk::default();
        let mut chooser = Chooser::new(place.int8, place.scans);
        let mut back = Vec::with_capacity(new.len());
        for (i, edges) in new.chunks_exact_mut(DEGREE).enumerate() {
            let row = (first + i) as u32;
            let chosen = if done == 0 {
                chooser.among(row, &all)
            } else {
                walk.towards(&mut place.from(&place.int8.query(row)), BEAM);
                let seen = walk.best.iter().map(|seen| seen.hit).chain(walk.opened.iter().copied());
                chooser.of(row, seen)
            };
            set(edges, chosen);
            back.extend(chosen.iter().map(|to| (*to, row)));
        }
        back
    };
    std::thread::scope(|scope| {
        let work = &work;
        let shares = new.chunks_mut(share).enumerate();
        let threads: Vec<_> =
            shares.map(|(i, new)| scope.spawn(move || work(done + i * share / DEGREE, new))).collect();
        threads.into_iter().flat_map(joined).collect()
    })
}

/// What a thread gave; its panic goes on in this one.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Adds the edges of `back`, (from, to) in order; who has too many then chooses among them.
fn link_back(int8: &Int8, scans: Scans, mut edges: &mut [u32], back: &[(u32, u32)], threads: usize) {
    let share = back.len().div_ceil(threads.max(1)).max(1);
    let mut rest = back;
    let mut first = 0;
    std::thread::scope(|scope| {
        while !rest.is_empty() {
            // All edges of one vector are one thread's.
            let mut n = share.min(rest.len());
            let last = rest[n - 1].0;
            n += rest[n..].partition_point(|(from, _)| *from == last);
            let (part, others) = rest.split_at(n);
            let (own, behind) = std::mem::take(&mut edges).split_at_mut((last as usize + 1 - first) * DEGREE);
            scope.spawn(move || {
                let mut chooser = Chooser::new(int8, scans);
                let mut all = Vec::new();
                for group in part.chunk_by(|a, b| a.0 == b.0) {
                    let from = group[0].0;
                    all.clear();
                    all.extend_from_slice(neighbours(own, from - first as u32));
                    all.extend(group.iter().map(|(_, to)| *to));
                    all.sort_unstable();
                    all.dedup();
                    let chosen = if all.len() > DEGREE { chooser.among(from, &all) } else { &all };
                    set(&mut own[(from as usize - first) * DEGREE..][..DEGREE], chosen);
                }
            });
            (rest, edges, first) = (others, behind, last as usize + 1);
        }
    });
}

/// Chooses edges.
pub(super) struct Chooser<'a> {
    int8: &'a Int8,
    scans: Scans,
    candidates: Vec<Hit>,
    chosen: Vec<u32>,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(int8: &'a Int8, scans: Scans) -> Self {
        Self { int8, scans, candidates: Vec::new(), chosen: Vec::new() }
    }

    /// The best edges of `row` among vectors.
    pub(super) fn among(&mut self, row: u32, rows: &[u32]) -> &[u32] {
        let (mut sums, mut scores) = (vec![0; rows.len()], vec![0.0; rows.len()]);
        self.int8.scores_of(self.scans, &self.int8.query(row), rows, &mut sums, &mut scores);
        self.of(row, rows.iter().zip(scores).map(|(row, score)| Hit { row: *row, score }))
    }

    /// The same, of vectors with their scores: the nearest, and then the next to which none of those chosen is a way.
    fn of(&mut self, row: u32, candidates: impl Iterator<Item = Hit>) -> &[u32] {
        self.candidates.clear();
        self.candidates.extend(candidates.filter(|hit| hit.row != row));
        // Among equals by lot, another one for each: those of many equal vectors must all be somebody's neighbours.
        let lot = |hit: &Hit| (hit.row ^ row.wrapping_mul(LOT)).wrapping_mul(LOT);
        self.candidates.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then_with(|| lot(a).cmp(&lot(b))));
        self.candidates.dedup_by_key(|hit| hit.row);
        self.chosen.clear();
        for hit in &self.candidates {
            // Equal vectors are no way to each other, or only one of them would be found; but they get half of the edges.
            let least = if self.chosen.len() < DEGREE / 2 { f32::MIN_POSITIVE } else { 0.0 };
            let leads_to = |chosen: &u32| {
                let way = distance(self.int8.similarity(self.scans, *chosen, hit.row));
                DETOUR * way + least <= distance(hit.score)
            };
            if !self.chosen.iter().any(leads_to) {
                self.chosen.push(hit.row);
            }
            if self.chosen.len() == DEGREE {
                break;
            }
        }
        &self.chosen
    }
}

/// The squared distance of unit vectors.
fn distance(cosine: f32) -> f32 {
    (2.0 - 2.0 * cosine).max(0.0)
}
