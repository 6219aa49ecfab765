//! What there is to say of a memory's index.

use super::store::Store;
use super::tend::{is_taken, live, open};
use crate::error::Result;

/// The index that belongs to a memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// Records that it has and the memory still has.
    pub records: usize,
    /// Those that came later, which every search compares.
    pub newer: usize,
    /// What it is, in a line; or what is wrong with its file.
    pub form: Result<String, String>,
}

/// Looks at the index of a memory; `None` where it has none.
///
/// # Errors
/// When the memory cannot be read.
pub fn of(store: &Store) -> Result<Option<Condition>> {
    let (Some(note), Some(model)) = (store.index()?, store.model()?) else { return Ok(None) };
    let ids = store.ids()?;
    let records = live(&note, &ids);
    let path = store.index_path();
    let form = open(store, &note, model.dim).map(|index| index.form()).map_err(|_| {
        if is_taken(&path) {
            "what is in its place is no file".to_owned()
        } else if path.exists() {
            "its file is damaged, or another memory's".to_owned()
        } else {
            "its file is gone".to_owned()
        }
    });
    Ok(Some(Condition { records, newer: ids.len() - records, form }))
}
