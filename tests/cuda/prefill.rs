//! Steps of many rows, whose matrices and attention are multiplied by tensor cores; and plain attention.
#![expect(unsafe_code, reason = "the kernels are C++")]

use taper::backend::cuda::Options;
use taper::backend::cuda::layout::magnitudes;
use taper::backend::{Backend, KvType, PageOp, Phases, Probe, Slot, Token, Want};
use taper::format::DType;
use taper::format::packed::{CODEBOOK, Format, GROUP, TILE, pack_row, unpack_row};
use taper::model::config::Config;
use taper::model::tensors::Extras;

use super::emulator::{alone, function, kernels};
use super::{
    EXACT, INT8, LIMITS, Matrix, Planes, TIED, candle, check_phases_of, config, cuda, fill_pages, gpus, infos,
    integer_row, load, load_with, matrix_bytes,
};
use crate::common::nmse;
use crate::common::runner::{Pool, Running, step, with_batch};
use crate::common::tiny::Random;
use crate::common::{self};

/// Rows of a step's sequences, which have 0, 545 and 255 tokens already.
pub const MANY: [[usize; 3]; 3] = [[33, 0, 0], [1, 40, 24], [17, 1, 0]];

#[test]
fn many_rows_agree_with_the_reference_on_every_format() {
    let types = [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q5_1, DType::IQ4NL, DType::F16, DType::BF16, DType::F32];
    for dtype in types {
        let config = Config { layers: if dtype == DType::Q4_0 { 2 } else { 1 }, ..config() };
        let weights = common::made::weights(&config, TIED, |_| dtype);
        let bound = if Format::of(dtype).is_float() { EXACT } else { INT8 };
        check_phases_of(&dtype.to_string(), &config, &weights, KvType::F16, &MANY, bound);
    }
    let wide = Config { hidden: 256, ffn: 256, heads: 8, layers: 1, ..config() };
    for dtype in [DType::Q4K, DType::Q6K] {
        let weights = common::made::weights(&wide, TIED, |_| dtype);
        check_phases_of(&dtype.to_string(), &wide, &weights, KvType::F16, &MANY[..2], INT8);
    }
}

#[test]
fn many_rows_agree_with_biases_windows_mixed_types_and_odd_heads() {
    let extras = Extras { tied: false, qkv_bias: true, rope_factors: true };
    let mixed = |name: &str| if name.contains("attn_v") || name.contains("down") { DType::Q8_0 } else { DType::Q4_0 };
    let windowed = Config { window: Some(70), layers: 1, ..config() };
    let weights = common::made::weights(&windowed, extras, mixed);
    check_phases_of("window", &windowed, &weights, KvType::F32, &MANY, INT8);
    // In floating point, where a wrong bias shows.
    let mixed = |name: &str| if name.contains("attn_v") || name.contains("down") { DType::F32 } else { DType::F16 };
    let odd = Config { heads: 12, kv_heads: 1, head_dim: 48, layers: 1, ..config() };
    check_phases_of("odd heads", &odd, &common::made::weights(&odd, extras, mixed), KvType::F16, &MANY, EXACT);
}

/// The attention of steps on the reference's queries and this backend's keys and values.
pub fn check_attention(config: &Config, options: Options, steps: &[[usize; 3]], bound: f64) {
    let weights = common::made::weights(config, TIED, |_| DType::Q4_0);
    for (name, make) in gpus() {
        let mut backend = load_with(make(true), config, &weights, options);
        let mut judge =
            candle::Candle::load(config, &weights, &candle::plan(config, &infos(&weights), LIMITS)).unwrap();
        let mut random = Random(9);
        let mut pool = Pool::new(LIMITS.pages);
        let mut running: Vec<Running> = [64, 600, 330].into_iter().map(|n| pool.sequence(n)).collect();
        fill_pages(&mut judge, &mut backend, &mut running[1], 535);
        fill_pages(&mut judge, &mut backend, &mut running[2], 299);
        for lengths in steps {
            let tokens: Vec<Vec<Token>> =
                lengths.iter().map(|n| random.ids(*n, config.vocab).into_iter().map(Token::Id).collect()).collect();
            let pages: Vec<u32> = running.iter().flat_map(|r| r.pages.clone()).collect();
            let mut parts: Vec<_> = running
                .iter_mut()
                .zip(&tokens)
                .filter(|(_, t)| !t.is_empty())
                .map(|(r, t)| (r, t.as_slice()))
                .collect();
            with_batch(&mut parts, Want::Logits, |batch| {
                judge.begin(batch).unwrap();
                backend.begin(batch).unwrap();
                judge.qkv(0).unwrap();
                backend.qkv(0).unwrap();
                // So large that scores are, and an f16 alone would not do.
                let queries = judge.get(Slot::Query).unwrap();
                let mean = queries.iter().map(|x| x * x).sum::<f32>() / queries.len() as f32;
                let queries: Vec<f32> = queries.iter().map(|x| x * 30.0 / mean.sqrt()).collect();
                judge.put(Slot::Query, &queries).unwrap();
                backend.put(Slot::Query, &queries).unwrap();
                let mut values = vec![0f32; 2 * config.layers * super::PAGE * config.kv_dim()];
                for page in &pages {
                    backend.pages(PageOp::Read { page: *page, into: &mut values }).unwrap();
                    judge.pages(PageOp::Write { page: *page, from: &values }).unwrap();
                }
                judge.attend(0).unwrap();
                backend.attend(0).unwrap();
                let error = nmse(&judge.get(Slot::Attended).unwrap(), &backend.get(Slot::Attended).unwrap());
                assert!(error <= bound, "{name}, {lengths:?}, {options:?}, {config:?}: {error:e}");
            });
        }
    }
}

#[test]
fn attention_of_many_rows_is_exact_for_heads_of_every_size() {
    let options = Options { kv_type: KvType::F16, graph: true, flash_attention: true, hashes: false };
    let steps = [[1, 65, 1], [30, 0, 31]];
    for (head_dim, heads, kv_heads) in [(48, 4, 2), (64, 9, 3), (80, 2, 2), (96, 5, 1), (112, 2, 1), (128, 8, 1)] {
        let config = Config { head_dim, heads, kv_heads, layers: 1, hidden: 32, ffn: 32, ..config() };
        check_attention(&config, options, &steps, 1e-7);
    }
    let windowed = Config { window: Some(70), layers: 1, ..config() };
    check_attention(&windowed, options, &steps, 1e-7);
    // More query heads than a block takes, heads of a size without a kernel, and keys and values in f32: rows one by one.
    let many = Config { heads: 129, kv_heads: 1, layers: 1, ..config() };
    let large = Config { head_dim: 144, heads: 2, kv_heads: 1, layers: 1, ..config() };
    for (kv_type, config) in [(KvType::F16, many), (KvType::F16, large), (KvType::F32, config())] {
        check_attention(
            &config,
            Options { kv_type, graph: true, flash_attention: true, hashes: false },
            &[[17, 0, 0]],
            1e-7,
        );
    }
}

#[test]
fn plain_attention_agrees_with_the_reference_and_takes_memory_for_its_scores() {
    let windowed = Config { window: Some(70), ..config() };
    for (kv_type, config) in [(KvType::F16, config()), (KvType::F32, windowed)] {
        let options = Options { kv_type, graph: true, flash_attention: false, hashes: false };
        check_attention(&config, options, &[[1, 19, 1], [2, 3, 0]], 1e-9);
        let bytes = |flash_attention| {
            let weights = common::made::weights(&config, TIED, |_| DType::Q4_0);
            cuda::plan(
                &config,
                &infos(&weights),
                LIMITS,
                Options { kv_type, graph: true, flash_attention, hashes: false },
            )
            .workspace
        };
        assert!(bytes(false) >= bytes(true) + (8 * config.heads * LIMITS.context * 4) as u64);
    }
}

#[test]
fn answers_of_many_rows_depend_neither_on_the_batch_nor_on_the_order_of_threads() {
    let config = Config { layers: 1, ..config() };
    let weights = common::made::weights(&config, TIED, |_| DType::Q4_1);
    for (name, make) in gpus() {
        let logits = |backwards: bool, chunk: usize, neighbour: usize| {
            let mut backend = load(make(backwards), &config, &weights, KvType::F16);
            last_logits(&mut backend, chunk, neighbour)
        };
        let expected = logits(false, 68, 0);
        assert!(expected.iter().all(|x| x.is_finite()));
        for (backwards, chunk, neighbour) in [(true, 68, 0), (false, 34, 0), (true, 17, 5), (false, 51, 29)] {
            let got = logits(backwards, chunk, neighbour);
            assert!(got == expected, "{name} {backwards} {chunk} {neighbour}");
        }
    }
}

/// The logits of the last of 68 tokens in chunks, beside so many rows of another sequence, which come first.
pub fn last_logits(backend: &mut cuda::Cuda, chunk: usize, neighbour: usize) -> Vec<f32> {
    let ids = Random(3).ids(68, backend.config().vocab);
    let mut pool = Pool::new(LIMITS.pages);
    let (mut other, mut running) = (pool.sequence(64), pool.sequence(80));
    let mut last = Vec::new();
    for piece in ids.chunks(chunk) {
        let mut parts = vec![(&mut running, piece)];
        if neighbour > 0 {
            parts.insert(0, (&mut other, &ids[..neighbour]));
        }
        last = step(backend, &mut parts).pop().unwrap();
    }
    last
}

#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Scales {
    scale: f32,
    sum: i32,
    rest_scale: f32,
    rest_sum: i32,
}

type Tiled = unsafe extern "C" fn(*const Matrix, *const i8, *const i8, *const Scales, *mut f32, i32, i32);

/// Numbers on a boundary of 16 bytes, at most `most` from 0.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Sixteen([i8; 16]);

fn codes(random: &mut Random, count: usize, most: i64) -> Vec<Sixteen> {
    let mut code = || (random.next() % (2 * most as u64 + 1)) as i64 - most;
    (0..count / 16).map(|_| Sixteen(std::array::from_fn(|_| code() as i8))).collect()
}

/// With scales of 1, and rests here and there, a tile's numbers are integers.
#[test]
fn tiles_of_integers_are_exact_with_and_without_rests() {
    let Some(library) = kernels() else { return };
    let shapes = [
        (DType::Q4_0, 32 * 5, 132, 17, 127),
        (DType::Q4_1, 32 * 3, 20, 65, 127),
        (DType::IQ4NL, 32, 128, 33, 127),
        (DType::Q8_0, 32 * 7, 156, 64, 127),
        (DType::Q5_1, 32 * 9, 8, 20, 127),
        (DType::Q4K, 512, 140, 17, 9),
        (DType::Q6K, 768, 4, 66, 1),
    ];
    for (i, (dtype, k, columns, rows, most)) in shapes.into_iter().enumerate() {
        let (format, groups) = (Format::of(dtype), k / GROUP);
        let mut aligned = vec![0u128; matrix_bytes(format, columns, k).div_ceil(16)];
        // SAFETY: the vector's own bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(aligned.as_mut_ptr().cast::<u8>(), 16 * aligned.len()) };
        let mut planes = Planes { format, rows: columns, k, bytes };
        let mut numbers = vec![vec![0f32; k]; columns];
        for (r, numbers) in numbers.iter_mut().enumerate() {
            let mut tile = vec![0; format.tile_bytes(k)];
            pack_row(dtype, &integer_row(dtype, k, r as u64), &mut tile, r % TILE).unwrap();
            planes.put(r, &tile, r % TILE);
            unpack_row(format, &CODEBOOK, &tile, r % TILE, numbers);
        }
        let codebook = magnitudes(&CODEBOOK).unwrap();
        let matrix = Matrix { planes: aligned.as_ptr().cast(), rows: columns as i32, k: k as i32, codebook };
        let mut random = Random(i as u64);
        let (x, rests) = (codes(&mut random, rows * k, most), codes(&mut random, rows * k, most));
        let flat = |x: &[Sixteen]| -> Vec<i32> { x.iter().flat_map(|s| s.0).map(i32::from).collect() };
        let (flat_x, flat_rests) = (flat(&x), flat(&rests));
        let sums = |x: &[i32]| -> Vec<i32> { x.chunks(GROUP).map(|g| g.iter().sum()).collect() };
        // Rests in one group of seven; what is said of others is not to be read.
        let has_rest = |g: usize| (g + i) % 7 == 3;
        let scales: Vec<Scales> = sums(&flat_x)
            .into_iter()
            .zip(sums(&flat_rests))
            .enumerate()
            .map(|(g, (sum, rest_sum))| {
                let (rest_scale, rest_sum) = if has_rest(g) { (1.0, rest_sum) } else { (0.0, i32::MAX) };
                Scales { scale: 1.0, sum, rest_scale, rest_sum }
            })
            .collect();
        let multiply = function::<Tiled>(library, &format!("taper_host_tiled_{format:?}"));
        for backwards in [0, 1] {
            let mut got = vec![Sixteen([0; 16]); rows * columns / 4];
            let _alone = alone();
            // SAFETY: the matrix is as it says, the others are rows of k codes and k / 32 scales, and (rows, columns).
            unsafe {
                multiply(
                    &raw const matrix,
                    x.as_ptr().cast(),
                    rests.as_ptr().cast(),
                    scales.as_ptr(),
                    got.as_mut_ptr().cast(),
                    rows as i32,
                    backwards,
                );
            }
            // SAFETY: any bits are a number.
            let got = unsafe { std::slice::from_raw_parts(got.as_ptr().cast::<f32>(), rows * columns) };
            for (r, got) in got.chunks(columns).enumerate() {
                let whole: Vec<f64> = (0..k)
                    .map(|at| {
                        let rest = if has_rest(r * groups + at / GROUP) { flat_rests[r * k + at] } else { 0 };
                        f64::from(flat_x[r * k + at] + rest)
                    })
                    .collect();
                for (c, (got, numbers)) in got.iter().zip(&numbers).enumerate() {
                    let expected: f64 = numbers.iter().zip(&whole).map(|(w, x)| f64::from(*w) * x).sum();
                    assert!(f64::from(*got) == expected, "{dtype}, row {r}, column {c}: {got}, {expected}");
                }
            }
        }
    }
}
