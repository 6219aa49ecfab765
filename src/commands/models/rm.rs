//! `taper models rm`: removes what was fetched, after asking.

use std::io::{IsTerminal, Write};

use serde_json::json;

use super::{Named, Registry, path_text};
use crate::cli::RmArgs;
use crate::error::{Error, Result};
use crate::registry::local::Local;
use crate::registry::store::Store;
use crate::terminal::log;
use crate::terminal::progress::megabytes;
use crate::terminal::render::Answer;

pub(super) fn run(args: &RmArgs, registry: &Registry) -> Result<()> {
    let Named::Model(model, local) = registry.named(&args.name)? else {
        return Err(Error::usage("taper removes only models that it fetched")
            .at(&args.name)
            .help("this is a file or folder of yours: delete it yourself"));
    };
    let Some(local) = local.filter(Local::is_there) else {
        return Err(Error::model(format!("{} is not on this machine: there is nothing to remove", model.name)));
    };
    let bytes = local.bytes();
    let question = format!("remove {} ({} in {})?", model.name, megabytes(bytes), path_text(&local.kind));
    if !args.yes && !agreed(&question)? {
        log::note(format_args!("{} stays", model.name));
        return Ok(());
    }
    let waiting = || log::note(format_args!("waiting for another taper that is fetching {}", model.name));
    Store::new(&registry.dirs).lock(model, waiting)?.remove_all()?;
    let mut answer = Answer::new();
    if args.output.json {
        answer.line(&json!({ "name": model.name, "path": path_text(&local.kind), "bytes": bytes }).to_string())
    } else {
        answer.line(&format!("removed {}, {}", model.name, megabytes(bytes)))
    }
}

/// Asks on the terminal; anything but yes is no.
fn agreed(question: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::usage("rm asks before it removes, and there is no terminal to ask on")
            .help("add -y to remove without a question"));
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).map_err(Error::output)?;
    let mut reply = String::new();
    stdin.read_line(&mut reply).map_err(|e| Error::runtime(format!("cannot read the reply: {e}")))?;
    Ok(matches!(reply.trim().to_lowercase().as_str(), "y" | "yes"))
}
