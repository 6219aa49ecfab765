//! A graph that stays in the file: memory holds two bits a component, by which a walk finds its way; what it opens is read,
//! edges and bytes in one piece, and scored by the bytes. So `DiskANN` (Subramanya et al., 2019) splits it, with product
//! quantization for the way.

#[cfg(test)]
mod tests;

use super::build::Chooser;
use super::nodes::{Node, Nodes};
use super::{Ground, Walk, pivots};
use crate::backend::cpu::scans::Scans;
use crate::error::{Error, Result};
use crate::memory::Hit;
use crate::memory::index::int8::{self, Int8};
use crate::memory::index::packed::{self, Packed};
use crate::memory::index::shortlist::Shortlist;

/// Vectors that are scanned at once.
const STRIDE: usize = 512;

#[derive(Debug, Clone, PartialEq)]
pub(in crate::memory::index) struct Disk {
    pub(in crate::memory::index) packed: Packed,
    pub(in crate::memory::index) nodes: Nodes,
}

impl Disk {
    /// The nearest of what was read, best first: of a walk that keeps `beam` in sight, or of the `beam` best where `all` are to
    /// be compared.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(in crate::memory::index) fn search(
        &self,
        scans: Scans,
        query: &[f32],
        beam: usize,
        all: bool,
    ) -> Result<Vec<Hit>> {
        let mut ground = Read {
            disk: self,
            scans,
            packed: packed::Query::new(query),
            int8: int8::Query::new(query),
            node: Node::default(),
            opened: Vec::new(),
            failed: None,
        };
        if !all {
            Walk::default().towards(&mut ground, beam);
        }
        // Nothing, too, where every pivot was forgotten.
        if ground.opened.is_empty() && ground.failed.is_none() {
            for hit in ground.scan(beam) {
                ground.open(hit.row, &mut Vec::new());
            }
        }
        if let Some(e) = ground.failed {
            return Err(unreadable(e));
        }
        ground.opened.sort_unstable_by(Hit::order);
        Ok(ground.opened)
    }

    /// Takes vectors out, in ascending order, as [`Graph::forget`] does, and makes zeros of them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(in crate::memory::index) fn forget(&mut self, scans: Scans, gone: &[u32]) -> Result<()> {
        let is_gone = |row: &u32| gone.binary_search(row).is_ok();
        let width = self.nodes.width();
        let (mut node, mut other) = (Node::default(), Node::default());
        for row in (0..self.nodes.len() as u32).filter(|row| !is_gone(row)) {
            self.nodes.read(row, &mut node).map_err(unreadable)?;
            if !node.edges.iter().any(is_gone) {
                continue;
            }
            let mut candidates = Vec::new();
            for to in &node.edges {
                if is_gone(to) {
                    self.nodes.read(*to, &mut other).map_err(unreadable)?;
                    candidates.extend(other.edges.iter().filter(|to| !is_gone(to) && **to != row));
                } else {
                    candidates.push(*to);
                }
            }
            candidates.sort_unstable();
            candidates.dedup();
            // They and the vector, which is the first.
            let mut near = Int8::new(width, candidates.len() + 1);
            near.set_bytes(0, &node.bytes, node.scale);
            for (i, to) in candidates.iter().enumerate() {
                self.nodes.read(*to, &mut other).map_err(unreadable)?;
                near.set_bytes(i + 1, &other.bytes, other.scale);
            }
            let all: Vec<u32> = (1..=candidates.len() as u32).collect();
            let mut chooser = Chooser::new(&near, scans);
            let edges = chooser.among(0, &all).iter().map(|i| candidates[*i as usize - 1]).collect();
            let bytes = std::mem::take(&mut node.bytes);
            self.nodes.change(row, Node::new(node.scale, edges, bytes));
        }
        for row in gone {
            self.nodes.change(*row, Node::new(0.0, Vec::new(), vec![0; width]));
            self.packed.clear(*row as usize);
        }
        Ok(())
    }
}

fn unreadable(e: std::io::Error) -> Error {
    Error::runtime(format!("the memory's index cannot be read: {e}"))
        .caused_by(e)
        .help("rebuild it: taper memory rebuild NAME")
}

/// The ground of one search.
struct Read<'a> {
    disk: &'a Disk,
    scans: Scans,
    packed: packed::Query,
    int8: int8::Query,
    node: Node,
    /// What was read, scored by its bytes.
    opened: Vec<Hit>,
    /// Why nothing was read any more.
    failed: Option<std::io::Error>,
}

impl Read<'_> {
    /// The best of all.
    fn scan(&self, size: usize) -> Vec<Hit> {
        let count = self.disk.nodes.len() as u32;
        let mut best = Shortlist::new(size);
        let (mut sums, mut scores) = ([0; STRIDE], [0.0; STRIDE]);
        for first in (0..count).step_by(STRIDE) {
            let rows: Vec<u32> = (first..count.min(first + STRIDE as u32)).collect();
            let n = rows.len();
            self.disk.packed.scores_of(self.scans, &self.packed, &rows, &mut sums[..n], &mut scores[..n]);
            for (row, score) in rows.iter().zip(scores) {
                best.push(Hit { row: *row, score });
            }
        }
        best.into_sorted()
    }
}

impl Ground for Read<'_> {
    fn pivots(&mut self, sums: &mut Vec<i32>, scores: &mut Vec<f32>) {
        let all: Vec<u32> = (0..pivots(self.disk.nodes.len()) as u32).collect();
        self.scores(&all, sums, scores);
    }

    fn open(&mut self, row: u32, neighbours: &mut Vec<u32>) {
        if self.failed.is_some() {
            return;
        }
        match self.disk.nodes.read(row, &mut self.node) {
            Ok(()) => {
                let score = self.int8.score(self.scans, &self.node.bytes, self.node.scale);
                self.opened.push(Hit { row, score });
                neighbours.extend_from_slice(&self.node.edges);
            }
            Err(e) => self.failed = Some(e),
        }
    }

    /// Pieces come through the system's cache: there is nothing to be done for them.
    fn expect(&self, _: u32) {}

    fn scores(&mut self, rows: &[u32], sums: &mut Vec<i32>, scores: &mut Vec<f32>) {
        sums.resize(rows.len(), 0);
        scores.resize(rows.len(), 0.0);
        self.disk.packed.scores_of(self.scans, &self.packed, rows, sums, scores);
    }
}
