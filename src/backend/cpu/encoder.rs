//! What an encoder of texts computes with: matrices, layer norm, GELU, and attention that sees both ways.
//!
//! The matrices' kernels are those of the language model (`matmul`): in f32, or weights and activations in int8 by groups
//! of 32. All else is f32. A text's numbers depend on nothing but its own tokens, and are the same on every processor.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels are unsafe as a whole; their contract is at the top of each")]
#![expect(unsafe_code, reason = "vector instructions and raw loads")]

use std::ops::Range;

use half::f16;

use super::kernels::{Isa, Kernels};
use super::matmul::{GROUP_BYTES, Job};
use super::rows::{Lane, Rest};
use super::simd::{LANES, Scalar, Simd};
use super::step::{Panel, panels};
use crate::error::Result;
use crate::format::DType;
use crate::format::packed::{CODEBOOK, Format, GROUP, TILE, pack_row};

/// Rows that go through a matrix while its tile is in the first-level cache.
pub const BLOCK: usize = 96;

/// Bytes of a cache line, where panels and tiles begin.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

fn lines(bytes: usize) -> Vec<Line> {
    vec![Line([0; 64]); bytes.div_ceil(size_of::<Line>())]
}

/// How matrices are held and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Single,
    Int8,
}

/// A matrix (n, k), for rows of activations.
pub struct Dense {
    kernels: &'static Kernels,
    format: Format,
    /// (tiles, tile bytes)
    tiles: Vec<Line>,
    n: usize,
    k: usize,
}

/// Room for panels of activations, used again and again.
#[derive(Default)]
pub struct Room {
    threads: usize,
    /// In f32.
    numbers: Vec<f32>,
    codes: Vec<Line>,
    rests: Vec<Line>,
    flags: Vec<u8>,
}

impl Dense {
    /// Packs `weights`, (n, k); both multiples of 32.
    ///
    /// # Errors
    /// When a weight is no number, or the processor lacks what `TAPER_CPU` names.
    ///
    /// # Panics
    /// When the numbers do not go together.
    pub fn new(weights: &[f32], k: usize, precision: Precision, tensor: &str) -> Result<Self> {
        let n = weights.len() / k;
        assert!(weights.len() == n * k && n.is_multiple_of(GROUP) && k.is_multiple_of(GROUP), "{n} rows of {k}");
        let (dtype, format) = match precision {
            Precision::Single => (DType::F32, Format::Single),
            Precision::Int8 => (DType::Q8_0, Format::Int8),
        };
        let tile = format.tile_bytes(k);
        let mut tiles = lines(n / TILE * tile);
        // SAFETY: bytes of the lines, all of them initialized.
        let bytes = unsafe { std::slice::from_raw_parts_mut(tiles.as_mut_ptr().cast::<u8>(), n / TILE * tile) };
        let mut row = Vec::with_capacity(4 * k);
        for (at, numbers) in weights.chunks_exact(k).enumerate() {
            row.clear();
            match precision {
                Precision::Single => row.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
                Precision::Int8 => numbers.as_chunks().0.iter().for_each(|group| q8_0(group, &mut row)),
            }
            let to = &mut bytes[at / TILE * tile..][..tile];
            pack_row(dtype, &row, to, at % TILE).map_err(|e| e.of(tensor))?;
        }
        Ok(Self { kernels: Kernels::of(Isa::from_env()?)?, format, tiles, n, k })
    }

    /// `out` += x · Wᵀ, where `x` is (rows, k) and `out` (rows, n).
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn add(&self, x: &[f32], room: &mut Room, out: &mut [f32]) {
        let rows = x.len() / self.k;
        assert!(x.len() == rows * self.k && out.len() == rows * self.n, "{} and {} numbers", x.len(), out.len());
        for (x, out) in x.chunks(BLOCK * self.k).zip(out.chunks_mut(BLOCK * self.n)) {
            self.add_block(x, room, out);
        }
    }

    fn add_block(&self, x: &[f32], room: &mut Room, out: &mut [f32]) {
        let panels: Vec<Panel> = panels(x.len() / self.k, self.kernels.max_panel).collect();
        let prepared: Vec<Prepared> =
            if self.format.is_float() { self.interleaved(x, &panels, room) } else { self.quantized(x, &panels, room) };
        let block = Block { matrix: self, panels: &panels, prepared: &prepared, out: out.as_mut_ptr() };
        let (tiles, threads) = (self.n / TILE, room.threads.max(1));
        let share = |i: usize| tiles * i / threads..tiles * (i + 1) / threads;
        if threads == 1 {
            return block.multiply(share(0));
        }
        std::thread::scope(|scope| {
            let block = &block;
            for i in 1..threads {
                scope.spawn(move || block.multiply(share(i)));
            }
            block.multiply(share(0));
        });
    }

    /// Panels in f32.
    fn interleaved(&self, x: &[f32], panels: &[Panel], room: &mut Room) -> Vec<Prepared> {
        let panel_len = self.kernels.max_panel * self.k;
        room.numbers.resize(panels.len() * panel_len, 0.0);
        let to = room.numbers.chunks_exact_mut(panel_len);
        panels
            .iter()
            .zip(to)
            .map(|(panel, to)| {
                for row in 0..panel.rows {
                    let from = &x[(panel.first + row) * self.k..][..self.k];
                    for (to, x) in to.chunks_exact_mut(panel.width).zip(from) {
                        to[row] = *x;
                    }
                }
                Prepared { panel: to.as_ptr().cast(), rest: std::ptr::null(), flags: std::ptr::null() }
            })
            .collect()
    }

    /// Panels in int8, with what outliers leave.
    fn quantized(&self, x: &[f32], panels: &[Panel], room: &mut Room) -> Vec<Prepared> {
        let (kernels, groups) = (self.kernels, self.k / GROUP);
        let padded = groups.next_multiple_of(2);
        let bytes = kernels.max_panel * padded * GROUP_BYTES;
        room.fit(panels.len() * bytes, panels.len() * padded);
        let (codes, rests) = (room.codes.as_mut_ptr().cast::<u8>(), room.rests.as_mut_ptr().cast::<u8>());
        let flags = room.flags.as_mut_ptr();
        let prepare = |(at, panel): (usize, &Panel)| {
            // SAFETY: `fit` made room for so many panels.
            let (codes, rests, flags) =
                unsafe { (codes.add(at * bytes), rests.add(at * bytes), flags.add(at * padded)) };
            for row in 0..panel.rows {
                let lane = Lane { panel: codes, width: panel.width, row };
                let from = &x[(panel.first + row) * self.k..][..self.k];
                // SAFETY: the row has its groups and the panels room for them; nobody else has `room`.
                unsafe { (kernels.quantize_with_rest)(from.as_ptr(), groups, lane, Rest { panel: rests, flags }) };
            }
            Prepared { panel: codes, rest: rests, flags }
        };
        panels.iter().enumerate().map(prepare).collect()
    }
}

/// Rows that go through a matrix together.
struct Block<'a> {
    matrix: &'a Dense,
    panels: &'a [Panel],
    prepared: &'a [Prepared],
    /// (rows, n)
    out: *mut f32,
}

// SAFETY: threads read the panels, and each writes the columns of its own tiles.
unsafe impl Sync for Block<'_> {}

impl Block<'_> {
    /// The columns of some tiles.
    fn multiply(&self, tiles: Range<usize>) {
        let Dense { kernels, format, n, k, .. } = self.matrix;
        for tile in tiles {
            for (panel, prepared) in self.panels.iter().zip(self.prepared) {
                let job = Job {
                    format: *format,
                    weights: self.matrix.tiles.as_ptr().cast::<u8>().wrapping_add(tile * format.tile_bytes(*k)),
                    tiles: 1,
                    units: format.units(*k),
                    codebook: CODEBOOK.map(|c| (c as u8) ^ 0x80),
                    panel: prepared.panel,
                    rest: prepared.rest,
                    rest_flags: prepared.flags,
                    width: panel.width,
                    rows: panel.rows,
                    out: self.out.wrapping_add(panel.first * n + tile * TILE),
                    stride: *n,
                    last_lanes: TILE,
                    add: true,
                };
                // SAFETY: the tile is one of the matrix's, the panel is in its room, and `out` has a column for each row of
                // weights (`Dense::add` looks); the processor has the instructions.
                unsafe { (kernels.matmul)(&job) };
            }
        }
    }
}

/// Where a panel is, as a job wants it.
struct Prepared {
    panel: *const u8,
    rest: *const u8,
    flags: *const u8,
}

impl Room {
    /// For products that so many threads share.
    pub fn of(threads: usize) -> Self {
        Self { threads, ..Self::default() }
    }

    /// Room for so many bytes and flags; no flag is set.
    fn fit(&mut self, bytes: usize, flags: usize) {
        for panels in [&mut self.codes, &mut self.rests] {
            if panels.len() * size_of::<Line>() < bytes {
                *panels = lines(bytes);
            }
        }
        self.flags.clear();
        self.flags.resize(flags, 0);
    }
}

/// A block of `Q8_0`: the scale in f16, then 32 bytes.
fn q8_0(group: &[f32; GROUP], out: &mut Vec<u8>) {
    let largest = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    // What is no number makes a scale that `pack_row` refuses.
    let scale = f16::from_f32(if group.iter().all(|x| x.is_finite()) { largest / 127.0 } else { f32::NAN });
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    out.extend(scale.to_le_bytes());
    out.extend(group.map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8));
}

/// x = x·½(1 + erf(x/√2)): GELU. erf is Abramowitz and Stegun's 7.1.26, within 1.5·10⁻⁷.
#[inline(always)]
unsafe fn gelu<S: Simd>(x: *mut f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let v = S::load(x.add(i));
        let size = S::abs(v);
        let scaled = S::mul(size, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = S::div(S::splat(1.0), S::fma(scaled, S::splat(0.327_591_1), S::splat(1.0)));
        let mut series = S::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
            series = S::fma(series, t, S::splat(c));
        }
        let bell = S::exp(S::sub(S::zero(), S::mul(scaled, scaled)));
        let erf = S::sub(S::splat(1.0), S::mul(S::mul(series, t), bell));
        S::store(x.add(i), S::mul(S::splat(0.5), S::fma(size, erf, v)));
    }
}

/// x = (x − mean) / √(variance + eps) · weight + bias.
#[inline(always)]
unsafe fn layer_norm<S: Simd>(x: *mut f32, weight: *const f32, bias: *const f32, eps: f32, n: usize) {
    let mut sum = S::zero();
    for i in (0..n).step_by(LANES) {
        sum = S::add(sum, S::load(x.add(i)));
    }
    let mean = S::splat(S::sum(sum) / n as f32);
    let mut squares = S::zero();
    for i in (0..n).step_by(LANES) {
        let v = S::sub(S::load(x.add(i)), mean);
        squares = S::fma(v, v, squares);
    }
    let scale = S::splat(1.0 / (S::sum(squares) / n as f32 + eps).sqrt());
    for i in (0..n).step_by(LANES) {
        let v = S::mul(S::sub(S::load(x.add(i)), mean), scale);
        S::store(x.add(i), S::fma(v, S::load(weight.add(i)), S::load(bias.add(i))));
    }
}

/// One head of a text: every token attends to all.
#[derive(Clone, Copy)]
struct Head {
    /// Query, key and value of the first token; those of the next are `stride` numbers further.
    query: *const f32,
    key: *const f32,
    value: *const f32,
    stride: usize,
    tokens: usize,
    /// A multiple of 16.
    dim: usize,
    /// The first token's; the next is `out_stride` further.
    out: *mut f32,
    out_stride: usize,
    /// Room for keys by component, (dim, tokens padded to 16), and for a row of scores.
    scratch: *mut f32,
}

/// Keys that are scored at once: so many sums stand in registers.
const STRIPE: usize = 4;

#[inline(always)]
unsafe fn attend<S: Simd>(head: &Head) {
    let Head { tokens, dim, stride, .. } = *head;
    let padded = tokens.next_multiple_of(LANES);
    let (keys, scores) = (head.scratch, head.scratch.add(dim * padded));
    for token in 0..padded {
        for i in 0..dim {
            *keys.add(i * padded + token) = if token < tokens { *head.key.add(token * stride + i) } else { 0.0 };
        }
    }
    let scale = 1.0 / (dim as f32).sqrt();
    for token in 0..tokens {
        let query = head.query.add(token * stride);
        let mut first = 0;
        while first < padded {
            let blocks = STRIPE.min((padded - first) / LANES);
            let mut sums = [S::zero(); STRIPE];
            for i in 0..dim {
                let q = S::splat(*query.add(i) * scale);
                let line = keys.add(i * padded + first);
                for (block, sum) in sums.iter_mut().enumerate().take(blocks) {
                    *sum = S::fma(q, S::load(line.add(block * LANES)), *sum);
                }
            }
            for (block, sum) in sums.into_iter().enumerate().take(blocks) {
                S::store(scores.add(first + block * LANES), sum);
            }
            first += blocks * LANES;
        }
        // Behind the last token there is nothing to attend to, however small the others' scores are.
        for i in tokens..padded {
            *scores.add(i) = f32::MIN;
        }
        let mut most = S::splat(f32::MIN);
        for i in (0..padded).step_by(LANES) {
            most = S::max(most, S::load(scores.add(i)));
        }
        let most = S::splat(S::largest(most));
        let mut total = S::zero();
        for i in (0..padded).step_by(LANES) {
            let e = S::exp(S::sub(S::load(scores.add(i)), most));
            S::store(scores.add(i), e);
            total = S::add(total, e);
        }
        let inverse = S::splat(1.0 / S::sum(total));
        let out = head.out.add(token * head.out_stride);
        for i in (0..dim).step_by(LANES) {
            let mut sums = [S::zero(); STRIPE];
            for other in 0..tokens {
                let value = S::load(head.value.add(other * stride + i));
                sums[other % STRIPE] = S::fma(S::splat(*scores.add(other)), value, sums[other % STRIPE]);
            }
            let sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
            S::store(out.add(i), S::mul(sum, inverse));
        }
    }
}

/// Compiles the above for an instruction set.
macro_rules! compiled {
    ($module:ident, $set:ty $(, $features:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn gelu(x: *mut f32, n: usize) {
                super::gelu::<$set>(x, n);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn layer_norm(x: *mut f32, weight: *const f32, bias: *const f32, eps: f32, n: usize) {
                super::layer_norm::<$set>(x, weight, bias, eps, n);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn attend(head: &Head) {
                super::attend::<$set>(head);
            }

            pub(super) const OPS: Ops = Ops { gelu, layer_norm, attend };
        }
    };
}

compiled!(scalar, Scalar);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, crate::backend::cpu::avx2::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compiled!(
    avx512,
    crate::backend::cpu::avx512::Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni"
);
#[cfg(target_arch = "aarch64")]
compiled!(neon, crate::backend::cpu::neon::Neon<false>, "neon");
#[cfg(target_arch = "aarch64")]
compiled!(dotprod, crate::backend::cpu::neon::Neon<true>, "neon,dotprod");

/// What is done between the matrices, for one instruction set that this processor has.
#[derive(Clone, Copy)]
pub struct Ops {
    gelu: unsafe fn(*mut f32, usize),
    layer_norm: unsafe fn(*mut f32, *const f32, *const f32, f32, usize),
    attend: unsafe fn(&Head),
}

/// Queries, keys and values of one text, and where what is attended goes.
pub struct Attention<'a> {
    /// (tokens, 3 · heads · dim): queries, keys, values.
    pub qkv: &'a [f32],
    pub heads: usize,
    /// Of a head, a multiple of 16.
    pub dim: usize,
    /// (tokens, heads · dim)
    pub out: &'a mut [f32],
}

impl Ops {
    /// Those of the fastest instruction set, or of the one that `TAPER_CPU` names.
    ///
    /// # Errors
    /// As [`Isa::from_env`].
    pub fn of_processor() -> Result<Self> {
        Ok(Self::of(Isa::from_env()?))
    }

    /// Those of an instruction set, or plain ones where this processor lacks it.
    pub fn of(isa: Isa) -> Self {
        if !isa.is_available() {
            return scalar::OPS;
        }
        match isa {
            Isa::Scalar => scalar::OPS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::OPS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::OPS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::OPS,
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => dotprod::OPS,
        }
    }

    /// GELU of each number; they are a multiple of 16.
    ///
    /// # Panics
    /// When they are not.
    pub fn gelu(self, x: &mut [f32]) {
        assert!(x.len().is_multiple_of(LANES), "{} numbers", x.len());
        // SAFETY: the processor has the instructions (`of`), and the length is right.
        unsafe { (self.gelu)(x.as_mut_ptr(), x.len()) }
    }

    /// Layer norm of each row of `x`, (rows, n); `n` is the weight's length, a multiple of 16.
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn layer_norm(self, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        let n = weight.len();
        assert!(n.is_multiple_of(LANES) && bias.len() == n && x.len().is_multiple_of(n), "rows of another width");
        for row in x.chunks_exact_mut(n) {
            // SAFETY: the processor has the instructions (`of`), and all three are `n` numbers.
            unsafe { (self.layer_norm)(row.as_mut_ptr(), weight.as_ptr(), bias.as_ptr(), eps, n) }
        }
    }

    /// Has every token of a text attend to all of them.
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn attend(self, attention: Attention<'_>, scratch: &mut Vec<f32>) {
        let Attention { qkv, heads, dim, out } = attention;
        let hidden = heads * dim;
        let tokens = out.len() / hidden;
        assert!(
            dim.is_multiple_of(LANES) && out.len() == tokens * hidden && qkv.len() == 3 * out.len(),
            "rows of another width"
        );
        scratch.resize((dim + 1) * tokens.next_multiple_of(LANES), 0.0);
        for head in 0..heads {
            let at = |part: usize| qkv[part * hidden + head * dim..].as_ptr();
            let head = Head {
                query: at(0),
                key: at(1),
                value: at(2),
                stride: 3 * hidden,
                tokens,
                dim,
                out: out[head * dim..].as_mut_ptr(),
                out_stride: hidden,
                scratch: scratch.as_mut_ptr(),
            };
            // SAFETY: the processor has the instructions (`of`); rows and columns are inside the slices, as was just checked.
            unsafe { (self.attend)(&head) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| 4.0 * (((seed * 7919 + i) as f32 * 0.618_034).fract() - 0.5)).collect()
    }

    fn sets() -> impl Iterator<Item = Ops> {
        Isa::ALL.iter().copied().filter(|isa| isa.is_available()).map(Ops::of)
    }

    #[test]
    fn gelu_is_the_exact_one_within_a_rounding() {
        // By Python's math.erf.
        let (x, y) = (
            [-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 5.0],
            [-0.00404951, -0.15865525, -0.15426877, 0.0, 0.14967658, 0.841_344_7, 1.954_499_7, 4.999_998_6],
        );
        for ops in sets() {
            let mut got = x.repeat(2);
            ops.gelu(&mut got);
            for (got, expected) in got.iter().zip(y.repeat(2)) {
                assert!((got - expected).abs() < 1e-6, "{got}, not {expected}");
            }
        }
    }

    #[test]
    fn a_normed_row_has_mean_0_and_variance_1_before_weight_and_bias() {
        for ops in sets() {
            let mut x = numbers(1, 96);
            ops.layer_norm(&mut x, &[2.0; 48], &[1.0; 48], 1e-12);
            for row in x.chunks(48) {
                let mean = row.iter().sum::<f32>() / 48.0;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 48.0;
                assert!((mean - 1.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4, "{mean} {variance}");
            }
        }
    }

    #[test]
    fn attention_is_the_softmax_of_all_products() {
        let (heads, dim, tokens) = (2, 32, 21);
        let hidden = heads * dim;
        let qkv = numbers(2, tokens * 3 * hidden);
        let part =
            |token: usize, part: usize, head: usize| &qkv[token * 3 * hidden + part * hidden + head * dim..][..dim];
        let mut results = Vec::new();
        for ops in sets() {
            let mut out = vec![0.0; tokens * hidden];
            ops.attend(Attention { qkv: &qkv, heads, dim, out: &mut out }, &mut Vec::new());
            for (token, head) in (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
                let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                let score = |key| (product(part(token, 0, head), part(key, 1, head)) / (dim as f64).sqrt()).exp();
                let scores: Vec<f64> = (0..tokens).map(score).collect();
                let total: f64 = scores.iter().sum();
                for i in 0..dim {
                    let expected: f64 = (0..tokens).map(|key| scores[key] * f64::from(part(key, 2, head)[i])).sum();
                    let got = f64::from(out[token * hidden + head * dim + i]);
                    assert!((got - expected / total).abs() < 1e-4, "{got}, not {}", expected / total);
                }
            }
            results.push(out);
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "not the same bits everywhere");
    }

    #[test]
    fn scores_far_below_zero_are_weighed_like_others() {
        let (dim, tokens) = (16, 3);
        // Queries and keys point away from each other: all scores are -576, and every token attends to all alike.
        let row = |token: usize| [[12.0; 16], [-12.0; 16], [token as f32; 16]].concat();
        let qkv: Vec<f32> = (0..tokens).flat_map(row).collect();
        for ops in sets() {
            let mut out = vec![0.0; tokens * dim];
            ops.attend(Attention { qkv: &qkv, heads: 1, dim, out: &mut out }, &mut Vec::new());
            assert!(out.iter().all(|x| (x - 1.0).abs() < 1e-6), "{out:?}");
        }
    }

    #[test]
    fn a_matrix_comes_near_the_product_whatever_the_neighbours() {
        near_the_product(Precision::Single, 1e-12);
        near_the_product(Precision::Int8, 1e-4);
    }

    fn near_the_product(precision: Precision, most: f32) {
        let (n, k, rows) = (64, 96, 101);
        let (weights, x) = (numbers(3, n * k), numbers(4, rows * k));
        let dense = Dense::new(&weights, k, precision, "w").unwrap();
        let mut out = vec![1.0; rows * n];
        dense.add(&x, &mut Room::default(), &mut out);
        let (mut error, mut size) = (0.0, 0.0);
        for (row, out) in x.chunks(k).zip(out.chunks(n)) {
            for (weights, got) in weights.chunks(k).zip(out) {
                let exact = weights.iter().zip(row).map(|(a, b)| a * b).sum::<f32>();
                error += (got - 1.0 - exact).powi(2);
                size += exact.powi(2);
            }
        }
        assert!(error < most * size, "{precision:?}: {error} of {size}");
        let mut alone = vec![1.0; n];
        dense.add(&x[70 * k..71 * k], &mut Room::default(), &mut alone);
        assert_eq!(alone, out[70 * n..71 * n]);
    }
}
