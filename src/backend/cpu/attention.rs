//! Paged attention: softmax(q·Kᵀ/√d)·V over [`pages`](super::pages), in chunks of 64 positions.
//!
//! Up to 8 queries of one key head go through a chunk together: the heads of its group when decoding, neighbouring rows
//! when prefilling. A chunk ends in a partial result (largest score, sum of the weights, weighted sum of V); partials are
//! joined in the order of the chunks, whoever computed them. So a query's result does not depend on how the work was
//! split. Numbers in units of a scale are multiplied as the codes they are, and the scale then with the position's score
//! or weight. Online softmax: Milakov and Gimelshein, 2018; split over the keys: Flash-Decoding, 2023.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels are unsafe as a whole; their contract is at the top of each")]
#![expect(unsafe_code, reason = "raw loads and vector instructions")]

use super::pages::{Byte, Half, Kept, Pages, Single};
use super::simd::{LANES, Simd};
use crate::backend::{KvType, PAGE, PageId};

/// Positions of a chunk: as few as leave two threads equal shares of three heads early on.
pub const CHUNK: usize = 64;
/// Queries that go through a chunk together.
pub const QUERIES: usize = 8;
/// Numbers of a partial result before its weighted sum: the largest score, the sum of the weights.
pub const PARTIAL_HEAD: usize = 16;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Numbers that a thread needs for scores.
pub const SCRATCH: usize = QUERIES * CHUNK;

/// A query, and which positions it sees.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// `head_dim` numbers.
    pub numbers: *const f32,
    pub first: usize,
    /// One behind the last.
    pub end: usize,
    /// Where its partial goes: [`PARTIAL_HEAD`] + `head_dim` numbers.
    pub partial: *mut f32,
}

/// Which positions, and what the thread reads after them.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Its first position is `CHUNK` times this.
    pub number: usize,
    /// A block, or as many bytes of something else. It is only asked for; but where nothing is mapped that is slow.
    pub next: *const u8,
}

impl Chunk {
    fn first(self) -> usize {
        self.number * CHUNK
    }
}

/// The partial results of 1 to 8 queries over one chunk. Meanwhile the block that is read next is asked for, after the last
/// one `next`: blocks are far apart, and too short for the processor to find out where they go on.
///
/// # Safety
/// `table` has the pages of all positions that a query sees; every pointer is good for what is said there; `scratch` is
/// [`SCRATCH`] numbers. The processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn chunk<S: Simd>(queries: &[Query], chunk: Chunk, pages: &Pages, table: &[PageId], scratch: *mut f32) {
    match pages.kv_type {
        KvType::F16 => by_queries::<S, Half>(queries, chunk, pages, table, scratch),
        KvType::F32 => by_queries::<S, Single>(queries, chunk, pages, table, scratch),
        KvType::Q8_0 => by_queries::<S, Byte>(queries, chunk, pages, table, scratch),
    }
}

#[inline(always)]
unsafe fn by_queries<S: Simd, K: Kept>(q: &[Query], chunk: Chunk, pages: &Pages, table: &[PageId], scratch: *mut f32) {
    match q.len() {
        1 => queries::<S, K, 1>(q, chunk, pages, table, scratch),
        2 => queries::<S, K, 2>(q, chunk, pages, table, scratch),
        3 => queries::<S, K, 3>(q, chunk, pages, table, scratch),
        4 => queries::<S, K, 4>(q, chunk, pages, table, scratch),
        5 => queries::<S, K, 5>(q, chunk, pages, table, scratch),
        6 => queries::<S, K, 6>(q, chunk, pages, table, scratch),
        7 => queries::<S, K, 7>(q, chunk, pages, table, scratch),
        8 => queries::<S, K, 8>(q, chunk, pages, table, scratch),
        n => unreachable!("no kernel takes {n} queries"),
    }
}

/// The positions of a chunk that any of the queries sees, in whole pages: from, to.
fn range(queries: &[Query], chunk: Chunk) -> (usize, usize) {
    let first = queries.iter().map(|q| q.first).min().unwrap_or(0).max(chunk.first());
    let end = queries.iter().map(|q| q.end).max().unwrap_or(0).min(chunk.first() + CHUNK);
    (first / PAGE * PAGE, end.div_ceil(PAGE) * PAGE)
}

#[inline(always)]
unsafe fn queries<S: Simd, K: Kept, const N: usize>(
    queries: &[Query],
    chunk: Chunk,
    pages: &Pages,
    table: &[PageId],
    scratch: *mut f32,
) {
    let (from, to) = range(queries, chunk);
    for pos in (from..to).step_by(PAGE) {
        let next = pos + PAGE;
        let next = if next < to { pages.keys(table[next / PAGE]) } else { pages.values(table[from / PAGE]) };
        scores::<S, K, N>(queries, pages, table[pos / PAGE], next, scratch.add(pos - chunk.first()));
    }
    let scale = S::splat(1.0 / (pages.head_dim as f32).sqrt());
    let (from, to) = (from - chunk.first(), to.max(from) - chunk.first());
    for (i, query) in queries.iter().enumerate() {
        let seen = |pos: usize| pos.saturating_sub(chunk.first()).clamp(from, to);
        softmax::<S>(scratch.add(i * CHUNK), (from, to), (seen(query.first), seen(query.end)), scale, query.partial);
        if K::SCALED {
            weigh_codes::<S>(scratch.add(i * CHUNK), chunk, (from, to), pages, table);
        }
    }
    let mut dim = 0;
    while dim < pages.head_dim {
        // Few queries leave registers for more of the head at once, and need them to hide the additions' latency.
        if N <= 4 && dim + 4 * LANES <= pages.head_dim {
            mix::<S, K, N, 4>(queries, chunk, (from, to), dim, pages, table, scratch);
            dim += 4 * LANES;
        } else if dim + 2 * LANES <= pages.head_dim {
            mix::<S, K, N, 2>(queries, chunk, (from, to), dim, pages, table, scratch);
            dim += 2 * LANES;
        } else {
            mix::<S, K, N, 1>(queries, chunk, (from, to), dim, pages, table, scratch);
            dim += LANES;
        }
    }
}

/// q·k of one page's 32 positions, not yet divided by √d, while `next` is asked for.
#[inline(always)]
unsafe fn scores<S: Simd, K: Kept, const N: usize>(
    queries: &[Query],
    pages: &Pages,
    page: PageId,
    next: *const u8,
    scores: *mut f32,
) {
    let (block, dim) = (pages.keys(page), pages.head_dim);
    let keys = block.cast::<K::Number>().cast_const();
    let mut sums = [[S::zero(); 2]; N];
    for d in 0..dim {
        ask::<S, K>(next, d * PAGE, PAGE);
        let first = K::load::<S>(keys.add(d * LANES));
        let second = K::load::<S>(keys.add((dim + d) * LANES));
        for (i, [a, b]) in sums.iter_mut().enumerate() {
            let q = S::splat(*queries[i].numbers.add(d));
            *a = S::fma(first, q, *a);
            *b = S::fma(second, q, *b);
        }
    }
    if K::SCALED {
        let scales = pages.scales(block);
        let (first, second) = (S::load(scales), S::load(scales.add(LANES)));
        for [a, b] in &mut sums {
            (*a, *b) = (S::mul(*a, first), S::mul(*b, second));
        }
    }
    for (i, [a, b]) in sums.into_iter().enumerate() {
        S::store(scores.add(i * CHUNK), a);
        S::store(scores.add(i * CHUNK + LANES), b);
    }
}

/// Asks for the lines of `count` numbers of a block, from number `first` on.
#[inline(always)]
unsafe fn ask<S: Simd, K: Kept>(block: *const u8, first: usize, count: usize) {
    let size = size_of::<K::Number>();
    for line in (0..count * size).step_by(LINE) {
        S::prefetch_second(block.wrapping_add(first * size + line));
    }
}

/// Turns a query's scores into weights e^(score − largest), and begins its partial: largest, sum. What it does not see
/// weighs 0.
#[inline(always)]
unsafe fn softmax<S: Simd>(
    scores: *mut f32,
    (from, to): (usize, usize),
    (first, end): (usize, usize),
    scale: S::F,
    partial: *mut f32,
) {
    for hidden in (from..first.min(to)).chain(end.max(from)..to) {
        *scores.add(hidden) = f32::NEG_INFINITY;
    }
    let mut largest = S::splat(f32::NEG_INFINITY);
    for i in (from..to).step_by(LANES) {
        let s = S::mul(S::load(scores.add(i)), scale);
        S::store(scores.add(i), s);
        largest = S::max(s, largest);
    }
    let largest = if first < end { S::largest(largest) } else { f32::NEG_INFINITY };
    // Where nothing is seen all weights are 0: −∞ − 0, not −∞ − −∞.
    let shift = S::splat(if largest == f32::NEG_INFINITY { 0.0 } else { largest });
    let mut sum = S::zero();
    for i in (from..to).step_by(LANES) {
        let weight = S::exp(S::sub(S::load(scores.add(i)), shift));
        S::store(scores.add(i), weight);
        sum = S::add(sum, weight);
    }
    *partial = largest;
    *partial.add(1) = S::sum(sum);
}

/// Multiplies the weights of values with their scales: what remains are weights of their codes.
#[inline(always)]
unsafe fn weigh_codes<S: Simd>(
    weights: *mut f32,
    chunk: Chunk,
    (from, to): (usize, usize),
    pages: &Pages,
    table: &[PageId],
) {
    for page in (from..to).step_by(PAGE) {
        let scales = pages.scales(pages.values(table[(chunk.first() + page) / PAGE]));
        for pos in (0..PAGE).step_by(LANES) {
            let weights = weights.add(page + pos);
            S::store(weights, S::mul(S::load(weights), S::load(scales.add(pos))));
        }
    }
}

/// Σ weight · v for `WIDTH` · 16 numbers of the head.
#[inline(always)]
unsafe fn mix<S: Simd, K: Kept, const N: usize, const WIDTH: usize>(
    queries: &[Query],
    chunk: Chunk,
    (from, to): (usize, usize),
    dim: usize,
    pages: &Pages,
    table: &[PageId],
    weights: *const f32,
) {
    let mut sums = [[S::zero(); WIDTH]; N];
    for page in (from..to).step_by(PAGE) {
        let block = pages.values(table[(chunk.first() + page) / PAGE]);
        let next = page + PAGE;
        let next = if next < to { pages.values(table[(chunk.first() + next) / PAGE]).cast_const() } else { chunk.next };
        let values = block.cast::<K::Number>().cast_const().add(dim);
        for pos in 0..PAGE {
            ask::<S, K>(next, pos * pages.head_dim + dim, WIDTH * LANES);
            let row = values.add(pos * pages.head_dim);
            let mut v = [S::zero(); WIDTH];
            for (j, v) in v.iter_mut().enumerate() {
                *v = K::load::<S>(row.add(j * LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*weights.add(i * CHUNK + page + pos));
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(v[j], weight, *sum);
                }
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, sum) in sums.into_iter().enumerate() {
            S::store(queries[i].partial.add(PARTIAL_HEAD + dim + j * LANES), sum);
        }
    }
}

/// Joins `chunks` partials, one after the other `stride` numbers apart, into a query's result.
///
/// # Safety
/// All pointers are good for that. The processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn join<S: Simd>(partials: *const f32, chunks: usize, stride: usize, head_dim: usize, out: *mut f32) {
    let mut largest = f32::NEG_INFINITY;
    for chunk in 0..chunks {
        let m = *partials.add(chunk * stride);
        largest = if m > largest { m } else { largest };
    }
    let mut sum = S::zero();
    for chunk in 0..chunks {
        let partial = partials.add(chunk * stride);
        let factor = S::exp(S::splat(*partial - largest));
        sum = S::fma(S::splat(*partial.add(1)), factor, sum);
        for d in (0..head_dim).step_by(LANES) {
            let before = if chunk == 0 { S::zero() } else { S::load(out.add(d)) };
            S::store(out.add(d), S::fma(S::load(partial.add(PARTIAL_HEAD + d)), factor, before));
        }
    }
    for d in (0..head_dim).step_by(LANES) {
        S::store(out.add(d), S::div(S::load(out.add(d)), sum));
    }
}
