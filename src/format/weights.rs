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
use super::quantize::{Quant, Quantizer};
use super::{TensorInfo, safetensors};
use crate::error::{Error, Result};

mod hugging_face;
mod rows;

pub use hugging_face::RowOrder;
pub use rows::{Room, Rows};

/// The tensors of one model. Clones share the mappings and the list.
#[derive(Debug, Clone)]
pub struct Weights {
    path: PathBuf,
    tensors: Arc<BTreeMap<String, Stored>>,
    quant: Quant,
}

/// A tensor, the file it lies in, and the order of its rows there.
#[derive(Debug, Clone)]
struct Stored {
    /// As it is in the file.
    info: TensorInfo,
    file: Mapping,
    order: RowOrder,
    quantized: Option<Quantized>,
}

/// What becomes of a tensor when it is read.
#[derive(Debug, Clone)]
struct Quantized {
    info: TensorInfo,
    quantizer: Arc<Quantizer>,
}

impl Weights {
    /// The tensors of a GGUF file: names, types and rows are as stored.
    pub fn from_gguf(gguf: &Gguf) -> Self {
        let file = gguf.mapping();
        let stored = |t: &TensorInfo| Stored::new(t.clone(), file.clone(), RowOrder::AsStored);
        let tensors = gguf.tensors.iter().map(|t| (t.name.clone(), stored(t))).collect();
        Self::new(file.path().to_owned(), tensors)
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
                        place.insert(Stored::new(info, file.clone(), order));
                    }
                }
            }
        }
        let weights = Self::new(files.named_by, tensors);
        for name in files.promised.iter().filter_map(|n| hugging_face::gguf_name(n)) {
            weights.info(&name)?;
        }
        Ok(weights)
    }

    /// Tensors that are in no file: each with a mapping of its own. `name` stands for the file in messages.
    pub fn made(name: &str, tensors: impl IntoIterator<Item = (TensorInfo, Mapping)>) -> Self {
        let stored =
            |(info, file): (TensorInfo, Mapping)| (info.name.clone(), Stored::new(info, file, RowOrder::AsStored));
        Self::new(name.into(), tensors.into_iter().map(stored).collect())
    }

    fn new(path: PathBuf, tensors: BTreeMap<String, Stored>) -> Self {
        Self { path, tensors: Arc::new(tensors), quant: Quant::None }
    }

    /// The same with its floating-point matrices quantized when they are read. `head` is the matrix that gives the logits;
    /// `kept` stays as it is.
    ///
    /// # Errors
    /// When rows do not fill groups of 32.
    pub fn quantized(&self, quant: Quant, head: &str, kept: Option<&str>) -> Result<Self> {
        let mut tensors = (*self.tensors).clone();
        for stored in tensors.values_mut().filter(|t| Some(&*t.info.name) != kept) {
            let quantizer = quant.of(&stored.info, stored.info.name == head).map_err(|e| e.in_file(&self.path))?;
            stored.quantized = quantizer.map(|quantizer| Quantized {
                info: TensorInfo {
                    dtype: quantizer.dtype,
                    bytes: 0..quantizer.dtype.bytes_of(stored.info.elements()).unwrap_or(0),
                    ..stored.info.clone()
                },
                quantizer: Arc::new(quantizer),
            });
        }
        let quant = if tensors.values().any(|t| t.quantized.is_some()) { quant } else { Quant::None };
        Ok(Self { path: self.path.clone(), tensors: Arc::new(tensors), quant })
    }

    /// What tensors are quantized to when they are read.
    pub fn quant(&self) -> Quant {
        self.quant
    }

    /// In alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// What a tensor is to its readers; one that is quantized has the blocks' type and size.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        Ok(self.stored(name)?.info())
    }

    /// The bytes as stored: in the file's type and the file's order of rows, never quantized.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn raw(&self, name: &str) -> Result<&[u8]> {
        let stored = self.stored(name)?;
        Ok(stored.file.slice(&stored.info.bytes))
    }

    /// Hands a matrix's rows to `read`, and gives their memory back afterwards: for weights that are repacked.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn rows<R>(&self, name: &str, read: impl FnOnce(&Rows<'_>) -> R) -> Result<R> {
        Ok(self.stored(name)?.rows(read))
    }

    /// One row of a matrix in f32.
    ///
    /// # Errors
    /// When there is no such tensor, `out` is not as long as its rows, or they cannot be quantized.
    pub fn row(&self, name: &str, row: usize, out: &mut [f32]) -> Result<()> {
        let stored = self.stored(name)?;
        Rows::of(stored, stored.file.slice(&stored.info.bytes)).numbers(row, &mut Room::default(), out)
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

    /// The sum of all tensors' bytes, of those that are quantized as blocks.
    pub fn source_bytes(&self) -> usize {
        self.tensors.values().map(|t| t.info().bytes.len()).sum()
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
    fn new(info: TensorInfo, file: Mapping, order: RowOrder) -> Self {
        Self { info, file, order, quantized: None }
    }

    /// As its readers see it.
    fn info(&self) -> &TensorInfo {
        self.quantized.as_ref().map_or(&self.info, |quantized| &quantized.info)
    }

    fn rows<R>(&self, read: impl FnOnce(&Rows<'_>) -> R) -> R {
        self.file.read_once(&self.info.bytes, |bytes| read(&Rows::of(self, bytes)))
    }

    /// The numbers, and nothing kept of the bytes that they were made from.
    fn numbers(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.info.elements()];
        if self.quantized.is_none() && self.order == RowOrder::AsStored {
            let (dtype, bytes) = (self.info.dtype, &self.info.bytes);
            self.file.read_once(bytes, |bytes| dequantize(dtype, bytes, &mut out))?;
            return Ok(out);
        }
        // Rows are read where they lie and written where they belong: no second copy to reorder.
        let row_len = out.len() / self.info.shape[0];
        self.rows(|rows| {
            let mut room = Room::default();
            out.chunks_exact_mut(row_len).enumerate().try_for_each(|(r, out)| rows.numbers(r, &mut room, out))
        })?;
        Ok(out)
    }
}
