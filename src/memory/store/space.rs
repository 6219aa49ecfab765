//! The space that removed records leave in the file.

use super::Store;
use crate::error::Result;

impl Store {
    /// Bytes of the file that hold nothing any more.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn slack(&self) -> Result<u64> {
        let number = |pragma: &str| self.db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let bytes = number("freelist_count").and_then(|pages| Ok(pages as u64 * number("page_size")? as u64));
        bytes.map_err(|e| self.failed.to("read", e))
    }

    /// Writes the file anew without what holds nothing. Takes as much room on the disk meanwhile as the records do, twice.
    /// Other processes read on while it does, and wait to write; killed at any moment, the file is the one before or the one
    /// after. One that is being read shrinks with a later change.
    ///
    /// # Errors
    /// When another process is at a change, or there is no room: then nothing was changed.
    pub fn shrink(&mut self) -> Result<()> {
        if !self.writable {
            return Err(self.read_only());
        }
        self.db.execute_batch("VACUUM").map_err(|e| self.failed.to("shrink", e))?;
        self.forget_for_good()
    }
}

#[cfg(test)]
mod tests {
    use crate::memory::store::{Access, Model, Passage, Store};

    fn unit(at: usize) -> Vec<f32> {
        (0..64).map(|i| f32::from(u8::from(i == at % 64))).collect()
    }

    fn keep(store: &mut Store, name: &str, count: usize) {
        let vectors: Vec<Vec<f32>> = (0..count).map(unit).collect();
        let text = "What is written here fills a page or two. ".repeat(20);
        let passages: Vec<Passage> = (vectors.iter().enumerate())
            .map(|(n, vector)| Passage { begins: n, ends: n + 1, text: &text, vector })
            .collect();
        let mut source = store.begin(name, b"1", count).unwrap();
        store.append(&mut source, &passages).unwrap();
    }

    #[test]
    fn a_file_shrinks_to_what_is_left_while_another_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sqlite");
        let bytes = || std::fs::metadata(&path).unwrap().len();
        let mut store = Store::open(&path, Access::Create).unwrap();
        store.set_model(&Model { name: "made".into(), dim: 64, probe: unit(0) }).unwrap();
        keep(&mut store, "large", 500);
        keep(&mut store, "small", 3);
        store.remove_source("large").unwrap();
        let (before, hash, ids) = (bytes(), store.content_hash().unwrap(), store.ids().unwrap());
        assert!(store.slack().unwrap() > before / 2, "{} of {before} bytes", store.slack().unwrap());

        let mut other = Store::open(&path, Access::Existing).unwrap();
        assert_eq!(other.count().unwrap(), 3);
        store.shrink().unwrap();
        assert!(bytes() < before / 5 && store.slack().unwrap() == 0, "{} of {before} bytes", bytes());
        assert_eq!((store.content_hash().unwrap(), store.ids().unwrap()), (hash.clone(), ids.clone()));
        assert_eq!((other.content_hash().unwrap(), other.ids().unwrap()), (hash, ids));
        keep(&mut other, "new", 1);
        assert_eq!(store.ids().unwrap().last(), Some(&504), "identities go on where they were");
    }
}
