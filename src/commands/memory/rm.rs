//! `taper memory rm`: what was removed is on the disk no more when it returns.

use crate::cli::MemoryRmArgs;
use crate::commands::input::agreed;
use crate::error::{Error, Result};
use crate::memory::Memories;
use crate::memory::store::Access;
use crate::terminal::count::counted;
use crate::terminal::log;
use crate::terminal::render::Answer;

pub(super) fn run(args: &MemoryRmArgs, memories: &Memories) -> Result<()> {
    let mut answer = Answer::new();
    if args.ids.is_empty() && args.source.is_none() {
        let count = memories.open(&args.name, Access::Existing).and_then(|store| store.count());
        let holds = count.map_or("cannot be read".to_owned(), |n| counted(n, "record"));
        if !memories.path(&args.name)?.exists() {
            memories.open(&args.name, Access::Existing)?; // says so
        }
        if !args.yes && !agreed(&format!("remove the memory {} ({holds})?", args.name))? {
            log::note(format_args!("{} stays", args.name));
            return Ok(());
        }
        memories.remove(&args.name)?;
        return answer.line(&format!("removed {}", args.name));
    }
    let mut store = memories.open(&args.name, Access::Existing)?;
    let gone = if let Some(source) = &args.source {
        store.remove_source(source)?
    } else {
        // All or nothing: a slip of the finger in one number should not cost the records of the others.
        for id in &args.ids {
            store.record(*id)?.ok_or_else(|| super::list::no_record(*id).in_file(store.path()))?;
        }
        store.remove(&args.ids)?
    };
    if let Some(source) = args.source.as_ref().filter(|_| gone == 0) {
        return Err(Error::runtime(format!("the memory has no source `{}`", source.escape_debug()))
            .in_file(store.path())
            .help(format!("taper memory list {} prints them", args.name)));
    }
    answer.line(&format!("removed {}", counted(gone, "record")))?;
    super::space::give_back(&mut store, log::note);
    super::index::removed(&mut store)
}
