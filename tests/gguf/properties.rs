//! Random files: sound ones come back as they were written, damaged ones never panic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use taper::format::DType;

use super::gguf_builder::GgufBuilder;
use super::parse;
use super::read_all::read_all;

#[derive(Clone, Debug)]
enum Value {
    Str(String),
    U32(u32),
    F32(f32),
    Bool(bool),
    Strings(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

#[derive(Clone, Debug)]
struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The contents of a sound file. Ordered, because files are written from them.
#[derive(Clone, Debug)]
struct Contents {
    alignment: u32,
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

impl Contents {
    fn write(&self) -> GgufBuilder {
        let mut file = GgufBuilder::new().alignment(self.alignment);
        for (key, value) in &self.values {
            file = match value {
                Value::Str(x) => file.str(key, x),
                Value::U32(x) => file.u32(key, *x),
                Value::F32(x) => file.f32(key, *x),
                Value::Bool(x) => file.bool(key, *x),
                Value::Strings(x) => file.strings(key, x),
                Value::F32s(x) => file.f32s(key, x),
                Value::I32s(x) => file.i32s(key, x),
            };
        }
        self.tensors.iter().fold(file, |file, (name, t)| file.tensor_raw(name, t.dtype, &t.shape, &t.bytes))
    }
}

fn value() -> impl Strategy<Value = Value> {
    let finite = || prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL;
    prop_oneof![
        any::<String>().prop_map(Value::Str),
        any::<u32>().prop_map(Value::U32),
        finite().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        prop::collection::vec(any::<String>(), 0..5).prop_map(Value::Strings),
        prop::collection::vec(finite(), 0..9).prop_map(Value::F32s),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Value::I32s),
    ]
}

fn tensor() -> impl Strategy<Value = Tensor> {
    let dtype = prop::sample::select(DType::ALL);
    (dtype, prop::collection::vec(1usize..4, 1..=4)).prop_flat_map(|(dtype, mut shape)| {
        *shape.last_mut().unwrap() *= dtype.block_len();
        let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
        prop::collection::vec(any::<u8>(), bytes).prop_map(move |bytes| Tensor { dtype, shape: shape.clone(), bytes })
    })
}

fn contents() -> impl Strategy<Value = Contents> {
    let alignment = prop::sample::select(vec![1, 8, 32, 4096]);
    let values = prop::collection::btree_map("[a-z.]{1,12}", value(), 0..8);
    let tensors = prop::collection::btree_map("[a-z0-9.]{1,12}", tensor(), 0..4);
    (alignment, values, tensors).prop_map(|(alignment, values, tensors)| Contents { alignment, values, tensors })
}

/// A change to a file's bytes; places are fractions of its length, so that one strategy fits every file.
#[derive(Clone, Debug)]
enum Damage {
    Byte(prop::sample::Index, u8),
    /// Eight bytes at once, as counts and lengths have them.
    Word(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Byte(at, byte) => *at.get_mut(bytes) = *byte,
            Self::Word(at, word) => {
                let at = at.index(bytes.len());
                bytes.iter_mut().skip(at).zip(word.to_le_bytes()).for_each(|(b, new)| *b = new);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    use prop::sample::Index;
    let word = prop_oneof![0u64..70, any::<u64>(), (0u32..64).prop_map(|bit| 1 << bit), Just(u64::MAX)];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        4 => (any::<Index>(), word).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Damage::Insert(at, new)),
    ]
}

/// No file of failures beside the tests: a failure's seed is in its message.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn sound_files_come_back_as_written(contents in contents()) {
        let bytes = contents.write().bytes();
        prop_assert!(read_all(&bytes));
        let gguf = parse(bytes);
        let meta = &gguf.metadata;
        prop_assert_eq!(meta.keys().len(), contents.values.len() + 1);
        for (key, value) in &contents.values {
            match value {
                Value::Str(x) => prop_assert_eq!(meta.str(key).unwrap(), Some(x.as_str())),
                Value::U32(x) => prop_assert_eq!(meta.u32(key).unwrap(), Some(*x)),
                Value::F32(x) => prop_assert_eq!(meta.f32(key).unwrap(), Some(*x)),
                Value::Bool(x) => prop_assert_eq!(meta.bool(key).unwrap(), Some(*x)),
                Value::Strings(x) => {
                    prop_assert_eq!(meta.strings(key).unwrap(), Some(x.iter().map(String::as_str).collect()));
                }
                Value::F32s(x) => prop_assert_eq!(meta.f32s(key).unwrap(), Some(x.clone())),
                Value::I32s(x) => prop_assert_eq!(meta.i32s(key).unwrap(), Some(x.clone())),
            }
        }
        prop_assert_eq!(gguf.tensors.len(), contents.tensors.len());
        for (read, (name, written)) in gguf.tensors.iter().zip(&contents.tensors) {
            prop_assert_eq!((&read.name, read.dtype, &read.shape), (name, written.dtype, &written.shape));
            prop_assert_eq!(gguf.mapping().slice(&read.bytes), &written.bytes);
        }
    }
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn damaged_files_never_panic(contents in contents(), damages in prop::collection::vec(damage(), 1..4)) {
        let mut bytes = contents.write().bytes();
        for d in &damages {
            d.apply(&mut bytes);
        }
        read_all(&bytes);
    }

    /// Most damage to a whole file hits the tensors' data; here it always hits the header.
    #[test]
    fn damaged_headers_never_panic(contents in contents(), damages in prop::collection::vec(damage(), 1..4)) {
        let mut header = contents.write().header();
        for d in &damages {
            d.apply(&mut header);
        }
        read_all(&[header, vec![0; 5000]].concat());
    }
}
