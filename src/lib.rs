//! taper chats with a Llama-family model on the machine in front of you.
//!
//! The whole program in one picture:
//!
//! ```text
//! prompt ─ memory::recall ─ text::conversation ─ text::template ─ text::tokenizer
//!                                                     ┌─────────────┘ token ids
//! engine (scheduler) ── kv::blocks (pages, prefixes) ─┤
//!       │ Batch                                       │
//! model::llama::forward ── backend ── logits          │
//!       │                                             │
//! sample ── text::detokenizer ── engine::Event ── terminal | --json | library
//! ```
//!
//! Modules below are in the order of that flow. Chat, one-shot, benchmark, perplexity and the library all drive the same
//! [`engine`]; there is one generation loop in the program. The forward pass is written once, in [`model::llama`], as phases of
//! a [`backend::Backend`]: the CPU's own kernels, or the reference, which runs them on candle in f32.
//!
//! As a library: see [`Taper`].

pub mod config;
pub mod error;

pub mod registry;

pub mod format;

pub mod text;

pub mod session;

#[cfg(feature = "memory")]
pub mod memory;

pub mod engine;

pub mod kv;

pub mod model;

pub mod backend;

pub mod sample;

mod taper;

pub mod cli;
pub mod commands;
pub mod stats;
pub mod terminal;

pub use backend::KvType;
pub use backend::choose::{Compute, Device, Goal};
pub use engine::{Done, Event, Finish};
pub use error::{Error, Result};
pub use sample::Sampling;
pub use taper::{Generation, LoadOptions, Options, Taper};
