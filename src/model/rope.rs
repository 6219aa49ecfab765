//! Rotary position embedding: which angle each pair of a head turns by at each position.
//!
//! Inside taper a head's pairs are neighbours (2i, 2i + 1), as GGUF's Llama files store them; rows from safetensors are
//! reordered when they are loaded.

use crate::error::{Error, Result};

/// How a model's rotary frequencies are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies' geometric series (`rope_theta`).
    pub base: f32,
    pub scaling: Scaling,
}

/// What stretches the frequencies to contexts longer than those of the first training.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    None,
    /// Every frequency divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, those between blended.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: f32,
    },
}

impl Rope {
    pub(super) fn check(&self, head_dim: usize) -> Result<()> {
        if !(self.base.is_finite() && self.base > 0.0) {
            return Err(Error::model(format!("the RoPE base is {}; it must be positive", self.base)));
        }
        if let Scaling::Linear { factor } | Scaling::Llama3 { factor, .. } = self.scaling
            && !(factor.is_finite() && factor > 0.0)
        {
            return Err(Error::model(format!("RoPE scaling by a factor of {factor} is impossible")));
        }
        if let Scaling::Llama3 { low, high, original, .. } = self.scaling
            && !(low > 0.0 && high > low && original > 0.0)
        {
            return Err(Error::model(format!(
                "llama3 RoPE scaling needs 0 < low_freq_factor < high_freq_factor, not {low} and {high}"
            )));
        }
        debug_assert!(head_dim.is_multiple_of(2));
        Ok(())
    }

    /// Radians a position for each pair of a head, (`head_dim / 2`).
    ///
    /// `factors` are the divisors of a GGUF's `rope_freqs.weight`, (`head_dim / 2`), which llama.cpp's converter computes
    /// from the llama3 parameters. Formula: transformers' `_compute_llama3_parameters`.
    pub fn frequencies(&self, head_dim: usize, factors: Option<&[f32]>) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|i| {
                let plain = 1.0 / self.base.powf((2 * i) as f32 / head_dim as f32);
                let factor = factors.map_or(1.0, |f| f[i]);
                self.scaling.apply(plain) / factor
            })
            .collect()
    }
}

impl Scaling {
    fn apply(&self, freq: f32) -> f32 {
        match *self {
            Self::None => freq,
            Self::Linear { factor } => freq / factor,
            Self::Llama3 { factor, low, high, original } => {
                let turns = original * freq / std::f32::consts::TAU; // full turns inside the original context
                if turns > high {
                    freq
                } else if turns < low {
                    freq / factor
                } else {
                    let smooth = (turns - low) / (high - low);
                    (1.0 - smooth) * freq / factor + smooth * freq
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() <= 1e-6 * b.abs()
    }

    #[test]
    fn frequencies_are_a_geometric_series() {
        let f = Rope { base: 10_000.0, scaling: Scaling::None }.frequencies(8, None);
        assert!([1.0, 0.1, 0.01, 0.001].iter().zip(&f).all(|(a, b)| close(*a, *b)), "{f:?}");
    }

    #[test]
    fn linear_scaling_and_file_factors_divide() {
        let rope = Rope { base: 10_000.0, scaling: Scaling::Linear { factor: 4.0 } };
        let f = rope.frequencies(4, Some(&[1.0, 2.0]));
        assert!(close(f[0], 0.25) && close(f[1], 0.01 / 8.0), "{f:?}");
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        assert!(close(scaling.apply(0.1), 0.1));
        assert!(close(scaling.apply(1e-5), 1e-5 / 8.0));
        // 2.5 turns: half way between 1 and 4.
        let mid = 2.5 * std::f32::consts::TAU / 8192.0;
        assert!(close(scaling.apply(mid), mid * (0.5 / 8.0 + 0.5)));
    }
}
