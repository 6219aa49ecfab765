//! An answer on standard output, as it comes.

use std::io::{IsTerminal, StdoutLock, Write};

use crate::error::{Error, Result};

/// Standard output, flushed with every piece. On a terminal, control characters of the model's text are left out: an answer
/// must not be able to move the cursor, change the title or answer for the user. Pipes and files get the text as it is.
pub struct Answer {
    out: StdoutLock<'static>,
    strips: bool,
    at_line_start: bool,
}

impl Answer {
    pub fn new() -> Self {
        let out = std::io::stdout().lock();
        Self { strips: out.is_terminal(), out, at_line_start: true }
    }

    /// # Errors
    /// When the text cannot be written; [`crate::error::Kind::OutputClosed`] when the reader has gone.
    pub fn push(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if self.strips {
            let shown = printable(text);
            self.write(&shown)
        } else {
            self.write(text)
        }
    }

    /// Ends the answer's last line, if it is not ended.
    ///
    /// # Errors
    /// As [`Answer::push`].
    pub fn end(&mut self) -> Result<()> {
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
