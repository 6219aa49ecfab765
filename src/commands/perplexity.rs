//! `taper perplexity`: how surprised a model is by a text, as llama-perplexity counts it.
//!
//! The text is cut into windows of the context's size; each is run on its own (starting with BOS where the model has one), and
//! the tokens of its second half are scored, so that each has at least half a window before it. The last token of a window is
//! predicted, none after it: (size - size / 2 - 1) scores a window.

use serde_json::json;

use super::divergence::Reference;
use super::{Session, csv, input};
use crate::cli::{Format, PerplexityArgs};
use crate::error::{Error, Result};
use crate::stats::divergence::{Divergence, log_sum_exp};
use crate::taper::Taper;
use crate::terminal::render::Answer;

/// llama-perplexity's own default.
const DEFAULT_WINDOW: usize = 512;
/// Rows of a step: nobody waits for Ctrl-C here, so as many as the matrix products like.
const PREFILL_CHUNK: usize = 512;

pub(super) fn run(args: &PerplexityArgs, session: &Session) -> Result<()> {
    let text = input::file("the text", &args.file)?;
    let window = if args.model.ctx_size == 0 { DEFAULT_WINDOW } else { args.model.ctx_size };
    if window < 4 {
        return Err(Error::usage(format!("a window of {window} tokens has no second half to score")));
    }
    let mut taper = session.load_to_measure(window, PREFILL_CHUNK)?;
    let tokens = taper.tokenizer().encode_prompt_bytes(&text)?;
    if tokens.len() < window {
        return Err(Error::usage(format!("the text has {} tokens; one window needs {window}", tokens.len()))
            .in_file(&args.file)
            .help("give a longer text, or a smaller --ctx-size"));
    }
    let mut reference = args.kl.then(|| Reference::load(session, window, PREFILL_CHUNK)).transpose()?;
    let score = measure(&mut taper, &tokens, window, reference.as_mut())?;
    let score = Score { divergence: reference.map(Reference::divergence), ..score };
    let mut answer = Answer::new();
    match args.output {
        Format::Md => {
            answer.line("| model | window | chunks | tokens | perplexity |")?;
            answer.line("|---|---|---|---|---|")?;
            answer.line(&format!(
                "| {} | {window} | {} | {} | {:.4} ± {:.5} |",
                taper.name(),
                score.chunks,
                score.tokens,
                score.perplexity,
                score.stderr
            ))?;
            score.divergence.iter().try_for_each(|divergence| answer.line(&format!("\n{}", divergence.line())))
        }
        Format::Csv => csv::lines(&[score.json()]).iter().try_for_each(|line| answer.line(line)),
        Format::Json => answer.line(&score.json().to_string()),
    }
}

struct Score {
    perplexity: f64,
    /// Standard error of the perplexity, by the spread of the tokens' surprise.
    stderr: f64,
    chunks: usize,
    /// How many were scored.
    tokens: usize,
    divergence: Option<Divergence>,
}

impl Score {
    fn json(&self) -> serde_json::Value {
        let mut json = json!({
            "perplexity": self.perplexity,
            "stderr": self.stderr,
            "chunks": self.chunks,
            "tokens": self.tokens,
        });
        if let Some(divergence) = &self.divergence {
            json["divergence"] = divergence.json();
        }
        json
    }
}

fn measure(taper: &mut Taper, tokens: &[u32], window: usize, mut reference: Option<&mut Reference>) -> Result<Score> {
    let bos = taper.tokenizer().bos().filter(|_| taper.tokenizer().adds_bos());
    let chunks = tokens.len() / window;
    let (mut n, mut sum, mut squares) = (0usize, 0.0, 0.0);
    for (i, chunk) in tokens.chunks_exact(window).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let from = window / 2;
        if let Some(reference) = reference.as_deref_mut() {
            reference.score(&chunk, from)?;
        }
        taper.engine().score(&chunk, from, |pos, logits| {
            if let Some(next) = chunk.get(pos + 1) {
                if let Some(reference) = reference.as_deref_mut() {
                    reference.compare(pos - from, logits)?;
                }
                let surprise = log_sum_exp(logits)? - f64::from(logits[*next as usize]);
                n += 1;
                sum += surprise;
                squares += surprise * surprise;
            }
            Ok(())
        })?;
        tracing::info!("window {} of {chunks}: perplexity {:.4} so far", i + 1, (sum / n as f64).exp());
    }
    let mean = sum / n as f64;
    let variance = (squares / n as f64 - mean * mean).max(0.0);
    let perplexity = mean.exp();
    Ok(Score {
        perplexity,
        stderr: (variance / (n as f64 - 1.0)).sqrt() * perplexity,
        chunks,
        tokens: n,
        divergence: None,
    })
}
