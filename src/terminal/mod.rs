//! The person at the other end: reading lines, showing answers, hearing Ctrl-C.

pub mod color;
pub mod count;
pub mod editor;
pub mod interrupt;
pub mod log;
pub mod markdown;
pub mod progress;
pub mod reading;
pub mod render;
pub mod typing;
