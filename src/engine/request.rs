//! What is asked of the engine, and what it answers.

use std::fmt;

use crate::sample::Sampling;

/// Names a request for as long as the engine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A prompt and how to go on from it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids, BOS included where the model wants one.
    pub prompt: Vec<u32>,
    /// The answer's most tokens; `None` goes on until an end token or the end of the context.
    pub max_tokens: Option<usize>,
    /// End tokens and stop strings do not count before this many.
    pub min_tokens: usize,
    /// The answer ends before the first of these texts; they may span tokens.
    pub stop: Vec<String>,
    /// Goes on over end tokens (benchmarks measure a fixed length).
    pub ignore_end: bool,
    pub sampling: Sampling,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// The most tokens, or the end of the context.
    Length,
    /// The user stopped it.
    Interrupted,
    /// A step failed.
    Error,
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
            Self::Error => "error",
        })
    }
}

/// What a finished request amounted to.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    pub finish: Finish,
    pub prompt_tokens: usize,
    /// Of those, how many were found in the prefix cache and not computed again.
    pub cached_tokens: usize,
    /// Tokens of the answer; an end token is none of them.
    pub generated_tokens: usize,
    /// From the request's first step to its first sampled token.
    pub prompt_seconds: f64,
    /// From there to its last.
    pub generation_seconds: f64,
    pub seed: u64,
}

impl Done {
    /// Of a prompt that was refused: nothing was computed.
    pub fn refused(prompt_tokens: usize, seed: u64) -> Self {
        Self {
            finish: Finish::Error,
            prompt_tokens,
            cached_tokens: 0,
            generated_tokens: 0,
            prompt_seconds: 0.0,
            generation_seconds: 0.0,
            seed,
        }
    }
}

/// What a step gave a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A chunk of the prompt was computed; more is to come before the first token.
    Prompt { computed: usize, total: usize },
    /// A token of the answer and the text that became certain with it: empty while a character is incomplete.
    Token { id: u32, text: String },
    /// The last event.
    Done(Done),
}
