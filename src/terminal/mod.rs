//! The person at the other end: reading lines, showing answers, hearing Ctrl-C.

pub mod editor;
pub mod interrupt;
pub mod log;
pub mod progress;
pub mod render;
