//! Every instruction set against plain sums.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_available())
}

fn bytes(rng: &mut ChaCha8Rng, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    rng.fill_bytes(&mut bytes);
    bytes
}

#[test]
fn products_of_bytes_are_exact_at_their_extremes_too() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for width in [64, 128, 384, 1024] {
        let mut signed = |n| bytes(&mut rng, n).into_iter().map(|b| b as i8).collect::<Vec<i8>>();
        let (mut query, mut rows) = (signed(width), signed(width * 7));
        rows[..width].fill(-128);
        for extreme in [None, Some(-128), Some(127)] {
            if let Some(extreme) = extreme {
                query.fill(extreme);
            }
            let expected: Vec<i32> = rows
                .chunks(width)
                .map(|row| row.iter().zip(&query).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum())
                .collect();
            for isa in available() {
                let mut out = vec![0; 7];
                Scans::of(isa).dot_rows(&query, &rows, &mut out);
                assert_eq!(out, expected, "{isa:?}, {width} bytes");
                let which = [6, 0, 3, 3];
                let mut out = [0; 4];
                Scans::of(isa).dot_some(&query, &rows, &which, &mut out);
                assert_eq!(out, which.map(|row| expected[row as usize]), "{isa:?}, {width} bytes");
            }
        }
        rows.fill(0);
    }
}

#[test]
fn products_of_bytes_with_codes_of_two_bits_are_exact_at_their_extremes_too() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for width in [128, 384, 1024] {
        let mut query: Vec<i8> = bytes(&mut rng, width).into_iter().map(|b| b as i8).collect();
        let mut rows = bytes(&mut rng, width / 4 * 7);
        rows[..width / 4].fill(0xFF);
        for extreme in [None, Some(-128), Some(127)] {
            if let Some(extreme) = extreme {
                query.fill(extreme);
            }
            let code = |row: &[u8], i: usize| row[i / 128 * PACKED + i % PACKED] >> (2 * (i % 128 / PACKED)) & 3;
            let product = |row: &[u8]| (0..width).map(|i| i32::from(query[i]) * i32::from(code(row, i))).sum();
            let expected: Vec<i32> = rows.chunks(width / 4).map(product).collect();
            for isa in available() {
                let which = [6, 0, 3, 3, 1];
                let mut out = [0; 5];
                Scans::of(isa).dot_packed(&query, &rows, &which, &mut out);
                assert_eq!(out, which.map(|row| expected[row as usize]), "{isa:?}, {width} codes");
            }
        }
    }
}

#[test]
fn sums_of_look_ups_are_exact_up_to_the_largest() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for parts in [4, 48, 192, MAX_PARTS] {
        let codes = bytes(&mut rng, parts * 16 * 3);
        for table in [bytes(&mut rng, parts * 16), vec![255; parts * 16]] {
            let mut expected = vec![[0u16; BLOCK]; 3];
            for (block, codes) in codes.chunks(parts * 16).enumerate() {
                for (part, codes) in codes.chunks(16).enumerate() {
                    for (i, code) in codes.iter().enumerate() {
                        expected[block][i] += u16::from(table[16 * part + usize::from(code % 16)]);
                        expected[block][i + 16] += u16::from(table[16 * part + usize::from(code / 16)]);
                    }
                }
            }
            for isa in available() {
                let mut out = vec![[1; BLOCK]; 3];
                Scans::of(isa).look_up_blocks(&codes, &table, &mut out);
                assert_eq!(out, expected, "{isa:?}, {parts} parts");
            }
        }
    }
}

#[test]
fn products_of_floats_are_the_same_bits_everywhere() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for n in [16, 48, 384, 400] {
        let mut floats = || (0..n).map(|_| (rng.next_u32() as i32 as f32) / (1u32 << 31) as f32).collect::<Vec<f32>>();
        let (a, b) = (floats(), floats());
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let plain = Scans::of(Isa::Scalar).dot(&a, &b);
        assert!((f64::from(plain) - exact).abs() < 1e-5, "{plain}, not {exact}");
        for isa in available() {
            assert_eq!(Scans::of(isa).dot(&a, &b).to_bits(), plain.to_bits(), "{isa:?}, {n} numbers");
        }
    }
}
