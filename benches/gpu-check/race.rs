//! Sampled answers with recorded steps and overlapping kernels, and with neither: the same tokens and pages, or something raced.

use sha2::{Digest, Sha256};
use taper::backend::PageOp;
use taper::backend::choose::Compute;
use taper::engine::{Event, Request};
use taper::sample::Sampling;
use taper::{Result, Taper};

use crate::{Finding, load};

/// Answers, and tokens of each: 10,000 steps in all.
const ANSWERS: u64 = 20;
const TOKENS: usize = 500;
const TIMES: usize = 3;
const MODEL: &str = "synth:smollm2-135m";

pub fn check(tell: &mut dyn FnMut(Finding)) -> Result<()> {
    let plain = Compute { no_graph: true, no_pdl: true, ..Compute::default() };
    let expected = hash(&mut load(MODEL, 1024, 1, plain)?)?;
    for time in 1..=TIMES {
        let found = hash(&mut load(MODEL, 1024, 1, Compute::default())?)?;
        tell(Finding {
            what: format!(
                "{ANSWERS} answers of {TOKENS} tokens and their pages, recorded and overlapping, time {time}"
            ),
            found: found.clone(),
            bound: expected.clone(),
            is_right: found == expected,
        });
    }
    Ok(())
}

/// Of the tokens of all answers, and of the pages behind each.
fn hash(taper: &mut Taper) -> Result<String> {
    let mut hash = Sha256::new();
    for seed in 0..ANSWERS {
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
        let mut page = vec![0.0; 2 * config.layers * config.kv_dim() * taper::backend::PAGE];
        // All but the last, which steps behind the end may have written.
        for number in 0..(40 + TOKENS) / taper::backend::PAGE {
            engine.backend().pages(PageOp::Read { page: number as u32, into: &mut page })?;
            for x in &page {
                hash.update(x.to_le_bytes());
            }
        }
    }
    let first = hash.finalize().iter().take(8).fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    Ok(format!("{first:016x}"))
}
