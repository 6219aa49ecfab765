//! One session's file, open and locked.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::record::{Header, Record, Saved, line, replay};
use crate::error::{Error, Result};

/// No session is larger: a file that is was not made by talking, and reading it would only fill the memory.
pub const MAX_BYTES: u64 = 64 << 20;

/// A session's file. A record is acknowledged when [`SessionFile::append`] returns `Ok`: it is on the disk then.
#[derive(Debug)]
pub struct SessionFile {
    id: String,
    path: PathBuf,
    /// `None` until there is something to write, so that a chat in which nothing is said leaves no file.
    file: Option<File>,
    /// Bytes of whole, acknowledged lines.
    len: u64,
    /// A failed write left bytes behind them that could not be taken away yet.
    torn: bool,
    /// Lines that are not on the disk: at first the header, later what could not be written. They go with the next write.
    unsaved: Vec<u8>,
    /// There was a record, on the disk or not.
    started: bool,
}

impl SessionFile {
    /// A new session, on the disk from its first record on.
    pub(super) fn new(id: &str, path: PathBuf, model: &str) -> Result<Self> {
        let unsaved = line(&Header::new(model))?;
        Ok(Self { id: id.to_owned(), path, file: None, len: 0, torn: false, unsaved, started: false })
    }

    /// Opens a session, made empty if it is absent, and locks it; takes away a torn last line.
    pub(super) fn open(id: &str, path: PathBuf, model: &str) -> Result<(Self, Saved)> {
        make_folder(&path)?;
        let mut file = options().create(true).open(&path).map_err(|e| Error::io("open the session", &path, e))?;
        lock(&file, id, &path)?;
        let bytes = read(&mut file, &path)?;
        let saved = replay(&bytes).map_err(|e| e.in_file(&path))?;
        let mut session = Self::new(id, path, model)?;
        if saved.whole > 0 {
            session.unsaved.clear();
        }
        session.started = saved.whole > 0;
        session.len = saved.whole as u64;
        if saved.torn > 0 {
            file.set_len(session.len).map_err(|e| Error::io("mend the session's torn end", &session.path, e))?;
        }
        session.file = Some(file);
        Ok((session, saved))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing was ever said in it.
    pub fn is_new(&self) -> bool {
        !self.started
    }

    /// Adds records, and what earlier calls could not write, and waits until they are on the disk.
    ///
    /// # Errors
    /// When they cannot be written: the file then ends where it ended before, and the next call tries again.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        self.started |= !records.is_empty();
        for record in records {
            self.unsaved.extend(line(record)?);
        }
        let len = self.len + self.unsaved.len() as u64;
        if len > MAX_BYTES {
            let what = format!("the session has reached {} MB", MAX_BYTES >> 20);
            return Err(Error::runtime(what)
                .in_file(&self.path)
                .help("/save NAME writes what still counts to a new one"));
        }
        if self.file.is_none() {
            self.file = Some(create(&self.id, &self.path)?);
        }
        let Some(file) = &mut self.file else { return Ok(()) }; // never: made above
        if let Err(e) = write(file, self.len, self.torn, &self.unsaved) {
            self.torn = file.set_len(self.len).is_err();
            return Err(Error::io("write the session", &self.path, e));
        }
        self.torn = false;
        self.len = len;
        self.unsaved.clear();
        Ok(())
    }
}

/// Writes at `end`, where a failed write may have left something, and waits for the disk.
fn write(file: &mut File, end: u64, torn: bool, bytes: &[u8]) -> std::io::Result<()> {
    if torn {
        file.set_len(end)?;
    }
    file.seek(SeekFrom::Start(end))?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn create(id: &str, path: &Path) -> Result<File> {
    make_folder(path)?;
    let file = options().create_new(true).open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::runtime(format!("there is a session `{id}` already")).in_file(path),
        _ => Error::io("make the session", path, e),
    })?;
    lock(&file, id, path)?;
    // The new name must survive a power cut as the lines do; where folders cannot be synced there is no more to do.
    if let Some(folder) = path.parent() {
        let _ = File::open(folder).and_then(|f| f.sync_all());
    }
    Ok(file)
}

fn make_folder(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder).map_err(|e| Error::io("make the folder of sessions", folder, e))
}

/// Read and write, for the user alone: conversations are nobody else's.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The lock is the kernel's: it goes with the process, however that ends.
fn lock(file: &File, id: &str, path: &Path) -> Result<()> {
    file.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => Error::runtime(format!("the session `{id}` is open in another taper"))
            .in_file(path)
            .help("leave that chat, or choose another session with --session"),
        TryLockError::Error(e) => Error::io("lock the session", path, e),
    })
}

fn read(file: &mut File, path: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io("read the session", path, e);
    let len = file.metadata().map_err(failed)?.len();
    if len > MAX_BYTES {
        return Err(Error::runtime(format!(
            "the session is {} MB large; {} MB is the most",
            len >> 20,
            MAX_BYTES >> 20
        ))
        .in_file(path));
    }
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
