//! The tensors of one model under GGUF's names, whatever the container.
//!
//! GGUF's names and GGUF's order of the attention rows are taper's own. A safetensors model is brought to them here, so
//! that nothing behind this module knows where a tensor came from. Numbers stay in the mapping until they are asked for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dequantize::dequantize;
use super::gguf::Gguf;
use super::mapping::Mapping;
use super::{TensorInfo, safetensors};
use crate::error::{Error, Result};

mod hugging_face;

pub use hugging_face::RowOrder;

/// The tensors of one model. Clones share the mappings and the list.
#[derive(Debug, Clone)]
pub struct Weights {
    path: PathBuf,
    tensors: Arc<BTreeMap<String, Stored>>,
}

/// A tensor, the file it lies in, and the order of its rows there.
#[derive(Debug)]
struct Stored {
    info: TensorInfo,
    file: Mapping,
    order: RowOrder,
}

impl Weights {
    /// The tensors of a GGUF file: names, types and rows are as stored.
    pub fn from_gguf(gguf: &Gguf) -> Self {
        let file = gguf.mapping();
        let stored = |t: &TensorInfo| Stored { info: t.clone(), file: file.clone(), order: RowOrder::AsStored };
        let tensors = gguf.tensors.iter().map(|t| (t.name.clone(), stored(t))).collect();
        Self { path: file.path().to_owned(), tensors: Arc::new(tensors) }
    }

    /// The tensors of a Hugging Face folder: `model.safetensors`, or else the shards that
    /// `model.safetensors.index.json` names. `heads` and `kv_heads` are the model's, to tell the heads' rows apart.
    ///
    /// # Errors
    /// When a file is absent or damaged, a shard's name leads out of the folder, a tensor is in two shards or in none,
    /// or a projection's rows do not divide into the heads.
    pub fn from_safetensors(folder: &Path, heads: usize, kv_heads: usize) -> Result<Self> {
        let files = hugging_face::files(folder)?;
        let mut tensors = BTreeMap::new();
        for path in &files.shards {
            let (file, infos) = safetensors::open(path)?;
            for mut info in infos {
                let Some(name) = hugging_face::gguf_name(&info.name) else { continue };
                let order = hugging_face::row_order(&name, &info, heads, kv_heads).map_err(|e| e.in_file(path))?;
                match tensors.entry(name.clone()) {
                    Entry::Occupied(_) => {
                        return Err(Error::model(format!("tensor `{}` is there twice", info.name))
                            .in_file(path)
                            .help("the folder mixes files of two models: download the model again"));
                    }
                    Entry::Vacant(place) => {
                        info.name = name;
                        place.insert(Stored { info, file: file.clone(), order });
                    }
                }
            }
        }
        let weights = Self { path: files.named_by, tensors: Arc::new(tensors) };
        for name in files.promised.iter().filter_map(|n| hugging_face::gguf_name(n)) {
            weights.info(&name)?;
        }
        Ok(weights)
    }

    /// Tensors that are in no file: each with a mapping of its own. `name` stands for the file in messages.
    pub fn made(name: &str, tensors: impl IntoIterator<Item = (TensorInfo, Mapping)>) -> Self {
        let stored =
            |(info, file): (TensorInfo, Mapping)| (info.name.clone(), Stored { info, file, order: RowOrder::AsStored });
        Self { path: name.into(), tensors: Arc::new(tensors.into_iter().map(stored).collect()) }
    }

    /// In alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// # Errors
    /// When there is no such tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        Ok(&self.stored(name)?.info)
    }

    /// The bytes as stored: in the file's type and the file's order of rows.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn raw(&self, name: &str) -> Result<&[u8]> {
        Ok(self.stored(name)?.bytes())
    }

    /// Hands the stored bytes to `read`, and gives their memory back afterwards: for weights that are repacked.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn read_once<R>(&self, name: &str, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let stored = self.stored(name)?;
        Ok(stored.file.read_once(&stored.info.bytes, read))
    }

    /// One row of a matrix in f32.
    ///
    /// # Errors
    /// When there is no such tensor, or `out` is not as long as its rows.
    pub fn row(&self, name: &str, row: usize, out: &mut [f32]) -> Result<()> {
        let stored = self.stored(name)?;
        let row_bytes = stored.info.bytes.len() / stored.info.shape[0];
        let start = stored.order.stored_row(row) * row_bytes;
        dequantize(stored.info.dtype, &stored.bytes()[start..start + row_bytes], out)
    }

    /// Which stored row is row `r` of the tensor; for readers of [`Self::raw`].
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn row_order(&self, name: &str) -> Result<RowOrder> {
        Ok(self.stored(name)?.order)
    }

    /// The numbers in f32, row-major, rows in taper's order.
    ///
    /// # Errors
    /// When there is no such tensor, its shape is not `shape`, or one of its numbers is NaN or infinite.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        if stored.info.shape != shape {
            return Err(Error::model(format!("tensor `{name}` has shape {:?}, expected {shape:?}", stored.info.shape))
                .in_file(stored.file.path())
                .help("the file does not fit its own description: convert or download the model again"));
        }
        let numbers = stored.numbers().map_err(|e| e.in_file(stored.file.path()))?;
        match numbers.iter().position(|x| !x.is_finite()) {
            None => Ok(numbers),
            Some(i) => Err(Error::model(format!("tensor `{name}` holds {} at position {i}", numbers[i]))
                .in_file(stored.file.path())
                .help("the file is damaged or was converted wrongly: convert or download the model again")),
        }
    }

    /// The sum of all tensors' bytes as stored.
    pub fn source_bytes(&self) -> usize {
        self.tensors.values().map(|t| t.info.bytes.len()).sum()
    }

    /// The file that names the model: the GGUF, `model.safetensors`, or the shards' index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, each with the place where its first tensor begins.
    pub fn files(&self) -> Vec<(&Mapping, usize)> {
        let mut files = BTreeMap::new();
        for Stored { info, file, .. } in self.tensors.values() {
            let (_, first) = files.entry(file.path()).or_insert((file, info.bytes.start));
            *first = info.bytes.start.min(*first);
        }
        files.into_values().collect()
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| {
            Error::model(format!("tensor `{name}` is missing"))
                .in_file(&self.path)
                .help("the model is incomplete: convert or download it again")
        })
    }
}

impl Stored {
    fn bytes(&self) -> &[u8] {
        self.file.slice(&self.info.bytes)
    }

    /// The numbers, and nothing kept of the bytes that they were made from.
    fn numbers(&self) -> Result<Vec<f32>> {
        let Self { info, order, .. } = self;
        let mut out = vec![0.0; info.elements()];
        self.file.read_once(&info.bytes, |bytes| {
            if *order == RowOrder::AsStored {
                return dequantize(info.dtype, bytes, &mut out);
            }
            // Rows are read where they lie and written where they belong: no second copy to reorder.
            let rows = info.shape[0];
            let (row_len, row_bytes) = (out.len() / rows, info.bytes.len() / rows);
            out.chunks_exact_mut(row_len).enumerate().try_for_each(|(r, out)| {
                let start = order.stored_row(r) * row_bytes;
                dequantize(info.dtype, &bytes[start..start + row_bytes], out)
            })
        })?;
        Ok(out)
    }
}
