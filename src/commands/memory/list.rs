//! `taper memory list` and `show`.

use serde_json::json;

use crate::cli::{MemoryListArgs, MemoryShowArgs};
use crate::error::{Error, Result};
use crate::memory::Memories;
use crate::memory::store::Access;
use crate::terminal::count::counted;
use crate::terminal::log;
use crate::terminal::render::Answer;

pub(super) fn run(args: &MemoryListArgs, memories: &Memories) -> Result<()> {
    let mut answer = Answer::new();
    let Some(name) = &args.name else {
        let names = memories.list();
        if names.is_empty() && !args.json {
            log::note("There is no memory yet: taper memory add NAME FILE makes one.");
        }
        for name in names {
            // One that is damaged is no reason not to list the others.
            let records = memories.open(&name, Access::Existing).and_then(|store| store.count());
            let known = records.as_ref().ok();
            if args.json {
                answer.line(&json!({ "name": name, "records": known }).to_string())?;
            } else {
                answer.line(&format!(
                    "{name}  {}",
                    known.map_or("cannot be read".to_owned(), |n| counted(*n, "record"))
                ))?;
            }
        }
        return Ok(());
    };
    for source in memories.open(name, Access::Existing)?.sources()? {
        if args.json {
            let line = json!({
                "source": source.name,
                "records": source.records,
                "missing": source.missing,
                "added": source.added,
                "first": source.first,
            });
            answer.line(&line.to_string())?;
        } else {
            let missing = match source.missing {
                0 => String::new(),
                n => format!(", {n} still to be added: add it again"),
            };
            let first = source.first.map_or(String::new(), |id| format!(" from id {id}"));
            answer.push(&format!("{}  {}{first}{missing}\n", source.name, counted(source.records, "record")))?;
        }
    }
    Ok(())
}

pub(super) fn show(args: &MemoryShowArgs, memories: &Memories) -> Result<()> {
    let store = memories.open(&args.name, Access::Existing)?;
    let record = store.record(args.id)?.ok_or_else(|| no_record(args.id).in_file(store.path()))?;
    let mut answer = Answer::new();
    if args.json {
        let line = json!({
            "id": record.id,
            "source": record.source,
            "offset": record.begins,
            "end": record.ends,
            "added": record.added,
            "text": record.text,
        });
        return answer.line(&line.to_string());
    }
    let (begins, ends) = (record.begins, record.ends);
    log::note(format_args!("{}, bytes {begins} to {ends}, {}", record.source.escape_debug(), record.added));
    answer.push(&record.text)?;
    answer.end()
}

pub(in crate::commands) fn no_record(id: i64) -> Error {
    Error::runtime(format!("the memory has no record {id}")).help("taper memory search and list print the numbers")
}
