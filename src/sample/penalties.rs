//! Penalties for tokens seen lately. Formulas: CTRL (Keskar et al., 2019) for the repeat penalty, OpenAI's API reference for
//! frequency and presence.

use std::collections::HashMap;

use super::{Candidate, Sampling};

/// Lowers the logits of tokens among the last `repeat_last` of `history`. `candidates` are still in the order of their ids.
pub(super) fn apply(candidates: &mut [Candidate], s: &Sampling, history: &[u32]) {
    if s.repeat_penalty == 1.0 && s.frequency_penalty == 0.0 && s.presence_penalty == 0.0 {
        return;
    }
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for id in &history[history.len().saturating_sub(s.repeat_last)..] {
        *counts.entry(*id).or_default() += 1;
    }
    for (id, count) in counts {
        let Some(c) = candidates.get_mut(id as usize) else { continue };
        c.logit = if c.logit > 0.0 { c.logit / s.repeat_penalty } else { c.logit * s.repeat_penalty };
        c.logit -= count as f32 * s.frequency_penalty + s.presence_penalty;
    }
}
