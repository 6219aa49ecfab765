//! `taper models pull`: fetches a model and prints where it is.

use serde_json::json;

use super::{Named, Registry, path_text};
use crate::cli::PullArgs;
use crate::config;
use crate::error::{Error, Result};
use crate::registry::local::Local;
use crate::registry::{Fetch, hub, resolve_in};
use crate::terminal::render::Answer;

pub(super) fn run(args: &PullArgs, registry: &Registry) -> Result<()> {
    let mut fetch = Fetch::from_env(config::process_env);
    fetch.offline |= args.offline;
    fetch.progress = registry.progress;
    let (files, local) = match registry.named(&args.name)? {
        Named::Path(..) => {
            return Err(Error::usage("a file or folder of yours is there already: there is nothing to pull")
                .at(&args.name)
                .help("use it with -m, as it is"));
        }
        Named::Hub(spec, _) => (hub::ensure_spec(&spec, &fetch)?, hub::look(&spec, &registry.hub_cache)),
        Named::Model(model, _) => {
            fetch.kind = model.kind;
            let files = resolve_in(&registry.manifest, &model.name, &registry.dirs, &fetch)?;
            (files, Some(registry.look(model)?))
        }
    };
    let mut answer = Answer::new();
    if args.output.json {
        let bytes = local.as_ref().map(Local::bytes);
        answer.line(&json!({ "name": files.name, "path": path_text(&files.kind), "bytes": bytes }).to_string())
    } else {
        answer.line(&path_text(&files.kind))
    }
}
