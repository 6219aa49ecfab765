//! `taper models list`: the models known by name, and what of them is on this machine.

use serde_json::Value;

use super::{Registry, summary, table};
use crate::cli::ListArgs;
use crate::error::Result;
use crate::format::repack;
use crate::registry::local::{Local, Unfinished};
use crate::registry::manifest::Model;
use crate::terminal::progress::megabytes;
use crate::terminal::render::Answer;

pub(super) fn run(args: &ListArgs, registry: &Registry) -> Result<()> {
    let known = registry.manifest.models().iter().map(|model| Known::look(model, registry));
    let known = known.collect::<Result<Vec<_>>>()?;
    let mut answer = Answer::new();
    if args.output.json {
        let models: Vec<Value> = known.iter().map(|known| known.json(registry)).collect();
        return answer.line(&Value::from(models).to_string());
    }
    let head = ["NAME", "HERE", "LICENCE", "DESCRIPTION"].map(str::to_owned);
    let rows = known.iter().map(|known| known.row(registry));
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
