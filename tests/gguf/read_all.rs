//! Asks a file that was accepted for all it has. Shared by the property tests and the fuzz target (tests/fuzz): what the
//! reader let through must be safe to use, whatever it says.

use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::format::weights::Weights;

/// Larger tensors are only looked at, not turned into numbers.
const MAX_NUMBERS: usize = 1 << 16;

/// Reads `bytes` as a GGUF file, every value as every type, and every tensor. Whether it is one does not matter; that
/// nothing panics does. Returns whether it was accepted.
pub fn read_all(bytes: &[u8]) -> bool {
    let Ok(gguf) = Gguf::parse(&Mapping::from_bytes(bytes.to_vec(), "random.gguf")) else { return false };
    let meta = &gguf.metadata;
    for key in meta.keys() {
        let read = [
            meta.str(key).is_ok(),
            meta.u32(key).is_ok(),
            meta.f32(key).is_ok(),
            meta.bool(key).is_ok(),
            meta.strings(key).is_ok(),
            meta.f32s(key).is_ok(),
            meta.i32s(key).is_ok(),
        ];
        // An integer is a number too; nothing else has two types.
        assert!(read.iter().filter(|ok| **ok).count() <= 2, "{key}: {read:?}");
    }
    let weights = Weights::from_gguf(&gguf);
    assert_eq!(weights.names().count(), gguf.tensors.len());
    for t in &gguf.tensors {
        assert_eq!(Some(gguf.mapping().slice(&t.bytes).len()), t.dtype.bytes_of(t.elements()), "{t:?}");
        if t.elements() <= MAX_NUMBERS
            && let Ok(numbers) = weights.f32(&t.name, &t.shape)
        {
            assert!(numbers.len() == t.elements() && numbers.iter().all(|x| x.is_finite()), "{t:?}");
        }
    }
    true
}
