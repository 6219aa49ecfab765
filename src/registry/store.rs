//! The folder of fetched models: `<cache>/models/<name>/`.
//!
//! A file has its final name only once it is whole and its hash was right, so starting up need not read it again: a
//! file of the right size is there. Everything unfinished lives in `.part/` beside the files, which belongs to whoever
//! holds the model's lock; what a killed process leaves there is swept away by the next one to hold it.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::manifest::{Model, WheelFile};
use crate::config::Dirs;
use crate::error::{Error, Result};

/// Where unfinished things lie, in the model's folder.
const PART: &str = ".part";

/// The models in the cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// # Errors
    /// When no variable says where the cache is.
    pub fn new(dirs: &Dirs) -> Result<Self> {
        Ok(Self { root: dirs.cache()?.join("models") })
    }

    /// Where a model's files lie, or will lie.
    pub fn folder(&self, model: &Model) -> PathBuf {
        self.root.join(&model.name)
    }

    /// The first of `files` that is not there in its full size. Looks, and reads nothing.
    pub fn missing<'f>(&self, model: &Model, files: &'f [WheelFile]) -> Option<&'f WheelFile> {
        let folder = self.folder(model);
        let there = |file: &WheelFile| {
            folder.join(&file.name).metadata().is_ok_and(|found| found.is_file() && found.len() == file.bytes)
        };
        files.iter().find(|file| !there(file))
    }

    /// What a download that is running, or was killed, has written so far.
    pub fn unfinished(&self, model: &Model) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder(model).join(PART)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder { &mut folders } else { &mut files }.push(entry.path());
            }
        }
        files
    }

    /// Makes the model's folder and waits until no other process writes to it. `waiting` is called once if it must.
    ///
    /// The lock is the kernel's (`File::lock`): it goes with the process, however that ends.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn lock(&self, model: &Model, waiting: impl FnOnce()) -> Result<Staging> {
        let folder = self.folder(model);
        std::fs::create_dir_all(&folder).map_err(|e| unwritable("make the model's folder", &folder, e))?;
        let path = folder.join(".lock");
        let lock = File::create(&path).map_err(|e| unwritable("write to the model's folder", &path, e))?;
        let mut waiting = Some(waiting);
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    waiting.take().into_iter().for_each(|tell| tell());
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::Error(e)) => return Err(unwritable("lock the model's folder", &path, e)),
            }
        }
        Staging::new(folder, lock)
    }
}

/// The right to write one model's files, and an empty folder to do it in.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    part: PathBuf,
    _lock: File,
}

impl Staging {
    fn new(folder: PathBuf, lock: File) -> Result<Self> {
        let part = folder.join(PART);
        match std::fs::remove_dir_all(&part) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(unwritable("clear an unfinished download", &part, e));
            }
            _ => {}
        }
        std::fs::create_dir(&part).map_err(|e| unwritable("write to the model's folder", &part, e))?;
        Ok(Self { folder, part, _lock: lock })
    }

    /// The model's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new folder for unfinished things.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.part.join(name);
        std::fs::create_dir_all(&path).map_err(|e| unwritable("write to the model's folder", &path, e))?;
        Ok(path)
    }

    /// Copies `from` into an unfinished file, checking size and hash on the way; [`Staging::publish`] puts it in its
    /// place. `progress` is told the bytes written so far.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) when it is not the file of the manifest; otherwise why it could not
    /// be written, a full disk among that.
    pub fn write(&self, file: &WheelFile, from: &mut impl Read, progress: impl FnMut(u64)) -> Result<()> {
        let path = self.unfinished(file);
        let failed = |e| unwritable("write the model", &path, e);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut out = File::create(&path).map_err(failed)?;
        let found = copy_hashed(from, &mut out, file.bytes, progress).map_err(|e| match e {
            CopyError::Read(e) => Error::model(format!("cannot unpack the model: {e}")).at(&file.member).caused_by(e),
            CopyError::Write(e) => failed(e),
        })?;
        found.compare(file.bytes, &file.sha256).map_err(|e| {
            e.at(&file.member)
                .help("nothing was installed: it was damaged on the way, or the source changed; try again")
        })?;
        out.sync_all().map_err(failed)
    }

    /// Gives the written files their final names.
    pub fn publish(&self, files: &[WheelFile]) -> Result<()> {
        for file in files {
            let to = self.folder.join(&file.name);
            let failed = |e| unwritable("put the model in its place", &to, e);
            let parent = to.parent().unwrap_or(&self.folder);
            std::fs::create_dir_all(parent).map_err(failed)?;
            std::fs::rename(self.unfinished(file), &to).map_err(failed)?;
            // The new name has to survive a power cut as well as the bytes do.
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes the model's files and whatever else lies in its folder, but for the lock: another process may be waiting
    /// for it, and would hold the lock of a file that nobody else can see.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_all(self) -> Result<()> {
        let failed = |e| Error::io("remove the model", &self.folder, e);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.ends_with(".lock") {
                continue;
            }
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|e| Error::io("remove the model", &path, e))?;
        }
        Ok(())
    }

    fn unfinished(&self, file: &WheelFile) -> PathBuf {
        self.part.join("files").join(&file.name)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.part); // what stays is swept by the next holder of the lock
    }
}

/// Reads a whole file and compares it with what the manifest says of it. `progress` is told the bytes read so far.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) with both values when size or hash differ.
pub fn verify_file(path: &Path, bytes: u64, sha256: &str, progress: impl FnMut(u64)) -> Result<()> {
    let failed = |e| Error::io("read the model's file", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let found = copy_hashed(&mut file, &mut std::io::sink(), bytes, progress).map_err(|e| match e {
        CopyError::Read(e) | CopyError::Write(e) => failed(e),
    })?;
    found.compare(bytes, sha256).map_err(|e| e.in_file(path).help("delete the file, and it is fetched anew"))
}

/// What a file turned out to be. Longer than expected, it was read only until that was clear.
struct Found {
    bytes: u64,
    sha256: String,
}

impl Found {
    fn compare(&self, bytes: u64, sha256: &str) -> Result<()> {
        if self.bytes > bytes {
            return Err(Error::model(format!("the file is longer than the {bytes} bytes expected")));
        }
        if self.bytes < bytes {
            return Err(Error::model(format!("the file has {} bytes, expected {bytes}", self.bytes)));
        }
        if self.sha256 != sha256 {
            return Err(Error::model(format!("the file's SHA-256 is {}, expected {sha256}", self.sha256)));
        }
        Ok(())
    }
}

enum CopyError {
    Read(std::io::Error),
    Write(std::io::Error),
}

/// Copies while hashing, at most one byte more than `expected`.
fn copy_hashed(
    from: &mut impl Read,
    to: &mut impl Write,
    expected: u64,
    mut progress: impl FnMut(u64),
) -> Result<Found, CopyError> {
    let mut from = from.take(expected.saturating_add(1));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Read(e)),
        };
        to.write_all(&buffer[..read]).map_err(CopyError::Write)?;
        hash.update(&buffer[..read]);
        bytes += read as u64;
        progress(bytes);
    }
    Ok(Found { bytes, sha256: hex(&hash.finalize()) })
}

/// As hashes are written.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

/// A cache that cannot be written to, in words that lead out of it.
fn unwritable(doing: &str, path: &Path, e: std::io::Error) -> Error {
    let help = match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or set TAPER_CACHE_DIR to a folder on a larger disk"
        }
        _ => "set TAPER_CACHE_DIR to a folder that can be written to",
    };
    Error::io(doing, path, e).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model_file(bytes: &[u8]) -> WheelFile {
        let sha256 = hex(&Sha256::digest(bytes));
        WheelFile { name: "a/b.bin".into(), member: "in/wheel.bin".into(), bytes: bytes.len() as u64, sha256 }
    }

    #[test]
    fn the_hash_is_sha_256() {
        // FIPS 180-2's first example.
        let file = model_file(b"abc");
        assert_eq!(file.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_source_that_is_too_long_is_read_no_further_than_needed() {
        let mut endless = std::io::repeat(7);
        let Ok(found) = copy_hashed(&mut endless, &mut std::io::sink(), 1000, |_| {}) else { panic!("it can be read") };
        assert_eq!(found.bytes, 1001);
        assert!(found.compare(1000, "").unwrap_err().what().contains("longer than the 1000 bytes"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_from_a_bad_source() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let Err(CopyError::Write(e)) = copy_hashed(&mut &b"abc"[..], &mut full, 3, |_| {}) else {
            panic!("a full disk takes nothing")
        };
        let error = unwritable("write the model", Path::new("/cache/model.part"), e).to_string();
        assert!(error.contains("/cache/model.part") && error.contains("free some space"), "{error}");
    }

    #[test]
    fn progress_counts_up_to_the_size() {
        let mut told = Vec::new();
        let bytes = vec![1; 600 << 10];
        assert!(copy_hashed(&mut &bytes[..], &mut std::io::sink(), bytes.len() as u64, |n| told.push(n)).is_ok());
        assert!(told.is_sorted() && told.len() >= 3 && told.last() == Some(&(600 << 10)), "{told:?}");
    }

    #[test]
    fn verifying_finds_a_changed_byte_and_a_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let file = model_file(b"weights");
        let verify = || verify_file(&path, file.bytes, &file.sha256, |_| {});
        std::fs::write(&path, b"weights").unwrap();
        verify().unwrap();
        for (damaged, expected) in
            [(&b"weighty"[..], "SHA-256 is"), (b"weight", "has 6 bytes"), (b"weights!", "longer")]
        {
            std::fs::write(&path, damaged).unwrap();
            let error = verify().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("delete the file"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(verify().unwrap_err().to_string().contains("cannot read"));
    }
}
