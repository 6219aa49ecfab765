//! `--bench`: prompt and generation speed, measured as llama-bench does, with a check that the answer is right.
//!
//! pp N is a prompt of N random tokens, tg N is N tokens generated one by one; tokenizing is no part of either. `@ dD` is the
//! same after D tokens, whose own prefill is not measured. Each row has one warm-up. Gigabytes are those a step must read
//! ([`crate::stats::traffic`]); the bandwidth that they are a share of is measured in the same run. The hash is of the first
//! greedy tokens of a fixed prompt: a backend that is fast and wrong has another one.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use super::Session;
use super::divergence::{self, Reference};
use crate::cli::Cli;
use crate::config::{self, Dirs};
use crate::engine::{Done, Engine, Event, Request};
use crate::error::{Error, Result};
use crate::sample::Sampling;
use crate::stats::divergence::Divergence;
use crate::stats::{Spread, bandwidth};
use crate::taper::{Options, Taper};

mod prompts;
mod report;

use report::{Report, Row};

const DEFAULT_PROMPT: usize = 512;
const DEFAULT_PREDICT: usize = 128;
/// Rows of a step, as llama-bench's micro-batch.
const CHUNK: usize = 512;

/// Its smallest gap between the likeliest two tokens is 3.5 logits on SmolLM2, so every right backend continues it alike.
const CHECK_PROMPT: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,";
const CHECK_TOKENS: usize = 16;
/// Enough for both.
const CHECK_CONTEXT: usize = 64;

/// One row of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Test {
    what: What,
    /// How many tokens.
    tokens: usize,
    /// After how many others.
    depth: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Prompt,
    Generate,
}

impl Test {
    /// As llama-bench writes it.
    fn name(self) -> String {
        let what = match self.what {
            What::Prompt => "pp",
            What::Generate => "tg",
        };
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        format!("{what}{}{depth}", self.tokens)
    }

    /// Tokens of context that it takes, with the one that every prompt is followed by.
    fn context(self) -> usize {
        self.depth + self.tokens + 1
    }
}

pub(super) fn run(cli: &Cli, session: &Session) -> Result<()> {
    if cli.bench.prompts {
        return prompts::run(cli, session);
    }
    let tests = tests(cli)?;
    let check = if cli.bench.check { divergence::TEXT.len() } else { CHECK_CONTEXT };
    let context = tests.iter().map(|t| t.context()).fold(check, usize::max);
    let bandwidth = measure_bandwidth(session);
    let mut taper = session.load_to_measure(context, CHUNK)?;
    check_context(&tests, taper.context())?;
    let hash = output_hash(&mut taper)?;
    let divergence = if cli.bench.check { Some(divergence(session, &mut taper)?) } else { None };
    let mut rows = Vec::new();
    for test in tests {
        tracing::info!("measuring {}", test.name());
        taper.engine().backend().take_device_time();
        let rates = measure(taper.engine(), test, usize::from(cli.bench.repetitions))?;
        if let Some(time) = taper.engine().backend().take_device_time()
            && let Some(idle) = time.idle_share()
        {
            tracing::info!(
                "{}: {} launches a step, the GPU idle for {:.1} %",
                test.name(),
                time.launches,
                100.0 * idle
            );
        }
        rows.extend(Spread::of(&rates).map(|rate| Row { test, rate }));
    }
    let bandwidth = taper.choice().is_on_host().then_some(bandwidth);
    Report { taper: &taper, threads: session.threads, bandwidth, hash, divergence }.print(cli.bench.output, &rows)
}

/// The memory's bandwidth now, kept for the line after a chat's answer.
fn measure_bandwidth(session: &Session) -> f64 {
    let rate = bandwidth::measure(session.threads);
    tracing::info!("{} threads read {:.1} GB/s from memory", session.threads, rate / 1e9);
    bandwidth::remember(&Dirs::from_env(config::process_env), session.threads, rate);
    rate
}

fn tests(cli: &Cli) -> Result<Vec<Test>> {
    let prompts = match &cli.prompt.prompt {
        None => vec![DEFAULT_PROMPT],
        Some(list) => lengths("-p", list.split(',').map(|n| n.trim().parse().ok()))?,
    };
    let predicts = predicts(cli, &[DEFAULT_PREDICT])?;
    // As in llama-bench, a length of 0 leaves the test out.
    let mut all = Vec::new();
    for &depth in &cli.bench.depth {
        let row = |what: What| move |tokens: &usize| Test { what, tokens: *tokens, depth: depth as usize };
        all.extend(prompts.iter().filter(|n| **n > 0).map(row(What::Prompt)));
        all.extend(predicts.iter().filter(|n| **n > 0).map(row(What::Generate)));
    }
    if all.is_empty() {
        return Err(Error::usage("-p 0 -n 0 leaves nothing to measure"));
    }
    Ok(all)
}

/// The lengths of `-n`, or `default`.
fn predicts(cli: &Cli, default: &[usize]) -> Result<Vec<usize>> {
    match cli.prompt.predict.as_slice() {
        [] => Ok(default.to_vec()),
        list => lengths("-n", list.iter().map(|n| usize::try_from(*n).ok())),
    }
}

fn lengths(flag: &str, list: impl Iterator<Item = Option<usize>>) -> Result<Vec<usize>> {
    // The bound keeps sums of lengths from wrapping; no context is near it.
    list.map(|n| n.filter(|n| *n < 1 << 32)).collect::<Option<Vec<usize>>>().ok_or_else(|| {
        Error::usage(format!("under --bench, {flag} takes lengths in tokens"))
            .help(format!("for example {flag} 128,512"))
    })
}

/// A context that the user named may be too short for a test.
fn check_context(tests: &[Test], context: usize) -> Result<()> {
    match tests.iter().find(|test| test.context() > context) {
        None => Ok(()),
        Some(test) => {
            Err(Error::memory(format!("{} needs a context of {} tokens; it is {context}", test.name(), test.context()))
                .help("leave --ctx-size out, and the benchmark takes what it needs"))
        }
    }
}

/// Tokens a second of each repetition, after a warm-up.
fn measure(engine: &mut Engine, test: Test, repetitions: usize) -> Result<Vec<f64>> {
    let rates = (0..=repetitions).map(|repetition| once(engine, test, repetition as u32));
    Ok(rates.collect::<Result<Vec<f64>>>()?.split_off(1))
}

/// Runs a test once: its tokens a second.
fn once(engine: &mut Engine, test: Test, repetition: u32) -> Result<f64> {
    // All repetitions go on from the same tokens, which the first leaves in the prefix cache.
    let mut prompt = tokens(engine, test.depth, 0);
    match test.what {
        What::Prompt => {
            if test.depth > 0 {
                generate(engine, prompt.clone(), 1)?;
            }
            // Then tokens of its own, so that it finds no more of its prefix there.
            prompt.extend(tokens(engine, test.tokens, repetition + 1));
            let done = generate(engine, prompt, 1)?;
            // Pages are shared whole: up to 31 tokens before the prompt are computed and counted with it.
            Ok((done.prompt_tokens - done.cached_tokens) as f64 / done.prompt_seconds)
        }
        What::Generate if test.depth == 0 => {
            let done = generate(engine, tokens(engine, 1, repetition + 1), test.tokens)?;
            Ok(test.tokens as f64 / (done.prompt_seconds + done.generation_seconds))
        }
        What::Generate => {
            // The prompt's step gives the first token; the test's come after it.
            let done = generate(engine, prompt, test.tokens + 1)?;
            Ok(test.tokens as f64 / done.generation_seconds)
        }
    }
}

/// `n` tokens spread over the vocabulary, others for each `series`.
fn tokens(engine: &Engine, n: usize, series: u32) -> Vec<u32> {
    let vocab = engine.tokenizer().vocab_len() as u32;
    // A step that shares no factor with common vocabulary sizes walks over all of it.
    let start = series.wrapping_mul(104_729).wrapping_add(1);
    (0..n as u32).map(|i| i.wrapping_mul(7919).wrapping_add(start) % vocab).collect()
}

/// Generates exactly `n` tokens after `prompt`.
fn generate(engine: &mut Engine, prompt: Vec<u32>, n: usize) -> Result<Done> {
    engine.add_request(Request {
        prompt,
        max_tokens: Some(n),
        ignore_end: true,
        sampling: Sampling::greedy(),
        ..Request::default()
    })?;
    loop {
        for (_, event) in engine.step()? {
            if let Event::Done(done) = event {
                return Ok(done);
            }
        }
    }
}

/// How far the backend is from the reference, which is gone again before anything is timed.
fn divergence(session: &Session, taper: &mut Taper) -> Result<Divergence> {
    let mut reference = Reference::load(session, divergence::TEXT.len(), CHUNK)?;
    divergence::of_text(taper, &mut reference)?;
    Ok(reference.divergence())
}

/// The first 16 hex digits of the SHA-256 of the check prompt's greedy ids (little-endian, 32 bits each).
fn output_hash(taper: &mut Taper) -> Result<String> {
    let options =
        Options { max_tokens: Some(CHECK_TOKENS), sampling: Sampling::greedy(), raw: true, ..Options::default() };
    let answer = taper.stream(CHECK_PROMPT, &options, |_| ControlFlow::Continue(()))?;
    let mut hash = Sha256::new();
    for id in &answer.tokens {
        hash.update(id.to_le_bytes());
    }
    let first = hash.finalize().iter().take(8).fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    Ok(format!("{first:016x}"))
}
