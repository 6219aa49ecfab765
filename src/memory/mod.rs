//! What taper was told to remember, found again by meaning.

pub mod index;
pub mod tiers;
mod vectors;

pub use vectors::{Hit, Vectors};
