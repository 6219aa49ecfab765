//! Attention as its formula says it, to check the blocked form (`attention`) by: `--flash-attention off`.
//!
//! All scores of a query, one softmax, one weighted sum, in straight loops over f32. Slow, and the same on every
//! processor.
#![expect(unsafe_code, reason = "pages are shared with the threads of a job")]

use std::ops::Range;

use super::pages::Pages;
use crate::backend::{PAGE, PageId};

/// `out` = softmax(q·Kᵀ/√d)·V over the positions that a query sees. `scores` has room for as many, `row` is `head_dim`
/// numbers.
///
/// # Safety
/// `table` has the pages of all these positions, and nobody writes them.
pub unsafe fn attend(
    query: &[f32],
    seen: Range<usize>,
    pages: &Pages,
    table: &[PageId],
    scores: &mut [f32],
    row: &mut [f32],
    out: &mut [f32],
) {
    let scores = &mut scores[..seen.len()];
    let scale = 1.0 / (query.len() as f32).sqrt();
    for (score, pos) in scores.iter_mut().zip(seen.clone()) {
        // SAFETY: the caller's promise.
        unsafe { pages.read_key(table[pos / PAGE], pos % PAGE, row) };
        *score = scale * query.iter().zip(&*row).map(|(q, k)| q * k).sum::<f32>();
    }
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    out.fill(0.0);
    for (weight, pos) in scores.iter().zip(seen) {
        // SAFETY: as above.
        unsafe { pages.read_value(table[pos / PAGE], pos % PAGE, row) };
        for (x, v) in out.iter_mut().zip(&*row) {
            *x += weight / sum * v;
        }
    }
}
