//! Every stored type to f32, against llama.cpp's Python package (golden values) or the formula written out.
//!
//! The golden file is made by `tests/tools/golden_blocks.py`, which says why exact equality may be asked for.
#![expect(clippy::unwrap_used, reason = "helpers outside #[test] functions unwrap too")]

use std::collections::BTreeSet;

use half::{bf16, f16};
use taper::format::DType;
use taper::format::dequantize::dequantize;

#[derive(serde::Deserialize)]
struct Golden {
    r#type: String,
    /// Whole blocks in hex.
    blocks: String,
    numbers: Vec<f32>,
}

fn goldens() -> Vec<(DType, Vec<u8>, Vec<f32>)> {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("data/dequantize.json")).unwrap();
    let dtype = |name: &str| *DType::ALL.iter().find(|t| t.name() == name).unwrap();
    goldens.into_iter().map(|g| (dtype(&g.r#type), from_hex(&g.blocks), g.numbers)).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn numbers(dtype: DType, bytes: &[u8], len: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; len];
    dequantize(dtype, bytes, &mut out).unwrap();
    out
}

#[test]
fn quantized_types_match_llama_cpp() {
    for (dtype, bytes, expected) in goldens() {
        assert_eq!(numbers(dtype, &bytes, expected.len()), expected, "{dtype}");
    }
}

#[test]
fn every_type_is_tested_here() {
    let mut tested: BTreeSet<DType> = goldens().into_iter().map(|g| g.0).collect();
    tested.extend([DType::F32, DType::F16, DType::BF16, DType::Q8_1, DType::Q8K]);
    assert_eq!(tested, DType::ALL.iter().copied().collect());
}

#[test]
fn floats_of_every_width_keep_their_value() {
    let values = [0.0f32, -0.0, 1.0, -2.5, 65504.0, 6.1035156e-5, 5.9604645e-8, f32::INFINITY];
    let f32s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    assert_eq!(numbers(DType::F32, &f32s, values.len()), values);
    assert_eq!(numbers(DType::F16, &f16s, values.len()), values);

    let short = [1.0f32, -2.5, 3.3895314e38, 9.1835e-41];
    let bf16s: Vec<u8> = short.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let expected = short.map(|x| f32::from_bits(x.to_bits() & 0xffff_0000));
    assert_eq!(numbers(DType::BF16, &bf16s, short.len()), expected);
    assert!(numbers(DType::F32, &f32::NAN.to_le_bytes(), 1)[0].is_nan());
}

/// `Q8_1` and `Q8_K` hold a scale, 8-bit numbers, and sums for dot products that do not matter here.
#[test]
fn int8_types_with_sums_are_scale_times_number() {
    let quants: Vec<i8> = (0..=255u8).map(|i| i.wrapping_mul(37) as i8).collect();
    let expected: Vec<f32> = quants.iter().map(|&q| 0.75 * f32::from(q)).collect();
    let bytes = |quants: &[i8]| quants.iter().map(|&q| q as u8).collect::<Vec<u8>>();

    let scale = f16::from_f32(0.75).to_le_bytes();
    let q8_1: Vec<u8> = quants.chunks(32).flat_map(|q| [&scale[..], &[0xaa, 0x55], &bytes(q)].concat()).collect();
    assert_eq!(numbers(DType::Q8_1, &q8_1, 256), expected);

    let q8_k = [&0.75f32.to_le_bytes()[..], &bytes(&quants), &[0x5a; 32]].concat();
    assert_eq!(numbers(DType::Q8K, &q8_k, 256), expected);
}

/// Written out by hand from the block's description, next to the golden values.
#[test]
fn iq4_xs_scales_are_six_bits_minus_32() {
    let mut block = vec![0u8; 136];
    block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
    // Group 0: low bits 0x5, high bits 0b01: 21 - 32 = -11. Group 7: low bits 0xf, high bits 0b11: 63 - 32 = 31.
    block[2..4].copy_from_slice(&0b1100_0000_0000_0001u16.to_le_bytes());
    block[4] = 0x05;
    block[7] = 0xf0;
    block[8] = 0xf0; // group 0: number 0 has index 0 (-127), number 16 index 15 (113)
    block[135] = 0x28; // group 7: number 15 has index 8 (1), number 31 index 2 (-83)
    let out = numbers(DType::IQ4XS, &block, 256);
    assert_eq!([out[0], out[16]], [-11.0 * 0.5 * -127.0, -11.0 * 0.5 * 113.0]);
    assert_eq!([out[7 * 32 + 15], out[7 * 32 + 31]], [31.0 * 0.5, 31.0 * 0.5 * -83.0]);
    assert_eq!(out[32], -32.0 * 0.5 * -127.0, "a group whose bits are all 0 has the scale -32");
}

#[test]
fn long_tensors_are_the_same_block_after_block() {
    for (dtype, bytes, expected) in goldens() {
        // More than one internal slice, and a last one that is not full.
        let times = 40_000usize.div_ceil(expected.len());
        let out = numbers(dtype, &bytes.repeat(times), expected.len() * times);
        assert!(out.chunks(expected.len()).all(|c| c == expected), "{dtype}");
    }
}

/// A GGUF file may ask for an alignment of 1, so blocks may lie at any address.
#[test]
fn blocks_at_any_address_are_read() {
    let q8_k = [&2.0f32.to_le_bytes()[..], &[3; 256], &[0; 32]].concat();
    let cases = goldens().into_iter().chain([(DType::Q8K, q8_k, vec![6.0; 256])]);
    for (dtype, bytes, expected) in cases {
        for shift in 0..4 {
            let moved = [vec![0; shift], bytes.clone()].concat();
            assert_eq!(numbers(dtype, &moved[shift..], expected.len()), expected, "{dtype} moved by {shift}");
        }
    }
}

#[test]
fn bytes_that_do_not_fit_the_count_are_refused() {
    let cases = [(DType::Q4_0, 18, 31), (DType::Q4_0, 18, 64), (DType::F32, 7, 2), (DType::IQ4XS, 135, 256)];
    for (dtype, bytes, count) in cases {
        let error = dequantize(dtype, &vec![0; bytes], &mut vec![0.0; count]).unwrap_err();
        assert_eq!(error.what(), format!("{bytes} bytes of {dtype} do not hold {count} numbers"));
    }
}

#[test]
fn no_numbers_need_no_bytes() {
    for &dtype in DType::ALL {
        dequantize(dtype, &[], &mut []).unwrap();
    }
}
