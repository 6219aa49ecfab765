//! `taper memory add`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::Program;
use crate::cli::AddArgs;
use crate::error::{Error, Kind, Result};
use crate::memory::Memory;
use crate::memory::embed::Embedder;
use crate::memory::files::{self, Listed};
use crate::memory::html;
use crate::memory::ingest::{Added, check_chunk_tokens, named};
use crate::memory::recall::visible;
use crate::memory::store::Access;
use crate::terminal::count::counted;
use crate::terminal::interrupt::Caught;
use crate::terminal::log;
use crate::terminal::progress::Progress;
use crate::terminal::render::Answer;

/// What became of all sources.
#[derive(Default)]
struct Sum {
    records: usize,
    sources: usize,
    unchanged: usize,
    /// Sources in which there was nothing to be kept.
    without_text: usize,
    left_out: usize,
}

pub(super) fn run(args: &AddArgs, program: &Program) -> Result<()> {
    // What cannot be read is told before an embedder is fetched for it.
    let piped = args.paths.iter().any(|path| is_stdin(path));
    let lists = args.paths.iter().filter(|path| !is_stdin(path)).map(|path| Ok((path.is_file(), files::list(path)?)));
    let lists: Vec<(bool, Vec<Listed>)> = lists.collect::<Result<_>>()?;
    let piped = if piped { Some(files::bounded(io::stdin().lock(), "standard input")?) } else { None };
    let mut adding = Adding { args, program, caught: program.interrupt.catch(), memory: None, sum: Sum::default() };
    if program.memories.path(&args.name)?.exists() {
        adding.memory()?;
    }
    if let Err(e) = adding.all(piped.as_deref(), &lists) {
        // Another taper may have removed it.
        if program.memories.path(&args.name)?.exists() {
            adding.sum.tell(&args.name, e.kind());
        }
        return Err(e);
    }
    let Adding { memory, sum, .. } = adding;
    let Some(mut memory) = memory else {
        return Err(Error::usage(format!("there is no text to add, and no memory {} yet", args.name)));
    };
    sum.print(&args.name)?;
    super::index::added(&mut memory, &args.index, program)
}

/// What adds.
struct Adding<'a> {
    args: &'a AddArgs,
    program: &'a Program,
    caught: Caught<'a>,
    /// Opened once there is a text for it: what cannot be read makes no memory.
    memory: Option<Memory>,
    sum: Sum,
}

impl Adding<'_> {
    fn memory(&mut self) -> Result<&mut Memory> {
        let Self { args, program, memory, .. } = self;
        match memory {
            Some(memory) => Ok(memory),
            none => {
                let tokens = args.chunk_tokens;
                let check = |embedder: &Embedder| tokens.map_or(Ok(()), |tokens| check_chunk_tokens(embedder, tokens));
                let mut opened = program.open_if(&args.name, Access::Create, check)?;
                tokens.map_or(Ok(()), |tokens| opened.set_chunk_tokens(tokens))?;
                Ok(none.insert(opened))
            }
        }
    }

    fn all(&mut self, piped: Option<&[u8]>, lists: &[(bool, Vec<Listed>)]) -> Result<()> {
        let mode = self.program.progress;
        if let Some(bytes) = piped {
            let text = files::text(bytes).map_err(|e| e.at("standard input"))?;
            let (name, text) = if html::begins(text) {
                (named("stdin", text) + ".html", Cow::Owned(html::text(text)))
            } else {
                (named("stdin", text), Cow::Borrowed(text))
            };
            let progress = Progress::new(mode, &self.args.name, text.len() as u64);
            self.add(&name, &text, &progress, 0)?;
        }
        let total = lists.iter().flat_map(|(_, files)| files).map(|file| file.bytes).sum();
        let progress = Progress::new(mode, &self.args.name, total);
        let mut done = 0;
        for (alone, file) in lists.iter().flat_map(|(alone, files)| files.iter().map(move |file| (*alone, file))) {
            match read(&file.path) {
                Ok((name, text)) => self.add(&name, &text, &progress, done)?,
                // A folder has pictures and programs in it too, and what others may not read; a file that was named is meant.
                Err(e) if !alone => {
                    self.sum.left_out += 1;
                    progress.note(&format!("left out {}: {}", visible(&file.path.to_string_lossy()), e.what()));
                }
                Err(e) => return Err(e),
            }
            done += file.bytes;
            progress.set(done);
        }
        progress.finish();
        Ok(())
    }

    fn add(&mut self, name: &str, text: &str, progress: &Progress, before: u64) -> Result<()> {
        self.memory()?;
        let Self { memory: Some(memory), caught, sum, .. } = self else { return Ok(()) };
        let added = memory.add(name, text, |done| {
            progress.set(before + done as u64);
            if caught.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        sum.take(&added)
    }
}

/// A file's name and text.
fn read(path: &Path) -> Result<(String, String)> {
    let text = files::content(path)?;
    let full = files::known_as(path)?;
    let name = full.to_str().ok_or_else(|| Error::usage("the file's name is not UTF-8").in_file(path))?;
    Ok((name.to_owned(), text))
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Sum {
    /// # Errors
    /// When it was stopped.
    fn take(&mut self, added: &Added) -> Result<()> {
        self.records += added.kept.len();
        if added.passages == 0 {
            self.without_text += 1;
        } else if added.kept.is_empty() {
            self.unchanged += 1;
        } else {
            self.sources += 1;
        }
        if added.stopped {
            let records = counted(self.records, "new record");
            log::note(format_args!("stopped: {records} kept; the same command goes on from here"));
            return Err(Error::interrupted());
        }
        Ok(())
    }

    /// Tells what was kept before an error.
    fn tell(&self, name: &str, kind: Kind) {
        if kind != Kind::Interrupted && self.sources + self.unchanged > 0 {
            log::note(format_args!("{} before the error; what was added is kept", self.line(name)));
        }
    }

    fn print(&self, name: &str) -> Result<()> {
        Answer::new().line(&self.line(name))
    }

    fn line(&self, name: &str) -> String {
        let (records, sources) = (counted(self.records, "record"), counted(self.sources, "source"));
        let mut line = format!("{name}: {records} added from {sources}");
        if self.unchanged > 0 {
            _ = write!(line, ", {} unchanged", self.unchanged);
        }
        if self.without_text > 0 {
            _ = write!(line, ", {} without text", self.without_text);
        }
        if self.left_out > 0 {
            _ = write!(line, ", {} left out", self.left_out);
        }
        line
    }
}
