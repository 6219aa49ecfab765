//! Steps that go on from what the device chose, before the host has heard of it; and what it chooses.

use super::common::made;
use super::common::runner::{Pool, Running, with_batch};
use super::common::tiny::Random;
use super::{LIMITS, TIED, config, gpus, load_with};
use std::time::Duration;

use taper::backend::cuda::{Cuda, Gpu, Options};
use taper::backend::{Backend, KvType, Token, Want};
use taper::format::DType;
use taper::model::config::Config;
use taper::sample::{Draw, Sampling, Scratch};

/// Tokens of each answer.
pub const ANSWER: u64 = 7;
pub const OPTIONS: Options = Options { kv_type: KvType::F16, graph: true, flash_attention: true, hashes: false };

/// More than a slice of logits, and the last one is not full.
pub fn wide() -> Config {
    Config { vocab: 9001, layers: 1, ..config() }
}

/// Of the wide one, weights that are sent to the GPU in several pieces.
pub fn backend(gpu: Box<dyn Gpu>, config: &Config, options: Options) -> Cuda {
    let dtype = if config.vocab > 1000 { DType::F32 } else { DType::Q4_0 };
    load_with(gpu, config, &made::weights(config, TIED, |_| dtype), options)
}

/// The prompts of two sequences, pushed through one by one; the token that each is to go on from.
pub(super) fn begin(backend: &mut Cuda, draw: impl Fn(u64) -> Draw<'static>) -> (Vec<Running>, Vec<u32>) {
    let mut pool = Pool::new(LIMITS.pages);
    let (mut running, mut tokens) = (Vec::new(), Vec::new());
    for seed in [3, 4] {
        let ids: Vec<Token> = Random(seed).ids(20, backend.config().vocab).into_iter().map(Token::Id).collect();
        let mut sequence = pool.sequence(64);
        let mut parts = [(&mut sequence, &ids[..])];
        with_batch(&mut parts, Want::Sample(draw(0)), |batch| backend.submit(batch).unwrap());
        tokens.extend_from_slice(backend.collect().unwrap().tokens);
        running.push(sequence);
    }
    (running, tokens)
}

pub(super) fn submit(backend: &mut Cuda, running: &mut [Running], tokens: &[Token], want: Want<'_>) {
    let mut parts: Vec<_> = running.iter_mut().zip(tokens.chunks(1)).collect();
    with_batch(&mut parts, want, |batch| backend.submit(batch).unwrap());
}

/// Two sequences' answers, with so many steps in flight.
pub(super) fn answers(backend: &mut Cuda, ahead: usize, draw: impl Fn(u64) -> Draw<'static>) -> Vec<Vec<u32>> {
    let (mut running, mut last) = begin(backend, &draw);
    let mut answers = vec![last.clone()];
    for index in 1..ANSWER + ahead as u64 {
        if index < ANSWER {
            // With nothing in flight the host says what it knows.
            let token = |id: &u32| if ahead == 0 { Token::Id(*id) } else { Token::Previous };
            let tokens: Vec<Token> = last.iter().map(token).collect();
            submit(backend, &mut running, &tokens, Want::Sample(draw(index)));
        }
        if index > ahead as u64 {
            last = backend.collect().unwrap().tokens.to_vec();
            answers.push(last.clone());
        }
    }
    assert_eq!(answers.len() as u64, ANSWER);
    answers
}

/// The same as the host chooses it.
fn chosen_by_the_host(backend: &mut Cuda, draw: impl Fn(u64) -> Draw<'static>) -> Vec<Vec<u32>> {
    let (mut running, mut last) = begin(backend, &draw);
    let mut answers = vec![last.clone()];
    for index in 1..ANSWER {
        let tokens: Vec<Token> = last.iter().map(|id| Token::Id(*id)).collect();
        submit(backend, &mut running, &tokens, Want::Logits);
        let vocab = backend.config().vocab;
        let logits = backend.collect().unwrap().logits.chunks(vocab);
        last = logits.map(|logits| draw(index).token(logits, &mut Scratch::default()).unwrap()).collect();
        answers.push(last.clone());
    }
    answers
}

pub fn draws(sampling: Sampling, banned: &'static [u32]) -> impl Fn(u64) -> Draw<'static> {
    let sampling: &'static Sampling = Box::leak(Box::new(sampling));
    move |index| Draw { sampling, history: &[], ahead: 0, index, banned }
}

#[test]
fn the_device_chooses_what_the_host_would() {
    let hot = Sampling { temperature: 3.0, top_k: 64, top_p: 1.0, min_p: 0.0, seed: 5, ..Sampling::default() };
    for (what, sampling, banned) in [
        ("greedy", Sampling::greedy(), &[][..]),
        ("usual", Sampling { seed: 9, ..Sampling::default() }, &[]),
        ("hot", hot.clone(), &[]),
        ("top-p", Sampling { top_p: 0.3, ..hot.clone() }, &[]),
        ("min-p", Sampling { min_p: 0.6, ..hot.clone() }, &[]),
        ("one", Sampling { top_k: 1, ..hot.clone() }, &[]),
        // More than the device draws from: the host's.
        ("all", Sampling { top_k: 0, ..hot }, &[]),
    ] {
        for (name, make) in gpus() {
            let mut backend = backend(make(false), &wide(), OPTIONS);
            let draw = draws(sampling.clone(), banned);
            let expected = chosen_by_the_host(&mut backend, &draw);
            assert_eq!(answers(&mut backend, 0, &draw), expected, "{what} on the {name}");
        }
    }
}

#[test]
fn tokens_that_are_banned_are_not_chosen_on_the_device() {
    for (name, make) in gpus() {
        let mut backend = backend(make(true), &wide(), OPTIONS);
        let free = answers(&mut backend, 0, draws(Sampling::greedy(), &[]));
        let banned: &'static [u32] = Vec::leak(vec![free[3][0], free[5][1], 8999]);
        for sampling in [Sampling::greedy(), Sampling { seed: 2, ..Sampling::default() }] {
            let draw = draws(sampling, banned);
            let answers = answers(&mut backend, 2, &draw);
            assert_eq!(answers, chosen_by_the_host(&mut backend, &draw), "on the {name}");
            assert!(answers.iter().flatten().all(|id| !banned.contains(id)));
        }
    }
}

/// Greedy draws that may not choose what the step before chose: small models would repeat it for ever, and a token left where the next
/// belongs would not show.
fn restless(backend: &mut Cuda) -> impl Fn(u64) -> Draw<'static> {
    let sampling: &'static Sampling = Box::leak(Box::new(Sampling::greedy()));
    let draw = |bans: &[&'static [u32]], index: u64| Draw {
        sampling,
        history: &[],
        ahead: 0,
        index,
        banned: bans.get(index as usize).copied().unwrap_or_default(),
    };
    let mut bans: Vec<&'static [u32]> = vec![&[]];
    for index in 1..ANSWER as usize {
        let chosen = chosen_by_the_host(backend, |index| draw(&bans, index));
        bans.push(Vec::leak(chosen[index - 1].clone()));
    }
    move |index| draw(&bans, index)
}

/// The host's choices, and the same with steps in flight.
fn check_ahead(draw: impl Fn(u64) -> Draw<'static>) {
    for (name, make) in gpus() {
        let expected = chosen_by_the_host(&mut backend(make(false), &config(), OPTIONS), &draw);
        assert!(expected.windows(2).all(|two| two[0] != two[1]), "{expected:?}");
        for (graph, ahead) in [(true, 2), (false, 1)] {
            let mut backend = backend(make(false), &config(), Options { graph, ..OPTIONS });
            assert_eq!(answers(&mut backend, ahead, &draw), expected, "{name}, {ahead} ahead, graph {graph}");
        }
    }
}

#[test]
fn steps_ahead_of_the_host_change_nothing() {
    check_ahead(draws(Sampling { seed: 7, temperature: 1.5, ..Sampling::default() }, &[]));
    if let Some((_, make)) = gpus().first() {
        check_ahead(restless(&mut backend(make(false), &config(), OPTIONS)));
    }
}

#[test]
fn the_time_between_steps_is_told_from_that_of_steps() {
    for (name, make) in gpus() {
        let mut backend = backend(make(false), &config(), OPTIONS);
        answers(&mut backend, 2, draws(Sampling::greedy(), &[]));
        let time = backend.take_device_time().unwrap();
        // Begin; two layers of five kernels and four that quantize, where chunks of attention are joined by another; the head, and one that
        // quantizes for it; what tells the host.
        assert_eq!(time.launches, 1 + 2 * (5 + 4 + 1) + 2 + 1, "{name}");
        if name == "host" {
            // Its clock goes on by a microsecond when a step begins or ends; the first of the six follows none.
            assert_eq!((time.busy, time.idle), (Duration::from_micros(6), Duration::from_micros(5)));
        }
        assert!(time.idle_share().is_some_and(|share| share > 0.0 && share < 1.0), "{name}: {time:?}");
        assert_eq!(backend.take_device_time().unwrap().idle_share(), None, "it was taken");
    }
}

#[test]
fn a_step_by_itself_waits_for_those_in_flight() {
    let draw = draws(Sampling::greedy(), &[]);
    for (_, make) in gpus() {
        let mut backend = backend(make(false), &config(), OPTIONS);
        let expected = chosen_by_the_host(&mut backend, &draw);
        let (mut running, _) = begin(&mut backend, &draw);
        let previous = [Token::Previous, Token::Previous];
        submit(&mut backend, &mut running, &previous, Want::Sample(draw(1)));
        submit(&mut backend, &mut running, &previous, Want::Sample(draw(2)));
        submit(&mut backend, &mut running, &previous, Want::Logits);
        assert_eq!(backend.collect().unwrap().tokens, expected[1]);
        assert_eq!(backend.collect().unwrap().tokens, expected[2]);
        let logits = backend.collect().unwrap().logits.chunks(config().vocab);
        let tokens: Vec<u32> = logits.map(|l| draw(3).token(l, &mut Scratch::default()).unwrap()).collect();
        assert_eq!(tokens, expected[3]);
        let e = backend.collect().unwrap_err();
        assert_eq!(e.what(), "a step is collected that was not submitted");
    }
}
