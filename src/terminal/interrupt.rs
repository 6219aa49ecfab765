//! Ctrl-C. While an answer is being made it ends the answer; at any other time, or a second time, it ends the program with
//! exit code 130.
//!
//! A chat, whose answers are kept, hears SIGTERM and SIGHUP (its window was closed) too: they end the answer as Ctrl-C does,
//! and the program once what came is kept, with the codes that shells have for them, 143 and 129.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::typing;
use crate::error::{Error, Result};

/// Hears signals, at first SIGINT alone, from when it is made.
#[derive(Debug, Clone)]
pub struct Interrupt {
    heard: Arc<Heard>,
    signals: Handle,
}

/// What the thread that hears signals shares with the one that answers.
#[derive(Debug, Default)]
struct Heard {
    /// An answer is being made, or kept.
    answering: AtomicBool,
    /// The signal that ends the answer; 0 for none.
    signal: AtomicI32,
    /// The signal that ends the program after it; 0 for none.
    ending: AtomicI32,
}

impl Heard {
    fn take(&self, signal: i32) {
        if signal != SIGINT {
            self.ending.store(signal, Ordering::SeqCst);
        }
        let before = self.signal.swap(signal, Ordering::SeqCst);
        // A closed window may well send SIGHUP twice: by the shell, and by the system when that has gone.
        let impatient = signal == SIGINT && before == SIGINT;
        if impatient || !self.answering.load(Ordering::SeqCst) {
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
        let (shared, handle) = (heard.clone(), signals.handle());
        let listen = move || signals.forever().for_each(|signal| shared.take(signal));
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
        Ok(Self { heard, signals: handle })
    }

    /// Hears SIGTERM and SIGHUP too. Nobody hears SIGHUP by default: `nohup` is not to be undone.
    ///
    /// # Errors
    /// As [`Interrupt::listen`].
    pub fn hear_endings(&self) -> Result<()> {
        let hear = |signal| self.signals.add_signal(signal);
        let failed = |e| Error::runtime(format!("cannot listen for signals: {e}"));
        [SIGTERM, SIGHUP].into_iter().try_for_each(hear).map_err(failed)
    }

    /// Ends the program if a signal said so while Ctrl-C was caught.
    pub fn leave_if_told(&self) {
        match self.heard.ending.load(Ordering::SeqCst) {
            0 => {}
            signal => leave(signal),
        }
    }

    /// From here the next signal is caught, and ends only the answer, until the guard is dropped.
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

/// Signals are being caught.
#[derive(Debug)]
pub struct Caught<'a>(&'a Interrupt);

impl Caught<'_> {
    /// Whether Ctrl-C came, or another signal that ends the answer.
    pub fn pressed(&self) -> bool {
        self.0.heard.signal.load(Ordering::SeqCst) != 0
    }
}

impl Drop for Caught<'_> {
    fn drop(&mut self) {
        self.0.heard.answering.store(false, Ordering::SeqCst);
    }
}
