//! `taper memory`: keeps texts, and finds passages of them by meaning.
//!
//! Results go to standard output, as text or (`--json`) as JSON; progress and questions go to standard error.

mod add;
mod bench;
mod index;
mod list;
mod move_out;
mod rm;
mod search;

pub(super) use list::no_record;
pub(super) use search::headline;

use std::sync::Arc;

use super::threads;
use crate::backend::candle;
use crate::cli::{EmbedderArgs, MemoryArgs, MemoryCommand, RecallArgs};
use crate::config::{self, Dirs};
use crate::error::Result;
use crate::memory::embed::{Compute, Embedder};
use crate::memory::store::Access;
use crate::memory::{Memories, Memory};
use crate::registry::{self, Fetch, ModelKind};
use crate::terminal::interrupt::Interrupt;
use crate::terminal::log;
use crate::terminal::progress::Mode;

pub(super) fn run(args: &MemoryArgs) -> Result<()> {
    match &args.command {
        MemoryCommand::Add(args) => add::run(args, &Program::start(&args.embedder)?),
        MemoryCommand::Search(args) => search::run(args, &Program::start(&args.embedder)?),
        MemoryCommand::Rebuild(args) => index::rebuild(args, &Program::start(&args.embedder)?),
        MemoryCommand::Import(args) => move_out::import(args, &Program::start(&args.embedder)?),
        MemoryCommand::Export(args) => move_out::export(args, &memories()?),
        MemoryCommand::List(args) => list::run(args, &memories()?),
        MemoryCommand::Show(args) => list::show(args, &memories()?),
        MemoryCommand::Stats(args) => list::stats(args, &memories()?),
        MemoryCommand::Rm(args) => rm::run(args, &memories()?),
        MemoryCommand::Bench(args) => bench::run(args, &memories()?),
    }
}

/// What commands that need no embedder work on.
fn memories() -> Result<Memories> {
    log::init(false, 0);
    Ok(Memories::new(Dirs::from_env(config::process_env).data()?))
}

/// What the others work on.
pub(super) struct Program {
    memories: Memories,
    pub embedder: EmbedderArgs,
    pub interrupt: Interrupt,
    pub progress: Mode,
}

impl Program {
    pub fn start(args: &EmbedderArgs) -> Result<Self> {
        log::init(args.quiet, 0);
        candle::set_threads(threads(args.threads)); // before any thread is started
        let memories = Memories::new(Dirs::from_env(config::process_env).data()?);
        let interrupt = Interrupt::listen()?;
        Ok(Self { memories, embedder: args.clone(), interrupt, progress: Mode::for_stderr(args.quiet) })
    }

    /// The memory of that name with its embedder, which is fetched if it is absent.
    fn open(&self, name: &str, access: Access) -> Result<Memory> {
        let store = self.memories.open(name, access)?;
        let model = store.model()?.map(|model| model.name);
        let embedder = load(
            self.embedder.name(model.as_deref()),
            self.embedder.embedder_type,
            self.embedder.offline,
            self.progress,
        )?;
        Memory::new(store, Arc::new(embedder))
    }

    fn say(&self, line: impl std::fmt::Display) {
        if !self.embedder.quiet {
            log::note(line);
        }
    }
}

/// The embedder of that name, fetched if it is absent.
pub(super) fn load(name: &str, compute: Compute, offline: bool, progress: Mode) -> Result<Embedder> {
    let dirs = Dirs::from_env(config::process_env);
    let mut fetch = Fetch::from_env(config::process_env);
    fetch.offline |= offline;
    fetch.progress = progress;
    fetch.kind = ModelKind::Embedder;
    Embedder::open_for(&registry::resolve(name, &dirs, &fetch)?, compute)
}

/// The memory that a chat names, made if there is none of that name; with its embedder.
pub(super) fn open(name: &str, args: &RecallArgs, offline: bool, progress: Mode) -> Result<Memory> {
    let memories = Memories::new(Dirs::from_env(config::process_env).data()?);
    let store = memories.open(name, Access::Create)?;
    let model = store.model()?.map(|model| model.name);
    let embedder = load(args.embedder(model.as_deref()), args.embedder_type, offline, progress)?;
    Memory::new(store, Arc::new(embedder))
}
