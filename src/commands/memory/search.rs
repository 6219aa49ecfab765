//! `taper memory search`.

use serde_json::json;

use super::Program;
use crate::cli::SearchArgs;
use crate::error::{Error, Result};
use crate::memory::Found;
use crate::memory::recall::visible;
use crate::memory::store::Access;
use crate::terminal::render::Answer;

pub(super) fn run(args: &SearchArgs, program: &Program) -> Result<()> {
    if args.query.trim().is_empty() {
        return Err(Error::usage("the query is empty"));
    }
    let mut memory = program.open(&args.name, Access::Existing)?;
    let found = memory.search(&args.query, args.top.into())?;
    if found.is_empty() {
        program.say(format_args!("{} is empty", args.name));
    }
    let mut answer = Answer::new();
    for (rank, found) in (1..).zip(&found) {
        if args.json {
            answer.line(&as_json(rank, found).to_string())?;
        } else {
            answer.push(&format!("{}\n{}\n", headline(rank, found), indented(&found.record.text)))?;
        }
    }
    if memory.lacks_index() {
        super::index::lost(&mut memory, &args.name, program);
    }
    Ok(())
}

fn as_json(rank: usize, found: &Found) -> serde_json::Value {
    let record = &found.record;
    json!({
        "rank": rank,
        "score": found.score,
        "id": record.id,
        "source": record.source,
        "offset": record.begins,
        "end": record.ends,
        "text": record.text,
    })
}

/// `[1] 0.712 /home/ada/notes.md, bytes 120 to 480 (id 12)`.
pub(in crate::commands) fn headline(rank: usize, found: &Found) -> String {
    let record = &found.record;
    let (source, id) = (visible(&record.source), record.id);
    format!("[{rank}] {:.3} {source}, bytes {} to {} (id {id})", found.score, record.begins, record.ends)
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}
