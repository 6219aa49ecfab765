//! Tokens that the GPU draws: `choose.cu`.

use crate::sample::Draw;

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

/// What the GPU has to know to choose a token; `None` where the host has to.
pub fn words(draw: &Draw<'_>, vocab: usize) -> Option<[u32; WORDS]> {
    let chain = draw.chain(MOST).filter(|c| c.banned.len() <= MOST_BANNED)?;
    let mut words = [u32::MAX; WORDS];
    let at = chain.at.to_bits();
    let [temperature, top_p, least] = [chain.temperature, chain.top_p, chain.least].map(f32::to_bits);
    // The head itself finds the likeliest.
    let top_k = if chain.top_k == 1 { 0 } else { chain.top_k as u32 };
    if top_k != 0 && slices(vocab) > MOST_SLICES {
        return None;
    }
    words[..=TOP_K].copy_from_slice(&[at as u32, (at >> 32) as u32, temperature, top_p, least, top_k]);
    words[WORDS - MOST_BANNED..][..chain.banned.len()].copy_from_slice(chain.banned);
    Some(words)
}

/// Whether more than the likeliest is asked for.
pub fn are_drawn(words: &[u32]) -> bool {
    words.chunks_exact(WORDS).any(|row| row[TOP_K] != 0)
}
