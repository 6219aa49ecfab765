//! The index of a memory: made when it is due, and by `taper memory rebuild`.

use super::{Program, space};
use crate::cli::{IndexArgs, RebuildArgs};
use crate::commands::threads;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::memory::store::{Access, Store, Wanted};
use crate::memory::tend::{Build, Tended, is_taken, name_of};
use crate::terminal::count::counted;
use crate::terminal::log;
use crate::terminal::render::Answer;

pub(super) fn rebuild(args: &RebuildArgs, program: &Program) -> Result<()> {
    let mut memory = program.open(&args.name, Access::Existing)?;
    let rebuilt = memory.rebuild()?;
    let (records, vectors) = (counted(rebuilt.records, "record"), counted(rebuilt.vectors, "vector"));
    let sound = rebuilt.records - rebuilt.vectors;
    let hash = memory.store().content_hash()?;
    Answer::new()
        .line(&format!("{}: {records}, {sound} sound, {vectors} made again\ncontent_hash {hash}", args.name))?;
    if !memory.store().is_writable() {
        return Err(Error::runtime("the records were checked, but nothing was written: the memory may not be")
            .in_file(memory.store().path())
            .help("its index stays as it is; see to the file's permissions, and its folder's"));
    }
    want(memory.store_mut(), &args.index)?;
    space::give_back(memory.store_mut(), |line| program.say(line));
    tend(&mut memory, Build::Always, program)
}

/// After records were added.
pub(super) fn added(memory: &mut Memory, args: &IndexArgs, program: &Program) -> Result<()> {
    let changed = want(memory.store_mut(), args)?;
    tend(memory, if changed { Build::Always } else { Build::IfOutgrown }, program)
}

/// Builds the index if it is due, and says what it is.
pub(super) fn tend(memory: &mut Memory, when: Build, program: &Program) -> Result<()> {
    let building = &mut |records| program.say(measuring(records));
    let tended = memory.tend(when, threads(program.embedder.threads), building)?;
    if let Some(line) = told(&tended, memory.store()) {
        program.say(line);
    }
    Ok(())
}

/// Takes records that were removed out of the index.
pub(super) fn removed(store: &mut Store) -> Result<()> {
    let building = &mut |records| log::note(measuring(records));
    let tended = crate::memory::tend::tend(store, Build::IfOutgrown, threads(None), building)?;
    told(&tended, store).into_iter().for_each(log::note);
    Ok(())
}

/// After a search that found no index where there should be one. It has answered: what goes wrong now is told, no more.
pub(super) fn lost(memory: &mut Memory, name: &str, program: &Program) {
    let place = memory.store().index_path();
    if is_taken(&place) {
        let place = place.display();
        program.say(format_args!(
            "all vectors were compared: {place} is no file\n  remove it, then: taper memory rebuild {name}"
        ));
        return;
    }
    program.say("the index file is not this memory's, or gone: all vectors were compared");
    if memory.store().is_writable()
        && let Err(e) = tend(memory, Build::Always, program)
    {
        program.say(format_args!("no index was made: {e}"));
    }
}

fn measuring(records: usize) -> String {
    format!("index: measuring on {} what finds them fastest", counted(records, "record"))
}

fn told(tended: &Tended, store: &Store) -> Option<String> {
    match tended {
        Tended::Nothing | Tended::Forgot => None,
        Tended::Lost => {
            let name = name_of(store.path());
            Some(format!(
                "index: its file could not be read, all are compared now; `taper memory rebuild {name}` makes one"
            ))
        }
        Tended::Built(what) => Some(format!("index: {what}")),
        Tended::Needless(records) => {
            Some(format!("index: none, a search compares all of {}", counted(*records, "record")))
        }
    }
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
