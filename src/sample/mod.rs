//! From logits to a token: penalties, top-k, top-p, min-p, temperature, one random draw.
//!
//! Order and defaults follow llama.cpp's users' habits. A draw depends on the logits, the request's tokens, its seed and
//! the token's index alone, so preemption, batching and speculation give the same text.

mod filters;
mod penalties;
mod rng;
mod strongest;

use crate::error::{Error, Result};

/// How a request's tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 or less is greedy.
    pub temperature: f32,
    /// Keep the k likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest whose probabilities together reach this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this probable, relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides the logits of tokens seen lately (multiplies negative ones); 1 is off.
    pub repeat_penalty: f32,
    /// How many of the last tokens the penalties look at.
    pub repeat_last: usize,
    /// Subtracted once for each time that a token was seen lately.
    pub frequency_penalty: f32,
    /// Subtracted once from tokens seen lately.
    pub presence_penalty: f32,
    /// Added to single tokens' logits before all else; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// The likeliest token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether a token depends on those before it by more than its logits.
    pub fn looks_back(&self) -> bool {
        penalties::any(self)
    }

    /// Checks what a user gave.
    ///
    /// # Errors
    /// A value that is no number or outside its range, named as on the command line.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("temp", self.temperature, 0.0, 1000.0),
            ("top-p", self.top_p, 0.0, 1.0),
            ("min-p", self.min_p, 0.0, 1.0),
            ("repeat-penalty", self.repeat_penalty, 1e-3, 1000.0),
            ("frequency-penalty", self.frequency_penalty, -1000.0, 1000.0),
            ("presence-penalty", self.presence_penalty, -1000.0, 1000.0),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::usage(format!("--{name} is {value}; {low} to {high} is possible")));
            }
        }
        // Sums of many stay numbers.
        let is_usable = |bias: f32| bias == f32::NEG_INFINITY || bias.abs() <= MOST_BIAS;
        if let Some((id, bias)) = self.logit_bias.iter().find(|(_, bias)| !is_usable(*bias)) {
            return Err(Error::usage(format!(
                "the logit bias of token {id} is {bias}; -{MOST_BIAS:e} to {MOST_BIAS:e} and -inf are possible"
            )));
        }
        Ok(())
    }
}

/// The largest bias of a logit.
const MOST_BIAS: f32 = 1e30;

/// A token on its way through the chain.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Room to choose a token in, kept from one to the next: a step of a running answer takes no memory.
#[derive(Debug, Default)]
pub struct Scratch {
    candidates: Vec<Candidate>,
    changed: Vec<Candidate>,
    recent: Vec<u32>,
    probabilities: Vec<f64>,
}

/// One token to be drawn.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    pub sampling: &'a Sampling,
    /// The sequence so far, prompt included; penalties look at its end.
    pub history: &'a [u32],
    /// How many tokens come behind `history` that steps in flight sample, so that only the device may know them.
    pub ahead: usize,
    /// Which token of the answer this is: the random draw's counter.
    pub index: u64,
    /// Tokens that may not come now (end tokens, before the least length is reached).
    pub banned: &'a [u32],
}

/// What a draw among the likeliest tokens goes by, for devices that draw: the chain of [`Draw::token`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chain<'a> {
    /// How many of the likeliest are drawn from; 1 takes the likeliest.
    pub top_k: usize,
    /// Keep the likeliest whose probabilities together reach this.
    pub top_p: f32,
    /// Keep logits that are at least the largest and this: ln of min-p.
    pub least: f32,
    pub temperature: f32,
    /// The point in [0, 1) of the cumulated probabilities.
    pub at: f64,
    /// What is done to single logits before; `None` for nothing.
    pub changes: Option<Changes<'a>>,
    /// Tokens that may not come.
    pub banned: &'a [u32],
}

/// Single logits that are changed: biases first, one after the other, and then penalties, once for each different token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Changes<'a> {
    /// Tokens, and what is added to their logits.
    pub biases: &'a [(u32, f32)],
    /// How many of the last tokens the penalties look at; 0 where there are no penalties.
    pub window: usize,
    /// Those of them that the host knows.
    pub recent: &'a [u32],
    /// How many of them come behind those.
    pub ahead: usize,
    /// [`Sampling::repeat_penalty`]
    pub repeat: f32,
    /// [`Sampling::frequency_penalty`]
    pub frequency: f32,
    /// [`Sampling::presence_penalty`]
    pub presence: f32,
}

/// No logit is a number.
pub fn unusable() -> Error {
    Error::runtime("the model gave no usable logits (all are NaN or forbidden)")
        .help("allow some token where --logit-bias forbids all; otherwise the weights may be damaged: download the model again")
}

impl Draw<'_> {
    /// Whether the likeliest token of the model's own logits is wanted, the first among equals.
    pub fn is_likeliest(&self) -> bool {
        let s = self.sampling;
        s.temperature <= 0.0 && s.logit_bias.is_empty() && self.banned.is_empty() && !penalties::any(s)
    }

    /// The draw as a chain; `None` where more than `most` of the likeliest are to be drawn from.
    pub fn chain(&self, most: usize) -> Option<Chain<'_>> {
        let s = self.sampling;
        let top_k = if s.temperature <= 0.0 { 1 } else { s.top_k };
        (1..=most).contains(&top_k).then(|| Chain {
            top_k,
            top_p: s.top_p,
            least: if s.min_p > 0.0 { s.min_p.ln() } else { f32::NEG_INFINITY },
            temperature: if s.temperature <= 0.0 { 1.0 } else { s.temperature },
            at: rng::uniform(s.seed, self.index),
            changes: self.changes(),
            banned: self.banned,
        })
    }

    fn changes(&self) -> Option<Changes<'_>> {
        let (s, known) = (self.sampling, self.history);
        let window = if penalties::any(s) { s.repeat_last } else { 0 };
        let ahead = self.ahead.min(window);
        (window > 0 || !s.logit_bias.is_empty()).then(|| Changes {
            biases: &s.logit_bias,
            window,
            recent: &known[known.len().saturating_sub(window - ahead)..],
            ahead,
            repeat: s.repeat_penalty,
            frequency: s.frequency_penalty,
            presence: s.presence_penalty,
        })
    }

    /// Chooses a token from its row of logits, (vocab). Penalties look at `history` alone: whoever has tokens in flight puts them there.
    ///
    /// # Errors
    /// When no logit is a number: the model's arithmetic broke down.
    pub fn token(&self, logits: &[f32], scratch: &mut Scratch) -> Result<u32> {
        let s = self.sampling;
        let most = if s.temperature <= 0.0 { 1 } else { s.top_k };
        let Scratch { candidates, changed, recent, probabilities } = scratch;
        self.change(logits, recent, changed);
        strongest::strongest(logits, most, changed, candidates);
        if candidates.is_empty() {
            return Err(unusable());
        }
        if s.temperature <= 0.0 {
            return Ok(filters::likeliest(candidates).id);
        }
        filters::top_k(candidates, s.top_k);
        filters::top_p(candidates, s.top_p, probabilities);
        filters::min_p(candidates, s.min_p);
        filters::temperature(candidates, s.temperature);
        Ok(filters::pick(candidates, rng::uniform(s.seed, self.index), probabilities).id)
    }

    /// The tokens whose logits are not the model's: biased, penalized or banned. Sorted by id.
    fn change(&self, logits: &[f32], recent: &mut Vec<u32>, changed: &mut Vec<Candidate>) {
        let s = self.sampling;
        changed.clear();
        let mut change = |id: u32, to: &dyn Fn(f32) -> f32| {
            let Some(own) = logits.get(id as usize) else { return };
            match changed.binary_search_by_key(&id, |c| c.id) {
                Ok(i) => changed[i].logit = to(changed[i].logit),
                Err(i) => changed.insert(i, Candidate { id, logit: to(*own) }),
            }
        };
        for &(id, bias) in &s.logit_bias {
            change(id, &|logit| logit + bias);
        }
        for (id, count) in penalties::counts(s, self.history, recent) {
            change(id, &|logit| penalties::lowered(logit, count, s));
        }
        for &id in self.banned {
            change(id, &|_| f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests;
