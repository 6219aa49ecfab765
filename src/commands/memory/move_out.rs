//! `taper memory export` and `import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter};

use super::Program;
use crate::cli::{ExportArgs, ImportArgs};
use crate::error::{Error, Result};
use crate::memory::exchange::Imported;
use crate::memory::store::Access;
use crate::memory::tend::Build;
use crate::memory::{Memories, Memory, exchange};
use crate::terminal::count::counted;
use crate::terminal::log;
use crate::terminal::render::Answer;

pub(super) fn export(args: &ExportArgs, memories: &Memories) -> Result<()> {
    let store = memories.open(&args.name, Access::Existing)?;
    exchange::export(&store, &mut BufWriter::new(io::stdout().lock()))
}

pub(super) fn import(args: &ImportArgs, program: &Program) -> Result<()> {
    let from: Box<dyn BufRead> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.file).map_err(|e| Error::io("read it", &args.file, e))?;
        Box::new(BufReader::new(file))
    };
    let embedder = program.embedder(&args.name, Access::Create)?;
    let open = || Memory::new(program.memories.open(&args.name, Access::Create)?, embedder.clone());
    let mut imported = Imported::default();
    let done = exchange::import(from, embedder.name(), open, &mut imported);
    let (records, sources) = (counted(imported.records, "record"), counted(imported.sources, "source"));
    let mut memory = done.map_err(|e| {
        if imported.sources > 0 {
            log::note(format_args!("{}: {records} added from {sources} before the error; they are kept", args.name));
        }
        e.in_file(&args.file)
    })?;
    Answer::new().line(&format!("{}: {records} added from {sources}", args.name))?;
    super::index::tend(&mut memory, Build::IfOutgrown, program)
}
