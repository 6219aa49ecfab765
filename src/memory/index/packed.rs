//! Vectors as two bits a component: enough to find the way by, in a quarter of the room that bytes take.
//!
//! What a vector differs by from the mean of all is turned at random, so that no component matters more than another, and
//! each becomes the nearest of four levels. A product with a query is estimated from its product with the levels and a
//! factor of the vector's, so that the estimate is right on average over all turns, as in `RaBitQ` (Gao and Long, 2024, with
//! more bits Gao et al., 2025).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::int8;
use super::lists::{each_chunk, sample};
use crate::backend::cpu::memory::reserved;
use crate::backend::cpu::scans::{PACKED, Scans};
use crate::error::Result;
use crate::memory::Vectors;
use crate::memory::hadamard::{signs, turn};

/// Vectors that the mean is taken of.
const SAMPLE: usize = 32_768;
/// Levels are an odd number of half steps from 0. This step, in standard deviations, loses least of a Gaussian number.
const STEP: f32 = 0.9957;
/// Times that the components of either end are mixed: those in the middle twice as often.
const ROUNDS: usize = 2;

/// (rows, width) of codes, as [`Scans::dot_packed`] reads them, with their factors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Packed {
    /// (dim)
    pub(super) mean: Vec<f32>,
    /// (rows, width / 4)
    pub(super) bytes: Vec<u8>,
    /// (rows); 0 where there is no vector.
    pub(super) factors: Vec<f32>,
}

/// A query, turned.
pub(super) struct Query {
    bytes: Vec<i8>,
    /// The sum of them.
    sum: i32,
}

/// Components of a turned vector: padded to whole bytes of codes.
pub(super) fn width(dim: usize) -> usize {
    dim.next_multiple_of(4 * PACKED)
}

/// A rotation drawn by lot, the same for as many components.
struct Turn {
    /// Components that are mixed at once.
    power: usize,
    signs: Vec<[Vec<f32>; 2]>,
}

impl Turn {
    fn new(dim: usize) -> Self {
        let power = 1 << width(dim).ilog2();
        let mut rng = ChaCha8Rng::seed_from_u64(dim as u64);
        let signs = (0..ROUNDS).map(|_| [signs(&mut rng, power), signs(&mut rng, power)]).collect();
        Self { power, signs }
    }

    /// Turns a padded vector: its first components, then its last, as many as a Hadamard matrix takes.
    fn apply(&self, x: &mut [f32]) {
        let last = x.len() - self.power;
        for [first_signs, last_signs] in &self.signs {
            turn(&mut x[..self.power], first_signs);
            turn(&mut x[last..], last_signs);
        }
    }
}

impl Query {
    /// The estimates that it gives leave out its product with the mean, which is the same for all.
    pub(super) fn new(query: &[f32]) -> Self {
        let mut turned = query.to_vec();
        turned.resize(width(query.len()), 0.0);
        Turn::new(query.len()).apply(&mut turned);
        let mut bytes = vec![0; turned.len()];
        int8::quantize(&turned, &mut bytes);
        let sum = bytes.iter().map(|byte| i32::from(*byte)).sum();
        Self { bytes, sum }
    }
}

impl Packed {
    /// The vectors by position; `positions` are those of the rows.
    ///
    /// # Errors
    /// When vectors cannot be read.
    pub(super) fn build(vectors: &dyn Vectors, positions: &[u32]) -> Result<Self> {
        let (dim, count) = (vectors.dim(), vectors.len());
        let mean = mean(&sample(vectors, SAMPLE)?, dim);
        let row = width(dim) / 4;
        let mut bytes = reserved(count * row);
        bytes.resize(count * row, 0);
        let mut packed = Self { mean, bytes, factors: vec![0.0; count] };
        let rotation = Turn::new(dim);
        let mut turned = vec![0.0; width(dim)];
        each_chunk(vectors, |first, chunk| {
            for (x, position) in chunk.chunks_exact(dim).zip(&positions[first..]) {
                for ((turned, x), mean) in turned.iter_mut().zip(x).zip(&packed.mean) {
                    *turned = x - mean;
                }
                turned[dim..].fill(0.0);
                rotation.apply(&mut turned);
                let position = *position as usize;
                packed.factors[position] = pack(&turned, &mut packed.bytes[position * row..][..row]);
            }
            Ok(())
        })?;
        Ok(packed)
    }

    /// Bytes of a row.
    fn row(&self) -> usize {
        width(self.mean.len()) / 4
    }

    /// Estimates for `rows`, best first in the same order as products; −∞ where there is no vector. `sums` is room for as many.
    pub(super) fn scores_of(&self, scans: Scans, query: &Query, rows: &[u32], sums: &mut [i32], out: &mut [f32]) {
        scans.dot_packed(&query.bytes, &self.bytes, rows, sums);
        for ((out, sum), row) in out.iter_mut().zip(sums).zip(rows) {
            let factor = self.factors[*row as usize];
            // Levels are 2·code − 3.
            let product = (2 * *sum - 3 * query.sum) as f32;
            *out = if factor > 0.0 { factor * product } else { f32::NEG_INFINITY };
        }
    }

    /// Makes a row zeros.
    pub(super) fn clear(&mut self, row: usize) {
        let width = self.row();
        self.bytes[row * width..][..width].fill(0);
        self.factors[row] = 0.0;
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.len() + 4 * (self.factors.len() + self.mean.len())
    }
}

fn mean(vectors: &[f32], dim: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; dim];
    for x in vectors.chunks_exact(dim) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += f64::from(*x);
        }
    }
    let n = (vectors.len() / dim).max(1) as f64;
    sums.into_iter().map(|sum| (sum / n) as f32).collect()
}

/// Writes the codes of a turned vector, and gives its factor: |x|² / (x · levels).
fn pack(x: &[f32], out: &mut [u8]) -> f32 {
    out.fill(0);
    let square: f32 = x.iter().map(|x| x * x).sum();
    if !(square.is_normal() && square.is_sign_positive()) {
        return 0.0;
    }
    let step = STEP * (square / x.len() as f32).sqrt();
    let mut product = 0.0;
    for (i, x) in x.iter().enumerate() {
        let code = ((x / step).floor() + 2.0).clamp(0.0, 3.0);
        product += x * (2.0 * code - 3.0);
        out[i / (4 * PACKED) * PACKED + i % PACKED] |= (code as u8) << (i % (4 * PACKED) / PACKED * 2);
    }
    square / product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::index::tests::made;

    #[test]
    fn estimates_come_near_the_products_and_order_vectors_alike() {
        for dim in [72, 384] {
            let vectors = made(2000, dim, 40, 1);
            let packed = Packed::build(&vectors, &(0..2000).collect::<Vec<_>>()).unwrap();
            let scans = Scans::of_processor().unwrap();
            let query = &vectors.numbers[..dim];
            let rows: Vec<u32> = (0..2000).collect();
            let (mut sums, mut scores) = (vec![0; 2000], vec![0.0; 2000]);
            packed.scores_of(scans, &Query::new(query), &rows, &mut sums, &mut scores);
            let largest = query_scale(query);
            let of_mean: f32 = packed.mean.iter().zip(query).map(|(a, b)| a * b).sum();
            let error = |row: usize| {
                let x = &vectors.numbers[row * dim..][..dim];
                let exact: f32 = x.iter().zip(query).map(|(a, b)| a * b).sum();
                scores[row] * largest + of_mean - exact
            };
            // Four levels lose 0.119 of a Gaussian number's square: of unit vectors √(0.135 / width) at most.
            let deviation = ((0..2000).map(|row| error(row).powi(2)).sum::<f32>() / 2000.0).sqrt();
            assert!(deviation < (0.135 / width(dim) as f32).sqrt(), "{dim}: {deviation}");
            let bias = (0..2000).map(error).sum::<f32>() / 2000.0;
            assert!(bias.abs() < deviation / 4.0, "{dim}: {bias} of {deviation}");
        }
    }

    /// What a step of the query's bytes is worth.
    fn query_scale(query: &[f32]) -> f32 {
        let mut turned = query.to_vec();
        turned.resize(width(query.len()), 0.0);
        Turn::new(query.len()).apply(&mut turned);
        turned.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0
    }

    #[test]
    fn what_is_no_vector_or_was_cleared_comes_last() {
        let mut vectors = made(300, 72, 4, 2);
        vectors.numbers[72..144].fill(f32::NAN);
        let mut packed = Packed::build(&vectors, &(0..300).collect::<Vec<_>>()).unwrap();
        packed.clear(2);
        let mut scores = [0.0; 3];
        let query = Query::new(&vectors.numbers[..72]);
        packed.scores_of(Scans::of_processor().unwrap(), &query, &[0, 1, 2], &mut [0; 3], &mut scores);
        assert!(scores[0] > 0.0 && scores[1..] == [f32::NEG_INFINITY; 2], "{scores:?}");
        assert!(packed.bytes[2 * 32..3 * 32].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_turn_keeps_lengths_and_spreads_what_was_in_one_component() {
        let mut x = vec![0.0; 384];
        x[5] = 1.0;
        Turn::new(384).apply(&mut x);
        assert!((x.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(x.iter().all(|x| x.abs() < 0.25), "{x:?}");
    }
}
