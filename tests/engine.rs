//! The engine with a small random model: whatever else goes on, a request's text is the same.

#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use common::gguf_builder::GgufBuilder;
use common::tiny::{self, Random, Tiny};
use proptest::prelude::*;
use taper::Sampling;
use taper::backend::candle::{self, Candle};
use taper::backend::{Backend, Batch, Limits, MemoryUse, Out, PAGE, PageOp, Phases, StepOut};
use taper::engine::{Done, Engine, Event, Finish, Request, RequestId};
use taper::error::Kind;
use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::model::config::Config;
use taper::text::Tokenizer;

const VOCAB: usize = 61;
/// `</s>`
const END: u32 = 2;

/// The tiny vocabulary's tokenizer.
fn tokenizer() -> Tokenizer {
    let bytes = tiny::with_vocabulary(GgufBuilder::new(), VOCAB).bytes();
    Tokenizer::from_gguf(&Gguf::parse(&Mapping::from_bytes(bytes, "tiny.gguf")).unwrap().metadata, None).unwrap()
}

/// Takes steps before the ones in front of them are collected, as a GPU does.
struct Ahead {
    inner: Candle,
    given: VecDeque<Vec<u32>>,
    collected: Vec<u32>,
    /// The most steps that were in flight.
    most: Rc<Cell<usize>>,
    looks_back: bool,
}

impl Phases for Ahead {
    fn layers(&self) -> usize {
        self.inner.layers()
    }
    fn begin(&mut self, batch: &Batch<'_>) -> taper::Result<()> {
        self.inner.begin(batch)
    }
    fn qkv(&mut self, layer: usize) -> taper::Result<()> {
        self.inner.qkv(layer)
    }
    fn attend(&mut self, layer: usize) -> taper::Result<()> {
        self.inner.attend(layer)
    }
    fn attn_out(&mut self, layer: usize) -> taper::Result<()> {
        self.inner.attn_out(layer)
    }
    fn gate_up(&mut self, layer: usize) -> taper::Result<()> {
        self.inner.gate_up(layer)
    }
    fn down(&mut self, layer: usize) -> taper::Result<()> {
        self.inner.down(layer)
    }
    fn head(&mut self, out: &[Out<'_>]) -> taper::Result<()> {
        self.inner.head(out)
    }
}

impl Backend for Ahead {
    fn config(&self) -> &Config {
        self.inner.config()
    }
    fn submit(&mut self, batch: &Batch<'_>) -> taper::Result<()> {
        self.inner.submit(batch)?;
        self.given.push_back(self.inner.collect()?.tokens.to_vec());
        self.most.set(self.most.get().max(self.given.len()));
        Ok(())
    }
    fn collect(&mut self) -> taper::Result<StepOut<'_>> {
        self.collected = self.given.pop_front().unwrap();
        Ok(StepOut { tokens: &self.collected, logits: &[] })
    }
    fn in_flight(&self) -> usize {
        3
    }
    fn looks_back(&self, _: &Sampling) -> bool {
        self.looks_back
    }
    fn pages(&mut self, op: PageOp<'_>) -> taper::Result<()> {
        self.inner.pages(op)
    }
    fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }
}

/// An engine whose backend runs ahead, and how far it did; whether also where tokens depend on those in flight.
fn ahead(limits: Limits, looks_back: bool) -> (Engine, Rc<Cell<usize>>) {
    let most = Rc::new(Cell::new(0));
    let (inner, given, collected) = (judge(limits), VecDeque::new(), Vec::new());
    let backend = Ahead { inner, given, collected, most: Rc::clone(&most), looks_back };
    (Engine::new(Box::new(backend), Arc::new(tokenizer()), limits), most)
}

fn judge(limits: Limits) -> Candle {
    let tiny = Tiny::plain(tiny::config(), 42);
    let weights = tiny.weights();
    let infos: Vec<_> = weights.names().map(|n| weights.info(n).unwrap()).collect();
    Candle::load(&tiny.config, &weights, &candle::plan(&tiny.config, &infos, limits)).unwrap()
}

fn engine(limits: Limits) -> Engine {
    Engine::new(Box::new(judge(limits)), Arc::new(tokenizer()), limits)
}

fn request(seed: u64, prompt: usize, max_tokens: usize) -> Request {
    Request {
        prompt: Random(seed).ids(prompt, VOCAB),
        max_tokens: Some(max_tokens),
        sampling: Sampling { seed, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() },
        ..Request::default()
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    done: Option<Done>,
}

/// Runs everything to its end.
fn finish(engine: &mut Engine, ids: &[RequestId]) -> Vec<Answer> {
    let mut answers = vec![Answer::default(); ids.len()];
    while engine.has_unfinished() {
        for (id, event) in engine.step().unwrap() {
            take(&mut answers[ids.iter().position(|i| *i == id).unwrap()], event);
        }
    }
    answers
}

fn take(answer: &mut Answer, event: Event) {
    assert!(answer.done.is_none(), "nothing comes after the end");
    match event {
        Event::Prompt { computed, total } => assert!(computed < total),
        Event::Token { id, text } => {
            answer.tokens.push(id);
            answer.text += &text;
        }
        Event::Done(done) => answer.done = Some(done),
    }
}

fn alone(request: &Request) -> Answer {
    within(request, Limits::new(256, 1, 64))
}

/// The same in a context as long as that of `limits`.
fn within(request: &Request, limits: Limits) -> Answer {
    let mut engine = engine(Limits::new(limits.context, 1, 64));
    let id = engine.add_request(request.clone()).unwrap();
    finish(&mut engine, &[id]).remove(0)
}

fn outcome(answer: &Answer) -> (&[u32], &str, Finish) {
    (&answer.tokens, &answer.text, answer.done.as_ref().unwrap().finish)
}

#[test]
fn texts_do_not_depend_on_neighbours_or_chunks() {
    let requests: Vec<Request> = (0..7).map(|i| request(i, 3 + 9 * i as usize, 20)).collect();
    for chunk in [1, 7, 64] {
        let mut engine = engine(Limits::new(128, 4, chunk));
        let ids: Vec<_> = requests.iter().map(|r| engine.add_request(r.clone()).unwrap()).collect();
        for (request, answer) in requests.iter().zip(finish(&mut engine, &ids)) {
            assert_eq!(outcome(&answer), outcome(&alone(request)), "in chunks of {chunk}");
        }
    }
}

#[test]
fn a_preempted_request_gives_the_same_text() {
    // Three sequences grow to three pages each, in a pool of five.
    let limits = Limits { pages: 5, ..Limits::new(3 * PAGE, 3, 64) };
    let mut engine = engine(limits);
    let requests: Vec<Request> = (10..13).map(|i| Request { ignore_end: true, ..request(i, 40, 40) }).collect();
    let ids: Vec<_> = requests.iter().map(|r| engine.add_request(r.clone()).unwrap()).collect();
    let answers = finish(&mut engine, &ids);
    for (request, answer) in requests.iter().zip(answers) {
        assert_eq!(outcome(&answer), outcome(&alone(request)));
        assert_eq!(answer.tokens.len(), 40);
    }
}

#[test]
fn steps_ahead_of_the_host_change_no_text() {
    // Lengths, ends and preemption come at other steps for each.
    let limits = Limits { pages: 9, ..Limits::new(3 * PAGE, 4, 16) };
    let (mut engine, most) = ahead(limits, true);
    let mut requests: Vec<Request> = (50..57).map(|i| request(i, 2 + 7 * (i as usize - 50), 25)).collect();
    requests[2].sampling.repeat_penalty = 1.3;
    requests[3].max_tokens = None;
    requests[4].max_tokens = Some(1);
    requests[5] = Request { ignore_end: true, min_tokens: 4, ..requests[5].clone() };
    let ids: Vec<_> = requests.iter().map(|r| engine.add_request(r.clone()).unwrap()).collect();
    for (request, answer) in requests.iter().zip(finish(&mut engine, &ids)) {
        assert_eq!(outcome(&answer), outcome(&within(request, limits)));
    }
    assert_eq!(most.get(), 3);
    // Whoever uses the backend next finds nothing of theirs in it.
    let id = engine.add_request(request(60, 5, 20)).unwrap();
    (0..3).for_each(|_| drop(engine.step().unwrap()));
    engine.abort(id, Finish::Interrupted);
    engine.backend();
    let id = engine.add_request(request(61, 5, 20)).unwrap();
    let answer = finish(&mut engine, &[id]).remove(0);
    assert_eq!(outcome(&answer), outcome(&within(&request(61, 5, 20), limits)));
}

#[test]
fn what_looks_back_at_the_answer_is_run_ahead_of_where_the_backend_knows_it() {
    let limits = Limits::new(3 * PAGE, 1, 16);
    for (looks_back, in_flight) in [(false, 1), (true, 3)] {
        let (mut engine, most) = ahead(limits, looks_back);
        let mut penalized = request(70, 5, 20);
        (penalized.sampling.repeat_penalty, penalized.sampling.repeat_last) = (1.5, 4);
        let id = engine.add_request(penalized.clone()).unwrap();
        let answer = finish(&mut engine, &[id]).remove(0);
        assert_eq!(outcome(&answer), outcome(&within(&penalized, limits)));
        assert_eq!(most.get(), in_flight);
    }
}

#[test]
fn a_known_beginning_is_not_computed_again_and_changes_nothing() {
    let mut engine = engine(Limits::new(256, 1, 64));
    let first = request(20, 100, 10);
    let mut second = first.clone();
    second.prompt.extend([5, 6, 7]);
    let id = engine.add_request(first).unwrap();
    let cold = finish(&mut engine, &[id]).remove(0);
    assert_eq!(cold.done.unwrap().cached_tokens, 0);
    let id = engine.add_request(second.clone()).unwrap();
    let warm = finish(&mut engine, &[id]).remove(0);
    assert_eq!(outcome(&warm), outcome(&alone(&second)));
    assert_eq!(warm.done.unwrap().cached_tokens, 100 / PAGE * PAGE);
}

#[test]
fn an_aborted_request_ends_at_once_and_gives_its_pages_back() {
    let mut engine = engine(Limits::new(96, 1, 16));
    for _ in 0..5 {
        let id = engine.add_request(request(30, 60, 30)).unwrap();
        assert!(matches!(engine.step().unwrap()[..], [(_, Event::Prompt { computed: 16, total: 60 })] | []));
        let events = engine.abort(id, Finish::Interrupted);
        assert!(matches!(&events[..], [Event::Done(d)] if d.finish == Finish::Interrupted && d.generated_tokens == 0));
        assert!(!engine.has_unfinished());
        assert!(engine.abort(id, Finish::Interrupted).is_empty());
    }
}

#[test]
fn end_tokens_end_the_answer_and_are_no_part_of_it() {
    // Bias makes the end token certain.
    let mut ends = request(40, 5, 20);
    ends.sampling.logit_bias = vec![(END, 100.0)];
    let answer = alone(&ends);
    assert_eq!(outcome(&answer), (&[][..], "", Finish::Stop));
    assert_eq!(answer.done.unwrap().generated_tokens, 0);

    let least = alone(&Request { min_tokens: 4, ..ends.clone() });
    assert_eq!((least.tokens.len(), least.done.unwrap().finish), (4, Finish::Stop));

    let on = alone(&Request { ignore_end: true, ..ends });
    assert_eq!((on.tokens.len(), on.done.unwrap().finish), (20, Finish::Length));
}

#[test]
fn a_full_context_ends_the_answer_and_a_longer_prompt_is_refused() {
    let mut engine = engine(Limits::new(50, 2, 64));
    let id = engine.add_request(Request { ignore_end: true, max_tokens: None, ..request(50, 45, 0) }).unwrap();
    let answer = finish(&mut engine, &[id]).remove(0);
    assert_eq!((answer.tokens.len(), answer.done.unwrap().finish), (5, Finish::Length));

    let e = engine.add_request(request(50, 50, 1)).unwrap_err();
    assert_eq!(e.kind(), Kind::Memory);
    assert_eq!(e.what(), "the prompt has 50 tokens; the context holds 50 and the answer needs at least one");
    assert_eq!(engine.add_request(request(50, 0, 1)).unwrap_err().what(), "the prompt is empty");
    let nan = Request { sampling: Sampling { top_p: f32::NAN, ..Sampling::default() }, ..request(50, 5, 1) };
    assert_eq!(engine.add_request(nan).unwrap_err().what(), "--top-p is NaN; 0 to 1 is possible");
    assert!(!engine.has_unfinished());
}

#[test]
fn a_failing_step_can_be_aborted_and_the_engine_goes_on() {
    let mut engine = engine(Limits::new(64, 1, 64));
    let id = engine.add_request(Request { prompt: vec![1, VOCAB as u32], ..request(60, 0, 1) }).unwrap();
    let e = engine.step().unwrap_err();
    assert_eq!(e.what(), "token 61 is outside the model's vocabulary of 61 tokens");
    engine.abort(id, Finish::Error);
    let good = request(61, 5, 5);
    let id = engine.add_request(good.clone()).unwrap();
    assert_eq!(outcome(&finish(&mut engine, &[id])[0]), outcome(&alone(&good)));
}

#[test]
fn scoring_gives_the_logits_of_every_position_asked_for() {
    let ids = Random(70).ids(50, VOCAB);
    let mut whole = Vec::new();
    engine(Limits::new(64, 1, 64))
        .score(&ids, 0, |pos, logits| {
            assert_eq!((pos, logits.len()), (whole.len(), VOCAB));
            whole.push(logits.to_vec());
            Ok(())
        })
        .unwrap();
    assert_eq!(whole.len(), 50);
    let mut seen = 20;
    engine(Limits::new(64, 1, 7))
        .score(&ids, 20, |pos, logits| {
            assert_eq!(pos, seen);
            assert!(common::max_relative(&whole[pos], logits) < 1e-4);
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 50);
    let e = engine(Limits::new(49, 1, 7)).score(&ids, 0, |_, _| Ok(())).unwrap_err();
    assert_eq!(e.what(), "the text has 50 tokens; the context holds 49");
}

/// 1,000 steps, or 10,000 under `make soak`: requests come and go, some aborted, in a pool too small for all.
#[test]
fn many_steps_leak_no_page() {
    let steps = if std::env::var_os("TAPER_SOAK").is_some() { 10_000 } else { 1_000 };
    let limits = Limits { pages: 4, ..Limits::new(4 * PAGE, 3, 16) };
    let mut engine = engine(limits);
    let mut random = Random(1);
    let mut running = Vec::new();
    for step in 0..steps {
        if running.len() < 4 {
            let (prompt, most) = (1 + random.next() as usize % 90, 1 + random.next() as usize % 30);
            running.push(engine.add_request(request(step, prompt, most)).unwrap());
        }
        for (id, event) in engine.step().unwrap() {
            if matches!(event, Event::Done(_)) {
                running.retain(|r| *r != id);
            }
        }
        if random.next().is_multiple_of(50) && !running.is_empty() {
            engine.abort(running.remove(0), Finish::Interrupted);
        }
    }
    for id in running {
        engine.abort(id, Finish::Interrupted);
    }
    // One that needs every page.
    let whole = Request { ignore_end: true, max_tokens: None, ..request(1, 4 * PAGE - 2, 0) };
    let id = engine.add_request(whole).unwrap();
    assert_eq!(finish(&mut engine, &[id])[0].tokens.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("TAPER_SOAK").is_some() { 200 } else { 20 }))]
    /// Requests that come, go and are aborted at any step never disturb one another.
    #[test]
    fn any_mix_of_requests_gives_each_its_own_text(
        sizes in prop::collection::vec((1usize..60, 1usize..30, 0usize..12, any::<bool>()), 1..7),
        (sequences, chunk, pages) in (1usize..4, 1usize..70, 3usize..9),
    ) {
        let mut engine = engine(Limits { pages, ..Limits::new(96, sequences, chunk) });
        let mut waiting: Vec<(usize, Request, bool)> = sizes
            .iter()
            .zip(80..)
            .map(|(&(prompt, most, at, abort), seed)| (at, request(seed, prompt, most), abort))
            .collect();
        let mut running: Vec<(RequestId, Request, bool, Answer)> = Vec::new();
        for step in 0.. {
            for (_, request, abort) in waiting.extract_if(.., |(at, _, _)| *at <= step) {
                running.push((engine.add_request(request.clone()).unwrap(), request, abort, Answer::default()));
            }
            for (id, event) in engine.step().unwrap() {
                take(&mut running.iter_mut().find(|r| r.0 == id).unwrap().3, event);
            }
            if step == 14 {
                for (id, _, _, answer) in running.iter_mut().filter(|r| r.2) {
                    engine.abort(*id, Finish::Interrupted).into_iter().for_each(|e| take(answer, e));
                }
            }
            if waiting.is_empty() && !engine.has_unfinished() {
                break;
            }
            prop_assert!(step < 5000, "the engine stands still");
        }
        for (_, request, _, answer) in &running {
            let expected = alone(request);
            if answer.done.as_ref().unwrap().finish == Finish::Interrupted {
                prop_assert!(expected.tokens.starts_with(&answer.tokens));
            } else {
                prop_assert_eq!(outcome(answer), outcome(&expected));
            }
        }
    }
}
