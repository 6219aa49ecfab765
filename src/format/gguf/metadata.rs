//! The key-value part of a GGUF file.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::{GgufError, Value, ValueType};
use crate::error::{Error, Result};
use crate::format::mapping::Mapping;

/// The specification's default for `general.alignment`.
const DEFAULT_ALIGNMENT: u32 = 32;

/// A number as metadata holds it, widened without loss.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Int(i128),
    Float(f64),
    Bool(bool),
    /// A string or an array.
    None,
}

/// The key-value part of a GGUF file. Values are decoded on request, with the type that the caller needs.
#[derive(Debug, Clone)]
pub struct Metadata {
    map: Mapping,
    values: HashMap<String, Value>,
}

impl Metadata {
    pub(super) fn new(map: Mapping, values: HashMap<String, Value>) -> Self {
        Self { map, values }
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.map
    }

    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Keys in alphabetical order.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.values.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    /// The file these values came from, for messages.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// A string, `None` when the key is absent.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Scalar { ty: ValueType::Str, bytes }) => Ok(Some(self.text(bytes))),
            Some(_) => Err(self.wrong_type(key, "a string")),
        }
    }

    /// An integer of any stored width that is 0 or more and fits in 32 bits.
    ///
    /// # Errors
    /// When the value is of another type or out of range.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        match self.number(key) {
            None => Ok(None),
            Some(Number::Int(n)) => match u32::try_from(n) {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(self.wrong_type(key, "an integer from 0 to 2^32 - 1")),
            },
            Some(_) => Err(self.wrong_type(key, "an integer")),
        }
    }

    /// A floating-point number; integers are taken too.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        match self.number(key) {
            None => Ok(None),
            Some(Number::Float(x)) => Ok(Some(x as f32)),
            Some(Number::Int(n)) => Ok(Some(n as f32)),
            Some(_) => Err(self.wrong_type(key, "a number")),
        }
    }

    /// # Errors
    /// When the value is of another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.number(key) {
            None => Ok(None),
            Some(Number::Bool(b)) => Ok(Some(b)),
            Some(_) => Err(self.wrong_type(key, "true or false")),
        }
    }

    /// An array of strings, borrowed from the file.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array { elem: ValueType::Str, count, bytes }) => {
                let mut out = Vec::with_capacity(*count);
                let mut at = bytes.start;
                for _ in 0..*count {
                    let mut len = [0; 8];
                    len.copy_from_slice(&self.map[at..at + 8]);
                    let end = at + 8 + u64::from_le_bytes(len) as usize; // inside the file: checked by the reader
                    out.push(self.text(&(at + 8..end)));
                    at = end;
                }
                Ok(Some(out))
            }
            Some(_) => Err(self.wrong_type(key, "an array of strings")),
        }
    }

    /// An array of 32-bit floats.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.array_of(key, ValueType::F32, "an array of 32-bit floats", f32::from_le_bytes)
    }

    /// An array of 32-bit integers, stored signed or unsigned.
    ///
    /// # Errors
    /// When the value is of another type, or unsigned and above 2^31 - 1.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        const WHAT: &str = "an array of signed 32-bit integers";
        let Some(Value::Array { elem: ValueType::U32, .. }) = self.values.get(key) else {
            return self.array_of(key, ValueType::I32, WHAT, i32::from_le_bytes);
        };
        match self.array_of(key, ValueType::U32, WHAT, i32::from_le_bytes)? {
            Some(numbers) if numbers.iter().any(|&n| n < 0) => Err(self.wrong_type(key, WHAT)),
            numbers => Ok(numbers),
        }
    }

    fn array_of<T>(&self, key: &str, ty: ValueType, what: &str, decode: fn([u8; 4]) -> T) -> Result<Option<Vec<T>>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array { elem, bytes, .. }) if *elem == ty => {
                let words = self.map[bytes.clone()].as_chunks::<4>().0;
                Ok(Some(words.iter().map(|w| decode(*w)).collect()))
            }
            Some(_) => Err(self.wrong_type(key, what)),
        }
    }

    fn number(&self, key: &str) -> Option<Number> {
        let value = self.values.get(key)?;
        let Value::Scalar { ty, bytes } = value else { return Some(Number::None) };
        let b = &self.map[bytes.clone()];
        let mut wide = [0u8; 8];
        wide[..b.len().min(8)].copy_from_slice(&b[..b.len().min(8)]);
        let unsigned = u64::from_le_bytes(wide);
        // Sign extension: shift the value to the top and back.
        let shift = 64 - 8 * b.len().clamp(1, 8) as u32;
        let signed = (unsigned << shift) as i64 >> shift;
        Some(match ty {
            ValueType::U8 | ValueType::U16 | ValueType::U32 | ValueType::U64 => Number::Int(i128::from(unsigned)),
            ValueType::I8 | ValueType::I16 | ValueType::I32 | ValueType::I64 => Number::Int(i128::from(signed)),
            ValueType::F32 => Number::Float(f64::from(f32::from_bits(unsigned as u32))),
            ValueType::F64 => Number::Float(f64::from_bits(unsigned)),
            ValueType::Bool => Number::Bool(unsigned == 1),
            ValueType::Str | ValueType::Array => Number::None,
        })
    }

    fn text(&self, bytes: &Range<usize>) -> &str {
        // The reader checked every string; the lossless conversion cannot fail, and an empty string is no danger.
        let bytes = &self.map[bytes.clone()];
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    pub(super) fn alignment(&self) -> Result<u32, GgufError> {
        match self.number("general.alignment") {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Number::Int(n)) => match u32::try_from(n) {
                Ok(n) if n.is_power_of_two() && n <= 65536 => Ok(n),
                _ => Err(GgufError::Alignment(n.to_string())),
            },
            Some(_) => Err(GgufError::Alignment("not an integer".into())),
        }
    }

    fn wrong_type(&self, key: &str, expected: &str) -> Error {
        Error::model(format!("metadata `{key}` is not {expected}"))
            .in_file(self.path())
            .help("the file was written by a broken converter: convert or download the model again")
    }
}
