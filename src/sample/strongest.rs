//! The strongest of a vocabulary, without sorting it: a token's choice waits for this while all other threads idle.
//!
//! Logits are looked at 64 at a time; those of a block whose largest is below the weakest that is kept are not looked at one by
//! one. Nearly all blocks are like that, so the scan runs at the speed of comparing vectors.

use super::Candidate;
use super::filters::by_logit;

const BLOCK: usize = 64;
/// Candidates that are gathered before the weaker ones are thrown out, beside a multiple of those wanted.
const SLACK: usize = 256;

/// Sets `kept` to the `most` likeliest tokens in no order (all of them when it is 0), and perhaps some more. `changed`, sorted
/// by id, replace the logits of their ids. Logits that are no finite numbers are left out.
pub(super) fn strongest(logits: &[f32], most: usize, changed: &[Candidate], kept: &mut Vec<Candidate>) {
    let wanted = if most == 0 { logits.len() } else { most };
    let limit = wanted.saturating_mul(2).saturating_add(SLACK);
    kept.clear();
    kept.reserve(limit.min(logits.len()) + BLOCK);
    kept.extend(changed.iter().filter(|c| c.logit.is_finite()));
    let mut least = f32::NEG_INFINITY;
    for (block, first) in logits.chunks(BLOCK).zip((0u32..).step_by(BLOCK)) {
        if largest(block) < least {
            continue;
        }
        for (&logit, id) in block.iter().zip(first..) {
            if logit >= least && logit.is_finite() && changed.binary_search_by_key(&id, |c| c.id).is_err() {
                kept.push(Candidate { id, logit });
            }
        }
        if kept.len() >= limit {
            kept.select_nth_unstable_by(wanted - 1, |a, b| by_logit(*a, *b));
            kept.truncate(wanted);
            least = kept[wanted - 1].logit;
        }
    }
}

/// The largest number of a block; 16 at a time, which compilers turn into vector instructions. NaN counts as nothing.
fn largest(block: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for numbers in block.chunks(16) {
        for (lane, x) in lanes.iter_mut().zip(numbers) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(mut candidates: Vec<Candidate>, most: usize) -> Vec<Candidate> {
        candidates.sort_by(|a, b| by_logit(*a, *b));
        candidates.truncate(most);
        candidates
    }

    #[test]
    fn it_keeps_what_sorting_all_would() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for n in [1, 63, 64, 1000, 9999] {
            // Few different values: ties everywhere, and some that are no numbers.
            let logit = |r: u32| match r % 50 {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                r => r as f32 / 4.0,
            };
            let logits: Vec<f32> = (0..n).map(|_| logit(next())).collect();
            let changed = [Candidate { id: 0, logit: 99.0 }, Candidate { id: 40, logit: f32::NEG_INFINITY }];
            let changed = &changed[..if n > 40 { 2 } else { 1 }];
            let replaced = |id: u32| changed.iter().find(|c| c.id == id).map(|c| c.logit);
            let all = logits.iter().zip(0..).map(|(l, id)| Candidate { id, logit: replaced(id).unwrap_or(*l) });
            let all: Vec<Candidate> = all.filter(|c| c.logit.is_finite()).collect();
            let strongest = |most: usize| {
                let mut kept = vec![Candidate { id: 7, logit: 1e9 }]; // of a draw before
                strongest(&logits, most, changed, &mut kept);
                kept
            };
            for most in [1, 2, 40, 500, 20_000] {
                assert_eq!(sorted(strongest(most), most), sorted(all.clone(), most), "{most} of {n}");
            }
            assert_eq!(sorted(strongest(0), n), sorted(all, n), "all of {n}");
        }
    }
}
