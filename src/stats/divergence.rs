//! How far distributions are from expected ones, on the same text: the Kullback-Leibler divergence of every token,
//! Σ p · ln(p / q) in nats with the expected p, as llama-perplexity counts it.

use std::iter::zip;

use crate::error::{Error, Result};

/// The divergences of the tokens that were compared.
#[derive(Debug, Default)]
pub struct Divergence {
    nats: Vec<f64>,
    /// Of how many both think the same token the likeliest.
    same: usize,
    /// Of the others, by how much the expected likeliest token was ahead of its next at most.
    lead: f32,
}

impl Divergence {
    /// Takes a token's logits, beside the expected natural logarithms of probabilities: (vocab) each.
    ///
    /// # Errors
    /// When the logits are no numbers.
    pub fn add(&mut self, expected: &[f32], logits: &[f32]) -> Result<()> {
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
    pub fn mean(&self) -> f64 {
        self.nats.iter().sum::<f64>() / self.nats.len() as f64
    }

    /// What 99 of 100 tokens stay below.
    pub fn most(&self) -> f64 {
        let mut sorted = self.nats.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(f64::NAN)
    }

    /// Of the token with the largest.
    pub fn worst(&self) -> f64 {
        self.nats.iter().copied().fold(f64::NAN, f64::max)
    }

    /// How many tokens were compared.
    pub fn count(&self) -> usize {
        self.nats.len()
    }

    /// Of how many both think different tokens the likeliest.
    pub fn differing(&self) -> usize {
        self.nats.len() - self.same
    }

    /// Of those, by how much the expected likeliest token was ahead of its next at most, in logits.
    pub fn lead(&self) -> f32 {
        self.lead
    }

    /// The share of tokens of which both think the same the likeliest.
    pub fn same(&self) -> f64 {
        self.same as f64 / self.nats.len() as f64
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "mean": self.mean(),
            "percentile_99": self.most(),
            "same_likeliest": self.same(),
            "largest_lead_lost": self.lead,
        })
    }

    /// For people.
    pub fn line(&self) -> String {
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

/// Natural logarithms of the probabilities of logits.
///
/// # Errors
/// When they are no numbers.
pub fn log_probabilities(logits: &[f32]) -> Result<impl Iterator<Item = f32>> {
    let whole = log_sum_exp(logits)?;
    Ok(logits.iter().map(move |l| (f64::from(*l) - whole) as f32))
}

/// ln Σ exp(logit).
///
/// # Errors
/// When the logits are no numbers.
pub fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let whole = sum.ln() + f64::from(max);
    if whole.is_finite() { Ok(whole) } else { Err(Error::runtime("the model gave logits that are no numbers")) }
}

/// The id of the largest of them, the last among equals; `None` of none.
pub fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

/// By how much the largest logit is ahead of the next.
pub fn lead(logits: &[f32]) -> f32 {
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
        assert_eq!((divergence.count(), divergence.differing()), (3, 2));
        assert!(divergence.worst() == divergence.nats[2] && divergence.worst() > uniform, "{divergence:?}");
        assert!(divergence.add(&expected, &[f32::NAN, 0.0, 0.0]).is_err());
    }
}
