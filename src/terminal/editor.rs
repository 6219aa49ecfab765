//! Reading what the user types in a chat: one line, or several.
//!
//! A message goes over several lines between `"""` and `"""`, after a trailing `\`, or with Ctrl-J where a line should end.

use rustyline::error::ReadlineError;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Cmd, Completer, Config, Editor, Helper, Highlighter, Hinter, KeyEvent, history};

use crate::error::{Error, Result};

const QUOTES: &str = "\"\"\"";

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
pub struct LineEditor(Editor<MultiLine, history::MemHistory>);

impl LineEditor {
    /// # Errors
    /// When the terminal cannot be set up.
    pub fn new() -> Result<Self> {
        let config = Config::builder().behavior(Behavior::PreferTerm).auto_add_history(false).build();
        let mut editor = Editor::with_history(config, history::MemHistory::new()).map_err(failed)?;
        editor.set_helper(Some(MultiLine));
        editor.bind_sequence(KeyEvent::ctrl('J'), Cmd::Newline);
        Ok(Self(editor))
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn read(&mut self, prompt: &str) -> Result<Input> {
        match self.0.readline(prompt) {
            Ok(line) => {
                self.0.add_history_entry(&line).map_err(failed)?;
                Ok(Input::Text(unquote(&line)))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupted),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(e) => Err(failed(e)),
        }
    }
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
    text.replace("\\\n", "\n")
}

#[derive(Completer, Helper, Highlighter, Hinter)]
struct MultiLine;

impl Validator for MultiLine {
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
    fn a_trailing_backslash_goes_on() {
        assert!(is_open("one\\") && !is_open("one\\\ntwo"));
        assert_eq!(unquote("one\\\ntwo"), "one\ntwo");
        assert_eq!(unquote("a \\ b"), "a \\ b");
    }
}
