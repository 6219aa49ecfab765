//! Places in the GPU's memory: worked out first, taken all at once, and never again while it runs.

use super::args::Activations;
use super::gpu::Address;
use super::layout::ALIGN;
use crate::backend::Limits;
use crate::format::packed::GROUP;
use crate::model::config::Config;

/// Up to so many rows have each chunk of their context attended to by a block of its own.
pub const FEW: usize = 16;
/// Rows whose scores are in memory at a time where attention is plain.
pub const PLAIN_ROWS: usize = 8;
/// Positions of a chunk: `CHUNK` of `attention.cu`.
pub const CHUNK: usize = 256;

/// Hands out memory from `next` on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arena {
    pub next: Address,
}

impl Arena {
    pub fn take(&mut self, bytes: usize) -> Address {
        let at = self.next;
        self.next += bytes.next_multiple_of(ALIGN) as Address;
        at
    }
}

/// What lies between the kernels of a step. 4 bytes a number where nothing else is said.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// (rows, hidden)
    pub hidden: Address,
    /// (rows, heads, `head_dim`)
    pub query: Address,
    /// (rows, heads, `head_dim`)
    pub attended: Address,
    /// (rows, `head_dim` / 2, cosine | sine)
    pub angles: Address,
    /// (rows): of keys and values.
    pub places: Address,
    /// (rows)
    pub positions: Address,
    /// (rows): where each row's block table begins in `tables`.
    pub table: Address,
    pub tables: Address,
    /// (rows): those that the head is for.
    pub which: Address,
    /// (few rows, heads, chunks, `head_dim` + 2)
    pub partials: Address,
    /// (rows, first | count): of blocks of attention of many rows.
    pub tiles: Address,
    /// (plain rows, heads, context); none where attention is in blocks.
    pub scores: Address,
    /// (sequences, vocab)
    pub logits: Address,
    /// Of whatever a matrix reads that is not SwiGLU's: rows of up to the wider of hidden and queries.
    pub x: Activations,
    /// (rows, ffn)
    pub gated: Activations,
}

impl Buffers {
    pub fn new(arena: &mut Arena, config: &Config, limits: &Limits, flash_attention: bool) -> Self {
        let (rows, q_dim) = (limits.chunk, config.q_dim());
        let chunks = limits.context.div_ceil(CHUNK);
        let plain_rows = if flash_attention { 0 } else { PLAIN_ROWS };
        let mut numbers = |count: usize| arena.take(4 * count);
        Self {
            hidden: numbers(rows * config.hidden),
            query: numbers(rows * q_dim),
            attended: numbers(rows * q_dim),
            angles: numbers(rows * config.head_dim),
            places: numbers(rows),
            positions: numbers(rows),
            table: numbers(rows),
            // Of as many sequences as a step can have.
            tables: numbers(rows.min(limits.sequences) * limits.context.div_ceil(crate::backend::PAGE)),
            which: numbers(rows),
            partials: numbers(FEW * config.heads * chunks * (config.head_dim + 2)),
            tiles: numbers(2 * rows),
            scores: numbers(plain_rows * config.heads * limits.context),
            logits: numbers(limits.sequences.max(1) * config.vocab),
            x: activations(arena, rows, config.hidden.max(q_dim)),
            gated: activations(arena, rows, config.ffn),
        }
    }
}

fn activations(arena: &mut Arena, rows: usize, k: usize) -> Activations {
    Activations {
        codes: arena.take(rows * k),
        rests: arena.take(rows * k),
        scales: arena.take(rows * k / GROUP * 16),
        numbers: arena.take(rows * k * 4),
        k: k as i64,
    }
}
