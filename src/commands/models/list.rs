//! `taper models list`: the models known by name, and what of them is on this machine; then those of the hub's cache
//! that have no other name.

use serde_json::{Value, json};

use super::{Registry, path_text, summary, table};
use crate::cli::ListArgs;
use crate::error::Result;
use crate::format::repack;
use crate::registry::hub::{self, Spec, cache};
use crate::registry::local::{Local, Unfinished};
use crate::registry::manifest::{Model, Source};
use crate::terminal::progress::megabytes;
use crate::terminal::render::Answer;

pub(super) fn run(args: &ListArgs, registry: &Registry) -> Result<()> {
    let known = registry.manifest.models().iter().map(|model| Known::look(model, registry));
    let known = known.collect::<Result<Vec<_>>>()?;
    let cached = Cached::all(&known, registry)?;
    let mut answer = Answer::new();
    if args.output.json {
        let known = known.iter().map(|known| known.json(registry));
        let models = known.chain(cached.iter().map(|cached| cached.json(registry)));
        return answer.line(&Value::from(models.collect::<Vec<_>>()).to_string());
    }
    let head = ["NAME", "HERE", "LICENCE", "DESCRIPTION"].map(str::to_owned);
    let rows = known.iter().map(|known| known.row(registry)).chain(cached.iter().map(|cached| cached.row(registry)));
    answer.push(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

/// A model of the registry.
struct Known<'m> {
    model: &'m Model,
    local: Local,
    unfinished: Option<Unfinished>,
}

impl<'m> Known<'m> {
    fn look(model: &'m Model, registry: &Registry) -> Result<Self> {
        let local = registry.look(model)?;
        let unfinished = registry.unfinished_model(model, &local)?;
        Ok(Self { model, local, unfinished })
    }

    fn has_unfinished_of(&self, repo: &str) -> bool {
        self.unfinished.is_some() && matches!(self.model.preferred(), Source::Hub(hub) if hub.repo == repo)
    }

    fn row(&self, registry: &Registry) -> [String; 4] {
        let Self { model, local, .. } = self;
        let default = if model.name == registry.manifest.default_model() { " (default)" } else { "" };
        let here = here(Some(local), self.unfinished.as_ref(), registry);
        [format!("{}{default}", model.name), here, model.licence.clone(), model.description.clone()]
    }

    fn json(&self, registry: &Registry) -> Value {
        summary(self.model, &self.local, self.unfinished.as_ref(), registry)
    }
}

/// A model of the hub's cache, or the beginning of one: then there are no files of it.
struct Cached {
    spec: Spec,
    local: Option<Local>,
    unfinished: Option<Unfinished>,
}

impl Cached {
    /// Those that `known` does not tell of.
    fn all(known: &[Known<'_>], registry: &Registry) -> Result<Vec<Self>> {
        let unfinished = |repo: &str| Unfinished::of_repository(&registry.hub_cache, repo);
        let mut all: Vec<Self> = registry
            .cached()?
            .into_iter()
            .map(|(spec, local)| {
                let unfinished = if spec.file.is_none() { unfinished(&spec.repo) } else { None };
                Self { spec, local: Some(local), unfinished }
            })
            .collect();
        for repo in cache::repositories(&registry.hub_cache) {
            let told = all.iter().any(|cached| cached.spec.repo == repo && cached.unfinished.is_some())
                || known.iter().any(|known| known.has_unfinished_of(&repo));
            let unfinished = if told { None } else { unfinished(&repo) };
            if unfinished.is_some() {
                all.push(Self { spec: Spec { repo, file: None }, local: None, unfinished });
            }
        }
        Ok(all)
    }

    fn row(&self, registry: &Registry) -> [String; 4] {
        let here = here(self.local.as_ref(), self.unfinished.as_ref(), registry);
        [self.spec.to_string(), here, String::new(), "in the hub's cache".to_owned()]
    }

    /// With the entries of [`summary`].
    fn json(&self, registry: &Registry) -> Value {
        let local = self.local.as_ref();
        json!({
            "name": self.spec.to_string(),
            "aliases": [],
            "default": false,
            "kind": "chat",
            "description": "in the hub's cache",
            "licence": null,
            "sources": [format!("hf:{} ({})", self.spec.repo, hub::REVISION)],
            "installed": local.is_some(),
            "path": local.map(|local| path_text(&local.kind)),
            "bytes": local.map(Local::bytes),
            "repacked_bytes": local.map_or(0, |local| repack::bytes(&registry.repacked(local))),
            "unfinished_bytes": self.unfinished.as_ref().map_or(0, |part| part.bytes),
        })
    }
}

/// What of a model is on this machine, in a few words.
fn here(local: Option<&Local>, unfinished: Option<&Unfinished>, registry: &Registry) -> String {
    let here = match local {
        Some(local) if local.is_whole() => megabytes(local.bytes()),
        Some(local) if local.is_there() => "incomplete".to_owned(),
        _ => "no".to_owned(),
    };
    let repacked = local.map_or(0, |local| repack::bytes(&registry.repacked(local)));
    let repacked = (repacked > 0).then(|| format!(" + {} repacked", megabytes(repacked)));
    let unfinished = unfinished.map(|part| format!(", {} unfinished", megabytes(part.bytes)));
    here + &repacked.unwrap_or_default() + &unfinished.unwrap_or_default()
}
