//! Whether the disk has room for a download, found out before a byte is fetched.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::error::{Error, Result};
use crate::terminal::progress::megabytes;

/// Refuses `need` bytes that the disk of `folder` has no room for. `variable` is what chooses another folder. Whether
/// `folder` can be written to is for the caller to find out first: a file system that takes nothing may have 0 bytes
/// free, and its user is not helped by deleting files.
///
/// # Errors
/// [`Kind::Runtime`](crate::error::Kind::Runtime) with both numbers.
pub(super) fn check(folder: &Path, need: u64, variable: &str) -> Result<()> {
    match free(folder) {
        Some(free) if free < need => Err(Error::runtime(format!(
            "the disk has no room for the download: it needs {}, {} are free",
            megabytes(need),
            megabytes(free)
        ))
        .in_file(folder)
        .help(format!("free some space, or set {variable} to a folder on a larger disk"))),
        _ => Ok(()),
    }
}

/// Bytes that can still be written where `folder` is or will be; `None` when the system does not tell.
fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|path| path.is_dir())?;
    let told = statvfs(there).ok()?;
    // 32 bits on some systems.
    (told.blocks_available() as u64).checked_mul(told.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_that_of_the_nearest_folder_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let here = free(folder.path()).unwrap();
        let below = free(&folder.path().join("not/yet/there")).unwrap();
        // Others write to the same disk.
        assert!(here > 0 && here.abs_diff(below) < 1 << 30, "{here} {below}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_the_disk_has_no_room_for_is_refused_with_both_numbers() {
        let error = check(Path::new("/proc"), 1_000_000, "SOME_VARIABLE").unwrap_err().to_string();
        assert!(error.contains("it needs 1.0 MB, 0 bytes are free") && error.contains("set SOME_VARIABLE"), "{error}");
        check(Path::new("/proc"), 0, "SOME_VARIABLE").unwrap();
    }
}
