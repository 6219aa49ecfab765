//! A read-only mapping of a whole regular file.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// What the system maps of a file at once is aligned to this and at most as long: a huge page.
const AROUND: usize = 2 << 20;

/// A file's bytes, mapped. Cheap to clone; unmapped with the last clone.
///
/// The file must not be cut short by others while it is mapped: the system ends a process that reads past the new
/// end. Model files are written once (downloads are renamed into place), so this holds for every file taper made.
#[derive(Clone)]
pub struct Mapping {
    bytes: Arc<Bytes>,
    path: PathBuf,
    modified: Option<SystemTime>,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    /// Empty files cannot be mapped, and tests parse bytes that are in no file.
    Owned(Vec<u8>),
    Made(Made),
}

/// Bytes that a function makes, and that are kept once somebody wants them to stay.
struct Made {
    len: usize,
    make: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
    kept: OnceLock<Vec<u8>>,
}

impl Mapping {
    /// Maps `path`, which must be a regular file: a FIFO or a device would block or never end.
    ///
    /// # Errors
    /// When it does not exist, cannot be read, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot_open =
            |e: std::io::Error| Error::model(format!("cannot open the model file: {e}")).in_file(path).caused_by(e);
        // Looked at before opening: opening a FIFO for reading waits for a writer.
        let meta = std::fs::metadata(path).map_err(cannot_open)?;
        if !meta.is_file() {
            let kind = if meta.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::model(format!("expected a model file, found {kind}"))
                .in_file(path)
                .help("give the path of a .gguf file, or of a folder with config.json and model.safetensors"));
        }
        let file = File::open(path).map_err(cannot_open)?;
        let modified = file.metadata().and_then(|meta| meta.modified()).ok();
        let bytes = if meta.len() == 0 {
            Bytes::Owned(Vec::new())
        } else {
            #[expect(unsafe_code, reason = "mapping a file is unsafe in itself")]
            // SAFETY: the mapping is read-only and private to this process; that nobody truncates a model file
            // while it is in use is the documented requirement of this type.
            let map = unsafe { memmap2::Mmap::map(&file) };
            Bytes::Mapped(map.map_err(cannot_open)?)
        };
        Ok(Self { bytes: Arc::new(bytes), path: path.to_owned(), modified })
    }

    /// Bytes that are in no file, under a name for error messages.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Self {
        Self { bytes: Arc::new(Bytes::Owned(bytes)), path: name.into(), modified: None }
    }

    /// `len` bytes that `make` makes when they are first read, under a name for error messages.
    pub fn made(name: &str, len: usize, make: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Self {
        let made = Made { len, make: Box::new(make), kept: OnceLock::new() };
        Self { bytes: Arc::new(Bytes::Made(made)), path: name.into(), modified: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When the file was last written to before it was mapped; `None` for what is in no file.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Whether the bytes are made by a function when they are read.
    pub fn is_made(&self) -> bool {
        matches!(&*self.bytes, Bytes::Made(_))
    }

    /// How many bytes there are; to be asked is no reason to be made.
    pub fn size(&self) -> usize {
        match &*self.bytes {
            Bytes::Mapped(map) => map.len(),
            Bytes::Owned(bytes) => bytes.len(),
            Bytes::Made(made) => made.len,
        }
    }

    /// The bytes of a range that a reader checked against this file.
    pub fn slice(&self, range: &Range<usize>) -> &[u8] {
        &self[range.clone()]
    }

    /// Hands a range to `read`, and gives its memory back afterwards: for bytes that are read once, such as weights that
    /// are repacked. Reading them again is possible, and fetches or makes them again.
    pub fn read_once<R>(&self, range: &Range<usize>, read: impl FnOnce(&[u8]) -> R) -> R {
        match &*self.bytes {
            Bytes::Made(made) if made.kept.get().is_none() => read(&(made.make)()[range.clone()]),
            _ => {
                let result = read(self.slice(range));
                self.give_back(range);
                result
            }
        }
    }

    /// Takes the pages of a range out of this process's memory, and those around it: where the system's cache holds the
    /// file in large folios, it maps up to [`AROUND`] at the first touch. It keeps what it likes of them in its cache.
    fn give_back(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &*self.bytes {
            let (first, end) = (range.start / AROUND * AROUND, range.end.next_multiple_of(AROUND).min(map.len()));
            #[expect(unsafe_code, reason = "dropping pages of a mapping is unsafe in itself")]
            // SAFETY: the mapping is of a file, read-only and never written through, so dropped pages come back from the
            // file with the same bytes; the range was checked against the mapping's length by `slice`.
            let dropped = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first) };
            if let Err(e) = dropped {
                tracing::debug!("pages of {} stay in memory: {e}", self.path.display());
            }
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Made(made) => made.kept.get_or_init(&made.make),
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({}, {} bytes)", self.path.display(), self.size())
    }
}
