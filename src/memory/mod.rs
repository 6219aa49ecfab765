//! What taper was told to remember, found again by meaning.
//!
//! ```text
//! file ─ chunk ─ embed ─ store (SQLite: text, source, offsets, vector)
//!                          │ vectors by row
//! question ─ embed ─ view ─┴─ hits ─ store ─ passages ─ recall ─ prompt
//! ```
//!
//! The [`store`] is the truth; what a search looks at is read from it, and read again where another process changed it.

pub mod chunk;
pub mod condition;
pub mod embed;
pub mod exchange;
pub mod files;
mod hadamard;
pub mod html;
mod ids;
pub mod index;
pub mod ingest;
pub mod recall;
pub mod store;
pub mod tend;
pub mod tiers;
mod vectors;
mod view;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::embed::Embedder;
use self::store::{Access, Model, Problem, Record, Store};
use self::tend::{Build, Tended, tend};
pub use self::vectors::{Hit, Vectors};
pub use self::view::Held;
use self::view::View;
use crate::error::{Error, Result};
use crate::registry::closest::closest;

/// Longest name, in bytes: every file system takes it.
const MAX_NAME: usize = 100;
const EXTENSION: &str = "sqlite";
/// Of the index beside it, and what is added to that while it is being written.
const INDEX: &str = "index";
const PART: &str = "part";

/// The memories of a user.
#[derive(Debug, Clone)]
pub struct Memories {
    folder: PathBuf,
}

impl Memories {
    /// Those in the data folder.
    pub fn new(data: &Path) -> Self {
        Self { folder: data.join("memories") }
    }

    /// Where the memory of that name is, or would be.
    ///
    /// # Errors
    /// When it is no name.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with(['.', '-']) && name.chars().all(good) {
            return Ok(self.folder.join(name).with_added_extension(EXTENSION));
        }
        Err(Error::usage(format!("`{}` is no name for a memory", name.escape_debug()))
            .help("take up to 100 letters, digits, `-`, `_` and `.`, a letter or digit first"))
    }

    /// Opens a memory's file; see [`Store::open`].
    pub fn open(&self, name: &str, access: Access) -> Result<Store> {
        let path = self.path(name)?;
        if access == Access::Existing && !path.exists() {
            let known = self.list();
            let help = if known.is_empty() {
                format!("taper memory add {name} FILE makes it")
            } else {
                format!("there are: {}; taper memory add {name} FILE makes a new one", known.join(", "))
            };
            let meant = self.meant(name).map_or_else(String::new, |meant| format!("did you mean {meant}?\n  "));
            return Err(Error::runtime(format!("there is no memory `{name}`"))
                .in_file(&self.folder)
                .help(meant + &help));
        }
        Store::open(&path, access)
    }

    /// The names of all, in alphabetical order.
    pub fn list(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let name = |path: PathBuf| {
            let name = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == EXTENSION && path.is_file() && self.path(&name).is_ok()).then_some(name)
        };
        let mut names: Vec<String> = entries.filter_map(|entry| name(entry.ok()?.path())).collect();
        names.sort();
        names
    }

    /// The memory that was probably meant, where there is none of a name.
    pub fn meant(&self, name: &str) -> Option<String> {
        closest(self.list().iter().map(String::as_str), name).map(str::to_owned)
    }

    /// Removes a memory's file, and what there is beside it. Who has it open is told when they come to change or search it.
    ///
    /// # Errors
    /// When there is none, another taper is busy with it, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match self.open(name, Access::Existing) {
            Ok(mut store) => store.removing(|| remove_files(&path)),
            // What is damaged can be removed all the same.
            Err(_) => remove_files(&path),
        }
    }
}

fn remove_files(path: &Path) -> Result<()> {
    let beside = |suffix: &str| {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        PathBuf::from(file)
    };
    let index = path.with_extension(INDEX);
    for file in [path.to_owned(), beside("-wal"), beside("-shm"), index.with_added_extension(PART), index] {
        match std::fs::remove_file(&file) {
            Err(e) if file == path || e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove the memory", &file, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// In hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A passage that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The cosine between it and the query.
    pub score: f32,
    pub record: Record,
}

/// A memory with its embedder: it can be searched and added to.
pub struct Memory {
    store: Store,
    embedder: Arc<Embedder>,
    view: View,
}

impl Memory {
    /// A memory for an embedder, which must be the one that made its vectors.
    ///
    /// # Errors
    /// When it is not; when the memory cannot be read or written.
    pub fn new(mut store: Store, embedder: Arc<Embedder>) -> Result<Self> {
        let model = embedder.model()?;
        match store.model()? {
            Some(known) => known.check(&model).map_err(|e| e.in_file(store.path()))?,
            None if store.is_writable() => store.set_model(&model)?,
            None => {}
        }
        Ok(Self { view: View::new(embedder.dim()), store, embedder })
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    pub fn embedder(&self) -> &Arc<Embedder> {
        &self.embedder
    }

    /// The `most` passages that are nearest in meaning to a text, best first.
    ///
    /// # Errors
    /// When the memory cannot be read, or a vector in it is damaged.
    pub fn search(&mut self, query: &str, most: usize) -> Result<Vec<Found>> {
        let vector = self.embedder.embed_one(query)?;
        self.view.refresh(&self.store)?;
        let mut found = Vec::new();
        for hit in self.view.nearest(&self.store, &vector, most)? {
            // One that another process removed since the view was refreshed is not there.
            if let Some(record) = self.store.record(self.view.id(hit.row as usize))? {
                found.push(Found { score: hit.score, record });
            }
        }
        Ok(found)
    }

    /// The index in a line; `None` where every search reads all vectors.
    ///
    /// # Errors
    /// When the memory cannot be read, or a vector in it is damaged.
    pub fn describe_index(&mut self) -> Result<Option<String>> {
        self.view.refresh(&self.store)?;
        Ok(self.view.describe())
    }

    /// Whether the index file that belongs to it is damaged or gone, as the last search saw it: every search reads all vectors
    /// then.
    pub fn lacks_index(&self) -> bool {
        self.view.lacks_index()
    }

    /// As [`tend()`].
    pub fn tend(&mut self, when: Build, threads: usize, building: &mut dyn FnMut(usize)) -> Result<Tended> {
        tend(&mut self.store, when, threads, building)
    }

    /// Reads the whole memory, and makes anew the vectors that are damaged.
    ///
    /// # Errors
    /// When a text is damaged, which cannot be made again: nothing was changed then.
    pub fn rebuild(&mut self) -> Result<Rebuilt> {
        let mut problems = Vec::new();
        let records = self.store.check(|problem| problems.push(problem))?;
        if let Some(Problem::Text(id)) = problems.iter().find(|problem| matches!(problem, Problem::Text(_))) {
            return Err(Error::runtime(format!("the text of record {id} is damaged"))
                .in_file(self.store.path())
                .help("taper memory rm takes it out; adding its source again brings it back"));
        }
        let damaged: Vec<i64> = problems.iter().map(|problem| problem.id()).collect();
        for ids in damaged.chunks(ingest::BATCH) {
            let records = ids.iter().map(|id| self.store.record(*id)).collect::<Result<Vec<_>>>()?;
            let records: Vec<Record> = records.into_iter().flatten().collect();
            let texts: Vec<&str> = records.iter().map(|record| record.text.as_str()).collect();
            let vectors = self.embedder.embed(&texts)?;
            let vectors: Vec<_> = records.iter().zip(&vectors).map(|(record, v)| (record.id, v.as_slice())).collect();
            self.store.replace_vectors(&vectors)?;
        }
        Ok(Rebuilt { records, vectors: damaged.len() })
    }
}

/// What [`Memory::rebuild`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub records: usize,
    /// Those whose vectors were damaged and are made again.
    pub vectors: usize,
}

impl Embedder {
    /// What a memory keeps of it.
    ///
    /// # Errors
    /// When it makes no vector.
    pub fn model(&self) -> Result<Model> {
        const PROBE: &str = "The quick brown fox jumps over the lazy dog.";
        Ok(Model { name: self.name().to_owned(), dim: self.dim(), probe: self.embed_one(PROBE)?.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        let memories = Memories::new(Path::new("/nonexistent"));
        for good in ["work", "a.b", "über_uns-2"] {
            assert!(memories.path(good).unwrap().starts_with("/nonexistent/memories"), "{good}");
        }
        for bad in ["", "..", "../x", "a/b", "a\\b", ".hidden", "-x", "a b", "a\n", &"x".repeat(101)] {
            assert!(memories.path(bad).unwrap_err().what().contains("is no name for a memory"), "{bad}");
        }
    }
}
