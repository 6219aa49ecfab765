//! The one generation loop: requests in, events out.
//!
//! [`Engine::add_request`] queues, [`Engine::step`] pushes one batch through the model and tells what came of it,
//! [`Engine::has_unfinished`] says whether to go on. Chat, one-shot, benchmark and library all drive this loop.

pub mod fit;
mod output;
pub mod request;
mod scheduler;
mod score;
mod step;

pub use request::{Done, Event, Finish, Request, RequestId};
pub use step::Engine;
