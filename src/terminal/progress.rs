//! How far a long piece of work is, on standard error.
//!
//! Three forms of the same thing: a bar that redraws itself on a terminal, plain lines (the start, every 10 %, the
//! end) when standard error is a pipe or a file, and nothing at all under `-q`. Only the bar ever writes an escape.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The form that progress takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// A bar that redraws itself: for a terminal.
    Bar,
    /// Plain lines: for pipes, files and terminals that cannot move the cursor.
    Lines,
    /// Nothing.
    #[default]
    Quiet,
}

impl Mode {
    /// The form that fits this process's standard error.
    pub fn for_stderr(quiet: bool) -> Self {
        if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb") {
            Self::Bar
        } else {
            Self::Lines
        }
    }

    /// Tells the user something in a line of its own.
    pub fn note(self, line: &str) {
        if self != Self::Quiet {
            say(&mut std::io::stderr().lock(), line);
        }
    }
}

/// One piece of work of a known number of bytes. Dropping it takes the bar off the screen.
pub struct Progress(Form);

enum Form {
    Bar(ProgressBar),
    Lines(Lines),
    Quiet,
}

impl Progress {
    /// Starts at 0 of `total` bytes.
    pub fn new(mode: Mode, label: &str, total: u64) -> Self {
        Self(match mode {
            Mode::Bar => Form::Bar(bar(label, total)),
            Mode::Lines => Form::Lines(Lines::new(label, total, Box::new(std::io::stderr()))),
            Mode::Quiet => Form::Quiet,
        })
    }

    /// `position` bytes are done. One beyond the total counts as the total.
    pub fn set(&self, position: u64) {
        match &self.0 {
            Form::Bar(bar) => bar.set_position(position.min(bar.length().unwrap_or(position))),
            Form::Lines(lines) => lines.set(position),
            Form::Quiet => {}
        }
    }

    /// Tells the user something in a line of its own, above the bar.
    pub fn note(&self, line: &str) {
        match &self.0 {
            Form::Bar(bar) => bar.suspend(|| say(&mut std::io::stderr().lock(), line)),
            Form::Lines(lines) => lines.say(line),
            Form::Quiet => {}
        }
    }

    /// The work is done.
    pub fn finish(self) {
        if let Form::Lines(lines) = &self.0 {
            lines.set(lines.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Form::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str =
    "{msg} [{wide_bar}] {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {elapsed}";

fn bar(label: &str, total: u64) -> ProgressBar {
    // The template is a constant; were it ever wrong, a plainer bar is no reason to stop a download.
    let style =
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar.set_message(label.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(200)); // the clock moves even when no byte arrives
    bar
}

/// The plain form. A step is a tenth of the total; each is told once, however often `set` is called.
struct Lines {
    label: String,
    total: u64,
    told: AtomicU64,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Lines {
    fn new(label: &str, total: u64, mut out: Box<dyn Write + Send>) -> Self {
        say(&mut out, &format!("{label}: {}", megabytes(total)));
        Self { label: label.to_owned(), total, told: AtomicU64::new(0), out: Mutex::new(out) }
    }

    fn set(&self, position: u64) {
        let tenths = tenths(position, self.total);
        if self.told.fetch_max(tenths, Ordering::Relaxed) < tenths {
            self.say(&format!("{}: {}", self.label, share(tenths)));
        }
    }

    fn say(&self, line: &str) {
        if let Ok(mut out) = self.out.lock() {
            say(&mut *out, line);
        }
    }
}

fn share(tenths: u64) -> String {
    if tenths == 10 { "done".to_owned() } else { format!("{tenths}0 %") }
}

fn tenths(position: u64, total: u64) -> u64 {
    if position >= total { 10 } else { (u128::from(position) * 10 / u128::from(total)) as u64 }
}

/// A size as people read it: decimal, as pip and the hub print it.
pub fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Progress that cannot be shown must not stop the work: a closed standard error is ignored.
fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn told(total: u64, positions: &[u64]) -> String {
        let out = Shared::default();
        let lines = Lines::new("model", total, Box::new(out.clone()));
        for position in positions {
            lines.set(*position);
        }
        Progress(Form::Lines(lines)).finish();
        String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_tell_each_tenth_once_and_the_end_once() {
        let text = told(1_000_000, &[0, 1, 99_999, 100_000, 150_000, 149_000, 500_000, 1_000_000, 2_000_000]);
        assert_eq!(text, "model: 1.0 MB\nmodel: 10 %\nmodel: 50 %\nmodel: done\n");
    }

    #[test]
    fn finishing_early_still_says_done() {
        assert_eq!(told(500, &[499]), "model: 500 bytes\nmodel: 90 %\nmodel: done\n");
    }

    #[test]
    fn nothing_to_do_and_sizes_that_would_wrap_are_fine() {
        assert_eq!(told(0, &[0]), "model: 0 bytes\nmodel: done\n");
        assert_eq!(tenths(u64::MAX - 1, u64::MAX), 9);
    }

    #[test]
    fn the_bar_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
