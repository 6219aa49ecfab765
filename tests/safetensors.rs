//! Safetensors: the reader's refusals, and whole Hugging Face folders as `Weights` sees them.
#![expect(clippy::unwrap_used, reason = "helpers outside #[test] functions unwrap too")]

#[path = "safetensors/folders.rs"]
mod folders;
#[path = "common/gguf_builder.rs"]
mod gguf_builder;
#[path = "safetensors/weights.rs"]
mod weights;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use taper::format::safetensors::{open, parse};
use taper::format::{DType, TensorInfo};

/// A file with this header and this much data, right or wrong.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

/// A header's entry.
fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

/// A file of these entries.
fn entries(entries: &[String], data: usize) -> Vec<u8> {
    file(&format!("{{{}}}", entries.join(",")), data)
}

fn refusal(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().to_string()
}

/// A file written by the `safetensors` crate.
fn written(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).unwrap()
}

fn sound() -> Vec<u8> {
    written(&[
        ("model.norm.weight", Dtype::F32, &[2], vec![1; 8]),
        ("lm_head.weight", Dtype::BF16, &[3, 2], vec![2; 12]),
        ("model.embed_tokens.weight", Dtype::F16, &[3, 2], vec![3; 12]),
    ])
}

#[test]
fn tensors_are_where_the_crate_wrote_them() {
    let bytes = sound();
    let mut tensors = parse(&bytes).unwrap();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let expected = [
        ("lm_head.weight", DType::BF16, &[3, 2][..], &[2; 12][..]),
        ("model.embed_tokens.weight", DType::F16, &[3, 2], &[3; 12]),
        ("model.norm.weight", DType::F32, &[2], &[1; 8]),
    ];
    assert_eq!(tensors.len(), expected.len());
    for (TensorInfo { name, dtype, shape, bytes: range }, e) in tensors.into_iter().zip(expected) {
        assert_eq!((name.as_str(), dtype, &shape[..], &bytes[range]), e);
    }
}

#[test]
fn entries_may_come_in_any_order() {
    let late = entry("late", "F32", "[2]", 4, 12);
    let tensors = parse(&entries(&[late, entry("early", "F16", "[2]", 0, 4)], 12)).unwrap();
    assert_eq!(tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["early", "late"]);
}

#[test]
fn files_without_a_header() {
    for len in 0..8 {
        assert_eq!(
            refusal(&vec![0; len]),
            format!("not a safetensors file: it has {len} bytes, its header's length alone takes 8")
        );
    }
}

#[test]
fn headers_longer_than_the_file() {
    for claimed in [3u64, 1 << 40, 1 << 63, u64::MAX] {
        let bytes = [&claimed.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(refusal(&bytes), format!("the header claims {claimed} bytes, 2 are left in the file"));
    }
}

/// 100 MB of it are never parsed.
#[test]
fn huge_headers() {
    let size = 100_000_000;
    let mut bytes = vec![b' '; 8 + size];
    bytes[..8].copy_from_slice(&(size as u64).to_le_bytes());
    assert_eq!(refusal(&bytes), "the header claims 100000000 bytes; 16777216 are the most that taper reads");
}

#[test]
fn headers_that_are_not_what_they_should_be() {
    let cases = [
        ("", "EOF while parsing a value"),
        ("[]", "invalid type: sequence, expected an object of tensors"),
        ("{} x", "trailing characters"),
        ("{\"a\":", "EOF while parsing a value"),
        (r#"{"a":5}"#, "tensor `a`: invalid type: integer `5`"),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#, "tensor `a`: missing field `data_offsets`"),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, "tensor `a`: invalid value: integer `-1`"),
        (r#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}"#, "tensor `a`: unknown variant `Q9`"),
        ("{\"\u{1}\":1}", "control character"),
    ];
    for (header, message) in cases {
        let refusal = refusal(&file(header, 4));
        assert!(refusal.starts_with("the header is not what safetensors writes: "), "{header}: {refusal}");
        assert!(refusal.contains(message), "{header}: {refusal}");
    }
    for deep in ["{\"__metadata__\":", "{\"a\":{\"dtype\":", "{\"a\":{\"other\":"] {
        let refusal = refusal(&file(&format!("{deep}{}", "[".repeat(1 << 20)), 0));
        assert!(refusal.starts_with("the header is not what safetensors writes: "), "{deep}: {refusal}");
    }
    let not_utf8 = [&5u64.to_le_bytes()[..], b"{\"\xff\":"].concat();
    assert!(refusal(&not_utf8).starts_with("the header is not what safetensors writes: "));
}

#[test]
fn names_that_appear_twice() {
    let twice = entries(&[entry("a", "F32", "[1]", 0, 4), entry("a", "F32", "[1]", 4, 8)], 8);
    assert!(refusal(&twice).contains("`a` appears twice"), "{}", refusal(&twice));
}

#[test]
fn types_that_taper_does_not_read() {
    for (dtype, bytes) in [("I64", 8), ("U8", 1), ("F8_E4M3", 1), ("F64", 8), ("BOOL", 1)] {
        assert_eq!(
            refusal(&entries(&[entry("a", dtype, "[1]", 0, bytes)], bytes as usize)),
            format!("tensor `a` has the unsupported type {dtype} (supported: F32, F16, BF16)")
        );
    }
}

#[test]
fn shapes_that_cannot_be() {
    let shapes = ["[]", "[0]", "[2, 0]", "[4294967296, 4294967296]", "[18446744073709551615]", "[4611686018427387904]"];
    for shape in shapes {
        assert_eq!(
            refusal(&entries(&[entry("a", "F32", shape, 0, 4)], 4)),
            format!("tensor `a` has the impossible shape {shape}")
        );
    }
}

#[test]
fn offsets_that_do_not_fit_the_shape() {
    for (begin, end) in [(0, 4), (0, 16), (8, 0), (u64::MAX, 7)] {
        assert_eq!(
            refusal(&entries(&[entry("a", "F32", "[2]", begin, end)], 8)),
            format!("tensor `a` has data_offsets {begin} to {end}, but its shape takes 8 bytes")
        );
    }
}

#[test]
fn tensors_outside_the_file() {
    for begin in [1, 8, 1 << 62, u64::MAX - 8] {
        assert_eq!(
            refusal(&entries(&[entry("a", "F32", "[2]", begin, begin + 8)], 8)),
            format!("tensor `a` lies outside the file: it ends at {} of the data, which has 8 bytes", begin + 8)
        );
    }
}

#[test]
fn tensors_that_overlap() {
    let b = entry("b", "F32", "[3]", 0, 12);
    assert_eq!(refusal(&entries(&[entry("a", "F32", "[2]", 8, 16), b.clone()], 16)), "tensors `b` and `a` overlap");
    assert_eq!(refusal(&entries(&[b, entry("c", "F16", "[6]", 0, 12)], 12)), "tensors `b` and `c` overlap");
}

#[test]
fn bytes_that_belong_to_no_tensor() {
    let refused = |at: u64, data| refusal(&entries(&[entry("a", "F16", "[2]", at, at + 4)], data));
    assert_eq!(refused(2, 6), "no tensor owns the 2 bytes at offset 0 of the data");
    assert_eq!(refused(0, 7), "no tensor owns the 3 bytes at offset 4 of the data");
    let between = entries(&[entry("a", "F16", "[2]", 0, 4), entry("b", "F16", "[2]", 9, 13)], 13);
    assert_eq!(refusal(&between), "no tensor owns the 5 bytes at offset 4 of the data");
    assert_eq!(refusal(&file("{}", 1)), "no tensor owns the 1 bytes at offset 0 of the data");
}

#[test]
fn refusals_name_the_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, file("{}", 1)).unwrap();
    assert_eq!(
        open(&path).unwrap_err().to_string(),
        format!(
            "no tensor owns the 1 bytes at offset 0 of the data\n  in {}\n  \
             the file is damaged or incomplete: download it again",
            path.display()
        )
    );
    std::fs::write(&path, entries(&[entry("a", "I32", "[1]", 0, 4)], 4)).unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.ends_with("take the model's F32, F16 or BF16 files, or a GGUF of it"), "{error}");
}

#[test]
fn every_cut_is_refused() {
    let bytes = sound();
    for len in 0..bytes.len() {
        assert!(parse(&bytes[..len]).is_err(), "cut at {len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is accepted lies inside the file, each byte of the data in one tensor.
    #[test]
    fn damaged_files_never_panic(damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = sound();
        for (at, byte) in damages {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Ok(tensors) = parse(&bytes) {
            let total: usize = tensors.iter().map(|t| bytes[t.bytes.clone()].len()).sum();
            prop_assert_eq!(total, 32);
        }
    }
}
