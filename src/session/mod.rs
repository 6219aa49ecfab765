//! Conversations that outlive the program.
//!
//! A session is one file of JSON lines in the data folder: a header, then what happened, in order. `/undo`, `/clear` and
//! `/regen` are lines too, so a file only ever grows at its end. That is what makes it safe: a killed process or a full
//! disk can tear the last line and nothing else, and a torn last line is taken away by whoever opens the file next. The
//! file is locked while a chat has it open, so no two chats write into each other's lines.

mod file;
mod folder;
mod record;

pub use file::{MAX_BYTES, SessionFile};
pub use folder::{Listed, Sessions};
pub use record::{Record, Saved, replay};
