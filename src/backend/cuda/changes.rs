//! Logits that the GPU changes before it draws: `changes.cuh`.

use super::flights::Chosen;
use crate::error::Result;
use crate::sample::Changes;

/// Penalties look at so many of the last tokens at most: the same there.
pub const MOST_RECENT: usize = 256;
/// Biases of a row, at most: the same there.
pub const MOST_BIASES: usize = 64;
/// Words in front of the tokens.
const HEAD: usize = 8;
/// Words that say how a row's logits are changed: `Changes` there. All 0 for nothing.
pub const WORDS: usize = HEAD + MOST_RECENT + 2 * MOST_BIASES;

/// Whether the GPU has room for them.
pub fn fit(changes: &Changes<'_>) -> bool {
    changes.window <= MOST_RECENT && changes.biases.len() <= MOST_BIASES
}

/// Lays them out in a row's words, which are 0; they fit. What steps in flight choose, the GPU is told to look up.
///
/// # Errors
/// When nobody chose what comes behind the tokens that the host knows.
pub fn lay_out(changes: &Changes<'_>, slot: u32, chosen: &Chosen<'_>, to: &mut [u32]) -> Result<()> {
    let (head, rest) = to.split_at_mut(HEAD);
    let (recent, rest) = rest.split_at_mut(MOST_RECENT);
    let (biased, biases) = rest.split_at_mut(MOST_BIASES);
    let known = changes.recent.len();
    recent[..known].copy_from_slice(changes.recent);
    chosen.last(slot, &mut recent[known..known + changes.ahead])?;
    for (i, (id, bias)) in changes.biases.iter().enumerate() {
        (biased[i], biases[i]) = (*id, bias.to_bits());
    }
    let [repeat, frequency, presence] = [changes.repeat, changes.frequency, changes.presence].map(f32::to_bits);
    let counts = [known + changes.ahead, changes.biases.len()].map(|count| count as u32);
    head[..5].copy_from_slice(&[repeat, frequency, presence, counts[0], counts[1]]);
    Ok(())
}
