//! The vectors as they are held in memory: in lists, as 4-bit codes, as bytes, or as both.

use super::faiss;
use super::int8::Int8;
use super::lists::{Lists, each_chunk, sample};
use super::pq::{self, Quantizer};
use crate::backend::cpu::scans::{BLOCK, Scans};
use crate::error::Result;
use crate::memory::Vectors;

/// Residuals that a product quantizer is trained on.
const SAMPLE: usize = 32_768;

/// What to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Inverted lists; 1: none.
    pub lists: usize,
    /// Components of a part of the 4-bit codes; none: no such codes.
    pub sub: Option<usize>,
    /// Whether the vectors are held as bytes.
    pub int8: bool,
}

impl Plan {
    /// Bytes of memory for `count` vectors.
    pub fn memory(&self, dim: usize, count: usize) -> usize {
        let padded = dim.next_multiple_of(16);
        let lists = if self.lists > 1 { self.lists * (5 * padded + 64) } else { 0 };
        // On average half of a list's last block is empty.
        let codes = self.sub.map_or(0, |sub| {
            let parts = dim.div_ceil(sub).next_multiple_of(4);
            parts * (count + self.lists * BLOCK / 2) / 2 + 4 * padded * dim + 4 * 16 * sub * parts
        });
        let int8 = if self.int8 { count * (dim.next_multiple_of(64) + 4) } else { 0 };
        lists + codes + int8 + 4 * count
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub(super) lists: Lists,
    pub(super) pq: Option<Coded>,
    /// By position.
    pub(super) int8: Option<Int8>,
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
        let lists = if plan.lists > 1 { Lists::cluster(vectors, plan.lists)? } else { Lists::one(dim, count) };
        let mut positions = vec![0u32; count];
        let mut list_of = vec![0u32; count];
        for list in 0..lists.count() {
            for position in lists.range(list) {
                let row = lists.rows[position] as usize;
                positions[row] = position as u32;
                list_of[row] = list as u32;
            }
        }
        let mut coded = match plan.sub {
            Some(sub) => {
                let n = SAMPLE.min(count);
                let mut residuals = sample(vectors, n)?;
                for (i, x) in residuals.chunks_exact_mut(dim).enumerate() {
                    subtract(&lists, list_of[i * count / n] as usize, x);
                }
                // Thousands of calls of a millisecond: threads would wait for each other for longer than they work.
                faiss::set_threads(1);
                let quantizer = Quantizer::train(&residuals, dim, sub, scans);
                faiss::set_threads(threads);
                let quantizer = quantizer?;
                let blocks = lists.blocks();
                let codes = vec![0; blocks.last().map_or(0, |n| *n as usize) * quantizer.parts * 16];
                Some(Coded { quantizer, blocks, codes })
            }
            None => None,
        };
        let mut int8 = plan.int8.then(|| Int8::new(dim, count));
        each_chunk(vectors, |first, chunk| {
            if let Some(int8) = &mut int8 {
                for (i, x) in chunk.chunks_exact(dim).enumerate() {
                    int8.set(positions[first + i] as usize, x);
                }
            }
            if let Some(Coded { quantizer, blocks, codes }) = &mut coded {
                let parts = quantizer.parts;
                let found = encode(quantizer, &lists, &list_of[first..], chunk, scans, threads);
                for (i, of_vector) in found.chunks_exact(parts).enumerate() {
                    let list = list_of[first + i] as usize;
                    let place = positions[first + i] as usize - lists.range(list).start;
                    pq::set_codes(&mut codes[blocks[list] as usize * parts * 16..], parts, place, of_vector);
                }
            }
            Ok(())
        })?;
        Ok(Self { lists, pq: coded, int8 })
    }

    /// Zeros where the rows' vectors were.
    pub(super) fn forget(&mut self, rows: &[u32]) {
        for list in 0..self.lists.count() {
            for position in self.lists.range(list) {
                if rows.binary_search(&self.lists.rows[position]).is_err() {
                    continue;
                }
                if let Some(int8) = &mut self.int8 {
                    int8.set(position, &[]);
                }
                if let Some(Coded { quantizer, blocks, codes }) = &mut self.pq {
                    let parts = quantizer.parts;
                    let place = position - self.lists.range(list).start;
                    pq::clear_codes(&mut codes[blocks[list] as usize * parts * 16..], parts, place);
                }
            }
        }
    }

    pub(super) fn memory(&self) -> usize {
        let coded = self.pq.as_ref().map_or(0, |c| c.quantizer.memory() + 4 * c.blocks.len() + c.codes.len());
        self.lists.memory() + coded + self.int8.as_ref().map_or(0, Int8::memory)
    }
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
