//! The lines of a session file, and the conversation that they add up to.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::text::{Conversation, Role};

/// What every session file starts with; tells a session's torn first line from a file that is none.
const MARK: &[u8] = b"{\"taper_session\":";
/// The form of the lines below. A reader refuses what is newer than itself.
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    taper_session: u32,
    pub model: String,
    /// RFC 3339.
    pub created: String,
}

impl Header {
    pub fn new(model: &str) -> Self {
        Self { taper_session: VERSION, model: model.to_owned(), created: chrono::Local::now().to_rfc3339() }
    }
}

/// Something that happened: every line after the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Record {
    Message {
        role: Role,
        content: String,
        /// The user stopped the answer, and this is what had come.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        interrupted: bool,
        /// What a memory quoted before the question; the model read it as part of the message.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        recalled: String,
    },
    /// The system message is this now; empty: there is none.
    System { content: String },
    /// The last question and its answer are forgotten.
    Undo,
    /// All but the system message is forgotten.
    Clear,
    /// The last question's answer is forgotten; another follows.
    Regen,
    /// From here on another model answers.
    Model { name: String },
}

impl Record {
    pub fn question(content: &str) -> Self {
        Self::message(Role::User, content)
    }

    pub fn answer(content: &str, interrupted: bool) -> Self {
        Self::Message { role: Role::Assistant, content: content.to_owned(), interrupted, recalled: String::new() }
    }

    /// A question with what a memory quoted before it.
    pub fn question_after(recalled: &str, content: &str) -> Self {
        let (recalled, content) = (recalled.to_owned(), content.to_owned());
        Self::Message { role: Role::User, content, interrupted: false, recalled }
    }

    /// A message as it stands in a conversation.
    pub(super) fn message(role: Role, content: &str) -> Self {
        Self::Message { role, content: content.to_owned(), interrupted: false, recalled: String::new() }
    }
}

/// One line of JSON, its newline included.
pub(super) fn line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)
        .map_err(|e| Error::runtime(format!("cannot write a line of the session: {e}")).caused_by(e))?;
    line.push(b'\n');
    Ok(line)
}

/// What a session file adds up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The model that answered last; `None` in a file without a line.
    pub model: Option<String>,
    pub created: Option<String>,
    pub conversation: Conversation,
    /// The user stopped the last answer.
    pub interrupted: bool,
    /// Bytes of whole lines: where the next line goes.
    pub whole: usize,
    /// Bytes of a torn last line behind them.
    pub torn: usize,
}

impl Saved {
    fn apply(&mut self, record: Record) {
        // An answer that is forgotten takes with it that it was interrupted.
        self.interrupted &= !matches!(record, Record::Undo | Record::Clear | Record::Regen);
        match record {
            Record::Message { role: Role::System, content, .. } | Record::System { content } => {
                self.conversation.set_system(&content);
            }
            Record::Message { role, content, interrupted, recalled } => {
                self.conversation.push(role, recalled + &content);
                self.interrupted = interrupted;
            }
            Record::Undo => drop(self.conversation.undo()),
            Record::Clear => self.conversation.clear(),
            Record::Regen => drop(self.conversation.undo_answer()),
            Record::Model { name } => self.model = Some(name),
        }
    }

    /// Whether the last question has no answer: the program ended before there was one.
    pub fn is_unanswered(&self) -> bool {
        self.conversation.messages().last().is_some_and(|m| m.role == Role::User)
    }
}

/// Reads a session file's bytes. A last line without its newline is left out: it was torn.
///
/// # Errors
/// When it is no session file, is of a newer taper, or a whole line in it cannot be understood; the message has the line.
pub fn replay(bytes: &[u8]) -> Result<Saved> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let mut saved = Saved { whole, torn: bytes.len() - whole, ..Saved::default() };
    let start = bytes.len().min(MARK.len());
    if bytes[..start] != MARK[..start] {
        return Err(Error::runtime("the file is no session of taper's"));
    }
    let mut lines = bytes[..whole].split_inclusive(|b| *b == b'\n').zip(1..);
    if let Some((first, number)) = lines.next() {
        let header: Header = serde_json::from_slice(first).map_err(|e| damaged(number, &e))?;
        if header.taper_session > VERSION {
            return Err(Error::runtime(format!(
                "the session has format {}; this taper knows {VERSION}",
                header.taper_session
            ))
            .help("open it with the newer taper that wrote it"));
        }
        saved.model = Some(header.model);
        saved.created = Some(header.created);
    }
    for (line, number) in lines {
        saved.apply(serde_json::from_slice(line).map_err(|e| damaged(number, &e))?);
    }
    Ok(saved)
}

fn damaged(number: usize, e: &serde_json::Error) -> Error {
    let text = e.to_string();
    let why = text.split(" at line ").next().unwrap_or(&text); // serde_json counts within the line that it was given
    Error::runtime(format!("line {number} of the session, column {}: {why}", e.column()))
        .help("nothing was changed; mend or delete that line, or start another session")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &str) -> Vec<u8> {
        format!("{{\"taper_session\":1,\"model\":\"m\",\"created\":\"2026-01-01T00:00:00Z\"}}\n{lines}").into_bytes()
    }

    fn contents(saved: &Saved) -> Vec<&str> {
        saved.conversation.messages().iter().map(|m| &*m.content).collect()
    }

    fn error(bytes: &[u8]) -> String {
        replay(bytes).unwrap_err().to_string()
    }

    #[test]
    fn events_are_replayed_in_order() {
        let records = [
            Record::System { content: "be brief".into() },
            Record::question("q1"),
            Record::answer("a1", false),
            Record::question("q2"),
            Record::answer("a2", false),
            Record::Undo,
            Record::Regen,
            Record::answer("b1", true),
            Record::Model { name: "other".into() },
        ];
        let lines: String = records.iter().map(|r| String::from_utf8(line(r).unwrap()).unwrap()).collect();
        let saved = replay(&file(&lines)).unwrap();
        assert_eq!(contents(&saved), ["be brief", "q1", "b1"]);
        assert!(saved.interrupted && !saved.is_unanswered());
        assert_eq!((saved.model.as_deref(), saved.torn), (Some("other"), 0));
        for (forgetful, left) in [("clear", 1), ("undo", 1), ("regen", 2)] {
            let saved = replay(&file(&format!("{lines}{{\"type\":\"{forgetful}\"}}\n"))).unwrap();
            assert_eq!((contents(&saved).len(), saved.interrupted), (left, false), "{forgetful}");
        }
    }

    #[test]
    fn what_a_memory_quoted_is_read_with_the_question() {
        let asked = String::from_utf8(line(&Record::question_after("> quoted\n", "why?")).unwrap()).unwrap();
        assert_eq!(contents(&replay(&file(&asked)).unwrap()), ["> quoted\nwhy?"]);
        assert!(!String::from_utf8(line(&Record::question("why?")).unwrap()).unwrap().contains("recalled"));
    }

    #[test]
    fn a_file_torn_at_any_byte_loses_only_the_torn_line() {
        let whole = file("{\"type\":\"message\",\"role\":\"user\",\"content\":\"ä\"}\n");
        for cut in 0..whole.len() {
            let saved = replay(&whole[..cut]).unwrap();
            assert_eq!(saved.whole + saved.torn, cut);
            assert!(contents(&saved).is_empty());
        }
        assert_eq!(contents(&replay(&whole).unwrap()), ["ä"]);
    }

    #[test]
    fn what_cannot_be_understood_is_named_with_its_line() {
        let wizard = error(&file("{\"type\":\"message\",\"role\":\"wizard\",\"content\":\"\"}\n"));
        assert!(wizard.starts_with("line 2 of the session, column "), "{wizard}");
        assert!(wizard.contains("unknown variant `wizard`, expected one of `system`, `user`, `assistant`"), "{wizard}");
        assert!(error(&file("{\"type\":\"clear\"}\nnonsense\n")).contains("line 3"));
        assert!(error(&file("{\"type\":\"dance\"}\n")).contains("unknown variant `dance`"));
        assert!(error(&file("\u{0}\n")).contains("line 2"));
        assert_eq!(error(b"Dear diary,"), "the file is no session of taper's");
        assert_eq!(error(b"Dear diary,\n"), "the file is no session of taper's");
        let newer = String::from_utf8(file("")).unwrap().replace(":1,", ":2,");
        assert!(error(newer.as_bytes()).contains("has format 2; this taper knows 1"));
    }
}
