//! Random features of a Gaussian kernel: their inner product is near exp(−‖x−y‖²/2σ²), which for unit vectors grows
//! with the inner product of the vectors.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::backend::cpu::scans::Scans;
use crate::error::Result;
use crate::memory::Vectors;
use crate::memory::hadamard;

/// A map of vectors to features.
pub(super) trait Map: Sync {
    /// Components of the features.
    fn dim(&self) -> usize;
    fn apply(&self, vector: &[f32], out: &mut [f32]);
}

/// The kernel's σ: half of the median distance between two vectors, so that it tells near from nearest.
pub(super) fn bandwidth(vectors: &dyn Vectors) -> Result<f32> {
    let (n, dim) = (vectors.len().min(256), vectors.dim());
    let mut sample = vec![0.0; n * dim];
    for (i, out) in sample.chunks_exact_mut(dim).enumerate() {
        vectors.read(i * vectors.len() / n, out)?;
    }
    let mut distances = Vec::with_capacity(n * n / 2);
    for i in 0..n {
        for j in 0..i {
            distances.push(squared_distance(&sample[i * dim..][..dim], &sample[j * dim..][..dim]).sqrt());
        }
    }
    distances.sort_by(f32::total_cmp);
    Ok(distances.get(distances.len() / 2).map_or(1.0, |median| (median / 2.0).max(f32::MIN_POSITIVE)))
}

pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// A uniform number above 0 and below 1.
pub(super) fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    ((rng.next_u32() >> 8) as f32 + 0.5) / (1 << 24) as f32
}

/// A Gaussian number (Box and Muller).
fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
    (-2.0 * uniform(rng).ln()).sqrt() * (std::f32::consts::TAU * uniform(rng)).cos()
}

/// √(2/n)·cos(p + b), the last step of both maps.
fn waves(projections: &[f32], phases: &[f32], out: &mut [f32]) {
    let scale = (2.0 / phases.len() as f32).sqrt();
    for ((out, p), phase) in out.iter_mut().zip(projections).zip(phases) {
        *out = scale * (p + phase).cos();
    }
}

fn phases(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| std::f32::consts::TAU * uniform(rng)).collect()
}

/// Random Fourier features (Rahimi and Recht 2007): projections on Gaussian directions.
pub(super) struct Rff {
    scans: Scans,
    /// (features, dim padded to 16)
    directions: Vec<f32>,
    phases: Vec<f32>,
}

impl Rff {
    pub(super) fn new(dim: usize, features: usize, sigma: f32) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let padded = dim.next_multiple_of(16);
        let mut directions = vec![0.0; features * padded];
        for direction in directions.chunks_exact_mut(padded) {
            direction[..dim].fill_with(|| gaussian(&mut rng) / sigma);
        }
        Ok(Self { scans: Scans::of_processor()?, directions, phases: phases(&mut rng, features) })
    }
}

impl Map for Rff {
    fn dim(&self) -> usize {
        self.phases.len()
    }
    fn apply(&self, vector: &[f32], out: &mut [f32]) {
        let padded = self.directions.len() / self.phases.len();
        let mut x = vector.to_vec();
        x.resize(padded, 0.0);
        let projections: Vec<f32> = self.directions.chunks_exact(padded).map(|d| self.scans.dot(d, &x)).collect();
        waves(&projections, &self.phases, out);
    }
}

/// Structured orthogonal random features (Yu et al. 2016): √n/σ · HD₁HD₂HD₃, n·log n operations instead of n².
pub(super) struct Sorf {
    sigma: f32,
    /// A set for each block of directions.
    signs: Vec<[Vec<f32>; 3]>,
    phases: Vec<f32>,
}

impl Sorf {
    pub(super) fn new(dim: usize, features: usize, sigma: f32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let n = dim.next_power_of_two();
        let signs = (0..features.div_ceil(n)).map(|_| std::array::from_fn(|_| hadamard::signs(&mut rng, n))).collect();
        Self { sigma, signs, phases: phases(&mut rng, features) }
    }
}

impl Map for Sorf {
    fn dim(&self) -> usize {
        self.phases.len()
    }
    fn apply(&self, vector: &[f32], out: &mut [f32]) {
        let n = vector.len().next_power_of_two();
        let mut projections = Vec::with_capacity(self.signs.len() * n);
        for signs in &self.signs {
            let mut x = vector.to_vec();
            x.resize(n, 0.0);
            for signs in signs {
                hadamard::turn(&mut x, signs);
            }
            projections.extend(x.iter().map(|x| x * (n as f32).sqrt() / self.sigma));
        }
        waves(&projections, &self.phases, out);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::memory::index::tests::made;

    /// The largest difference between the features' product and the kernel.
    pub(in crate::memory::tiers) fn error(map: &dyn Map, sigma: f32) -> f32 {
        let vectors = made(40, 48, 5, 8);
        let features: Vec<Vec<f32>> = vectors
            .numbers
            .chunks(48)
            .map(|x| {
                let mut out = vec![0.0; map.dim()];
                map.apply(x, &mut out);
                out
            })
            .collect();
        let mut largest = 0.0f32;
        for (x, fx) in vectors.numbers.chunks(48).zip(&features) {
            for (y, fy) in vectors.numbers.chunks(48).zip(&features) {
                let kernel = (-squared_distance(x, y) / (2.0 * sigma * sigma)).exp();
                largest = largest.max((fx.iter().zip(fy).map(|(a, b)| a * b).sum::<f32>() - kernel).abs());
            }
        }
        largest
    }

    #[test]
    fn products_of_features_come_near_the_kernel() {
        let vectors = made(300, 48, 5, 8);
        let sigma = bandwidth(&vectors).unwrap();
        assert!((0.3..1.0).contains(&sigma), "{sigma}");
        // The standard error of a product of n features is at most 1/√n.
        let rff = error(&Rff::new(48, 4096, sigma).unwrap(), sigma);
        let sorf = error(&Sorf::new(48, 4096, sigma), sigma);
        assert!(rff < 0.08 && sorf < 0.08, "{rff} {sorf}");
    }
}
