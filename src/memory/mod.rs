//! What taper was told to remember, found again by meaning.

mod vectors;

pub use vectors::{Hit, Vectors};
