//! Nyström's features: what a vector has to do with some landmarks among the vectors.
//!
//! With K the kernel between landmarks and k(x) that between them and x, the features L⁻¹k(x), where L·Lᵀ = K, have the
//! products k(x)ᵀK⁻¹k(y). Landmarks are drawn by their ridge leverage (Alaoui and Mahoney 2015; estimated from a pilot
//! sample, as Musco and Musco 2017 do): how little the others say about a vector. L makes the first features far larger
//! than the last, so they are turned before they are put into bytes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::features::{Map, squared_distance, uniform};
use super::linear;
use crate::error::Result;
use crate::memory::Vectors;
use crate::memory::hadamard;

/// Vectors that leverage is estimated from, and those that it is estimated for, in multiples of the landmarks.
const PILOT: usize = 2; // a half
const POOL: usize = 4;
/// The ridge, as a share of the pilot's trace.
const RIDGE: f64 = 0.01;

pub(super) struct Nystrom {
    sigma: f32,
    /// (landmarks, dim)
    landmarks: Vec<f32>,
    dim: usize,
    /// (landmarks, landmarks)
    lower: Vec<f64>,
    /// As many as the features, a power of two.
    signs: Vec<f32>,
}

fn kernel(a: &[f32], b: &[f32], sigma: f32) -> f64 {
    f64::from((-squared_distance(a, b) / (2.0 * sigma * sigma)).exp())
}

/// L of the kernel between all `points` plus a ridge.
fn factor(points: &[f32], dim: usize, sigma: f32, ridge: f64) -> Vec<f64> {
    let n = points.len() / dim;
    let mut matrix = vec![0.0; n * n];
    for (i, x) in points.chunks_exact(dim).enumerate() {
        for (j, y) in points.chunks_exact(dim).enumerate().take(i) {
            matrix[i * n + j] = kernel(x, y, sigma);
        }
        matrix[i * n + i] = 1.0 + ridge;
    }
    linear::cholesky(&mut matrix, n);
    matrix
}

/// L⁻¹k(x).
fn project(points: &[f32], dim: usize, sigma: f32, lower: &[f64], x: &[f32]) -> Vec<f64> {
    let mut k: Vec<f64> = points.chunks_exact(dim).map(|point| kernel(point, x, sigma)).collect();
    linear::solve_lower(lower, &mut k);
    k
}

impl Nystrom {
    pub(super) fn learn(vectors: &dyn Vectors, landmarks: usize, sigma: f32) -> Result<Self> {
        let (dim, count) = (vectors.dim(), vectors.len());
        let n = landmarks.min(count);
        let pool_size = (POOL * n).min(count);
        let mut pool = vec![0.0; pool_size * dim];
        for (i, out) in pool.chunks_exact_mut(dim).enumerate() {
            vectors.read(i * count / pool_size, out)?;
        }
        let pilot: Vec<f32> =
            pool.chunks_exact(dim).step_by((pool_size * PILOT / n).max(1)).flatten().copied().collect();
        let ridge = RIDGE * (pilot.len() / dim) as f64;
        let lower = factor(&pilot, dim, sigma, ridge);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        // Drawing without replacement, in proportion to the leverage l: the largest u^(1/l) (Efraimidis and Spirakis
        // 2006).
        let mut keys: Vec<(f64, usize)> = pool
            .chunks_exact(dim)
            .map(|x| {
                let known: f64 = project(&pilot, dim, sigma, &lower, x).iter().map(|y| y * y).sum();
                let leverage = ((1.0 - known) / ridge).max(1e-9);
                f64::from(uniform(&mut rng)).ln() / leverage
            })
            .zip(0..)
            .collect();
        keys.sort_by(|a, b| b.0.total_cmp(&a.0));
        let landmarks: Vec<f32> = keys[..n].iter().flat_map(|(_, i)| &pool[i * dim..][..dim]).copied().collect();
        // So much that equal landmarks do no harm.
        let lower = factor(&landmarks, dim, sigma, 1e-4);
        Ok(Self { sigma, landmarks, dim, lower, signs: hadamard::signs(&mut rng, n.next_power_of_two()) })
    }
}

impl Map for Nystrom {
    fn dim(&self) -> usize {
        self.signs.len()
    }
    fn apply(&self, vector: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (out, x) in out.iter_mut().zip(project(&self.landmarks, self.dim, self.sigma, &self.lower, vector)) {
            *out = x as f32;
        }
        hadamard::turn(out, &self.signs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::index::tests::made;
    use crate::memory::tiers::features::tests::error;

    #[test]
    fn products_of_features_come_near_the_kernel() {
        let vectors = made(2000, 48, 5, 8);
        let few = error(&Nystrom::learn(&vectors, 50, 0.9).unwrap(), 0.9);
        let many = error(&Nystrom::learn(&vectors, 1000, 0.9).unwrap(), 0.9);
        assert!(many < 0.2 && many < 0.8 * few, "{few} {many}");
    }

    #[test]
    fn equal_vectors_do_no_harm() {
        let mut vectors = made(300, 48, 5, 9);
        let first = vectors.numbers[..48].to_vec();
        vectors.numbers.chunks_exact_mut(48).take(200).for_each(|x| x.copy_from_slice(&first));
        let map = Nystrom::learn(&vectors, 128, 0.9).unwrap();
        let mut out = vec![0.0; map.dim()];
        map.apply(&first, &mut out);
        let length: f32 = out.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 0.01, "{length}");
    }
}
