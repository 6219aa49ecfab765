//! What an index sees of a memory: vectors by row.

use crate::error::Result;

/// Unit vectors of one memory, by row; rows are dense from 0, [`Vectors::id`] is the record's id in the store.
pub trait Vectors {
    /// Components of a vector.
    fn dim(&self) -> usize;

    /// How many rows there are.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies a row's vector to `out`, which holds [`Vectors::dim`] components.
    ///
    /// # Errors
    /// When it cannot be read from the disk.
    fn read(&self, row: usize, out: &mut [f32]) -> Result<()>;

    /// The record that a row belongs to.
    fn id(&self, row: usize) -> i64;
}

/// A row that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    pub row: u32,
    /// The inner product with the query: for unit vectors, the cosine.
    pub score: f32,
}

impl Hit {
    /// Best first; ties by row, so that a result is the same whatever order the rows were scanned in.
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first_and_ties_go_by_row() {
        let mut hits = [(3, 0.5), (1, 0.5), (2, 0.9), (0, -1.0)].map(|(row, score)| Hit { row, score });
        hits.sort_by(Hit::order);
        assert_eq!(hits.map(|hit| hit.row), [2, 1, 3, 0]);
    }
}
