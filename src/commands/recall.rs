//! A memory beside a model: what it quotes before a question.

use super::Session;
use super::memory::{headline, open};
use super::quoted::Quoted;
use crate::cli::RecallArgs;
use crate::error::Result;
use crate::memory::Memory;
use crate::memory::recall::{CANDIDATES, Recalled};
use crate::taper::Taper;
use crate::terminal::progress::Mode;
use crate::text::Specials;

/// The share of a context that passages may take, so that question and answer have room.
const SHARE: usize = 4;

/// An open memory, and how it is used.
pub(super) struct Recall {
    pub name: String,
    pub memory: Memory,
    budget: usize,
    /// The conversation is remembered too.
    pub turns: bool,
}

impl Recall {
    /// The memory that the flags name, made if there is none of that name; `None` when they name none.
    ///
    /// # Errors
    /// When it cannot be read, or its embedder cannot be had.
    pub fn open(args: &RecallArgs, session: &Session) -> Result<Option<Self>> {
        let Some(name) = &args.memory else { return Ok(None) };
        let memory = open(name, args, session.args.offline, Mode::for_stderr(session.args.quiet))?;
        Ok(Some(Self { name: name.clone(), memory, budget: args.memory_budget, turns: args.memory_turns }))
    }

    /// What the memory has to say to a question.
    ///
    /// # Errors
    /// When it cannot be searched.
    pub fn quote(&mut self, question: &str, taper: &Taper) -> Result<Quoted> {
        let found = self.memory.search(question, CANDIDATES)?;
        let budget = self.budget.min(taper.context() / SHARE);
        let tokens = |text: &str| Ok(taper.tokenizer().encode(text, Specials::Plain)?.len());
        let recalled = Recalled::of(found, budget, tokens)?;
        let sources = (1..).zip(&recalled.sources).map(|(rank, found)| headline(rank, found)).collect();
        Ok(Quoted { text: recalled.quoted, sources })
    }
}

/// A turn as it is remembered.
pub(super) fn turn(question: &str, answer: &str) -> String {
    format!("User: {}\n\nAssistant: {}", question.trim(), answer.trim())
}
