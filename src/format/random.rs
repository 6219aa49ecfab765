//! Random weights, written straight as blocks of a type: a model of any size to measure speed with, before its download.
//!
//! All bytes are random but the scales, which are set so that numbers come out with a standard deviation near 0.02 and a mean
//! near 0, as trained weights have: activations then stay finite through any number of layers. A tensor's bytes depend on the
//! seed, its number and its type alone, so they are the same on every machine and can be made in any order.

use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::DType;

/// Counts the changes of what this module makes of the same seed, for those who keep it.
pub const RULE: u32 = 1;

/// Where a block has a scale, in f16, and its largest value. Blocks get between half and all of it.
type Scale = (usize, f32);

/// A type's scales. From ggml's block structures: `x = d·q` (`Q8_0`), `d·(q - 8)` (`Q4_0`), `d·(q - 16)` (`Q5_0`),
/// `d·q + m` (`Q4_1`, `Q5_1`), `d·s·(q - 32)` (`Q6_K`), `d·s·q - dmin·m` (`Q4_K`, `Q5_K`), `s` and `m` of six bits,
/// `d·codebook[q]` (`IQ4_NL`).
fn scales(dtype: DType) -> Option<&'static [Scale]> {
    Some(match dtype {
        DType::Q4_0 => &[(0, 0.006)],
        DType::Q4_1 => &[(0, 0.006), (2, -0.006 * 7.5)],
        DType::Q5_0 => &[(0, 0.003)],
        DType::Q5_1 => &[(0, 0.003), (2, -0.003 * 15.5)],
        DType::Q8_0 => &[(0, 3.6e-4)],
        DType::Q4K => &[(0, 9e-5), (2, 9e-5 * 7.5)],
        DType::Q5K => &[(0, 4.5e-5), (2, 4.5e-5 * 15.5)],
        DType::Q6K => &[(208, 2e-5)],
        DType::IQ4NL => &[(0, 4e-4)],
        _ => return None,
    })
}

/// The bytes of tensor number `number`, of `elements` numbers; `None` for a type that this module does not write.
pub fn tensor(seed: u64, number: u64, dtype: DType, elements: usize) -> Option<Vec<u8>> {
    let bytes = dtype.bytes_of(elements)?;
    if dtype == DType::F32 {
        return Some(1f32.to_le_bytes().repeat(elements)); // norms and the like
    }
    if dtype != DType::F16 && scales(dtype).is_none() {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    let mut data = vec![0; bytes];
    rng.fill_bytes(&mut data);
    match scales(dtype) {
        None => data.as_chunks_mut::<2>().0.iter_mut().for_each(bounded),
        Some(scales) => data.chunks_exact_mut(dtype.block_bytes()).for_each(|block| set_scales(block, scales)),
    }
    Some(data)
}

/// Keeps sign and fraction of a random f16 and gives it the exponent of 2^-6: magnitudes from 0.016 to 0.031.
fn bounded(number: &mut [u8; 2]) {
    let bits = u16::from_le_bytes(*number) & 0x83ff | 9 << 10;
    *number = bits.to_le_bytes();
}

fn set_scales(block: &mut [u8], scales: &[Scale]) {
    // One random byte for all scales of a block: a minimum that goes with its scale keeps the mean at 0.
    let share = 0.5 + f32::from(block[scales[0].0]) / 512.0;
    for (at, largest) in scales {
        block[*at..at + 2].copy_from_slice(&f16::from_f32(largest * share).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::format::dequantize::dequantize;

    const TYPES: [DType; 9] = [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::F16,
    ];

    #[test]
    fn numbers_are_small_finite_and_centred() {
        for dtype in TYPES {
            let mut numbers = vec![0.0; 256 * 256];
            dequantize(dtype, &tensor(0, 1, dtype, numbers.len()).unwrap(), &mut numbers).unwrap();
            let n = numbers.len() as f32;
            let mean = numbers.iter().sum::<f32>() / n;
            let deviation = (numbers.iter().map(|x| x * x).sum::<f32>() / n).sqrt();
            assert!((0.01..0.04).contains(&deviation), "{dtype}: {deviation}");
            // Levels of −8 to 7 have a mean of their own, half a level.
            assert!(mean.abs() < 0.15 * deviation, "{dtype}: {mean}");
            assert!(numbers.iter().all(|x| x.abs() < 0.5), "{dtype}");
        }
    }

    #[test]
    fn the_bytes_are_the_same_everywhere_and_others_for_each_tensor() {
        let hash = |number: u64| {
            let mut hash = Sha256::new();
            for dtype in TYPES {
                hash.update(tensor(0, number, dtype, 2048).unwrap());
            }
            hash.finalize().iter().take(4).fold(0u32, |n, byte| n << 8 | u32::from(*byte))
        };
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
        assert_eq!((hash(1), RULE), (0x339a_515f, 1), "other bytes are another rule");
    }

    #[test]
    fn types_without_a_rule_are_not_guessed() {
        assert_eq!(tensor(0, 1, DType::IQ4XS, 256), None);
        assert_eq!(tensor(0, 1, DType::Q4_0, 31), None);
    }
}
