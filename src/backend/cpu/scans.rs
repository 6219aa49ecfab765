//! What the memory's indexes scan with: inner products of bytes, and of bytes with codes of two bits; sums of 4-bit
//! table look-ups; inner products of f32.
//!
//! Compiled for every instruction set, as the kernels of the model are (`kernels`), beside which they stand for the
//! sake of `simd` and of the tests in emulators. Sums of integers are exact and those of floats are taken in one order,
//! so every processor finds the same rows with the same scores.
#![allow(unsafe_op_in_unsafe_fn, reason = "each kernel here is one call of its generic body, under the same contract")]
#![expect(unsafe_code, reason = "vector instructions and raw loads")]

#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::kernels::Isa;
use super::simd::Simd;
use crate::error::Result;

/// Bytes that a row of int8 is padded to.
pub const ROW: usize = 64;
/// Bytes that a row of 2-bit codes is padded to. Byte j of them holds codes j, j + 32, j + 64 and j + 96, the first in its
/// lowest bits: bytes are unpacked by a shift and a mask, and lie as those of the query do.
pub const PACKED: usize = 32;
/// Vectors of a block of 4-bit codes: 16 bytes for each subquantizer, the first 16 vectors in the low halves.
pub const BLOCK: usize = 32;
/// Subquantizers are padded to a multiple of this.
pub const PARTS: usize = 4;
/// With more, a sum of look-ups could exceed 16 bits.
pub const MAX_PARTS: usize = 256;

/// What a scan needs of an instruction set, beside what [`Simd`] has.
///
/// # Safety
/// The processor has the instructions.
unsafe trait Set {
    type Float: Simd;

    /// Σ aᵢ·bᵢ over `n` bytes, a multiple of [`ROW`].
    unsafe fn dot(a: *const i8, b: *const i8, n: usize) -> i32;

    /// Σ aᵢ·cᵢ over the 2-bit codes c, 0 to 3, in `n` bytes, a multiple of [`PACKED`].
    unsafe fn dot_packed(a: *const i8, codes: *const u8, n: usize) -> i32;

    /// For each vector of a block, Σ table[part][code]: `codes` is (parts, 16), `table` (parts, 16), `parts` a multiple
    /// of [`PARTS`] and at most [`MAX_PARTS`].
    unsafe fn look_up(codes: *const u8, table: *const u8, parts: usize, sums: &mut [u16; BLOCK]);
}

#[inline(always)]
unsafe fn multiply_add<S: Simd>(a: *const f32, b: *const f32, i: usize, sum: S::F) -> S::F {
    S::fma(S::load(a.add(i)), S::load(b.add(i)), sum)
}

/// Σ aᵢ·bᵢ of f32, in 4 runs of 16 lanes. `n` is a multiple of 16.
#[inline(always)]
unsafe fn dot_f32<S: Simd>(a: *const f32, b: *const f32, n: usize) -> f32 {
    let mut sums = [S::zero(); 4];
    let whole = n / 64 * 64;
    for i in (0..whole).step_by(64) {
        sums[0] = multiply_add::<S>(a, b, i, sums[0]);
        sums[1] = multiply_add::<S>(a, b, i + 16, sums[1]);
        sums[2] = multiply_add::<S>(a, b, i + 32, sums[2]);
        sums[3] = multiply_add::<S>(a, b, i + 48, sums[3]);
    }
    for i in (whole..n).step_by(16) {
        sums[0] = multiply_add::<S>(a, b, i, sums[0]);
    }
    S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
}

#[inline(always)]
unsafe fn dot_rows<S: Set>(query: &[i8], rows: &[i8], out: &mut [i32]) {
    let n = query.len();
    for (i, out) in out.iter_mut().enumerate() {
        let row = rows.as_ptr().add(i * n);
        // The next rows but three: far enough for memory, near enough not to be thrown out again.
        for line in (0..n).step_by(64) {
            <S::Float as Simd>::prefetch(row.wrapping_add(4 * n + line).cast());
        }
        *out = S::dot(query.as_ptr(), row, n);
    }
}

#[inline(always)]
unsafe fn dot_some<S: Set>(query: &[i8], rows: &[i8], which: &[u32], out: &mut [i32]) {
    let n = query.len();
    let row = |i: u32| rows.as_ptr().wrapping_add(i as usize * n);
    // They lie anywhere: all are on their way before the first is needed.
    for i in which {
        for line in (0..n).step_by(64) {
            <S::Float as Simd>::prefetch(row(*i).wrapping_add(line).cast());
        }
    }
    for (i, out) in which.iter().zip(out) {
        *out = S::dot(query.as_ptr(), row(*i), n);
    }
}

#[inline(always)]
unsafe fn dot_packed<S: Set>(query: &[i8], rows: &[u8], which: &[u32], out: &mut [i32]) {
    let n = query.len() / 4;
    let row = |i: u32| rows.as_ptr().wrapping_add(i as usize * n);
    for i in which {
        for line in (0..n).step_by(64) {
            <S::Float as Simd>::prefetch(row(*i).wrapping_add(line).cast());
        }
        // Rows begin on no line's beginning.
        <S::Float as Simd>::prefetch(row(*i).wrapping_add(n - 1).cast());
    }
    for (i, out) in which.iter().zip(out) {
        *out = S::dot_packed(query.as_ptr(), row(*i), n);
    }
}

#[inline(always)]
unsafe fn prefetch<S: Set>(numbers: &[u32]) {
    for line in numbers.chunks(16) {
        <S::Float as Simd>::prefetch(line.as_ptr().cast());
    }
}

#[inline(always)]
unsafe fn look_up_blocks<S: Set>(codes: &[u8], table: &[u8], out: &mut [[u16; BLOCK]]) {
    let bytes = table.len();
    for (i, sums) in out.iter_mut().enumerate() {
        S::look_up(codes.as_ptr().add(i * bytes), table.as_ptr(), bytes / 16, sums);
    }
}

/// Compiles the scans for an instruction set.
macro_rules! compiled {
    ($module:ident, $set:ty $(, $features:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn dot_rows(query: &[i8], rows: &[i8], out: &mut [i32]) {
                super::dot_rows::<$set>(query, rows, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn dot_some(query: &[i8], rows: &[i8], which: &[u32], out: &mut [i32]) {
                super::dot_some::<$set>(query, rows, which, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn dot_packed(query: &[i8], rows: &[u8], which: &[u32], out: &mut [i32]) {
                super::dot_packed::<$set>(query, rows, which, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn prefetch(numbers: &[u32]) {
                super::prefetch::<$set>(numbers);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn look_up_blocks(codes: &[u8], table: &[u8], out: &mut [[u16; BLOCK]]) {
                super::look_up_blocks::<$set>(codes, table, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn dot_f32(a: *const f32, b: *const f32, n: usize) -> f32 {
                super::dot_f32::<<$set as Set>::Float>(a, b, n)
            }

            pub(super) const SCANS: Scans = Scans {
                dot_rows,
                dot_some,
                dot_packed,
                prefetch,
                look_up_blocks,
                dot_f32,
            };
        }
    };
}

compiled!(scalar, plain::Plain);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, x86::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, x86::Avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni");
#[cfg(target_arch = "aarch64")]
compiled!(neon_plain, neon::Neon<false>, "neon");
#[cfg(target_arch = "aarch64")]
compiled!(dotprod, neon::Neon<true>, "neon,dotprod");

/// [`Scans::dot_some`] of an instruction set.
type DotSome = unsafe fn(&[i8], &[i8], &[u32], &mut [i32]);
/// [`Scans::dot_packed`] of an instruction set.
type DotPacked = unsafe fn(&[i8], &[u8], &[u32], &mut [i32]);

/// The scans of one instruction set that this processor has.
#[derive(Clone, Copy)]
pub struct Scans {
    dot_rows: unsafe fn(&[i8], &[i8], &mut [i32]),
    dot_some: DotSome,
    dot_packed: DotPacked,
    prefetch: unsafe fn(&[u32]),
    look_up_blocks: unsafe fn(&[u8], &[u8], &mut [[u16; BLOCK]]),
    dot_f32: unsafe fn(*const f32, *const f32, usize) -> f32,
}

impl std::fmt::Debug for Scans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scans")
    }
}

impl Scans {
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
            return scalar::SCANS;
        }
        match isa {
            Isa::Scalar => scalar::SCANS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::SCANS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::SCANS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon_plain::SCANS,
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => dotprod::SCANS,
        }
    }

    /// `out[i]` = query · row i, exactly. A row has as many bytes as the query, a multiple of [`ROW`].
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn dot_rows(self, query: &[i8], rows: &[i8], out: &mut [i32]) {
        assert!(query.len().is_multiple_of(ROW) && rows.len() == query.len() * out.len(), "rows of another width");
        // SAFETY: the processor has the instructions (`of`), and the lengths are right.
        unsafe { (self.dot_rows)(query, rows, out) }
    }

    /// `out[i]` = query · row `which[i]`, exactly. Rows as of [`Scans::dot_rows`], in any order.
    ///
    /// # Panics
    /// When the lengths do not go together, or there is no such row.
    pub fn dot_some(self, query: &[i8], rows: &[i8], which: &[u32], out: &mut [i32]) {
        assert!(query.len().is_multiple_of(ROW) && which.len() == out.len(), "rows of another width");
        let last = which.iter().max().map_or(0, |row| *row as usize + 1);
        assert!(last * query.len() <= rows.len(), "no such row");
        // SAFETY: the processor has the instructions (`of`), and the rows are there.
        unsafe { (self.dot_some)(query, rows, which, out) }
    }

    /// `out[i]` = query · the 2-bit codes of row `which[i]`, exactly: each is 0 to 3. A row has a quarter of the query's
    /// bytes, a multiple of [`PACKED`].
    ///
    /// # Panics
    /// When the lengths do not go together, or there is no such row.
    pub fn dot_packed(self, query: &[i8], rows: &[u8], which: &[u32], out: &mut [i32]) {
        assert!(
            !query.is_empty() && query.len().is_multiple_of(4 * PACKED) && which.len() == out.len(),
            "rows of another width"
        );
        let last = which.iter().max().map_or(0, |row| *row as usize + 1);
        assert!(last * query.len() / 4 <= rows.len(), "no such row");
        // SAFETY: the processor has the instructions (`of`), and the rows are there.
        unsafe { (self.dot_packed)(query, rows, which, out) }
    }

    /// Has the lines of `numbers` on their way into the cache.
    pub fn prefetch(self, numbers: &[u32]) {
        // SAFETY: the processor has the instructions (`of`).
        unsafe { (self.prefetch)(numbers) }
    }

    /// `out[i][j]` = the sum of the table at the codes of vector j of block i. `table` is (parts, 16), `codes` is
    /// (blocks, parts, 16).
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn look_up_blocks(self, codes: &[u8], table: &[u8], out: &mut [[u16; BLOCK]]) {
        assert!(
            table.len().is_multiple_of(16 * PARTS)
                && table.len() <= 16 * MAX_PARTS
                && codes.len() == table.len() * out.len(),
            "blocks of another width"
        );
        // SAFETY: the processor has the instructions (`of`), and the lengths are right.
        unsafe { (self.look_up_blocks)(codes, table, out) }
    }

    /// a · b, in an order of its own; both padded with zeros to a multiple of 16.
    ///
    /// # Panics
    /// When the lengths differ, or are no such multiples.
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        assert!(a.len() == b.len() && a.len().is_multiple_of(16), "vectors of another width");
        // SAFETY: the processor has the instructions (`of`), and the lengths are right.
        unsafe { (self.dot_f32)(a.as_ptr(), b.as_ptr(), a.len()) }
    }
}
