//! What a kernel needs of an instruction set: 16 lanes of f32 and of i32, 64 bytes of weight codes.
//!
//! Kernels are written once over [`Simd`] and compiled for each implementation (`kernels.rs` says how one is chosen).
//! All implementations give the same bits: the integer sums are exact, multiply-adds are fused everywhere, and sums
//! over lanes are taken in one fixed tree. So every processor answers alike, and [`Scalar`] is the test of the others.
#![allow(unsafe_op_in_unsafe_fn, reason = "each function is one operation; its contract is the trait's")]
#![expect(unsafe_code, reason = "vector instructions and raw loads")]

/// Lanes of every vector here.
pub const LANES: usize = 16;

/// An instruction set.
///
/// # Safety
/// Of every method: the processor has the instructions, and pointers are good for what is read or written there
/// (`LANES` numbers, or 64 bytes of codes). Methods are inlined into functions that enable the instructions.
pub unsafe trait Simd: Copy + 'static {
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 64 bytes: 16 rows of 4 codes.
    type B: Copy;
    /// Rows of activations that a matrix kernel takes at once: as many as registers allow.
    const MAX_PANEL: usize;

    unsafe fn zero() -> Self::F;
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, x: Self::F);
    /// 16 f16.
    unsafe fn load_half(from: *const u16) -> Self::F;
    /// 16 bf16.
    unsafe fn load_bhalf(from: *const u16) -> Self::F;
    /// As f16, rounded to nearest even; beyond its range the largest finite number.
    unsafe fn store_half(to: *mut u16, x: Self::F);
    /// 16 unsigned bytes.
    unsafe fn load_u8(from: *const u8) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where one is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// Lanes 0 and 1, 2 and 3, … change places.
    unsafe fn swap_pairs(a: Self::F) -> Self::F;
    /// To the nearest integer, halves to even. |a| < 2³¹.
    unsafe fn round(a: Self::F) -> Self::I;
    /// 2ⁿ for −127 ≤ n ≤ 127; −127 gives 0.
    unsafe fn power_of_two(n: Self::I) -> Self::F;

    unsafe fn to_f32(a: Self::I) -> Self::F;
    unsafe fn int_splat(x: i32) -> Self::I;
    unsafe fn int_shl<const BITS: u32>(a: Self::I) -> Self::I;
    unsafe fn int_add(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn int_mul(a: Self::I, b: Self::I) -> Self::I;
    /// 16 signed bytes.
    unsafe fn load_i8(from: *const i8) -> Self::I;
    /// As bytes; −128 ≤ a ≤ 127.
    unsafe fn store_i8(to: *mut i8, a: Self::I);
    unsafe fn int_sum(a: Self::I) -> i32;

    unsafe fn codes(from: *const u8) -> Self::B;
    /// The low four bits of each byte.
    unsafe fn low(a: Self::B) -> Self::B;
    /// The high four bits of each byte.
    unsafe fn high(a: Self::B) -> Self::B;
    /// a | (b >> shift & 3) << 4, byte by byte.
    unsafe fn with_high_bits(a: Self::B, b: Self::B, shift: u32) -> Self::B;
    /// `table` at the low four bits of each byte of `a`. The table is 16 bytes, repeated four times.
    unsafe fn look_up(table: Self::B, a: Self::B) -> Self::B;

    /// Where the sum of products with codes biased by 128 starts; `neg_sum` is −Σ activations.
    unsafe fn start_biased(neg_sum: i32) -> Self::I;
    /// acc + Σ over 4 of (code − 128) · activation, for each row; the bias is [`Simd::start_biased`]'s affair where the
    /// instruction wants unsigned codes.
    unsafe fn dot_biased(acc: Self::I, codes: Self::B, activations: i32) -> Self::I;
    /// acc + Σ over 4 of code · activation, for codes below 64.
    unsafe fn dot_small(acc: Self::I, codes: Self::B, activations: i32) -> Self::I;

    /// Asks for the line at `p` (which need not be memory of ours).
    unsafe fn prefetch(p: *const u8);
    /// The same, into the second-level cache: for what is wanted later than the first level has room for.
    unsafe fn prefetch_second(p: *const u8);

    /// All lanes, added as a tree: halves, quarters, eighths.
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        let mut lanes = [0.0f32; LANES];
        Self::store(lanes.as_mut_ptr(), a);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        let mut lanes = [0.0f32; LANES];
        Self::store(lanes.as_mut_ptr(), a);
        lanes.iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m })
    }

    /// eˣ, within 2 units in the last place; 0 below −87.3, and finite above 88.
    ///
    /// 2 to the power of x·log₂e, its integer part put into the exponent, its rest by the Taylor series to the sixth
    /// power.
    #[inline(always)]
    unsafe fn exp(x: Self::F) -> Self::F {
        let t = Self::mul(x, Self::splat(std::f32::consts::LOG2_E));
        let t = Self::min(Self::max(t, Self::splat(-127.0)), Self::splat(127.0));
        let n = Self::round(t);
        let rest = Self::sub(t, Self::to_f32(n));
        let mut p = Self::splat(1.540_353_e-4);
        for c in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0] {
            p = Self::fma(p, rest, Self::splat(c));
        }
        Self::mul(p, Self::power_of_two(n))
    }
}

/// Plain Rust, for processors without the others' instructions and for checking those.
#[derive(Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn zip<A: Copy, B: Copy, C: Copy + Default, const N: usize>(a: [A; N], b: [B; N], f: impl Fn(A, B) -> C) -> [C; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn dot4(codes: &[u8; 64], activations: i32, bias: i32, acc: [i32; LANES]) -> [i32; LANES] {
    let x = activations.to_le_bytes().map(|b| i32::from(b as i8));
    std::array::from_fn(|row| acc[row] + (0..4).map(|j| (i32::from(codes[4 * row + j]) - bias) * x[j]).sum::<i32>())
}

/// a · b + c, rounded once. Where the processor may lack the instruction, the library's function takes tens of nanoseconds;
/// f64 nearly always gives the same number: the product is exact there, and rounding the sum a second time, to f32, goes
/// wrong only from the middle between two f32, or where f32 has fewer bits.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        return a.mul_add(b, c);
    }
    let sum = f64::from(a) * f64::from(b) + f64::from(c);
    let is_middle = sum.to_bits() & 0x1fff_ffff == 0x1000_0000;
    let is_small = sum.abs() < f64::from(f32::MIN_POSITIVE) && sum != 0.0;
    if is_middle || is_small { a.mul_add(b, c) } else { sum as f32 }
}

// SAFETY: no special instructions.
unsafe impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];
    const MAX_PANEL: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self::F {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        from.cast::<Self::F>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        to.cast::<Self::F>().write_unaligned(x);
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self::F {
        let bits = from.cast::<[u16; LANES]>().read_unaligned();
        bits.map(|b| half::f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bhalf(from: *const u16) -> Self::F {
        from.cast::<[u16; LANES]>().read_unaligned().map(|b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    unsafe fn store_half(to: *mut u16, x: Self::F) {
        let largest = half::f16::MAX.to_f32();
        let bits = x.map(|x| half::f16::from_f32(x.clamp(-largest, largest)).to_bits());
        to.cast::<[u16; LANES]>().write_unaligned(bits);
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::F {
        from.cast::<[u8; LANES]>().read().map(f32::from)
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| fused(a[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn swap_pairs(a: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i ^ 1])
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::I {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn power_of_two(n: Self::I) -> Self::F {
        n.map(|n| f32::from_bits(((n + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn int_splat(x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn int_shl<const BITS: u32>(a: Self::I) -> Self::I {
        a.map(|x| x << BITS)
    }
    #[inline(always)]
    unsafe fn int_add(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn int_mul(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::I {
        from.cast::<[i8; LANES]>().read().map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, a: Self::I) {
        to.cast::<[i8; LANES]>().write(a.map(|x| x as i8));
    }
    #[inline(always)]
    unsafe fn int_sum(a: Self::I) -> i32 {
        a.iter().sum()
    }
    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Self::B {
        from.cast::<Self::B>().read()
    }
    #[inline(always)]
    unsafe fn low(a: Self::B) -> Self::B {
        a.map(|b| b & 15)
    }
    #[inline(always)]
    unsafe fn high(a: Self::B) -> Self::B {
        a.map(|b| b >> 4)
    }
    #[inline(always)]
    unsafe fn with_high_bits(a: Self::B, b: Self::B, shift: u32) -> Self::B {
        zip(a, b, |a, b| a | (b >> shift & 3) << 4)
    }
    #[inline(always)]
    unsafe fn look_up(table: Self::B, a: Self::B) -> Self::B {
        a.map(|b| table[usize::from(b & 15)])
    }
    #[inline(always)]
    unsafe fn start_biased(_: i32) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn dot_biased(acc: Self::I, codes: Self::B, activations: i32) -> Self::I {
        dot4(&codes, activations, 128, acc)
    }
    #[inline(always)]
    unsafe fn dot_small(acc: Self::I, codes: Self::B, activations: i32) -> Self::I {
        dot4(&codes, activations, 0, acc)
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_second(_: *const u8) {}
}

#[cfg(test)]
mod tests {
    use super::fused;

    #[test]
    fn multiply_adds_are_rounded_once() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        let same = |a: f32, b: f32, c: f32| {
            let (expected, got) = (a.mul_add(b, c), fused(a, b, c));
            assert!(
                expected.to_bits() == got.to_bits() || expected.is_nan() && got.is_nan(),
                "{a:e} · {b:e} + {c:e}: {got:e}, not {expected:e}"
            );
        };
        for _ in 0..2_000_000 {
            same(f32::from_bits(next()), f32::from_bits(next()), f32::from_bits(next()));
            // Alike in size, so that all bits matter.
            let mut near = || f32::from_bits(next() & 0x8fff_ffff | 0x3800_0000);
            same(near(), near(), near());
        }
        // Beside the middle between two f32, the odd one of them below and above: rounded to f64 they lie on it.
        let (e, h) = (f32::EPSILON, 2f32.powi(-12));
        let (below, above) = ([1.0 + e, 1.0 - e], [1.0 + h, 1.0 - h + h * h]); // products of 1 − 2⁻⁴⁶ and 1 + 2⁻³⁶
        for ([a, b], c) in [(below, 1.0 + e), (above, 1.0), (below, -1.0 - e), (above, -1.0)] {
            same(a * 2f32.powi(-24) * c.signum(), b, c);
            // The same among the subnormal numbers, whose last place is 2⁻¹⁴⁹.
            let c = c.signum() * f32::from_bits((1 << 22) + u32::from(c.abs() > 1.0));
            same(a * 2f32.powi(-75) * c.signum(), b * 2f32.powi(-75), c);
        }
    }
}
