//! Sampled answers with recorded steps and overlapping kernels, and with neither: the same tokens, pages and logits, or
//! something raced.

use sha2::{Digest, Sha256};
use taper::backend::choose::Compute;
use taper::backend::{PAGE, PageOp};
use taper::engine::{Event, Request};
use taper::sample::Sampling;
use taper::{Result, Taper};

use crate::{Finding, load};

/// Answers, and tokens of each: 10,000 steps in all.
const ANSWERS: u64 = 20;
const TOKENS: usize = 500;
const TIMES: usize = 3;
const MODEL: &str = "synth:smollm2-135m";

/// What is the same in all runs, or something raced.
#[derive(PartialEq)]
struct Hashes {
    /// Of the tokens of all answers, and of the pages behind each.
    answers: String,
    /// Of the logits of every step.
    logits: Option<u64>,
}

pub fn check(tell: &mut dyn FnMut(Finding)) -> Result<()> {
    let hashed = Compute { hash_logits: true, ..Compute::default() };
    let expected = run(Compute { no_graph: true, no_pdl: true, ..hashed })?;
    for time in 1..=TIMES {
        tell_of(&format!("and their logits, recorded and overlapping, time {time}"), &run(hashed)?, &expected, tell);
    }
    // What hashes logits is a kernel between others, which has them meet where they would not.
    let unhashed = Hashes { logits: None, ..expected };
    tell_of("without hashing logits on the way", &run(Compute::default())?, &unhashed, tell);
    Ok(())
}

fn tell_of(how: &str, found: &Hashes, expected: &Hashes, tell: &mut dyn FnMut(Finding)) {
    let is_right = found == expected;
    let [found, bound] = [found, expected].map(|Hashes { answers, logits }| {
        logits.map_or_else(|| answers.clone(), |logits| format!("{answers} {logits:016x}"))
    });
    tell(Finding { what: format!("{ANSWERS} answers of {TOKENS} tokens, pages, {how}"), found, bound, is_right });
}

fn run(compute: Compute) -> Result<Hashes> {
    let mut taper = load(MODEL, 1024, 1, compute)?;
    let answers = answers(&mut taper)?;
    // Steps behind an answer's end are in it too: which there are does not depend on time.
    Ok(Hashes { answers, logits: taper.engine().backend().logits_hash() })
}

fn answers(taper: &mut Taper) -> Result<String> {
    let mut hash = Sha256::new();
    for seed in 0..ANSWERS {
        hash_answer(taper, seed, &mut hash)?;
    }
    let first = hash.finalize().iter().take(8).fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    Ok(format!("{first:016x}"))
}

fn hash_answer(taper: &mut Taper, seed: u64, hash: &mut Sha256) -> Result<()> {
    let sampling = Sampling { temperature: 1.0, top_k: 64, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
    let prompt = (0..40).map(|i| (i * 7919 + seed as u32 * 104_729) % 49_152).collect();
    let engine = taper.engine();
    engine.forget_prefixes();
    engine.add_request(Request {
        prompt,
        max_tokens: Some(TOKENS),
        ignore_end: true,
        sampling,
        ..Request::default()
    })?;
    while engine.has_unfinished() {
        for (_, event) in engine.step()? {
            if let Event::Token { id, .. } = event {
                hash.update(id.to_le_bytes());
            }
        }
    }
    let config = engine.backend().config().clone();
    let mut page = vec![0.0; 2 * config.layers * config.kv_dim() * PAGE];
    // All but the last, which steps behind the end may have written.
    for number in 0..(40 + TOKENS) / PAGE {
        engine.backend().pages(PageOp::Read { page: number as u32, into: &mut page })?;
        for x in &page {
            hash.update(x.to_le_bytes());
        }
    }
    Ok(())
}
