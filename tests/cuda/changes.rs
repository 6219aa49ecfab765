//! Biases and penalties on the device: the tokens that the host's chain gives, although the host does not know yet what they look back at.

use std::collections::VecDeque;
use std::time::Duration;

use super::ahead::{OPTIONS, backend, wide};
use super::common::runner::{Pool, Running, with_wants};
use super::common::tiny::Random;
use super::emulator::{alone, function, kernels};
use super::{LIMITS, config, gpus};
use taper::backend::cuda::{Cuda, Options};
use taper::backend::{Backend, Token, Want};
use taper::model::config::Config;
use taper::sample::{Draw, Sampling, Scratch};

const PROMPT: usize = 20;

/// What one sequence asks for.
#[derive(Clone, Default)]
struct Wish {
    sampling: Sampling,
    banned: Vec<u32>,
    /// Tokens of its answer.
    answer: usize,
    /// The turn from which on it is there.
    joins: usize,
}

fn wish(answer: usize, sampling: Sampling) -> Wish {
    Wish { sampling, answer, ..Wish::default() }
}

struct Sequence<'a> {
    wish: &'a Wish,
    running: Option<Running>,
    /// Prompt and answer, as far as the host knows them.
    tokens: Vec<u32>,
    /// How many tokens there are, with those of steps in flight.
    submitted: usize,
}

impl Sequence<'_> {
    fn rows(&self) -> Vec<Token> {
        if self.submitted == PROMPT {
            return self.tokens.iter().copied().map(Token::Id).collect();
        }
        vec![self.tokens.get(self.submitted - 1).copied().map_or(Token::Previous, Token::Id)]
    }

    fn draw(&self) -> Draw<'_> {
        Draw {
            sampling: &self.wish.sampling,
            history: &self.tokens,
            ahead: self.submitted - self.tokens.len(),
            index: (self.submitted - PROMPT) as u64,
            banned: &self.wish.banned,
        }
    }
}

/// Who chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// The test, from the backend's logits.
    Test,
    /// The backend, with so many steps in flight behind the one that is collected next.
    Backend { ahead: usize },
}

/// Several sequences' answers. They join and leave, and have other rows in each step.
fn answers(backend: &mut Cuda, wishes: &[Wish], by: By) -> Vec<Vec<u32>> {
    let mut pool = Pool::new(LIMITS.pages);
    let begin = |(wish, seed)| Sequence {
        wish,
        running: Some(pool.sequence(PROMPT + wish.answer)),
        tokens: Random(seed).ids(PROMPT, backend.config().vocab),
        submitted: PROMPT,
    };
    let mut all: Vec<Sequence<'_>> = wishes.iter().zip(3..).map(begin).collect();
    let mut flights = VecDeque::new();
    let most = if let By::Backend { ahead } = by { ahead } else { 0 };
    for turn in 0.. {
        let is_going = |i: &usize| all[*i].submitted < PROMPT + all[*i].wish.answer;
        let mut going: Vec<usize> = (0..all.len()).filter(is_going).collect();
        if going.is_empty() {
            break;
        }
        going.retain(|i| all[*i].wish.joins <= turn);
        let (beginners, mut rest): (Vec<usize>, Vec<usize>) = going.iter().partition(|i| all[**i].submitted == PROMPT);
        let shift = turn % rest.len().max(1);
        rest.rotate_left(shift);
        for group in beginners.into_iter().map(|i| vec![i]).chain([rest]).filter(|group| !group.is_empty()) {
            submit(backend, &mut all, &group, by);
            flights.push_back(group);
            while flights.len() > most {
                collect(backend, &mut all, &flights.pop_front().unwrap(), by);
            }
        }
    }
    for group in flights {
        collect(backend, &mut all, &group, by);
    }
    all.into_iter().map(|sequence| sequence.tokens[PROMPT..].to_vec()).collect()
}

fn submit(backend: &mut Cuda, all: &mut [Sequence<'_>], group: &[usize], by: By) {
    let mut running: Vec<Running> = group.iter().map(|i| all[*i].running.take().unwrap()).collect();
    let rows: Vec<Vec<Token>> = group.iter().map(|i| all[*i].rows()).collect();
    let mut parts: Vec<_> = running.iter_mut().zip(&rows).map(|(running, rows)| (running, rows.as_slice())).collect();
    let want = |part: usize| if by == By::Test { Want::Logits } else { Want::Sample(all[group[part]].draw()) };
    with_wants(&mut parts, want, |batch| backend.submit(batch).unwrap());
    for (i, running) in group.iter().zip(running) {
        all[*i].running = Some(running);
        all[*i].submitted += usize::from(by != By::Test);
    }
}

fn collect(backend: &mut Cuda, all: &mut [Sequence<'_>], group: &[usize], by: By) {
    let vocab = backend.config().vocab;
    let out = backend.collect().unwrap();
    let mut rows = out.logits.chunks(vocab);
    let mut drawn = out.tokens.iter().copied();
    for i in group {
        let sequence = &mut all[*i];
        let token = if by == By::Test {
            let token = sequence.draw().token(rows.next().unwrap(), &mut Scratch::default()).unwrap();
            sequence.submitted += 1;
            token
        } else {
            drawn.next().unwrap()
        };
        sequence.tokens.push(token);
    }
}

/// The backend's answers are the test's. On the device, where it takes them, steps follow each other without the host.
fn check(what: &str, config: &Config, wishes: &[Wish], is_devices: bool) {
    for (name, make) in gpus() {
        let expected = answers(&mut backend(make(false), config, OPTIONS), wishes, By::Test);
        for (backwards, graph, ahead) in [(false, true, 2), (true, true, 0), (true, false, 1)] {
            let mut backend = backend(make(backwards), config, Options { graph, ..OPTIONS });
            let got = answers(&mut backend, wishes, By::Backend { ahead });
            assert_eq!(got, expected, "{what} on the {name}, {ahead} ahead, graph {graph}");
            let time = backend.take_device_time().unwrap();
            assert_eq!(time.busy > Duration::ZERO, is_devices, "{what} on the {name}: who chose");
            assert_eq!(time.idle > Duration::ZERO, is_devices && ahead > 0, "{what} on the {name}, {ahead} ahead");
        }
    }
}

fn greedy(change: impl Fn(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling::greedy();
    change(&mut sampling);
    sampling
}

fn hot(seed: u64, change: impl Fn(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling { temperature: 1.5, seed, ..Sampling::default() };
    change(&mut sampling);
    sampling
}

/// A penalty that forbids what came, all of them together with biases and bans, none, and what Ollama does by default.
fn usual() -> [Wish; 4] {
    let all = hot(8, |s| {
        (s.repeat_penalty, s.frequency_penalty, s.presence_penalty, s.repeat_last) = (1.2, 0.7, 0.3, 5);
        s.logit_bias = vec![(7, f32::NEG_INFINITY), (9, 2.0), (11, -0.5)];
    });
    [
        wish(24, greedy(|s| s.presence_penalty = 50.0)),
        Wish { banned: vec![3, 20], ..wish(20, all) },
        Wish { joins: 3, ..wish(9, Sampling::greedy()) },
        Wish { joins: 13, ..wish(12, hot(3, |s| s.repeat_penalty = 1.1)) },
    ]
}

#[test]
fn penalties_look_back_at_tokens_that_the_host_does_not_know_yet() {
    let wishes = usual();
    check("the usual", &config(), &wishes, true);
    let Some((_, make)) = gpus().into_iter().next() else { return };
    let free = |w: Wish| {
        let Sampling { temperature, seed, .. } = w.sampling;
        Wish { sampling: Sampling { temperature, seed, ..Sampling::default() }, ..w }
    };
    let free = wishes.clone().map(free);
    let [with, without] =
        [&wishes, &free].map(|wishes| answers(&mut backend(make(false), &config(), OPTIONS), wishes, By::Test));
    let differ = with.iter().zip(&without).map(|(with, without)| with != without);
    assert_eq!(differ.collect::<Vec<_>>(), [true, true, false, true], "{with:?} and {without:?}");
}

#[test]
fn short_windows_and_repeated_biases_give_the_hosts_tokens() {
    let mixed = hot(4, |s| {
        (s.repeat_penalty, s.frequency_penalty, s.repeat_last) = (1.3, -0.4, 256);
        s.logit_bias = vec![(5, 1.5), (12, -0.3), (5, -0.7), (60, 3.0), (5, 0.1)];
    });
    let wishes = [
        // Without penalties; one id has several.
        wish(6, greedy(|s| s.logit_bias = vec![(5, 1.5), (8, f32::NEG_INFINITY), (5, -0.3), (12, 0.7)])),
        wish(16, mixed),
        // Both tokens of the window are in flight.
        Wish { banned: vec![1], ..wish(14, greedy(|s| (s.presence_penalty, s.repeat_last) = (50.0, 2))) },
        Wish { joins: 8, ..wish(9, greedy(|s| (s.frequency_penalty, s.repeat_last) = (50.0, 1))) },
    ];
    check("short windows", &config(), &wishes, true);
    // Nothing to look at is no change.
    check("no window", &config(), &[wish(5, greedy(|s| (s.repeat_penalty, s.repeat_last) = (1.5, 0)))], true);
}

#[test]
fn logits_of_every_slice_are_changed() {
    let likely = [5, 4096, 8191, 8192, 9000];
    let biases: Vec<(u32, f32)> = likely.iter().map(|id| (*id, 20.0)).collect();
    let wishes = [
        wish(7, greedy(|s| (s.logit_bias, s.repeat_penalty) = (biases.clone(), 3.0))),
        wish(5, hot(2, |s| (s.logit_bias, s.presence_penalty) = (biases.clone(), 4.0))),
    ];
    check("slices", &wide(), &wishes, true);
    let Some((_, make)) = gpus().into_iter().next() else { return };
    let mut first = answers(&mut backend(make(false), &wide(), OPTIONS), &wishes, By::Test).remove(0);
    first.truncate(5);
    first.sort_unstable();
    assert_eq!(first, likely, "each once");
}

#[test]
fn what_is_too_much_for_the_device_is_the_hosts_and_right_with_steps_in_flight() {
    let biases = |count: u32| -> Vec<(u32, f32)> { (0..count).map(|i| (i % 61, 0.1 * (i % 7) as f32)).collect() };
    let with = |last: usize, count: u32| {
        hot(6, |s| (s.repeat_penalty, s.repeat_last, s.logit_bias) = (1.3, last, biases(count)))
    };
    for (what, sampling, is_devices) in [
        ("as much as there is room for", with(256, 64), true),
        ("a long window", with(257, 1), false),
        ("many biases", with(16, 65), false),
        ("all of the vocabulary", Sampling { top_k: 0, ..with(3, 0) }, false),
    ] {
        let neighbour = wish(9, greedy(|s| s.frequency_penalty = 50.0));
        check(what, &config(), &[wish(9, sampling.clone()), neighbour], is_devices);
        for (_, make) in gpus() {
            assert_eq!(backend(make(false), &config(), OPTIONS).looks_back(&sampling), is_devices, "{what}");
        }
    }
    // The host's comes and goes beside one that the device goes on with.
    let device = wish(20, greedy(|s| s.frequency_penalty = 50.0));
    check("by turns", &config(), &[device, Wish { joins: 5, ..wish(6, with(257, 1)) }], true);
}

#[test]
#[expect(unsafe_code, reason = "the kernel is C++")]
fn changed_logits_are_the_hosts_to_the_last_bit() {
    type Change = unsafe extern "C" fn(*const u32, *const u32, *mut f32, u32, i32);
    let Some(library) = kernels() else { return };
    let _alone = alone();
    let change = function::<Change>(library, "taper_host_change");
    let (vocab, mut random) = (500, Random(11));
    for backwards in [0, 1] {
        let own: Vec<f32> = random.values(vocab).iter().map(|x| 20.0 * x).collect();
        let recent: Vec<u32> = random.ids(200, 150);
        let ids = random.ids(64, 100);
        let biases: Vec<f32> = random.values(64).iter().map(|x| 5.0 * x).collect();
        let [repeat, frequency, presence] = [1.1f32, 0.37, -0.21];
        let mut expected = own.clone();
        ids.iter().zip(&biases).for_each(|(id, bias)| expected[*id as usize] += bias);
        for id in 0..150 {
            let count = recent.iter().filter(|recent| **recent == id).count();
            let x = expected[id as usize];
            let x = if x > 0.0 { x / repeat } else { x * repeat };
            if count > 0 {
                expected[id as usize] = x - (count as f32 * frequency + presence);
            }
        }
        // The last three are in flight.
        let mut words = [repeat, frequency, presence].map(f32::to_bits).to_vec();
        words.extend([200, 64, 0, 0, 0]);
        words.extend(recent[..197].iter().copied().chain((0..3).map(|place| 1 << 31 | place)));
        words.resize(8 + 256, 0);
        words.extend(ids.iter().copied().chain(biases.iter().map(|bias| bias.to_bits())));
        let mut got = own.clone();
        // SAFETY: as much as the kernel has of each.
        unsafe { change(words.as_ptr(), recent[197..].as_ptr(), got.as_mut_ptr(), vocab as u32, backwards) };
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&expected));
        assert_ne!(bits(&got), bits(&own));
    }
}
