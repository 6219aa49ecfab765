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
use crate::memory::files::{self, Listed};
use crate::memory::html;
use crate::memory::ingest::{Added, named};
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
    left_out: usize,
}

pub(super) fn run(args: &AddArgs, program: &Program) -> Result<()> {
    // What cannot be read is told before an embedder is fetched for it.
    let piped = args.paths.iter().any(|path| is_stdin(path));
    let lists = args.paths.iter().filter(|path| !is_stdin(path)).map(|path| Ok((path.is_file(), files::list(path)?)));
    let lists: Vec<(bool, Vec<Listed>)> = lists.collect::<Result<_>>()?;
    let piped = if piped { Some(files::bounded(io::stdin().lock(), "standard input")?) } else { None };
    let mut memory = program.open(&args.name, Access::Create)?;
    let mut sum = Sum::default();
    let caught = program.interrupt.catch();
    if let Some(bytes) = &piped {
        let text = files::text(bytes).map_err(|e| e.at("standard input"))?;
        let (name, text) = if html::begins(text) {
            (named("stdin", text) + ".html", Cow::Owned(html::text(text)))
        } else {
            (named("stdin", text), Cow::Borrowed(text))
        };
        let progress = Progress::new(program.progress, &args.name, text.len() as u64);
        sum.take(&add(&mut memory, &name, &text, &progress, 0, &caught)?)?;
    }
    let total = lists.iter().flat_map(|(_, files)| files).map(|file| file.bytes).sum();
    let progress = Progress::new(program.progress, &args.name, total);
    let mut done = 0;
    for (alone, file) in lists.iter().flat_map(|(alone, files)| files.iter().map(move |file| (*alone, file))) {
        match add_file(&mut memory, &file.path, &progress, done, &caught) {
            Ok(added) => sum.take(&added)?,
            // A folder has pictures and programs in it too; a file that was named is meant.
            Err(e) if !alone && e.kind() == Kind::Usage => {
                sum.left_out += 1;
                progress.note(&format!("left out {}: {}", visible(&file.path.to_string_lossy()), e.what()));
            }
            Err(e) => return Err(e),
        }
        done += file.bytes;
        progress.set(done);
    }
    progress.finish();
    sum.print(&args.name)?;
    super::index::added(&mut memory, &args.index, program)
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn add_file(memory: &mut Memory, path: &Path, progress: &Progress, done: u64, caught: &Caught) -> Result<Added> {
    let text = files::content(path)?;
    let full = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    let name = full.to_str().ok_or_else(|| Error::usage("the file's name is not UTF-8").in_file(path))?;
    add(memory, name, &text, progress, done, caught)
}

fn add(
    memory: &mut Memory,
    name: &str,
    text: &str,
    progress: &Progress,
    before: u64,
    caught: &Caught,
) -> Result<Added> {
    memory.add(name, text, |done| {
        progress.set(before + done as u64);
        if caught.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

impl Sum {
    /// # Errors
    /// When it was stopped.
    fn take(&mut self, added: &Added) -> Result<()> {
        self.records += added.kept.len();
        if added.kept.is_empty() {
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

    fn print(&self, name: &str) -> Result<()> {
        let (records, sources) = (counted(self.records, "record"), counted(self.sources, "source"));
        let mut line = format!("{name}: {records} added from {sources}");
        if self.unchanged > 0 {
            _ = write!(line, ", {} unchanged", self.unchanged);
        }
        if self.left_out > 0 {
            _ = write!(line, ", {} left out", self.left_out);
        }
        Answer::new().line(&line)
    }
}
