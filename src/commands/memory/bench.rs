//! `taper memory bench`.

use crate::cli::MemoryBenchArgs;
use crate::commands::threads;
use crate::error::{Error, Result};
use crate::memory::store::Access;
use crate::memory::tiers::{self, Options};
use crate::memory::{Held, Memories};
use crate::terminal::log;
use crate::terminal::render::Answer;

pub(super) fn run(args: &MemoryBenchArgs, memories: &Memories) -> Result<()> {
    let store = memories.open(&args.name, Access::Existing)?;
    let Some(model) = store.model()?.filter(|_| store.count().is_ok_and(|count| count > 0)) else {
        return Err(Error::usage(format!("the memory {} is empty: there is nothing to compare forms on", args.name))
            .help(format!("taper memory add {} FILE adds to it", args.name)));
    };
    let mut vectors = Held::new(model.dim);
    vectors.extend(&store, 0)?;
    let target_recall = args.target_recall.map_or_else(|| store.wanted().map(|wanted| wanted.recall), Ok)?;
    let options = Options { target_recall: target_recall as f32, most: args.records, threads: threads(args.threads) };
    let report = tiers::bench(&vectors, &options, &mut |name| log::note(format_args!("{name} …")))?;
    Answer::new().line(&if args.json { report.json().to_string() } else { report.table() })
}
