//! Random numbers that can be had in any order: ChaCha8 with the request's seed as its key and the token's index as its
//! block counter.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// 16 words of 32 bits: a token draws from a block of its own.
const BLOCK_WORDS: u128 = 16;

/// The uniform number in [0, 1) of token `index`, 53 bits.
pub(super) fn uniform(seed: u64, index: u64) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_word_pos(u128::from(index) * BLOCK_WORDS);
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
