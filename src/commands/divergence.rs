//! How far the distributions of the backend in use are from the reference's, on the same text: the Kullback-Leibler divergence
//! of every scored token, Σ p · ln(p / q) in nats with the reference's p, as llama-perplexity counts it.

use std::iter::zip;

use super::Session;
use crate::backend::choose::Device;
use crate::cli::ModelArgs;
use crate::cli::compute::ComputeArgs;
use crate::error::{Error, Result};
use crate::taper::Taper;

/// The beginning of the Declaration of Independence: for those who bring no text.
pub(super) const TEXT: &[u8] = include_bytes!("divergence.txt");

/// The reference with the same weights, and what it said of the window being compared.
pub(super) struct Reference {
    taper: Taper,
    /// (scored positions, vocab): natural logarithms of probabilities.
    logs: Vec<f32>,
    divergence: Divergence,
}

/// The divergences of the tokens that were compared.
#[derive(Debug, Default)]
pub(super) struct Divergence {
    nats: Vec<f64>,
    /// Of how many both think the same token the likeliest.
    same: usize,
    /// Of the others, by how much the reference's likeliest token was ahead of its next at most.
    lead: f32,
}

impl Reference {
    /// Loads the model of `session` once more, for windows of so many tokens.
    pub(super) fn load(session: &Session, window: usize, chunk: usize) -> Result<Self> {
        let args = ModelArgs { device: Device::Reference, compute: ComputeArgs::default(), ..session.args.clone() };
        let session = Session { args, interrupt: session.interrupt.clone(), ..*session };
        let taper = session.load_to_measure(window, chunk)?;
        Ok(Self { taper, logs: Vec::new(), divergence: Divergence::default() })
    }

    /// Scores a window from position `from` on, to be compared with.
    pub(super) fn score(&mut self, tokens: &[u32], from: usize) -> Result<()> {
        self.logs.clear();
        let logs = &mut self.logs;
        self.taper.engine().score(tokens, from, |_, logits| {
            let whole = log_sum_exp(logits)?;
            logs.extend(logits.iter().map(|l| (f64::from(*l) - whole) as f32));
            Ok(())
        })
    }

    /// Compares with the logits of the `i`th scored position.
    pub(super) fn compare(&mut self, i: usize, logits: &[f32]) -> Result<()> {
        let expected = &self.logs[i * logits.len()..][..logits.len()];
        self.divergence.add(expected, logits)
    }

    pub(super) fn divergence(self) -> Divergence {
        self.divergence
    }
}

impl Divergence {
    /// The second half of [`TEXT`], in one window.
    pub(super) fn of_text(taper: &mut Taper, reference: &mut Reference) -> Result<()> {
        let tokens = taper.tokenizer().encode_prompt_bytes(TEXT)?;
        let from = tokens.len() / 2;
        reference.score(&tokens, from)?;
        taper.engine().score(&tokens, from, |pos, logits| reference.compare(pos - from, logits))
    }

    fn add(&mut self, expected: &[f32], logits: &[f32]) -> Result<()> {
        let whole = log_sum_exp(logits)?;
        let terms = zip(expected, logits).map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q) + whole));
        self.nats.push(terms.sum());
        if likeliest(expected) == likeliest(logits) {
            self.same += 1;
        } else {
            self.lead = self.lead.max(lead(expected));
        }
        Ok(())
    }

    /// Nats a token.
    pub(super) fn mean(&self) -> f64 {
        self.nats.iter().sum::<f64>() / self.nats.len() as f64
    }

    /// What 99 of 100 tokens stay below.
    pub(super) fn most(&self) -> f64 {
        let mut sorted = self.nats.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(f64::NAN)
    }

    /// The share of tokens of which both think the same the likeliest.
    pub(super) fn same(&self) -> f64 {
        self.same as f64 / self.nats.len() as f64
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "mean": self.mean(),
            "percentile_99": self.most(),
            "same_likeliest": self.same(),
            "largest_lead_lost": self.lead,
        })
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        format!(
            "Divergence from the reference over {} tokens: {:.5} nat a token, 99 % below {:.4}; the same likeliest token at {:.1} %, \
             elsewhere the reference's was ahead by {:.2} at most",
            self.nats.len(),
            self.mean(),
            self.most(),
            100.0 * self.same(),
            self.lead
        )
    }
}

/// ln Σ exp(logit).
pub(super) fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let whole = sum.ln() + f64::from(max);
    if whole.is_finite() { Ok(whole) } else { Err(Error::runtime("the model gave logits that are no numbers")) }
}

fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

/// By how much the largest logit is ahead of the next.
fn lead(logits: &[f32]) -> f32 {
    let (first, second) = logits.iter().fold((f32::NEG_INFINITY, f32::NEG_INFINITY), |(first, second), l| {
        if *l > first { (*l, first) } else { (first, second.max(*l)) }
    });
    first - second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_the_references_mean_of_the_logarithms_ratio() {
        let expected = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        let mut divergence = Divergence::default();
        divergence.add(&expected, &[7.0, 7.0, 7.0]).unwrap();
        divergence.add(&expected, &[0.5f32.ln() + 3.0, 0.25f32.ln() + 3.0, 0.25f32.ln() + 3.0]).unwrap();
        divergence.add(&expected, &[0.0, 1.0, 0.0]).unwrap();
        let uniform = 3f64.ln() - 1.5 * 2f64.ln();
        assert!((divergence.nats[0] - uniform).abs() < 1e-6 && divergence.nats[1].abs() < 1e-6, "{divergence:?}");
        assert!((divergence.same() - 1.0 / 3.0).abs() < 1e-12, "equal logits: the last counts");
        assert!(
            (divergence.lead - std::f32::consts::LN_2).abs() < 1e-6,
            "a half was ahead of a quarter: {divergence:?}"
        );
        assert!(divergence.add(&expected, &[f32::NAN, 0.0, 0.0]).is_err());
    }
}
