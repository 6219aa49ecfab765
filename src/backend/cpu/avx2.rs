//! AVX2 with FMA and F16C (Haswell, Zen and later): 16 lanes are two registers.
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is one operation; its contract is the trait's")]
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::*;

use super::simd::Simd;

#[derive(Clone, Copy)]
pub struct Avx2;

type F = [__m256; 2];
type I = [__m256i; 2];

const HALF_MAX: f32 = 65504.0;

#[inline(always)]
unsafe fn load2(from: *const u8) -> I {
    [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
}

/// acc + the sums of four neighbouring products of unsigned `codes` and signed `x`, whose pairs must fit in 16 bits.
#[inline(always)]
unsafe fn dot(acc: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(codes, x);
    _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// 8 i32 as bytes.
#[inline(always)]
unsafe fn narrow(a: I) -> __m128i {
    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a[0], a[1]));
    _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
}

// SAFETY: `kernels` enables the instructions where this is inlined, after asking the processor for them.
unsafe impl Simd for Avx2 {
    type F = F;
    type I = I;
    type B = I;
    /// Two rows fill half of the 16 registers with sums; four spill some, and still halve the unpacking.
    const MAX_PANEL: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> F {
        [_mm256_setzero_ps(); 2]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [_mm256_set1_ps(x); 2]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: F) {
        _mm256_storeu_ps(to, x[0]);
        _mm256_storeu_ps(to.add(8), x[1]);
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> F {
        [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast()))]
    }
    #[inline(always)]
    unsafe fn load_bhalf(from: *const u16) -> F {
        let eight = |p: *const u16| {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        };
        [eight(from), eight(from.add(8))]
    }
    #[inline(always)]
    unsafe fn store_half(to: *mut u16, x: F) {
        for (i, x) in x.into_iter().enumerate() {
            let x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-HALF_MAX)), _mm256_set1_ps(HALF_MAX));
            _mm_storeu_si128(to.add(8 * i).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> F {
        let eight = |p: *const u8| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())));
        [eight(from), eight(from.add(8))]
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        let sign = _mm256_set1_ps(-0.0);
        [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
    }
    #[inline(always)]
    unsafe fn swap_pairs(a: F) -> F {
        [_mm256_permute_ps::<0b10_11_00_01>(a[0]), _mm256_permute_ps::<0b10_11_00_01>(a[1])]
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])]
    }
    #[inline(always)]
    unsafe fn power_of_two(n: I) -> F {
        let one = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
        [one(n[0]), one(n[1])]
    }
    #[inline(always)]
    unsafe fn to_f32(a: I) -> F {
        [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])]
    }
    #[inline(always)]
    unsafe fn int_splat(x: i32) -> I {
        [_mm256_set1_epi32(x); 2]
    }
    #[inline(always)]
    unsafe fn int_shl<const BITS: u32>(a: I) -> I {
        let count = _mm_cvtsi32_si128(BITS as i32);
        a.map(|a| _mm256_sll_epi32(a, count))
    }
    #[inline(always)]
    unsafe fn int_add(a: I, b: I) -> I {
        [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn int_mul(a: I, b: I) -> I {
        [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> I {
        let eight = |p: *const i8| _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()));
        [eight(from), eight(from.add(8))]
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, a: I) {
        _mm_storeu_si128(to.cast(), narrow(a));
    }
    #[inline(always)]
    unsafe fn int_sum(a: I) -> i32 {
        let mut lanes = [0i32; 8];
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(a[0], a[1]));
        lanes.iter().sum()
    }
    #[inline(always)]
    unsafe fn codes(from: *const u8) -> I {
        load2(from)
    }
    #[inline(always)]
    unsafe fn low(a: I) -> I {
        a.map(|a| _mm256_and_si256(a, _mm256_set1_epi8(15)))
    }
    #[inline(always)]
    unsafe fn high(a: I) -> I {
        a.map(|a| _mm256_and_si256(_mm256_srli_epi16::<4>(a), _mm256_set1_epi8(15)))
    }
    #[inline(always)]
    unsafe fn with_high_bits(a: I, b: I, shift: u32) -> I {
        let count = _mm_cvtsi32_si128(shift as i32);
        std::array::from_fn(|i| {
            let moved = _mm256_slli_epi16::<4>(_mm256_srl_epi16(b[i], count));
            _mm256_or_si256(a[i], _mm256_and_si256(moved, _mm256_set1_epi8(0x30)))
        })
    }
    #[inline(always)]
    unsafe fn look_up(table: I, a: I) -> I {
        a.map(|a| _mm256_shuffle_epi8(table[0], _mm256_and_si256(a, _mm256_set1_epi8(15))))
    }
    #[inline(always)]
    unsafe fn start_biased(_: i32) -> I {
        [_mm256_setzero_si256(); 2]
    }
    #[inline(always)]
    unsafe fn dot_biased(acc: I, codes: I, activations: i32) -> I {
        // Unsigned times signed would overflow its 16 bits: the code's sign moves to the activation, |x| ≤ 127.
        let x = _mm256_set1_epi32(activations);
        std::array::from_fn(|i| {
            let code = _mm256_xor_si256(codes[i], _mm256_set1_epi8(-128));
            dot(acc[i], _mm256_abs_epi8(code), _mm256_sign_epi8(x, code))
        })
    }
    #[inline(always)]
    unsafe fn dot_small(acc: I, codes: I, activations: i32) -> I {
        let x = _mm256_set1_epi32(activations);
        std::array::from_fn(|i| dot(acc[i], codes[i], x))
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn prefetch_second(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
}
