//! What packing a model's matrices costs: their growth in bytes, and how far the packed numbers are from the file's.
//!
//! Types that have no packed format of their own are rounded again, and floating-point ones are quantized where that is asked
//! for. The error is that of some rows of each matrix, spread evenly: all of a large model would take minutes to read.

use std::collections::BTreeMap;

use super::DType;
use super::packed::{Format, pack_row, unpack_row};
use super::weights::{Room, Rows, Weights};
use crate::error::Result;

/// Rows of a matrix that are measured.
const ROWS: usize = 32;

/// The matrices of one type.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    pub tensors: usize,
    /// Bytes in the file, and packed.
    pub stored: u64,
    pub packed: u64,
    /// Σ (stored − packed)² of the rows that were measured, and Σ stored².
    error: f64,
    power: f64,
}

impl Loss {
    /// The root of the mean square of the error, as a share of that of the numbers.
    pub fn rms(&self) -> f64 {
        if self.power > 0.0 { (self.error / self.power).sqrt() } else { 0.0 }
    }
}

/// By what matrices are in the file and what they become.
pub type Losses = BTreeMap<(DType, DType), Loss>;

/// Measures the matrices that `names` gives.
///
/// # Errors
/// A tensor that is missing, or holds what cannot be packed.
pub fn measure<'a>(weights: &Weights, names: impl IntoIterator<Item = &'a str>) -> Result<Losses> {
    let mut losses = Losses::new();
    for name in names {
        let info = weights.info(name)?;
        let format = Format::of(info.dtype);
        if info.shape.len() != 2 {
            continue;
        }
        weights.rows(name, |rows| {
            let loss = losses.entry((rows.stored_dtype(), info.dtype)).or_default();
            loss.tensors += 1;
            loss.stored += rows.stored_bytes() as u64;
            loss.packed += format.matrix_bytes(info.shape[0], info.shape[1]) as u64;
            // What is as it was needs no look.
            if rows.stored_dtype() == info.dtype && Format::is_lossless(info.dtype) {
                return Ok(());
            }
            compare(rows, format, info.shape[1], loss).map_err(|e| e.in_file(weights.path()))
        })??;
    }
    Ok(losses)
}

/// Adds the errors of some rows.
fn compare(rows: &Rows<'_>, format: Format, columns: usize, loss: &mut Loss) -> Result<()> {
    let (mut stored, mut packed) = (vec![0.0; columns], vec![0.0; columns]);
    let mut room = Room::default();
    let taken = ROWS.min(rows.len());
    for r in (0..taken).map(|i| i * rows.len() / taken) {
        rows.stored_numbers(r, &mut stored)?;
        let mut tile = vec![0; format.tile_bytes(columns)];
        rows.row(r, &mut room)
            .and_then(|row| pack_row(rows.dtype(), row, &mut tile, 0))
            .map_err(|refused| refused.of(rows.name()))?;
        unpack_row(format, &rows.codebook(), &tile, 0, &mut packed);
        for (stored, packed) in stored.iter().zip(&packed) {
            loss.error += f64::from(stored - packed).powi(2);
            loss.power += f64::from(*stored).powi(2);
        }
    }
    Ok(())
}

/// A line about the matrices of one type, for people.
pub fn line((from, to): (DType, DType), loss: &Loss) -> String {
    let becomes = if from == to { format!("{from}") } else { format!("{from} as {to}") };
    let growth = 100.0 * (loss.packed as f64 / loss.stored as f64 - 1.0);
    let error = match loss.rms() {
        0.0 => "no error".to_owned(),
        rms => format!("relative rms error {:.2} %", 100.0 * rms),
    };
    format!("{becomes}: {growth:+.1} % bytes, {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::mapping::Mapping;
    use crate::format::quantize::Quant;
    use crate::format::{TensorInfo, random};

    fn weights(dtypes: &[DType]) -> Weights {
        let tensor = |(i, dtype): (usize, &DType)| {
            let bytes = random::tensor(1, i as u64, *dtype, 64 * 256).unwrap();
            let info =
                TensorInfo { name: format!("{dtype}"), dtype: *dtype, shape: vec![64, 256], bytes: 0..bytes.len() };
            (info, Mapping::from_bytes(bytes, "made"))
        };
        Weights::made("made", dtypes.iter().enumerate().map(tensor).collect::<Vec<_>>())
    }

    #[test]
    fn lossless_types_lose_nothing_and_others_say_how_much() {
        let weights = weights(&[DType::Q4_1, DType::Q8_0, DType::Q5_0, DType::Q5K, DType::F16]);
        let losses = measure(&weights, weights.names()).unwrap();
        assert_eq!(losses.len(), 5);
        for ((from, to), loss) in &losses {
            assert_eq!((from == to, loss.tensors), (true, 1));
            assert_eq!(loss.rms() > 0.0, *from == DType::Q5K, "{from}");
        }
        let q5k = &losses[&(DType::Q5K, DType::Q5K)];
        assert_eq!((q5k.stored, q5k.packed), (64 * 176, 64 * 8 * 34));
        // A group's largest of 127 steps: an error of a third of a half step, where numbers are about half the largest.
        assert!((0.002..0.006).contains(&q5k.rms()), "{}", q5k.rms());
        assert!(line((DType::Q5K, DType::Q5K), q5k).starts_with("Q5_K: +54.5 % bytes, relative rms error 0."));
        assert_eq!(
            line((DType::Q8_0, DType::Q8_0), &losses[&(DType::Q8_0, DType::Q8_0)]),
            "Q8_0: +0.0 % bytes, no error"
        );
    }

    #[test]
    fn what_is_quantized_on_load_is_measured_against_the_file() {
        let weights = weights(&[DType::F16]);
        for (quant, to, range) in
            [(Quant::Q8_0, DType::Q8_0, 0.002..0.006), (Quant::Learned, DType::IQ4NL, 0.005..0.09)]
        {
            let losses = measure(&weights.quantized(quant, "head", None).unwrap(), ["F16"]).unwrap();
            let loss = losses[&(DType::F16, to)];
            assert!(range.contains(&loss.rms()), "{}: {}", quant.name(), loss.rms());
            assert!(loss.packed < loss.stored);
        }
    }
}
