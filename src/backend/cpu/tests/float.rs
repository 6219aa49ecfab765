//! Weights in floating point.

use half::{bf16, f16};

use super::{Aligned, Random, Weights, available, bits, product};
use crate::backend::cpu::kernels::{Isa, Kernels};
use crate::backend::cpu::matmul::panel_width;
use crate::format::DType;
use crate::format::packed::{CODEBOOK, Format, TILE, pack_row, unpack_row};

const TYPES: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// A packed matrix of random numbers.
fn weights(dtype: DType, rows: usize, k: usize, random: &mut Random) -> Weights {
    let format = Format::of(dtype);
    let mut packed = Aligned::zeroed(format.matrix_bytes(rows, k));
    let (tile_bytes, mut numbers) = (format.tile_bytes(k), vec![f32::NAN; rows * k]);
    for row in 0..rows {
        let stored = (0..k).flat_map(|_| match (dtype, random.signed()) {
            (DType::F16, x) => f16::from_f32(x).to_le_bytes().to_vec(),
            (DType::BF16, x) => bf16::from_f32(x).to_le_bytes().to_vec(),
            (_, x) => x.to_le_bytes().to_vec(),
        });
        let tile = &mut packed.bytes()[row / TILE * tile_bytes..][..tile_bytes];
        pack_row(dtype, &stored.collect::<Vec<u8>>(), tile, row % TILE).unwrap();
        unpack_row(format, &CODEBOOK, tile, row % TILE, &mut numbers[row * k..][..k]);
    }
    Weights { format, rows, k, packed, numbers }
}

/// Rows times the matrix, together in one panel.
fn multiply(kernels: &Kernels, weights: &mut Weights, x: &[f32]) -> Vec<f32> {
    let (k, rows) = (weights.k, x.len() / weights.k);
    let width = panel_width(rows, kernels.max_panel);
    let mut panel = vec![f32::NAN; width * k];
    for (i, x) in x.iter().enumerate() {
        panel[i % k * width + i / k] = *x;
    }
    let bytes: Vec<u8> = panel.iter().flat_map(|x| x.to_le_bytes()).collect();
    product(kernels, weights, rows, width, &bytes, None)
}

#[test]
fn products_are_those_of_plain_loops_whatever_the_panel_and_the_instruction_set() {
    let mut random = Random::new(10);
    for dtype in TYPES {
        for (k, rows) in [(32, 1), (96, 16), (352, 33), (576, 40)] {
            let mut weights = weights(dtype, rows, k, &mut random);
            let x: Vec<f32> = (0..12 * k).map(|_| random.signed()).collect();
            let scalar = Kernels::of(Isa::Scalar).unwrap();
            let alone: Vec<f32> = x.chunks(k).flat_map(|row| multiply(scalar, &mut weights, row)).collect();
            for (i, got) in alone.iter().enumerate() {
                let pairs = weights.numbers[i % rows * k..][..k].iter().zip(&x[i / rows * k..][..k]);
                let exact: f64 = pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                assert!(
                    (f64::from(*got) - exact).abs() <= 1e-6 * (k as f64).sqrt(),
                    "{dtype}, {k}: {got}, not {exact}"
                );
            }
            for kernels in available() {
                for together in 1..=kernels.max_panel {
                    let got = multiply(kernels, &mut weights, &x[..together * k]);
                    let name = kernels.isa.name();
                    assert_eq!(bits(&got), bits(&alone[..together * rows]), "{dtype}, {together} x {k}, {name}");
                }
            }
        }
    }
}

/// Smallest, largest, subnormal: every f16 and every bf16 is the number that it means.
#[test]
fn every_number_of_16_bits_is_multiplied_as_what_it_is() {
    for dtype in [DType::F16, DType::BF16] {
        let number =
            |b: u16| if dtype == DType::F16 { f16::from_bits(b).to_f32() } else { bf16::from_bits(b).to_f32() };
        let all: Vec<u16> = (0..=u16::MAX).filter(|b| number(*b).is_finite()).collect();
        let (k, format) = (32, Format::of(dtype));
        for all in all.chunks(k * TILE) {
            let mut packed = Aligned::zeroed(format.matrix_bytes(TILE, k));
            let at = |row: usize, i: usize| all.get(row * k + i).copied().unwrap_or(0);
            for row in 0..TILE {
                let stored: Vec<u8> = (0..k).flat_map(|i| at(row, i).to_le_bytes()).collect();
                pack_row(dtype, &stored, packed.bytes(), row).unwrap();
            }
            let mut weights = Weights { format, rows: TILE, k, packed, numbers: Vec::new() };
            for i in 0..k {
                let one: Vec<f32> = (0..k).map(|j| f32::from(u8::from(i == j))).collect();
                for kernels in available() {
                    for (row, got) in multiply(kernels, &mut weights, &one).iter().enumerate() {
                        // The other numbers times zero leave no sign to zeros.
                        assert_eq!(*got, number(at(row, i)), "{dtype} {:#x}, {}", at(row, i), kernels.isa.name());
                    }
                }
            }
        }
    }
}
