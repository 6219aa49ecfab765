//! The hub's cache on this machine, as Hugging Face's own programs lay it out, so that they and taper share files:
//!
//! ```text
//! models--USER--REPO/blobs/HASH                      a file's bytes, under its SHA-256 (LFS) or its git object id
//! models--USER--REPO/blobs/HASH.incomplete           the beginning of one
//! models--USER--REPO/snapshots/COMMIT/NAME           a link to the blob that NAME was in that commit
//! models--USER--REPO/refs/REVISION                   the commit that REVISION was when it was last asked for
//! .locks/models--USER--REPO/HASH.lock                held while a blob is written
//! ```

use std::ffi::OsString;
use std::fs::{self, TryLockError};
use std::path::{Component, Path, PathBuf};

use super::super::resolve::{FileKind, is_gguf};
use crate::error::{Error, Result};

/// The cache's folder: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in the user's cache folder, as the hub's programs
/// decide it.
pub fn folder(env: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| {
        let home = || set("HOME").map_or_else(std::env::temp_dir, |home| home.join(".cache"));
        let own = || set("XDG_CACHE_HOME").unwrap_or_else(home).join("huggingface");
        set("HF_HOME").unwrap_or_else(own).join("hub")
    })
}

/// The models' repositories in the cache at `root`, as USER/NAME, sorted.
pub fn repositories(root: &Path) -> Vec<String> {
    let folders = fs::read_dir(root).into_iter().flatten().flatten();
    let repo = |folder: String| {
        // The hub allows no `--` in either part.
        let (user, name) = folder.strip_prefix("models--")?.split_once("--")?;
        Some(format!("{user}/{name}"))
    };
    let mut repos: Vec<String> =
        folders.filter_map(|entry| entry.file_name().into_string().ok().and_then(repo)).collect();
    repos.sort();
    repos
}

/// The part of the cache that belongs to one repository.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    name: String,
}

impl Cache {
    /// `repo` is USER/NAME.
    pub fn new(root: &Path, repo: &str) -> Self {
        Self { root: root.to_owned(), name: format!("models--{}", repo.replace('/', "--")) }
    }

    /// Where everything of the repository lies, but for its locks.
    pub fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The blob of this hash.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.folder().join("blobs").join(hash)
    }

    /// The file whose lock says who writes this blob.
    pub fn lock(&self, hash: &str) -> PathBuf {
        self.root.join(".locks").join(&self.name).join(format!("{hash}.lock"))
    }

    /// Makes the folder of the blobs, and a file in it for a moment.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn check_writable(&self) -> Result<()> {
        let probe = self.blob(&format!(".{}.tmp", std::process::id()));
        let written = make_parent(&probe).and_then(|()| fs::write(&probe, [])).and_then(|()| fs::remove_file(&probe));
        written.map_err(|e| unwritable("write to the hub's cache", &self.folder(), e))
    }

    /// The state that `revision`, or a commit of this name, had when it was last fetched.
    pub fn snapshot(&self, revision: &str) -> Option<Snapshot> {
        let commit = match fs::read_to_string(self.folder().join("refs").join(revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => revision.to_owned(),
        };
        is_hex(&commit).then(|| self.at_commit(&commit)).filter(|snapshot| snapshot.folder.is_dir())
    }

    /// The files of `commit`, a hexadecimal number.
    pub fn at_commit(&self, commit: &str) -> Snapshot {
        Snapshot { folder: self.folder().join("snapshots").join(commit) }
    }

    /// Notes that `revision` is `commit`.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn set_revision(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.folder().join("refs").join(revision);
        let written = make_parent(&path).and_then(|()| {
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            fs::write(&temporary, commit)?;
            fs::rename(&temporary, &path)
        });
        written.map_err(|e| unwritable("note the revision", &path, e))
    }

    /// Removes files of one snapshot, and their blobs where no other snapshot has them.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self, snapshot: &Snapshot, names: &[String]) -> Result<()> {
        let hashes: Vec<String> = names.iter().filter_map(|name| snapshot.hash(name)).collect();
        let remove = |path: PathBuf| match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove the model", &path, e)),
            _ => Ok(()),
        };
        names.iter().try_for_each(|name| remove(snapshot.path(name)))?;
        let still_used: Vec<String> = fs::read_dir(self.folder().join("snapshots"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| Snapshot { folder: entry.path() })
            .flat_map(|other| other.files().into_iter().filter_map(move |name| other.hash(&name)).collect::<Vec<_>>())
            .collect();
        hashes.into_iter().filter(|hash| !still_used.contains(hash)).try_for_each(|hash| remove(self.blob(&hash)))
    }

    /// The beginnings of files that are being fetched, or whose download was cut; whose they are, only the hub knows.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let blobs = fs::read_dir(self.folder().join("blobs")).into_iter().flatten().flatten();
        let mut parts: Vec<PathBuf> = blobs.map(|entry| entry.path()).collect();
        parts.retain(|path| path.extension().is_some_and(|extension| extension == "incomplete"));
        parts.sort();
        parts
    }

    /// Removes [`Self::unfinished`].
    ///
    /// # Errors
    /// When something cannot be removed, or another program is writing to it.
    pub fn remove_unfinished(&self) -> Result<()> {
        for path in self.unfinished() {
            // Some programs put words of their own between the hash and the end of the name.
            let hash = path.file_name().and_then(|name| name.to_str()?.split('.').next()).unwrap_or_default();
            let lock = self.lock(hash);
            let failed = |e| unwritable("lock the unfinished file", &lock, e);
            make_parent(&lock).map_err(failed)?;
            let held = fs::File::create(&lock).map_err(failed)?;
            match held.try_lock() {
                Ok(()) => fs::remove_file(&path).map_err(|e| Error::io("remove the unfinished file", &path, e))?,
                Err(TryLockError::Error(e)) => return Err(failed(e)),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::runtime("another program is fetching this file")
                        .in_file(&path)
                        .help("end it, or wait for it, and then remove the model"));
                }
            }
        }
        Ok(())
    }

    /// Makes `name` of `commit` a link to the blob `hash`.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn link(&self, commit: &str, name: &str, hash: &str) -> Result<()> {
        let path = self.at_commit(commit).folder.join(name);
        // blobs/HASH from snapshots/COMMIT/NAME; one step up for each folder in NAME.
        let target = Path::new(&"../".repeat(2 + name.matches('/').count())).join("blobs").join(hash);
        let linked = make_parent(&path).and_then(|()| {
            let mut temporary = path.clone().into_os_string();
            temporary.push(format!(".{}.tmp", std::process::id()));
            std::os::unix::fs::symlink(target, &temporary)?;
            fs::rename(&temporary, &path)
        });
        linked.map_err(|e| unwritable("put the model in its place", &path, e))
    }
}

/// The files of a repository as one commit has them; those that were fetched.
#[derive(Debug, Clone)]
pub struct Snapshot {
    folder: PathBuf,
}

impl Snapshot {
    /// Their names, sorted; a link whose blob is gone is no file.
    pub fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        collect(&self.folder, "", &mut names);
        names.sort();
        names
    }

    pub fn has(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.path(name).is_file())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The GGUF file among `names`, or the folder that they make up.
    pub fn kind(&self, names: &[String]) -> FileKind {
        match names.iter().find(|name| is_gguf(name.as_ref())) {
            Some(gguf) => FileKind::Gguf(self.path(gguf)),
            None => FileKind::Folder(self.folder.clone()),
        }
    }

    /// The hash that the file's blob is named by: the target of its link.
    pub fn hash(&self, name: &str) -> Option<String> {
        let target = fs::read_link(self.path(name)).ok()?;
        target.file_name()?.to_str().map(str::to_owned).filter(|hash| is_hex(hash))
    }
}

/// Folders deeper than four are no model's.
fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if path.is_file() {
            names.push(name);
        } else if path.is_dir() && prefix.matches('/').count() < 4 {
            collect(&path, &format!("{name}/"), names);
        }
    }
}

/// Whether `path` stays below the folder it is joined to.
pub fn is_plain_path(path: &str) -> bool {
    let normal = |part: Component| matches!(part, Component::Normal(_));
    path.split('/').all(|part| !part.is_empty())
        && Path::new(path).components().all(normal)
        && !path.contains(['\\', ':', '\0', '?', '#'])
}

/// Whether it is a commit or a hash: SHA-1 or SHA-256 in hexadecimal digits.
pub fn is_hex(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(super) fn make_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// A cache that cannot be written to, in words that lead out of it.
pub(super) fn unwritable(doing: &str, path: &Path, e: std::io::Error) -> Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let help = match e.kind() {
        StorageFull | QuotaExceeded => {
            "free some space, or set HF_HUB_CACHE to a folder on a larger disk; what came is kept, and not fetched again"
        }
        _ => "set HF_HUB_CACHE to a folder that can be written to",
    };
    Error::io(doing, path, e).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";
    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_folder_is_where_the_hubs_programs_look() {
        let at = |vars: &[(&str, &str)]| {
            folder(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        let home = ("HOME", "/home/ada");
        assert_eq!(at(&[home]), Path::new("/home/ada/.cache/huggingface/hub"));
        assert_eq!(at(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(at(&[home, ("HF_HOME", "/y"), ("XDG_CACHE_HOME", "/x")]), Path::new("/y/hub"));
        assert_eq!(at(&[home, ("HF_HOME", "/y"), ("HF_HUB_CACHE", "/z")]), Path::new("/z"));
    }

    #[test]
    fn a_file_is_found_by_revision_and_by_commit() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path(), "ada/tiny");
        assert!(cache.snapshot("main").is_none());
        fs::create_dir_all(cache.blob("")).unwrap();
        fs::write(cache.blob(HASH), b"weights").unwrap();
        for name in ["w.gguf", "deep/er/w.gguf"] {
            cache.link(COMMIT, name, HASH).unwrap();
            cache.link(COMMIT, name, HASH).unwrap(); // again is no failure
        }
        assert!(cache.snapshot("main").is_none(), "not before the revision is noted");
        cache.set_revision("main", COMMIT).unwrap();
        for revision in ["main", COMMIT] {
            let snapshot = cache.snapshot(revision).unwrap();
            assert_eq!(snapshot.files(), ["deep/er/w.gguf", "w.gguf"]);
            assert_eq!(fs::read(snapshot.path("deep/er/w.gguf")).unwrap(), b"weights");
            assert_eq!(snapshot.hash("w.gguf").as_deref(), Some(HASH));
        }
        let snapshot = cache.snapshot("main").unwrap();
        cache.remove(&snapshot, &["w.gguf".to_owned()]).unwrap();
        assert!(cache.blob(HASH).exists(), "the other name needs it");
        cache.remove(&snapshot, &["deep/er/w.gguf".to_owned()]).unwrap();
        assert!(!cache.blob(HASH).exists());
        cache.link(COMMIT, "w.gguf", HASH).unwrap();
        assert_eq!(cache.snapshot("main").unwrap().files(), [""; 0]);
    }

    #[test]
    fn names_from_the_hub_cannot_leave_their_folder() {
        assert!(["a", "a/b.gguf", "1_Pooling/config.json"].iter().all(|path| is_plain_path(path)));
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a:b", "a\0b", "a?b"] {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
    }
}
