//! `--bench`: prompt and generation speed, measured as llama-bench does, with a check that the answer is right.
//!
//! pp N is a prompt of N random tokens, tg N is N tokens generated one by one; tokenizing and sampling text are no part of
//! either. Each row has one warm-up. Gigabytes are those a step must read: the weights in the file's own encoding (of the
//! embedding only one row) and the keys and values before it. The hash is of the first greedy tokens of a fixed prompt: a
//! backend that is fast and wrong has another one.

use std::ops::ControlFlow;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Session;
use crate::cli::{Cli, Format};
use crate::engine::fit::human_bytes;
use crate::engine::{Done, Engine, Event, Request};
use crate::error::{Error, Result};
use crate::model::open::OpenModel;
use crate::model::tensors::{EMBEDDING, OUTPUT};
use crate::sample::Sampling;
use crate::stats::{self, Spread};
use crate::taper::{Options, Taper};
use crate::terminal::render::Answer;

const DEFAULT_PROMPT: usize = 512;
const DEFAULT_PREDICT: usize = 128;

/// Its smallest gap between the likeliest two tokens is 3.5 logits on SmolLM2, so every right backend continues it alike.
const CHECK_PROMPT: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,";
const CHECK_TOKENS: usize = 16;
/// Enough for both.
const CHECK_CONTEXT: usize = 64;

/// One row of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Prompt(usize),
    Generate(usize),
}

impl Test {
    fn name(self) -> String {
        match self {
            Self::Prompt(n) => format!("pp{n}"),
            Self::Generate(n) => format!("tg{n}"),
        }
    }

    fn tokens(self) -> usize {
        match self {
            Self::Prompt(n) | Self::Generate(n) => n,
        }
    }
}

pub(super) fn run(cli: &Cli, session: &Session) -> Result<()> {
    let tests = tests(cli)?;
    let longest = tests.iter().map(|t| t.tokens()).max().unwrap_or(0).max(CHECK_CONTEXT);
    let bytes = StepBytes::of(&session.open()?)?;
    let mut taper = session.load(Some(longest + 1), Some(512))?;
    let hash = output_hash(&mut taper)?;
    let mut rows = Vec::new();
    for test in tests {
        tracing::info!("measuring {}", test.name());
        let rates = measure(taper.engine(), test, usize::from(cli.bench.repetitions))?;
        rows.extend(Spread::of(&rates).map(|rate| Row { test, rate }));
    }
    let report =
        Report { taper: &taper, threads: session.args.threads.map_or_else(stats::cores, usize::from), bytes, hash };
    let mut answer = Answer::new();
    match cli.bench.output {
        Format::Json => {
            let all: Vec<Value> = rows.iter().map(|row| report.json(row)).collect();
            answer.line(&Value::from(all).to_string())
        }
        Format::Md => report.table(&rows).iter().try_for_each(|line| answer.line(line)),
    }
}

fn tests(cli: &Cli) -> Result<Vec<Test>> {
    let prompts = match &cli.prompt.prompt {
        None => vec![DEFAULT_PROMPT],
        Some(list) => lengths("-p", list.split(',').map(|n| n.trim().parse().ok()))?,
    };
    let predicts = match cli.prompt.predict.as_slice() {
        [] => vec![DEFAULT_PREDICT],
        list => lengths("-n", list.iter().map(|n| usize::try_from(*n).ok()))?,
    };
    // As in llama-bench, a length of 0 leaves the test out.
    let prompts = prompts.into_iter().filter(|n| *n > 0).map(Test::Prompt);
    let all: Vec<Test> = prompts.chain(predicts.into_iter().filter(|n| *n > 0).map(Test::Generate)).collect();
    if all.is_empty() {
        return Err(Error::usage("-p 0 -n 0 leaves nothing to measure"));
    }
    Ok(all)
}

fn lengths(flag: &str, list: impl Iterator<Item = Option<usize>>) -> Result<Vec<usize>> {
    list.collect::<Option<Vec<usize>>>().ok_or_else(|| {
        Error::usage(format!("under --bench, {flag} takes lengths in tokens"))
            .help(format!("for example {flag} 128,512"))
    })
}

/// Tokens a second of each repetition, after a warm-up.
fn measure(engine: &mut Engine, test: Test, repetitions: usize) -> Result<Vec<f64>> {
    let mut rates = Vec::with_capacity(repetitions);
    for repetition in 0..=repetitions {
        let done = once(engine, test, repetition as u32)?;
        let seconds = match test {
            Test::Prompt(_) => done.prompt_seconds,
            Test::Generate(_) => done.prompt_seconds + done.generation_seconds,
        };
        if repetition > 0 {
            rates.push(test.tokens() as f64 / seconds);
        }
    }
    Ok(rates)
}

/// Runs a test once. Every repetition has tokens of its own, so that none finds its prefix in the cache.
fn once(engine: &mut Engine, test: Test, repetition: u32) -> Result<Done> {
    let vocab = engine.tokenizer().vocab_len() as u32;
    let (prompt, max_tokens) = match test {
        Test::Prompt(n) => (n, 1),
        Test::Generate(n) => (1, n),
    };
    // A step that shares no factor with common vocabulary sizes walks over all of it.
    let prompt = (0..prompt as u32).map(|i| (i.wrapping_mul(7919).wrapping_add(repetition * 104_729 + 1)) % vocab);
    engine.add_request(Request {
        prompt: prompt.collect(),
        max_tokens: Some(max_tokens),
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

/// What a step reads, in the file's encoding.
#[derive(Debug, Clone, Copy)]
struct StepBytes {
    weights: usize,
    /// One token's keys and values in all layers.
    kv_token: usize,
    parameters: usize,
    file: usize,
}

impl StepBytes {
    fn of(model: &OpenModel) -> Result<Self> {
        let tensors = model.tensors()?;
        let tied = !model.weights.contains(OUTPUT);
        let read = |t: &&&crate::format::TensorInfo| tied || t.name != EMBEDDING;
        Ok(Self {
            weights: tensors.iter().filter(read).map(|t| t.bytes.len()).sum(),
            kv_token: model.config.layers * 2 * model.config.kv_dim() * size_of::<f32>(),
            parameters: tensors.iter().map(|t| t.elements()).sum(),
            file: tensors.iter().map(|t| t.bytes.len()).sum(),
        })
    }

    /// Gigabytes a second of a generation at a rate; prompts are bound by arithmetic and have none.
    fn rate(self, row: &Row) -> Option<f64> {
        match row.test {
            Test::Prompt(_) => None,
            // On average half of the generated tokens are behind the one being made.
            Test::Generate(n) => Some((self.weights + self.kv_token * n / 2) as f64 * row.rate.mean / 1e9),
        }
    }
}

struct Row {
    test: Test,
    rate: Spread,
}

struct Report<'a> {
    taper: &'a Taper,
    threads: usize,
    bytes: StepBytes,
    hash: String,
}

impl Report<'_> {
    fn json(&self, row: &Row) -> Value {
        json!({
            "model": self.taper.name(),
            "size_bytes": self.bytes.file,
            "n_params": self.bytes.parameters,
            "backend": self.taper.backend_name(),
            "threads": self.threads,
            "test": row.test.name(),
            "tokens_per_second": {"mean": row.rate.mean, "stddev": row.rate.stddev, "median": row.rate.median},
            "gigabytes_per_second": self.bytes.rate(row),
            "output_hash": self.hash,
        })
    }

    fn table(&self, rows: &[Row]) -> Vec<String> {
        let mut lines = vec![
            "| model | size | params | backend | threads | test | t/s | GB/s | output |".to_owned(),
            "|---|---:|---:|---|---:|---|---:|---:|---|".to_owned(),
        ];
        lines.extend(rows.iter().map(|row| {
            format!(
                "| {} | {} | {:.1} M | {} | {} | {} | {:.2} ± {:.2} | {} | {} |",
                self.taper.name(),
                human_bytes(self.bytes.file as u64),
                self.bytes.parameters as f64 / 1e6,
                self.taper.backend_name(),
                self.threads,
                row.test.name(),
                row.rate.mean,
                row.rate.stddev,
                self.bytes.rate(row).map_or_else(|| "–".to_owned(), |gb| format!("{gb:.1}")),
                self.hash
            )
        }));
        lines
    }
}
