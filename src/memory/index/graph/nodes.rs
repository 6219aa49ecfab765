//! The vectors of a graph with their edges, as pieces of a file that are read one at a time.
//!
//! They are read into a buffer, not mapped: the system may keep as much of the file in its cache as it has room for, and
//! none of that is this process's memory.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{DEGREE, Graph, NONE, neighbours};
use crate::memory::index::int8::{self, Int8};

/// The pieces of all vectors.
#[derive(Debug, Clone)]
pub(in crate::memory::index) struct Nodes {
    source: Source,
    /// What is another than in the source.
    changed: HashMap<u32, Node>,
}

#[derive(Debug, Clone)]
enum Source {
    /// As they were built, until they are in a file.
    Held(Int8, Graph),
    File(Pieces),
}

/// Where pieces are in a file.
#[derive(Debug, Clone)]
struct Pieces {
    file: Arc<File>,
    at: u64,
    count: usize,
    width: usize,
}

/// A vector in bytes with its edges.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::memory::index) struct Node {
    pub(super) scale: f32,
    /// At most [`DEGREE`].
    pub(super) edges: Vec<u32>,
    /// (width)
    pub(super) bytes: Vec<i8>,
    /// Room to read into.
    piece: Vec<u8>,
}

impl Node {
    pub(super) fn new(scale: f32, edges: Vec<u32>, bytes: Vec<i8>) -> Self {
        Self { scale, edges, bytes, piece: Vec::new() }
    }

    /// Bytes of a piece: the scale, [`DEGREE`] edges, and `width` bytes of a vector.
    pub(super) fn size(width: usize) -> usize {
        4 + 4 * DEGREE + width
    }

    /// As it is in a file, behind what `out` has.
    pub(in crate::memory::index) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.scale.to_le_bytes());
        let none = std::iter::repeat_n(&NONE, DEGREE - self.edges.len());
        out.extend(self.edges.iter().chain(none).flat_map(|to| to.to_le_bytes()));
        out.extend(self.bytes.iter().map(|byte| *byte as u8));
    }

    /// Takes over what was read. An edge that leads nowhere is left out: what is in a file may have changed since its hash
    /// was taken.
    fn parse(&mut self, count: usize) {
        self.edges.clear();
        self.bytes.clear();
        let Some((scale, rest)) = self.piece.split_first_chunk() else { return };
        self.scale = f32::from_le_bytes(*scale);
        let (edges, bytes) = rest.split_at(4 * DEGREE);
        let edges = edges.as_chunks().0.iter().map(|to| u32::from_le_bytes(*to));
        self.edges.extend(edges.filter(|to| (*to as usize) < count));
        self.bytes.extend(bytes.iter().map(|byte| *byte as i8));
    }
}

impl Nodes {
    pub(in crate::memory::index) fn held(int8: Int8, graph: Graph) -> Self {
        Self { source: Source::Held(int8, graph), changed: HashMap::new() }
    }

    /// Pieces of vectors with so many components that lie in a file from `at` on, in `len` bytes; none where no whole number
    /// of them does.
    pub(in crate::memory::index) fn in_file(file: File, at: u64, len: usize, dim: usize) -> Option<Self> {
        let width = int8::width(dim);
        let pieces = Pieces { file: Arc::new(file), at, count: len / Node::size(width), width };
        len.is_multiple_of(Node::size(width)).then(|| Self { source: Source::File(pieces), changed: HashMap::new() })
    }

    pub(in crate::memory::index) fn len(&self) -> usize {
        match &self.source {
            Source::Held(int8, _) => int8.scales.len(),
            Source::File(pieces) => pieces.count,
        }
    }

    pub(super) fn width(&self) -> usize {
        match &self.source {
            Source::Held(int8, _) => int8.width,
            Source::File(pieces) => pieces.width,
        }
    }

    /// Bytes that all of them are in a file.
    pub(in crate::memory::index) fn size(&self) -> usize {
        self.len() * Node::size(self.width())
    }

    /// Puts another piece in the place of one, until all are written to a file.
    pub(super) fn change(&mut self, row: u32, node: Node) {
        self.changed.insert(row, node);
    }

    /// Reads a piece that is there.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter than it was.
    pub(in crate::memory::index) fn read(&self, row: u32, node: &mut Node) -> std::io::Result<()> {
        match (&self.source, self.changed.get(&row)) {
            (_, Some(changed)) => node.clone_from(changed),
            (Source::Held(int8, graph), None) => {
                node.scale = int8.scales[row as usize];
                node.edges.clear();
                node.edges.extend_from_slice(neighbours(&graph.edges, row));
                node.bytes.clear();
                node.bytes.extend_from_slice(int8.row(row));
            }
            (Source::File(Pieces { file, at, count, width }), None) => {
                let size = Node::size(*width);
                node.piece.resize(size, 0);
                file.read_exact_at(&mut node.piece, at + u64::from(row) * size as u64)?;
                node.parse(*count);
            }
        }
        Ok(())
    }
}

/// Whether they are the same, wherever they are.
impl PartialEq for Nodes {
    fn eq(&self, other: &Self) -> bool {
        let (mut a, mut b) = (Node::default(), Node::default());
        let same = |row: u32| {
            let read = self.read(row, &mut a).and_then(|()| other.read(row, &mut b));
            read.is_ok() && (a.scale, &a.edges, &a.bytes) == (b.scale, &b.edges, &b.bytes)
        };
        self.len() == other.len() && (0..self.len() as u32).all(same)
    }
}
