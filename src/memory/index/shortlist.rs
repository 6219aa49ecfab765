//! The best of what a scan has seen.

use crate::memory::Hit;

/// Keeps the best `size` of the hits that are pushed.
#[derive(Debug)]
pub(super) struct Shortlist {
    size: usize,
    /// Up to twice as many as are kept; then half of them are sorted out.
    hits: Vec<Hit>,
    threshold: f32,
}

impl Shortlist {
    pub(super) fn new(size: usize) -> Self {
        Self { size, hits: Vec::with_capacity(2 * size), threshold: f32::NEG_INFINITY }
    }

    /// What a score must exceed to be kept.
    pub(super) fn threshold(&self) -> f32 {
        self.threshold
    }

    pub(super) fn push(&mut self, hit: Hit) {
        if hit.score.is_nan() || hit.score <= self.threshold || self.size == 0 {
            return;
        }
        self.hits.push(hit);
        if self.hits.len() == 2 * self.size {
            self.halve();
        }
    }

    fn halve(&mut self) {
        if self.hits.len() > self.size {
            let (_, last, _) = self.hits.select_nth_unstable_by(self.size - 1, Hit::order);
            self.threshold = last.score;
            self.hits.truncate(self.size);
        }
    }

    /// In no order.
    pub(super) fn into_hits(mut self) -> Vec<Hit> {
        self.halve();
        self.hits
    }

    /// Best first.
    pub(super) fn into_sorted(self) -> Vec<Hit> {
        let mut hits = self.into_hits();
        hits.sort_unstable_by(Hit::order);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_and_of_equal_ones_those_seen_first() {
        let scores = (0..1000u32).map(|row| ((row * 7919) % 101) as f32);
        let mut all: Vec<Hit> = scores.enumerate().map(|(row, score)| Hit { row: row as u32, score }).collect();
        let mut list = Shortlist::new(25);
        list.push(Hit { row: 5000, score: f32::NAN });
        for hit in &all {
            list.push(*hit);
        }
        all.sort_by(Hit::order);
        assert_eq!(list.into_sorted(), all[..25]);
        assert!(Shortlist::new(0).into_sorted().is_empty());
    }
}
