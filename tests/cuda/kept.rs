//! Keys and values in 8 bits.

use taper::backend::cpu::{self, Cpu, Isa};
use taper::backend::cuda::{Cuda, Options};
use taper::backend::{Backend, KvType, PAGE, PageOp, Phases, Probe, Slot, Token, Want};
use taper::format::DType;
use taper::format::repack::Repack;
use taper::model::config::Config;
use taper::model::tensors::Extras;

use super::prefill::{self, check_attention};
use super::{
    INT8, LIMITS, TIED, candle, check_phases, check_phases_of, config, cuda, fill_pages, gpus, infos, last_logits,
    load, load_with,
};
use crate::common;
use crate::common::nmse;
use crate::common::runner::{Pool, with_batch};
use crate::common::tiny::Random;

const BLOCKED: Options = Options { kv_type: KvType::Q8_0, graph: true, flash_attention: true, hashes: false };
const PLAIN: Options = Options { flash_attention: false, ..BLOCKED };

#[test]
fn phases_agree_with_keys_and_values_in_8_bits() {
    let extras = Extras { tied: false, qkv_bias: true, rope_factors: true };
    let mixed = |name: &str| if name.contains("attn_v") { DType::Q8_0 } else { DType::Q4_0 };
    for (heads, kv_heads, head_dim, window) in
        [(6, 2, 32, Some(70)), (12, 1, 48, None), (6, 2, 64, None), (8, 1, 128, Some(300)), (10, 10, 16, None)]
    {
        let config = Config { heads, kv_heads, head_dim, window, layers: 1, ..config() };
        let weights = common::made::weights(&config, extras, mixed);
        let what = format!("{heads} heads of {head_dim}");
        check_phases(&what, &config, &weights, KvType::Q8_0);
        check_phases_of(&what, &config, &weights, KvType::Q8_0, &prefill::MANY[1..], INT8);
    }
}

/// Given what is kept, nothing more is lost.
#[test]
fn attention_over_8_bits_is_exact_for_heads_of_every_size() {
    let steps = [[1, 65, 1], [30, 0, 31], [1, 1, 3], [0, 1, 0]];
    for (head_dim, heads, kv_heads) in
        [(48, 4, 2), (64, 9, 3), (80, 2, 2), (96, 5, 1), (112, 2, 1), (128, 8, 1), (144, 2, 1)]
    {
        let config = Config { head_dim, heads, kv_heads, layers: 1, hidden: 32, ffn: 32, ..config() };
        check_attention(&config, BLOCKED, &steps, 1e-7);
    }
    for head_dim in [32, 64, 128] {
        let windowed = Config { head_dim, window: Some(70), layers: 1, ..config() };
        check_attention(&windowed, BLOCKED, &steps, 1e-7);
        check_attention(&windowed, PLAIN, &steps[1..3], 1e-9);
    }
    // More query heads than a block of many rows takes.
    let many = Config { heads: 129, kv_heads: 1, layers: 1, ..config() };
    check_attention(&many, BLOCKED, &[[17, 0, 0]], 1e-7);
}

/// Numbers of a page, in `PageOp`'s order, whose values are multiplied by what `factor` says for their token.
fn page_of(config: &Config, seed: u64, factor: impl Fn(usize) -> f32) -> Vec<f32> {
    let mut numbers = Random(seed).values(2 * PAGE * config.kv_dim());
    for (token, value) in numbers[PAGE * config.kv_dim()..].chunks_exact_mut(config.kv_dim()).enumerate() {
        for x in value {
            *x *= factor(token);
        }
    }
    numbers
}

/// What a step's rows attend to, by the reference and by this backend.
fn attended(config: &Config, options: Options, rows: usize, factor: impl Fn(usize) -> f32) -> Vec<[Vec<f32>; 2]> {
    let weights = common::made::weights(config, TIED, |_| DType::Q4_0);
    let run = |make: &super::Maker| {
        let mut backend = load_with(make(false), config, &weights, options);
        let mut judge =
            candle::Candle::load(config, &weights, &candle::plan(config, &infos(&weights), LIMITS)).unwrap();
        let mut running = Pool::new(LIMITS.pages).sequence(300);
        fill_pages(&mut judge, &mut backend, &mut running, 300 - rows);
        let (pages, tokens) = (running.pages.clone(), vec![Token::Id(3); rows]);
        with_batch(&mut [(&mut running, &tokens)], Want::Logits, |batch| {
            judge.begin(batch).unwrap();
            backend.begin(batch).unwrap();
            judge.qkv(0).unwrap();
            backend.qkv(0).unwrap();
            backend.put(Slot::Query, &judge.get(Slot::Query).unwrap()).unwrap();
            for page in &pages {
                let mut numbers = page_of(config, u64::from(*page), &factor);
                backend.pages(PageOp::Write { page: *page, from: &numbers }).unwrap();
                backend.pages(PageOp::Read { page: *page, into: &mut numbers }).unwrap();
                judge.pages(PageOp::Write { page: *page, from: &numbers }).unwrap();
            }
            judge.attend(0).unwrap();
            backend.attend(0).unwrap();
            [judge.get(Slot::Attended).unwrap(), backend.get(Slot::Attended).unwrap()]
        })
    };
    gpus().iter().map(|(_, make)| run(make)).collect()
}

#[test]
fn scales_of_values_may_be_far_apart_very_small_very_large_or_nothing() {
    for (head_dim, rows) in [(32, 1), (64, 1), (128, 1), (64, 20)] {
        let config = Config { head_dim, layers: 1, ..config() };
        let factors: [fn(usize) -> f32; 4] = [
            |token| if token % 3 == 0 { 1.0 } else { 1e-3 },
            |token| if token % 5 == 0 { 0.0 } else { 1e-25 },
            |_| 1e-14,
            |token| if token % 2 == 0 { 1e20 } else { 1e18 },
        ];
        for (which, factor) in factors.into_iter().enumerate() {
            for [expected, got] in attended(&config, BLOCKED, rows, factor) {
                // Squares of the smallest are no f32.
                let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                let [expected, got] = [expected, got].map(|x| x.iter().map(|x| x / largest).collect::<Vec<_>>());
                let error = nmse(&expected, &got);
                assert!(error <= 1e-7, "heads of {head_dim}, {rows} rows, factor {which}: {error:e}");
            }
        }
        for [_, got] in attended(&config, BLOCKED, rows, |_| 0.0) {
            assert!(got.iter().all(|x| *x == 0.0), "heads of {head_dim}, {rows} rows");
        }
    }
}

#[test]
fn pages_keep_what_the_cpu_backend_keeps_bit_for_bit() {
    let config = Config { layers: 2, ..config() };
    let weights = common::made::weights(&config, TIED, |_| DType::Q4_0);
    let n = 2 * config.layers * PAGE * config.kv_dim();
    for kv_type in [KvType::F32, KvType::F16, KvType::Q8_0] {
        let mut values = Random(8).values(n);
        if kv_type == KvType::Q8_0 {
            put_odd_numbers(&mut values, config.head_dim);
        }
        let options = cpu::Options { threads: 1, isa: Isa::choose(None).unwrap(), kv_type, flash_attention: true };
        let plan = cpu::plan(&config, &infos(&weights), LIMITS, &options);
        let mut judge = Cpu::load(&config, &weights, &plan, &options, &Repack::default()).unwrap();
        let expected = moved(&mut judge, &values);
        for (name, make) in gpus() {
            let mut backend = load(make(false), &config, &weights, kv_type);
            let got = moved(&mut backend, &values);
            assert!(expected.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()), "{kv_type:?} on the {name}");
            // What was read is written again as it is.
            let again = moved(&mut backend, &got);
            assert!(got == again, "{kv_type:?} again on the {name}");
            let e = backend.pages(PageOp::Read { page: 64, into: &mut vec![0.0; n] }).unwrap_err();
            assert_eq!(e.what(), "page 64 is outside the pool of 64");
            let e = backend.pages(PageOp::Write { page: 3, from: &values[1..] }).unwrap_err();
            assert_eq!(e.what(), format!("a page holds {n} numbers, not {}", n - 1));
        }
    }
}

/// Heads with numbers that are none, too large or too small, and heads of nothing else.
fn put_odd_numbers(values: &mut [f32], head_dim: usize) {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, 0.0];
    let mut heads = values.chunks_exact_mut(head_dim);
    heads.by_ref().zip(odd).enumerate().for_each(|(at, (head, odd))| head[at] = odd);
    heads.zip(odd).for_each(|(head, odd)| head.fill(odd));
}

/// What a page reads that was written and copied.
fn moved(backend: &mut dyn Backend, values: &[f32]) -> Vec<f32> {
    backend.pages(PageOp::Write { page: 3, from: values }).unwrap();
    backend.pages(PageOp::Copy { from: 3, to: 40 }).unwrap();
    backend.pages(PageOp::Write { page: 3, from: &vec![0.0; values.len()] }).unwrap();
    let mut got = vec![f32::NAN; values.len()];
    backend.pages(PageOp::Read { page: 40, into: &mut got }).unwrap();
    got
}

/// The numbers of a sequence's first page after 35 tokens in chunks.
fn first_page(backend: &mut Cuda, chunk: usize) -> (u32, Vec<f32>) {
    let mut running = Pool::new(LIMITS.pages).sequence(64);
    for piece in vec![Token::Id(5); 35].chunks(chunk) {
        with_batch(&mut [(&mut running, piece)], Want::Logits, |batch| backend.submit(batch).unwrap());
    }
    let mut numbers = vec![0.0; 2 * PAGE * backend.config().kv_dim()];
    backend.pages(PageOp::Read { page: running.pages[0], into: &mut numbers }).unwrap();
    (running.pages[0], numbers)
}

#[test]
fn rows_are_kept_as_pages_that_are_written() {
    for head_dim in [32, 200] {
        let config = Config { layers: 1, head_dim, heads: 4, ..config() };
        let weights = common::made::weights(&config, TIED, |_| DType::Q4_0);
        for (name, make) in gpus() {
            for chunk in [7, 35] {
                let (page, exact) = first_page(&mut load(make(false), &config, &weights, KvType::F32), chunk);
                let mut backend = load(make(true), &config, &weights, KvType::Q8_0);
                let (_, kept) = first_page(&mut backend, chunk);
                let mut written = exact.clone();
                backend.pages(PageOp::Write { page, from: &exact }).unwrap();
                backend.pages(PageOp::Read { page, into: &mut written }).unwrap();
                assert!(written == kept, "{name}, heads of {head_dim}, chunks of {chunk}");
                assert!((1e-12..1e-4).contains(&nmse(&exact, &kept)), "{name}: {:e}", nmse(&exact, &kept));
            }
        }
    }
}

#[test]
fn answers_over_8_bits_depend_neither_on_the_batch_nor_on_the_order_of_threads() {
    let config = Config { head_dim: 64, layers: 1, ..config() };
    let weights = common::made::weights(&config, TIED, |_| DType::Q4_1);
    for (name, make) in gpus() {
        let few = |backwards: bool, chunk: usize, has_neighbour: bool| {
            last_logits(&mut load(make(backwards), &config, &weights, KvType::Q8_0), chunk, has_neighbour)
        };
        assert!(few(false, 12, false).iter().all(|x| x.is_finite()));
        assert!(few(false, 12, false) == few(true, 8, true), "{name}");
        let many = |backwards: bool, chunk: usize, neighbour: usize| {
            prefill::last_logits(&mut load(make(backwards), &config, &weights, KvType::Q8_0), chunk, neighbour)
        };
        assert!(many(false, 68, 0) == many(true, 17, 5), "{name}");
    }
}

#[test]
fn pages_of_8_bits_take_little_more_than_half_the_memory() {
    let weights = common::made::weights(&config(), TIED, |_| DType::Q4_0);
    let plan = |kv_type| cuda::plan(&config(), &infos(&weights), LIMITS, Options { kv_type, ..BLOCKED });
    // 32 numbers and a scale, or 32 numbers of 2 bytes.
    assert_eq!(plan(KvType::Q8_0).kv * 64, plan(KvType::F16).kv * 36);
    // The step's rows in f32: three pages.
    let rows = 4 * 3 * 2 * PAGE * config().kv_dim();
    assert_eq!(plan(KvType::Q8_0).workspace, plan(KvType::F16).workspace + rows as u64);
}
