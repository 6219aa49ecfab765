//! The one error a user meets: what failed, where, and what to do about it.
//!
//! Modules whose callers need to tell failures apart keep a typed error of their own (for example
//! [`crate::format::gguf::GgufError`]) and turn it into this one at their border. `main` alone turns the
//! [`Kind`] into an exit code.

use std::fmt;
use std::path::Path;

/// `Result` with taper's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it was; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It went wrong while running: a file could not be written, a step failed.
    Runtime,
    /// The command line asks for something that cannot be.
    Usage,
    /// The model, its files or the registry: absent, damaged, unsupported.
    Model,
    /// It does not fit: in memory, or in the context.
    Memory,
    /// The user stopped it.
    Interrupted,
    /// Whoever read the output has gone (`taper … | head`): not a failure.
    OutputClosed,
}

impl Kind {
    /// The process's exit code: 1 run time, 2 usage, 3 model or registry, 4 memory, 130 interrupted; 0 when the reader of
    /// the output has gone.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Runtime => 1,
            Self::Usage => 2,
            Self::Model => 3,
            Self::Memory => 4,
            Self::Interrupted => 130,
        }
    }
}

/// A failure in the user's terms. Displays as `what`, then `where`, then `what to do`, each on its own line.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    place: Option<String>,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), place: None, help: None, source: None }
    }

    pub fn runtime(what: impl Into<String>) -> Self {
        Self::new(Kind::Runtime, what)
    }

    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    pub fn model(what: impl Into<String>) -> Self {
        Self::new(Kind::Model, what)
    }

    pub fn memory(what: impl Into<String>) -> Self {
        Self::new(Kind::Memory, what)
    }

    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// Names the file, tensor or flag that failed. The first call wins: the innermost place is the exact one.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place.get_or_insert_with(|| place.to_string());
        self
    }

    /// [`Error::at`] for a file.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Self {
        self.at(path.display())
    }

    /// Says what the user can do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.get_or_insert_with(|| help.into());
        self
    }

    /// Keeps the cause for `-v` and for [`std::error::Error::source`].
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    /// A failure to write what was asked for.
    pub fn output(source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Kind::OutputClosed, "the output was closed").caused_by(source);
        }
        Self::runtime(format!("cannot write the output: {source}")).caused_by(source)
    }

    /// The system's answer to a file operation, with the file's name.
    pub fn io(doing: &str, path: &Path, source: std::io::Error) -> Self {
        Self::runtime(format!("cannot {doing}: {source}")).in_file(path).caused_by(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n  in {place}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}
