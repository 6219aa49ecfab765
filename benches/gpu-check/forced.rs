//! Greedy answers of one backend, and what others think of the same tokens: texts that each writes by itself diverge, since rounding
//! activations to int8 makes a last bit's difference a large one.

use taper::backend::PAGE;
use taper::sample::{Draw, Sampling, Scratch};
use taper::stats::divergence::{Divergence, lead, likeliest, log_probabilities};
use taper::{Result, Taper};

use crate::feed::last_logits;

/// Tokens behind a prompt, and what a backend thought of each of them before it came.
pub struct Answer {
    prompt: Vec<u32>,
    pub tokens: Vec<u32>,
    /// (tokens, vocab): natural logarithms of probabilities.
    logs: Vec<f32>,
}

/// A model's own answer, of so many tokens of which none ends it.
pub fn greedy(taper: &mut Taper, prompt: &str, tokens: usize) -> Result<Answer> {
    let tokenizer = taper.tokenizer().clone();
    let (sampling, mut scratch) = (Sampling::greedy(), Scratch::default());
    let draw = Draw { sampling: &sampling, history: &[], ahead: 0, index: 0, banned: tokenizer.end_tokens() };
    run(taper, tokenizer.encode_prompt(prompt)?, tokens, |_, logits| draw.token(logits, &mut scratch))
}

/// The same tokens, as another backend thinks of them.
pub fn forced(taper: &mut Taper, answer: &Answer) -> Result<Answer> {
    run(taper, answer.prompt.clone(), answer.tokens.len(), |i, _| Ok(answer.tokens[i]))
}

/// Feeds the prompt in steps as large as there may be, and each token in one of its own. `next` chooses a token by its number and the
/// logits.
fn run(
    taper: &mut Taper,
    prompt: Vec<u32>,
    count: usize,
    mut next: impl FnMut(usize, &[f32]) -> Result<u32>,
) -> Result<Answer> {
    let limits = taper.engine().limits();
    // No request is running, whose pages these could be, nor are those of earlier ones to be found again.
    let pages: Vec<u32> = (0..limits.context.div_ceil(PAGE) as u32).collect();
    taper.engine().forget_prefixes();
    let backend = taper.engine().backend();
    let (mut logits, mut done) = (Vec::new(), 0);
    for piece in prompt.chunks(limits.chunk) {
        logits = last_logits(backend, piece, done, &pages)?.to_vec();
        done += piece.len();
    }
    let mut answer = Answer { prompt, tokens: Vec::new(), logs: Vec::new() };
    for i in 0..count {
        if i > 0 {
            logits = last_logits(backend, &answer.tokens[i - 1..], done, &pages)?.to_vec();
            done += 1;
        }
        answer.logs.extend(log_probabilities(&logits)?);
        answer.tokens.push(next(i, &logits)?);
    }
    Ok(answer)
}

/// How far some answers' distributions are from the expected ones of the same tokens.
pub fn divergence(expected: &[Answer], got: &[Answer]) -> Result<Divergence> {
    let mut divergence = Divergence::default();
    for (expected, got) in expected.iter().zip(got) {
        let vocab = expected.logs.len() / expected.tokens.len();
        for (expected, got) in expected.logs.chunks_exact(vocab).zip(got.logs.chunks_exact(vocab)) {
            divergence.add(expected, got)?;
        }
    }
    Ok(divergence)
}

/// By how much the expected likeliest token is ahead of its next at most, where `got` alone thinks another the likeliest: `judge` agrees
/// with what was expected there. Where that does not, it is the expected answer that rounding has turned.
pub fn lead_lost_alone(expected: &[Answer], got: &[Answer], judge: &[Answer]) -> f32 {
    let mut most = 0.0f32;
    for ((expected, got), judge) in expected.iter().zip(got).zip(judge) {
        let vocab = expected.logs.len() / expected.tokens.len();
        let rows = expected.logs.chunks_exact(vocab).zip(got.logs.chunks_exact(vocab));
        for ((expected, got), judge) in rows.zip(judge.logs.chunks_exact(vocab)) {
            let is_judged = likeliest(judge) == likeliest(expected);
            if is_judged && likeliest(got) != likeliest(expected) {
                most = most.max(lead(expected));
            }
        }
    }
    most
}
