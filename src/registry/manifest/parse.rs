//! The text of a manifest: its form as serde reads it, and the checks that serde cannot make.
//!
//! Every value that a check may refuse is a [`Spanned`], so that the refusal can point at it.

use std::collections::HashSet;
use std::path::{Component, Path};

use serde::Deserialize;
use toml::Spanned;

use super::super::resolve::is_gguf;
use super::{DEFAULT_MODEL, Hub, HubFile, Manifest, Model, ModelKind, Shape, Source, Wheel, WheelFile};

/// What is wrong, and where: both counted from 1, the column in characters, as editors show them.
pub(super) struct Invalid {
    pub what: String,
    pub line: usize,
    pub column: usize,
}

/// Reads `text`; with a `base`, as what a user adds to it.
pub(super) fn parse(text: &str, base: Option<&Manifest>) -> Result<Manifest, Invalid> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let checked = toml::from_str::<RawManifest>(text)
        .map_err(|e| Wrong { what: e.message().trim().to_owned(), byte: e.span().map_or(0, |span| span.start) })
        .and_then(|raw| raw.check(base));
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
    default: Option<Spanned<String>>,
    #[serde(rename = "model", default)]
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
    shape: Option<Shape>,
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
    gated: Option<bool>,
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
    fn check(self, base: Option<&Manifest>) -> Result<Manifest, Wrong> {
        let known = base.map_or(&[][..], Manifest::models);
        self.check_names(known)?;
        let own = self.models.into_iter().map(RawModel::check).collect::<Result<Vec<_>, _>>()?;
        let models = lay_over(own, known);
        let default = match (&self.default, base) {
            (Some(name), _) => match models.iter().find(|model| model.names().any(|known| known == name.get_ref())) {
                Some(model) => model.name.clone(),
                None => return wrong(name, format!("the default `{}` is no model's name", name.get_ref())),
            },
            (None, Some(base)) => base.default.clone(),
            (None, None) => return Err(Wrong { what: "missing field `default`".to_owned(), byte: 0 }),
        };
        Ok(Manifest { default, models })
    }

    /// Names and aliases are distinct, and none hides a model of the base that is not replaced.
    fn check_names(&self, known: &[Model]) -> Result<(), Wrong> {
        let mut taken = HashSet::new();
        for name in self.models.iter().flat_map(|model| std::iter::once(&model.name).chain(&model.aliases)) {
            check_model_name(name)?;
            if !taken.insert(name.get_ref()) {
                return wrong(name, format!("`{}` is already the name or an alias of a model", name.get_ref()));
            }
        }
        let replaced: HashSet<_> = self.models.iter().map(|model| model.name.get_ref()).collect();
        let kept: HashSet<_> = known.iter().map(|model| &model.name).filter(|name| !replaced.contains(name)).collect();
        match self.models.iter().flat_map(|model| &model.aliases).find(|alias| kept.contains(alias.get_ref())) {
            Some(alias) => wrong(
                alias,
                format!(
                    "`{0}` is a model that comes with taper: to replace it, make `{0}` the name, not an alias",
                    alias.get_ref()
                ),
            ),
            None => Ok(()),
        }
    }
}

/// The user's models, then those of the base that they do not replace. An alias of the base gives way to a name or
/// alias of the user's.
fn lay_over(own: Vec<Model>, known: &[Model]) -> Vec<Model> {
    let taken: HashSet<String> = own.iter().flat_map(Model::names).map(str::to_owned).collect();
    let kept = known.iter().filter(|model| !taken.contains(&model.name)).cloned().map(|mut model| {
        model.aliases.retain(|alias| !taken.contains(alias));
        model
    });
    own.into_iter().chain(kept).collect()
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
            shape: self.shape,
            sources: self.sources.iter().map(check_source).collect::<Result<_, _>>()?,
        })
    }
}

fn check_source(source: &Spanned<RawSource>) -> Result<Source, Wrong> {
    let RawSource { wheel, version, bytes, hub, revision, gated, files } = source.get_ref();
    let checked = match (wheel, version, *bytes, hub, revision) {
        (Some(package), Some(version), Some(bytes), None, None) if gated.is_none() => Source::Wheel(Wheel {
            package: check_word(package)?,
            version: check_word(version)?,
            bytes,
            files: files.iter().map(check_wheel_file).collect::<Result<_, _>>()?,
        }),
        (None, None, None, Some(repo), Some(revision)) => Source::Hub(Hub {
            repo: check_repo(repo)?,
            revision: check_word(revision)?,
            gated: gated.unwrap_or(false),
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
    let whole = names.contains("model.safetensors");
    let is_shard = |name: &&str| Path::new(name).extension().is_some_and(|extension| extension == "safetensors");
    let sharded = names.contains("model.safetensors.index.json") && names.iter().any(is_shard);
    let folder = names.contains("config.json") && (whole || sharded);
    if gguf || folder {
        return Ok(());
    }
    wrong(
        source,
        "`files` has to be one .gguf, or config.json and model.safetensors (or its index and shards) with what belongs \
         to them",
    )
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
    if text == DEFAULT_MODEL {
        return wrong(name, format!("`{DEFAULT_MODEL}` cannot be a model's name: it stands for the default one"));
    }
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

#[cfg(test)]
mod tests {
    use super::Manifest;
    use crate::error::Kind;

    const VALID: &str = r#"default = "tiny"

[[model]]
name = "tiny"
aliases = ["little"]
description = "made up"
licence = "MIT"
kind = "chat"

[[model.source]]
wheel = "made-up"
version = "1.0"
bytes = 1000
files = [{ name = "w.gguf", member = "m/w.gguf", bytes = 3, sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" }]

[[model.source]]
hub = "somebody/tiny"
revision = "main"
files = [{ name = "config.json" }, { name = "model.safetensors" }]
"#;

    #[test]
    fn a_manifest_that_is_wrong_is_refused_at_the_line_that_is() {
        for (from, to, place, expected) in [
            ("licence =", "license =", "line 7, column 1", "unknown field `license`"),
            (
                "kind = \"chat\"",
                "kind = \"chat\"\nshape = { synth = \"a:b\" }",
                "line 9, column 9",
                "missing field `context`",
            ),
            ("kind = \"chat\"", "kind = \"poet\"", "line 8, column 8", "unknown variant `poet`"),
            ("bytes = 1000", "bytes = \"many\"", "line 13, column 9", "invalid type"),
            ("bytes = 1000", "bytes = -1", "line 13, column 9", "invalid value"),
            ("bytes = 1000\n", "", "line 10, column 1", "either `wheel`, `version` and `bytes`"),
            ("hub = \"somebody/tiny\"", "wheel = \"x\"", "line 16, column 1", "either `wheel`"),
            ("[\"little\"]", "[\"tiny\"]", "line 5, column 12", "`tiny` is already the name"),
            ("[\"little\"]", "[\"a\", \"a\"]", "line 5, column 17", "`a` is already the name"),
            ("[\"little\"]", "[\"Little\"]", "line 5, column 12", "cannot be a model's name"),
            ("[\"little\"]", "\"little\"", "line 5, column 11", "invalid type"),
            ("name = \"tiny\"", "name = \"../tiny\"", "line 4, column 8", "cannot be a model's name"),
            ("name = \"tiny\"", "name = \"tiny.gguf\"", "line 4, column 8", "cannot be a model's name"),
            ("default = \"tiny\"", "default = \"huge\"", "line 1, column 11", "is no model's name"),
            ("default = \"tiny\"", "", "line 1, column 1", "missing field `default`"),
            ("name = \"tiny\"", "name = \"default\"", "line 4, column 8", "stands for the default one"),
            ("version = \"1.0\"", "version = \"1.0\"\ngated = true", "line 10, column 1", "either `wheel`"),
            (
                "{ name = \"model.safetensors\" }",
                "{ name = \"model-1.safetensors\" }",
                "line 16, column 1",
                "one .gguf",
            ),
            ("wheel = \"made-up\"", "wheel = \"--index-url\"", "line 11, column 9", "begin with a letter"),
            ("version = \"1.0\"", "version = \"1.0 extra\"", "line 12, column 11", "has to be letters"),
            ("somebody/tiny", "tiny", "line 17, column 7", "OWNER/NAME"),
            ("name = \"w.gguf\"", "name = \"/w.gguf\"", "line 14, column 19", "relative path"),
            ("name = \"w.gguf\"", "name = \"a/../../w.gguf\"", "line 14, column 19", "relative path"),
            ("name = \"w.gguf\"", "name = \"./w.gguf\"", "line 14, column 19", "relative path"),
            ("name = \"w.gguf\"", "name = \".part/w.gguf\"", "line 14, column 19", "relative path"),
            ("name = \"w.gguf\"", "name = \"w.bin\"", "line 10, column 1", "one .gguf"),
            ("m/w.gguf", "m/../w.gguf", "line 14, column 38", "relative path"),
            ("m/w.gguf", "m//w.gguf", "line 14, column 38", "relative path"),
            ("m/w.gguf", "m\\\\w.gguf", "line 14, column 38", "relative path"),
            ("20015ad\"", "20015a\"", "line 14, column 70", "no SHA-256"),
            ("20015ad\"", "20015ag\"", "line 14, column 70", "no SHA-256"),
            (", member = \"m/w.gguf\"", "", "line 14, column 10", "`member`, `bytes` and `sha256`"),
            ("{ name = \"config.json\" }", "{ name = \"model.safetensors\" }", "line 19, column 51", "there twice"),
            ("\n[[model.source]]", "\n[[model.source]", "line 10, column 16", ""),
            ("made up", "made \u{1} up", "line 6, column 21", ""),
        ] {
            assert!(VALID.contains(from), "{from}");
            let error = Manifest::parse(&VALID.replacen(from, to, 1), "models.toml").unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), Kind::Model);
            assert!(
                text.contains(expected) && text.ends_with(&format!("\n  in models.toml, {place}")),
                "{from} -> {to}: {text}"
            );
        }
    }

    /// `text` laid over [`VALID`].
    fn over(text: &str) -> crate::error::Result<Manifest> {
        Manifest::parse(VALID, "models.toml").unwrap().overlaid(text, "/etc/mine.toml")
    }

    fn model(head: &str) -> String {
        format!(
            "[[model]]\n{head}\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n[[model.source]]\nhub = \"me/mine\"\n\
             revision = \"v1\"\ngated = true\nfiles = [{{ name = \"mine.gguf\" }}]\n"
        )
    }

    #[test]
    fn what_a_user_writes_replaces_by_name_and_adds_the_rest() {
        let names = |manifest: &Manifest| manifest.models().iter().map(|m| m.name.clone()).collect::<Vec<_>>();
        let replaced = over(&model("name = \"tiny\"")).unwrap();
        assert_eq!(names(&replaced), ["tiny"]);
        let hub = replaced.find("tiny").unwrap().hub().unwrap();
        assert_eq!((hub.repo.as_str(), hub.gated), ("me/mine", true));
        assert!(replaced.find("little").is_none(), "the replaced entry's aliases go with it");

        let added = over(&(model("name = \"mine\"\naliases = [\"little\"]") + &model("name = \"b\""))).unwrap();
        assert_eq!(names(&added), ["mine", "b", "tiny"]);
        assert_eq!(added.find("Little").unwrap().name, "mine");
        assert_eq!(added.find("tiny").unwrap().aliases, [""; 0]);
        assert_eq!((added.default_model(), added.find("default").unwrap().name.as_str()), ("tiny", "tiny"));

        for default in ["little", "tiny"] {
            assert_eq!(over(&format!("default = \"{default}\"")).unwrap().default_model(), "tiny", "{default}");
        }
        let chosen = over(&("default = \"mine\"\n".to_owned() + &model("name = \"mine\""))).unwrap();
        assert_eq!(chosen.find("default").unwrap().name, "mine");
        assert_eq!(over("").unwrap(), Manifest::parse(VALID, "").unwrap());
    }

    #[test]
    fn a_mistake_in_the_users_file_names_that_file_with_line_and_column() {
        for (text, place, expected) in [
            ("defualt = \"tiny\"".to_owned(), "line 1, column 1", "unknown field `defualt`"),
            ("\ndefault = \"huge\"".to_owned(), "line 2, column 11", "is no model's name"),
            (model("name = \"a\"\naliases = [\"tiny\"]"), "line 3, column 12", "comes with taper"),
            (model("name = \"a\"") + &model("name = \"a\""), "line 12, column 8", "already the name"),
            ("[[model]]\nname = 3".to_owned(), "line 2, column 8", "invalid type"),
        ] {
            let error = over(&text).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.ends_with(&format!("\n  in /etc/mine.toml, {place}")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_model_in_shards_is_its_index_and_its_files() {
        let shards = "{ name = \"model.safetensors.index.json\" }, { name = \"model-1.safetensors\" }";
        Manifest::parse(&VALID.replace("{ name = \"model.safetensors\" }", shards), "a").unwrap();
    }

    #[test]
    fn a_byte_order_mark_and_crlf_change_nothing() {
        let plain = Manifest::parse(VALID, "a").unwrap();
        assert_eq!(Manifest::parse(&format!("\u{feff}{VALID}"), "b").unwrap(), plain);
        assert_eq!(Manifest::parse(&VALID.replace('\n', "\r\n"), "c").unwrap(), plain);
        let wrong = format!("\u{feff}{}", VALID.replace('\n', "\r\n").replace("licence", "license"));
        assert!(Manifest::parse(&wrong, "d").unwrap_err().to_string().contains("d, line 7, column 1"));
    }

    #[test]
    fn a_manifest_cut_anywhere_is_refused_without_a_panic() {
        for (cut, _) in VALID.char_indices() {
            if let Ok(manifest) = Manifest::parse(&VALID[..cut], "cut") {
                assert!(!manifest.models().is_empty());
            }
        }
    }
}
