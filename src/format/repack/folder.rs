//! The folder of packed weights: what is in it, what belongs to which model, and what goes.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::Layout;
use super::source::half;
use crate::config::Dirs;
use crate::error::{Error, Result};

/// What the files' names end with, whole and unfinished.
const WHOLE: &str = "packed";
pub const UNFINISHED: &str = "part";
/// What was not used for so long is removed.
const UNUSED: Duration = Duration::from_hours(30 * 24);
/// Bytes of all files together: of the ones used last, as many as this holds; but always the very last.
const MOST: u64 = 16_000_000_000;
/// Characters of a model's name that a file's name shows.
const SHOWN: usize = 60;

/// `repacked/` in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
}

/// A file of packed weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub path: PathBuf,
    pub bytes: u64,
    /// When it was last written or read.
    pub used: SystemTime,
}

impl Folder {
    /// `None` where no variable says where the cache is.
    pub fn of(dirs: &Dirs) -> Option<Self> {
        dirs.cache().ok().map(|cache| Self { path: cache.join("repacked") })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file for a model, which `source` names, in a layout.
    pub(super) fn file(&self, source: &Path, layout: &Layout) -> PathBuf {
        let options = if layout.options == "-" { String::new() } else { format!("-{}", plain(&layout.options)) };
        self.path.join(format!("{}{}{options}.{WHOLE}", prefix(source), layout.backend))
    }

    /// Every file, the one used last first.
    pub fn files(&self) -> Vec<Kept> {
        let mut files: Vec<Kept> = self.ending_with(WHOLE).filter_map(Kept::at).collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.used));
        files
    }

    /// The files of one model: of the GGUF file, the safetensors file or index, or the `synth:` name `source`.
    pub fn of_source(&self, source: &Path) -> Vec<Kept> {
        let prefix = prefix(source);
        let named = |file: &Kept| file.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
        self.files().into_iter().filter(named).collect()
    }

    /// Removes what killed processes left unfinished. Whether somebody is writing to `file` right now.
    pub(super) fn sweep(&self, file: &Path) -> bool {
        let mut busy = false;
        for part in self.ending_with(UNFINISHED) {
            // The kernel's lock goes with its holder, however that ends.
            if File::open(&part).is_ok_and(|part| part.try_lock().is_ok()) {
                let _ = std::fs::remove_file(&part); // the next one tries again
            } else {
                busy |= part.to_string_lossy().starts_with(&*file.to_string_lossy());
            }
        }
        busy
    }

    /// Removes what has not been used for long, and what is too much.
    pub(super) fn retire(&self) {
        let mut bytes = 0;
        for (i, file) in self.files().into_iter().enumerate() {
            bytes += file.bytes;
            let unused = file.used.elapsed().is_ok_and(|time| time > UNUSED);
            if i > 0 && (unused || bytes > MOST) {
                tracing::info!("removing {}, which was not used of late", file.path.display());
                let _ = std::fs::remove_file(&file.path); // the next one tries again
            }
        }
    }

    fn ending_with(&self, extension: &'static str) -> impl Iterator<Item = PathBuf> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(move |path| path.extension() == Some(OsStr::new(extension)))
    }
}

/// Bytes of files together.
pub fn bytes(files: &[Kept]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

impl Kept {
    fn at(path: PathBuf) -> Option<Self> {
        let found = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(Self { bytes: found.len(), used: found.modified().ok()?, path })
    }

    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| Error::io("remove the packed weights", &self.path, e))
    }
}

/// The beginning of the names of a model's files: its own name for people, a hash of its whole path against another
/// model of that name.
fn prefix(source: &Path) -> String {
    let full = source.canonicalize();
    let full = full.as_deref().unwrap_or(source); // `synth:` names are no paths
    let hash = half(&Sha256::digest(full.as_os_str().as_encoded_bytes())) >> 80;
    let name = plain(&full.file_stem().unwrap_or(full.as_os_str()).to_string_lossy());
    format!("{name}.{hash:012x}.")
}

/// Text that is safe in a file's name.
fn plain(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    text.chars().take(SHOWN).map(safe).collect()
}
