//! Tokens a second of models of known shapes with random weights, alone and for several sequences at once.

use std::time::Instant;

use taper::backend::choose::Compute;
use taper::engine::{Engine, Event, Request};
use taper::sample::Sampling;
use taper::stats::Spread;
use taper::{Result, Taper};

use crate::{Finding, load};

const REPETITIONS: usize = 5;
/// A prompt's tokens, an answer's, and the depth at which it is measured too.
const PROMPT: usize = 512;
const ANSWER: usize = 128;
const DEPTH: usize = 4096;
const MODELS: [&str; 9] = [
    "synth:smollm2-135m",
    "synth:tinyllama-1.1b",
    "synth:tinyllama-1.1b:q4_1",
    "synth:tinyllama-1.1b:q4_k_m",
    "synth:tinyllama-1.1b:q8_0",
    "synth:tinyllama-1.1b:f16",
    "synth:llama-3.2-1b",
    "synth:llama-3.2-3b",
    "synth:llama-3.1-8b",
];
/// At the same time.
const SEQUENCES: [usize; 6] = [1, 2, 4, 8, 16, 32];

pub fn check(tell: &mut dyn FnMut(Finding)) -> Result<()> {
    let mut note = |what: String, found: String| tell(Finding { what, found, bound: String::new(), is_right: true });
    let median = |rates: &[f64]| Spread::of(rates).map_or_else(String::new, |rate| format!("{:.0} t/s", rate.median));
    for model in MODELS {
        let start = Instant::now();
        let mut taper = load(model, DEPTH + ANSWER + 64, 1, chunk())?;
        note(format!("{model}, made and loaded"), format!("{:.2} s", start.elapsed().as_secs_f64()));
        for (name, depth, prompt, answer) in [
            (format!("pp{PROMPT}"), 0, PROMPT, 1),
            (format!("tg{ANSWER}"), 0, 1, ANSWER),
            (format!("tg{ANSWER} @ d{DEPTH}"), DEPTH, 0, ANSWER),
        ] {
            let rates = (0..=REPETITIONS).map(|i| once(&mut taper, depth, prompt, answer, i as u32));
            let rates = rates.collect::<Result<Vec<f64>>>()?;
            note(format!("{model}, {name}"), median(&rates[1..]));
        }
    }
    let mut taper = load("synth:tinyllama-1.1b", 512, 32, chunk())?;
    for sequences in SEQUENCES {
        let rates = (0..=REPETITIONS).map(|_| several(taper.engine(), sequences)).collect::<Result<Vec<f64>>>()?;
        note(format!("synth:tinyllama-1.1b, tg{ANSWER} of {sequences} sequences together"), median(&rates[1..]));
    }
    Ok(())
}

fn chunk() -> Compute {
    Compute { chunk: Some(512), ..Compute::default() }
}

fn request(prompt: Vec<u32>, answer: usize) -> Request {
    let sampling = Sampling::greedy();
    Request { prompt, max_tokens: Some(answer), ignore_end: true, sampling, ..Request::default() }
}

/// `n` tokens spread over the vocabulary.
fn tokens(n: usize, series: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7919 + series * 104_729 + 1) % 32_000).collect()
}

/// Tokens a second of a prompt, or of an answer behind `depth` tokens.
fn once(taper: &mut Taper, depth: usize, prompt: usize, answer: usize, series: u32) -> Result<f64> {
    let mut ids = tokens(depth, 0);
    ids.extend(tokens(prompt, series + 1));
    let engine = taper.engine();
    engine.add_request(request(ids, answer + usize::from(depth > 0)))?;
    loop {
        for (_, event) in engine.step()? {
            let Event::Done(done) = event else { continue };
            return Ok(match (depth, answer) {
                (0, 1) => prompt as f64 / done.prompt_seconds,
                (0, n) => n as f64 / (done.prompt_seconds + done.generation_seconds),
                // The prompt's step gives the first token.
                (_, n) => n as f64 / done.generation_seconds,
            });
        }
    }
}

/// Tokens a second of all answers together.
fn several(engine: &mut Engine, sequences: usize) -> Result<f64> {
    for i in 0..sequences {
        engine.add_request(request(tokens(4, i as u32), ANSWER))?;
    }
    // Their prompts are read in one step.
    engine.step()?;
    let (start, mut count) = (Instant::now(), 0);
    while engine.has_unfinished() {
        let events = engine.step()?;
        count += events.iter().filter(|(_, event)| matches!(event, Event::Token { .. })).count();
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
