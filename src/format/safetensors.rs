//! A bounded reader of one safetensors file.
//!
//! The entries are the `safetensors` crate's; the walk over the header is ours, because the crate collects the whole
//! JSON before it looks at any of it, sums sizes without a check for overflow, lets a repeated name replace the first,
//! and often does not say which tensor is wrong. As the format demands, the tensors fill the file: each begins where
//! another ends. Format: the README of huggingface/safetensors.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo as Claim};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::mapping::Mapping;
use super::{DType, TensorInfo};
use crate::error::{Error, Result};

/// Bytes in front of the header: its length.
const LENGTH: usize = 8;
/// The largest header that is read. Those of real files are below 1 MB; a 100 MB one would take gigabytes to parse.
const MAX_HEADER: u64 = 16 << 20;

/// What can be wrong with a safetensors file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SafetensorsError {
    #[error("not a safetensors file: it has {0} bytes, its header's length alone takes {LENGTH}")]
    TooShort(usize),
    #[error("the header claims {claimed} bytes, {left} are left in the file")]
    HeaderOutside { claimed: u64, left: usize },
    #[error("the header claims {0} bytes; {MAX_HEADER} are the most that taper reads")]
    HeaderTooLarge(u64),
    #[error("the header is not what safetensors writes: {0}")]
    Json(String),
    #[error("tensor `{tensor}` has the unsupported type {dtype} (supported: F32, F16, BF16)")]
    TensorType { tensor: String, dtype: String },
    #[error("tensor `{tensor}` has the impossible shape {shape:?}")]
    Shape { tensor: String, shape: Vec<usize> },
    #[error("tensor `{tensor}` has data_offsets {begin} to {end}, but its shape takes {bytes} bytes")]
    Size { tensor: String, begin: usize, end: usize, bytes: usize },
    #[error("tensor `{tensor}` lies outside the file: it ends at {end} of the data, which has {data} bytes")]
    Outside { tensor: String, end: usize, data: usize },
    #[error("tensors `{0}` and `{1}` overlap")]
    Overlap(String, String),
    #[error("no tensor owns the {bytes} bytes at offset {at} of the data")]
    Hole { at: usize, bytes: usize },
}

/// Maps `path` and reads its header. The tensors come in the order of their bytes.
///
/// # Errors
/// When the file cannot be mapped or its header breaks the format; the message names the file and the tensor.
pub fn open(path: &Path) -> Result<(Mapping, Vec<TensorInfo>)> {
    let map = Mapping::open(path)?;
    let tensors = parse(&map).map_err(|e| {
        let help = match e {
            SafetensorsError::TensorType { .. } => "take the model's F32, F16 or BF16 files, or a GGUF of it",
            _ => "the file is damaged or incomplete: download it again",
        };
        Error::model(e.to_string()).in_file(path).help(help).caused_by(e)
    })?;
    Ok((map, tensors))
}

/// Reads the header of a file's bytes. The tensors come in the order of their bytes, which they fill without a gap.
///
/// # Errors
/// When the header breaks the format.
pub fn parse(file: &[u8]) -> Result<Vec<TensorInfo>, SafetensorsError> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH>() else {
        return Err(SafetensorsError::TooShort(file.len()));
    };
    let claimed = u64::from_le_bytes(*length);
    if claimed > rest.len() as u64 {
        return Err(SafetensorsError::HeaderOutside { claimed, left: rest.len() });
    }
    if claimed > MAX_HEADER {
        return Err(SafetensorsError::HeaderTooLarge(claimed));
    }
    let (header, data) = rest.split_at(claimed as usize);
    let json_error = |e: serde_json::Error| SafetensorsError::Json(e.to_string());
    let mut json = serde_json::Deserializer::from_slice(header);
    let claims = json.deserialize_map(Header).map_err(json_error)?;
    json.end().map_err(json_error)?;

    let data_start = LENGTH + header.len();
    let mut tensors =
        claims.into_iter().map(|(n, c)| place(n, &c, data_start, data.len())).collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|t| t.bytes.start);
    check_filled(&tensors, data_start, data.len())?;
    Ok(tensors)
}

/// Checks one entry by itself and turns it into an absolute range.
fn place(name: String, claim: &Claim, data_start: usize, data: usize) -> Result<TensorInfo, SafetensorsError> {
    let dtype = match claim.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => return Err(SafetensorsError::TensorType { tensor: name, dtype: other.to_string() }),
    };
    let shape = claim.shape.clone();
    let elements = match shape.as_slice() {
        [] => None,
        dims => dims.iter().try_fold(1usize, |n, &d| if d == 0 { None } else { n.checked_mul(d) }),
    };
    let Some(bytes) = elements.and_then(|n| dtype.bytes_of(n)) else {
        return Err(SafetensorsError::Shape { tensor: name, shape });
    };
    let (begin, end) = claim.data_offsets;
    if end.checked_sub(begin) != Some(bytes) {
        return Err(SafetensorsError::Size { tensor: name, begin, end, bytes });
    }
    if end > data {
        return Err(SafetensorsError::Outside { tensor: name, end, data });
    }
    Ok(TensorInfo { name, dtype, shape, bytes: data_start + begin..data_start + end })
}

/// Every byte of the data belongs to one tensor. `tensors` are sorted by their start.
fn check_filled(tensors: &[TensorInfo], data_start: usize, data: usize) -> Result<(), SafetensorsError> {
    let mut end = data_start;
    let mut before: Option<&TensorInfo> = None;
    for t in tensors {
        if let Some(before) = before.filter(|b| t.bytes.start < b.bytes.end) {
            return Err(SafetensorsError::Overlap(before.name.clone(), t.name.clone()));
        }
        if t.bytes.start > end {
            return Err(SafetensorsError::Hole { at: end - data_start, bytes: t.bytes.start - end });
        }
        end = t.bytes.end;
        before = Some(t);
    }
    if end < data_start + data {
        return Err(SafetensorsError::Hole { at: end - data_start, bytes: data_start + data - end });
    }
    Ok(())
}

/// Takes the header's entries as they are parsed; `__metadata__`, free text about the file, is skipped.
struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = Vec<(String, Claim)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut claims = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("`{name}` appears twice")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match map.next_value::<Claim>() {
                Ok(claim) => claims.push((name, claim)),
                Err(e) => return Err(A::Error::custom(format_args!("tensor `{name}`: {e}"))),
            }
        }
        Ok(claims)
    }
}
