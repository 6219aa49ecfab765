//! The truth of a memory: texts, where they come from, and their vectors, in one file of `SQLite`'s.
//!
//! What is told to be kept is on the disk: a change is one transaction of a write-ahead log that is synced before it returns, so
//! neither a killed process nor a power cut loses it, and two processes may change one memory, each waiting for the other.
//! Identities are never given twice. Everything else that a memory has (indexes, caches) can be made again from this file.

mod failed;
mod presence;
mod read;
mod schema;
mod search;
mod space;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};

pub(crate) use self::failed::Failed;
use self::presence::Identity;
pub use self::read::{Listed, Problem, Reader, Record, Version};
pub use self::search::{IndexNote, Wanted};
use crate::error::{Error, Result};

/// How long one process waits for another to finish a change.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a page: five vectors of 384 components fit in one.
const PAGE: u32 = 8192;

/// What a memory is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is made if it is absent.
    Create,
    /// It must be there. One that may not be written can be read all the same.
    Existing,
}

/// The embedder that made a memory's vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub name: String,
    pub dim: usize,
    /// The vector of a sentence that never changes: two embedders of one name would give it away.
    pub probe: Vec<f32>,
}

/// A passage to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage<'a> {
    /// Bytes of the source.
    pub begins: usize,
    pub ends: usize,
    pub text: &'a str,
    pub vector: &'a [f32],
}

/// How much of a source is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub id: i64,
    pub passages: usize,
    /// The first of them are kept: adding goes on behind them.
    pub done: usize,
}

/// The open file.
pub struct Store {
    db: Connection,
    failed: Failed,
    /// The file that was opened.
    identity: Identity,
    writable: bool,
}

impl Store {
    /// Opens the memory at `path`.
    ///
    /// # Errors
    /// When there is none and none is to be made, it is damaged or of a newer taper, or no memory at all.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let failed = Failed { path: path.to_owned() };
        match access {
            Access::Create => create(path)?,
            Access::Existing if !path.exists() => return Err(Error::runtime("there is no such memory").in_file(path)),
            Access::Existing => {}
        }
        let found = std::fs::metadata(path).map_err(|e| Error::io("open the memory", path, e))?;
        if !found.is_file() {
            return Err(Error::runtime("the memory is not a file").in_file(path)); // opening a FIFO would wait
        }
        let identity = Identity::of(path);
        let (mut db, writable) = connect(path, &failed)?;
        if writable {
            schema::migrate(&mut db, &failed)?;
        } else if !schema::is_current(&db, &failed)? {
            return Err(
                Error::runtime("the memory is empty or of an older taper, and may not be written").in_file(path)
            );
        }
        Ok(Self { db, failed, identity, writable })
    }

    pub fn path(&self) -> &Path {
        &self.failed.path
    }

    /// Whether it can be added to.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The embedder of its vectors; `None` while there are none.
    pub fn model(&self) -> Result<Option<Model>> {
        let row = |row: &rusqlite::Row| {
            Ok(Model {
                name: row.get(0)?,
                dim: row.get::<_, i64>(1)? as usize,
                probe: numbers(row.get_ref(2)?.as_blob()?),
            })
        };
        let found = self.db.query_row("SELECT name, dim, probe FROM model", [], row).optional();
        found.map_err(|e| self.failed.to("read", e))
    }

    /// Says which embedder makes its vectors.
    ///
    /// # Errors
    /// When another one does already.
    pub fn set_model(&mut self, model: &Model) -> Result<()> {
        let change = self.change()?;
        let kept = change.execute(
            "INSERT OR IGNORE INTO model VALUES (1, ?, ?, ?)",
            params![model.name, model.dim as i64, bytes(&model.probe)],
        );
        kept.and_then(|_| change.commit()).map_err(|e| self.failed.to("write", e))?;
        let known = self.model()?.unwrap_or_else(|| model.clone());
        known.check(model).map_err(|e| e.in_file(&self.failed.path))
    }

    /// What is kept of a source in that version; `None` when nothing is. A hash of its content tells versions apart.
    pub fn source(&self, name: &str, hash: &[u8]) -> Result<Option<Source>> {
        version(&self.db, name, hash).map_err(|e| self.failed.to("read", e))
    }

    /// Begins to keep a version of a source that will have that many passages. Other versions that were never finished go;
    /// a finished one stays until this one is. A source of no passages is finished at once.
    pub fn begin(&mut self, name: &str, hash: &[u8], passages: usize) -> Result<Source> {
        let change = self.change()?;
        let begun = (|| {
            // Another process may have begun the same meanwhile: what it has kept stays.
            if let Some(source) = version(&change, name, hash)?.filter(|source| source.passages == passages) {
                return Ok(source);
            }
            // A version cut otherwise, by another taper, goes with those that were never finished.
            let cut = "DELETE FROM sources WHERE name = ?1 AND (done < passages OR hash = ?2)";
            removed(&change, change.execute(cut, params![name, hash])?)?;
            let sql = "INSERT INTO sources (name, hash, passages, done, added) VALUES (?, ?, ?, 0, ?)";
            change.execute(sql, params![name, hash, passages as i64, now()])?;
            let source = Source { id: change.last_insert_rowid(), passages, done: 0 };
            if passages == 0 {
                finish(&change, &source)?;
            }
            Ok(source)
        })();
        begun.and_then(|source| change.commit().map(|()| source)).map_err(|e| self.failed.to("write", e))
    }

    /// Keeps the next passages of a source, and gives their identities; with the last of them, versions before go. On the disk
    /// when it returns.
    ///
    /// # Errors
    /// When they cannot be written: then none of them is kept. When another process has kept some of them meanwhile.
    pub fn append(&mut self, source: &mut Source, passages: &[Passage]) -> Result<Vec<i64>> {
        let (path, model) = (self.failed.path.clone(), self.model()?);
        let Some(model) = model else { return Err(Error::runtime("the memory has no embedder yet").in_file(&path)) };
        if let Some(passage) = passages.iter().find(|passage| !is_unit(passage.vector, model.dim)) {
            return Err(Error::runtime(format!(
                "a vector of {} components is no unit vector of {}: nothing was kept",
                passage.vector.len(),
                model.dim
            ))
            .in_file(&path));
        }
        let change = self.change()?;
        let kept = insert(&change, &model.name, source, passages);
        let ids = kept.and_then(|ids| change.commit().map(|()| ids)).map_err(|e| self.failed.to("write", e))?;
        let Some(ids) = ids else {
            return Err(Error::runtime("another taper is adding the same source, or has removed it")
                .in_file(&path)
                .help("add it again: what is kept already is not added twice"));
        };
        source.done += passages.len();
        Ok(ids)
    }

    /// Removes records, and sources of which nothing is left. How many there were.
    pub fn remove(&mut self, ids: &[i64]) -> Result<usize> {
        let change = self.change()?;
        let gone = (|| {
            let mut gone = 0;
            for id in ids {
                let source: Option<i64> = change
                    .query_row("DELETE FROM records WHERE id = ? RETURNING source", [id], |row| row.get(0))
                    .optional()?;
                if let Some(source) = source {
                    gone += 1;
                    let empty =
                        "DELETE FROM sources WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM records WHERE source = ?1)";
                    change.execute(empty, [source])?;
                }
            }
            removed(&change, gone)?;
            Ok(gone)
        })();
        let gone = gone.and_then(|gone| change.commit().map(|()| gone)).map_err(|e| self.failed.to("write", e))?;
        self.forget_for_good()?;
        Ok(gone)
    }

    /// Removes all records of a source. How many there were.
    pub fn remove_source(&mut self, name: &str) -> Result<usize> {
        let change = self.change()?;
        let gone = (|| {
            let count = "SELECT count(*) FROM records JOIN sources ON sources.id = source WHERE name = ?";
            let gone: i64 = change.query_row(count, [name], |row| row.get(0))?;
            removed(&change, change.execute("DELETE FROM sources WHERE name = ?", [name])?)?;
            Ok(gone as usize)
        })();
        let gone = gone.and_then(|gone| change.commit().map(|()| gone)).map_err(|e| self.failed.to("write", e))?;
        self.forget_for_good()?;
        Ok(gone)
    }

    /// Puts another vector in a record's place: its own was damaged, or its embedder is another now.
    pub fn replace_vectors(&mut self, vectors: &[(i64, &[f32])]) -> Result<()> {
        let change = self.change()?;
        let replaced = (|| {
            for (id, vector) in vectors {
                let bytes = bytes(vector);
                let sql = "INSERT OR REPLACE INTO vectors (id, vector, checksum) SELECT id, ?2, ?3 FROM records WHERE id = ?1";
                change.execute(sql, params![id, bytes, checksum(&bytes)])?;
            }
            removed(&change, 1) // whoever has the old vector must read anew
        })();
        replaced.and_then(|()| change.commit()).map_err(|e| self.failed.to("write", e))
    }

    /// Moves what is in the log into the file, so that what was removed is in neither. Another reader may keep it from being
    /// so: then it is done with a later change.
    fn forget_for_good(&self) -> Result<()> {
        let done = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        done.map_err(|e| self.failed.to("write", e))
    }

    fn read_only(&self) -> Error {
        Error::runtime("the memory may not be written")
            .in_file(&self.failed.path)
            .help("see to the file's permissions, and its folder's")
    }

    /// A change that no other process interrupts.
    fn change(&mut self) -> Result<Transaction<'_>> {
        if !self.writable {
            return Err(self.read_only());
        }
        let change = self.db.transaction_with_behavior(TransactionBehavior::Immediate);
        let change = change.map_err(|e| self.failed.to("write", e))?;
        self.identity.check(&self.failed)?;
        Ok(change)
    }
}

impl Model {
    /// Whether another embedder is the same, so that its vectors can be compared with this one's.
    ///
    /// # Errors
    /// When it is not; says what differs.
    pub fn check(&self, other: &Self) -> Result<()> {
        let error = |what: String| {
            Err(Error::model(what).help(format!(
                "take --embedder {}, or another memory: vectors of two models cannot be compared",
                self.name
            )))
        };
        if self.dim != other.dim {
            return error(format!(
                "the memory's vectors are {}'s and have {} components, those of {} have {}",
                self.name, self.dim, other.name, other.dim
            ));
        }
        let cosine: f32 = self.probe.iter().zip(&other.probe).map(|(a, b)| a * b).sum();
        if self.probe.len() != other.probe.len() || cosine.is_nan() || cosine < 0.999 {
            return error(format!("the memory's vectors are {}'s, and {} makes others", self.name, other.name));
        }
        Ok(())
    }
}

/// Makes the file and its folder, for the user alone: what they remember is nobody else's.
fn create(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder).map_err(|e| Error::io("make the folder of memories", folder, e))?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("make the memory", path, e)),
        _ => Ok(()),
    }
}

/// A connection, and whether it may write. What may not be written is read as it is.
fn connect(path: &Path, failed: &Failed) -> Result<(Connection, bool)> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let tried = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|db| set_up(&db).map(|()| db));
    match tried {
        Ok(db) if !db.is_readonly(rusqlite::MAIN_DB).unwrap_or(false) => return Ok((db, true)),
        Err(e) if !failed::is_forbidden(&e) => return Err(failed.to("open", e)),
        _ => {}
    }
    // SQLite must be told that nobody writes where it cannot make the files in which writers and readers meet. A log with
    // something in it would not be read then.
    if std::fs::metadata(log_of(path)).is_ok_and(|log| log.len() > 0) {
        return Err(Error::runtime("the memory has changes in its log, and neither may be written")
            .in_file(path)
            .help("copy both files to a folder that can be written"));
    }
    let uri = format!("file:{}?immutable=1", escaped(path));
    let db =
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| failed.to("open", e))?;
    Ok((db, false))
}

fn set_up(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(PATIENCE)?;
    db.pragma_update(None, "page_size", PAGE)?; // of a file that is empty yet
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "secure_delete", true)?;
    // A file from elsewhere may be made to harm: nothing in its schema runs, and its pages are checked.
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)
}

/// The write-ahead log beside a file.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// A path in a URI.
fn escaped(path: &Path) -> String {
    let mut uri = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            other => _ = write!(uri, "%{other:02X}"), // a String takes everything
        }
    }
    uri
}

fn version(db: &Connection, name: &str, hash: &[u8]) -> rusqlite::Result<Option<Source>> {
    let row = |row: &rusqlite::Row| {
        let number = |at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)? as usize);
        Ok(Source { id: row.get(0)?, passages: number(1)?, done: number(2)? })
    };
    let sql = "SELECT id, passages, done FROM sources WHERE name = ? AND hash = ?";
    db.query_row(sql, params![name, hash], row).optional()
}

/// `None` when somebody else has kept passages of this source meanwhile: nothing is kept then.
fn insert(
    change: &Transaction,
    model: &str,
    source: &Source,
    passages: &[Passage],
) -> rusqlite::Result<Option<Vec<i64>>> {
    let row = |row: &rusqlite::Row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
    let known = change.query_row("SELECT name, done FROM sources WHERE id = ?", [source.id], row).optional()?;
    let Some((name, _)) = known.filter(|(_, done)| *done == source.done as i64) else { return Ok(None) };
    let mut record =
        change.prepare("INSERT INTO records (source, begins, ends, text, digest) VALUES (?, ?, ?, ?, ?)")?;
    let mut vector = change.prepare("INSERT INTO vectors (id, vector, checksum) VALUES (?, ?, ?)")?;
    let mut ids = Vec::with_capacity(passages.len());
    for Passage { begins, ends, text, vector: numbers } in passages {
        let digest = digest(model, &name, *begins, *ends, text);
        let id = record.insert(params![source.id, *begins as i64, *ends as i64, text, digest])?;
        let bytes = bytes(numbers);
        vector.execute(params![id, bytes, checksum(&bytes)])?;
        ids.push(id);
    }
    let done = source.done + passages.len();
    change.execute("UPDATE sources SET done = ? WHERE id = ?", params![done as i64, source.id])?;
    if done >= source.passages {
        finish(change, source)?;
    }
    Ok(Some(ids))
}

/// A source is whole: versions of it before go.
fn finish(change: &Transaction, source: &Source) -> rusqlite::Result<()> {
    let sql = "DELETE FROM sources WHERE id <> ?1 AND name = (SELECT name FROM sources WHERE id = ?1)";
    let gone = change.execute(sql, [source.id])?;
    removed(change, gone)
}

/// Counts removals, so that who has read the memory before knows that some of it is gone.
fn removed(change: &Transaction, count: usize) -> rusqlite::Result<()> {
    if count > 0 {
        change.execute("UPDATE removals SET count = count + 1", [])?;
    }
    Ok(())
}

/// What a record says, and who embedded it: equal on every machine, as bits of a vector are not.
pub(super) fn digest(model: &str, source: &str, begins: usize, ends: usize, text: &str) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [model, source, text] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update((begins as u64).to_le_bytes());
    hash.update((ends as u64).to_le_bytes());
    hash.finalize().to_vec()
}

/// Whether it has length 1; neither zeros nor what is not a number has.
pub(super) fn is_unit(vector: &[f32], dim: usize) -> bool {
    let square: f32 = vector.iter().map(|x| x * x).sum();
    vector.len() == dim && (square - 1.0).abs() < 1e-3
}

fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(super) fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn now() -> String {
    chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, false)
}
