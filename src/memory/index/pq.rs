//! Product quantization with 4-bit codes.
//!
//! What a vector differs by from the mean of its list is rotated (by [`faiss::opq`]) and cut into parts of a few
//! components; each part is replaced by the number of the nearest of 16 centroids. The inner product with a query is
//! then a sum of look-ups in a table of 16 entries a part, which fits a register ("fast scan", André et al. 2015). The
//! table is quantized to bytes for that, with one step for all parts, so that sums are whole numbers.

use super::faiss;
use crate::backend::cpu::scans::{BLOCK, MAX_PARTS, PARTS, Scans};
use crate::error::Result;

/// Centroids of a part.
const CENTROIDS: usize = 16;
/// Of Lloyd's algorithm, for the centroids of a part.
const ITERATIONS: u32 = 12;
/// Of the search for a rotation. Each clusters all parts again.
const ROTATIONS: u32 = 4;
/// Vectors that a rotation is learnt from, and the fewest: FAISS clusters parts into 256 for it, and complains on the
/// terminal of fewer.
const ROTATION_SAMPLE: usize = 10_240;
const ROTATION_LEAST: usize = 39 * 256;

/// A trained quantizer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantizer {
    pub(super) dim: usize,
    /// Components of a part.
    pub(super) sub: usize,
    /// Parts, a multiple of [`PARTS`]; the last ones may be empty.
    pub(super) parts: usize,
    /// (dim, dim padded to 16), row-major.
    pub(super) rotation: Vec<f32>,
    /// (parts, sub, 16): component by component, as the search for the nearest reads them.
    pub(super) centroids: Vec<f32>,
}

/// The look-ups of one query.
pub(super) struct Table {
    /// (parts, 16)
    pub(super) bytes: Vec<u8>,
    /// Score = offset + step · sum.
    pub(super) step: f32,
    pub(super) offset: f32,
}

/// Components of a part, for about `parts` of them.
pub(super) fn sub_dim(dim: usize, parts: usize) -> usize {
    dim.div_ceil(parts.clamp(1, MAX_PARTS)).max(1)
}

impl Quantizer {
    /// Learns from `residuals`, (n, dim), of which there are at least 16.
    ///
    /// # Errors
    /// When FAISS has no memory.
    pub(super) fn train(residuals: &[f32], dim: usize, sub: usize, scans: Scans) -> Result<Self> {
        let used = dim.div_ceil(sub);
        let parts = used.next_multiple_of(PARTS);
        let padded = dim.next_multiple_of(16);
        let mut rotation = vec![0.0; dim * padded];
        let n = residuals.len() / dim;
        // FAISS wants parts of one size.
        if n >= ROTATION_LEAST && dim.is_multiple_of(sub) {
            let sample = &residuals[..n.min(ROTATION_SAMPLE) * dim];
            let learnt = faiss::opq(sample, dim, used, ROTATIONS)?;
            for (to, from) in rotation.chunks_exact_mut(padded).zip(learnt.chunks_exact(dim)) {
                to[..dim].copy_from_slice(from);
            }
        } else {
            for i in 0..dim {
                rotation[i * padded + i] = 1.0;
            }
        }
        let mut quantizer = Self { dim, sub, parts, rotation, centroids: vec![0.0; parts * sub * CENTROIDS] };
        let mut rotated = vec![0.0; n * dim];
        for (to, from) in rotated.chunks_exact_mut(dim).zip(residuals.chunks_exact(dim)) {
            quantizer.rotate(scans, from, to);
        }
        for part in 0..used {
            let range = part * sub..(part * sub + sub).min(dim);
            let width = range.len();
            let points: Vec<f32> = rotated.chunks_exact(dim).flat_map(|x| &x[range.clone()]).copied().collect();
            let means = faiss::kmeans(&points, width, CENTROIDS, ITERATIONS)?;
            for (code, mean) in means.chunks_exact(width).enumerate() {
                for (i, x) in mean.iter().enumerate() {
                    quantizer.centroids[(part * sub + i) * CENTROIDS + code] = *x;
                }
            }
        }
        Ok(quantizer)
    }

    /// Rx.
    fn rotate(&self, scans: Scans, x: &[f32], out: &mut [f32]) {
        let padded = self.dim.next_multiple_of(16);
        let mut from = vec![0.0; padded];
        from[..self.dim].copy_from_slice(x);
        for (out, row) in out.iter_mut().zip(self.rotation.chunks_exact(padded)) {
            *out = scans.dot(row, &from);
        }
    }

    /// x rotated and padded to whole parts.
    fn parts_of(&self, scans: Scans, x: &[f32]) -> Vec<f32> {
        let mut rotated = vec![0.0; self.parts * self.sub];
        self.rotate(scans, x, &mut rotated[..self.dim]);
        rotated
    }

    /// The codes of a residual, one a byte: (parts).
    pub(super) fn encode(&self, scans: Scans, residual: &[f32], out: &mut [u8]) {
        let rotated = self.parts_of(scans, residual);
        let parts = rotated.chunks_exact(self.sub).zip(self.centroids.chunks_exact(self.sub * CENTROIDS));
        for (out, (x, centroids)) in out.iter_mut().zip(parts) {
            let mut distances = [0.0f32; CENTROIDS];
            for (x, of_component) in x.iter().zip(centroids.chunks_exact(CENTROIDS)) {
                for (distance, c) in distances.iter_mut().zip(of_component) {
                    *distance += (x - c) * (x - c);
                }
            }
            let mut best = 0;
            for i in 1..CENTROIDS {
                if distances[i] < distances[best] {
                    best = i;
                }
            }
            *out = best as u8;
        }
    }

    /// The look-ups for a query.
    pub(super) fn table(&self, scans: Scans, query: &[f32]) -> Table {
        let rotated = self.parts_of(scans, query);
        let mut products = vec![[0.0f32; CENTROIDS]; self.parts];
        let parts = rotated.chunks_exact(self.sub).zip(self.centroids.chunks_exact(self.sub * CENTROIDS));
        for (products, (x, centroids)) in products.iter_mut().zip(parts) {
            for (x, of_component) in x.iter().zip(centroids.chunks_exact(CENTROIDS)) {
                for (product, c) in products.iter_mut().zip(of_component) {
                    *product += x * c;
                }
            }
        }
        let bounds: Vec<(f32, f32)> = products
            .iter()
            .map(|p| p.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x))))
            .collect();
        let widest = bounds.iter().fold(0.0f32, |m, (low, high)| m.max(high - low));
        let step = if widest > 0.0 && widest.is_finite() { widest / 255.0 } else { 1.0 };
        let mut bytes = vec![0; self.parts * CENTROIDS];
        for ((bytes, products), (low, _)) in bytes.chunks_exact_mut(CENTROIDS).zip(&products).zip(&bounds) {
            for (byte, product) in bytes.iter_mut().zip(products) {
                *byte = ((product - low) / step).round_ties_even() as u8;
            }
        }
        Table { bytes, step, offset: bounds.iter().map(|(low, _)| low).sum() }
    }

    pub(super) fn memory(&self) -> usize {
        4 * (self.rotation.len() + self.centroids.len())
    }
}

/// The codes of one list's vectors, in blocks of [`BLOCK`]: (blocks, parts, 16), see [`crate::backend::cpu::scans`].
pub(super) fn set_codes(blocks: &mut [u8], parts: usize, i: usize, codes: &[u8]) {
    let block = &mut blocks[i / BLOCK * parts * 16..][..parts * 16];
    let (byte, shift) = (i % 16, if i % BLOCK < 16 { 0 } else { 4 });
    for (part, code) in codes.iter().enumerate() {
        block[part * 16 + byte] |= code << shift;
    }
}

/// Makes the codes of one vector zeros again.
pub(super) fn clear_codes(blocks: &mut [u8], parts: usize, i: usize) {
    let block = &mut blocks[i / BLOCK * parts * 16..][..parts * 16];
    let others = if i % BLOCK < 16 { 0xF0 } else { 0x0F };
    for part in 0..parts {
        block[part * 16 + i % 16] &= others;
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    fn made(n: usize, dim: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        // Sums of uniform numbers, wider in the first components, as rotations are for.
        let mut number = || (0..4).map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5).sum::<f32>();
        (0..n * dim).map(|i| number() / (1 + i % dim) as f32).collect()
    }

    #[test]
    fn look_ups_come_near_the_product_with_what_was_coded() {
        let (dim, n) = (20, 600);
        let vectors = made(n, dim);
        let scans = Scans::of_processor().unwrap();
        for sub in [2, 3] {
            let quantizer = Quantizer::train(&vectors, dim, sub, scans).unwrap();
            assert_eq!(quantizer.parts, 12 - 4 * (sub - 2));
            let query = &vectors[..dim];
            let table = quantizer.table(scans, query);
            let mut blocks = vec![0; n.div_ceil(BLOCK) * quantizer.parts * 16];
            let mut codes = vec![0; quantizer.parts];
            for (i, vector) in vectors.chunks_exact(dim).enumerate() {
                quantizer.encode(scans, vector, &mut codes);
                set_codes(&mut blocks, quantizer.parts, i, &codes);
            }
            let mut sums = vec![[0; BLOCK]; n.div_ceil(BLOCK)];
            scans.look_up_blocks(&blocks, &table.bytes, &mut sums);
            let (mut error, mut size) = (0.0, 0.0);
            for (i, vector) in vectors.chunks_exact(dim).enumerate() {
                let exact: f32 = vector.iter().zip(query).map(|(a, b)| a * b).sum();
                let found = table.offset + table.step * f32::from(sums[i / BLOCK][i % BLOCK]);
                error += (found - exact).powi(2);
                size += exact.powi(2);
            }
            assert!(error < 0.15 * size, "{sub} components a part: error {error} of {size}");
        }
    }
}
