//! Messages on standard error: `warning: …`, `error: …`, one line each, no time and no source location.

use std::fmt;
use std::io::Write;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::error::Error;

/// Shows taper's own messages from warnings up (`-q`: errors only, `-v`: information, `-vv`: all).
pub fn init(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    // What the hub's client logs as an error, taper tries again, or tells in its own words.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("error,hf_hub=off,taper={level}")))
        .with_writer(Stderr)
        .event_format(Line)
        .finish();
    // A second call (a library user has a subscriber of their own) leaves the first in place.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Shows an error that ends the program.
pub fn error(e: &Error) {
    // Nothing can be done when standard error is closed too.
    let _ = writeln!(std::io::stderr().lock(), "error: {e}");
}

/// Tells the user something; not an answer, so not on standard output.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = std::io::Stderr;

    fn make_writer(&'a self) -> Self::Writer {
        std::io::stderr()
    }
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        write!(writer, "{level}: ")?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
