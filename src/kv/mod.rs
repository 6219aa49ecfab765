//! Where keys and values live: pages of a pool, granted to sequences and shared between equal prefixes.

pub mod blocks;
