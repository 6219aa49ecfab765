//! What of a model lies on this machine, file by file: the view that `taper models` lists, shows, verifies and removes.

use std::path::{Path, PathBuf};

use super::hub::cache::{Cache, Snapshot};
use super::manifest::{Hub, Model, Source, Wheel};
use super::resolve::{FileKind, is_gguf};
use super::store::{self, Store};
use crate::config::Dirs;
use crate::error::Result;

/// One file of a model, there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Its path below the model's folder.
    pub name: String,
    pub path: PathBuf,
    /// Its size on the disk; `None` when it is not there.
    pub found: Option<u64>,
    /// The size it should have, where that is known.
    pub bytes: Option<u64>,
    /// Its SHA-256, where that is known.
    pub sha256: Option<String>,
}

impl LocalFile {
    /// A file that should lie at `path`.
    fn expected(name: &str, path: PathBuf, bytes: Option<u64>, sha256: Option<String>) -> Self {
        let found = path.metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        Self { name: name.to_owned(), path, found, bytes, sha256 }
    }

    /// Whether it is there, as long as it should be.
    pub fn is_whole(&self) -> bool {
        self.found.is_some_and(|found| self.bytes.is_none_or(|bytes| bytes == found))
    }

    /// Reads it and compares it with what is known of it. `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) with both values when it differs; otherwise why it cannot be read.
    pub fn verify(&self, progress: impl FnMut(u64)) -> Result<Verdict> {
        let (Some(sha256), Some(found)) = (&self.sha256, self.found) else { return Ok(Verdict::NothingKnown) };
        store::verify_file(&self.path, self.bytes.unwrap_or(found), sha256, progress)?;
        Ok(Verdict::Good)
    }
}

/// What reading a file again showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// There is no hash to compare with.
    NothingKnown,
}

/// A model's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its GGUF file, or its folder.
    pub kind: FileKind,
    pub files: Vec<LocalFile>,
}

impl Local {
    /// Whether every file is there in its size.
    pub fn is_whole(&self) -> bool {
        !self.files.is_empty() && self.files.iter().all(LocalFile::is_whole)
    }

    /// Whether anything of it is there.
    pub fn is_there(&self) -> bool {
        self.files.iter().any(|file| file.found.is_some())
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.found).fold(0, u64::saturating_add)
    }
}

/// Looks for the files of `model`, and reads none. `hub_cache` is the cache that the hub's programs share.
///
/// # Errors
/// When they would be in taper's own cache, and no variable says where that is.
pub fn look(model: &Model, dirs: &Dirs, hub_cache: &Path) -> Result<Local> {
    Ok(match model.preferred() {
        Source::Wheel(wheel) => in_store(wheel, &Store::new(dirs)?.folder(model)),
        Source::Hub(hub) => in_cache(hub, &Cache::new(hub_cache, &hub.repo)),
    })
}

/// What a download that is running, or was cut or killed, has left on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub folder: PathBuf,
    pub bytes: u64,
}

impl Unfinished {
    /// `None` when there are no files.
    fn of(folder: PathBuf, files: &[PathBuf]) -> Option<Self> {
        let bytes = files.iter().filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum();
        (!files.is_empty()).then_some(Self { folder, bytes })
    }

    /// Of any file of a repository of the hub.
    pub fn of_repository(hub_cache: &Path, repo: &str) -> Option<Self> {
        let cache = Cache::new(hub_cache, repo);
        Self::of(cache.folder(), &cache.unfinished())
    }

    /// Of `model`, as far as can be told: once it is whole, what lies in its repository is of something else.
    ///
    /// # Errors
    /// As [`look`].
    pub fn of_model(model: &Model, local: &Local, dirs: &Dirs, hub_cache: &Path) -> Result<Option<Self>> {
        Ok(match model.preferred() {
            Source::Wheel(_) => {
                let store = Store::new(dirs)?;
                Self::of(store.folder(model), &store.unfinished(model))
            }
            Source::Hub(_) if local.is_whole() => None,
            Source::Hub(hub) => Self::of_repository(hub_cache, &hub.repo),
        })
    }
}

/// A source's files in the hub's cache. The blob's name is the hash that the hub gave when it was fetched.
fn in_cache(hub: &Hub, cache: &Cache) -> Local {
    let snapshot = cache.snapshot(&hub.revision).unwrap_or_else(|| cache.at_commit(&hub.revision));
    let names: Vec<String> = hub.files.iter().map(|file| file.name.clone()).collect();
    let file = |file: &super::manifest::HubFile| {
        let sha256 = file.sha256.clone().or_else(|| snapshot.hash(&file.name).filter(|hash| hash.len() == 64));
        LocalFile::expected(&file.name, snapshot.path(&file.name), file.bytes, sha256)
    };
    Local { kind: snapshot.kind(&names), files: hub.files.iter().map(file).collect() }
}

/// The files of `names` in the hub's cache, as `hf:` names them.
pub fn of_snapshot(snapshot: &Snapshot, names: &[String]) -> Local {
    let file = |name: &String| {
        LocalFile::expected(name, snapshot.path(name), None, snapshot.hash(name).filter(|hash| hash.len() == 64))
    };
    Local { kind: snapshot.kind(names), files: names.iter().map(file).collect() }
}

fn in_store(wheel: &Wheel, folder: &Path) -> Local {
    let file = |file: &super::manifest::WheelFile| {
        LocalFile::expected(&file.name, folder.join(&file.name), Some(file.bytes), Some(file.sha256.clone()))
    };
    let kind = match wheel.files.iter().find(|file| is_gguf(file.name.as_ref())) {
        Some(gguf) => FileKind::Gguf(folder.join(&gguf.name)),
        None => FileKind::Folder(folder.to_owned()),
    };
    Local { kind, files: wheel.files.iter().map(file).collect() }
}

/// A file or folder of the user's own: nothing is known that it could be compared with.
///
/// # Errors
/// When the folder cannot be read.
pub fn own(kind: FileKind) -> Result<Local> {
    let file = |path: &Path| {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        LocalFile::expected(&name, path.to_owned(), None, None)
    };
    let mut files = match &kind {
        FileKind::Gguf(path) => vec![file(path)],
        FileKind::Folder(folder) => std::fs::read_dir(folder)
            .map_err(|e| crate::error::Error::io("read the model's folder", folder, e))?
            .flatten()
            .map(|entry| file(&entry.path()))
            .filter(|file| file.found.is_some())
            .collect(),
    };
    files.sort_by(|a: &LocalFile, b| a.name.cmp(&b.name));
    Ok(Local { kind, files })
}
