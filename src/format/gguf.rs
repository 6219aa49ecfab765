//! A bounded reader of GGUF, versions 2 and 3.
//!
//! Why our own: model files come from strangers, and readers that trust them have a long record of crashes. Here every
//! count, length and offset is checked against the bytes that are left before it is used, and values stay where they
//! are: the reader keeps ranges into the mapping, so its memory is a small multiple of the header whatever the header
//! claims. Format: the GGUF specification in ggml's repository (docs/gguf.md).

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use super::mapping::Mapping;
use super::{DType, TensorInfo};
use crate::error::{Error, Result};

mod metadata;

pub use metadata::Metadata;

/// Arrays of arrays deeper than this are refused; no known file nests at all.
const MAX_ARRAY_DEPTH: usize = 4;
/// GGUF's own limit on a tensor's dimensions.
const MAX_DIMS: u32 = 4;

/// What can be wrong with a GGUF file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GgufError {
    #[error("not a GGUF file: it starts with {0:?} instead of \"GGUF\"")]
    Magic(String),
    #[error("GGUF version {0} is not supported (taper reads versions 2 and 3)")]
    Version(u32),
    #[error("the file ends inside {what}: {need} bytes needed at offset {at}, {left} left")]
    Truncated { what: String, at: usize, need: u64, left: usize },
    #[error("{what} claims {count} entries, which cannot fit in the {left} bytes left")]
    Count { what: String, count: u64, left: usize },
    #[error("{0} is not valid UTF-8")]
    Utf8(String),
    #[error("{what} has the unknown value type {id}")]
    ValueType { what: String, id: u32 },
    #[error("{0} nests arrays more than {MAX_ARRAY_DEPTH} deep")]
    Depth(String),
    #[error("{0} holds a bool that is neither 0 nor 1")]
    Bool(String),
    #[error("{0} appears twice")]
    Duplicate(String),
    #[error("general.alignment is {0}; it must be a power of two from 1 to 65536")]
    Alignment(String),
    #[error("tensor `{tensor}` has {dims} dimensions (1 to {MAX_DIMS} are possible)")]
    Dims { tensor: String, dims: u32 },
    #[error("tensor `{tensor}` has the impossible shape {shape:?}")]
    Shape { tensor: String, shape: Vec<u64> },
    #[error("tensor `{tensor}` has the unsupported type {id} (supported: {})", DType::supported())]
    TensorType { tensor: String, id: u32 },
    #[error("tensor `{tensor}`: rows of {columns} numbers do not fill blocks of {block} ({dtype})")]
    Blocks { tensor: String, columns: u64, block: usize, dtype: DType },
    #[error("tensor `{tensor}` lies outside the file: {bytes} bytes at offset {offset} of the data, which has {data}")]
    Outside { tensor: String, offset: u64, bytes: u64, data: u64 },
    #[error("tensor `{tensor}` starts at offset {offset}, which is not a multiple of the alignment {alignment}")]
    Unaligned { tensor: String, offset: u64, alignment: u32 },
    #[error("tensors `{0}` and `{1}` overlap")]
    Overlap(String, String),
}

/// The type of a metadata value, as numbered by the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        use ValueType as T;
        let all =
            [T::U8, T::I8, T::U16, T::I16, T::U32, T::I32, T::F32, T::Bool, T::Str, T::Array, T::U64, T::I64, T::F64];
        all.get(id as usize).copied()
    }

    /// Bytes of one value; for strings and arrays the least there can be.
    fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }
}

/// Where a value is: the bytes of a number or a text, or of an array's elements. Decoded when asked for.
#[derive(Debug, Clone)]
enum Value {
    Scalar { ty: ValueType, bytes: Range<usize> },
    Array { elem: ValueType, count: usize, bytes: Range<usize> },
}

/// A GGUF file whose header was read and checked.
#[derive(Debug, Clone)]
pub struct Gguf {
    pub metadata: Metadata,
    /// In the file's order. Ranges are absolute, inside the file, and do not overlap.
    pub tensors: Vec<TensorInfo>,
    pub version: u32,
}

impl Gguf {
    /// Maps and checks `path`.
    ///
    /// # Errors
    /// When the file cannot be mapped or its header breaks the format; the message names the file and the entry.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Mapping::open(path)?;
        Self::parse(&map).map_err(|e| gguf_error(e, path))
    }

    /// Reads the header of an already mapped file.
    ///
    /// # Errors
    /// When the header breaks the format.
    pub fn parse(map: &Mapping) -> Result<Self, GgufError> {
        let mut r = Reader { bytes: map, at: 0 };
        let magic = r.take(4, "the magic number")?;
        if magic != b"GGUF" {
            return Err(GgufError::Magic(magic.escape_ascii().to_string()));
        }
        let version = r.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let n_tensors = r.u64("the tensor count")?;
        let n_values = r.u64("the metadata count")?;
        // The least a value takes: key length, type, one byte. The least a tensor takes: name length, dimension
        // count, one dimension, type, offset.
        let n_values = r.count(n_values, 8 + 4 + 1, "the metadata")?;
        let mut values = HashMap::new();
        for i in 0..n_values {
            let key = r.string(&format!("metadata key {i}"))?.to_owned();
            let what = format!("metadata `{key}`");
            let value = r.value(&what)?;
            if values.insert(key, value).is_some() {
                return Err(GgufError::Duplicate(what));
            }
        }
        let metadata = Metadata::new(map.clone(), values);
        let n_tensors = r.count(n_tensors, 8 + 4 + 8 + 4 + 8, "the tensor list")?;
        let alignment = metadata.alignment()?;
        let tensors = r.tensors(n_tensors, alignment)?;
        check_overlap(&tensors)?;
        Ok(Self { metadata, tensors, version })
    }

    pub fn mapping(&self) -> &Mapping {
        self.metadata.mapping()
    }
}

/// A GGUF failure with its file, and with advice that fits it.
fn gguf_error(e: GgufError, path: &Path) -> Error {
    let help = match &e {
        GgufError::Magic(_) => "give a .gguf file, or a folder with config.json and model.safetensors",
        GgufError::Version(_) | GgufError::TensorType { .. } => "convert the model again with a current llama.cpp",
        _ => "the file is damaged or incomplete: download it again",
    };
    Error::model(e.to_string()).in_file(path).help(help).caused_by(e)
}

fn check_overlap(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|t| t.bytes.start);
    for pair in by_offset.windows(2) {
        if pair[1].bytes.start < pair[0].bytes.end {
            return Err(GgufError::Overlap(pair[0].name.clone(), pair[1].name.clone()));
        }
    }
    Ok(())
}

/// A cursor that never leaves the file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], GgufError> {
        let range = self.range(n, what)?;
        Ok(&self.bytes[range])
    }

    /// The next `n` bytes as a range of the file.
    fn range(&mut self, n: u64, what: &str) -> Result<Range<usize>, GgufError> {
        match usize::try_from(n) {
            Ok(len) if len <= self.left() => {
                let start = self.at;
                self.at += len;
                Ok(start..self.at)
            }
            _ => Err(GgufError::Truncated { what: what.into(), at: self.at, need: n, left: self.left() }),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A claimed count, refused unless that many entries of at least `least` bytes can still follow.
    fn count(&self, count: u64, least: usize, what: &str) -> Result<usize, GgufError> {
        match usize::try_from(count) {
            Ok(n) if n <= self.left() / least => Ok(n),
            _ => Err(GgufError::Count { what: what.into(), count, left: self.left() }),
        }
    }

    fn string(&mut self, what: &str) -> Result<&'a str, GgufError> {
        let len = self.u64(what)?;
        std::str::from_utf8(self.take(len, what)?).map_err(|_| GgufError::Utf8(what.into()))
    }

    fn value(&mut self, what: &str) -> Result<Value, GgufError> {
        let ty = self.value_type(what)?;
        if ty == ValueType::Array {
            return self.array_value(what, 1);
        }
        let start = match ty {
            ValueType::Str => self.at + 8, // behind its length
            _ => self.at,
        };
        self.skip(ty, what, 0)?;
        Ok(Value::Scalar { ty, bytes: start..self.at })
    }

    fn value_type(&mut self, what: &str) -> Result<ValueType, GgufError> {
        let id = self.u32(what)?;
        ValueType::from_id(id).ok_or_else(|| GgufError::ValueType { what: what.into(), id })
    }

    fn array_value(&mut self, what: &str, depth: usize) -> Result<Value, GgufError> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(GgufError::Depth(what.into()));
        }
        let elem = self.value_type(what)?;
        let claimed = self.u64(what)?;
        let count = self.count(claimed, elem.least_bytes(), what)?;
        let start = self.at;
        if matches!(elem, ValueType::Str | ValueType::Array | ValueType::Bool) {
            for _ in 0..count {
                self.skip(elem, what, depth)?;
            }
        } else {
            self.at += count * elem.least_bytes(); // bounded by count() above
        }
        Ok(Value::Array { elem, count, bytes: start..self.at })
    }

    /// Steps over one value, checking it on the way.
    fn skip(&mut self, ty: ValueType, what: &str, depth: usize) -> Result<(), GgufError> {
        match ty {
            ValueType::Str => {
                self.string(what)?;
            }
            ValueType::Array => {
                self.array_value(what, depth + 1)?;
            }
            ValueType::Bool => {
                if self.take(1, what)?[0] > 1 {
                    return Err(GgufError::Bool(what.into()));
                }
            }
            _ => {
                self.range(ty.least_bytes() as u64, what)?;
            }
        }
        Ok(())
    }

    fn tensors(&mut self, n: usize, alignment: u32) -> Result<Vec<TensorInfo>, GgufError> {
        let mut seen = HashSet::new();
        let mut raw = Vec::new();
        for i in 0..n {
            let tensor = self.raw_tensor(i)?;
            if !seen.insert(tensor.name.clone()) {
                return Err(GgufError::Duplicate(format!("tensor `{}`", tensor.name)));
            }
            raw.push(tensor);
        }
        let data_start = self.at.checked_next_multiple_of(alignment as usize).unwrap_or(usize::MAX);
        raw.into_iter().map(|t| t.place(data_start, self.bytes.len(), alignment)).collect()
    }

    fn raw_tensor(&mut self, i: usize) -> Result<RawTensor, GgufError> {
        let name = self.string(&format!("the name of tensor {i}"))?.to_owned();
        let what = format!("the entry of tensor `{name}`");
        let dims = self.u32(&what)?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(GgufError::Dims { tensor: name, dims });
        }
        let shape = (0..dims).map(|_| self.u64(&what)).collect::<Result<Vec<_>, _>>()?;
        let id = self.u32(&what)?;
        let offset = self.u64(&what)?;
        let Some(dtype) = DType::from_gguf_id(id) else {
            return Err(GgufError::TensorType { tensor: name, id });
        };
        Ok(RawTensor { name, shape, dtype, offset })
    }
}

/// A tensor entry as written: dimensions innermost first, offset relative to the data.
struct RawTensor {
    name: String,
    shape: Vec<u64>,
    dtype: DType,
    offset: u64,
}

impl RawTensor {
    /// Checks the entry against the file and turns it into row-major shape and absolute range.
    fn place(self, data_start: usize, file_len: usize, alignment: u32) -> Result<TensorInfo, GgufError> {
        let Self { name, shape, dtype, offset } = self;
        let elements = shape.iter().try_fold(1usize, |n, &d| match usize::try_from(d) {
            Ok(d) if d > 0 => n.checked_mul(d),
            _ => None,
        });
        let Some(elements) = elements else {
            return Err(GgufError::Shape { tensor: name, shape });
        };
        if !shape[0].is_multiple_of(dtype.block_len() as u64) {
            return Err(GgufError::Blocks { tensor: name, columns: shape[0], block: dtype.block_len(), dtype });
        }
        let Some(bytes) = dtype.bytes_of(elements) else {
            return Err(GgufError::Shape { tensor: name, shape });
        };
        if !offset.is_multiple_of(u64::from(alignment)) {
            return Err(GgufError::Unaligned { tensor: name, offset, alignment });
        }
        let data = file_len.saturating_sub(data_start) as u64;
        let inside = offset.checked_add(bytes as u64).is_some_and(|end| end <= data);
        if !inside {
            return Err(GgufError::Outside { tensor: name, offset, bytes: bytes as u64, data });
        }
        let start = data_start + offset as usize;
        let shape = shape.iter().rev().map(|&d| d as usize).collect();
        Ok(TensorInfo { name, dtype, shape, bytes: start..start + bytes })
    }
}
