//! Vectors as signed bytes, a scale each.

use crate::backend::cpu::memory::reserved;
use crate::backend::cpu::scans::{ROW, Scans};

/// Rows of int8 with their scales: component = scale · byte.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Int8 {
    /// Bytes of a row: the dimension, padded with zeros to a multiple of [`ROW`].
    pub(super) width: usize,
    /// (rows, width)
    pub(super) bytes: Vec<i8>,
    /// (rows)
    pub(super) scales: Vec<f32>,
}

/// Bytes of a row.
pub(super) fn width(dim: usize) -> usize {
    dim.next_multiple_of(ROW)
}

/// Writes `vector` as bytes, and gives the scale: the largest component becomes ±127. A vector with NaN or infinity in
/// it becomes zeros.
pub(super) fn quantize(vector: &[f32], out: &mut [i8]) -> f32 {
    let largest = vector.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let inverse = if largest > 0.0 && vector.iter().all(|x| x.is_finite()) { 127.0 / largest } else { 0.0 };
    for (out, x) in out.iter_mut().zip(vector) {
        *out = (x * inverse).round_ties_even() as i8;
    }
    out[vector.len()..].fill(0);
    if inverse > 0.0 { largest / 127.0 } else { 0.0 }
}

/// A query in bytes.
pub(super) struct Query {
    bytes: Vec<i8>,
    scale: f32,
}

impl Query {
    pub(super) fn new(query: &[f32]) -> Self {
        let mut bytes = vec![0; width(query.len())];
        let scale = quantize(query, &mut bytes);
        Self { bytes, scale }
    }

    /// The score of a row that is somewhere else.
    pub(super) fn score(&self, scans: Scans, bytes: &[i8], scale: f32) -> f32 {
        let mut sum = [0];
        scans.dot_rows(&self.bytes, bytes, &mut sum);
        sum[0] as f32 * (scale * self.scale)
    }
}

impl Int8 {
    pub(super) fn new(dim: usize, rows: usize) -> Self {
        let width = width(dim);
        let mut bytes = reserved(rows * width);
        bytes.resize(rows * width, 0);
        Self { width, bytes, scales: vec![0.0; rows] }
    }

    pub(super) fn set(&mut self, row: usize, vector: &[f32]) {
        self.scales[row] = quantize(vector, &mut self.bytes[row * self.width..][..self.width]);
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.len() + 4 * self.scales.len()
    }

    /// The scores of `out.len()` rows from `first` on. `sums` is room for as many.
    pub(super) fn scores(&self, scans: Scans, query: &Query, first: usize, sums: &mut [i32], out: &mut [f32]) {
        let n = out.len();
        scans.dot_rows(&query.bytes, &self.bytes[first * self.width..][..n * self.width], &mut sums[..n]);
        for ((out, sum), scale) in out.iter_mut().zip(&*sums).zip(&self.scales[first..]) {
            *out = *sum as f32 * (scale * query.scale);
        }
    }

    /// Sets a row to bytes with their scale.
    pub(super) fn set_bytes(&mut self, row: usize, bytes: &[i8], scale: f32) {
        self.bytes[row * self.width..][..self.width].copy_from_slice(bytes);
        self.scales[row] = scale;
    }

    /// The scores of `rows`. `sums` is room for as many.
    pub(super) fn scores_of(&self, scans: Scans, query: &Query, rows: &[u32], sums: &mut [i32], out: &mut [f32]) {
        scans.dot_some(&query.bytes, &self.bytes, rows, sums);
        for ((out, sum), row) in out.iter_mut().zip(sums).zip(rows) {
            *out = *sum as f32 * (self.scales[*row as usize] * query.scale);
        }
    }

    /// A row as a query.
    pub(super) fn query(&self, row: u32) -> Query {
        Query { bytes: self.row(row).to_vec(), scale: self.scales[row as usize] }
    }

    /// The product of two rows.
    pub(super) fn similarity(&self, scans: Scans, a: u32, b: u32) -> f32 {
        let mut sum = [0];
        scans.dot_some(self.row(a), &self.bytes, &[b], &mut sum);
        sum[0] as f32 * (self.scales[b as usize] * self.scales[a as usize])
    }

    pub(super) fn row(&self, row: u32) -> &[i8] {
        &self.bytes[row as usize * self.width..][..self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_component_is_kept_and_the_others_within_half_a_step() {
        let vector = [0.5, -0.25, 0.001, 0.0];
        let mut bytes = [1; 64];
        let scale = quantize(&vector, &mut bytes);
        assert_eq!(bytes[..4], [127, -64, 0, 0]);
        assert_eq!(bytes[4..], [0; 60]);
        for (x, byte) in vector.iter().zip(bytes) {
            assert!((x - scale * f32::from(byte)).abs() <= scale / 2.0);
        }
    }

    #[test]
    fn a_vector_that_is_no_vector_scores_zero() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut bytes = [1; 64];
            assert_eq!(quantize(&[1.0, bad], &mut bytes), 0.0);
            assert_eq!(bytes, [0; 64]);
        }
    }
}
