//! What a memory knows of its index: what it is to reach, and which file it is; and how large its passages are.

use std::io::ErrorKind::{IsADirectory, NotFound};
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};

use super::Store;
use crate::error::{Error, Result};
use crate::memory::INDEX;

/// What the index is to reach, as the user last asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// The share of the ten nearest that must be found.
    pub recall: f64,
    /// Bytes of memory that the index may hold; none: what it takes.
    pub memory: Option<usize>,
}

/// The index file that goes with this memory; no other is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexNote {
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Records in it, and the last of them.
    pub count: usize,
    pub last: i64,
    /// [`Store::removals`] when it was in step with the memory.
    pub removals: i64,
}

impl Store {
    /// Where the index is, or would be.
    pub fn index_path(&self) -> PathBuf {
        self.path().with_extension(INDEX)
    }

    pub fn wanted(&self) -> Result<Wanted> {
        let row = |row: &rusqlite::Row| {
            Ok(Wanted { recall: row.get(0)?, memory: row.get::<_, Option<i64>>(1)?.map(|n| n as usize) })
        };
        let found = self.db.query_row("SELECT recall, memory FROM search", [], row);
        found.map_err(|e| self.failed.to("read", e))
    }

    pub fn set_wanted(&mut self, wanted: &Wanted) -> Result<()> {
        let change = self.change()?;
        let memory = wanted.memory.map(|n| n as i64);
        let set = change.execute("UPDATE search SET recall = ?, memory = ?", params![wanted.recall, memory]);
        set.and_then(|_| change.commit()).map_err(|e| self.failed.to("write", e))
    }

    /// Most tokens of the passages that sources are cut into.
    pub fn chunk_tokens(&self) -> Result<usize> {
        let found = self.db.query_row("SELECT tokens FROM cut", [], |row| row.get::<_, i64>(0));
        found.map(|tokens| tokens as usize).map_err(|e| self.failed.to("read", e))
    }

    pub fn set_chunk_tokens(&mut self, tokens: usize) -> Result<()> {
        let change = self.change()?;
        let set = change.execute("UPDATE cut SET tokens = ?", [tokens as i64]);
        set.and_then(|_| change.commit()).map_err(|e| self.failed.to("write", e))
    }

    /// The index file that was noted last.
    pub fn index(&self) -> Result<Option<IndexNote>> {
        let row = |row: &rusqlite::Row| {
            Ok(IndexNote {
                sha256: row.get(0)?,
                count: row.get::<_, i64>(1)? as usize,
                last: row.get(2)?,
                removals: row.get(3)?,
            })
        };
        let sql = "SELECT sha256, count, last, removals FROM search WHERE sha256 IS NOT NULL";
        self.db.query_row(sql, [], row).optional().map_err(|e| self.failed.to("read", e))
    }

    /// Has `write` put an index file in its place and notes what it is, while no other process changes the memory. One that
    /// is killed in between leaves a file that is not the one noted, which nobody reads.
    ///
    /// # Errors
    /// When either cannot be written.
    pub fn put_index(&mut self, write: impl FnOnce(&Path) -> Result<IndexNote>) -> Result<()> {
        let path = self.index_path();
        let change = self.change()?;
        let note = write(&path)?;
        let sql = "UPDATE search SET sha256 = ?, count = ?, last = ?, removals = ?";
        let noted = change.execute(sql, params![note.sha256, note.count as i64, note.last, note.removals]);
        noted.and_then(|_| change.commit()).map_err(|e| self.failed.to("write", e))
    }

    /// Forgets the index file, and removes it.
    ///
    /// # Errors
    /// When either cannot be.
    pub fn drop_index(&mut self) -> Result<()> {
        let path = self.index_path();
        let change = self.change()?;
        let noted = change.execute("UPDATE search SET sha256 = NULL", []);
        noted.and_then(|_| change.commit()).map_err(|e| self.failed.to("write", e))?;
        match std::fs::remove_file(&path) {
            // A folder of that name is not ours.
            Err(e) if !matches!(e.kind(), NotFound | IsADirectory) => Err(Error::io("remove the index", &path, e)),
            _ => Ok(()),
        }
    }
}
