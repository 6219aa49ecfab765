//! What `-m` names: a file, a folder, or a model of the registry.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::download::{self, Fetch};
use super::hub;
use super::manifest::{Manifest, Model};
use crate::config::Dirs;
use crate::error::{Error, Result};

/// A model's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The registry's name for it, or the file's or folder's own without `.gguf`.
    pub name: String,
    pub kind: FileKind,
}

/// The forms that models come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// One GGUF file.
    Gguf(PathBuf),
    /// A folder with config.json, tokenizer.json and safetensors.
    Folder(PathBuf),
}

impl FileKind {
    /// The file or the folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(path) | Self::Folder(path) => path,
        }
    }
}

/// Finds the model `spec` names; names are those of the user's manifest and this binary's. See [`resolve_in`].
///
/// # Errors
/// As [`resolve_in`]; also when the user's `models.toml` is not valid and `spec` is a name.
pub fn resolve(spec: &str, dirs: &Dirs, fetch: &Fetch) -> Result<ModelFiles> {
    // A mistake in models.toml is no reason to refuse what needs none.
    if is_path(spec) {
        return at_path(Path::new(spec));
    }
    if let Some(named) = hub::Spec::parse(spec) {
        return hub::ensure_spec(&named?, fetch);
    }
    resolve_in(&Manifest::load(dirs)?, spec, dirs, fetch)
}

/// Finds the model that `spec` names, and fetches it if it is one of the manifest's and not there.
///
/// With `hf:` at its beginning, `spec` is a repository of the hub; with a path separator or `.gguf` at its end, a path;
/// anything else is a name or an alias.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) when there is no such model, it is no model, or it cannot be fetched.
pub fn resolve_in(manifest: &Manifest, spec: &str, dirs: &Dirs, fetch: &Fetch) -> Result<ModelFiles> {
    if let Some(named) = hub::Spec::parse(spec) {
        return hub::ensure_spec(&named?, fetch);
    }
    if is_path(spec) {
        return at_path(Path::new(spec));
    }
    let model = manifest.find(spec).ok_or_else(|| unknown(manifest, spec))?;
    if model.kind != fetch.kind {
        return Err(Error::model(format!("{} is not {}, it is {}", model.name, fetch.kind, model.kind)).at(spec));
    }
    Ok(ModelFiles { name: model.name.clone(), kind: download::ensure(model, dirs, fetch)? })
}

/// Whether `spec` is a path and no name: it has a separator, or `.gguf` at its end.
pub fn is_path(spec: &str) -> bool {
    !spec.starts_with("hf:") && (spec.contains(std::path::is_separator) || is_gguf(Path::new(spec)))
}

/// A model that the user has as a file or a folder.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) when it cannot be one.
pub fn at_path(path: &Path) -> Result<ModelFiles> {
    let found = fs::metadata(path).map_err(|e| {
        Error::model(format!("cannot open the model: {e}"))
            .in_file(path)
            .help("give the path of a .gguf file or of a folder with safetensors, or a model's name")
            .caused_by(e)
    })?;
    let kind = if found.is_dir() {
        in_folder(path)?
    } else if found.is_file() {
        check_file(path)?;
        FileKind::Gguf(path.to_owned())
    } else {
        // Opening a FIFO would wait for its writer, and a device cannot be mapped.
        return Err(Error::model("neither a file nor a folder").in_file(path));
    };
    Ok(ModelFiles { name: name_of(path), kind })
}

/// A GGUF by its ending (whatever is wrong inside, its reader will say) or by its first bytes, as other programs'
/// stores name files by their hashes.
fn check_file(path: &Path) -> Result<()> {
    if is_gguf(path) {
        return Ok(());
    }
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Err(Error::io("read the model", path, e)),
        _ if has_extension(path, "safetensors") => Err(Error::model("a model in safetensors is a folder")
            .in_file(path)
            .help("give the folder that holds it, with its config.json and tokenizer.json")),
        _ => Err(Error::model("not a GGUF file")
            .in_file(path)
            .help("taper reads .gguf files and folders with config.json, tokenizer.json and safetensors")),
    }
}

/// A folder with safetensors, or the only GGUF file in it.
fn in_folder(path: &Path) -> Result<FileKind> {
    let entries = fs::read_dir(path).map_err(|e| Error::io("read the model's folder", path, e))?;
    let files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    let config = path.join("config.json").is_file();
    // An index whose shards are elsewhere or absent is for its reader to refuse: it names the shard.
    let has_weights =
        |file: &PathBuf| has_extension(file, "safetensors") || file.ends_with("model.safetensors.index.json");
    if config && files.iter().any(has_weights) {
        return Ok(FileKind::Folder(path.to_owned()));
    }
    let mut ggufs: Vec<_> = files.iter().filter(|file| is_gguf(file)).collect();
    if let [gguf] = ggufs.as_slice() {
        return Ok(FileKind::Gguf((*gguf).clone()));
    }
    ggufs.sort();
    let error =
        Error::model(format!("the folder has no {}", if config { "weights as safetensors" } else { "config.json" }))
            .in_file(path);
    Err(match ggufs.first() {
        Some(gguf) => error.help(format!("of the {} GGUF files in it take one: {}", ggufs.len(), gguf.display())),
        None => error.help("a model's folder has config.json, tokenizer.json and model.safetensors"),
    })
}

/// Whether it is a GGUF file by its name.
pub(super) fn is_gguf(path: &Path) -> bool {
    has_extension(path, "gguf")
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

/// What to call a model that has only a path. `.` and `..` are followed to a folder with a name.
fn name_of(path: &Path) -> String {
    let full = path.canonicalize();
    let named = full.as_deref().unwrap_or(path);
    let name = if is_gguf(named) { named.file_stem() } else { named.file_name() };
    name.unwrap_or(named.as_os_str()).to_string_lossy().into_owned()
}

/// The refusal of a name that is none, with those that are.
pub fn unknown(manifest: &Manifest, spec: &str) -> Error {
    let names: Vec<_> = manifest.models().iter().map(|model| model.name.as_str()).collect();
    let mut help = vec![format!("known models: {}", names.join(", "))];
    let meant = Some(spec).filter(|spec| !spec.trim().is_empty()).and_then(|spec| closest(manifest, spec));
    help.extend(meant.map(|name| format!("did you mean {name}?")));
    help.push(if Path::new(spec).exists() {
        format!("for the file or folder of this name, write ./{spec}")
    } else {
        "the path of a .gguf file or of a folder with safetensors works too".to_owned()
    });
    let what = match spec.trim() {
        "" => "no model is named: what -m was given is empty".to_owned(),
        _ => format!("there is no model named `{spec}`"),
    };
    Error::model(what).help(help.join("\n  "))
}

/// The name or alias that was probably meant.
fn closest<'m>(manifest: &'m Manifest, spec: &str) -> Option<&'m str> {
    super::closest::closest(manifest.models().iter().flat_map(Model::names), spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_after_its_file_or_folder() {
        assert_eq!(name_of(Path::new("/nowhere/Tiny.Q4_0.gguf")), "Tiny.Q4_0");
        assert_eq!(name_of(Path::new("/nowhere/llama-3.2/")), "llama-3.2");
        assert_eq!(name_of(Path::new("/")), "/");
    }
}
