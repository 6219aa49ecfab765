//! `taper memory list`, `show` and `stats`.

use serde_json::json;

use crate::cli::{MemoryListArgs, MemoryShowArgs, StatsArgs};
use crate::error::{Error, Result};
use crate::memory::Memories;
use crate::memory::store::Access;
use crate::terminal::log;
use crate::terminal::progress::megabytes;
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
                    known.map_or("cannot be read".to_owned(), |n| format!("{n} records"))
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
            answer.push(&format!("{}  {} records{first}{missing}\n", source.name, source.records))?;
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

pub(super) fn stats(args: &StatsArgs, memories: &Memories) -> Result<()> {
    let store = memories.open(&args.name, Access::Existing)?;
    let (records, hash, model) = (store.count()?, store.content_hash()?, store.model()?);
    let sources = store.sources()?;
    let bytes = std::fs::metadata(store.path()).map_or(0, |found| found.len());
    let (wanted, indexed) = (store.wanted()?, store.index()?.map(|note| note.count));
    let missing: usize = sources.iter().map(|source| source.missing).sum();
    let mut answer = Answer::new();
    if args.json {
        let line = json!({
            "name": args.name,
            "records": records,
            "sources": sources.len(),
            "missing": missing,
            "content_hash": hash,
            "model": model.as_ref().map(|model| &model.name),
            "dim": model.as_ref().map(|model| model.dim),
            "bytes": bytes,
            "target_recall": wanted.recall,
            "indexed": indexed,
            "path": store.path().to_string_lossy(),
        });
        return answer.line(&line.to_string());
    }
    let model = model.map_or("none yet".to_owned(), |model| format!("{}, {} dimensions", model.name, model.dim));
    let index = indexed
        .map_or("none: all are compared".to_owned(), |n| format!("of {n} records, target recall {}", wanted.recall));
    answer.line(&format!(
        "records       {records}\nsources       {}\nembedder      {model}\nindex         {index}\nfile          {}, {}\n\
         content_hash  {hash}",
        sources.len(),
        store.path().display(),
        megabytes(bytes),
    ))?;
    if missing > 0 {
        log::note(format_args!("{missing} records are still to be added: taper memory list says of which sources"));
    }
    Ok(())
}
