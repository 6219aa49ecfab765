//! The index of a memory: made when it is due, and by `taper memory rebuild`.

use super::Program;
use crate::cli::{IndexArgs, RebuildArgs};
use crate::commands::threads;
use crate::error::Result;
use crate::memory::Memory;
use crate::memory::store::{Access, Store, Wanted};
use crate::memory::tend::{Build, Tended};
use crate::terminal::log;
use crate::terminal::render::Answer;

pub(super) fn rebuild(args: &RebuildArgs, program: &Program) -> Result<()> {
    let mut memory = program.open(&args.name, Access::Existing)?;
    let rebuilt = memory.rebuild()?;
    let sound = rebuilt.records - rebuilt.vectors;
    Answer::new().line(&format!(
        "{}: {} records, {sound} sound, {} vectors made again\ncontent_hash {}",
        args.name,
        rebuilt.records,
        rebuilt.vectors,
        memory.store().content_hash()?
    ))?;
    want(memory.store_mut(), &args.index)?;
    tend(&mut memory, Build::Always, program)
}

/// After records were added.
pub(super) fn added(memory: &mut Memory, args: &IndexArgs, program: &Program) -> Result<()> {
    let changed = want(memory.store_mut(), args)?;
    tend(memory, if changed { Build::Always } else { Build::IfOutgrown }, program)
}

/// Builds the index if it is due, and says what it is.
pub(super) fn tend(memory: &mut Memory, when: Build, program: &Program) -> Result<()> {
    let building =
        &mut |records| program.say(format_args!("index: measuring on {records} records what finds them fastest"));
    if let Tended::Built(what) = memory.tend(when, threads(program.embedder.threads), building)? {
        program.say(format_args!("index: {what}"));
    }
    Ok(())
}

/// Takes records that were removed out of the index.
pub(super) fn removed(store: &mut Store) -> Result<()> {
    let building = &mut |records| log::note(format_args!("index: it is made anew, of {records} records"));
    crate::memory::tend::tend(store, Build::IfOutgrown, threads(None), building).map(drop)
}

/// Keeps what the index is to reach. Whether that is another thing than before.
fn want(store: &mut Store, args: &IndexArgs) -> Result<bool> {
    let before = store.wanted()?;
    let wanted = Wanted {
        recall: args.target_recall.unwrap_or(before.recall),
        memory: match args.index_memory {
            None => before.memory,
            Some(0) => None,
            Some(megabytes) => Some(megabytes as usize * 1_000_000),
        },
    };
    if wanted == before {
        return Ok(false);
    }
    store.set_wanted(&wanted)?;
    Ok(true)
}
