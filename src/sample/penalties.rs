//! Penalties for tokens seen lately. Formulas: CTRL (Keskar et al., 2019) for the repeat penalty, OpenAI's API reference for
//! frequency and presence.

use std::collections::BTreeMap;

use super::Sampling;

/// How often each token is among the last `repeat_last` of `history`; empty where no penalty is asked for.
pub(super) fn counts(s: &Sampling, history: &[u32]) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    if s.repeat_penalty != 1.0 || s.frequency_penalty != 0.0 || s.presence_penalty != 0.0 {
        for id in &history[history.len().saturating_sub(s.repeat_last)..] {
            *counts.entry(*id).or_default() += 1;
        }
    }
    counts
}

/// The logit of a token that came `count` times.
pub(super) fn lowered(logit: f32, count: u32, s: &Sampling) -> f32 {
    let logit = if logit > 0.0 { logit / s.repeat_penalty } else { logit * s.repeat_penalty };
    logit - (count as f32 * s.frequency_penalty + s.presence_penalty)
}
