//! `taper models rm`: removes what was fetched, and what was packed of it, after asking.

use serde_json::json;

use super::{Named, Registry, path_text};
use crate::cli::RmArgs;
use crate::commands::input::agreed;
use crate::error::{Error, Result};
use crate::format::repack::{self, Kept};
use crate::registry::hub::{self, cache::Cache};
use crate::registry::local::Local;
use crate::registry::manifest::Source;
use crate::registry::store::Store;
use crate::terminal::log;
use crate::terminal::progress::megabytes;
use crate::terminal::render::Answer;

pub(super) fn run(args: &RmArgs, registry: &Registry) -> Result<()> {
    let named = registry.named(&args.name)?;
    let (name, local) = match &named {
        Named::Path(name, local) => return packed_only(args, name, &registry.repacked(local)),
        Named::Model(model, local) => (model.name.clone(), Some(local)),
        Named::Hub(spec, local) => (spec.to_string(), local.as_ref()),
    };
    let local = local.filter(|local| local.is_there());
    let unfinished = registry.unfinished(&named)?;
    let Some(path) = local
        .map(|local| path_text(&local.kind))
        .or_else(|| unfinished.as_ref().map(|part| part.folder.display().to_string()))
    else {
        return Err(Error::model(format!("{name} is not on this machine: there is nothing to remove")));
    };
    let repacked = local.map(|local| registry.repacked(local)).unwrap_or_default();
    let part = unfinished.as_ref().map_or(0, |part| part.bytes);
    let bytes = local.map_or(0, Local::bytes) + repack::bytes(&repacked) + part;
    let question = format!("remove {name} ({} in {path})?", megabytes(bytes));
    if !args.yes && !agreed(&question)? {
        log::note(format_args!("{name} stays"));
        return Ok(());
    }
    repacked.iter().try_for_each(Kept::remove)?;
    remove(&named, local, unfinished.is_some(), registry)?;
    let mut answer = Answer::new();
    if args.output.json {
        answer.line(&json!({ "name": name, "path": path, "bytes": bytes }).to_string())
    } else {
        answer.line(&format!("removed {name}, {}", megabytes(bytes)))
    }
}

/// A file of the user's stays; what was packed of it goes, without a question: it can be made again.
fn packed_only(args: &RmArgs, name: &str, repacked: &[Kept]) -> Result<()> {
    if repacked.is_empty() {
        return Err(Error::usage("taper removes only models that it fetched")
            .at(&args.name)
            .help("this is a file or folder of yours: delete it yourself"));
    }
    repacked.iter().try_for_each(Kept::remove)?;
    let bytes = repack::bytes(repacked);
    let mut answer = Answer::new();
    if args.output.json {
        answer.line(&json!({ "name": name, "path": null, "bytes": bytes }).to_string())
    } else {
        answer
            .line(&format!("removed the packed weights of {name}, {}; the model is yours and stays", megabytes(bytes)))
    }
}

/// Removes the files of `local`, and what a download of the model left.
fn remove(named: &Named<'_>, local: Option<&Local>, unfinished: bool, registry: &Registry) -> Result<()> {
    let (repo, revision) = match named {
        Named::Model(model, _) => match model.preferred() {
            Source::Wheel(_) => {
                let waiting = || log::note(format_args!("waiting for another taper that is fetching {}", model.name));
                return Store::new(&registry.dirs)?.lock(model, waiting)?.remove_all();
            }
            Source::Hub(hub) => (&hub.repo, hub.revision.as_str()),
        },
        Named::Hub(spec, _) => (&spec.repo, hub::REVISION),
        Named::Path(..) => return Ok(()), // refused above
    };
    let cache = Cache::new(&registry.hub_cache, repo);
    if unfinished {
        cache.remove_unfinished()?;
    }
    let Some(local) = local else { return Ok(()) };
    let names: Vec<String> = local.files.iter().map(|file| file.name.clone()).collect();
    cache.snapshot(revision).map_or(Ok(()), |snapshot| cache.remove(&snapshot, &names))
}
