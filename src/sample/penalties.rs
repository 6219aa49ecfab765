//! Penalties for tokens seen lately. Formulas: CTRL (Keskar et al., 2019) for the repeat penalty, OpenAI's API reference for
//! frequency and presence.

use super::Sampling;

/// Whether one is asked for.
pub(super) fn any(s: &Sampling) -> bool {
    s.repeat_penalty != 1.0 || s.frequency_penalty != 0.0 || s.presence_penalty != 0.0
}

/// How often each token is among the last `repeat_last` of `history`, by id; nothing where no penalty is asked for. `recent`
/// is room for them.
pub(super) fn counts<'r>(
    s: &Sampling,
    history: &[u32],
    recent: &'r mut Vec<u32>,
) -> impl Iterator<Item = (u32, u32)> + use<'r> {
    recent.clear();
    if any(s) {
        recent.extend_from_slice(&history[history.len().saturating_sub(s.repeat_last)..]);
        recent.sort_unstable();
    }
    recent.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32))
}

/// The logit of a token that came `count` times.
pub(super) fn lowered(logit: f32, count: u32, s: &Sampling) -> f32 {
    let logit = if logit > 0.0 { logit / s.repeat_penalty } else { logit * s.repeat_penalty };
    logit - (count as f32 * s.frequency_penalty + s.presence_penalty)
}
