//! Ctrl-C. While an answer is being made it ends the answer; at any other time, or a second time, it ends the program with
//! exit code 130.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;

use crate::error::{Error, Kind, Result};

/// Hears SIGINT from when it is made.
#[derive(Debug, Clone)]
pub struct Interrupt {
    /// Set by the signal; while it is set, a further signal ends the program.
    pressed: Arc<AtomicBool>,
}

impl Interrupt {
    /// # Errors
    /// When the system refuses a signal handler.
    pub fn listen() -> Result<Self> {
        let pressed = Arc::new(AtomicBool::new(true)); // nothing to end yet but the program
        let failed = |e| Error::runtime(format!("cannot listen for Ctrl-C: {e}"));
        let code = i32::from(Kind::Interrupted.exit_code());
        signal_hook::flag::register_conditional_shutdown(SIGINT, code, pressed.clone()).map_err(failed)?;
        signal_hook::flag::register(SIGINT, pressed.clone()).map_err(failed)?;
        Ok(Self { pressed })
    }

    /// From here the next Ctrl-C is caught, and ends only the answer, until the guard is dropped.
    pub fn catch(&self) -> Caught<'_> {
        self.pressed.store(false, Ordering::SeqCst);
        Caught(self)
    }
}

/// Ctrl-C is being caught.
#[derive(Debug)]
pub struct Caught<'a>(&'a Interrupt);

impl Caught<'_> {
    /// Whether Ctrl-C came.
    pub fn pressed(&self) -> bool {
        self.0.pressed.load(Ordering::SeqCst)
    }
}

impl Drop for Caught<'_> {
    fn drop(&mut self) {
        self.0.pressed.store(true, Ordering::SeqCst);
    }
}
