//! Ctrl-C. While an answer is being made it ends the answer; at any other time, or a second time, it ends the program with
//! exit code 130.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use super::typing;
use crate::error::{Error, Result};

/// Hears SIGINT from when it is made.
#[derive(Debug, Clone)]
pub struct Interrupt {
    heard: Arc<Heard>,
}

/// What the thread that hears signals shares with the one that answers.
#[derive(Debug, Default)]
struct Heard {
    /// An answer is being made, or kept.
    answering: AtomicBool,
    /// The signal that ends the answer; 0 for none.
    signal: AtomicI32,
}

impl Heard {
    fn take(&self, signal: i32) {
        if !self.answering.load(Ordering::SeqCst) || self.signal.swap(signal, Ordering::SeqCst) == signal {
            leave(signal);
        }
    }
}

impl Interrupt {
    /// # Errors
    /// When the system refuses a signal handler, or a thread.
    pub fn listen() -> Result<Self> {
        let failed = |e| Error::runtime(format!("cannot listen for Ctrl-C: {e}"));
        let mut signals = Signals::new([SIGINT]).map_err(failed)?;
        let heard = Arc::new(Heard::default());
        let shared = heard.clone();
        let listen = move || signals.forever().for_each(|signal| shared.take(signal));
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
        Ok(Self { heard })
    }

    /// From here the next Ctrl-C is caught, and ends only the answer, until the guard is dropped.
    pub fn catch(&self) -> Caught<'_> {
        self.heard.signal.store(0, Ordering::SeqCst);
        self.heard.answering.store(true, Ordering::SeqCst);
        Caught(self)
    }
}

/// Ends the program at once, with the exit code that shells have for an end by that signal.
fn leave(signal: i32) -> ! {
    typing::restore();
    signal_hook::low_level::exit(128 + signal)
}

/// Ctrl-C is being caught.
#[derive(Debug)]
pub struct Caught<'a>(&'a Interrupt);

impl Caught<'_> {
    /// Whether Ctrl-C came.
    pub fn pressed(&self) -> bool {
        self.0.heard.signal.load(Ordering::SeqCst) != 0
    }
}

impl Drop for Caught<'_> {
    fn drop(&mut self) {
        self.0.heard.answering.store(false, Ordering::SeqCst);
    }
}
