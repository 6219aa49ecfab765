//! `taper memory stats`.

use serde_json::json;

use crate::cli::StatsArgs;
use crate::error::Result;
use crate::memory::Memories;
use crate::memory::condition::{self, Condition};
use crate::memory::store::{Access, Wanted};
use crate::terminal::count::counted;
use crate::terminal::log;
use crate::terminal::progress::megabytes;
use crate::terminal::render::Answer;

pub(super) fn run(args: &StatsArgs, memories: &Memories) -> Result<()> {
    let store = memories.open(&args.name, Access::Existing)?;
    let (records, hash, model) = (store.count()?, store.content_hash()?, store.model()?);
    let sources = store.sources()?;
    let bytes = std::fs::metadata(store.path()).map_or(0, |found| found.len());
    let (wanted, index) = (store.wanted()?, condition::of(&store)?);
    let missing: usize = sources.iter().map(|source| source.missing).sum();
    let mut answer = Answer::new();
    if args.json {
        let form = index.as_ref().map(|index| &index.form);
        let line = json!({
            "name": args.name,
            "records": records,
            "sources": sources.len(),
            "missing": missing,
            "content_hash": hash,
            "model": model.as_ref().map(|model| &model.name),
            "chunk_tokens": store.chunk_tokens()?,
            "dim": model.as_ref().map(|model| model.dim),
            "bytes": bytes,
            "target_recall": wanted.recall,
            "index_memory": wanted.memory,
            "indexed": index.as_ref().map(|index| index.records),
            "index": form.and_then(|form| form.as_ref().ok()),
            "index_problem": form.and_then(|form| form.as_ref().err()),
            "path": store.path().to_string_lossy(),
        });
        return answer.line(&line.to_string());
    }
    let model = model.map_or("none yet".to_owned(), |model| format!("{}, {} dimensions", model.name, model.dim));
    answer.line(&format!(
        "records       {records}\nsources       {}\nembedder      {model}\n\
         passages      of up to {} tokens\nindex         {}\ntarget        {}\n\
         file          {}, {}\ncontent_hash  {hash}",
        sources.len(),
        store.chunk_tokens()?,
        described(index.as_ref(), &args.name),
        target(&wanted),
        store.path().display(),
        megabytes(bytes),
    ))?;
    if missing > 0 {
        log::note(format_args!(
            "still to be added: {}; taper memory list says of which sources",
            counted(missing, "record")
        ));
    }
    Ok(())
}

fn described(index: Option<&Condition>, name: &str) -> String {
    match index {
        None => "none: all are compared".to_owned(),
        Some(Condition { form: Err(problem), .. }) => {
            let first = if problem.ends_with("no file") { "remove it, then " } else { "" };
            format!("none: {problem}; {first}`taper memory rebuild {name}` makes it")
        }
        Some(Condition { records, newer, form: Ok(form) }) => {
            let newer = if *newer == 0 { String::new() } else { format!("; {newer} newer compared beside it") };
            format!("of {}: {form}{newer}", counted(*records, "record"))
        }
    }
}

/// What the index is to reach, as `--target-recall` and `--index-memory` said last.
fn target(wanted: &Wanted) -> String {
    let memory = wanted.memory.map_or_else(
        || "as much memory as it needs".to_owned(),
        |bytes| format!("at most {} of memory", megabytes(bytes as u64)),
    );
    format!("recall {}, {memory}", wanted.recall)
}
