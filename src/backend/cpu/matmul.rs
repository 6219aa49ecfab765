//! Packed weights times int8 activations: the kernel that nearly all time goes to. Weights in floating point are
//! [`float`]'s.
//!
//! Activations are panels: 1 to 12 rows quantized in groups of 32, interleaved so that a kernel finds 4 codes of each
//! row side by side. A kernel holds 16 weight rows times a whole panel in registers. In a group the sum of products is
//! an exact integer; groups are then added in f32 in the order of k, each with one fused multiply-add. So a row's
//! result depends on neither the panel, the neighbours, nor the instruction set. Outliers' groups come twice: the second
//! time with what int8 left of them (`rows::quantize_with_rest`).
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels are unsafe as a whole; their contract is at the top of each")]
#![expect(unsafe_code, reason = "raw loads and vector instructions")]

mod float;

use super::simd::{LANES, Simd};
use crate::format::packed::{Format, GROUP, MINIMUM, q4k, q6k};

/// Bytes of one row's group in a panel: 32 codes, scale, scale · sum, −sum, −sum of the first 16.
pub const GROUP_BYTES: usize = GROUP + 16;

/// How far ahead of their use weights are asked for. Of 64, 128, 256, 384, 512 and 768 bytes this is the best on Zen 4, by
/// a tenth; 1 KB is worse than nothing. The processor's own prefetchers do the rest.
const PREFETCH: usize = 128;
/// Up to so many rows a kernel waits for memory; with more it is arithmetic that takes the time.
const STREAMED: usize = 4;

/// Tiles of a matrix times one panel.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub format: Format,
    /// The first tile; 64-byte aligned.
    pub weights: *const u8,
    pub tiles: usize,
    /// Units of a tile.
    pub units: usize,
    /// Lut4's, biased by 128.
    pub codebook: [u8; 16],
    /// Quantized rows; for formats in floating point, rows in f32 ([`float`]).
    pub panel: *const u8,
    /// What outliers left, as a panel of the same form, and a byte for each of its groups that says whether there is
    /// anything; null where nothing was left.
    pub rest: *const u8,
    pub rest_flags: *const u8,
    /// Rows of the panel as it is laid out.
    pub width: usize,
    /// Of those, rows that are wanted.
    pub rows: usize,
    /// (rows, `stride`): 16 numbers a tile.
    pub out: *mut f32,
    pub stride: usize,
    /// Lanes of the last tile that are wanted.
    pub last_lanes: usize,
    /// Add to what is there.
    pub add: bool,
}

/// Runs a job.
///
/// # Safety
/// The job's pointers are good for what its numbers say, and the processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn run<S: Simd>(job: &Job) {
    match job.format {
        Format::Affine4 => by_width::<S, Affine4<false>>(job),
        Format::Affine4Min => by_width::<S, Affine4<true>>(job),
        Format::Lut4 => by_width::<S, Lut4>(job),
        Format::Int8 => by_width::<S, Int8<false>>(job),
        Format::Int8Min => by_width::<S, Int8<true>>(job),
        Format::Q4K => by_width::<S, Q4K>(job),
        Format::Q6K => by_width::<S, Q6K>(job),
        Format::Half => float::run::<S, float::Half>(job),
        Format::BHalf => float::run::<S, float::BHalf>(job),
        Format::Single => float::run::<S, float::Single>(job),
    }
}

/// The width of the panel that takes so many rows.
pub fn panel_width(rows: usize, most: usize) -> usize {
    [1, 2, 4, 8].into_iter().find(|width| *width >= rows).unwrap_or(12).min(most)
}

#[inline(always)]
unsafe fn by_width<S: Simd, W: Codes>(job: &Job) {
    match job.width {
        1 => tiles::<S, W, 1>(job),
        2 => tiles::<S, W, 2>(job),
        4 => tiles::<S, W, 4>(job),
        8 if S::MAX_PANEL >= 8 => tiles::<S, W, 8>(job),
        12 if S::MAX_PANEL >= 12 => tiles::<S, W, 12>(job),
        width => unreachable!("no kernel takes {width} rows"),
    }
}

#[inline(always)]
unsafe fn tiles<S: Simd, W: Codes, const N: usize>(job: &Job) {
    let table = repeated(&job.codebook);
    let table = S::codes(table.0.as_ptr());
    let mut weights = job.weights;
    for tile in 0..job.tiles {
        let mut sums = [S::zero(); N];
        let (first, mut panel) = (weights, job.panel);
        for _ in 0..job.units {
            W::unit::<S, N>(weights, panel, table, &mut sums);
            weights = weights.add(W::FORMAT.unit_bytes());
            panel = panel.add(W::FORMAT.unit_groups() * N * GROUP_BYTES);
        }
        if !job.rest.is_null() {
            rests::<S, W, N>(job, first, table, &mut sums);
        }
        let lanes = if tile + 1 == job.tiles { job.last_lanes } else { LANES };
        for (row, sum) in sums.into_iter().enumerate().take(job.rows) {
            put::<S>(job.out.add(row * job.stride + tile * LANES), sum, lanes, job.add);
        }
    }
}

/// Adds the products of what outliers left, in the order of k behind all others.
#[inline(always)]
unsafe fn rests<S: Simd, W: Codes, const N: usize>(job: &Job, tile: *const u8, table: S::B, sums: &mut [S::F; N]) {
    let groups = W::FORMAT.unit_groups();
    for unit in 0..job.units {
        let flags = job.rest_flags.add(unit * groups);
        if (0..groups).any(|g| *flags.add(g) != 0) {
            let panel = job.rest.add(unit * groups * N * GROUP_BYTES);
            W::unit::<S, N>(tile.add(unit * W::FORMAT.unit_bytes()), panel, table, sums);
        }
    }
}

#[repr(align(64))]
struct Table([u8; 64]);

fn repeated(codebook: &[u8; 16]) -> Table {
    Table(std::array::from_fn(|i| codebook[i % 16]))
}

#[inline(always)]
unsafe fn put<S: Simd>(to: *mut f32, sum: S::F, lanes: usize, add: bool) {
    if lanes == LANES {
        S::store(to, if add { S::add(S::load(to), sum) } else { sum });
        return;
    }
    let mut values = [0.0f32; LANES];
    S::store(values.as_mut_ptr(), sum);
    for (i, value) in values.into_iter().enumerate().take(lanes) {
        *to.add(i) = if add { *to.add(i) + value } else { value };
    }
}

/// A group of a panel of `N` rows.
struct Activations<const N: usize>(*const u8);

impl<const N: usize> Activations<N> {
    /// Row `row`'s codes for line `line` of weights: 4 bytes.
    #[inline(always)]
    unsafe fn codes(&self, line: usize, row: usize) -> i32 {
        self.0.add((line * N + row) * 4).cast::<i32>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn number<T>(&self, which: usize, row: usize) -> T {
        self.0.add(N * (GROUP + 4 * which) + 4 * row).cast::<T>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn scale(&self, row: usize) -> f32 {
        self.number(0, row)
    }
    #[inline(always)]
    unsafe fn scaled_sum(&self, row: usize) -> f32 {
        self.number(1, row)
    }
    #[inline(always)]
    unsafe fn neg_sum(&self, row: usize) -> i32 {
        self.number(2, row)
    }
    #[inline(always)]
    unsafe fn neg_first_sum(&self, row: usize) -> i32 {
        self.number(3, row)
    }
}

/// How a format's units are multiplied.
trait Codes {
    const FORMAT: Format;

    /// Adds a unit of 16 weight rows times `N` activation rows to `sums`.
    unsafe fn unit<S: Simd, const N: usize>(w: *const u8, a: *const u8, table: S::B, sums: &mut [S::F; N]);
}

/// Formats of two groups a unit that differ in their codes alone.
trait Pairs {
    const FORMAT: Format;
    const MINIMUM: bool;
    unsafe fn start<S: Simd>(neg_sum: i32) -> S::I;
    /// Lines `2 pair` and `2 pair + 1` of a group's codes.
    unsafe fn lines<S: Simd, const N: usize>(group: *const u8, pair: usize, table: S::B) -> (S::B, S::B);
    unsafe fn dot<S: Simd>(acc: S::I, codes: S::B, activations: i32) -> S::I;
}

impl<P: Pairs> Codes for P {
    const FORMAT: Format = P::FORMAT;

    #[inline(always)]
    unsafe fn unit<S: Simd, const N: usize>(w: *const u8, a: *const u8, table: S::B, sums: &mut [S::F; N]) {
        for g in 0..2 {
            if g == 0 || P::MINIMUM {
                ahead::<S, N>(w.add(64 * g)); // the scales, then the minima
            }
            let act = Activations::<N>(a.add(g * N * GROUP_BYTES));
            let mut acc = [S::int_splat(0); N];
            for (row, acc) in acc.iter_mut().enumerate() {
                *acc = P::start::<S>(act.neg_sum(row));
            }
            for pair in 0..4 {
                let (even, odd) = P::lines::<S, N>(w.add(P::FORMAT.codes(g)), pair, table);
                for (row, acc) in acc.iter_mut().enumerate() {
                    *acc = P::dot::<S>(*acc, even, act.codes(2 * pair, row));
                    *acc = P::dot::<S>(*acc, odd, act.codes(2 * pair + 1, row));
                }
            }
            let scale = S::load_half(w.add(32 * g).cast());
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::to_f32(acc[row]), S::mul(scale, S::splat(act.scale(row))), *sum);
            }
            if P::MINIMUM {
                let minimum = S::load_half(w.add(MINIMUM + 32 * g).cast());
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(minimum, S::splat(act.scaled_sum(row)), *sum);
                }
            }
        }
    }
}

/// Asks for the line that will be wanted when this one is [`PREFETCH`] bytes behind. A line at a time, as they are used:
/// a whole unit's at once are more than a core can wait for.
#[inline(always)]
unsafe fn ahead<S: Simd, const N: usize>(line: *const u8) {
    if N <= STREAMED {
        S::prefetch(line.wrapping_add(PREFETCH));
    }
}

/// A line of codes.
#[inline(always)]
unsafe fn line<S: Simd, const N: usize>(at: *const u8) -> S::B {
    ahead::<S, N>(at);
    S::codes(at)
}

#[inline(always)]
unsafe fn nibbles<S: Simd, const N: usize>(group: *const u8, pair: usize) -> (S::B, S::B) {
    let both = line::<S, N>(group.add(64 * pair));
    (S::low(both), S::high(both))
}

struct Affine4<const MINIMUM: bool>;

impl<const MINIMUM: bool> Pairs for Affine4<MINIMUM> {
    const FORMAT: Format = if MINIMUM { Format::Affine4Min } else { Format::Affine4 };
    const MINIMUM: bool = MINIMUM;

    #[inline(always)]
    unsafe fn start<S: Simd>(neg_sum: i32) -> S::I {
        // Without a minimum a nibble stands for itself less 8.
        if MINIMUM { S::int_splat(0) } else { S::int_shl::<3>(S::int_splat(neg_sum)) }
    }
    #[inline(always)]
    unsafe fn lines<S: Simd, const N: usize>(group: *const u8, pair: usize, _: S::B) -> (S::B, S::B) {
        nibbles::<S, N>(group, pair)
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(acc: S::I, codes: S::B, activations: i32) -> S::I {
        S::dot_small(acc, codes, activations)
    }
}

struct Lut4;

impl Pairs for Lut4 {
    const FORMAT: Format = Format::Lut4;
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn start<S: Simd>(neg_sum: i32) -> S::I {
        S::start_biased(neg_sum)
    }
    #[inline(always)]
    unsafe fn lines<S: Simd, const N: usize>(group: *const u8, pair: usize, table: S::B) -> (S::B, S::B) {
        let both = line::<S, N>(group.add(64 * pair));
        (S::look_up(table, both), S::look_up(table, S::high(both)))
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(acc: S::I, codes: S::B, activations: i32) -> S::I {
        S::dot_biased(acc, codes, activations)
    }
}

struct Int8<const MINIMUM: bool>;

impl<const MINIMUM: bool> Pairs for Int8<MINIMUM> {
    const FORMAT: Format = if MINIMUM { Format::Int8Min } else { Format::Int8 };
    const MINIMUM: bool = MINIMUM;

    #[inline(always)]
    unsafe fn start<S: Simd>(neg_sum: i32) -> S::I {
        S::start_biased(neg_sum)
    }
    #[inline(always)]
    unsafe fn lines<S: Simd, const N: usize>(group: *const u8, pair: usize, _: S::B) -> (S::B, S::B) {
        (line::<S, N>(group.add(128 * pair)), line::<S, N>(group.add(128 * pair + 64)))
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(acc: S::I, codes: S::B, activations: i32) -> S::I {
        S::dot_biased(acc, codes, activations)
    }
}

struct Q4K;

impl Codes for Q4K {
    const FORMAT: Format = Format::Q4K;

    #[inline(always)]
    unsafe fn unit<S: Simd, const N: usize>(w: *const u8, a: *const u8, _: S::B, sums: &mut [S::F; N]) {
        for line in 0..q4k::CODES / 64 {
            ahead::<S, N>(w.add(64 * line));
        }
        let whole = S::load_half(w.add(q4k::SCALE).cast());
        let whole_minimum = S::sub(S::zero(), S::load_half(w.add(q4k::MINIMUM).cast()));
        for g in 0..8 {
            let act = Activations::<N>(a.add(g * N * GROUP_BYTES));
            let mut acc = [S::int_splat(0); N];
            for pair in 0..4 {
                let (even, odd) = nibbles::<S, N>(w.add(Self::FORMAT.codes(g)), pair);
                for (row, acc) in acc.iter_mut().enumerate() {
                    *acc = S::dot_small(*acc, even, act.codes(2 * pair, row));
                    *acc = S::dot_small(*acc, odd, act.codes(2 * pair + 1, row));
                }
            }
            let scale = S::mul(whole, S::load_u8(w.add(q4k::SCALES + 16 * g)));
            let minimum = S::mul(whole_minimum, S::load_u8(w.add(q4k::MINIMA + 16 * g)));
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::to_f32(acc[row]), S::mul(scale, S::splat(act.scale(row))), *sum);
                *sum = S::fma(minimum, S::splat(act.scaled_sum(row)), *sum);
            }
        }
    }
}

struct Q6K;

impl Codes for Q6K {
    const FORMAT: Format = Format::Q6K;

    #[inline(always)]
    unsafe fn unit<S: Simd, const N: usize>(w: *const u8, a: *const u8, _: S::B, sums: &mut [S::F; N]) {
        ahead::<S, N>(w);
        let whole = S::load_half(w.add(q6k::SCALE).cast());
        for g in 0..8 {
            if g % 2 == 0 {
                ahead::<S, N>(w.add(q6k::scales(2 * g)));
            }
            let act = Activations::<N>(a.add(g * N * GROUP_BYTES));
            let mut both = [S::int_splat(0); N];
            for half in 0..2 {
                let mut acc = [S::int_splat(0); N];
                for (row, acc) in acc.iter_mut().enumerate() {
                    let first = act.neg_first_sum(row);
                    *acc = S::int_shl::<5>(S::int_splat(if half == 0 { first } else { act.neg_sum(row) - first }));
                }
                let high = line::<S, N>(w.add(q6k::high(g) + 64 * half));
                for pair in 0..2 {
                    let (even, odd) = nibbles::<S, N>(w.add(Self::FORMAT.codes(g)), 2 * half + pair);
                    let even = S::with_high_bits(even, high, 4 * pair as u32);
                    let odd = S::with_high_bits(odd, high, 4 * pair as u32 + 2);
                    let line = 4 * half + 2 * pair;
                    for (row, acc) in acc.iter_mut().enumerate() {
                        *acc = S::dot_small(*acc, even, act.codes(line, row));
                        *acc = S::dot_small(*acc, odd, act.codes(line + 1, row));
                    }
                }
                let scale = S::load_i8(w.add(q6k::scales(2 * g + half)).cast());
                for (row, both) in both.iter_mut().enumerate() {
                    *both = S::int_add(*both, S::int_mul(acc[row], scale));
                }
            }
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::to_f32(both[row]), S::mul(whole, S::splat(act.scale(row))), *sum);
            }
        }
    }
}
