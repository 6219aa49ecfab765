//! The vectors as they are held: as bytes, as bytes with a graph over them, in memory as two bits a component while bytes and
//! graph are on the disk, or in lists as 4-bit codes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::faiss;
use super::graph::disk::Disk;
use super::graph::nodes::Nodes;
use super::graph::{DEGREE, Graph};
use super::int8::Int8;
use super::lists::{Lists, each_chunk, sample};
use super::packed::{self, Packed};
use super::pq::{self, Quantizer};
use crate::backend::cpu::scans::{BLOCK, Scans};
use crate::error::Result;
use crate::memory::Vectors;

/// Residuals that a product quantizer is trained on.
const SAMPLE: usize = 32_768;

/// What to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Bytes, all of which are scanned.
    Int8,
    /// Bytes, and a graph over them.
    Graph,
    /// Two bits a component; bytes and a graph over them are read from the index's file.
    Disk,
    /// 4-bit codes, one for `sub` components, in inverted lists; 1 list: all in one.
    Codes { lists: usize, sub: usize },
}

impl Plan {
    /// Bytes of memory for `count` vectors.
    pub fn memory(&self, dim: usize, count: usize) -> usize {
        let int8 = dim.next_multiple_of(64) + 4;
        let rows = 4 * count;
        match *self {
            Self::Int8 => rows + count * int8,
            Self::Graph => rows + count * (int8 + 4 * DEGREE),
            Self::Disk => rows + count * (packed::width(dim) / 4 + 4),
            Self::Codes { lists, sub } => {
                let padded = dim.next_multiple_of(16);
                let means = if lists > 1 { lists * (5 * padded + 64) } else { 0 };
                // On average half of a list's last block is empty.
                let parts = dim.div_ceil(sub).next_multiple_of(4);
                let codes = parts * (count + lists * BLOCK / 2) / 2;
                rows + means + codes + 4 * padded * dim + 4 * 16 * sub * parts
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub(super) lists: Lists,
    pub(super) form: Form,
}

/// By position in the lists.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    Int8(Int8),
    Graph(Int8, Graph),
    Disk(Disk),
    Codes(Coded),
}

/// Vectors in 4-bit codes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Coded {
    pub(super) quantizer: Quantizer,
    /// The first block of each list: (lists + 1)
    pub(super) blocks: Vec<u32>,
    /// (blocks, parts, 16)
    pub(super) codes: Vec<u8>,
}

impl Layout {
    /// # Errors
    /// When vectors cannot be read, or FAISS has no memory.
    pub(super) fn build(vectors: &dyn Vectors, plan: Plan, scans: Scans, threads: usize) -> Result<Self> {
        let (dim, count) = (vectors.dim(), vectors.len());
        let in_order = || (0..count as u32).collect();
        Ok(match plan {
            Plan::Int8 => {
                let lists = Lists::one(dim, in_order());
                let int8 = bytes(vectors, &lists)?;
                Self { lists, form: Form::Int8(int8) }
            }
            Plan::Graph => {
                let lists = Lists::one(dim, shuffled(in_order()));
                let int8 = bytes(vectors, &lists)?;
                let graph = Graph::build(&int8, scans, threads);
                Self { lists, form: Form::Graph(int8, graph) }
            }
            Plan::Disk => {
                let lists = Lists::one(dim, shuffled(in_order()));
                let int8 = bytes(vectors, &lists)?;
                let graph = Graph::build(&int8, scans, threads);
                let packed = Packed::build(vectors, &positions(&lists))?;
                Self { lists, form: Form::Disk(Disk { packed, nodes: Nodes::held(int8, graph) }) }
            }
            Plan::Codes { lists, sub } => {
                let lists = if lists > 1 { Lists::cluster(vectors, lists)? } else { Lists::one(dim, in_order()) };
                let coded = codes(vectors, &lists, sub, scans, threads)?;
                Self { lists, form: Form::Codes(coded) }
            }
        })
    }

    /// Zeros where the rows' vectors were, and no edge from or to them. `rows` ascend.
    ///
    /// # Errors
    /// When what is on the disk cannot be read.
    pub(super) fn forget(&mut self, scans: Scans, rows: &[u32]) -> Result<()> {
        let is_gone = |position: &u32| rows.binary_search(&self.lists.rows[*position as usize]).is_ok();
        let gone: Vec<u32> = (0..self.lists.rows.len() as u32).filter(is_gone).collect();
        if let Form::Graph(int8, graph) = &mut self.form {
            graph.forget(int8, scans, &gone);
        }
        match &mut self.form {
            Form::Int8(int8) | Form::Graph(int8, _) => {
                for position in gone {
                    int8.set(position as usize, &[]);
                }
            }
            Form::Disk(disk) => disk.forget(scans, &gone)?,
            Form::Codes(Coded { quantizer, blocks, codes }) => {
                for position in gone.into_iter().map(|position| position as usize) {
                    let list = self.lists.of(position);
                    let place = position - self.lists.range(list).start;
                    let parts = quantizer.parts;
                    pq::clear_codes(&mut codes[blocks[list] as usize * parts * 16..], parts, place);
                }
            }
        }
        Ok(())
    }

    /// Bytes of memory that it holds once it is in a file.
    pub(super) fn memory(&self) -> usize {
        let form = match &self.form {
            Form::Int8(int8) => int8.memory(),
            Form::Graph(int8, graph) => int8.memory() + graph.memory(),
            Form::Disk(disk) => disk.packed.memory(),
            Form::Codes(c) => c.quantizer.memory() + 4 * c.blocks.len() + c.codes.len(),
        };
        self.lists.memory() + form
    }
}

/// In an order drawn by lot, which is the same for as many.
fn shuffled(mut rows: Vec<u32>) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(rows.len() as u64);
    for i in (1..rows.len()).rev() {
        rows.swap(i, (rng.next_u64() % (i as u64 + 1)) as usize);
    }
    rows
}

/// Where each row's vector is in the lists.
fn positions(lists: &Lists) -> Vec<u32> {
    let mut positions = vec![0u32; lists.rows.len()];
    for (position, row) in lists.rows.iter().enumerate() {
        positions[*row as usize] = position as u32;
    }
    positions
}

fn bytes(vectors: &dyn Vectors, lists: &Lists) -> Result<Int8> {
    let positions = positions(lists);
    let mut int8 = Int8::new(vectors.dim(), vectors.len());
    each_chunk(vectors, |first, chunk| {
        for (x, position) in chunk.chunks_exact(vectors.dim()).zip(&positions[first..]) {
            int8.set(*position as usize, x);
        }
        Ok(())
    })?;
    Ok(int8)
}

fn codes(vectors: &dyn Vectors, lists: &Lists, sub: usize, scans: Scans, threads: usize) -> Result<Coded> {
    let (dim, count) = (vectors.dim(), vectors.len());
    let positions = positions(lists);
    let list_of: Vec<u32> = positions.iter().map(|position| lists.of(*position as usize) as u32).collect();
    let n = SAMPLE.min(count);
    let mut residuals = sample(vectors, n)?;
    for (i, x) in residuals.chunks_exact_mut(dim).enumerate() {
        subtract(lists, list_of[i * count / n] as usize, x);
    }
    // Thousands of calls of a millisecond: threads would wait for each other for longer than they work.
    faiss::set_threads(1);
    let quantizer = Quantizer::train(&residuals, dim, sub, scans);
    faiss::set_threads(threads);
    let quantizer = quantizer?;
    let (blocks, parts) = (lists.blocks(), quantizer.parts);
    let mut codes = vec![0; blocks.last().map_or(0, |n| *n as usize) * parts * 16];
    each_chunk(vectors, |first, chunk| {
        let found = encode(&quantizer, lists, &list_of[first..], chunk, scans, threads);
        for (i, of_vector) in found.chunks_exact(parts).enumerate() {
            let list = list_of[first + i] as usize;
            let place = positions[first + i] as usize - lists.range(list).start;
            pq::set_codes(&mut codes[blocks[list] as usize * parts * 16..], parts, place, of_vector);
        }
        Ok(())
    })?;
    Ok(Coded { quantizer, blocks, codes })
}

/// x − the mean of its list.
fn subtract(lists: &Lists, list: usize, x: &mut [f32]) {
    for (x, mean) in x.iter_mut().zip(lists.mean(list).unwrap_or_default()) {
        *x -= mean;
    }
}

/// The codes of a chunk's residuals, one a byte: (vectors, parts).
fn encode(
    quantizer: &Quantizer,
    lists: &Lists,
    list_of: &[u32],
    chunk: &[f32],
    scans: Scans,
    threads: usize,
) -> Vec<u8> {
    let (dim, parts) = (quantizer.dim, quantizer.parts);
    let n = chunk.len() / dim;
    let mut codes = vec![0; n * parts];
    let share = n.div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        for ((codes, chunk), list_of) in
            codes.chunks_mut(share * parts).zip(chunk.chunks(share * dim)).zip(list_of[..n].chunks(share))
        {
            scope.spawn(move || {
                let mut residual = vec![0.0; dim];
                for ((codes, x), list) in codes.chunks_exact_mut(parts).zip(chunk.chunks_exact(dim)).zip(list_of) {
                    residual.copy_from_slice(x);
                    subtract(lists, *list as usize, &mut residual);
                    quantizer.encode(scans, &residual, codes);
                }
            });
        }
    });
    codes
}
