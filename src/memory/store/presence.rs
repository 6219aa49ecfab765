//! Whether a memory is still there: another taper may remove it, or remove it and make one of the same name, while this one has it open.
//! Who removes it has the lock of those who change it meanwhile, so that no change falls between.

use std::path::Path;

use super::{Failed, Store};
use crate::error::{Error, Result};

/// Which file a path leads to; `None` where there is none, or where that cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(Option<(u64, u64)>);

impl Identity {
    #[cfg(unix)]
    pub fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino())))
    }

    #[cfg(not(unix))]
    pub fn of(_: &Path) -> Self {
        Self(None)
    }

    /// # Errors
    /// When the memory's path leads to another file now, or to none.
    pub fn check(self, failed: &Failed) -> Result<()> {
        if Self::of(&failed.path) == self {
            return Ok(());
        }
        Err(Error::runtime("another taper has removed the memory")
            .in_file(&failed.path)
            .help("what was added to it is gone with it; what is added again makes a new one"))
    }
}

impl Store {
    /// Removes files of the memory while nobody else can change it.
    ///
    /// # Errors
    /// When another taper is busy with it for long, or what `remove` gives.
    pub fn removing(&mut self, remove: impl FnOnce() -> Result<()>) -> Result<()> {
        let held = if self.writable { Some(self.change()?) } else { None };
        remove()?;
        drop(held); // with nothing changed
        Ok(())
    }
}
