//! Models from the Hugging Face hub.
//!
//! What `hf:user/repo[:file]` and the hub sources of `models.toml` name is taken from the hub's own cache, which other
//! programs share ([`cache`]); what is not there is fetched into it (`transfer`, through `client`). A model that is
//! in the cache costs no request. Files come by the hub's plain and LFS routes; the Xet protocol, which the client
//! library turns to by itself where the hub offers nothing else, was never exercised.

pub mod cache;
pub mod choose;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod part;
#[cfg(feature = "hub")]
mod transfer;

use std::fmt;
use std::path::Path;

use cache::{Cache, Snapshot};
use choose::Choice;

use super::download::Fetch;
use super::local::{self, Local};
use super::manifest::Hub;
use super::resolve::{FileKind, ModelFiles};
use crate::error::{Error, Result};

/// `hf:USER/REPO` or `hf:USER/REPO:FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub repo: String,
    pub file: Option<String>,
}

impl Spec {
    /// `None` when it does not begin with `hf:`.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) when what follows is no repository, or no file of one.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let rest = text.strip_prefix("hf:")?;
        let (repo, file) = rest.split_once(':').map_or((rest, None), |(repo, file)| (repo, Some(file)));
        let word = |part: &str| {
            part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        let is_repo = repo.split_once('/').is_some_and(|(user, name)| word(user) && word(name));
        if is_repo && file.is_none_or(cache::is_plain_path) {
            return Some(Ok(Self { repo: repo.to_owned(), file: file.map(str::to_owned) }));
        }
        Some(Err(Error::model("a model of the hub is hf:USER/REPO or hf:USER/REPO:FILE").at(text)))
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repo)?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

/// The model that `spec` names, fetched if it is not in the cache.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) when it cannot be had, and what to do instead; otherwise why it could not
/// be written.
pub fn ensure_spec(spec: &Spec, fetch: &Fetch) -> Result<ModelFiles> {
    let cache = Cache::new(&fetch.hub_cache, &spec.repo);
    if let Some(snapshot) = cache.snapshot(REVISION)
        && let Ok(choice) = choose::choose(&snapshot.files(), spec)
    {
        return Ok(model_files(spec, &snapshot, &choice));
    }
    if fetch.offline {
        return Err(absent(&spec.to_string(), &cache));
    }
    let (choice, snapshot) = download(&spec.repo, REVISION, fetch, |files| {
        let choice = choose::choose(files, spec)?;
        if let Some(others) = &choice.others {
            fetch
                .progress
                .note(&format!("{} has several GGUF files; taking {} ({others})", spec.repo, choice.files[0]));
        }
        Ok(choice)
    })?;
    Ok(model_files(spec, &snapshot, &choice))
}

/// The files that `spec` names in the cache, if they are there.
pub fn look(spec: &Spec, hub_cache: &Path) -> Option<Local> {
    let snapshot = Cache::new(hub_cache, &spec.repo).snapshot(REVISION)?;
    let choice = choose::choose(&snapshot.files(), spec).ok()?;
    Some(local::of_snapshot(&snapshot, &choice.files))
}

/// The models that lie whole in the cache, each GGUF file by its own name, with their files. Looks, and reads none.
pub fn models(hub_cache: &Path) -> Vec<(Spec, Local)> {
    let specs = cache::repositories(hub_cache).into_iter().flat_map(|repo| {
        let names =
            Cache::new(hub_cache, &repo).snapshot(REVISION).map(|snapshot| snapshot.files()).unwrap_or_default();
        let ggufs: Vec<String> = names.into_iter().filter(|name| choose::is_model(name)).collect();
        let files = if ggufs.is_empty() { vec![None] } else { ggufs.into_iter().map(Some).collect() };
        files.into_iter().map(move |file| Spec { repo: repo.clone(), file }).collect::<Vec<_>>()
    });
    specs.filter_map(|spec| look(&spec, hub_cache).map(|local| (spec, local))).collect()
}

/// The files of a hub source of the manifest, fetched if they are not in the cache.
///
/// # Errors
/// As [`ensure_spec`].
pub fn ensure_source(name: &str, hub: &Hub, fetch: &Fetch) -> Result<FileKind> {
    let cache = Cache::new(&fetch.hub_cache, &hub.repo);
    let wanted = Choice::of_source(hub);
    if let Some(snapshot) = cache.snapshot(&hub.revision)
        && snapshot.has(&wanted.files)
    {
        return Ok(snapshot.kind(&wanted.files));
    }
    if fetch.offline {
        return Err(absent(name, &cache));
    }
    let (_, snapshot) = download(&hub.repo, &hub.revision, fetch, |_| Ok(wanted.clone()))?;
    Ok(snapshot.kind(&wanted.files))
}

/// What the hub calls the newest state of a repository.
pub const REVISION: &str = "main";

fn model_files(spec: &Spec, snapshot: &Snapshot, choice: &Choice) -> ModelFiles {
    let name = match snapshot.kind(&choice.files) {
        FileKind::Gguf(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
        FileKind::Folder(_) => spec.repo.split('/').next_back().map(str::to_owned),
    };
    ModelFiles { name: name.unwrap_or_else(|| spec.repo.clone()), kind: snapshot.kind(&choice.files) }
}

fn absent(name: &str, cache: &Cache) -> Error {
    Error::model(format!("{name} is not on this machine, and taper is offline"))
        .at(format!("{} (absent or incomplete)", cache.folder().display()))
        .help("run once without --offline, TAPER_OFFLINE and HF_HUB_OFFLINE to download it")
}

#[cfg(feature = "hub")]
fn download(
    repo: &str,
    revision: &str,
    fetch: &Fetch,
    choose: impl FnOnce(&[String]) -> Result<Choice>,
) -> Result<(Choice, Snapshot)> {
    transfer::download(repo, revision, fetch, choose)
}

#[cfg(not(feature = "hub"))]
fn download(
    repo: &str,
    _revision: &str,
    _fetch: &Fetch,
    _choose: impl FnOnce(&[String]) -> Result<Choice>,
) -> Result<(Choice, Snapshot)> {
    Err(Error::model("this taper was built without downloads from the hub")
        .at(repo)
        .help("download the file by other means and give its path, or build taper with its feature `hub`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_a_repository_and_perhaps_a_file() {
        let spec = |text: &str| Spec::parse(text).map(|spec| spec.map(|spec| (spec.repo, spec.file)));
        assert!(spec("smollm2-135m").is_none() && spec("./hf:a/b").is_none());
        assert_eq!(spec("hf:a/b").unwrap().unwrap(), ("a/b".into(), None));
        assert_eq!(spec("hf:a-1/b.c_2:d/e.gguf").unwrap().unwrap(), ("a-1/b.c_2".into(), Some("d/e.gguf".into())));
        for bad in [
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:/b",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/b?x=1",
            "hf:a/b:",
            "hf:a/b:../c",
            "hf:a/b:/c",
            "hf:a b/c",
        ] {
            let error = spec(bad).unwrap().unwrap_err().to_string();
            assert!(error.contains("hf:USER/REPO") && error.contains(bad), "{error}");
        }
    }
}
