//! NEON, without and with the dot product instructions.
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is a few instructions; its contract is the trait's")]
#![expect(unsafe_code, reason = "vector instructions and raw loads")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{BLOCK, PACKED, Set};
use crate::backend::cpu::neon;

pub(super) struct Neon<const DOTPROD: bool>;

/// acc + products, four neighbours in a lane or, without the instruction, otherwise: the sum of all lanes is the same.
#[inline(always)]
unsafe fn add_products<const DOTPROD: bool>(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    if DOTPROD {
        return sdot(acc, a, b);
    }
    vpadalq_s16(vpadalq_s16(acc, vmull_s8(vget_low_s8(a), vget_low_s8(b))), vmull_high_s8(a, b))
}

/// acc + the sums of four neighbouring products. (The intrinsic is not stable.)
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction on registers, which whoever calls this has.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

// SAFETY: NEON, and the dot product where `DOTPROD`, which the functions are inlined into functions with.
unsafe impl<const DOTPROD: bool> Set for Neon<DOTPROD> {
    type Float = neon::Neon<DOTPROD>;

    #[inline(always)]
    unsafe fn dot(a: *const i8, b: *const i8, n: usize) -> i32 {
        let mut sums = [vdupq_n_s32(0); 4];
        for i in (0..n).step_by(64) {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = add_products::<DOTPROD>(*sum, vld1q_s8(a.add(i + 16 * j)), vld1q_s8(b.add(i + 16 * j)));
            }
        }
        vaddvq_s32(vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3])))
    }

    #[inline(always)]
    unsafe fn dot_packed(a: *const i8, codes: *const u8, n: usize) -> i32 {
        let mask = vdupq_n_u8(3);
        let mut sums = [vdupq_n_s32(0); 4];
        for i in (0..n).step_by(PACKED) {
            for half in 0..2 {
                let packed = vld1q_u8(codes.add(i + 16 * half));
                let unpacked = [packed, vshrq_n_u8::<2>(packed), vshrq_n_u8::<4>(packed), vshrq_n_u8::<6>(packed)];
                for (j, codes) in unpacked.into_iter().enumerate() {
                    let a = vld1q_s8(a.add(4 * i + PACKED * j + 16 * half));
                    sums[j] = add_products::<DOTPROD>(sums[j], a, vreinterpretq_s8_u8(vandq_u8(codes, mask)));
                }
            }
        }
        vaddvq_s32(vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3])))
    }

    #[inline(always)]
    unsafe fn look_up(codes: *const u8, table: *const u8, parts: usize, sums: &mut [u16; BLOCK]) {
        let mut acc = [vdupq_n_u16(0); 4];
        for part in 0..parts {
            let code = vld1q_u8(codes.add(16 * part));
            let entry = vld1q_u8(table.add(16 * part));
            let low = vqtbl1q_u8(entry, vandq_u8(code, vdupq_n_u8(15)));
            let high = vqtbl1q_u8(entry, vshrq_n_u8::<4>(code));
            acc[0] = vaddw_u8(acc[0], vget_low_u8(low));
            acc[1] = vaddw_high_u8(acc[1], low);
            acc[2] = vaddw_u8(acc[2], vget_low_u8(high));
            acc[3] = vaddw_high_u8(acc[3], high);
        }
        for (i, acc) in acc.into_iter().enumerate() {
            vst1q_u16(sums.as_mut_ptr().add(8 * i), acc);
        }
    }
}
