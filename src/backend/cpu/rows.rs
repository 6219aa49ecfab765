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

/// Quantizes groups of a row: scale = max|x| / 127, code = round(x · (127 / max|x|)); a group of zeros
/// has scale 0. Behind the last of an odd number of groups one of zeros is written, which fills up the weights' unit.
///
/// # Safety
/// `x` is the groups' numbers; the panel has room for all groups, and for one more if they are odd. The processor has
/// `S`'s instructions.
#[inline(always)]
pub unsafe fn quantize<S: Simd>(x: *const f32, groups: Groups, lane: Lane) {
    let Lane { panel, width, row } = lane;
    let group_bytes = width * GROUP_BYTES;
    for g in 0..groups.count {
        let x = x.add(g * GROUP);
        let (first, second) = (S::load(x), S::load(x.add(LANES)));
        let largest = S::largest(S::max(S::abs(first), S::abs(second)));
        let inverse = S::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let (first, second) = (S::round(S::mul(first, inverse)), S::round(S::mul(second, inverse)));
        let mut codes = [0i32; GROUP / 4];
        S::store_i8(codes.as_mut_ptr().cast(), first);
        S::store_i8(codes.as_mut_ptr().cast::<i8>().add(LANES), second);
        let (first, second) = (S::int_sum(first), S::int_sum(second));
        let scale = largest / 127.0;
        let to = panel.add((groups.first + g) * group_bytes);
        for (line, codes) in codes.iter().enumerate() {
            to.add((line * width + row) * 4).cast::<i32>().write_unaligned(*codes);
        }
        let sum = first + second;
        put(to, width, row, [scale.to_bits(), (scale * sum as f32).to_bits(), -sum as u32, -first as u32]);
    }
    if groups.all % 2 == 1 && groups.first + groups.count == groups.all {
        let to = panel.add(groups.all * group_bytes);
        for line in 0..GROUP / 4 {
            to.add((line * width + row) * 4).cast::<i32>().write_unaligned(0);
        }
        put(to, width, row, [0; 4]);
    }
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
