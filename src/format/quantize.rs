//! Quantization on load: rows of floating-point numbers become blocks of a file's types when they are read.
//!
//! All backends see ordinary quantized tensors, so the reference judges these as it does any other. `nf4` and `learned` are
//! [`DType::IQ4NL`]'s blocks under another codebook: that of `QLoRA` (Dettmers et al., 2023, appendix E) in steps of 1/127,
//! and one that is fitted to each tensor (`learn`). How a block is made is in `blocks`.

mod blocks;
mod learn;

use std::sync::OnceLock;

use super::dequantize::{Codebook, IQ4_CODEBOOK};
use super::packed::{GROUP, Refused};
use super::{DType, TensorInfo};
use crate::error::{Error, Result};
use blocks::Encoder;

/// Counts the changes of what this module makes of the same numbers, for those who keep it.
pub const RULE: u32 = 2;

/// `QLoRA`'s 4-bit normal floats times 127, rounded.
const NF4: Codebook = [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127];

/// What floating-point matrices become when a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Quant {
    /// They stay as they are
    #[default]
    None,
    /// 8 bits and a scale for 32 numbers: 8.5 bits a number
    #[value(name = "q8_0")]
    Q8_0,
    /// 16 even steps with a scale and a minimum: 5 bits a number
    #[value(name = "q4_1")]
    Q4_1,
    /// 16 even steps with a scale: 4.5 bits a number, as all that follow
    #[value(name = "q4_0")]
    Q4_0,
    /// llama.cpp's uneven steps
    #[value(name = "iq4_nl")]
    Iq4Nl,
    /// Uneven steps for normally distributed numbers
    Nf4,
    /// Uneven steps fitted to each matrix
    Learned,
}

impl Quant {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
            Self::Iq4Nl => "iq4_nl",
            Self::Nf4 => "nf4",
            Self::Learned => "learned",
        }
    }

    /// How a tensor is quantized: matrices of floating-point numbers are, the head to eight bits, for it is where four
    /// cost the most. `None` for what stays as it is.
    ///
    /// # Errors
    /// When its rows do not fill groups of 32.
    pub fn of(self, info: &TensorInfo, is_head: bool) -> Result<Option<Quantizer>> {
        let float = matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16);
        let (true, [_, columns]) = (float, info.shape.as_slice()) else { return Ok(None) };
        let (dtype, codebook) = match self {
            Self::None => return Ok(None),
            Self::Q8_0 => (DType::Q8_0, Some(IQ4_CODEBOOK)),
            _ if is_head => (DType::Q8_0, Some(IQ4_CODEBOOK)),
            Self::Q4_0 => (DType::Q4_0, Some(IQ4_CODEBOOK)),
            Self::Q4_1 => (DType::Q4_1, Some(IQ4_CODEBOOK)),
            Self::Iq4Nl => (DType::IQ4NL, Some(IQ4_CODEBOOK)),
            Self::Nf4 => (DType::IQ4NL, Some(NF4)),
            Self::Learned => (DType::IQ4NL, None),
        };
        if !columns.is_multiple_of(GROUP) {
            return Err(Error::model(format!(
                "{columns} columns of tensor `{}` do not fill groups of {GROUP}",
                info.name
            ))
            .help("run the model without --quant"));
        }
        Ok(Some(Quantizer { dtype, codebook: codebook.map_or_else(OnceLock::new, OnceLock::from) }))
    }
}

/// How one matrix is quantized.
#[derive(Debug)]
pub struct Quantizer {
    pub dtype: DType,
    /// What [`DType::IQ4NL`]'s codes stand for; empty until it was learned.
    codebook: OnceLock<Codebook>,
}

impl Quantizer {
    /// The codebook; one that is still to be learned is fitted to some of the matrix's rows, which `row` reads.
    pub fn codebook(&self, rows: usize, columns: usize, row: impl Fn(usize, &mut [f32])) -> &Codebook {
        self.codebook.get_or_init(|| learn::fit(&learn::sample(rows, columns, row)))
    }

    /// What turns rows into blocks, when it is known what the codes stand for.
    pub fn encoder(&self, codebook: &Codebook) -> RowEncoder {
        RowEncoder { dtype: self.dtype, encoder: Encoder::new(self.dtype, codebook) }
    }
}

/// Turns rows into blocks.
#[derive(Debug)]
pub struct RowEncoder {
    dtype: DType,
    encoder: Encoder,
}

impl RowEncoder {
    /// Writes a row's blocks to `out`.
    ///
    /// # Errors
    /// A number that is NaN or infinite, or too large for the block's scale.
    pub fn encode(&self, numbers: &[f32], out: &mut Vec<u8>) -> Result<(), Refused> {
        out.clear();
        out.resize(self.dtype.bytes_of(numbers.len()).unwrap_or(0), 0);
        let blocks = out.chunks_exact_mut(self.dtype.block_bytes());
        numbers.as_chunks().0.iter().zip(blocks).try_for_each(|(numbers, block)| self.encoder.block(numbers, block))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    /// Numbers as weights are spread, near a normal distribution, of another size in each group.
    pub fn groups(n: usize) -> Vec<[f32; GROUP]> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut uniform = move || (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32 - 0.5;
        let mut group = || {
            let size = 0.02 * (1.5 + uniform());
            std::array::from_fn(|_| size * (0..12).map(|_| uniform()).sum::<f32>())
        };
        (0..n).map(|_| group()).collect()
    }

    fn info(dtype: DType, shape: &[usize]) -> TensorInfo {
        TensorInfo { name: "blk.0.ffn_up.weight".into(), dtype, shape: shape.to_vec(), bytes: 0..0 }
    }

    #[test]
    fn names_are_those_that_are_typed() {
        for quant in Quant::value_variants() {
            assert_eq!(quant.to_possible_value().unwrap().get_name(), quant.name());
        }
    }

    #[test]
    fn matrices_of_floating_point_numbers_are_quantized_and_nothing_else() {
        let dtype = |quant: Quant, dtype, shape: &[usize], is_head| {
            quant.of(&info(dtype, shape), is_head).unwrap().map(|quantizer| quantizer.dtype)
        };
        for source in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(dtype(Quant::Q4_0, source, &[3, 64], false), Some(DType::Q4_0));
            assert_eq!(dtype(Quant::Q4_0, source, &[3, 64], true), Some(DType::Q8_0));
            assert_eq!(dtype(Quant::Q4_0, source, &[64], false), None);
            assert_eq!(dtype(Quant::None, source, &[3, 64], false), None);
        }
        assert_eq!(dtype(Quant::Q4_0, DType::Q8_0, &[3, 64], false), None);
    }

    #[test]
    fn rows_that_do_not_fill_groups_are_refused_by_name() {
        let error = Quant::Nf4.of(&info(DType::F16, &[3, 50]), false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "50 columns of tensor `blk.0.ffn_up.weight` do not fill groups of 32\n  run the model without --quant"
        );
    }
}
