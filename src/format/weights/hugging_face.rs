//! What Hugging Face folders do their own way: which files hold the model, what its tensors are called, and in which
//! order the rows of attention heads lie.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::mapping::Mapping;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The largest index that is read; that of a 405B model is about 100 kB.
const MAX_INDEX: usize = 16 << 20;

/// Hugging Face's names outside the layers, and GGUF's.
const MODEL_NAMES: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Hugging Face's names inside `model.layers.N`, and GGUF's inside `blk.N`.
const LAYER_NAMES: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// How the rows of a tensor lie in its file. The rotary embedding turns pairs of rows of a head: Hugging Face stores
/// the first rows of all pairs and then the second ones, taper (as GGUF) has the two of a pair side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    AsStored,
    /// In each head of `head_dim` rows, rows `2j` and `2j + 1` are stored as `j` and `j + head_dim / 2`.
    HalvesToPairs {
        head_dim: usize,
    },
}

impl RowOrder {
    /// The stored row that is row `r`.
    pub fn stored_row(self, r: usize) -> usize {
        match self {
            Self::AsStored => r,
            Self::HalvesToPairs { head_dim } => {
                let (head, within) = (r / head_dim, r % head_dim);
                head * head_dim + within % 2 * (head_dim / 2) + within / 2
            }
        }
    }
}

/// The files of one model.
#[derive(Debug)]
pub struct Files {
    /// The single file, or the index.
    pub named_by: PathBuf,
    pub shards: Vec<PathBuf>,
    /// The tensors that the index lists, under Hugging Face's names.
    pub promised: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    /// Tensor to shard.
    weight_map: BTreeMap<String, String>,
}

/// Finds the model's files in `folder`: the single one where there is one, else the shards of the index.
///
/// # Errors
/// When there is neither, or the index is not JSON of the expected form, or a shard's name is not a plain file name.
pub fn files(folder: &Path) -> Result<Files> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        return Ok(Files { shards: vec![single.clone()], named_by: single, promised: Vec::new() });
    }
    if !index.exists() {
        return Err(Error::model(format!("the folder has neither {SINGLE} nor {INDEX}"))
            .in_file(folder)
            .help("give a folder with a model's config.json and its safetensors files, or a .gguf file"));
    }
    let map = Mapping::open(&index)?;
    let weight_map = read_index(&map).map_err(|e| e.in_file(&index).help("download the model again"))?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    let shards = names.into_iter().map(|name| folder.join(name)).collect();
    Ok(Files { named_by: index, shards, promised: weight_map.into_keys().collect() })
}

fn read_index(json: &[u8]) -> Result<BTreeMap<String, String>> {
    if json.len() > MAX_INDEX {
        return Err(Error::model(format!("the index has {} bytes; {MAX_INDEX} are the most taper reads", json.len())));
    }
    let index: Index =
        serde_json::from_slice(json).map_err(|e| Error::model(format!("the index is not valid: {e}")).caused_by(e))?;
    match index.weight_map.values().find(|name| !is_plain_file_name(name)) {
        Some(name) => Err(Error::model(format!("the index names the shard {name:?}, which is not a plain file name"))),
        None => Ok(index.weight_map),
    }
}

/// Whether `name` stays in its folder, on every system.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    single && !name.contains(['/', '\\', ':', '\0'])
}

/// GGUF's name of a Hugging Face tensor. `None` for those that are computed, not learned (older files store the
/// rotary embedding's frequencies). A name that is not known stays itself.
pub fn gguf_name(name: &str) -> Option<String> {
    if name.ends_with(".rotary_emb.inv_freq") {
        return None;
    }
    Some(known_name(name).unwrap_or_else(|| name.to_owned()))
}

fn known_name(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let find = |names: &[(&str, &'static str)], stem: &str| names.iter().find(|n| n.0 == stem).map(|n| n.1);
    if let Some(ours) = find(&MODEL_NAMES, stem) {
        return Some(format!("{ours}.{kind}"));
    }
    let (layer, stem) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    Some(format!("blk.{layer}.{}.{kind}", find(&LAYER_NAMES, stem)?))
}

/// The order of the rows of `name` (GGUF's name): queries and keys are stored in halves, all else as it is.
///
/// # Errors
/// When the rows do not divide into heads of an even size.
pub fn row_order(name: &str, info: &TensorInfo, heads: usize, kv_heads: usize) -> Result<RowOrder> {
    let heads = match name.rsplit('.').nth(1) {
        Some("attn_q") => heads,
        Some("attn_k") => kv_heads,
        _ => return Ok(RowOrder::AsStored),
    };
    let rows = info.shape[0];
    if heads == 0 || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) {
        return Err(Error::model(format!("tensor `{}` has {rows} rows, which are not {heads} even heads", info.name))
            .help("config.json and the tensors do not belong together: download the model again"));
    }
    Ok(RowOrder::HalvesToPairs { head_dim: rows / heads })
}
