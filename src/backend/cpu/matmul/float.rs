//! Floating-point weights times f32 activations.
//!
//! A panel is rows interleaved: number k of each row, then number k + 1. A row's sum is four strands, of the numbers whose
//! k leaves the same remainder, each added in the order of k with fused multiply-adds; in the end they are added in pairs.
//! One row takes the four at once, because a multiply-add waits for the one before it in its strand; wide panels take them one
//! after the other, because their sums fill the registers. The sums are the same.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels are unsafe as a whole; their contract is at the top of each")]
#![expect(unsafe_code, reason = "raw loads and vector instructions")]

use super::{Job, LANES, PREFETCH, STREAMED, put};
use crate::backend::cpu::simd::Simd;
use crate::format::packed::GROUP;

const STRANDS: usize = 4;

/// How a matrix keeps its numbers.
pub trait Number {
    /// Bytes of one.
    const BYTES: usize;

    /// 16 numbers.
    unsafe fn load<S: Simd>(from: *const u8) -> S::F;
}

pub struct Half;
pub struct BHalf;
pub struct Single;

impl Number for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        S::load_half(from.cast())
    }
}

impl Number for BHalf {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        S::load_bhalf(from.cast())
    }
}

impl Number for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        S::load(from.cast())
    }
}

/// Runs a job whose panel is in f32.
///
/// # Safety
/// As of [`super::run`].
#[inline(always)]
pub unsafe fn run<S: Simd, W: Number>(job: &Job) {
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
unsafe fn tiles<S: Simd, W: Number, const N: usize>(job: &Job) {
    let k = job.units * GROUP;
    for tile in 0..job.tiles {
        let weights = job.weights.add(tile * k * LANES * W::BYTES);
        let sums = sums::<S, W, N>(weights, job.panel.cast(), k);
        let lanes = if tile + 1 == job.tiles { job.last_lanes } else { LANES };
        for (row, sum) in sums.into_iter().enumerate().take(job.rows) {
            put::<S>(job.out.add(row * job.stride + tile * LANES), sum, lanes, job.add);
        }
    }
}

/// A tile times a panel of `N` rows.
#[inline(always)]
unsafe fn sums<S: Simd, W: Number, const N: usize>(weights: *const u8, x: *const f32, k: usize) -> [S::F; N] {
    // 16 sums, or 4 where a vector is several of 16 registers.
    let at_once = (if S::MAX_PANEL >= 8 { 16 } else { 4 }) / N;
    let mut all = [[S::zero(); N]; STRANDS];
    if at_once >= 4 {
        all = strands::<S, W, N, 4>(weights, x, k, 0);
    } else if at_once >= 2 {
        for first in [0, 2] {
            all[first..first + 2].copy_from_slice(&strands::<S, W, N, 2>(weights, x, k, first));
        }
    } else {
        for (first, one) in all.iter_mut().enumerate() {
            [*one] = strands::<S, W, N, 1>(weights, x, k, first);
        }
    }
    let mut sums = [S::zero(); N];
    for (row, sum) in sums.iter_mut().enumerate() {
        *sum = S::add(S::add(all[0][row], all[1][row]), S::add(all[2][row], all[3][row]));
    }
    sums
}

/// `M` strands from strand `first` on.
#[inline(always)]
unsafe fn strands<S: Simd, W: Number, const N: usize, const M: usize>(
    weights: *const u8,
    x: *const f32,
    k: usize,
    first: usize,
) -> [[S::F; N]; M] {
    let mut sums = [[S::zero(); N]; M];
    for line in (first..k).step_by(STRANDS) {
        if N <= STREAMED && first == 0 {
            let ahead = weights.wrapping_add(line * LANES * W::BYTES + PREFETCH);
            let mut at = 0;
            while at < STRANDS * LANES * W::BYTES {
                S::prefetch(ahead.wrapping_add(at));
                at += 64;
            }
        }
        for (strand, sums) in sums.iter_mut().enumerate() {
            let w = W::load::<S>(weights.add((line + strand) * LANES * W::BYTES));
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(w, S::splat(*x.add((line + strand) * N + row)), *sum);
            }
        }
    }
    sums
}
