//! Pages of every type, and attention over them.

use super::{Aligned, Random, available, bits};
use crate::backend::cpu::attention::{CHUNK, Chunk, PARTIAL_HEAD, Query, SCRATCH};
use crate::backend::cpu::kernels::Kernels;
use crate::backend::cpu::pages::{Pages, block_bytes};
use crate::backend::cpu::plain;
use crate::backend::{KvType, PAGE};

const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

/// A context of one key head in scattered pages.
struct Context {
    /// As they were written.
    written: Vec<[Vec<f32>; 2]>,
    bytes: Aligned,
    table: Vec<u32>,
    pages: Pages,
}

impl Context {
    fn new(kernels: &Kernels, rows: Vec<[Vec<f32>; 2]>, kv_type: KvType) -> Self {
        let head_dim = rows[0][0].len();
        let block = block_bytes(kv_type, head_dim);
        let count = rows.len().div_ceil(PAGE);
        let mut bytes = Aligned::zeroed(count * 2 * block);
        bytes.bytes().fill(0x3b); // poison that is finite: what pages held before
        let table: Vec<u32> = (0..count as u32).rev().collect();
        let base = bytes.bytes().as_mut_ptr();
        let pages = Pages { base, page_bytes: 2 * block, keys: 0, values: block, kv_type, head_dim };
        for (pos, [key, value]) in rows.iter().enumerate() {
            let page = table[pos / PAGE];
            // SAFETY: the page is there, and the numbers are the whole head's.
            unsafe { (kernels.write_kv)(&pages, page, pos % PAGE, 0..head_dim, key.as_ptr(), value.as_ptr()) };
        }
        Self { written: rows, bytes, table, pages }
    }

    fn random(kernels: &Kernels, len: usize, head_dim: usize, kv_type: KvType, random: &mut Random) -> Self {
        let mut row = || -> Vec<f32> { (0..head_dim).map(|_| 2.0 * random.signed()).collect() };
        Self::new(kernels, (0..len).map(|_| [row(), row()]).collect(), kv_type)
    }

    /// A position's key and value as the pages have them.
    fn read(&self, pos: usize) -> [Vec<f32>; 2] {
        let (page, offset) = (self.table[pos / PAGE], pos % PAGE);
        let [mut key, mut value] = [vec![f32::NAN; self.pages.head_dim], vec![f32::NAN; self.pages.head_dim]];
        // SAFETY: the page is there.
        unsafe {
            self.pages.read_key(page, offset, &mut key);
            self.pages.read_value(page, offset, &mut value);
        }
        [key, value]
    }

    fn expected(&self, q: &[f32], first: usize, end: usize) -> Vec<f64> {
        let rows: Vec<[Vec<f32>; 2]> = (first..end).map(|pos| self.read(pos)).collect();
        let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let scores: Vec<f64> = rows.iter().map(|[k, _]| dot(k) / (q.len() as f64).sqrt()).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value = |d: usize| weights.iter().zip(&rows).map(move |(w, [_, v])| w * f64::from(v[d]));
        (0..q.len()).map(|d| value(d).sum::<f64>() / sum).collect()
    }

    /// Queries that see `first..end` each, all chunks, joined.
    fn attend(&self, kernels: &Kernels, queries: &[Seen]) -> Vec<Vec<f32>> {
        let dim = self.pages.head_dim;
        let chunks = self.written.len().div_ceil(CHUNK);
        let stride = PARTIAL_HEAD + dim;
        let mut partials = vec![f32::NAN; queries.len() * chunks * stride];
        let partials = partials.as_mut_ptr();
        let mut scratch = vec![f32::NAN; SCRATCH];
        let seen: Vec<_> = queries.iter().map(|(_, first, end)| first / CHUNK..end.div_ceil(CHUNK)).collect();
        let (from, to) = (seen.iter().map(|s| s.start).min().unwrap(), seen.iter().map(|s| s.end).max().unwrap());
        for number in from..to {
            let place = |i: usize| (i * chunks + number) * stride;
            let queries: Vec<Query> = queries
                .iter()
                .enumerate()
                .map(|(i, (q, first, end))| Query {
                    numbers: q.as_ptr(),
                    first: *first,
                    end: *end,
                    partial: partials.wrapping_add(place(i)),
                })
                .collect();
            let chunk = Chunk { number, next: std::ptr::null() };
            // SAFETY: the pages hold all positions; partials and scratch are large enough.
            unsafe { (kernels.attend)(&queries, chunk, &self.pages, &self.table, scratch.as_mut_ptr()) };
        }
        let join = |i: usize| {
            let mut out = vec![0.0; dim];
            let first = partials.wrapping_add((i * chunks + seen[i].start) * stride);
            // SAFETY: these partials were written.
            unsafe { (kernels.join)(first, seen[i].len(), stride, dim, out.as_mut_ptr()) };
            out
        };
        (0..queries.len()).map(join).collect()
    }

    fn attend_plainly(&self, (q, first, end): &Seen) -> Vec<f32> {
        let [mut row, mut out] = [vec![f32::NAN; q.len()], vec![f32::NAN; q.len()]];
        let mut scores = vec![f32::NAN; end - first];
        // SAFETY: the pages hold all positions.
        unsafe { plain::attend(q, *first..*end, &self.pages, &self.table, &mut scores, &mut row, &mut out) };
        out
    }
}

/// A query, and the positions that it sees: first and end.
type Seen = (Vec<f32>, usize, usize);

/// Eight queries of the last positions, some with a window.
fn queries(len: usize, head_dim: usize, random: &mut Random) -> Vec<Seen> {
    let query = |i: usize| {
        let end = len.saturating_sub(5 * i).max(1);
        let first = if i % 3 == 2 { end.saturating_sub(40) } else { 0 };
        ((0..head_dim).map(|_| 2.0 * random.signed()).collect(), first, end)
    };
    (0..8).map(query).collect()
}

/// Of a context, of a head: never those that a chunk or a tile likes.
const SIZES: [(usize, usize); 6] = [(1, 16), (15, 64), (33, 48), (257, 64), (777, 80), (1025, 128)];

#[test]
fn attention_is_softmax_of_plain_loops_whatever_goes_along() {
    for ((len, head_dim), kv_type) in SIZES.into_iter().flat_map(|size| TYPES.map(|kv_type| (size, kv_type))) {
        let mut all = Vec::new();
        for kernels in available() {
            let mut random = Random::new(6);
            let context = Context::random(kernels, len, head_dim, kv_type, &mut random);
            let queries = queries(len, head_dim, &mut random);
            let alone: Vec<Vec<f32>> =
                queries.iter().map(|q| context.attend(kernels, std::slice::from_ref(q)).remove(0)).collect();
            for ((q, first, end), got) in queries.iter().zip(&alone) {
                for (e, g) in context.expected(q, *first, *end).iter().zip(got) {
                    assert!((e - f64::from(*g)).abs() <= 2e-6 * 4.0, "{len} x {head_dim}, {kv_type:?}: {g}, not {e}");
                }
            }
            for n in 2..=8 {
                assert_eq!(context.attend(kernels, &queries[..n]), alone[..n], "{n} queries of {len}, {kv_type:?}");
            }
            all.push(alone.iter().flat_map(|numbers| bits(numbers)).collect::<Vec<u32>>());
        }
        assert!(all.iter().all(|a| *a == all[0]), "instruction sets differ over {kv_type:?}");
    }
}

#[test]
fn blocked_attention_is_that_of_the_plain_form() {
    for ((len, head_dim), kv_type) in SIZES.into_iter().flat_map(|size| TYPES.map(|kv_type| (size, kv_type))) {
        for kernels in available() {
            let mut random = Random::new(7);
            let context = Context::random(kernels, len, head_dim, kv_type, &mut random);
            for query in queries(len, head_dim, &mut random) {
                let plain = context.attend_plainly(&query);
                let blocked = context.attend(kernels, std::slice::from_ref(&query)).remove(0);
                let square = |x: f32| f64::from(x).powi(2);
                let error: f64 = plain.iter().zip(&blocked).map(|(a, b)| square(a - b)).sum();
                let power: f64 = plain.iter().map(|a| square(*a)).sum();
                assert!(error <= 1e-11 * power, "{len} x {head_dim}, {kv_type:?}: {error:e} of {power:e}");
            }
        }
    }
}

#[test]
fn pages_keep_numbers_within_their_types_rounding_and_alike_on_every_instruction_set() {
    for kv_type in TYPES {
        let mut all = Vec::new();
        for kernels in available() {
            let mut context = Context::random(kernels, 70, 48, kv_type, &mut Random::new(8));
            for (pos, written) in context.written.iter().enumerate() {
                for (read, written) in context.read(pos).iter().zip(written) {
                    let largest = written.iter().fold(0f32, |m, x| m.max(x.abs()));
                    for (r, w) in read.iter().zip(written) {
                        let allowed = match kv_type {
                            KvType::F32 => 0.0,
                            KvType::F16 => w.abs() / 2048.0,
                            KvType::Q8_0 => 0.5001 * largest / 127.0,
                        };
                        assert!((r - w).abs() <= allowed, "{kv_type:?}, position {pos}: {w} became {r}");
                    }
                }
            }
            all.push(context.bytes.bytes().to_vec());
        }
        assert!(all.iter().all(|bytes| *bytes == all[0]), "instruction sets differ in {kv_type:?}");
    }
}

/// Numbers for which a scale or its inverse has no room, and what is no number.
#[test]
fn heads_of_any_size_are_kept_as_numbers_alike_on_every_instruction_set() {
    let largest = [0.0, 1e-45, 1e-36, 2e-36, 1e-30, 1e-5, 1.0, 6e4, 7e4, 2.9e38, f32::MAX, f32::INFINITY, f32::NAN];
    let row =
        |x: f32| -> Vec<f32> { (0..32).map(|i| if i == 5 { x } else { x.min(1e30) * i as f32 / -40.0 }).collect() };
    let rows: Vec<[Vec<f32>; 2]> = largest.iter().map(|x| [row(*x), row(-*x)]).collect();
    let mut all = Vec::new();
    for kernels in available() {
        let mut context = Context::new(kernels, rows.clone(), KvType::Q8_0);
        for (pos, x) in largest.iter().enumerate() {
            let read = context.read(pos);
            assert!(read.iter().flatten().all(|r| r.is_finite()), "{x}: {read:?}");
            if *x < 3e38 {
                let near = |r: f32, w: f32| (r - w).abs() <= x / 127.0 + 2e-36;
                assert!(near(read[0][5], *x) && near(read[1][5], -x), "{x}: {read:?}");
            }
        }
        all.push(context.bytes.bytes().to_vec());
    }
    assert!(all.iter().all(|bytes| *bytes == all[0]), "instruction sets differ");
}

#[test]
fn numbers_that_were_read_are_the_same_when_they_are_written_again() {
    for kv_type in TYPES {
        for kernels in available() {
            let mut once = Context::random(kernels, 640, 16, kv_type, &mut Random::new(9));
            let rows = (0..640).map(|pos| once.read(pos)).collect();
            let mut twice = Context::new(kernels, rows, kv_type);
            assert!(once.bytes.bytes() == twice.bytes.bytes(), "{kv_type:?}, {}", kernels.isa.name());
        }
    }
}
