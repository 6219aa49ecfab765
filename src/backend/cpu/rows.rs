//! What happens to activations between the matrices, a row at a time: RMSNorm, quantization to int8, SwiGLU, RoPE.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels are unsafe as a whole; their contract is at the top of each")]
#![expect(unsafe_code, reason = "raw loads and vector instructions")]

use super::matmul::GROUP_BYTES;
use super::simd::{LANES, Simd};
use crate::format::packed::GROUP;

/// A row's place in a panel.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// The panel's first byte.
    pub panel: *mut u8,
    /// Rows of the panel as it is laid out.
    pub width: usize,
    pub row: usize,
}

/// `out` = x · weight / √(mean(x²) + eps): RMSNorm (Zhang and Sennrich, 2019).
///
/// # Safety
/// All three are `n` numbers, `n` a multiple of 16; `out` may be `x`. The processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn norm<S: Simd>(x: *const f32, weight: *const f32, eps: f32, n: usize, out: *mut f32) {
    let mut squares = [S::zero(); 4];
    for i in (0..n).step_by(LANES) {
        let v = S::load(x.add(i));
        squares[i / LANES % 4] = S::fma(v, v, squares[i / LANES % 4]);
    }
    let squares = S::add(S::add(squares[0], squares[1]), S::add(squares[2], squares[3]));
    let scale = S::splat(1.0 / (S::sum(squares) / n as f32 + eps).sqrt());
    for i in (0..n).step_by(LANES) {
        S::store(out.add(i), S::mul(S::mul(S::load(x.add(i)), scale), S::load(weight.add(i))));
    }
}

/// Which groups of a row.
#[derive(Debug, Clone, Copy)]
pub struct Groups {
    pub first: usize,
    pub count: usize,
    /// Of the whole row.
    pub all: usize,
}

impl Groups {
    /// All of a row of `k` numbers.
    pub fn whole(k: usize) -> Self {
        Self { first: 0, count: k / GROUP, all: k / GROUP }
    }
}

/// Quantizes groups of a row: scale = max|x| / 127, code = round(x · (127 / max|x|)); a group of zeros
/// has scale 0. Behind the last of an odd number of groups one of zeros is written, which fills up the weights' unit.
///
/// # Safety
/// `x` is the groups' numbers; the panel has room for all groups, and for one more if they are odd. The processor has
/// `S`'s instructions.
#[inline(always)]
pub unsafe fn quantize<S: Simd>(x: *const f32, groups: Groups, lane: Lane) {
    for g in 0..groups.count {
        let x = x.add(g * GROUP);
        group::<S>([S::load(x), S::load(x.add(LANES))], lane, groups.first + g);
    }
    if groups.all % 2 == 1 && groups.first + groups.count == groups.all {
        zeros(lane, groups.all);
    }
}

/// A group is an outlier when its largest number is above so many times the root of the row's mean square. On SmolLM2 and
/// prose the divergence from the reference is 0.0065 nat a token without rests, 0.0041 with them above 12 times, 0.0034
/// above 8, 0.0029 above 6, 0.0028 above 4.5.
const OUTLIER: f32 = 8.0;

/// Where the rests of outliers go.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    /// The first byte of a panel of the same form.
    pub panel: *mut u8,
    /// A byte for each group: whether any row has a rest there.
    pub flags: *mut u8,
}

/// [`quantize`] for a whole row, with 8 more bits for its outliers. A few channels of a normed row are many times as large
/// as the rest, and take their group's resolution with them: on SmolLM2 half of the divergence that int8 activations cost.
/// So what the codes of such a group leave of its numbers is quantized once more, into the panel of rests.
///
/// # Safety
/// As [`quantize`]; both panels have room for all groups, and one more if they are odd. `rest.flags` has `groups` bytes.
#[inline(always)]
pub unsafe fn quantize_with_rest<S: Simd>(x: *const f32, groups: usize, lane: Lane, rest: Rest) {
    let mut squares = S::zero();
    for i in (0..groups * GROUP).step_by(LANES) {
        let v = S::load(x.add(i));
        squares = S::fma(v, v, squares);
    }
    let limit = OUTLIER * (S::sum(squares) / (groups * GROUP) as f32).sqrt();
    let rests = Lane { panel: rest.panel, ..lane };
    for g in 0..groups {
        let x = x.add(g * GROUP);
        let numbers = [S::load(x), S::load(x.add(LANES))];
        let (largest, [first, second]) = group::<S>(numbers, lane, g);
        if largest > limit {
            let scale = S::splat(-(largest / 127.0));
            let left = [S::fma(S::to_f32(first), scale, numbers[0]), S::fma(S::to_f32(second), scale, numbers[1])];
            group::<S>(left, rests, g);
            *rest.flags.add(g) = 1;
        } else {
            zeros(rests, g);
        }
    }
    if groups % 2 == 1 {
        zeros(lane, groups);
        zeros(rests, groups);
    }
}

/// Quantizes 32 numbers as group `g` of a row: the largest magnitude, and the codes.
#[inline(always)]
unsafe fn group<S: Simd>(numbers: [S::F; 2], lane: Lane, g: usize) -> (f32, [S::I; 2]) {
    let Lane { panel, width, row } = lane;
    let largest = S::largest(S::max(S::abs(numbers[0]), S::abs(numbers[1])));
    let inverse = S::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
    let rounded = [S::round(S::mul(numbers[0], inverse)), S::round(S::mul(numbers[1], inverse))];
    let mut codes = [0i32; GROUP / 4];
    S::store_i8(codes.as_mut_ptr().cast(), rounded[0]);
    S::store_i8(codes.as_mut_ptr().cast::<i8>().add(LANES), rounded[1]);
    let (first, second) = (S::int_sum(rounded[0]), S::int_sum(rounded[1]));
    let scale = largest / 127.0;
    let to = panel.add(g * width * GROUP_BYTES);
    for (line, codes) in codes.iter().enumerate() {
        to.add((line * width + row) * 4).cast::<i32>().write_unaligned(*codes);
    }
    let sum = first + second;
    put(to, width, row, [scale.to_bits(), (scale * sum as f32).to_bits(), -sum as u32, -first as u32]);
    (largest, rounded)
}

/// Group `g` of a row without numbers.
#[inline(always)]
unsafe fn zeros(lane: Lane, g: usize) {
    let Lane { panel, width, row } = lane;
    let to = panel.add(g * width * GROUP_BYTES);
    for line in 0..GROUP / 4 {
        to.add((line * width + row) * 4).cast::<i32>().write_unaligned(0);
    }
    put(to, width, row, [0; 4]);
}

#[inline(always)]
unsafe fn put(group: *mut u8, width: usize, row: usize, numbers: [u32; 4]) {
    for (which, bits) in numbers.into_iter().enumerate() {
        group.add(width * (GROUP + 4 * which) + 4 * row).cast::<u32>().write_unaligned(bits);
    }
}

/// gate = gate · sigmoid(gate) · up: SwiGLU (Shazeer, 2020).
///
/// # Safety
/// Both are `n` numbers, a multiple of 16. The processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn swiglu<S: Simd>(gate: *mut f32, up: *const f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let g = S::load(gate.add(i));
        let e = S::exp(S::sub(S::zero(), g));
        let silu = S::div(g, S::add(S::splat(1.0), e));
        S::store(gate.add(i), S::mul(silu, S::load(up.add(i))));
    }
}

/// Turns pairs: (a, b) becomes (a·cos − b·sin, b·cos + a·sin).
///
/// # Safety
/// All are `n` numbers, a multiple of 16: cosines each twice, sines each twice and negative the first time. The
/// processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn rotate<S: Simd>(x: *mut f32, cos: *const f32, sin: *const f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let v = S::load(x.add(i));
        let turned = S::mul(S::swap_pairs(v), S::load(sin.add(i)));
        S::store(x.add(i), S::fma(v, S::load(cos.add(i)), turned));
    }
}
