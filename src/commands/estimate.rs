//! `--estimate-memory`: what a model will take, before it is loaded.
//!
//! The figures are the backend's own plan, made from the sizes of the file's tensors; the same plan decides at loading whether
//! the model fits. The program's share is what this process has now, with the tokenizer read and no weights; it is part of
//! the total, and so of what is available: what the system has left, and what is here already.
//!
//! A model of the registry that is not on this machine is not fetched for this: where `models.toml` has its shape, the plan
//! is made from the synthetic model of that shape.

use serde_json::json;

use super::{Session, csv};
use crate::backend::MemoryPlan;
use crate::backend::choose::Choice;
use crate::cli::{Cli, Format};
use crate::config::{self, Dirs};
use crate::engine::fit::human_bytes;
use crate::error::Result;
use crate::model::open::OpenModel;
use crate::model::synth::Synth;
use crate::registry::manifest::{Manifest, Model, Shape};
use crate::registry::{Fetch, local, resolve};
use crate::stats::machine;
use crate::taper::{LoadOptions, Taper};
use crate::terminal::render::Answer;

pub(super) fn run(cli: &Cli, session: &Session) -> Result<()> {
    let options = session.options()?;
    let model = open(session)?;
    session.tell_choice(&model, &options)?;
    let estimate = Estimate::of(&model, &options)?;
    let mut answer = Answer::new();
    match cli.bench.output {
        Format::Json => answer.line(&estimate.json().to_string()),
        Format::Csv => csv::lines(&[estimate.json()]).iter().try_for_each(|line| answer.line(line)),
        Format::Md => estimate.table().iter().try_for_each(|line| answer.line(line)),
    }
}

/// The model that is named; or, where it would have to be downloaded first, one of its shape.
fn open(session: &Session) -> Result<OpenModel> {
    let Some((model, shape)) = absent(&session.args.model)? else { return session.open() };
    let Some(synth) = Synth::named(&format!("synth:{}", shape.synth))? else { return session.open() };
    session.say(format_args!(
        "{} is not on this machine: the estimate is from its shape in models.toml. `taper models pull {0}` fetches it.",
        model.name
    ));
    let mut open = synth.open()?;
    open.name = model.name;
    open.config.context = shape.context;
    Ok(open)
}

/// The model of the registry that `spec` names and its shape, if it is not here and its shape is known.
fn absent(spec: &str) -> Result<Option<(Model, Shape)>> {
    if spec.starts_with("hf:") || spec.starts_with("synth:") || resolve::is_path(spec) {
        return Ok(None);
    }
    let dirs = Dirs::from_env(config::process_env);
    let manifest = Manifest::load(&dirs)?;
    let Some(model) = manifest.find(spec) else { return Ok(None) };
    let Some(shape) = &model.shape else { return Ok(None) };
    let here = local::look(model, &dirs, &Fetch::from_env(config::process_env).hub_cache)?.is_whole();
    Ok((!here).then(|| (model.clone(), shape.clone())))
}

struct Estimate {
    model: String,
    choice: Choice,
    plan: MemoryPlan,
    /// This process's own, in bytes.
    program: u64,
    /// What the system has left and `program`; `None` where the system does not say.
    available: Option<u64>,
    /// The longest context that fits, at most the model's own; `None` when not even a short one does.
    longest: Option<usize>,
}

impl Estimate {
    fn of(model: &OpenModel, options: &LoadOptions) -> Result<Self> {
        let left = Taper::choose(model, options)?.available_memory();
        Self::within(left, resident().unwrap_or(0), model, options)
    }

    /// The estimate for a process of `program` bytes, where the system has `left` more.
    fn within(left: Option<u64>, program: u64, model: &OpenModel, options: &LoadOptions) -> Result<Self> {
        let any_context = LoadOptions { context: None, ..options.clone() };
        Ok(Self {
            choice: Taper::choose(model, options)?,
            plan: Taper::plan(model, options, None)?,
            longest: Taper::plan(model, &any_context, left).ok().map(|plan| plan.limits.context),
            program,
            model: model.name.clone(),
            available: left.map(|left| left.saturating_add(program)),
        })
    }

    fn total(&self) -> u64 {
        self.plan.total().saturating_add(self.program)
    }

    /// As loading decides, which compares what is still to be taken with what is left.
    fn fits(&self) -> Option<bool> {
        self.available.map(|available| self.total() <= available)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "model": self.model,
            "backend": self.choice.name(),
            "kv_type": self.choice.kv_type().name(),
            "context": self.plan.limits.context,
            "batch": self.plan.limits.chunk,
            "weights_bytes": self.plan.weights,
            "kv_bytes": self.plan.kv,
            "workspace_bytes": self.plan.workspace,
            "program_bytes": self.program,
            "total_bytes": self.total(),
            "available_bytes": self.available,
            "fits": self.fits(),
            "longest_context": self.longest,
        })
    }

    fn table(&self) -> Vec<String> {
        let limits = self.plan.limits;
        let mut lines = vec![
            format!(
                "{}, {} backend, context {}, {} rows a step\n",
                self.model,
                self.choice.name(),
                limits.context,
                limits.chunk
            ),
            "| what | bytes |".to_owned(),
            "|---|---:|".to_owned(),
        ];
        for (what, bytes) in [
            ("weights", self.plan.weights),
            (&*format!("KV cache, {}", self.choice.kv_type().name()), self.plan.kv),
            ("workspace", self.plan.workspace),
            ("program and tokenizer", self.program),
            ("total", self.total()),
        ] {
            lines.push(format!("| {what} | {} |", human_bytes(bytes)));
        }
        lines.push(String::new());
        lines.push(self.verdict());
        lines
    }

    fn verdict(&self) -> String {
        let available = self.available.map_or_else(|| "an unknown amount".to_owned(), human_bytes);
        let verdict = match self.fits() {
            None => "The system does not say how much memory is available.".to_owned(),
            Some(true) => format!("It fits: {available} are available."),
            Some(false) => format!("It does not fit: {available} are available."),
        };
        match (self.longest, self.fits()) {
            (Some(longest), Some(true)) if longest <= self.plan.limits.context => verdict,
            (Some(longest), Some(_)) => format!("{verdict} A context of up to {longest} fits."),
            (None, Some(_)) => format!("{verdict} No context makes it fit: take a smaller model."),
            (_, None) => verdict,
        }
    }
}

/// This process's memory now.
fn resident() -> Option<u64> {
    let kib = machine::status("VmRSS")?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_that_of_the_printed_numbers_and_of_loading() {
        let model = Synth::named("synth:smollm2-135m").unwrap().unwrap().open().unwrap();
        let options = LoadOptions { context: Some(1024), ..LoadOptions::default() };
        let needed = Taper::plan(&model, &options, None).unwrap().total();
        for left in [needed - 1, needed] {
            let estimate = Estimate::within(Some(left), 20_000_000, &model, &options).unwrap();
            assert_eq!(estimate.fits(), Some(Taper::plan(&model, &options, Some(left)).is_ok()));
            let json = estimate.json();
            let number = |name: &str| json[name].as_u64().unwrap();
            assert_eq!(json["fits"], number("total_bytes") <= number("available_bytes"), "{json}");
        }
    }
}
