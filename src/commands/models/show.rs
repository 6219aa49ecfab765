//! `taper models show`: where a model comes from, where it lies, and what a GGUF file of it holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::{Named, Registry, path_text, source_name, summary, table};
use crate::cli::ShowArgs;
use crate::error::Result;
use crate::format::DType;
use crate::format::gguf::Gguf;
use crate::format::loss::{self, Loss, Losses};
use crate::format::quantize::Quant;
use crate::model::open::OpenModel;
use crate::model::tensors;
use crate::registry::local::{Local, LocalFile, Unfinished};
use crate::registry::manifest::{Model, Source};
use crate::registry::{FileKind, ModelFiles};
use crate::terminal::progress::megabytes;
use crate::terminal::render::Answer;

pub(super) fn run(args: &ShowArgs, registry: &Registry) -> Result<()> {
    let named = registry.named(&args.name)?;
    let local = match &named {
        Named::Model(_, local) => Some(local).filter(|local| local.is_whole()),
        Named::Path(_, local) => Some(local),
        Named::Hub(_, local) => local.as_ref(),
    };
    let unfinished = registry.unfinished(&named)?;
    let gguf = match local.map(|local| &local.kind) {
        Some(FileKind::Gguf(path)) => Some(Contents::read(path)?),
        _ => None,
    };
    let losses = match local {
        Some(local) if args.loss => Some(losses(local, args.quant)?),
        _ => None,
    };
    let mut answer = Answer::new();
    if args.output.json {
        let mut shown = match &named {
            Named::Model(model, local) => summary(model, local, unfinished.as_ref(), registry),
            Named::Path(name, _) => plain(name, local, gguf.as_ref()),
            Named::Hub(spec, _) => plain(&spec.to_string(), local, gguf.as_ref()),
        };
        if let Named::Model(model, _) = &named {
            shown["sources"] = model.sources.iter().map(source_json).collect();
        }
        shown["unfinished_bytes"] = unfinished.map_or(0, |part| part.bytes).into();
        shown["files"] = local.map_or(Value::Null, |local| local.files.iter().map(file_json).collect());
        shown["gguf"] = gguf.as_ref().map_or(Value::Null, Contents::json);
        if let Some(losses) = &losses {
            shown["loss"] = losses.iter().map(loss_json).collect();
        }
        return answer.line(&shown.to_string());
    }
    let mut text = match &named {
        Named::Model(model, _) => model_text(model, local, unfinished.as_ref()),
        Named::Path(name, _) => format!("{name}\n\n{}", local_text(local, None, &args.name)),
        Named::Hub(spec, _) => format!("{spec}\n\n{}", local_text(local, unfinished.as_ref(), &args.name)),
    };
    if let Some(gguf) = &gguf {
        text += &gguf.text();
    }
    if let Some(losses) = &losses {
        text += "\npacked for computing\n";
        for (types, loss) in losses {
            let _ = writeln!(text, "  {}", loss::line(*types, loss)); // a String takes everything
        }
    }
    answer.push(&text)
}

/// What becomes of a model's matrices when it is loaded.
fn losses(local: &Local, quant: Quant) -> Result<Losses> {
    let files = ModelFiles { name: String::new(), kind: local.kind.clone() };
    let mut model = OpenModel::open(&files, None)?;
    model.quantize(quant)?;
    // An embedding that is not the head is not packed.
    let untied = model.weights.contains(tensors::OUTPUT);
    let packed = model.weights.names().filter(|name| !(untied && *name == tensors::EMBEDDING));
    loss::measure(&model.weights, packed)
}

fn loss_json(((from, to), loss): (&(DType, DType), &Loss)) -> Value {
    json!({ "type": from.name(), "becomes": to.name(), "tensors": loss.tensors, "bytes": loss.stored,
        "packed_bytes": loss.packed, "relative_rms_error": loss.rms() })
}

fn model_text(model: &Model, local: Option<&Local>, unfinished: Option<&Unfinished>) -> String {
    let mut lines = vec![model.names().collect::<Vec<_>>().join(", "), model.description.clone(), String::new()];
    lines.push(format!("licence     {}", model.licence));
    lines.push(format!("kind        {}", model.kind));
    lines.push(local_text(local, unfinished, &model.name));
    lines.push("sources, the preferred first".to_owned());
    for source in &model.sources {
        lines.push(format!("  {}", source_name(source)));
        for (name, bytes, sha256) in source_files(source) {
            let bytes = bytes.map_or_else(String::new, |bytes| format!(", {}", megabytes(bytes)));
            let hash = sha256.map_or_else(String::new, |sha256| format!(", SHA-256\n      {sha256}"));
            lines.push(format!("    {name}{bytes}{hash}"));
        }
    }
    lines.join("\n") + "\n"
}

fn local_text(local: Option<&Local>, unfinished: Option<&Unfinished>, name: &str) -> String {
    let here = local.map_or_else(
        || format!("path        not on this machine; `taper models pull {name}` fetches it\n"),
        |local| format!("path        {}\nsize        {}\n", path_text(&local.kind), megabytes(local.bytes())),
    );
    let part = unfinished.map(|part| {
        let (bytes, folder) = (megabytes(part.bytes), part.folder.display());
        format!("unfinished  {bytes} of a download in {folder}; `taper models rm {name}` removes them\n")
    });
    here + &part.unwrap_or_default()
}

/// A model of no manifest as JSON.
fn plain(name: &str, local: Option<&Local>, gguf: Option<&Contents>) -> Value {
    json!({ "name": name, "licence": gguf.and_then(|gguf| gguf.licence.clone()),
        "path": local.map(|local| path_text(&local.kind)), "bytes": local.map(Local::bytes) })
}

/// Name, size and hash of a source's files; the last two as far as they are known.
fn source_files(source: &Source) -> Vec<(&str, Option<u64>, Option<&str>)> {
    match source {
        Source::Wheel(wheel) => {
            wheel.files.iter().map(|f| (f.name.as_str(), Some(f.bytes), Some(f.sha256.as_str()))).collect()
        }
        Source::Hub(hub) => hub.files.iter().map(|f| (f.name.as_str(), f.bytes, f.sha256.as_deref())).collect(),
    }
}

fn source_json(source: &Source) -> Value {
    let files: Vec<Value> = source_files(source)
        .into_iter()
        .map(|(name, bytes, sha256)| json!({ "name": name, "bytes": bytes, "sha256": sha256 }))
        .collect();
    match source {
        Source::Wheel(wheel) => {
            json!({ "wheel": wheel.package, "version": wheel.version, "bytes": wheel.bytes, "files": files })
        }
        Source::Hub(hub) => {
            json!({ "hub": hub.repo, "revision": hub.revision, "gated": hub.gated, "files": files })
        }
    }
}

fn file_json(file: &LocalFile) -> Value {
    json!({ "name": file.name, "path": file.path.display().to_string(), "bytes": file.found, "sha256": file.sha256 })
}

/// What a GGUF file says of itself. Read here and not by [`crate::model`], so that a model taper cannot run can be
/// looked at too.
struct Contents {
    architecture: Option<String>,
    licence: Option<String>,
    layers: Option<u32>,
    context: Option<u32>,
    /// Tensors and bytes of each type.
    types: BTreeMap<DType, (usize, u64)>,
}

impl Contents {
    fn read(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let text = |key: &str| gguf.metadata.str(key).ok().flatten().map(str::to_owned);
        let architecture = text("general.architecture");
        let number = |key: &str| {
            let key = format!("{}.{key}", architecture.as_deref()?);
            gguf.metadata.u32(&key).ok().flatten()
        };
        let mut types = BTreeMap::new();
        for tensor in &gguf.tensors {
            let (count, bytes) = types.entry(tensor.dtype).or_insert((0, 0));
            *count += 1;
            *bytes += tensor.bytes.len() as u64;
        }
        let (layers, context) = (number("block_count"), number("context_length"));
        Ok(Self { licence: text("general.license"), layers, context, types, architecture })
    }

    fn json(&self) -> Value {
        let tensors: Vec<Value> = self
            .types
            .iter()
            .map(|(dtype, (count, bytes))| json!({ "type": dtype.name(), "tensors": count, "bytes": bytes }))
            .collect();
        json!({ "architecture": self.architecture, "licence": self.licence, "layers": self.layers,
            "context": self.context, "tensors": tensors })
    }

    fn text(&self) -> String {
        let or_not = |number: Option<u32>| number.map_or_else(|| "not said".to_owned(), |n| n.to_string());
        let row = |dtype: &DType, count: usize, bytes: u64| {
            let tensors = if count == 1 { "tensor" } else { "tensors" };
            [format!("  {dtype}"), format!("{count} {tensors}"), megabytes(bytes)]
        };
        let rows: Vec<_> = self.types.iter().map(|(dtype, (count, bytes))| row(dtype, *count, *bytes)).collect();
        format!(
            "\nthe file says\n  architecture  {}\n  layers        {}\n  context       {}\n  licence       {}\ntensors\n{}",
            self.architecture.as_deref().unwrap_or("not said"),
            or_not(self.layers),
            or_not(self.context),
            self.licence.as_deref().unwrap_or("not said"),
            table(&rows)
        )
    }
}
