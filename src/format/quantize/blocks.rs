//! Blocks of 32 numbers: the scale whose rounded numbers are nearest to them in the sum of squares.
//!
//! It is searched for among a few near the one that the largest number asks for, each corrected by least squares. Weighting
//! numbers by their square, as llama.cpp does where it has no importance matrix, made three of four perplexities worse
//! (docs/quantization.md). Loops are over whole groups and without branches, so that the compiler makes vector
//! instructions of them whatever the processor.

use half::f16;

use crate::format::DType;
use crate::format::dequantize::Codebook;
use crate::format::packed::{GROUP, Refused};

/// A group.
pub type Numbers = [f32; GROUP];

/// [`DType::Q4_0`]'s levels.
pub const UNIFORM: Codebook = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
/// Where the largest number may come to lie, as a share of the first level. Beyond these errors only grow.
const SHARES: [f32; 7] = [0.78, 0.85, 0.91, 0.96, 1.0, 1.05, 1.12];
/// The same of the range between the smallest number and the largest.
const RANGES: [f32; 6] = [0.78, 0.84, 0.9, 0.95, 1.0, 1.04];
/// Partial sums, in an order that does not depend on the processor.
const LANES: usize = 8;

/// Makes blocks of one type.
#[derive(Debug)]
pub enum Encoder {
    Q8_0,
    Q4_1,
    Levels(Box<Levels>),
}

impl Encoder {
    /// # Panics
    /// For a type that nothing is quantized to.
    pub fn new(dtype: DType, codebook: &Codebook) -> Self {
        match dtype {
            DType::Q8_0 => Self::Q8_0,
            DType::Q4_1 => Self::Q4_1,
            DType::Q4_0 => Self::Levels(Box::new(Levels::new(&UNIFORM))),
            DType::IQ4NL => Self::Levels(Box::new(Levels::new(codebook))),
            _ => unreachable!("nothing is quantized to {dtype}"),
        }
    }

    /// Writes a group's block.
    pub fn block(&self, x: &Numbers, block: &mut [u8]) -> Result<(), Refused> {
        match self {
            Self::Q8_0 => q8_0(x, block),
            Self::Q4_1 => q4_1(x, block),
            Self::Levels(levels) => {
                let scale = half(levels.scale(x)?)?;
                put(&mut block[..2], scale);
                nibbles(&levels.codes(x, scale.to_f32()), &mut block[2..]);
                Ok(())
            }
        }
    }
}

/// The number that is furthest from 0.
fn largest(x: &Numbers) -> Result<f32, Refused> {
    let size = |x: f32| (x.to_bits() & 0x7fff_ffff) as i32;
    let furthest = x.iter().fold(0, |m, x| size(*x).max(m));
    if furthest >= f32::INFINITY.to_bits() as i32 {
        return Err(Refused::NotFinite);
    }
    Ok(x.iter().copied().find(|x| size(*x) == furthest).unwrap_or(0.0))
}

/// 16 levels, ascending, and which of them is nearest.
#[derive(Debug)]
pub struct Levels {
    codebook: Codebook,
    /// The code nearest to each half of a whole number; behind the last middle between levels, of the next.
    codes: [u8; HALVES],
    /// The levels of these codes.
    nearest: [f32; HALVES],
}

/// Halves in the range of a level, −128 to 127.5.
const HALVES: usize = 512;

/// How levels fit a group, for the codes that some scale gave.
#[derive(Debug, Clone, Copy, Default)]
struct Fit {
    /// Σ x · level
    with: f32,
    /// Σ level²
    square: f32,
}

impl Fit {
    /// The scale with the least Σ (x − scale · level)².
    fn scale(self) -> f32 {
        if self.square > 0.0 { self.with / self.square } else { 0.0 }
    }

    /// By how much that scale brings the sum below Σ x².
    fn gain(self) -> f32 {
        self.with * self.scale()
    }
}

impl Levels {
    pub fn new(codebook: &Codebook) -> Self {
        let twice = |code: usize| i32::from(codebook[code]) + i32::from(codebook[code + 1]); // the middle behind it, in halves
        let code = |i: usize| (0..15).take_while(|code| twice(*code) <= i as i32 - HALVES as i32 / 2).count();
        let codes = std::array::from_fn(|i| code(i) as u8);
        Self { codebook: *codebook, codes, nearest: codes.map(|code| f32::from(codebook[usize::from(code)])) }
    }

    /// The best scale for a group, of the sign that brings its largest number near the first level: there is no level
    /// further from 0.
    ///
    /// # Errors
    /// A number that is NaN or infinite.
    pub fn scale(&self, x: &Numbers) -> Result<f32, Refused> {
        let largest = largest(x)?;
        if largest == 0.0 {
            return Ok(0.0);
        }
        let mut best = Fit::default();
        for share in SHARES {
            let fit = self.fit(x, f32::from(self.codebook[0]) * share / largest);
            if fit.gain() > best.gain() {
                best = fit;
            }
        }
        // Once more with the codes that the corrected scale gives.
        let again = self.fit(x, inverse(best.scale()));
        Ok(if again.gain() > best.gain() { again.scale() } else { best.scale() })
    }

    /// The scale of least squares for the codes that another one gives.
    pub fn improved(&self, x: &Numbers, scale: f32) -> f32 {
        self.fit(x, inverse(scale)).scale()
    }

    fn fit(&self, x: &Numbers, inverse: f32) -> Fit {
        let (mut with, mut square) = ([0.0; LANES], [0.0; LANES]);
        for (x, halves) in x.as_chunks::<LANES>().0.iter().zip(halves(x, inverse).as_chunks::<LANES>().0) {
            for i in 0..LANES {
                let level = self.nearest[halves[i] as usize % HALVES];
                with[i] += x[i] * level;
                square[i] += level * level;
            }
        }
        Fit { with: with.iter().sum(), square: square.iter().sum() }
    }

    /// The codes of the levels that are nearest to x / scale.
    pub fn codes(&self, x: &Numbers, scale: f32) -> [u8; GROUP] {
        halves(x, inverse(scale)).map(|half| self.codes[half as usize % HALVES])
    }
}

/// The halves below x · inverse, counted from −128.
fn halves(x: &Numbers, inverse: f32) -> [u32; GROUP] {
    const LEAST: f32 = -(HALVES as f32) / 2.0;
    x.map(|x| (between(x * (2.0 * inverse) - 0.5, LEAST, -LEAST - 1.0) - LEAST + BIG).to_bits())
}

/// A block of [`DType::Q8_0`]: the scale max|x| / 127, then the nearest of its multiples.
fn q8_0(x: &Numbers, block: &mut [u8]) -> Result<(), Refused> {
    let scale = half(largest(x)?.abs() / 127.0)?;
    put(&mut block[..2], scale);
    let inverse = inverse(scale.to_f32());
    for (byte, x) in block[2..].iter_mut().zip(x) {
        *byte = round(between(x * inverse, -127.0, 127.0)) as i8 as u8;
    }
    Ok(())
}

/// A block of [`DType::Q4_1`]: scale, minimum, codes.
fn q4_1(x: &Numbers, block: &mut [u8]) -> Result<(), Refused> {
    largest(x)?;
    let least = x.iter().fold(f32::INFINITY, |m, x| if *x < m { *x } else { m });
    let most = x.iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
    let mut best = (f32::INFINITY, f16::ZERO, f16::ZERO);
    for share in RANGES {
        // What is cut off the range is cut off at both ends; then once more with the line of least squares.
        let (mut scale, mut min) = ((most - least) * share / 15.0, least + (most - least) * (1.0 - share) / 2.0);
        for _ in 0..2 {
            let (s, m) = (half(scale)?, half(min)?);
            let codes = steps(x, s.to_f32(), m.to_f32());
            let error = distance(x, &codes, s.to_f32(), m.to_f32());
            if error < best.0 {
                best = (error, s, m);
            }
            (scale, min) = line(x, &codes);
        }
    }
    let (_, scale, min) = best;
    put(&mut block[..2], scale);
    put(&mut block[2..4], min);
    nibbles(&steps(x, scale.to_f32(), min.to_f32()).map(|code| code as u8), &mut block[4..]);
    Ok(())
}

/// The nearest of the numbers 0 to 15 to (x − min) / scale.
fn steps(x: &Numbers, scale: f32, min: f32) -> Numbers {
    let inverse = inverse(scale);
    x.map(|x| round(between((x - min) * inverse, 0.0, 15.0)))
}

/// Σ (x − (scale · code + min))²
fn distance(x: &Numbers, codes: &Numbers, scale: f32, min: f32) -> f32 {
    let mut sums = [0.0; LANES];
    for (x, codes) in x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let error = x[i] - (scale * codes[i] + min);
            sums[i] += error * error;
        }
    }
    sums.iter().sum()
}

/// The scale and minimum of least squares for codes.
fn line(x: &Numbers, codes: &Numbers) -> (f32, f32) {
    let mean = |of: &Numbers| of.iter().sum::<f32>() / GROUP as f32;
    let (mean_x, mean_code) = (mean(x), mean(codes));
    let (mut with, mut square) = ([0.0; LANES], [0.0; LANES]);
    for (x, codes) in x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            with[i] += x[i] * (codes[i] - mean_code);
            square[i] += (codes[i] - mean_code) * (codes[i] - mean_code);
        }
    }
    let square: f32 = square.iter().sum();
    let scale = if square > 0.0 { with.iter().sum::<f32>() / square } else { 0.0 };
    (scale, mean_x - scale * mean_code)
}

/// 1 / scale, and 0 for none.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// As `clamp`, but for numbers only: one instruction each.
fn between(x: f32, least: f32, most: f32) -> f32 {
    let x = if x > least { x } else { least };
    if x < most { x } else { most }
}

/// The nearest whole number, ties to even, of numbers below 2²²: what is added leaves no room for a fraction.
fn round(x: f32) -> f32 {
    (x + BIG) - BIG
}

/// 1.5 · 2²³
const BIG: f32 = 12_582_912.0;

fn half(x: f32) -> Result<f16, Refused> {
    let half = f16::from_f32(x);
    if half.is_finite() { Ok(half) } else { Err(Refused::TooLarge) }
}

fn put(to: &mut [u8], number: f16) {
    to.copy_from_slice(&number.to_le_bytes());
}

/// Codes of the first half of a group in low halves of bytes, of the second in high ones.
fn nibbles(codes: &[u8; GROUP], to: &mut [u8]) {
    for (i, byte) in to.iter_mut().enumerate() {
        *byte = codes[i] | codes[i + GROUP / 2] << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dequantize::{IQ4_CODEBOOK, dequantize_with};
    use crate::format::quantize::{NF4, tests::groups};

    const TYPES: [(DType, Codebook); 5] = [
        (DType::Q8_0, IQ4_CODEBOOK),
        (DType::Q4_1, IQ4_CODEBOOK),
        (DType::Q4_0, IQ4_CODEBOOK),
        (DType::IQ4NL, IQ4_CODEBOOK),
        (DType::IQ4NL, NF4),
    ];

    /// What comes back of a group, or why it was refused.
    fn round_trip(dtype: DType, codebook: &Codebook, x: &Numbers) -> Result<Numbers, Refused> {
        let mut block = vec![0xff; dtype.block_bytes()];
        Encoder::new(dtype, codebook).block(x, &mut block)?;
        let mut back = [f32::NAN; GROUP];
        dequantize_with(dtype, codebook, &block, &mut back).unwrap();
        Ok(back)
    }

    fn rms_error(dtype: DType, codebook: &Codebook, groups: &[Numbers]) -> f64 {
        let (mut error, mut power) = (0.0, 0.0);
        for x in groups {
            for (x, back) in x.iter().zip(round_trip(dtype, codebook, x).unwrap()) {
                error += f64::from(x - back).powi(2);
                power += f64::from(*x).powi(2);
            }
        }
        (error / power).sqrt()
    }

    #[test]
    fn what_comes_back_is_as_near_as_the_format_can_bring_it() {
        let groups = groups(500);
        // Of normally distributed numbers, less than ggml's own quantizers leave: 0.0057, 0.079, 0.087 and 0.078.
        for ((dtype, codebook), bound) in TYPES.iter().zip([0.0058, 0.074, 0.084, 0.079, 0.083]) {
            let error = rms_error(*dtype, codebook, &groups);
            assert!((0.7 * bound..bound).contains(&error), "{dtype}, {codebook:?}: {error:.4}");
        }
    }

    #[test]
    fn groups_that_a_format_holds_come_back_as_they_were() {
        let codes: [u8; GROUP] = std::array::from_fn(|i| (i * 7 % 16) as u8);
        let of = |level: &dyn Fn(usize) -> f32| codes.map(|code| level(usize::from(code)));
        let held = [
            (DType::Q8_0, of(&|code| 0.125 * (code as f32 * 15.0 - 98.0))),
            (DType::Q4_1, of(&|code| 0.375 * code as f32 - 1.25)),
            (DType::Q4_0, of(&|code| 0.375 * (code as f32 - 8.0))),
            (DType::IQ4NL, of(&|code| -0.25 * f32::from(IQ4_CODEBOOK[code]))),
        ];
        for (dtype, x) in held {
            assert_eq!(round_trip(dtype, &IQ4_CODEBOOK, &x), Ok(x), "{dtype}");
        }
        assert_eq!(round_trip(DType::IQ4NL, &NF4, &of(&|code| 2.0 * f32::from(NF4[code]))).unwrap()[7], 2.0 * -88.0);
    }

    #[test]
    fn nothing_becomes_nothing_and_one_huge_number_stays_the_largest() {
        for (dtype, codebook) in TYPES {
            for zero in [0.0, -0.0, 1e-30, -1e-30] {
                let back = round_trip(dtype, &codebook, &[zero; GROUP]).unwrap();
                assert!(back.iter().all(|x| x.abs() < 1e-29), "{dtype}, {zero}: {back:?}");
            }
            for huge in [6e4, -6e4] {
                let mut x = [0.5; GROUP];
                x[13] = huge;
                let back = round_trip(dtype, &codebook, &x).unwrap();
                // The first level takes it; where that leaves others, a step is as wide as the levels are apart.
                assert!((back[13] / huge - 1.0).abs() < 0.01, "{dtype}, {huge}: {back:?}");
                assert!(back.iter().enumerate().all(|(i, x)| i == 13 || x.abs() < 6e4 / 15.0), "{dtype}: {back:?}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_or_beyond_the_scale_are_refused() {
        for (dtype, codebook) in TYPES {
            for (bad, refused) in [
                (f32::NAN, Refused::NotFinite),
                (-f32::NAN, Refused::NotFinite),
                (f32::INFINITY, Refused::NotFinite),
                (f32::NEG_INFINITY, Refused::NotFinite),
                (1e30, Refused::TooLarge),
                (f32::MIN, Refused::TooLarge),
            ] {
                let mut x = [1.0; GROUP];
                x[31] = bad;
                assert_eq!(round_trip(dtype, &codebook, &x), Err(refused), "{dtype}, {bad}");
            }
        }
    }
}
