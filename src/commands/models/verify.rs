//! `taper models verify`: reads models again and compares them with their hashes; of a file without a known hash, the
//! header at least, which tells a file that was cut.

use serde_json::{Value, json};

use super::{Named, Registry};
use crate::cli::VerifyArgs;
use crate::error::{Error, Kind, Result};
use crate::format::gguf::Gguf;
use crate::format::safetensors;
use crate::registry::local::{Local, LocalFile, Verdict};
use crate::registry::{FileKind, resolve};
use crate::terminal::log;
use crate::terminal::progress::Progress;
use crate::terminal::render::Answer;

pub(super) fn run(args: &VerifyArgs, registry: &Registry) -> Result<()> {
    let models = match &args.name {
        Some(name) => vec![one(name, registry)?],
        None => all(registry)?,
    };
    if models.is_empty() {
        log::note("no model is on this machine");
    }
    let mut answer = Answer::new();
    let mut report = Vec::new();
    let mut bad = Vec::new();
    for (name, local) in &models {
        for file in &local.files {
            let result = check(file, local, registry)?;
            if !args.output.json {
                answer.push(&format!("{name}  {}  {}\n", file.name, result.text()))?;
            }
            report.push(result.json(name, file));
            if let Outcome::Damaged(_) | Outcome::Missing = result {
                bad.push((name, file));
            }
        }
    }
    if args.output.json {
        answer.line(&json!({ "ok": bad.is_empty(), "files": report }).to_string())?;
    }
    match bad.first() {
        None => Ok(()),
        Some((name, file)) => {
            Err(Error::model(format!("{name} is not what it should be")).in_file(&file.path).help(advice(name, args)))
        }
    }
}

/// A file of the user's own is not taper's to fetch.
fn advice(name: &str, args: &VerifyArgs) -> String {
    if args.name.as_deref().is_some_and(resolve::is_path) {
        return "the file is damaged or incomplete: download or convert it again".to_owned();
    }
    format!("fetch it again: taper models rm -y {name} && taper models pull {name}")
}

fn one(name: &str, registry: &Registry) -> Result<(String, Local)> {
    let (name, local) = match registry.named(name)? {
        Named::Path(name, local) => return Ok((name, local)),
        Named::Model(model, local) => (model.name.clone(), Some(local)),
        Named::Hub(spec, local) => (spec.to_string(), local),
    };
    let help = format!("fetch it: taper models pull {name}");
    match local.filter(Local::is_there) {
        Some(local) => Ok((name, local)),
        None => Err(Error::model(format!("{name} is not on this machine")).help(help)),
    }
}

fn all(registry: &Registry) -> Result<Vec<(String, Local)>> {
    let looked = registry.manifest.models().iter().map(|model| Ok((model.name.clone(), registry.look(model)?)));
    let mut looked = looked.collect::<Result<Vec<_>>>()?;
    looked.retain(|(_, local)| local.is_there());
    looked.extend(registry.cached()?.into_iter().map(|(spec, local)| (spec.to_string(), local)));
    Ok(looked)
}

enum Outcome {
    Good,
    NothingKnown,
    Missing,
    Damaged(String),
}

fn check(file: &LocalFile, local: &Local, registry: &Registry) -> Result<Outcome> {
    let Some(found) = file.found else { return Ok(Outcome::Missing) };
    let read = if file.sha256.is_some() {
        let progress = Progress::new(registry.progress, &format!("reading {}", file.name), found);
        file.verify(|bytes| progress.set(bytes)).inspect(|_| progress.finish())
    } else {
        check_header(file, local).map(|()| Verdict::NothingKnown)
    };
    match read {
        Ok(Verdict::Good) => Ok(Outcome::Good),
        Ok(Verdict::NothingKnown) => Ok(Outcome::NothingKnown),
        Err(e) if e.kind() == Kind::Model => Ok(Outcome::Damaged(e.what().to_owned())),
        Err(e) => Err(e),
    }
}

/// Whether the file holds what its header promises; one of another form has none.
fn check_header(file: &LocalFile, local: &Local) -> Result<()> {
    if matches!(local.kind, FileKind::Gguf(_)) {
        return Gguf::open(&file.path).map(|_| ());
    }
    if file.path.extension().is_some_and(|extension| extension == "safetensors") {
        return safetensors::open(&file.path).map(|_| ());
    }
    Ok(())
}

impl Outcome {
    fn text(&self) -> String {
        match self {
            Self::Good => "good".to_owned(),
            Self::NothingKnown => "there is no known hash to compare it with".to_owned(),
            Self::Missing => "missing".to_owned(),
            Self::Damaged(why) => format!("damaged: {why}"),
        }
    }

    fn json(&self, model: &str, file: &LocalFile) -> Value {
        let (status, why) = match self {
            Self::Good => ("good", None),
            Self::NothingKnown => ("unknown", None),
            Self::Missing => ("missing", None),
            Self::Damaged(why) => ("damaged", Some(why)),
        };
        json!({ "model": model, "name": file.name, "path": file.path.display().to_string(), "bytes": file.found,
            "status": status, "why": why })
    }
}
