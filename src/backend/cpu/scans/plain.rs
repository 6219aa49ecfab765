//! Plain Rust, for processors without the others' instructions and for checking those.
#![expect(unsafe_code, reason = "the trait's functions take pointers")]

use super::{BLOCK, PACKED, Set};
use crate::backend::cpu::simd::Scalar;

pub(super) struct Plain;

// SAFETY: no special instructions.
unsafe impl Set for Plain {
    type Float = Scalar;

    #[inline(always)]
    unsafe fn dot(a: *const i8, b: *const i8, n: usize) -> i32 {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (std::slice::from_raw_parts(a, n), std::slice::from_raw_parts(b, n)) };
        a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    }

    #[inline(always)]
    unsafe fn dot_packed(a: *const i8, codes: *const u8, n: usize) -> i32 {
        // SAFETY: the caller's promise.
        let (a, codes) = unsafe { (std::slice::from_raw_parts(a, 4 * n), std::slice::from_raw_parts(codes, n)) };
        let mut sum = 0;
        for (a, codes) in a.chunks_exact(4 * PACKED).zip(codes.chunks_exact(PACKED)) {
            for (i, a) in a.iter().enumerate() {
                sum += i32::from(*a) * i32::from(codes[i % PACKED] >> (i / PACKED * 2) & 3);
            }
        }
        sum
    }

    #[inline(always)]
    unsafe fn look_up(codes: *const u8, table: *const u8, parts: usize, sums: &mut [u16; BLOCK]) {
        // SAFETY: the caller's promise.
        let (codes, table) =
            unsafe { (std::slice::from_raw_parts(codes, parts * 16), std::slice::from_raw_parts(table, parts * 16)) };
        *sums = [0; BLOCK];
        for (codes, table) in codes.chunks_exact(16).zip(table.chunks_exact(16)) {
            for (i, code) in codes.iter().enumerate() {
                sums[i] += u16::from(table[usize::from(code & 15)]);
                sums[i + 16] += u16::from(table[usize::from(code >> 4)]);
            }
        }
    }
}
