//! Text from outside, whole and to a bound: `taper < /dev/zero` must end, and before the memory does.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use crate::engine::fit::human_bytes;
use crate::error::{Error, Result};

/// Many times what any context holds. Tokenizing can take a hundred times as much memory.
const MOST: u64 = 64 << 20;

/// All of standard input.
///
/// # Errors
/// When it cannot be read, or does not end within the bound.
pub(super) fn stdin() -> Result<Vec<u8>> {
    bounded(io::stdin().lock()).map_err(|e| unreadable("standard input", e))
}

/// All of a file; `what` is its part, as "the prompt".
///
/// # Errors
/// As [`stdin`].
pub(super) fn file(what: &str, path: &Path) -> Result<Vec<u8>> {
    File::open(path).and_then(bounded).map_err(|e| unreadable(what, e).in_file(path))
}

/// Bytes of `what` that must be text.
///
/// # Errors
/// When they are not UTF-8.
pub(super) fn text(what: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::usage(format!("{what} is no text: byte {at} is not UTF-8")).caused_by(e)
    })
}

/// Asks on the terminal; anything but yes is no.
///
/// # Errors
/// When there is no terminal to ask on.
pub(super) fn agreed(question: &str) -> Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::usage("rm asks before it removes, and there is no terminal to ask on")
            .help("add -y to remove without a question"));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).map_err(Error::output)?;
    let mut reply = String::new();
    stdin.read_line(&mut reply).map_err(|e| Error::runtime(format!("cannot read the reply: {e}")))?;
    Ok(matches!(reply.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {}", human_bytes(MOST))));
    }
    Ok(bytes)
}

fn unreadable(what: &str, e: io::Error) -> Error {
    let too_long = e.kind() == io::ErrorKind::FileTooLarge;
    let error = Error::usage(format!("cannot read {what}: {e}")).caused_by(e);
    if too_long { error.help("no model takes as much at once: give a part of it") } else { error }
}
