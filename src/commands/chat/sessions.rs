//! Sessions as a chat uses them: at its start, `/save`, `/load`, `/sessions`, `/show session`.

use chrono::{DateTime, Local};

use super::autosave::Autosave;
use super::{Chat, lasting};
use crate::cli::{ChatArgs, Cli};
use crate::error::{Error, Result};
use crate::session::{Record, Saved, SessionFile, Sessions};
use crate::terminal::count::counted;
use crate::terminal::log;

/// Lines of `/sessions`.
const LISTED: usize = 20;
/// Characters of a question in it.
const QUESTION: usize = 50;

/// The session that a chat starts with; `saved` where it goes on with one.
pub(super) struct Opened {
    pub file: SessionFile,
    pub saved: Option<Saved>,
}

/// What `--continue` and `--session` ask for, else a new session.
pub(super) fn at_start(args: &ChatArgs, sessions: &Sessions, model: &str) -> Result<Opened> {
    let opened = match &args.session {
        Some(id) => sessions.open(id, model)?,
        None if args.continue_last => sessions.open(&sessions.last()?, model)?,
        None => return Ok(Opened { file: sessions.fresh(model)?, saved: None }),
    };
    Ok(Opened { file: opened.0, saved: Some(opened.1) })
}

impl Chat<'_> {
    /// Takes up the session that the chat starts with. Its system message stays, unless the user named another for this run;
    /// one from the settings file is for new conversations.
    pub(super) fn start(&mut self, saved: Option<Saved>, cli: &Cli) {
        let asked = cli.prompt.system.as_deref().unwrap_or_default();
        let Some(saved) = saved else {
            self.conversation.set_system(asked);
            return;
        };
        let fresh = saved.conversation.is_empty();
        let other = saved.model.as_ref().is_some_and(|model| lasting(model, &self.dirs) != self.model);
        self.take_up(saved);
        if other {
            self.autosave.keep(&[Record::Model { name: self.model.clone() }]);
        }
        let differs = self.conversation.system().unwrap_or_default() != asked;
        if self.autosave.file().is_new() {
            self.conversation.set_system(asked); // written with the first question
        } else if differs && (fresh || cli.prompt.system_named) {
            self.set_system(asked);
        }
    }

    /// Makes a session's conversation this chat's, and tells what the user should know of it.
    fn take_up(&mut self, saved: Saved) {
        let id = self.autosave.file().id();
        if saved.torn > 0 {
            log::note(format_args!("The session's last line was torn and is left out ({} bytes).", saved.torn));
        }
        if saved.conversation.is_empty() {
            self.program.say(format_args!("Session {id} starts here."));
        } else {
            let messages = counted(saved.conversation.messages().len(), "message");
            self.program.say(format_args!("Session {id}, {messages} so far."));
        }
        if saved.is_unanswered() {
            log::note("Its last question has no answer: /regen answers it, a new question takes its place.");
        } else if saved.interrupted {
            log::note("Its last answer was interrupted: /regen gives another.");
        }
        if let Some(model) = saved.model.filter(|model| lasting(model, &self.dirs) != self.model) {
            self.program.say(format_args!("It was with {model}; /model {model} loads that again."));
        }
        self.conversation = saved.conversation;
    }

    pub(super) fn load(&mut self, id: &str) -> Result<()> {
        if id == self.autosave.file().id() {
            return Err(Error::usage(format!("this chat is the session `{id}` already")));
        }
        let (file, saved) = self.sessions.open_existing(id, &self.model)?;
        if self.autosave.is_behind() {
            return Err(Error::runtime("this session has turns that are not saved, which loading another would lose")
                .help("make room on the disk and go on for a turn; or leave with /bye"));
        }
        self.autosave = Autosave::new(file);
        self.take_up(saved);
        Ok(())
    }

    pub(super) fn save(&mut self, id: &str) -> Result<()> {
        self.sessions.save_as(id, &self.model, &self.conversation)?;
        log::note(format_args!("Saved as {id}; /load {id} or --session {id} goes on from here."));
        Ok(())
    }

    pub(super) fn list_sessions(&self) {
        let all = self.sessions.list();
        if all.is_empty() {
            log::note("There is no session yet.");
        }
        for listed in all.iter().take(LISTED) {
            let when: DateTime<Local> = listed.modified.into();
            let question = one_line(&self.sessions.first_question(&listed.id));
            log::note(format_args!("{}  {}  {question}", listed.id, when.format("%Y-%m-%d %H:%M")));
        }
        if all.len() > LISTED {
            log::note(format_args!("… and {} older ones", all.len() - LISTED));
        }
    }

    pub(super) fn show_session(&self) {
        let file = self.autosave.file();
        let state = match () {
            () if self.autosave.is_behind() => "not all of it saved",
            () if file.is_new() => "nothing to save yet",
            () => "saved",
        };
        let messages = counted(self.conversation.messages().len(), "message");
        log::note(format_args!("session {}, {messages}, {state}: {}", file.id(), file.path().display()));
    }
}

/// The start of a question, without its line ends and anything that a terminal would obey.
fn one_line(question: &str) -> String {
    let mut words = question.split_whitespace().collect::<Vec<_>>().join(" ");
    words.retain(|c| !c.is_control());
    match words.char_indices().nth(QUESTION) {
        Some((end, _)) => words[..end].to_owned() + "…",
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_listed_question_is_one_harmless_line() {
        assert_eq!(one_line("two\nlines \u{1b}[2J"), "two lines [2J");
        assert_eq!(one_line(&"ä".repeat(60)), "ä".repeat(50) + "…");
    }
}
