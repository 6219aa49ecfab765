//! An answer on standard output, as it comes.

use std::borrow::Cow;
use std::io::{IsTerminal, StdoutLock, Write};

use super::color::Color;
use super::markdown::Markdown;
use crate::config::process_env;
use crate::error::{Error, Result};

/// Standard output, flushed with every piece. On a terminal, control characters of the model's text are left out: an answer
/// must not be able to move the cursor, change the title or answer for the user. Pipes and files get the text as it is.
pub struct Answer {
    out: StdoutLock<'static>,
    strips: bool,
    /// `None`: the text stays plain.
    markdown: Option<Markdown>,
    at_line_start: bool,
}

impl Answer {
    /// Plain text.
    pub fn new() -> Self {
        let out = std::io::stdout().lock();
        Self { strips: out.is_terminal(), out, markdown: None, at_line_start: true }
    }

    /// Text whose Markdown is styled where the user and the terminal want that.
    pub fn styled(color: Color) -> Self {
        let answer = Self::new();
        let styles = color.styles(answer.out.is_terminal(), process_env);
        Self { markdown: styles.then(Markdown::default), ..answer }
    }

    /// # Errors
    /// When the text cannot be written; [`crate::error::Kind::OutputClosed`] when the reader has gone.
    pub fn push(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut shown = if self.strips { Cow::Owned(printable(text)) } else { Cow::Borrowed(text) };
        let at_line_start = if shown.is_empty() { self.at_line_start } else { shown.ends_with('\n') };
        if let Some(markdown) = &mut self.markdown {
            shown = Cow::Owned(markdown.style(&shown));
        }
        self.write(&shown)?;
        self.at_line_start = at_line_start;
        Ok(())
    }

    /// Ends the answer's style and its last line, where they are not ended.
    ///
    /// # Errors
    /// As [`Answer::push`].
    pub fn end(&mut self) -> Result<()> {
        if let Some(reset) = self.markdown.as_mut().map(Markdown::end).filter(|reset| !reset.is_empty()) {
            self.write(reset)?;
            self.at_line_start = false;
        }
        if self.at_line_start { Ok(()) } else { self.write("\n") }
    }

    /// Writes a line as it is: JSON, tables.
    ///
    /// # Errors
    /// As [`Answer::push`].
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.write(line)?;
        self.write("\n")
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(Error::output)?;
        self.at_line_start = text.ends_with('\n');
        Ok(())
    }
}

impl Default for Answer {
    fn default() -> Self {
        Self::new()
    }
}

/// The text without control characters, but for newline and tab.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn escapes_lose_their_power_and_text_keeps_its_lines() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\td\u{9b}e\u{7}"), "a[2Jb\nc\tde");
        assert_eq!(printable("naïve 😊"), "naïve 😊");
    }
}
