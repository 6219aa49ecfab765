//! Places in the GPU's memory: worked out first, taken all at once, and never again while it runs.

use super::Options;
use super::args::Activations;
use super::gpu::Address;
use super::layout::ALIGN;
use super::step::STEPS;
use super::{changes, draws, flights};
use crate::backend::{KvType, Limits, PAGE};
use crate::format::packed::GROUP;
use crate::model::config::Config;

/// Up to so many rows have each chunk of their context attended to by a block of its own, and are decoded by recorded steps.
pub const FEW: usize = 16;
/// The same where there may be more sequences than those: what blocks leave takes memory for each row and chunk.
const FEW_OF_MANY: usize = 32;
/// Rows whose scores are in memory at a time where attention is plain.
pub const PLAIN_ROWS: usize = 8;
/// Positions of a chunk: `CHUNK` of `attention.cu`.
pub const CHUNK: usize = 256;
/// The same of `decode.cu`.
pub const SPAN: usize = 128;

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

/// Where a step's rows belong, words of 4 bytes, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// (rows, `head_dim` / 2, cosine | sine)
    pub angles: Address,
    /// (rows)
    pub positions: Address,
    /// (rows): of keys and values.
    pub cells: Address,
    /// (rows): where each row's block table begins in `tables`.
    pub table: Address,
    /// (rows): positions of the row's sequence that earlier steps computed.
    pub known: Address,
    /// (rows): ids, or what `begin.cu` has for a row of the step before.
    pub tokens: Address,
    /// (rows, `draws::WORDS`)
    pub draws: Address,
    /// Block tables, one behind the other.
    pub tables: Address,
    /// (rows, `changes::WORDS`), of a step of few rows.
    pub changes: Address,
}

impl Places {
    /// `changed` are the rows whose logits can be changed.
    fn new(arena: &mut Arena, config: &Config, limits: &Limits, rows: usize, changed: usize) -> Self {
        let words = Self::words(config, limits, rows);
        let angles = arena.take(4 * (words + changed * changes::WORDS));
        let positions = angles + 4 * (rows * config.head_dim) as Address;
        let column = 4 * rows as Address;
        let [cells, table, known, tokens, draws] = [1, 2, 3, 4, 5].map(|n| positions + n * column);
        let tables = draws + draws::WORDS as Address * column;
        let changes = angles + 4 * words as Address;
        Self { angles, positions, cells, table, known, tokens, draws, tables, changes }
    }

    /// Words of so many rows in front of the block tables.
    pub fn words_before_tables(config: &Config, rows: usize) -> usize {
        rows * (config.head_dim + 5 + draws::WORDS)
    }

    /// How many there are in front of `changes`, of as many sequences as so many rows can have.
    pub fn words(config: &Config, limits: &Limits, rows: usize) -> usize {
        Self::words_before_tables(config, rows) + rows.min(limits.sequences) * limits.context.div_ceil(PAGE)
    }
}

/// What lies between the kernels of a step. 4 bytes a number where nothing else is said.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// The residual stream, (rows, hidden)
    pub hidden: Address,
    /// (rows, heads, `head_dim`)
    pub query: Address,
    /// (rows, heads, `head_dim`)
    pub attended: Address,
    /// Of a step of few rows, and of one of many.
    pub places: [Places; 2],
    /// Keys and values of a step's rows in f32, where they are kept in 8 bits: (rows in pages, K | V, `kv_heads`, `PAGE`, `head_dim`)
    pub new_rows: Address,
    /// (rows): 0, 1, …, which are the rows' places in there.
    pub in_order: Address,
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
    /// (sequences): 8 bytes each, the likeliest token, or the one that was drawn; 0 between steps.
    pub best: Address,
    /// (`STEPS` + 1, `flights::stride`): what the last steps chose.
    pub chosen: Address,
    /// (few rows, slices, `draws::MOST`): 8 bytes each, the likeliest of slices of the vocabulary.
    pub some: Address,
    /// (few rows): slices that are done.
    pub slices: Address,
    /// 1: steps that followed each other and have ended, see `step.cuh`.
    pub ended: Address,
    /// 1, of 8 bytes: when the last of them began.
    pub begun: Address,
    /// 1, of 8 bytes: of the step's logits; 0 between steps.
    pub hash: Address,
    /// The residual stream as matrices read it.
    pub normed: Activations,
    /// The same of what attention gave.
    pub heads: Activations,
    /// (rows, ffn)
    pub gated: Activations,
    /// (rows, ffn): products of gate and up matrices where they are of two types, otherwise nothing; 0 between phases.
    pub gate: Address,
    pub up: Address,
    /// (few rows): 8 bytes each, what the head's kernels rank of those.
    pub ranks: Address,
}

impl Buffers {
    /// `two_types` says that gate and up matrices of a layer are of two.
    pub fn new(arena: &mut Arena, config: &Config, limits: &Limits, options: Options, two_types: bool) -> Self {
        let plain_rows = if options.flash_attention { 0 } else { PLAIN_ROWS };
        let new_pages = if options.kv_type == KvType::Q8_0 { limits.chunk.div_ceil(PAGE) } else { 0 };
        let (rows, few, q_dim) = (limits.chunk, few(limits), config.q_dim());
        let products = if two_types { 4 * rows * config.ffn } else { 0 };
        let places = [(few, few), (rows, 0)].map(|(rows, changed)| Places::new(arena, config, limits, rows, changed));
        let mut numbers = |count: usize| arena.take(4 * count);
        Self {
            hidden: numbers(rows * config.hidden),
            query: numbers(rows * q_dim),
            attended: numbers(rows * q_dim),
            places,
            new_rows: numbers(2 * new_pages * PAGE * config.kv_dim()),
            in_order: numbers(rows),
            which: numbers(rows),
            partials: numbers(few * config.heads * chunks(limits) * (config.head_dim + 2)),
            tiles: numbers(2 * rows),
            scores: numbers(plain_rows * config.heads * limits.context),
            logits: numbers(head_rows(limits) * config.vocab),
            best: numbers(2 * head_rows(limits).max(few)),
            chosen: numbers(flights::stride(limits) * (STEPS + 1)),
            some: numbers(2 * few * draws::slices(config.vocab) * draws::MOST),
            slices: numbers(few),
            ended: numbers(1),
            begun: numbers(2),
            hash: numbers(2),
            normed: activations(arena, rows, config.hidden),
            heads: activations(arena, rows, q_dim),
            gated: activations(arena, rows, config.ffn),
            gate: arena.take(products),
            up: arena.take(products),
            ranks: arena.take(if two_types { 8 * few } else { 0 }),
        }
    }
}

/// Rows that a step of few has at most.
pub fn few(limits: &Limits) -> usize {
    limits.chunk.min(if limits.sequences > FEW { FEW_OF_MANY } else { FEW })
}

/// Chunks of the longest context.
pub fn chunks(limits: &Limits) -> usize {
    limits.context.div_ceil(SPAN)
}

/// Rows that the head is computed for at once.
pub fn head_rows(limits: &Limits) -> usize {
    limits.sequences.clamp(1, limits.chunk)
}

fn activations(arena: &mut Arena, rows: usize, k: usize) -> Activations {
    Activations {
        codes: arena.take(rows * k),
        rests: arena.take(rows * k),
        scales: arena.take(rows * k / GROUP * 16),
        numbers: arena.take(rows * k * 4),
        factors: arena.take(rows * 4),
        k: k as i64,
    }
}
