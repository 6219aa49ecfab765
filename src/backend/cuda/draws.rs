//! Tokens that the GPU draws: `choose.cu`.

use super::changes;
use crate::sample::{Chain, Draw, Sampling};

/// Words that say how a row's token is drawn: `Drawn` of `choose.cu`.
pub const WORDS: usize = 16;
/// Of the likeliest, at most so many are drawn from: the same there.
pub const MOST: usize = 64;
/// Logits of a block.
const SLICE: usize = 4096;
/// So many slices leave their likeliest for the last block.
const MOST_SLICES: usize = SLICE / MOST;
const MOST_BANNED: usize = 8;
/// The word that says how many of the likeliest are drawn from.
const TOP_K: usize = 5;

/// Blocks of a row.
pub fn slices(vocab: usize) -> usize {
    vocab.div_ceil(SLICE)
}

/// The draw as the GPU can do it; `None` where the host has to.
pub fn chain<'a>(draw: &'a Draw<'_>, vocab: usize) -> Option<Chain<'a>> {
    let fits = |c: &Chain<'_>| {
        c.banned.len() <= MOST_BANNED
            && c.changes.as_ref().is_none_or(changes::fit)
            && (is_heads(c) || slices(vocab) <= MOST_SLICES)
    };
    draw.chain(MOST).filter(fits)
}

/// Whether the GPU chooses all tokens of a request whose tokens may not be banned.
pub fn takes(sampling: &Sampling, vocab: usize) -> bool {
    chain(&Draw { sampling, history: &[], ahead: 0, index: 0, banned: &[] }, vocab).is_some()
}

/// Whether the head itself finds the token: the likeliest by the model's own logits.
fn is_heads(chain: &Chain<'_>) -> bool {
    chain.top_k == 1 && chain.changes.is_none()
}

/// What the GPU has to know to choose a token, but for how logits are changed.
pub fn words(chain: &Chain<'_>) -> [u32; WORDS] {
    let mut words = [u32::MAX; WORDS];
    let at = chain.at.to_bits();
    let [temperature, top_p, least] = [chain.temperature, chain.top_p, chain.least].map(f32::to_bits);
    let top_k = if is_heads(chain) { 0 } else { chain.top_k as u32 };
    words[..=TOP_K].copy_from_slice(&[at as u32, (at >> 32) as u32, temperature, top_p, least, top_k]);
    words[WORDS - MOST_BANNED..][..chain.banned.len()].copy_from_slice(chain.banned);
    words
}

/// Whether more than the head's likeliest is asked for.
pub fn are_drawn(words: &[u32]) -> bool {
    words.chunks_exact(WORDS).any(|row| row[TOP_K] != 0)
}
