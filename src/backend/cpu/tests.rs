//! Every kernel of every instruction set against plain loops, on shapes that no tuning saw.
#![expect(unsafe_code, reason = "kernels are unsafe to call")]

mod attention;
mod float;

use super::kernels::{Isa, Kernels};
use super::matmul::{GROUP_BYTES, Job, panel_width};
use super::rows::{Groups, Lane, Rest};
use crate::format::DType;
use crate::format::packed::{CODEBOOK, Format, GROUP, TILE, pack_row, unpack_row};
use crate::format::random;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Numbers in [-1, 1).
struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn signed(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

fn available() -> impl Iterator<Item = &'static Kernels> {
    Isa::ALL.iter().filter(|isa| isa.is_available()).map(|isa| Kernels::of(*isa).unwrap())
}

/// Aligned as kernels expect weights and tables.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "read as bytes")] [u8; 64]);

struct Aligned(Vec<Line>);

impl Aligned {
    fn zeroed(bytes: usize) -> Self {
        Self(vec![Line([0; 64]); bytes.div_ceil(64)])
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: a Line is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), 64 * self.0.len()) }
    }
}

/// A packed matrix of random blocks, and its numbers.
struct Weights {
    format: Format,
    rows: usize,
    k: usize,
    packed: Aligned,
    numbers: Vec<f32>,
}

impl Weights {
    fn random(dtype: DType, rows: usize, k: usize, seed: u64) -> Self {
        let format = Format::of(dtype);
        let mut packed = Aligned::zeroed(format.matrix_bytes(rows, k));
        let tile_bytes = format.tile_bytes(k);
        let mut numbers = vec![0.0; rows * k];
        let stored = random::tensor(seed, 0, dtype, rows * k).unwrap();
        let row_bytes = stored.len() / rows;
        for row in 0..rows {
            let stored = &stored[row * row_bytes..][..row_bytes];
            let tile = &mut packed.bytes()[row / TILE * tile_bytes..][..tile_bytes];
            pack_row(dtype, stored, tile, row % TILE).unwrap();
            unpack_row(format, &CODEBOOK, tile, row % TILE, &mut numbers[row * k..][..k]);
        }
        Self { format, rows, k, packed, numbers }
    }
}

/// Quantizes rows into one panel; the panel, and the numbers that its codes stand for.
fn panel(kernels: &Kernels, x: &[f32], k: usize) -> (Vec<u8>, usize, Vec<f32>) {
    let rows = x.len() / k;
    let width = panel_width(rows, kernels.max_panel);
    let groups = k / GROUP;
    let mut bytes = vec![0xa5; width * groups.next_multiple_of(2) * GROUP_BYTES];
    let whole = Groups { first: 0, count: groups, all: groups };
    for row in 0..rows {
        let lane = Lane { panel: bytes.as_mut_ptr(), width, row };
        // SAFETY: the panel has room for its groups.
        unsafe { (kernels.quantize)(x[row * k..].as_ptr(), whole, lane) };
    }
    let mut means = vec![0.0; x.len()];
    for (i, mean) in means.iter_mut().enumerate() {
        let (row, g, j) = (i / k, i % k / GROUP, i % GROUP);
        let group = &bytes[g * width * GROUP_BYTES..];
        let code = group[(j / 4 * width + row) * 4 + j % 4] as i8;
        let scale = f32::from_le_bytes(group[width * GROUP + 4 * row..][..4].try_into().unwrap());
        *mean = f32::from(code) * scale;
    }
    (bytes, width, means)
}

fn multiply(kernels: &Kernels, weights: &mut Weights, x: &[f32]) -> Vec<f32> {
    let (panel, width, _) = panel(kernels, x, weights.k);
    product(kernels, weights, x.len() / weights.k, width, &panel, None)
}

/// The same with the rests of outliers, and whether there were any.
fn multiply_with_rest(kernels: &Kernels, weights: &mut Weights, x: &[f32]) -> (Vec<f32>, bool) {
    let (k, groups) = (weights.k, weights.k / GROUP);
    let rows = x.len() / k;
    let width = panel_width(rows, kernels.max_panel);
    let mut bytes = vec![0xa5; width * groups.next_multiple_of(2) * GROUP_BYTES];
    let (mut rests, mut flags) = (bytes.clone(), vec![0; groups.next_multiple_of(8)]);
    for row in 0..rows {
        let lane = Lane { panel: bytes.as_mut_ptr(), width, row };
        let rest = Rest { panel: rests.as_mut_ptr(), flags: flags.as_mut_ptr() };
        // SAFETY: both panels have room for their groups.
        unsafe { (kernels.quantize_with_rest)(x[row * k..].as_ptr(), groups, lane, rest) };
    }
    (product(kernels, weights, rows, width, &bytes, Some((&rests, &flags))), flags.iter().any(|flag| *flag != 0))
}

fn product(
    kernels: &Kernels,
    weights: &mut Weights,
    rows: usize,
    width: usize,
    panel: &[u8],
    rest: Option<(&[u8], &[u8])>,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * weights.rows];
    let job = Job {
        format: weights.format,
        weights: weights.packed.bytes().as_ptr(),
        tiles: weights.rows.div_ceil(TILE),
        units: weights.format.units(weights.k),
        codebook: CODEBOOK.map(|c| (c as u8) ^ 0x80),
        panel: panel.as_ptr(),
        rest: rest.map_or(std::ptr::null(), |(panel, _)| panel.as_ptr()),
        rest_flags: rest.map_or(std::ptr::null(), |(_, flags)| flags.as_ptr()),
        width,
        rows,
        out: out.as_mut_ptr(),
        stride: weights.rows,
        last_lanes: weights.rows - (weights.rows - 1) / TILE * TILE,
        add: false,
    };
    // SAFETY: the job says what there is.
    unsafe { (kernels.matmul)(&job) };
    out
}

const TYPES: [DType; 8] =
    [DType::Q4_0, DType::Q4_1, DType::IQ4NL, DType::Q8_0, DType::Q5_0, DType::Q5_1, DType::Q4K, DType::Q6K];

#[test]
fn products_are_those_of_plain_loops_and_equal_bits_on_every_instruction_set() {
    let mut random = Random::new(1);
    for dtype in TYPES {
        let ks: &[usize] = if dtype.block_len() == 256 { &[256, 768] } else { &[32, 96, 320, 576] };
        for (&k, rows) in ks.iter().zip([1, 16, 33, 40]) {
            let mut weights = Weights::random(dtype, rows, k, 7);
            for batch in [1, 2, 3, 4] {
                let x: Vec<f32> = (0..batch * k).map(|_| random.signed()).collect();
                let scalar = multiply(Kernels::of(Isa::Scalar).unwrap(), &mut weights, &x);
                let (_, _, means) = panel(Kernels::of(Isa::Scalar).unwrap(), &x, k);
                for (i, got) in scalar.iter().enumerate() {
                    let (t, row) = (i / rows, i % rows);
                    let pairs = || weights.numbers[row * k..][..k].iter().zip(&means[t * k..][..k]);
                    let expected: f64 = pairs().map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    let size: f64 = pairs().map(|(w, x)| (f64::from(*w) * f64::from(*x)).abs()).sum();
                    // Minima are added to sums of products of many times their size.
                    let allowed = 2e-6 * size.max(1e-3) * (k as f64).sqrt();
                    assert!((f64::from(*got) - expected).abs() <= allowed, "{dtype} {rows}x{k}: {got}, not {expected}");
                }
                for kernels in available() {
                    let got = multiply(kernels, &mut weights, &x);
                    assert_eq!(bits(&got), bits(&scalar), "{dtype} {rows}x{k}, {batch} rows, {}", kernels.isa.name());
                }
            }
        }
    }
}

#[test]
fn outliers_cost_their_group_no_precision_and_their_neighbours_nothing() {
    let mut random = Random::new(9);
    for dtype in TYPES {
        let k = if dtype.block_len() == 256 { 768 } else { 352 };
        let mut weights = Weights::random(dtype, 24, k, 8);
        let mut x: Vec<f32> = (0..4 * k).map(|_| random.signed()).collect();
        // Two rows with outliers in different groups, the last group among them; two without.
        (x[40], x[k - 1], x[2 * k + 200]) = (90.0, -60.0, 70.0);
        let scalar = Kernels::of(Isa::Scalar).unwrap();
        let exact = |t: usize, row: usize| -> f64 {
            let pairs = weights.numbers[row * k..][..k].iter().zip(&x[t * k..][..k]);
            pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        let error = |got: &[f32], t: usize| -> f64 {
            (0..24).map(|row| (f64::from(got[t * 24 + row]) - exact(t, row)).powi(2)).sum()
        };
        let exact_error = |got: &[f32]| [0, 1, 2, 3].map(|t| error(got, t));
        let (with, without) = {
            let mut weights = Weights::random(dtype, 24, k, 8);
            (multiply_with_rest(scalar, &mut weights, &x), multiply(scalar, &mut weights, &x))
        };
        assert!(with.1, "{dtype}: nothing was left");
        let (fine, coarse) = (exact_error(&with.0), exact_error(&without));
        for t in [0, 2] {
            assert!(fine[t] < 0.1 * coarse[t], "{dtype}, row {t}: {fine:?}, {coarse:?}");
        }
        for t in [1, 3] {
            assert_eq!(bits(&with.0[t * 24..][..24]), bits(&without[t * 24..][..24]), "{dtype}, row {t}");
        }
        for kernels in available() {
            assert_eq!(bits(&multiply_with_rest(kernels, &mut weights, &x).0), bits(&with.0), "{}", kernels.isa.name());
            for (row, expected) in x.chunks(k).zip(with.0.chunks(24)) {
                assert_eq!(bits(&multiply_with_rest(kernels, &mut weights, row).0), bits(expected), "{dtype}");
            }
        }
        let (_, any) = multiply_with_rest(scalar, &mut weights, &x[k..2 * k]);
        assert!(!any, "{dtype}: uniform numbers have no outliers");
    }
}

#[test]
fn a_rows_product_does_not_depend_on_its_panel() {
    let mut random = Random::new(2);
    for dtype in TYPES {
        let k = if dtype.block_len() == 256 { 512 } else { 96 };
        let mut weights = Weights::random(dtype, 24, k, 8);
        let x: Vec<f32> = (0..12 * k).map(|_| random.signed()).collect();
        for kernels in available() {
            let alone: Vec<f32> = x.chunks(k).flat_map(|row| multiply(kernels, &mut weights, row)).collect();
            for rows in 1..=kernels.max_panel {
                let together = multiply(kernels, &mut weights, &x[..rows * k]);
                assert_eq!(bits(&together), bits(&alone[..rows * 24]), "{dtype}, {rows} rows, {}", kernels.isa.name());
            }
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn quantization_is_to_the_nearest_and_zeros_have_no_scale() {
    let mut random = Random::new(3);
    let mut x: Vec<f32> = (0..96).map(|_| random.signed()).collect();
    x[32..64].fill(0.0);
    let (scalar, width, means) = panel(Kernels::of(Isa::Scalar).unwrap(), &x, 96);
    for (i, (x, mean)) in x.iter().zip(&means).enumerate() {
        assert!((x - mean).abs() <= 0.501 / 127.0, "{i}: {x} became {mean}");
    }
    assert!(means[32..64].iter().all(|x| *x == 0.0));
    // −Σ, and −Σ of the first half.
    let group = &scalar[..width * GROUP_BYTES];
    let codes: Vec<i32> = group[..32].iter().map(|c| i32::from(*c as i8)).collect();
    let number = |which: usize| i32::from_le_bytes(group[GROUP + 4 * which..][..4].try_into().unwrap());
    assert_eq!((number(2), number(3)), (-codes.iter().sum::<i32>(), -codes[..16].iter().sum::<i32>()));
    for kernels in available() {
        assert_eq!(panel(kernels, &x, 96).0, scalar, "{}", kernels.isa.name());
    }
}

#[test]
fn norm_swiglu_and_rotation_are_their_formulas() {
    let mut random = Random::new(4);
    let n = 80;
    let mut signed = |scale: f32| -> Vec<f32> { (0..n).map(|_| scale * random.signed()).collect() };
    let (x, weight, mut gate, up) = (signed(3.0), signed(1.0), signed(9.0), signed(1.0));
    (gate[0], gate[1]) = (-95.0, 95.0);
    let (cos, sin) = (signed(1.0), signed(1.0));
    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
    let silu = |g: f64| g / (1.0 + (-g).exp());
    let mut all = Vec::new();
    for kernels in available() {
        let (mut normed, mut gated, mut turned) = (vec![0.0; n], gate.clone(), x.clone());
        // SAFETY: all are n numbers.
        unsafe {
            (kernels.norm)(x.as_ptr(), weight.as_ptr(), 1e-5, n, normed.as_mut_ptr());
            (kernels.swiglu)(gated.as_mut_ptr(), up.as_ptr(), n);
            (kernels.rotate)(turned.as_mut_ptr(), cos.as_ptr(), sin.as_ptr(), n);
        }
        for i in 0..n {
            let near = |got: f32, expected: f64, what: &str| {
                assert!(
                    (f64::from(got) - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                    "{what} {i}: {got}, {expected}"
                );
            };
            near(normed[i], f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]), "norm");
            near(gated[i], silu(f64::from(gate[i])) * f64::from(up[i]), "swiglu");
            let other = f64::from(x[i ^ 1]) * f64::from(sin[i]);
            near(turned[i], f64::from(x[i]) * f64::from(cos[i]) + other, "rotate");
        }
        all.push([bits(&normed), bits(&gated), bits(&turned)]);
    }
    assert!(all.iter().all(|bits| *bits == all[0]), "instruction sets differ");
}
