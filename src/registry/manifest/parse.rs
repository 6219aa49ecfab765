//! The text of a manifest: its form as serde reads it, and the checks that serde cannot make.
//!
//! Every value that a check may refuse is a [`Spanned`], so that the refusal can point at it.

use std::collections::HashSet;
use std::path::{Component, Path};

use serde::Deserialize;
use toml::Spanned;

use super::super::resolve::is_gguf;
use super::{Hub, HubFile, Manifest, Model, ModelKind, Source, Wheel, WheelFile};

/// What is wrong, and where: both counted from 1, the column in characters, as editors show them.
pub(super) struct Invalid {
    pub what: String,
    pub line: usize,
    pub column: usize,
}

pub(super) fn parse(text: &str) -> Result<Manifest, Invalid> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let checked = toml::from_str::<RawManifest>(text)
        .map_err(|e| Wrong { what: e.message().trim().to_owned(), byte: e.span().map_or(0, |span| span.start) })
        .and_then(RawManifest::check);
    checked.map_err(|Wrong { what, byte }| {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[line_start..].chars().count() + 1;
        Invalid { what, line: before.matches('\n').count() + 1, column }
    })
}

struct Wrong {
    what: String,
    byte: usize,
}

fn wrong<T, V>(place: &Spanned<V>, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { what: what.into(), byte: place.span().start })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    default: Spanned<String>,
    #[serde(rename = "model")]
    models: Vec<RawModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    name: Spanned<String>,
    #[serde(default)]
    aliases: Vec<Spanned<String>>,
    description: String,
    licence: String,
    kind: ModelKind,
    #[serde(rename = "source", default)]
    sources: Vec<Spanned<RawSource>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    wheel: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    bytes: Option<u64>,
    hub: Option<Spanned<String>>,
    revision: Option<Spanned<String>>,
    files: Vec<Spanned<RawFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    name: Spanned<String>,
    member: Option<Spanned<String>>,
    bytes: Option<u64>,
    sha256: Option<Spanned<String>>,
}

impl RawManifest {
    fn check(self) -> Result<Manifest, Wrong> {
        let mut taken = HashSet::new();
        for name in self.models.iter().flat_map(|model| std::iter::once(&model.name).chain(&model.aliases)) {
            check_model_name(name)?;
            if !taken.insert(name.get_ref()) {
                return wrong(name, format!("`{}` is already the name or an alias of a model", name.get_ref()));
            }
        }
        if !self.models.iter().any(|model| model.name == self.default) {
            return wrong(&self.default, format!("the default `{}` is no model's name", self.default.get_ref()));
        }
        let models = self.models.into_iter().map(RawModel::check).collect::<Result<_, _>>()?;
        Ok(Manifest { default: self.default.into_inner(), models })
    }
}

impl RawModel {
    fn check(self) -> Result<Model, Wrong> {
        if self.sources.is_empty() {
            return wrong(&self.name, format!("`{}` has no source", self.name.get_ref()));
        }
        Ok(Model {
            name: self.name.into_inner(),
            aliases: self.aliases.into_iter().map(Spanned::into_inner).collect(),
            description: self.description,
            licence: self.licence,
            kind: self.kind,
            sources: self.sources.iter().map(check_source).collect::<Result<_, _>>()?,
        })
    }
}

fn check_source(source: &Spanned<RawSource>) -> Result<Source, Wrong> {
    let RawSource { wheel, version, bytes, hub, revision, files } = source.get_ref();
    let checked = match (wheel, version, *bytes, hub, revision) {
        (Some(package), Some(version), Some(bytes), None, None) => Source::Wheel(Wheel {
            package: check_word(package)?,
            version: check_word(version)?,
            bytes,
            files: files.iter().map(check_wheel_file).collect::<Result<_, _>>()?,
        }),
        (None, None, None, Some(repo), Some(revision)) => Source::Hub(Hub {
            repo: check_repo(repo)?,
            revision: check_word(revision)?,
            files: files.iter().map(check_hub_file).collect::<Result<_, _>>()?,
        }),
        _ => return wrong(source, "a source has either `wheel`, `version` and `bytes`, or `hub` and `revision`"),
    };
    check_layout(source)?;
    Ok(checked)
}

/// A source is what the loader can open: one GGUF file, or a safetensors folder.
fn check_layout(source: &Spanned<RawSource>) -> Result<(), Wrong> {
    let mut names = HashSet::new();
    for file in &source.get_ref().files {
        let name = &file.get_ref().name;
        if !names.insert(name.get_ref().as_str()) {
            return wrong(name, format!("`{}` is there twice", name.get_ref()));
        }
    }
    let gguf = names.len() == 1 && names.iter().all(|name| is_gguf(name.as_ref()));
    let folder = names.contains("config.json") && names.contains("model.safetensors");
    if gguf || folder {
        return Ok(());
    }
    wrong(source, "`files` has to be one .gguf, or config.json and model.safetensors with what belongs to them")
}

fn check_wheel_file(file: &Spanned<RawFile>) -> Result<WheelFile, Wrong> {
    let RawFile { name, member: Some(member), bytes: Some(bytes), sha256: Some(sha256) } = file.get_ref() else {
        return wrong(file, "a file of a wheel has `name`, `member`, `bytes` and `sha256`");
    };
    Ok(WheelFile { name: check_path(name)?, member: check_path(member)?, bytes: *bytes, sha256: check_sha256(sha256)? })
}

fn check_hub_file(file: &Spanned<RawFile>) -> Result<HubFile, Wrong> {
    let RawFile { name, member: None, bytes, sha256 } = file.get_ref() else {
        return wrong(file, "only a file of a wheel has a `member`");
    };
    let sha256 = sha256.as_ref().map(check_sha256).transpose()?;
    Ok(HubFile { name: check_path(name)?, bytes: *bytes, sha256 })
}

/// A model's name is also its folder's, on file systems that do and that do not tell upper from lower case.
fn check_model_name(name: &Spanned<String>) -> Result<(), Wrong> {
    let text = name.get_ref();
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
    if plain && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= 64 && !is_gguf(text.as_ref()) {
        return Ok(());
    }
    wrong(
        name,
        format!(
            "`{text}` cannot be a model's name: up to 64 of a-z 0-9 . _ - beginning with a letter or digit, and not \
             ending in .gguf"
        ),
    )
}

/// A package, version or revision: it becomes an argument of a command, so it must not look like an option.
fn check_word(word: &Spanned<String>) -> Result<String, Wrong> {
    let text = word.get_ref();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-+!".contains(c));
    if plain && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(text.clone());
    }
    wrong(word, format!("`{text}` has to be letters, digits and . _ - + ! and begin with a letter or digit"))
}

fn check_repo(repo: &Spanned<String>) -> Result<String, Wrong> {
    let text = check_path(repo)?;
    if text.matches('/').count() == 1 { Ok(text) } else { wrong(repo, format!("`{text}` has to be OWNER/NAME")) }
}

/// A path that stays below the folder it is joined to. A leading dot is refused too: such names are the store's own.
fn check_path(path: &Spanned<String>) -> Result<String, Wrong> {
    let text = path.get_ref();
    let normal = |c: Component| matches!(c, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"."));
    // `Path` forgives doubled and trailing slashes; here the text itself has to be the path.
    let exact = !text.is_empty() && text.split('/').all(|part| !part.is_empty());
    if exact && Path::new(text).components().all(normal) && !text.contains(['\\', ':', '\0']) {
        return Ok(text.clone());
    }
    wrong(
        path,
        format!("`{}` has to be a relative path without `..`, hidden names or backslashes", text.escape_debug()),
    )
}

fn check_sha256(hash: &Spanned<String>) -> Result<String, Wrong> {
    let text = hash.get_ref();
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    wrong(hash, format!("`{text}` is no SHA-256: it has to be 64 hexadecimal digits"))
}
