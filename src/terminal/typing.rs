//! The terminal's settings for as long as a chat has it.
//!
//! The line editor changes them at its prompt alone. Between prompts, while an answer comes, a terminal as it is found
//! shows what is typed amid the answer, and makes Enter a newline, which at the next prompt is Ctrl-J and sends nothing. So
//! a chat turns both off for as long as it lasts: what is typed ahead waits, unseen, and is then as if it had been typed
//! at the prompt. Ctrl-C stays a signal.

use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

const TERMINAL: &str = "/dev/tty";
/// A read waits for a byte.
const PATIENT: (u8, u8) = (1, 0);
/// A read ends after a tenth of a second without a byte.
const IMPATIENT: (u8, u8) = (0, 1);

/// The settings to go back to; `None` while no chat has the terminal.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal takes what is typed ahead, until this is dropped.
#[derive(Debug)]
pub struct TypeAhead(());

impl TypeAhead {
    pub fn start() -> Self {
        let mut before = before();
        if before.is_none() {
            *before = File::open(TERMINAL).ok().and_then(|terminal| tcgetattr(terminal).ok());
            before.iter().for_each(|settings| {
                ahead(settings, PATIENT);
            });
        }
        Self(())
    }

    /// Throws away what has been typed, or pasted, and not read.
    pub fn discard(&self) {
        let Some(before) = &*before() else { return };
        if !ahead(before, IMPATIENT) {
            return;
        }
        if let Ok(mut terminal) = File::open(TERMINAL) {
            let mut buffer = [0; 4096];
            while terminal.read(&mut buffer).is_ok_and(|n| n > 0) {}
        }
        ahead(before, PATIENT);
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
        set(&settings);
    }
}

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing is shown, Enter stays Enter, and every byte can be read at once: a read waits for so many bytes, at most so many
/// tenths of a second. Whether that is so now.
fn ahead(before: &Termios, (bytes, tenths): (u8, u8)) -> bool {
    let mut settings = before.clone();
    settings.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
    settings.input_flags.remove(InputFlags::ICRNL);
    settings.control_chars[SpecialCharacterIndices::VMIN as usize] = bytes;
    settings.control_chars[SpecialCharacterIndices::VTIME as usize] = tenths;
    set(&settings)
}

fn set(settings: &Termios) -> bool {
    File::open(TERMINAL).is_ok_and(|terminal| tcsetattr(terminal, SetArg::TCSADRAIN, settings).is_ok())
}
