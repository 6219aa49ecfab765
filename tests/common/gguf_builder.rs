//! Writes GGUF files for tests, sound ones and broken ones.
//!
//! The sound part (`str`, `u32`, `tensor_f32`, ...) keeps count, alignment and offsets right by itself. The broken part
//! (`version`, `claim_tensors`, `raw_value`, `raw_tensor`, ...) writes exactly what it is given, so that a test can lie
//! about one thing and leave the rest valid. It shares no code with the reader: the layout is written out from the
//! specification (ggml's docs/gguf.md), so a misreading cannot cancel itself out.
#![allow(dead_code, reason = "every test file uses the part of the builder that it needs")]
#![allow(clippy::unwrap_used, reason = "a test that cannot write its file has nothing to report but that")]

use std::path::Path;

use taper::format::DType;

/// The numbers that GGUF writes for value types.
pub mod value_type {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STR: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// A GGUF file in the making. Entries are written in the order in which they were added.
#[derive(Clone, Debug)]
pub struct GgufBuilder {
    magic: [u8; 4],
    version: u32,
    alignment: usize,
    claimed_values: Option<u64>,
    claimed_tensors: Option<u64>,
    n_values: u64,
    values: Vec<u8>,
    n_tensors: u64,
    tensors: Vec<u8>,
    data: Vec<u8>,
}

impl Default for GgufBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufBuilder {
    /// An empty file of version 3 with the default alignment of 32.
    pub fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            claimed_values: None,
            claimed_tensors: None,
            n_values: 0,
            values: Vec::new(),
            n_tensors: 0,
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    pub fn str(self, key: &str, value: &str) -> Self {
        self.raw_value(key, value_type::STR, &string(value.as_bytes()))
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw_value(key, value_type::U32, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw_value(key, value_type::F32, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw_value(key, value_type::BOOL, &[value.into()])
    }

    pub fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let items = values.iter().flat_map(|s| string(s.as_ref().as_bytes())).collect::<Vec<_>>();
        self.raw_value(key, value_type::ARRAY, &array(value_type::STR, values.len() as u64, &items))
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        let items = le_bytes(values);
        self.raw_value(key, value_type::ARRAY, &array(value_type::F32, values.len() as u64, &items))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let items = values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        self.raw_value(key, value_type::ARRAY, &array(value_type::I32, values.len() as u64, &items))
    }

    /// A tensor of F32. `shape` is row-major, outermost dimension first, as taper writes shapes.
    pub fn tensor_f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}: shape {shape:?}");
        self.tensor_raw(name, DType::F32, shape, &le_bytes(values))
    }

    /// A tensor of any type, as the bytes of its blocks. `shape` counts numbers, row-major.
    pub fn tensor_raw(mut self, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) -> Self {
        let elements = shape.iter().product::<usize>();
        assert_eq!(Some(bytes.len()), dtype.bytes_of(elements), "{name}: {dtype} of shape {shape:?}");
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        let dims: Vec<u64> = shape.iter().rev().map(|&d| d as u64).collect();
        self.raw_tensor(name, &dims, dtype.gguf_id(), offset)
    }

    /// Writes `general.alignment` and aligns the tensors added from here on to it.
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.u32("general.alignment", alignment)
    }

    // What follows makes broken files.

    pub fn magic(mut self, magic: [u8; 4]) -> Self {
        self.magic = magic;
        self
    }

    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The count in the header, whatever was added.
    pub fn claim_values(mut self, count: u64) -> Self {
        self.claimed_values = Some(count);
        self
    }

    /// The count in the header, whatever was added.
    pub fn claim_tensors(mut self, count: u64) -> Self {
        self.claimed_tensors = Some(count);
        self
    }

    /// A metadata entry with this type number and these bytes after it.
    pub fn raw_value(self, key: &str, type_id: u32, value: &[u8]) -> Self {
        self.raw_entry(key.as_bytes(), type_id, value)
    }

    /// [`Self::raw_value`] with a key that need not be UTF-8.
    pub fn raw_entry(mut self, key: &[u8], type_id: u32, value: &[u8]) -> Self {
        self.n_values += 1;
        self.values.extend(string(key));
        self.values.extend(type_id.to_le_bytes());
        self.values.extend(value);
        self
    }

    /// A tensor entry without data. `dims` are in the file's order, innermost first.
    pub fn raw_tensor(mut self, name: &str, dims: &[u64], type_id: u32, offset: u64) -> Self {
        self.n_tensors += 1;
        self.tensors.extend(string(name.as_bytes()));
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        self.tensors.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
        self.tensors.extend(type_id.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self
    }

    /// Appends to the data that tensors' offsets point into.
    pub fn raw_data(mut self, bytes: &[u8]) -> Self {
        self.data.extend_from_slice(bytes);
        self
    }

    /// Everything before the padding in front of the tensors' data.
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.claimed_tensors.unwrap_or(self.n_tensors).to_le_bytes());
        out.extend(self.claimed_values.unwrap_or(self.n_values).to_le_bytes());
        out.extend(&self.values);
        out.extend(&self.tensors);
        out
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// A string as GGUF writes it: its length in bytes, then the bytes.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// An array as GGUF writes it: element type, claimed count, elements.
pub fn array(elem_type: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&elem_type.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

/// Numbers as files store them.
pub fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
