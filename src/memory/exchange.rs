//! A memory as JSON lines: a header, then each source, followed by its records.
//!
//! Vectors are not written: whoever reads it embeds the texts again, with an embedder of the same name. The content hash is the
//! same afterwards.

use std::io::{BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use super::Memory;
use super::files::MOST;
use super::hex;
use super::ingest::BATCH;
use super::store::{Passage, Record, Store};
use crate::error::{Error, Result};

/// The form of the lines.
const VERSION: u32 = 1;

/// Bytes of the longest line, and of a source's texts together: JSON may write one as two.
const LONGEST: u64 = 2 * MOST;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header {
    taper_memory: u32,
    model: Option<String>,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    Source { source: String, hash: String },
    Record { begins: usize, ends: usize, text: String },
}

/// Writes all of a memory.
///
/// # Errors
/// When it cannot be read, or the lines cannot be written.
pub fn export(store: &Store, out: &mut dyn Write) -> Result<()> {
    write_line(out, &Header { taper_memory: VERSION, model: store.model()?.map(|model| model.name) })?;
    for version in store.versions()? {
        write_line(out, &Line::Source { source: version.name, hash: hex(&version.hash) })?;
        for Record { begins, ends, text, .. } in store.records_of(version.id)? {
            write_line(out, &Line::Record { begins, ends, text })?;
        }
    }
    out.flush().map_err(Error::output)
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> Result<()> {
    let json =
        serde_json::to_string(line).map_err(|e| Error::runtime(format!("cannot write a line: {e}")).caused_by(e))?;
    writeln!(out, "{json}").map_err(Error::output)
}

/// What was imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    pub sources: usize,
    /// Records that were added; the others were there.
    pub records: usize,
}

/// A source with its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    pub name: String,
    /// Of its content.
    pub hash: Vec<u8>,
    /// Where each begins and ends in the source, and its text.
    pub records: Vec<(usize, usize, String)>,
}

/// Reads what [`export`] wrote, and hands over every source once its last record is read. `embedder` is the name of the one that
/// will embed it.
///
/// # Errors
/// A line that is none of an export, with its number; whatever `take` says.
pub fn read(mut from: impl BufRead, embedder: &str, mut take: impl FnMut(Incoming) -> Result<()>) -> Result<()> {
    let mut number = 0;
    let mut bytes = 0;
    let mut source: Option<Incoming> = None;
    while let Some(line) = read_line(&mut from, &mut number)? {
        let damaged = |what: String| Error::usage(format!("line {number} is none of a memory's export: {what}"));
        if number == 1 {
            check_header(&line, embedder).map_err(damaged)?;
            continue;
        }
        match parsed(&line, "it is neither a source nor a record").map_err(damaged)? {
            Line::Source { source: name, hash } => {
                let hash = unhex(&hash).ok_or_else(|| damaged("its hash is none".to_owned()))?;
                bytes = 0;
                if let Some(whole) = source.replace(Incoming { name, hash, records: Vec::new() }) {
                    take(whole)?;
                }
            }
            Line::Record { begins, ends, text } => {
                let source = source.as_mut().ok_or_else(|| damaged("a record before any source".to_owned()))?;
                bytes += text.len() as u64;
                let fits = i64::try_from(ends).is_ok() && bytes <= LONGEST;
                if begins > ends || text.trim().is_empty() || !fits {
                    let what = "the record is empty, ends before it begins, or its source is too large";
                    return Err(damaged(what.to_owned()));
                }
                source.records.push((begins, ends, text));
            }
        }
    }
    if number == 0 {
        return Err(Error::usage("there is nothing to import"));
    }
    source.map_or(Ok(()), take)
}

fn check_header(line: &[u8], embedder: &str) -> Result<(), String> {
    let header: Header = parsed(line, "it is no header")?;
    if header.taper_memory > VERSION {
        return Err(format!("it has form {}, and this taper knows {VERSION}", header.taper_memory));
    }
    match header.model.filter(|model| model != embedder) {
        Some(model) => Err(format!("it is of {model}, and this memory of {embedder}")),
        None => Ok(()),
    }
}

/// A line's content; `other` says what it is where it is JSON, but not that.
fn parsed<T: for<'a> Deserialize<'a>>(line: &[u8], other: &str) -> Result<T, String> {
    if line.trim_ascii().is_empty() {
        return Err("it is empty".to_owned());
    }
    // Serde counts lines too, of which there is one.
    serde_json::from_slice(line).map_err(|e| {
        if e.is_data() { other.to_owned() } else { format!("it is no JSON from character {} on", e.column()) }
    })
}

/// Adds what [`export`] wrote to the memory that `open` gives. Sources that are there already are left as they are; other
/// versions of them are replaced. It is opened once the first source is read: lines that are no export make no memory.
///
/// # Errors
/// As [`read`]. What came before the line is kept, as `imported` says, and importing again goes on there.
pub fn import(
    from: impl BufRead,
    embedder: &str,
    open: impl Fn() -> Result<Memory>,
    imported: &mut Imported,
) -> Result<Memory> {
    let mut memory = None;
    read(from, embedder, |source| {
        let memory = match &mut memory {
            Some(memory) => memory,
            none => none.insert(open()?),
        };
        imported.sources += 1;
        imported.records += memory.keep(&source)?;
        Ok(())
    })?;
    memory.map_or_else(open, Ok)
}

impl Memory {
    /// Adds what is not there yet of a source; how many records that was.
    fn keep(&mut self, whole: &Incoming) -> Result<usize> {
        let mut source = self.store.begin(&whole.name, &whole.hash, whole.records.len())?;
        let mut kept = 0;
        for batch in whole.records.get(source.done..).unwrap_or_default().chunks(BATCH) {
            let texts: Vec<&str> = batch.iter().map(|(_, _, text)| text.as_str()).collect();
            let vectors = self.embedder.embed(&texts)?;
            let passages: Vec<Passage> = (batch.iter().zip(&vectors))
                .map(|((begins, ends, text), vector)| Passage { begins: *begins, ends: *ends, text, vector })
                .collect();
            kept += self.store.append(&mut source, &passages)?.len();
        }
        Ok(kept)
    }
}

/// The next line without its end; `None` at the end of all.
fn read_line(from: &mut impl BufRead, number: &mut usize) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = from.by_ref().take(LONGEST).read_until(b'\n', &mut line);
    read.map_err(|e| Error::runtime(format!("cannot read what is to be imported: {e}")).caused_by(e))?;
    if line.is_empty() {
        return Ok(None);
    }
    *number += 1;
    if line.len() as u64 == LONGEST {
        return Err(Error::usage(format!("line {number} is too long for a memory's export")));
    }
    Ok(Some(line))
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    (digits.len().is_multiple_of(2) && digits.len() <= 128)
        .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
