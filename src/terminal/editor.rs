//! Reading what the user types in a chat: one line, or several.
//!
//! A message goes over several lines between `"""` and `"""`, after a trailing `\`, or with Ctrl-J where a line should end;
//! several lines that are pasted are one message. Tab completes, the arrow keys go through what was typed before, in
//! earlier chats too. Lines that are typed ahead, while an answer comes, are messages one by one.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Cmd, CompletionType, Config, Context, Editor, Helper, Highlighter, KeyEvent};

use super::log;
use super::typing::TypeAhead;
use crate::config::process_env;
use crate::error::{Error, Result};

const QUOTES: &str = "\"\"\"";
/// Entries that the history keeps.
const HISTORY: usize = 1000;
/// Longest entry, in bytes: a pasted book is a message, but nobody looks for it with the arrow keys.
const HISTORY_ENTRY: usize = 64 << 10;

/// What came from the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D, or the terminal has gone.
    End,
}

/// The line editor.
pub struct LineEditor {
    editor: Editor<Typing, FileHistory>,
    /// Where the history is kept; `None` after that failed.
    history: Option<PathBuf>,
    ahead: Option<TypeAhead>,
}

impl LineEditor {
    /// `history` is the file that keeps what was typed, readable for the user alone.
    ///
    /// # Errors
    /// When the terminal cannot be set up.
    pub fn new(history: PathBuf) -> Result<Self> {
        let config = Config::builder()
            .behavior(Behavior::PreferTerm)
            .auto_add_history(false)
            .max_history_size(HISTORY)
            .map_err(failed)?
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .build();
        let mut editor = Editor::with_history(config.clone(), FileHistory::with_config(&config)).map_err(failed)?;
        editor.set_helper(Some(Typing::default()));
        editor.bind_sequence(KeyEvent::ctrl('J'), Cmd::Newline);
        // Where lines cannot be edited they are read as the terminal gives them, when Enter has ended them.
        let ahead = process_env("TERM").is_none_or(|term| !is_plain(&term)).then(TypeAhead::start);
        let mut editor = Self { editor, history: Some(history), ahead };
        editor.load_history();
        Ok(editor)
    }

    /// What Tab completes: whole lines, of which it gives the next word.
    pub fn set_phrases(&mut self, phrases: Vec<String>) {
        if let Some(typing) = self.editor.helper_mut() {
            typing.phrases = phrases;
        }
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn read(&mut self, prompt: &str) -> Result<Input> {
        let mut typed = (String::new(), String::new());
        loop {
            match self.editor.readline_with_initial(prompt, (&typed.0, &typed.1)) {
                Ok(line) => {
                    self.remember(&line)?;
                    return Ok(Input::Text(unquote(&line)));
                }
                Err(ReadlineError::Interrupted) => return Ok(Input::Interrupted),
                Err(ReadlineError::Eof) => return Ok(Input::End),
                Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::InvalidData => typed = self.leave_out(),
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// After bytes that are not UTF-8: gives what had been typed before them, left and right of the cursor. rustyline has
    /// thrown away what it had read with them; the rest of it goes too, so that no half of a paste is sent as a message.
    fn leave_out(&mut self) -> (String, String) {
        if let Some(ahead) = &self.ahead {
            ahead.discard();
        }
        log::note("Bytes that are not UTF-8 came in: they, and what came together with them, are left out.");
        self.editor.helper().map(|typing| typing.typed.borrow().clone()).unwrap_or_default()
    }

    fn load_history(&mut self) {
        let Some(path) = self.history.as_ref().filter(|path| path.exists()) else { return };
        if let Err(e) = self.editor.load_history(path) {
            self.give_up_history("read", &e);
        }
    }

    /// Written at once, so that a killed chat forgets nothing.
    fn remember(&mut self, line: &str) -> Result<()> {
        if line.len() > HISTORY_ENTRY || !self.editor.add_history_entry(line).map_err(failed)? {
            return Ok(());
        }
        let Some(path) = &self.history else { return Ok(()) };
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(ReadlineError::from);
        if let Err(e) = folder.and_then(|()| self.editor.append_history(path)) {
            self.give_up_history("write", &e);
        }
        Ok(())
    }

    /// A history that cannot be kept is no reason to end a chat.
    fn give_up_history(&mut self, doing: &str, e: &ReadlineError) {
        if let Some(path) = self.history.take() {
            log::note(format_args!(
                "cannot {doing} the history of what was typed: {e}\n  in {}\n  it is not kept for this chat",
                path.display()
            ));
        }
    }
}

/// Whether rustyline leaves a terminal of that name as it is.
fn is_plain(term: &OsStr) -> bool {
    ["dumb", "cons25", "emacs"].iter().any(|plain| term.eq_ignore_ascii_case(plain))
}

fn failed(e: ReadlineError) -> Error {
    Error::runtime(format!("cannot read from the terminal: {e}")).caused_by(e)
}

/// Whether more lines must follow.
fn is_open(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTES) {
        Some(quoted) => !quoted.trim_end().ends_with(QUOTES),
        None => text.ends_with('\\'),
    }
}

/// The message without the marks that let it go over several lines.
fn unquote(text: &str) -> String {
    if let Some(quoted) = text.trim().strip_prefix(QUOTES) {
        return quoted.strip_suffix(QUOTES).unwrap_or(quoted).trim_matches('\n').to_owned();
    }
    text.replace("\\\n", "\n").trim_end_matches('\n').to_owned()
}

/// What rustyline asks while a line is typed.
#[derive(Default, Helper, Highlighter)]
struct Typing {
    phrases: Vec<String>,
    /// The line as it was last shown, left and right of the cursor.
    typed: RefCell<(String, String)>,
}

/// No hints: rustyline tells here what the line has become, and nowhere else.
impl Hinter for Typing {
    type Hint = String;

    fn hint(&self, line: &str, cursor: usize, _: &Context<'_>) -> Option<String> {
        let (left, right) = line.split_at(cursor);
        self.typed.replace((left.to_owned(), right.to_owned()));
        None
    }
}

impl Completer for Typing {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(next_words(&self.phrases, &line[..cursor]))
    }
}

/// Where the last word of `typed` starts, and what it can become: the word that follows in every phrase that begins so.
fn next_words(phrases: &[String], typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(' ').map_or(0, |space| space + 1);
    let fitting = phrases.iter().filter(|phrase| phrase.starts_with(typed) && phrase.len() > typed.len());
    let mut words: Vec<String> =
        fitting.filter_map(|phrase| phrase[start..].split_inclusive(' ').next()).map(str::to_owned).collect();
    words.sort_unstable();
    words.dedup();
    (start, words)
}

impl Validator for Typing {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(ctx.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quotes_hold_lines_together() {
        assert!(is_open("\"\"\"") && is_open("\"\"\"one\ntwo"));
        assert!(!is_open("\"\"\"one\ntwo\"\"\"") && !is_open("say \"\"\" to me"));
        assert_eq!(unquote("\"\"\"\none\ntwo\n\"\"\""), "one\ntwo");
        assert_eq!(unquote("\"\"\"one\"\"\""), "one");
    }

    #[test]
    fn tab_gives_the_next_word_of_every_phrase_that_fits() {
        let phrases =
            ["/set ", "/show ", "/set temp ", "/set top-k ", "/show template", "/load über-1"].map(str::to_owned);
        let words = |typed: &str| next_words(&phrases, typed);
        assert_eq!(words("/s"), (0, vec!["/set ".into(), "/show ".into()]));
        assert_eq!(words("/set t"), (5, vec!["temp ".into(), "top-k ".into()]));
        assert_eq!(words("/load ü"), (6, vec!["über-1".into()]));
        assert_eq!(words("hello"), (0, vec![]));
        assert_eq!(words("/show template").1, Vec::<String>::new());
    }

    #[test]
    fn a_trailing_backslash_goes_on() {
        assert!(is_open("one\\") && !is_open("one\\\ntwo"));
        assert_eq!(unquote("one\\\ntwo"), "one\ntwo");
        assert_eq!(unquote("a \\ b"), "a \\ b");
        assert_eq!(unquote("one\n\n"), "one", "Ctrl-J before Enter is none of the message");
    }
}
