//! The memory in a chat: its commands, and a thread that adds to it while the chat goes on.
//!
//! The thread has a connection of its own, and waits while an answer is being made: between any two of its batches, which take
//! a fraction of a second, the processor is the model's. What `/forget` removed is gone before it returns; the thread takes it
//! out of the index too. One that was stopped before does so when the next chat begins.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::Chat;
use crate::commands::quoted::Quoted;
use crate::commands::{memory, recall};
use crate::error::{Error, Result};
use crate::memory::ingest::named;
use crate::memory::store::{Access, Store};
use crate::memory::tend::Build;
use crate::memory::{Memory, files};
use crate::taper::Generation;
use crate::terminal::count::counted;
use crate::terminal::log;

/// A memory, and who adds to it.
pub(super) struct Recall {
    inner: recall::Recall,
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

/// What the thread is to add.
enum Job {
    /// A text that is one record, and what kind it is of.
    Whole {
        kind: String,
        text: String,
    },
    Path(PathBuf),
    /// Nothing, but what was removed is to go out of the index.
    Index,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// The thread is adding one that is no longer in the queue.
    adding: bool,
    /// An answer is being made.
    answering: bool,
    /// The chat is over: what is queued is done, and no more.
    closing: bool,
    /// What the user should know, told before the next prompt.
    notes: Vec<String>,
}

impl State {
    /// How many are still to be added.
    fn waiting(&self) -> usize {
        self.jobs.iter().filter(|job| job.adds()).count() + usize::from(self.adding)
    }
}

impl Job {
    fn adds(&self) -> bool {
        !matches!(self, Self::Index)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits until no answer is being made.
    fn wait_for_turn(&self) {
        let waited = self.changed.wait_while(self.state(), |state| state.answering);
        drop(waited);
    }

    /// The next job; `None` when there will be none.
    fn next(&self) -> Option<Job> {
        let idle = |state: &mut State| state.jobs.is_empty() && !state.closing;
        let mut state = self.changed.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner);
        let job = state.jobs.pop_front();
        state.adding = job.as_ref().is_some_and(Job::adds);
        job
    }
}

impl Recall {
    pub fn new(inner: recall::Recall) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.set(|state| state.jobs.push_back(Job::Index));
        let (path, embedder) = (inner.memory.store().path().to_owned(), inner.memory.embedder().clone());
        let known = shared.clone();
        let work = move || match Store::open(&path, Access::Existing).and_then(|store| Memory::new(store, embedder)) {
            Ok(mut memory) => work(&mut memory, &known),
            Err(e) => known.set(|state| state.notes.push(e.to_string())),
        };
        let worker = std::thread::Builder::new().name("memory".into()).spawn(work);
        let worker =
            worker.map_err(|e| Error::runtime(format!("cannot start the memory's thread: {e}")).caused_by(e))?;
        Ok(Self { inner, shared, worker: Some(worker) })
    }

    pub fn remember(&mut self, text: &str) -> Result<()> {
        let added = self.inner.memory.add(&named("note", text), text, |_| ControlFlow::Continue(()))?;
        log::note(match added.kept.as_slice() {
            [] => "That is remembered already.".to_owned(),
            [id] => format!("Remembered as record {id}."),
            ids => format!("Remembered as {}.", counted(ids.len(), "record")),
        });
        Ok(())
    }

    pub fn show(&mut self, query: &str) -> Result<()> {
        let found = self.inner.memory.search(query, 5)?;
        if found.is_empty() {
            log::note("There is nothing in the memory.");
        }
        for (rank, found) in (1..).zip(&found) {
            let mut shown = memory::headline(rank, found);
            for line in found.record.text.lines() {
                shown.extend(["\n    ", &crate::memory::recall::visible(line)]);
            }
            log::note(shown);
        }
        Ok(())
    }

    pub fn forget(&mut self, id: i64) -> Result<()> {
        if self.inner.memory.store_mut().remove(&[id])? == 0 {
            return Err(memory::no_record(id));
        }
        log::note(format_args!("Record {id} is forgotten."));
        self.shared.set(|state| state.jobs.push_back(Job::Index));
        Ok(())
    }

    pub fn describe(&self) -> Result<()> {
        let store = self.inner.memory.store();
        let (records, sources) = (counted(store.count()?, "record"), counted(store.sources()?.len(), "source"));
        let waiting = self.shared.state().waiting();
        let waiting = if waiting == 0 { String::new() } else { format!(", {waiting} still to be added") };
        log::note(format_args!("memory {}: {records} of {sources}{waiting}", self.inner.name));
        Ok(())
    }

    /// Adds a file or folder while the chat goes on.
    pub fn add(&mut self, path: &str) -> Result<()> {
        std::fs::metadata(path).map_err(|e| Error::io("add it", Path::new(path), e))?;
        let path = files::known_as(Path::new(path))?;
        log::note(format_args!("{} is being added; /memory tells how far it is.", path.display()));
        self.shared.set(|state| state.jobs.push_back(Job::Path(path)));
        Ok(())
    }
}

/// What the thread does.
fn work(memory: &mut Memory, shared: &Shared) {
    while let Some(job) = shared.next() {
        shared.wait_for_turn();
        let done = match job {
            Job::Whole { kind, text } => memory.keep_whole(&kind, &text).map(|_| None),
            Job::Path(path) => add(memory, &path, shared).map(Some),
            Job::Index => memory.tend(Build::Never, 1, &mut |_| ()).map(|_| None),
        };
        shared.set(|state| {
            state.adding = false;
            match done {
                Ok(told) => state.notes.extend(told),
                Err(e) => state.notes.push(format!("The memory: {e}")),
            }
        });
    }
}

/// Adds all files at a path. What the user should know of it.
fn add(memory: &mut Memory, path: &Path, shared: &Shared) -> Result<String> {
    let alone = path.is_file();
    let (mut records, mut left_out) = (0, 0);
    for file in files::list(path)? {
        match (files::content(&file.path), file.path.to_str()) {
            (Ok(text), Some(name)) => {
                let added = memory.add(name, &text, |_| {
                    shared.wait_for_turn();
                    ControlFlow::Continue(())
                })?;
                records += added.kept.len();
            }
            (Err(e), _) if alone => return Err(e),
            _ => left_out += 1,
        }
    }
    let left_out = if left_out == 0 { String::new() } else { format!(", {} left out", counted(left_out, "file")) };
    Ok(format!("{}: {} added{left_out}.", path.display(), counted(records, "record")))
}

impl Drop for Recall {
    /// What is queued is finished: a turn that was kept in the session is to be in the memory too.
    fn drop(&mut self) {
        self.shared.set(|state| state.closing = true);
        if self.shared.state().waiting() > 0 {
            log::note("What is still to be remembered is being added; Ctrl-C leaves the rest for another time.");
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        self.shared.state().notes.drain(..).for_each(log::note);
    }
}

impl Chat<'_> {
    /// # Errors
    /// When the chat has none.
    pub(super) fn memory(&mut self) -> Result<&mut Recall> {
        self.recall.as_mut().ok_or_else(|| {
            Error::usage("this chat has no memory")
                .help("start it with --memory NAME: taper memory list shows those there are")
        })
    }

    /// Tells what the thread has done since the last prompt.
    pub(super) fn tell_of_memory(&self) {
        if let Some(recall) = &self.recall {
            recall.shared.state().notes.drain(..).for_each(log::note);
        }
    }

    /// What the memory has to say to a question. A memory that fails is told of, and the question is answered without.
    pub(super) fn quote(&mut self, question: &str) -> Quoted {
        let Some(recall) = &mut self.recall else { return Quoted::default() };
        recall.inner.quote(question, &self.taper).unwrap_or_else(|e| {
            log::error(&e);
            log::note("The question is answered without the memory.");
            Quoted::default()
        })
    }

    /// Has the thread wait while an answer is being made.
    pub(super) fn set_answering(&self, answering: bool) {
        if let Some(recall) = &self.recall {
            recall.shared.set(|state| state.answering = answering);
        }
    }

    /// Remembers a turn, where turns are remembered.
    pub(super) fn remember_turn(&self, question: &str, generation: &Generation) {
        let Some(recall) = self.recall.as_ref().filter(|recall| recall.inner.turns) else { return };
        if generation.text.is_empty() {
            return;
        }
        let kind = format!("turn {}", self.autosave.file().id());
        let text = recall::turn(question, &generation.text);
        recall.shared.set(|state| state.jobs.push_back(Job::Whole { kind, text }));
    }
}
