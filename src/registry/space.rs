//! Whether the disk has room for a download, found out before a byte is fetched.

use std::path::Path;
use std::process::{Command, Stdio};

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

/// Bytes that can still be written where `folder` is or will be, as POSIX's `df` tells; `None` when it cannot.
fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|path| path.is_dir())?;
    let told = Command::new("df").arg("-Pk").arg(there).stderr(Stdio::null()).output().ok()?;
    available(std::str::from_utf8(&told.stdout).ok()?)
}

/// The fourth column of the last line: kilobytes available.
fn available(df: &str) -> Option<u64> {
    let kilobytes: u64 = df.lines().last()?.split_whitespace().nth(3)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_as_posix_prints_it() {
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda 1000 400 600 40% /my disk\n";
        assert_eq!(available(df), Some(600 * 1024));
        assert_eq!(
            (available(""), available("df: no such file\n"), available("a b c 99999999999999999999\n")),
            (None, None, None)
        );
        assert!(free(Path::new("/nonexistent/cache")).is_some_and(|free| free > 0));
    }
}
