//! NEON, which every 64-bit Arm processor has: 16 lanes are four registers.
//!
//! Processors from 2018 on (Cortex-A76, Neoverse N1, Apple's M1) also have an instruction that multiplies and adds four
//! bytes a lane; [`Neon`] is compiled with and without it.
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is one operation; its contract is the trait's")]
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::Simd;

/// `DOT`: with the dot product instructions.
#[derive(Clone, Copy)]
pub struct Neon<const DOT: bool>;

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type B = [uint8x16_t; 4];

/// The largest finite f16.
const HALF_MAX: f32 = 65504.0;

/// Four registers, each from those of the same number.
macro_rules! each {
    ($f:ident; $($x:expr),+) => {
        [$f($($x[0]),+), $f($($x[1]),+), $f($($x[2]),+), $f($($x[3]),+)]
    };
}

/// a > b ? a : b, also where one is no number.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

#[inline(always)]
unsafe fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), a, b)
}

/// The low and the high half of 8 words.
#[inline(always)]
unsafe fn widen(a: int16x8_t) -> [int32x4_t; 2] {
    [vmovl_s16(vget_low_s16(a)), vmovl_high_s16(a)]
}

#[inline(always)]
unsafe fn widen_unsigned(a: uint16x8_t) -> [float32x4_t; 2] {
    [vcvtq_f32_u32(vmovl_u16(vget_low_u16(a))), vcvtq_f32_u32(vmovl_high_u16(a))]
}

/// acc + the sums of four neighbouring products. (The intrinsic is not stable.)
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction on registers, which whoever calls this has.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            codes = in(vreg) codes,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// The same by products of 16 bits, whose pairs are added in 32.
#[inline(always)]
unsafe fn multiply_add(acc: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(x)));
    let high = vpaddlq_s16(vmull_high_s8(codes, x));
    vaddq_s32(acc, vpaddq_s32(low, high))
}

#[inline(always)]
unsafe fn dot<const DOT: bool>(acc: I, codes: B, activations: i32) -> I {
    let x = vreinterpretq_s8_s32(vdupq_n_s32(activations));
    let c = each!(vreinterpretq_s8_u8; codes);
    let x = [x; 4];
    if DOT { each!(sdot; acc, c, x) } else { each!(multiply_add; acc, c, x) }
}

// SAFETY: `kernels` enables the instructions where this is inlined, after asking the processor for them.
unsafe impl<const DOT: bool> Simd for Neon<DOT> {
    type F = F;
    type I = I;
    type B = B;
    /// Four rows' i32 sums fill half of the 32 registers; their f32 sums take the other half once a group.
    const MAX_PANEL: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> F {
        [vdupq_n_f32(0.0); 4]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [vdupq_n_f32(x); 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: F) {
        for (i, x) in x.into_iter().enumerate() {
            vst1q_f32(to.add(4 * i), x);
        }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> F {
        let (a, b) = (vreinterpretq_f16_u16(vld1q_u16(from)), vreinterpretq_f16_u16(vld1q_u16(from.add(8))));
        [vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a), vcvt_f32_f16(vget_low_f16(b)), vcvt_high_f32_f16(b)]
    }
    #[inline(always)]
    unsafe fn load_bhalf(from: *const u16) -> F {
        let four = |p: *const u16| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p)));
        [four(from), four(from.add(4)), four(from.add(8)), four(from.add(12))]
    }
    #[inline(always)]
    unsafe fn store_half(to: *mut u16, x: F) {
        for (i, x) in x.into_iter().enumerate() {
            let x = smaller(larger(x, vdupq_n_f32(-HALF_MAX)), vdupq_n_f32(HALF_MAX));
            vst1_u16(to.add(4 * i), vreinterpret_u16_f16(vcvt_f16_f32(x)));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> F {
        let bytes = vld1q_u8(from);
        let [a, b] = widen_unsigned(vmovl_u8(vget_low_u8(bytes)));
        let [c, d] = widen_unsigned(vmovl_high_u8(bytes));
        [a, b, c, d]
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        each!(vaddq_f32; a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        each!(vsubq_f32; a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        each!(vmulq_f32; a, b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        each!(vdivq_f32; a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        each!(vfmaq_f32; c, a, b)
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        each!(larger; a, b)
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        each!(smaller; a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        each!(vabsq_f32; a)
    }
    #[inline(always)]
    unsafe fn swap_pairs(a: F) -> F {
        each!(vrev64q_f32; a)
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        each!(vcvtnq_s32_f32; a)
    }
    #[inline(always)]
    unsafe fn power_of_two(n: I) -> F {
        n.map(|n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))))
    }
    #[inline(always)]
    unsafe fn to_f32(a: I) -> F {
        each!(vcvtq_f32_s32; a)
    }
    #[inline(always)]
    unsafe fn int_splat(x: i32) -> I {
        [vdupq_n_s32(x); 4]
    }
    #[inline(always)]
    unsafe fn int_shl<const BITS: u32>(a: I) -> I {
        let count = [vdupq_n_s32(BITS as i32); 4];
        each!(vshlq_s32; a, count)
    }
    #[inline(always)]
    unsafe fn int_add(a: I, b: I) -> I {
        each!(vaddq_s32; a, b)
    }
    #[inline(always)]
    unsafe fn int_mul(a: I, b: I) -> I {
        each!(vmulq_s32; a, b)
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> I {
        let bytes = vld1q_s8(from);
        let [a, b] = widen(vmovl_s8(vget_low_s8(bytes)));
        let [c, d] = widen(vmovl_high_s8(bytes));
        [a, b, c, d]
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, a: I) {
        let low = vmovn_high_s32(vmovn_s32(a[0]), a[1]);
        let high = vmovn_high_s32(vmovn_s32(a[2]), a[3]);
        vst1q_s8(to, vmovn_high_s16(vmovn_s16(low), high));
    }
    #[inline(always)]
    unsafe fn int_sum(a: I) -> i32 {
        vaddvq_s32(vaddq_s32(vaddq_s32(a[0], a[1]), vaddq_s32(a[2], a[3])))
    }
    #[inline(always)]
    unsafe fn codes(from: *const u8) -> B {
        [vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))]
    }
    #[inline(always)]
    unsafe fn low(a: B) -> B {
        let mask = [vdupq_n_u8(15); 4];
        each!(vandq_u8; a, mask)
    }
    #[inline(always)]
    unsafe fn high(a: B) -> B {
        a.map(|a| vshrq_n_u8::<4>(a))
    }
    #[inline(always)]
    unsafe fn with_high_bits(a: B, b: B, shift: u32) -> B {
        let right = vdupq_n_s8(-(shift as i8));
        std::array::from_fn(|i| {
            let two = vandq_u8(vshlq_u8(b[i], right), vdupq_n_u8(3));
            vorrq_u8(a[i], vshlq_n_u8::<4>(two))
        })
    }
    #[inline(always)]
    unsafe fn look_up(table: B, a: B) -> B {
        let index = Self::low(a);
        let table = [table[0]; 4];
        each!(vqtbl1q_u8; table, index)
    }
    #[inline(always)]
    unsafe fn start_biased(_: i32) -> I {
        [vdupq_n_s32(0); 4]
    }
    #[inline(always)]
    unsafe fn dot_biased(acc: I, codes: B, activations: i32) -> I {
        // Both sides are signed here: without its bias a code is a signed byte.
        let bias = [vdupq_n_u8(128); 4];
        dot::<DOT>(acc, each!(veorq_u8; codes, bias), activations)
    }
    #[inline(always)]
    unsafe fn dot_small(acc: I, codes: B, activations: i32) -> I {
        dot::<DOT>(acc, codes, activations)
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
    }
    #[inline(always)]
    unsafe fn prefetch_second(p: *const u8) {
        asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
    }
    #[inline(always)]
    unsafe fn largest(a: F) -> f32 {
        vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3])))
    }
}
