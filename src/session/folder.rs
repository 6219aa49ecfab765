//! The folder of sessions: names, the list, the last one.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::file::SessionFile;
use super::record::{Record, Saved};
use crate::error::{Error, Result};
use crate::text::{Conversation, Role};

const EXTENSION: &str = "jsonl";
/// Longest name, in bytes: every file system takes it.
const MAX_NAME: usize = 100;
/// How far a list looks into each file for its first question.
const LOOK: u64 = 64 << 10;

/// The sessions of this user.
#[derive(Debug, Clone)]
pub struct Sessions {
    folder: PathBuf,
}

/// A session as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub modified: SystemTime,
}

impl Sessions {
    /// Those in the data folder.
    pub fn new(data: &Path) -> Self {
        Self { folder: data.join("sessions") }
    }

    /// A new session named after the time. Nothing is on the disk before its first record.
    ///
    /// # Errors
    /// Never in practice: when its header is no JSON.
    pub fn fresh(&self, model: &str) -> Result<SessionFile> {
        let id = new_id();
        SessionFile::new(&id, self.path(&id), model)
    }

    /// The session of that name, made if it is absent.
    ///
    /// # Errors
    /// A name that is none; a file that cannot be read or written, is damaged, or is open in another taper.
    pub fn open(&self, id: &str, model: &str) -> Result<(SessionFile, Saved)> {
        check_name(id)?;
        SessionFile::open(id, self.path(id), model)
    }

    /// [`Sessions::open`] for a session that must be there.
    ///
    /// # Errors
    /// As [`Sessions::open`], and when there is none of that name.
    pub fn open_existing(&self, id: &str, model: &str) -> Result<(SessionFile, Saved)> {
        check_name(id)?;
        if !self.path(id).exists() {
            return Err(Error::runtime(format!("there is no session `{id}`"))
                .in_file(&self.folder)
                .help("/sessions lists them"));
        }
        self.open(id, model)
    }

    /// Writes a conversation to a new session of that name.
    ///
    /// # Errors
    /// When the name is none or taken, or the file cannot be written.
    pub fn save_as(&self, id: &str, model: &str, conversation: &Conversation) -> Result<()> {
        check_name(id)?;
        let records: Vec<Record> = conversation
            .messages()
            .iter()
            .map(|m| match m.role {
                Role::System => Record::System { content: m.content.clone() },
                role => Record::message(role, &m.content),
            })
            .collect();
        SessionFile::new(id, self.path(id), model)?.append(&records)
    }

    /// All sessions, the last used first. A folder that is not there or cannot be read has none.
    pub fn list(&self) -> Vec<Listed> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let mut all: Vec<Listed> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let id = path.file_stem()?.to_str()?.to_owned();
                let is_session = path.extension()? == EXTENSION && check_name(&id).is_ok();
                let found = path.metadata().ok().filter(Metadata::is_file)?; // reading a FIFO would wait for its writer
                is_session.then_some(Listed { id, modified: found.modified().ok()? })
            })
            .collect();
        all.sort_by(|a, b| (b.modified, &b.id).cmp(&(a.modified, &a.id)));
        all
    }

    /// The name of the session that was used last.
    ///
    /// # Errors
    /// When there is none.
    pub fn last(&self) -> Result<String> {
        self.list().into_iter().next().map(|listed| listed.id).ok_or_else(|| {
            Error::runtime("there is no session to continue")
                .in_file(&self.folder)
                .help("start a chat without --continue")
        })
    }

    /// The first question of a session, for people to know it by; empty when there is none near the start of its file.
    pub fn first_question(&self, id: &str) -> String {
        let mut start = Vec::new();
        let read = File::open(self.path(id)).and_then(|f| f.take(LOOK).read_to_end(&mut start));
        if read.is_err() {
            return String::new();
        }
        let records = start.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let question = records.into_iter().find_map(|record| match record {
            Record::Message { role: Role::User, content, .. } => Some(content),
            _ => None,
        });
        question.unwrap_or_default()
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(Path::new(id)).with_added_extension(EXTENSION)
    }
}

/// `2026-11-21T12-05-33-4f9a`: sorts by time, is a file name everywhere, and does not repeat within a second.
fn new_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id()) & 0xffff;
    format!("{}-{random:04x}", chrono::Local::now().format("%Y-%m-%dT%H-%M-%S"))
}

fn check_name(id: &str) -> Result<()> {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !id.is_empty() && id.len() <= MAX_NAME && !id.starts_with(['.', '-']) && id.chars().all(good) {
        return Ok(());
    }
    Err(Error::usage(format!("`{}` is no name for a session", id.escape_debug()))
        .help("take up to 100 letters, digits, `-`, `_` and `.`, a letter or digit first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        for good in ["work", "2026-11-21T12-05-33-4f9a", "über_uns.2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "../x", "a/b", "a\\b", ".hidden", "-x", "a b", "a\n", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad}");
            assert!(Sessions { folder: "/nonexistent".into() }.open(bad, "m").is_err(), "{bad}");
        }
        assert!(check_name(&new_id()).is_ok());
    }
}
