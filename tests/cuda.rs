//! The CUDA backend, phase by phase against the reference: its kernels run on the host, and on the GPU where there is one. And
//! what the program says where there is none.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]
#![cfg(target_os = "linux")]

#[path = "cuda/ahead.rs"]
mod ahead;
#[path = "cuda/changes.rs"]
mod changes;
mod common;
#[path = "cuda/emulator.rs"]
mod emulator;
#[path = "cuda/fallback.rs"]
mod fallback;
#[path = "cuda/floats.rs"]
mod floats;
#[path = "cuda/hashes.rs"]
mod hashes;
#[path = "cuda/kept.rs"]
mod kept;
#[path = "cuda/long.rs"]
mod long;
#[path = "cuda/prefill.rs"]
mod prefill;
#[path = "cuda/several.rs"]
mod several;
#[path = "cuda/sharing.rs"]
mod sharing;
#[path = "cuda/two_types.rs"]
mod two_types;

use common::nmse;
use common::runner::{Pool, Running, step, with_batch};
use common::tiny::{self, Random};
use emulator::{Host, alone, function, kernels};
use taper::backend::candle::{self, Candle};
use taper::backend::cuda::layout::{Planes, magnitudes, matrix_bytes};
use taper::backend::cuda::{self, Cuda, Gpu, Nvidia, Options, probe};
use taper::backend::{Backend, Batch, KvType, Limits, PAGE, PageOp, Phases, Probe, Slot, Token, Want};
use taper::format::packed::{CODEBOOK, Format, GROUP, TILE, pack_row, unpack_row};
use taper::format::quantize::Quant;
use taper::format::weights::Weights;
use taper::format::{DType, TensorInfo, random};
use taper::model::config::Config;
use taper::model::tensors::{self, Extras};
use taper::sample::{Draw, Sampling, Scratch};
use taper::terminal::progress::Mode;

const LIMITS: Limits = Limits { context: 600, sequences: 3, chunk: 80, pages: 64 };
/// int8 activations (design: at most 5e-4); attention in f16 pages and the rest in f32 are far below.
const INT8: f64 = 5e-4;
const EXACT: f64 = 1e-6;
const TIED: Extras = Extras { tied: true, qkv_bias: false, rope_factors: false };

fn config() -> Config {
    Config { hidden: 96, ffn: 160, head_dim: 32, heads: 6, kv_heads: 2, vocab: 61, ..tiny::config() }
}

fn infos(weights: &Weights) -> Vec<&TensorInfo> {
    weights.names().map(|n| weights.info(n).unwrap()).collect()
}

/// Makes GPUs of a kind; whether blocks and threads have their turns in the opposite order is the host's alone.
type Maker = Box<dyn Fn(bool) -> Box<dyn Gpu>>;

/// The host, and a GPU if there is one.
fn gpus() -> Vec<(&'static str, Maker)> {
    let mut gpus: Vec<(&str, Maker)> = Vec::new();
    if let Some(library) = kernels() {
        gpus.push(("host", Box::new(|backwards| Box::new(Host::new(library, backwards)))));
    }
    if probe::look().is_ok() {
        gpus.push(("GPU", Box::new(|_| Box::new(Nvidia::open(true).unwrap()))));
    }
    gpus
}

fn load(gpu: Box<dyn Gpu>, config: &Config, weights: &Weights, kv_type: KvType) -> Cuda {
    load_with(gpu, config, weights, Options { kv_type, graph: true, flash_attention: true, hashes: false })
}

fn load_with(gpu: Box<dyn Gpu>, config: &Config, weights: &Weights, options: Options) -> Cuda {
    assert_eq!(cuda::refusal(config), None);
    let plan = cuda::plan(config, &infos(weights), LIMITS, options);
    Cuda::load(gpu, config, weights, &plan, options, Mode::Quiet).unwrap()
}

/// The same random keys and values in both backends, as this one keeps them.
fn fill_pages(judge: &mut Candle, backend: &mut Cuda, running: &mut Running, tokens: usize) {
    let numbers = backend.layers() * 2 * PAGE * backend.config().kv_dim();
    for page in &running.pages {
        let values: Vec<f32> = Random(u64::from(*page)).values(numbers);
        backend.pages(PageOp::Write { page: *page, from: &values }).unwrap();
        let mut kept = vec![0f32; numbers];
        backend.pages(PageOp::Read { page: *page, into: &mut kept }).unwrap();
        assert!(nmse(&values, &kept) <= 2e-5);
        judge.pages(PageOp::Write { page: *page, from: &kept }).unwrap();
    }
    running.computed = tokens;
}

/// Every phase of steps of several sequences on the reference's inputs.
fn check_phases(what: &str, config: &Config, weights: &Weights, kv_type: KvType) {
    check_phases_of(what, config, weights, kv_type, &[[13, 1, 2], [1, 1, 0], [1, 0, 0]], INT8);
}

/// The same of steps with so many rows of each of three sequences; `bound` is that of matrices.
fn check_phases_of(what: &str, config: &Config, weights: &Weights, kv_type: KvType, steps: &[[usize; 3]], bound: f64) {
    for (name, make) in gpus() {
        let mut backend = load(make(false), config, weights, kv_type);
        check_steps(&format!("{what} on the {name}"), config, weights, &mut backend, steps, bound);
    }
}

fn check_steps(what: &str, config: &Config, weights: &Weights, backend: &mut Cuda, steps: &[[usize; 3]], bound: f64) {
    let mut judge = Candle::load(config, weights, &candle::plan(config, &infos(weights), LIMITS)).unwrap();
    let mut random = Random(5);
    let mut pool = Pool::new(LIMITS.pages);
    let mut running: Vec<Running> = [64, 590, 300].into_iter().map(|n| pool.sequence(n)).collect();
    fill_pages(&mut judge, backend, &mut running[1], 545);
    fill_pages(&mut judge, backend, &mut running[2], 255);
    for lengths in steps {
        let tokens: Vec<Vec<Token>> =
            lengths.iter().map(|n| random.ids(*n, config.vocab).into_iter().map(Token::Id).collect()).collect();
        let mut parts: Vec<_> =
            running.iter_mut().zip(&tokens).filter(|(_, t)| !t.is_empty()).map(|(r, t)| (r, t.as_slice())).collect();
        with_batch(&mut parts, Want::Logits, |batch| one_step(&mut judge, backend, batch, what, bound));
    }
    let numbers = backend.layers() * 2 * PAGE * config.kv_dim();
    for page in running.iter().flat_map(|r| r.pages.iter().take(r.computed / PAGE)) {
        let (mut expected, mut got) = (vec![0f32; numbers], vec![0f32; numbers]);
        judge.pages(PageOp::Read { page: *page, into: &mut expected }).unwrap();
        backend.pages(PageOp::Read { page: *page, into: &mut got }).unwrap();
        assert!(nmse(&expected, &got) <= bound, "{what}, page {page}");
    }
}

fn one_step(judge: &mut Candle, backend: &mut Cuda, batch: &Batch<'_>, what: &str, bound: f64) {
    judge.begin(batch).unwrap();
    backend.begin(batch).unwrap();
    let check = |judge: &mut Candle, backend: &mut Cuda, slot: Slot, bound: f64, phase: &str| {
        let expected = judge.get(slot).unwrap();
        let error = nmse(&expected, &backend.get(slot).unwrap());
        assert!(error <= bound, "{what}, {phase}, {} rows: {error:e}", batch.rows.len());
        backend.put(slot, &expected).unwrap();
    };
    check(judge, backend, Slot::Hidden, EXACT, "begin");
    for layer in 0..backend.layers() {
        type Run = fn(&mut dyn Phases, usize) -> taper::Result<()>;
        let phases: [(Run, Slot, f64, &str); 5] = [
            (|b, l| b.qkv(l), Slot::Query, bound, "qkv"),
            // Keys and values of this step went through int8 activations.
            (|b, l| b.attend(l), Slot::Attended, bound, "attend"),
            (|b, l| b.attn_out(l), Slot::Hidden, bound, "attn_out"),
            (|b, l| b.gate_up(l), Slot::Gated, bound, "gate_up"),
            (|b, l| b.down(l), Slot::Hidden, bound, "down"),
        ];
        for (run, slot, bound, phase) in phases {
            run(judge, layer).unwrap();
            run(backend, layer).unwrap();
            check(judge, backend, slot, bound, phase);
        }
    }
    judge.head(batch.out).unwrap();
    backend.head(batch.out).unwrap();
    let error = nmse(judge.collect().unwrap().logits, backend.collect().unwrap().logits);
    assert!(error <= bound, "{what}, head: {error:e}");
}

#[test]
fn phases_agree_with_the_reference_on_every_packed_format() {
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q5_1, DType::IQ4NL] {
        let config = Config { layers: if dtype == DType::Q4_0 { 2 } else { 1 }, ..config() };
        check_phases(&dtype.to_string(), &config, &common::made::weights(&config, TIED, |_| dtype), KvType::F16);
    }
    let wide = Config { hidden: 256, ffn: 256, heads: 8, layers: 1, ..config() };
    for dtype in [DType::Q4K, DType::Q6K] {
        check_phases(&dtype.to_string(), &wide, &common::made::weights(&wide, TIED, |_| dtype), KvType::F16);
    }
}

#[test]
fn phases_agree_with_codebooks_of_every_kind() {
    let config = Config { layers: 1, ..config() };
    for quant in [Quant::Nf4, Quant::Learned] {
        let numbers = common::made::weights(&config, TIED, |_| DType::F32);
        let weights = numbers.quantized(quant, tensors::EMBEDDING, None).unwrap();
        check_phases(&format!("{quant:?}"), &config, &weights, KvType::F16);
    }
}

#[test]
fn phases_agree_with_biases_windows_mixed_types_and_odd_heads() {
    let extras = Extras { tied: false, qkv_bias: true, rope_factors: true };
    let mixed = |name: &str| if name.contains("attn_v") || name.contains("down") { DType::Q8_0 } else { DType::Q4_0 };
    let windowed = Config { window: Some(70), ..config() };
    check_phases("window", &windowed, &common::made::weights(&windowed, extras, mixed), KvType::F32);
    // 12 query heads a key head: two turns of a block. 48 numbers a head: groups of 32 span heads.
    let odd = Config { heads: 12, kv_heads: 1, head_dim: 48, layers: 1, ..config() };
    check_phases("odd heads", &odd, &common::made::weights(&odd, extras, mixed), KvType::F16);
}

#[test]
fn phases_agree_where_one_kernel_has_matrices_of_two_types() {
    let config = Config { hidden: 256, ffn: 256, heads: 8, layers: 1, ..config() };
    let mixed = |name: &str| if name.contains("attn_v") { DType::Q6K } else { DType::Q4K };
    let weights = common::made::weights(&config, TIED, mixed);
    check_phases_of("q4_k and q6_k", &config, &weights, KvType::F16, &[[1, 0, 0], [3, 1, 0]], INT8);
}

#[test]
fn phases_agree_with_heads_of_the_usual_sizes() {
    for (heads, kv_heads, head_dim, window) in [(6, 2, 64, None), (8, 1, 128, Some(300)), (8, 4, 64, None)] {
        let config = Config { heads, kv_heads, head_dim, window, layers: 1, ..config() };
        let what = format!("{heads} heads of {head_dim}");
        check_phases(&what, &config, &common::made::weights(&config, TIED, |_| DType::Q4_0), KvType::F16);
    }
}

#[test]
fn the_likeliest_token_is_found_on_the_device() {
    let weights = common::made::weights(&config(), TIED, |_| DType::Q4_0);
    let greedy = Sampling::greedy();
    let draw = Draw { sampling: &greedy, history: &[], ahead: 0, index: 0, banned: &[] };
    for (name, make) in gpus() {
        let mut backend = load(make(false), &config(), &weights, KvType::F16);
        for chunk in [1, 3, 24] {
            let (mut pool, ids) = (Pool::new(LIMITS.pages), Random(7).ids(24, config().vocab));
            let mut both = [Want::Logits, Want::Sample(draw)].map(|want| {
                let mut running = pool.sequence(32);
                let mut given = (Vec::new(), Vec::new());
                for piece in ids.chunks(chunk) {
                    let tokens: Vec<Token> = piece.iter().map(|id| Token::Id(*id)).collect();
                    with_batch(&mut [(&mut running, &tokens)], want, |batch| backend.submit(batch).unwrap());
                    let step = backend.collect().unwrap();
                    given.0.extend_from_slice(step.logits);
                    given.1.extend_from_slice(step.tokens);
                }
                given
            });
            let tokens = std::mem::take(&mut both[1].1);
            assert_eq!(tokens.len(), 24usize.div_ceil(chunk));
            for (logits, token) in both[0].0.chunks(config().vocab).zip(tokens) {
                assert_eq!(draw.token(logits, &mut Scratch::default()).unwrap(), token, "{name}, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn answers_depend_neither_on_the_batch_nor_on_the_order_of_threads() {
    let weights = common::made::weights(&config(), TIED, |_| DType::Q4_1);
    for (name, make) in gpus() {
        let logits = |backwards: bool, chunk: usize, has_neighbour: bool| {
            let mut backend = load(make(backwards), &config(), &weights, KvType::F16);
            last_logits(&mut backend, chunk, has_neighbour)
        };
        let expected = logits(false, 12, false);
        assert!(expected.iter().all(|x| x.is_finite()));
        for (backwards, chunk, has_neighbour) in
            [(true, 12, false), (false, 7, false), (true, 1, false), (false, 8, true)]
        {
            let got = logits(backwards, chunk, has_neighbour);
            assert!(got == expected, "{name}, backwards {backwards}, chunks of {chunk}, neighbour {has_neighbour}");
        }
    }
}

/// The logits after 24 tokens in chunks, alone or beside another sequence.
fn last_logits(backend: &mut Cuda, chunk: usize, has_neighbour: bool) -> Vec<f32> {
    let ids = Random(3).ids(24, config().vocab);
    let mut pool = Pool::new(LIMITS.pages);
    let (mut running, mut neighbour) = (pool.sequence(64), pool.sequence(64));
    let mut last = Vec::new();
    for piece in ids.chunks(chunk) {
        let mut parts = vec![(&mut running, piece)];
        if has_neighbour {
            parts.push((&mut neighbour, &ids[..3]));
        }
        last = step(backend, &mut parts).remove(0);
    }
    last
}

/// A row of a file's blocks with scales of 1 and minima of 0: their numbers are the integers that kernels multiply.
fn integer_row(dtype: DType, k: usize, seed: u64) -> Vec<u8> {
    let mut row = random::tensor(seed, 0, DType::Q8_0, 4 * k).unwrap()[..dtype.bytes_of(k).unwrap()].to_vec();
    let (one, zero) = (half::f16::ONE.to_le_bytes(), [0; 2]);
    for block in row.chunks_exact_mut(dtype.block_bytes()) {
        match dtype {
            DType::Q6K => block[208..].copy_from_slice(&one),
            DType::Q4_1 | DType::Q5_1 | DType::Q4K => block[..4].copy_from_slice(&[one, zero].concat()),
            _ => block[..2].copy_from_slice(&one),
        }
    }
    row
}

#[repr(C)]
struct Matrix {
    planes: *const u8,
    rows: i32,
    k: i32,
    codebook: [u8; 16],
}

#[test]
#[expect(unsafe_code, reason = "the kernels are C++")]
fn sums_of_groups_are_the_integers_of_the_scalar_reference() {
    type Integers = unsafe extern "C" fn(*const Matrix, i32, *const i8, *const i32, *mut i32);
    let Some(library) = kernels() else { return };
    let rows = TILE + 3;
    for (dtype, k) in [
        (DType::Q4_0, 32 * 5),
        (DType::Q4_1, 32 * 3),
        (DType::IQ4NL, 32),
        (DType::Q8_0, 32 * 7),
        (DType::Q5_1, 32 * 9),
        (DType::Q4K, 512),
        (DType::Q6K, 768),
    ] {
        let format = Format::of(dtype);
        // 16-byte loads.
        let mut aligned = vec![0u128; matrix_bytes(format, rows, k).div_ceil(16)];
        // SAFETY: the vector's own bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(aligned.as_mut_ptr().cast::<u8>(), 16 * aligned.len()) };
        let mut planes = Planes { format, rows, k, bytes };
        let mut numbers = vec![vec![0f32; k]; rows];
        for (r, numbers) in numbers.iter_mut().enumerate() {
            let mut tile = vec![0; format.tile_bytes(k)];
            pack_row(dtype, &integer_row(dtype, k, r as u64), &mut tile, r % TILE).unwrap();
            planes.put(r, &tile, r % TILE);
            unpack_row(format, &CODEBOOK, &tile, r % TILE, numbers);
        }
        let codebook = magnitudes(&CODEBOOK).unwrap();
        let matrix = Matrix { planes: aligned.as_ptr().cast(), rows: rows as i32, k: k as i32, codebook };
        let codes: Vec<u128> =
            Random(k as u64).values(k / 4).iter().map(|x| u128::from(x.to_bits()) * 0x1_0001_0001).collect();
        // SAFETY: any bits are codes.
        let codes = unsafe { std::slice::from_raw_parts(codes.as_ptr().cast::<i8>(), k) };
        let sums: Vec<i32> = codes.chunks(GROUP).map(|g| g.iter().map(|x| i32::from(*x)).sum()).collect();
        let integers = function::<Integers>(library, &format!("taper_host_integers_{format:?}"));
        for (r, numbers) in numbers.iter().enumerate() {
            let mut got = vec![0; k / GROUP];
            let _alone = alone();
            // SAFETY: the matrix is as it says, the others are k codes and k / 32 sums.
            unsafe { integers(&raw const matrix, r as i32, codes.as_ptr(), sums.as_ptr(), got.as_mut_ptr()) };
            let expected = numbers.chunks(GROUP).zip(codes.chunks(GROUP));
            let expected: Vec<i32> =
                expected.map(|(w, x)| w.iter().zip(x).map(|(w, x)| *w as i32 * i32::from(*x)).sum()).collect();
            assert_eq!(got, expected, "{dtype}, row {r}");
        }
    }
}
