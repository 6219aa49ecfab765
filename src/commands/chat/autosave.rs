//! Keeps every turn on the disk, and says so when it cannot: the chat goes on either way.

use crate::session::{Record, SessionFile};
use crate::terminal::log;

pub(super) struct Autosave {
    file: SessionFile,
    /// Some of what happened is not on the disk.
    behind: bool,
}

impl Autosave {
    pub fn new(file: SessionFile) -> Self {
        Self { file, behind: false }
    }

    pub fn file(&self) -> &SessionFile {
        &self.file
    }

    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Adds what happened to the session. A failure is told at once, and made good with the next turn that can be saved.
    pub fn keep(&mut self, records: &[Record]) {
        match self.file.append(records) {
            Ok(()) => {
                if std::mem::take(&mut self.behind) {
                    log::note("The session is saved again, with all that was not.");
                }
            }
            Err(e) => {
                self.behind = true;
                log::error(&e);
                log::note("This turn is not saved; that is tried again with the next one.");
            }
        }
    }
}
