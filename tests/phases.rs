//! Phase by phase: a backend against the formulas written as plain loops, on shapes that no model has.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use common::naive::{Between, Naive};
use common::runner::{Pool, Running, step, with_batch};
use common::tiny::{self, Random, Tiny};
use common::{max_relative, nmse};
use taper::backend::candle::{self, Candle};
use taper::backend::{Backend, Limits, PAGE, PageOp, Phases, Probe, Slot, Token, Want};
use taper::model::config::Config;
use taper::model::rope::Scaling;
use taper::model::tensors::Extras;
use taper::sample::{Draw, Sampling};

const PAGES: usize = 24;
/// f32 against f64: single roundings only.
const EXACT: f64 = 1e-10;

fn load(tiny: &Tiny) -> Candle {
    let limits = Limits::new(256, 3, 64);
    assert_eq!(limits.pages, PAGES);
    let weights = tiny.weights();
    let infos: Vec<_> = weights.names().map(|n| weights.info(n).unwrap()).collect();
    Candle::load(&tiny.config, &weights, &candle::plan(&tiny.config, &infos, limits)).unwrap()
}

fn f32s(rows: impl Iterator<Item = Vec<f64>>) -> Vec<f32> {
    rows.flatten().map(|x| x as f32).collect()
}

fn check(what: &str, expected: &[f32], got: &[f32]) {
    let error = nmse(expected, got);
    assert!(error <= EXACT, "{what}: normalized mean squared error {error:e}");
}

/// Runs every phase of one step on the right inputs and compares its outputs. `parts`: each sequence's new tokens; the
/// naive sequences are advanced beside.
fn check_phases(backend: &mut Candle, parts: &mut [(Running, Naive<'_>, Vec<u32>)]) {
    let layers = backend.config().layers;
    let tokens: Vec<Vec<Token>> =
        parts.iter().map(|(_, _, ids)| ids.iter().map(|id| Token::Id(*id)).collect()).collect();
    // (row)(layer), rows of all sequences one after the other
    let mut rows: Vec<Vec<Between>> = Vec::new();
    let mut last_logits = Vec::new();
    for (_, naive, ids) in &mut *parts {
        let mut logits = Vec::new();
        for id in ids {
            let (between, l) = naive.push(*id);
            rows.push(between);
            logits = l;
        }
        last_logits.push(logits);
    }
    let of = |layer: usize, field: fn(&Between) -> &Vec<f64>| f32s(rows.iter().map(|r| field(&r[layer]).clone()));
    let mut views: Vec<(&mut Running, &[Token])> =
        parts.iter_mut().zip(&tokens).map(|((running, _, _), t)| (running, t.as_slice())).collect();
    with_batch(&mut views, Want::Logits, |batch| {
        backend.begin(batch).unwrap();
        check("begin", &of(0, |b| &b.before), &backend.get(Slot::Hidden).unwrap());
        for layer in 0..layers {
            backend.put(Slot::Hidden, &of(layer, |b| &b.before)).unwrap();
            backend.qkv(layer).unwrap();
            check("qkv", &of(layer, |b| &b.query), &backend.get(Slot::Query).unwrap());
            backend.put(Slot::Query, &of(layer, |b| &b.query)).unwrap();
            backend.attend(layer).unwrap();
            check("attend", &of(layer, |b| &b.attended), &backend.get(Slot::Attended).unwrap());
            backend.put(Slot::Attended, &of(layer, |b| &b.attended)).unwrap();
            backend.attn_out(layer).unwrap();
            check("attn_out", &of(layer, |b| &b.after_attention), &backend.get(Slot::Hidden).unwrap());
            backend.put(Slot::Hidden, &of(layer, |b| &b.after_attention)).unwrap();
            backend.gate_up(layer).unwrap();
            check("gate_up", &of(layer, |b| &b.gated), &backend.get(Slot::Gated).unwrap());
            backend.put(Slot::Gated, &of(layer, |b| &b.gated)).unwrap();
            backend.down(layer).unwrap();
            check("down", &of(layer, |b| &b.after), &backend.get(Slot::Hidden).unwrap());
        }
        backend.put(Slot::Hidden, &of(layers - 1, |b| &b.after)).unwrap();
        backend.head(batch.out).unwrap();
        check("head", &f32s(last_logits.into_iter()), backend.collect().unwrap().logits);
    });
    for (running, naive, _) in parts {
        check_pages(backend, running, naive);
    }
}

/// Every key and value of a sequence, read from its pages.
fn check_pages(backend: &mut Candle, running: &Running, naive: &Naive<'_>) {
    let Config { layers, .. } = *backend.config();
    let kv_dim = backend.config().kv_dim();
    let mut page = vec![0f32; layers * 2 * PAGE * kv_dim];
    for (i, id) in running.pages.iter().enumerate() {
        backend.pages(PageOp::Read { page: *id, into: &mut page }).unwrap();
        for layer in 0..layers {
            for (which, all) in [&naive.keys[layer], &naive.values[layer]].into_iter().enumerate() {
                for pos in (i * PAGE..(i + 1) * PAGE).take_while(|p| *p < running.computed) {
                    let at = ((layer * 2 + which) * PAGE + pos % PAGE) * kv_dim;
                    check("pages", &f32s([all[pos].clone()].into_iter()), &page[at..][..kv_dim]);
                }
            }
        }
    }
}

/// A long prompt in two pieces, a short one, then a mixed step: one decodes while the other prefills.
fn check_model(tiny: &Tiny) {
    let mut backend = load(tiny);
    let mut pool = Pool::new(PAGES);
    let mut random = Random(99);
    let mut ids = |n: usize| random.ids(n, tiny.config.vocab);
    let mut parts = [(pool.sequence(100), Naive::new(tiny), ids(33)), (pool.sequence(100), Naive::new(tiny), ids(1))];
    check_phases(&mut backend, &mut parts);
    parts[0].2 = ids(1);
    parts[1].2 = ids(31);
    check_phases(&mut backend, &mut parts);
    parts[0].2 = ids(17);
    parts[1].2 = ids(2);
    check_phases(&mut backend, &mut parts);
}

#[test]
fn a_plain_llama() {
    check_model(&Tiny::plain(tiny::config(), 1));
}

#[test]
fn an_untied_head_biases_and_rotary_factors() {
    check_model(&Tiny::new(tiny::config(), Extras { tied: false, qkv_bias: true, rope_factors: true }, 2));
}

#[test]
fn one_key_head_for_all_and_one_for_each() {
    check_model(&Tiny::plain(Config { kv_heads: 1, heads: 5, ..tiny::config() }, 3));
    check_model(&Tiny::plain(Config { kv_heads: 3, heads: 3, head_dim: 2, ..tiny::config() }, 4));
}

#[test]
fn scaled_rotary_embeddings() {
    let mut config = tiny::config();
    config.rope.scaling = Scaling::Linear { factor: 4.0 };
    check_model(&Tiny::plain(config.clone(), 5));
    config.rope.scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64.0 };
    check_model(&Tiny::plain(config, 6));
}

#[test]
fn a_sliding_window_is_exact() {
    for window in [1, 7, 32, 200] {
        check_model(&Tiny::plain(Config { window: Some(window), ..tiny::config() }, 7));
    }
}

#[test]
fn logits_do_not_depend_on_chunks_or_neighbours() {
    let tiny = Tiny::plain(tiny::config(), 8);
    let mut backend = load(&tiny);
    let prompts: Vec<Vec<u32>> = (0..7).map(|i| Random(i).ids(5 + 11 * i as usize, tiny.config.vocab)).collect();
    let alone: Vec<Vec<f32>> = prompts
        .iter()
        .map(|ids| step(&mut backend, &mut [(&mut Pool::new(PAGES).sequence(ids.len()), ids)]).remove(0))
        .collect();
    for chunk in [1, 17, 64] {
        for (ids, alone) in prompts.iter().zip(&alone) {
            let got = common::runner::in_chunks(&mut backend, &mut Pool::new(PAGES), ids, chunk);
            assert!(max_relative(alone, &got) <= 1e-4, "{} tokens in chunks of {chunk}", ids.len());
        }
    }
    let mut pool = Pool::new(PAGES);
    let mut running: Vec<Running> = prompts.iter().map(|ids| pool.sequence(ids.len())).collect();
    let mut parts: Vec<(&mut Running, &[u32])> =
        running.iter_mut().zip(&prompts).map(|(r, ids)| (r, ids.as_slice())).collect();
    for (together, alone) in step(&mut backend, &mut parts).iter().zip(&alone) {
        assert!(max_relative(alone, together) <= 1e-4, "in a batch of 7");
    }
}

#[test]
fn a_token_that_only_the_device_knows_is_the_one_it_sampled() {
    let tiny = Tiny::plain(tiny::config(), 9);
    let mut backend = load(&tiny);
    let mut pool = Pool::new(PAGES);
    let greedy = Sampling::greedy();
    let want = Want::Sample(Draw { sampling: &greedy, history: &[], ahead: 0, index: 0, banned: &[] });
    let mut known = pool.sequence(8);
    let first = step(&mut backend, &mut [(&mut known, &[3, 4, 5])]).remove(0);
    let best = (0..first.len()).max_by(|a, b| first[*a].total_cmp(&first[*b])).unwrap() as u32;
    let expected = step(&mut backend, &mut [(&mut known, &[best])]).remove(0);

    let mut unknown = pool.sequence(8);
    let prompt = [3, 4, 5].map(Token::Id);
    let tokens = with_batch(&mut [(&mut unknown, &prompt[..])], want, |batch| {
        backend.submit(batch).unwrap();
        backend.collect().unwrap().tokens.to_vec()
    });
    assert_eq!(tokens, [best]);
    let got = with_batch(&mut [(&mut unknown, &[Token::Previous][..])], Want::Logits, |batch| {
        backend.submit(batch).unwrap();
        backend.collect().unwrap().logits.to_vec()
    });
    assert_eq!(got, expected);
}

#[test]
fn copied_and_rewritten_pages_serve_as_the_original() {
    let tiny = Tiny::plain(tiny::config(), 10);
    let mut backend = load(&tiny);
    let mut pool = Pool::new(PAGES);
    let ids = Random(5).ids(40, tiny.config.vocab);
    let mut original = pool.sequence(64);
    step(&mut backend, &mut [(&mut original, &ids)]);
    let mut copy = pool.sequence(64);
    copy.computed = original.computed;
    backend.pages(PageOp::Copy { from: original.pages[0], to: copy.pages[0] }).unwrap();
    let mut page = vec![0f32; 2 * 2 * PAGE * tiny.config.kv_dim()];
    backend.pages(PageOp::Read { page: original.pages[1], into: &mut page }).unwrap();
    backend.pages(PageOp::Write { page: copy.pages[1], from: &page }).unwrap();
    let expected = step(&mut backend, &mut [(&mut original, &[7])]);
    assert_eq!(step(&mut backend, &mut [(&mut copy, &[7])]), expected);

    let outside = backend.pages(PageOp::Copy { from: 99, to: 0 }).unwrap_err();
    assert_eq!(outside.what(), "page 99 is outside the pool of 24");
}

#[test]
fn broken_steps_are_refused() {
    let tiny = Tiny::plain(tiny::config(), 11);
    let mut backend = load(&tiny);
    let mut running = Pool::new(PAGES).sequence(8);
    let bad_id = [Token::Id(61)];
    let e = with_batch(&mut [(&mut running, &bad_id[..])], Want::Logits, |b| backend.submit(b)).unwrap_err();
    assert_eq!(e.what(), "token 61 is outside the model's vocabulary of 61 tokens");
    running.pages = vec![PAGES as u32];
    let e = with_batch(&mut [(&mut running, &[Token::Id(1)][..])], Want::Logits, |b| backend.submit(b)).unwrap_err();
    assert!(e.what().starts_with("the engine built a broken step"), "{e}");
}
