//! `taper models`: what there is by name, and what of it is on this machine.
//!
//! Results go to standard output, as text or (`--json`) as one JSON value; progress and questions go to standard error.

mod list;
mod pull;
mod rm;
mod show;
mod verify;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::{ModelsArgs, ModelsCommand, OutputArgs};
use crate::config::{self, Dirs};
use crate::error::Result;
use crate::format::gguf::Gguf;
use crate::format::repack::{self, Kept};
use crate::model::config::Config;
use crate::registry::local::{self, Local, Unfinished};
use crate::registry::manifest::{Model, Source};
use crate::registry::{FileKind, Manifest, ModelKind, hub, resolve};
use crate::terminal::interrupt::Interrupt;
use crate::terminal::log;
use crate::terminal::progress::Mode;

pub(super) fn run(args: &ModelsArgs) -> Result<()> {
    match &args.command {
        ModelsCommand::List(args) => list::run(args, &Registry::start(&args.output)?),
        ModelsCommand::Pull(args) => pull::run(args, &Registry::start(&args.output)?),
        ModelsCommand::Show(args) => show::run(args, &Registry::start(&args.output)?),
        ModelsCommand::Rm(args) => rm::run(args, &Registry::start(&args.output)?),
        ModelsCommand::Verify(args) => verify::run(args, &Registry::start(&args.output)?),
    }
}

/// What each of the commands works on.
struct Registry {
    dirs: Dirs,
    hub_cache: PathBuf,
    manifest: Manifest,
    progress: Mode,
    _interrupt: Interrupt,
}

impl Registry {
    fn start(output: &OutputArgs) -> Result<Self> {
        log::init(output.quiet, 0);
        let interrupt = Interrupt::listen()?;
        let dirs = Dirs::from_env(config::process_env);
        let manifest = Manifest::load(&dirs)?;
        let hub_cache = hub::cache::folder(config::process_env);
        Ok(Self { dirs, hub_cache, manifest, progress: Mode::for_stderr(output.quiet), _interrupt: interrupt })
    }

    /// What a user names: a model of the registry, or a path.
    fn named(&self, spec: &str) -> Result<Named<'_>> {
        if resolve::is_path(spec) {
            let files = resolve::at_path(spec.as_ref())?;
            return Ok(Named::Path(files.name, local::own(files.kind)?));
        }
        if let Some(named) = hub::Spec::parse(spec) {
            let named = named?;
            let local = hub::look(&named, &self.hub_cache);
            return Ok(Named::Hub(named, local));
        }
        let model = self.manifest.find(spec).ok_or_else(|| resolve::unknown(&self.manifest, spec))?;
        Ok(Named::Model(model, self.look(model)?))
    }

    fn look(&self, model: &Model) -> Result<Local> {
        local::look(model, &self.dirs, &self.hub_cache)
    }

    /// The models of the hub's cache that go by no name of the registry. Those of another architecture, which other
    /// programs share the cache for, are left out; damaged ones are not.
    fn cached(&self) -> Result<Vec<(hub::Spec, Local)>> {
        let named = self.manifest.models().iter().map(|model| Ok(self.look(model)?.kind));
        let named: Vec<FileKind> = named.collect::<Result<_>>()?;
        let mut found = hub::models(&self.hub_cache);
        found.retain(|(_, local)| !named.contains(&local.kind) && !is_foreign(&local.kind));
        Ok(found)
    }

    /// What a download of it left. A file of a repository that is there says nothing of the repository's others.
    fn unfinished(&self, named: &Named<'_>) -> Result<Option<Unfinished>> {
        match named {
            Named::Model(model, local) => self.unfinished_model(model, local),
            Named::Hub(hub::Spec { file: Some(_), .. }, Some(_)) | Named::Path(..) => Ok(None),
            Named::Hub(spec, _) => Ok(Unfinished::of_repository(&self.hub_cache, &spec.repo)),
        }
    }

    fn unfinished_model(&self, model: &Model, local: &Local) -> Result<Option<Unfinished>> {
        Unfinished::of_model(model, local, &self.dirs, &self.hub_cache)
    }

    /// What is kept of a model's weights as backends pack them.
    fn repacked(&self, local: &Local) -> Vec<Kept> {
        let folder = repack::Folder::of(&self.dirs);
        folder.iter().flat_map(|folder| local.files.iter().flat_map(|file| folder.of_source(&file.path))).collect()
    }
}

enum Named<'m> {
    Model(&'m Model, Local),
    /// A repository of the hub, and its files if they are here.
    Hub(hub::Spec, Option<Local>),
    /// A name for it, and its files.
    Path(String, Local),
}

/// Whether it is whole by its header, and of an architecture that taper does not run.
fn is_foreign(kind: &FileKind) -> bool {
    match kind {
        FileKind::Gguf(path) => Gguf::open(path).is_ok_and(|gguf| Config::from_gguf(&gguf.metadata).is_err()),
        FileKind::Folder(path) => Config::from_json(&path.join("config.json")).is_err(),
    }
}

/// The model as JSON; `show` says more.
fn summary(model: &Model, local: &Local, unfinished: Option<&Unfinished>, registry: &Registry) -> Value {
    let whole = Some(local).filter(|local| local.is_whole());
    json!({
        "name": model.name,
        "aliases": model.aliases,
        "default": model.name == registry.manifest.default_model(),
        "kind": if model.kind == ModelKind::Chat { "chat" } else { "embedder" },
        "description": model.description,
        "licence": model.licence,
        "sources": model.sources.iter().map(source_name).collect::<Vec<_>>(),
        "installed": whole.is_some(),
        "path": whole.map(|local| path_text(&local.kind)),
        "bytes": whole.map(Local::bytes),
        "repacked_bytes": repack::bytes(&registry.repacked(local)),
        "unfinished_bytes": unfinished.map_or(0, |part| part.bytes),
    })
}

fn source_name(source: &Source) -> String {
    match source {
        Source::Wheel(wheel) => format!("Python wheel {} {}", wheel.package, wheel.version),
        Source::Hub(hub) => format!("hf:{} ({}{})", hub.repo, hub.revision, if hub.gated { ", gated" } else { "" }),
    }
}

fn path_text(kind: &FileKind) -> String {
    kind.path().display().to_string()
}

/// Columns as wide as their widest cell, the last as it is.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_blanks() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("name", "x"), row("é", ""), row("longer", "y")]), "name    x\né\nlonger  y\n");
    }
}
