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

/// Blocks of a row.
pub fn slices(vocab: usize) -> usize {
    vocab.div_ceil(SLICE)
}

/// What the GPU has to know to draw a token; `None` where the host has to. All zeros leave the likeliest that the head found.
pub fn words(draw: &Draw<'_>, vocab: usize) -> Option<[u32; WORDS]> {
    if draw.is_likeliest() {
        return Some([0; WORDS]);
    }
    let chain = draw.chain(MOST).filter(|c| c.banned.len() <= MOST_BANNED && slices(vocab) <= MOST_SLICES)?;
    let mut words = [u32::MAX; WORDS];
    let at = chain.at.to_bits();
    let [temperature, top_p, least] = [chain.temperature, chain.top_p, chain.least].map(f32::to_bits);
    words[..6].copy_from_slice(&[at as u32, (at >> 32) as u32, temperature, top_p, least, chain.top_k as u32]);
    words[WORDS - MOST_BANNED..][..chain.banned.len()].copy_from_slice(chain.banned);
    Some(words)
}

/// Whether somebody is to be drawn who is not the likeliest.
pub fn are_drawn(words: &[u32]) -> bool {
    words.iter().any(|word| *word != 0)
}
