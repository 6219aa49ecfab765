//! What tuning found for each GPU and model, kept in the cache folder: trying takes a tenth of a second or two, once. Of two tapers that try
//! at the same time one's is lost, and tried again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::few::Sharing;
use super::images::IMAGES;
use super::model::Model;
use crate::backend::KvType;
use crate::config;

/// Where it is kept; by default nowhere.
#[derive(Debug, Clone, Default)]
pub struct Tuned {
    file: Option<PathBuf>,
    gpu: String,
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// Other kernels may do better another way.
    kernels: String,
    by_model: BTreeMap<String, Sharing>,
}

impl Tuned {
    /// In a folder, for the GPU of a name.
    pub fn within(folder: &Path, gpu: &str) -> Self {
        Self { file: Some(folder.join("tuned.json")), gpu: gpu.into() }
    }

    pub(super) fn known(&self, model: &Model, kv_type: KvType) -> Option<Sharing> {
        read(self.file.as_deref()?).by_model.get(&self.key(model, kv_type)).copied()
    }

    /// A cache that cannot be written costs trying again and nothing else.
    pub(super) fn remember(&self, model: &Model, kv_type: KvType, sharing: Sharing) {
        let Some(path) = &self.file else { return };
        let mut known = read(path);
        known.by_model.insert(self.key(model, kv_type), sharing);
        let written =
            serde_json::to_vec_pretty(&known).map_err(Into::into).and_then(|bytes| config::keep(path, &bytes));
        if let Err(e) = written {
            tracing::debug!("what was the fastest is not kept: {e}");
        }
    }

    /// The GPU, and what kernels of one row depend on.
    fn key(&self, model: &Model, kv_type: KvType) -> String {
        let c = &model.config;
        let mut formats = Sha256::new();
        formats.update(format!("{:?}", model.head.format));
        for l in &model.layers {
            let all = [l.qkv[0], l.qkv[1], l.qkv[2], l.o, l.gate, l.up, l.down].map(|m| m.format);
            formats.update(format!("{all:?}"));
        }
        let formats = short(formats);
        let (q, kv, dim, vocab, kept) = (c.q_dim(), c.kv_dim(), c.head_dim, c.vocab, kv_type.name());
        let gpu = &self.gpu;
        format!("{gpu}, {} layers of {}/{q}/{kv}/{dim}/{}, {vocab}, {kept}, types {formats}", c.layers, c.hidden, c.ffn)
    }
}

/// What is known of these kernels; nothing from a file that is absent, damaged or of others.
fn read(file: &Path) -> Known {
    let kernels = kernels();
    let parsed = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Known>(&bytes).ok());
    let usable = parsed.filter(|known| known.kernels == kernels);
    usable.unwrap_or_else(|| Known { kernels, by_model: BTreeMap::new() })
}

/// The program's version, and how long its kernels are: others are rarely as long to the byte.
fn kernels() -> String {
    let mut lengths = Sha256::new();
    for (name, image) in IMAGES {
        lengths.update(format!("{name} {}", image.len()));
    }
    format!("{} {}", env!("CARGO_PKG_VERSION"), short(lengths))
}

fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
