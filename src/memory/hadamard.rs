//! The Walsh–Hadamard transform, which turns a vector like a random rotation once signs are random.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// Hx/√n in place, n a power of two, in n·log₂n additions (fast Walsh–Hadamard transform).
pub(super) fn transform(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (x.len() as f32).sqrt();
    for x in x {
        *x *= scale;
    }
}

/// n signs, ±1.
pub(super) fn signs(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| if rng.next_u32() & 1 == 0 { 1.0 } else { -1.0 }).collect()
}

/// H·diag(signs)·x/√n in place.
pub(super) fn turn(x: &mut [f32], signs: &[f32]) {
    x.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
    transform(x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_transform_is_nothing_and_the_first_component_is_the_sum() {
        let original = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0f32];
        let mut x = original;
        transform(&mut x);
        assert!((x[0] - 19.0 / 8f32.sqrt()).abs() < 1e-5);
        transform(&mut x);
        for (a, b) in x.iter().zip(original) {
            assert!((a - b).abs() < 1e-5, "{x:?}");
        }
    }
}
