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
mod space;
mod stats;

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
        MemoryCommand::Stats(args) => stats::run(args, &memories()?),
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
        self.open_if(name, access, |_| Ok(()))
    }

    /// The same, unless `check` has something against the embedder: then none is made.
    fn open_if(&self, name: &str, access: Access, check: impl Fn(&Embedder) -> Result<()>) -> Result<Memory> {
        let embedder = self.embedder(name, access)?;
        check(&embedder)?;
        Memory::new(self.memories.open(name, access)?, embedder)
    }

    /// The embedder of a memory, or of one that is to be made.
    fn embedder(&self, name: &str, access: Access) -> Result<Arc<Embedder>> {
        let EmbedderArgs { embedder_type, offline, .. } = self.embedder;
        let model = model(&self.memories, name, access)?;
        load(self.embedder.name(model.as_deref()), embedder_type, offline, self.progress).map(Arc::new)
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

/// The name of a memory's embedder; `None` where it has none yet. A memory that is to be made is so only once there is an
/// embedder for it.
fn model(memories: &Memories, name: &str, access: Access) -> Result<Option<String>> {
    if access == Access::Create && !memories.path(name)?.exists() {
        return Ok(None);
    }
    Ok(memories.open(name, Access::Existing)?.model()?.map(|model| model.name))
}

/// The memory that a chat names, with its embedder. One that is not there is made, and told of: the name may be a slip.
pub(super) fn open(name: &str, args: &RecallArgs, offline: bool, progress: Mode) -> Result<Memory> {
    let memories = Memories::new(Dirs::from_env(config::process_env).data()?);
    let model = model(&memories, name, Access::Create)?;
    let embedder = load(args.embedder(model.as_deref()), args.embedder_type, offline, progress)?;
    let (is_new, meant) = (!memories.path(name)?.exists(), memories.meant(name));
    let memory = Memory::new(memories.open(name, Access::Create)?, Arc::new(embedder))?;
    if is_new {
        let meant = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
        progress.note(&format!("There was no memory {name}: an empty one is made{meant}"));
    }
    Ok(memory)
}
