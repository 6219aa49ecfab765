//! How much of a long prompt has been read, while there is nothing else to see. On a terminal only, and gone when the answer
//! starts.

use std::io::{IsTerminal, Write};

use super::color::is_dumb;
use crate::config::process_env;

/// The line that shows it.
#[derive(Debug)]
pub struct Reading {
    shows: bool,
    on_screen: bool,
}

impl Reading {
    /// On standard error, when that is a terminal that can wipe a line.
    pub fn new(quiet: bool) -> Self {
        Self { shows: !quiet && std::io::stderr().is_terminal() && !is_dumb(process_env), on_screen: false }
    }

    /// `computed` of `total` tokens are read.
    pub fn at(&mut self, computed: usize, total: usize) {
        if self.shows {
            self.on_screen = true;
            show(&format!("\r\x1b[2Kreading the prompt: {computed} of {total} tokens"));
        }
    }

    /// Takes the line away.
    pub fn wipe(&mut self) {
        if std::mem::take(&mut self.on_screen) {
            show("\r\x1b[2K");
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Progress that cannot be shown must not stop the work.
fn show(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
