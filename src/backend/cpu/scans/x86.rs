//! AVX2 and AVX-512.
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is a few instructions; its contract is the trait's")]
#![expect(unsafe_code, reason = "vector instructions and raw loads")]

use std::arch::x86_64::*;

use super::{BLOCK, PACKED, Set};
use crate::backend::cpu::{avx2, avx512};

pub(super) struct Avx2;
pub(super) struct Avx512;

/// 16 sums of 16 bits from those of even and of odd vectors, in order.
#[inline(always)]
unsafe fn store_interleaved(to: *mut u16, even: __m128i, odd: __m128i) {
    _mm_storeu_si128(to.cast(), _mm_unpacklo_epi16(even, odd));
    _mm_storeu_si128(to.add(8).cast(), _mm_unpackhi_epi16(even, odd));
}

/// The sum of both halves.
#[inline(always)]
unsafe fn fold(x: __m256i) -> __m128i {
    _mm_add_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}

/// The sum of all four quarters.
#[inline(always)]
unsafe fn fold_wide(x: __m512i) -> __m128i {
    fold(_mm256_add_epi16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x)))
}

/// The sum of eight numbers.
#[inline(always)]
unsafe fn total(x: __m256i) -> i32 {
    let sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
    _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum)))
}

/// The four codes of each byte.
#[inline(always)]
unsafe fn unpacked(codes: *const u8) -> [__m256i; 4] {
    let codes = _mm256_loadu_si256(codes.cast());
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(codes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(codes), mask),
    ]
}

// SAFETY: AVX2, which the functions are inlined into functions with.
unsafe impl Set for Avx2 {
    type Float = avx2::Avx2;

    #[inline(always)]
    unsafe fn dot(a: *const i8, b: *const i8, len: usize) -> i32 {
        // The instruction for bytes saturates, so they are widened: products of 16 bits are added in pairs to 32.
        let mut sums = [_mm256_setzero_si256(); 4];
        for i in (0..len).step_by(64) {
            for (j, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_cvtepi8_epi16(_mm_loadu_si128(a.add(i + 16 * j).cast()));
                let y = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(i + 16 * j).cast()));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, y));
            }
        }
        total(_mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3])))
    }

    #[inline(always)]
    unsafe fn dot_packed(a: *const i8, codes: *const u8, n: usize) -> i32 {
        let mut sum = _mm256_setzero_si256();
        for i in (0..n).step_by(PACKED) {
            // Pairs of products are at most 2·3·128, and four such sums fit 16 bits.
            let mut pairs = _mm256_setzero_si256();
            for (j, codes) in unpacked(codes.add(i)).into_iter().enumerate() {
                let a = _mm256_loadu_si256(a.add(4 * i + PACKED * j).cast());
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes, a));
            }
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        total(sum)
    }

    #[inline(always)]
    unsafe fn look_up(codes: *const u8, table: *const u8, parts: usize, sums: &mut [u16; BLOCK]) {
        // Bytes are added in pairs as if they were numbers of 16 bits, and the upper ones once more by themselves: what
        // they did to the first sum is taken off at the end, so that no byte needs masking.
        let low = _mm256_set1_epi8(15);
        let mut both = [_mm256_setzero_si256(); 2];
        let mut upper = [_mm256_setzero_si256(); 2];
        for part in (0..parts).step_by(2) {
            let code = _mm256_loadu_si256(codes.add(16 * part).cast());
            let entry = _mm256_loadu_si256(table.add(16 * part).cast());
            let halves = [_mm256_and_si256(code, low), _mm256_and_si256(_mm256_srli_epi16::<4>(code), low)];
            for i in 0..2 {
                let found = _mm256_shuffle_epi8(entry, halves[i]);
                both[i] = _mm256_add_epi16(both[i], found);
                upper[i] = _mm256_add_epi16(upper[i], _mm256_srli_epi16::<8>(found));
            }
        }
        for i in 0..2 {
            let lower = _mm256_sub_epi16(both[i], _mm256_slli_epi16::<8>(upper[i]));
            store_interleaved(sums.as_mut_ptr().add(16 * i), fold(lower), fold(upper[i]));
        }
    }
}

// SAFETY: AVX-512 with VNNI, which the functions are inlined into functions with.
unsafe impl Set for Avx512 {
    type Float = avx512::Avx512;

    #[inline(always)]
    unsafe fn dot(a: *const i8, b: *const i8, len: usize) -> i32 {
        // The instruction wants one side unsigned: b + 128, whose excess 128·Σa is summed beside it.
        let sign = _mm512_set1_epi8(-128);
        let mut sum = _mm512_setzero_si512();
        let mut excess = _mm512_setzero_si512();
        for i in (0..len).step_by(64) {
            let signed = _mm512_loadu_si512(a.add(i).cast());
            let biased = _mm512_xor_si512(_mm512_loadu_si512(b.add(i).cast()), sign);
            sum = _mm512_dpbusd_epi32(sum, biased, signed);
            excess = _mm512_dpbusd_epi32(excess, sign, signed);
        }
        _mm512_reduce_add_epi32(_mm512_sub_epi32(sum, excess))
    }

    #[inline(always)]
    unsafe fn dot_packed(a: *const i8, codes: *const u8, n: usize) -> i32 {
        let mut sums = [_mm256_setzero_si256(); 4];
        for i in (0..n).step_by(PACKED) {
            for (j, codes) in unpacked(codes.add(i)).into_iter().enumerate() {
                let a = _mm256_loadu_si256(a.add(4 * i + PACKED * j).cast());
                sums[j] = _mm256_dpbusd_epi32(sums[j], codes, a);
            }
        }
        total(_mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3])))
    }

    #[inline(always)]
    unsafe fn look_up(codes: *const u8, table: *const u8, parts: usize, sums: &mut [u16; BLOCK]) {
        // As with AVX2, four parts at a time.
        let low = _mm512_set1_epi8(15);
        let mut both = [_mm512_setzero_si512(); 2];
        let mut upper = [_mm512_setzero_si512(); 2];
        for part in (0..parts).step_by(4) {
            let code = _mm512_loadu_si512(codes.add(16 * part).cast());
            let entry = _mm512_loadu_si512(table.add(16 * part).cast());
            let halves = [_mm512_and_si512(code, low), _mm512_and_si512(_mm512_srli_epi16::<4>(code), low)];
            for i in 0..2 {
                let found = _mm512_shuffle_epi8(entry, halves[i]);
                both[i] = _mm512_add_epi16(both[i], found);
                upper[i] = _mm512_add_epi16(upper[i], _mm512_srli_epi16::<8>(found));
            }
        }
        for i in 0..2 {
            let lower = _mm512_sub_epi16(both[i], _mm512_slli_epi16::<8>(upper[i]));
            store_interleaved(sums.as_mut_ptr().add(16 * i), fold_wide(lower), fold_wide(upper[i]));
        }
    }
}
