//! The links of the chain, each over candidates that [`top_k`] sorted: likeliest first, equal ones by id.

use std::cmp::Ordering;

use super::Candidate;

/// Likeliest first, the lower id first among equals.
pub(super) fn by_logit(a: Candidate, b: Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The candidate with the highest logit; the lowest id among equals. There must be one.
pub(super) fn likeliest(candidates: &[Candidate]) -> Candidate {
    candidates.iter().skip(1).fold(candidates[0], |best, c| if by_logit(*c, best).is_lt() { *c } else { best })
}

/// Sorts, and keeps the `k` likeliest (all when `k` is 0).
pub(super) fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, |a, b| by_logit(*a, *b));
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(|a, b| by_logit(*a, *b));
}

/// Keeps the shortest head whose probability reaches `p`; at least one. `room` is for the probabilities.
pub(super) fn top_p(candidates: &mut Vec<Candidate>, p: f32, room: &mut Vec<f64>) {
    if p >= 1.0 {
        return;
    }
    let mut sum = 0.0;
    let enough = probabilities(candidates, room).iter().position(|x| {
        sum += x;
        sum >= f64::from(p)
    });
    candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
}

/// Keeps those at least `p` times as probable as the likeliest.
pub(super) fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p <= 0.0 {
        return;
    }
    // p(x) ≥ p · p(max)  ⇔  logit(x) ≥ logit(max) + ln p
    let least = candidates[0].logit + p.ln();
    candidates.retain(|c| c.logit >= least);
}

pub(super) fn temperature(candidates: &mut [Candidate], temperature: f32) {
    // Relative to the likeliest, so that a tiny temperature cannot overflow.
    let max = candidates[0].logit;
    for c in candidates {
        c.logit = (c.logit - max) / temperature;
    }
}

/// The candidate at the point `at` ∈ [0, 1) of the cumulated probabilities; `room` is for those.
pub(super) fn pick(candidates: &[Candidate], at: f64, room: &mut Vec<f64>) -> Candidate {
    let mut sum = 0.0;
    let chosen = probabilities(candidates, room).iter().position(|x| {
        sum += x;
        at < sum
    });
    candidates[chosen.unwrap_or(candidates.len() - 1)] // rounding can leave the sum a hair under 1
}

/// Softmax in f64 over sorted candidates.
fn probabilities<'r>(candidates: &[Candidate], room: &'r mut Vec<f64>) -> &'r [f64] {
    let max = f64::from(candidates[0].logit);
    room.clear();
    room.extend(candidates.iter().map(|c| (f64::from(c.logit) - max).exp()));
    let sum: f64 = room.iter().sum();
    for x in &mut *room {
        *x /= sum;
    }
    room
}
