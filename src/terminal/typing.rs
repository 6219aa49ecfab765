//! The terminal's settings for as long as a chat has it.
//!
//! The line editor changes them at its prompt alone. Between prompts, while an answer comes, a terminal as it is found
//! shows what is typed amid the answer, and makes Enter a newline, which at the next prompt is Ctrl-J and sends nothing. So
//! a chat turns both off for as long as it lasts: what is typed ahead waits, unseen, and is then as if it had been typed
//! at the prompt. Ctrl-C stays a signal.
//!
//! `stty` does it, which is part of POSIX: the standard library has no call for it. Where there is none the terminal stays
//! as it is found.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

const TERMINAL: &str = "/dev/tty";
/// Nothing is shown, Enter stays Enter, and every byte can be read at once.
const AHEAD: [&str; 7] = ["-echo", "-icanon", "-icrnl", "min", "1", "time", "0"];
/// A read ends after a tenth of a second without a byte.
const IMPATIENT: [&str; 4] = ["min", "0", "time", "1"];

/// The settings to go back to, in `stty`'s own form; `None` while no chat has the terminal.
static BEFORE: Mutex<Option<String>> = Mutex::new(None);

/// The terminal takes what is typed ahead, until this is dropped.
#[derive(Debug)]
pub struct TypeAhead(());

impl TypeAhead {
    pub fn start() -> Self {
        let mut before = before();
        if before.is_none() {
            *before = stty(&["-g"]);
            stty(&AHEAD);
        }
        Self(())
    }

    /// Throws away what has been typed, or pasted, and not read.
    pub fn discard(&self) {
        if before().is_none() || stty(&IMPATIENT).is_none() {
            return;
        }
        if let Ok(mut terminal) = File::open(TERMINAL) {
            let mut buffer = [0; 4096];
            while terminal.read(&mut buffer).is_ok_and(|n| n > 0) {}
        }
        stty(&AHEAD);
    }
}

impl Drop for TypeAhead {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was found. For whoever ends the program without dropping what it holds.
pub fn restore() {
    if let Some(settings) = before().take() {
        stty(&[settings.trim()]);
    }
}

fn before() -> MutexGuard<'static, Option<String>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What it printed; `None` when it could not do that.
fn stty(settings: &[&str]) -> Option<String> {
    let terminal = File::open(TERMINAL).ok()?;
    let output = Command::new("stty").args(settings).stdin(terminal).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
