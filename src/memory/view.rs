//! What a search looks at: the index, and the vectors of what was added after it was built.

use std::cell::RefCell;

use super::ids::Ids;
use super::index::{self, Index};
use super::store::{Reader, Store};
use super::tend::open;
use super::vectors::{Hit, Vectors};
use crate::error::Result;

/// A memory as it was when this was last refreshed. Its rows are those of the index, then those of [`View::newer`].
pub(super) struct View {
    dim: usize,
    /// The SHA-256 of the index file that is noted in the store; and the index, unless that is not to be had.
    noted: Option<String>,
    index: Option<Index>,
    newer: Held,
    /// What the store counted when it was read; another count means that rows are gone.
    removals: Option<i64>,
}

/// Vectors in memory.
pub struct Held {
    dim: usize,
    /// (rows, dim)
    numbers: Vec<f32>,
    ids: Ids,
}

impl View {
    /// Nothing yet.
    pub fn new(dim: usize) -> Self {
        Self { dim, noted: None, index: None, newer: Held::new(dim), removals: None }
    }

    /// Reads what was added since the last time; everything behind the index, when something was removed.
    ///
    /// # Errors
    /// When the store cannot be read, or a vector in it is damaged.
    pub fn refresh(&mut self, store: &Store) -> Result<()> {
        let note = store.index()?;
        let noted = note.as_ref().map(|note| note.sha256.clone());
        let removals = Some(store.removals()?);
        // A file that could not be read may have been made anew, and be the same.
        if self.noted != noted || self.lacks_index() {
            let before = self.index.take().is_some();
            self.index = note.as_ref().and_then(|note| open(store, note, self.dim).ok()); // what has no index is all read
            self.noted = noted;
            if before || self.index.is_some() {
                self.removals = None;
            }
        }
        if self.removals != removals {
            self.newer = Held::new(self.dim);
            self.removals = removals;
        }
        let indexed = self.index.as_ref().and_then(|index| index.ids().last());
        self.newer.extend(store, self.newer.ids.last().or(indexed).unwrap_or(0))
    }

    /// Whether there should be an index, and none can be read.
    pub fn lacks_index(&self) -> bool {
        self.noted.is_some() && self.index.is_none()
    }

    /// The index in a line, if there is one.
    pub fn describe(&self) -> Option<String> {
        self.index.as_ref().map(Index::describe)
    }

    /// The `most` rows nearest to a unit vector, best first.
    ///
    /// # Errors
    /// When the store cannot be read, or a vector in it is damaged.
    pub fn nearest(&self, store: &Store, query: &[f32], most: usize) -> Result<Vec<Hit>> {
        match &self.index {
            None => index::exact(&self.newer, query, most),
            Some(index) => {
                let rows = Rows { index, indexed: Stored::new(store, self.dim, index.ids())?, newer: &self.newer };
                index.search(&rows, query, most)
            }
        }
    }

    /// The record of a row.
    pub fn id(&self, row: usize) -> i64 {
        match &self.index {
            Some(index) if row < index.len() => index.ids().get(row),
            index => self.newer.ids.get(row - index.as_ref().map_or(0, Index::len)),
        }
    }
}

impl Held {
    pub fn new(dim: usize) -> Self {
        Self { dim, numbers: Vec::new(), ids: Ids::default() }
    }

    /// Appends the vectors of all records behind `after`.
    ///
    /// # Errors
    /// When the store cannot be read, or a vector in it is damaged.
    pub fn extend(&mut self, store: &Store, after: i64) -> Result<()> {
        store.vectors(after, |id, vector| {
            self.ids.push(id);
            self.numbers.extend_from_slice(vector);
        })
    }
}

impl Vectors for Held {
    fn dim(&self) -> usize {
        self.dim
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.numbers[row * self.dim..][..self.dim]);
        Ok(())
    }

    fn id(&self, row: usize) -> i64 {
        self.ids.get(row)
    }
}

/// Vectors that stay in the store.
pub(super) struct Stored<'a> {
    dim: usize,
    ids: &'a Ids,
    /// What reads, and where to.
    reader: RefCell<(Reader<'a>, Vec<f32>)>,
}

impl<'a> Stored<'a> {
    pub fn new(store: &'a Store, dim: usize, ids: &'a Ids) -> Result<Self> {
        Ok(Self { dim, ids, reader: RefCell::new((store.reader()?, Vec::new())) })
    }
}

impl Vectors for Stored<'_> {
    fn dim(&self) -> usize {
        self.dim
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    /// What was removed reads as NaN, which no search finds.
    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let (reader, vector) = &mut *self.reader.borrow_mut();
        if reader.vector(self.ids.get(row), vector)? && vector.len() == out.len() {
            out.copy_from_slice(vector);
        } else {
            out.fill(f32::NAN);
        }
        Ok(())
    }

    fn id(&self, row: usize) -> i64 {
        self.ids.get(row)
    }
}

/// The rows of a view that has an index.
struct Rows<'a> {
    index: &'a Index,
    indexed: Stored<'a>,
    newer: &'a Held,
}

impl Vectors for Rows<'_> {
    fn dim(&self) -> usize {
        self.newer.dim
    }

    fn len(&self) -> usize {
        self.index.len() + self.newer.len()
    }

    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        match row.checked_sub(self.index.len()) {
            None => self.indexed.read(row, out),
            Some(row) => self.newer.read(row, out),
        }
    }

    fn id(&self, row: usize) -> i64 {
        match row.checked_sub(self.index.len()) {
            None => self.indexed.id(row),
            Some(row) => self.newer.id(row),
        }
    }
}
