//! What a search looks at: all vectors of a memory, as they were when it was last refreshed.

use super::store::Store;
use super::vectors::{Hit, Vectors};
use crate::error::Result;

/// Vectors by row, in the order of their records' identities.
pub(super) struct View {
    dim: usize,
    /// (rows, dim)
    vectors: Vec<f32>,
    ids: Vec<i64>,
    /// What the store counted when it was read; another count means that rows are gone.
    removals: Option<i64>,
}

impl View {
    /// Nothing yet.
    pub fn new(dim: usize) -> Self {
        Self { dim, vectors: Vec::new(), ids: Vec::new(), removals: None }
    }

    /// Reads what was added since the last time; everything, when something was removed.
    ///
    /// # Errors
    /// When the store cannot be read, or a vector in it is damaged.
    pub fn refresh(&mut self, store: &Store) -> Result<()> {
        let removals = Some(store.removals()?);
        if self.removals != removals {
            self.ids.clear();
            self.vectors.clear();
            self.removals = removals;
        }
        let last = self.ids.last().copied().unwrap_or(0);
        store.vectors(last, |id, vector| {
            self.ids.push(id);
            self.vectors.extend_from_slice(vector);
        })
    }

    /// The `most` rows nearest to a unit vector, best first: all of them are compared.
    pub fn nearest(&self, query: &[f32], most: usize) -> Vec<Hit> {
        let score = |row: &[f32]| row.iter().zip(query).map(|(a, b)| a * b).sum();
        let rows = self.vectors.chunks_exact(self.dim).zip(0..);
        let mut hits: Vec<Hit> = rows.map(|(vector, row)| Hit { row, score: score(vector) }).collect();
        if most < hits.len() {
            hits.select_nth_unstable_by(most, Hit::order);
            hits.truncate(most);
        }
        hits.sort_unstable_by(Hit::order);
        hits
    }
}

impl Vectors for View {
    fn dim(&self) -> usize {
        self.dim
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.vectors[row * self.dim..][..self.dim]);
        Ok(())
    }

    fn id(&self, row: usize) -> i64 {
        self.ids[row]
    }
}
