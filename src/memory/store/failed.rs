//! The database's failures in the user's terms.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::error::Error;

/// The memory that fails.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub path: PathBuf,
}

impl Failed {
    /// `doing` is what could not be done to the memory, as "read".
    pub fn to(&self, doing: &str, e: rusqlite::Error) -> Error {
        let (what, help) = match e.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => ("it is no SQLite file, or damaged at its beginning", RESTORE),
            Some(ErrorCode::DatabaseCorrupt) => ("it is damaged", RESTORE),
            Some(ErrorCode::DiskFull) => ("the disk is full", "make room and try again: what was kept before is kept"),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                ("another taper is busy with it", "try again when that one is done")
            }
            Some(ErrorCode::ReadOnly) => ("it may not be written", "see to the file's permissions, and its folder's"),
            _ => return Error::runtime(format!("cannot {doing} the memory: {e}")).in_file(&self.path).caused_by(e),
        };
        Error::runtime(format!("cannot {doing} the memory: {what}")).in_file(&self.path).help(help).caused_by(e)
    }
}

const RESTORE: &str = "restore the file from a backup, or remove it and add what was in it again";

/// Whether the system does not let us write.
pub(super) fn is_forbidden(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::SystemIoFailure)
    )
}
