//! What steps give: the same for every backend that samples on the host.

use std::collections::HashMap;

use super::{Batch, Out, Seq, StepOut, Token, Want};
use crate::error::{Error, Result};
use crate::sample::{self, Scratch};

/// The last step's tokens and logits, and what each slot sampled last: what [`Token::Previous`] stands for.
#[derive(Debug, Default)]
pub struct Outcome {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    previous: HashMap<u32, u32>,
    scratch: Scratch,
}

impl Outcome {
    /// Adds the batch's token ids, a row each, to `ids`.
    ///
    /// # Errors
    /// When a slot is to go on from its last token and has none.
    pub fn ids(&self, batch: &Batch<'_>, ids: &mut Vec<u32>) -> Result<()> {
        for seq in batch.seqs {
            for row in &batch.rows[seq.rows.start as usize..seq.rows.end as usize] {
                ids.push(match row.token {
                    Token::Id(id) => id,
                    Token::Previous => *self.previous.get(&seq.slot).ok_or_else(|| {
                        Error::runtime(format!("slot {} has sampled no token to go on from", seq.slot))
                    })?,
                });
            }
        }
        Ok(())
    }

    /// Begins a step that gives nothing yet.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.logits.clear();
    }

    /// Takes a step's logits, one slice for each of `out`, and samples where that is wanted.
    ///
    /// # Errors
    /// When a token cannot be drawn: the logits are no numbers.
    pub fn settle<'l>(&mut self, seqs: &[Seq], out: &[Out<'_>], logits: impl Iterator<Item = &'l [f32]>) -> Result<()> {
        self.clear();
        self.add(seqs, out, logits)
    }

    /// The same of some of a step's, behind what it gave before.
    ///
    /// # Errors
    /// As [`Outcome::settle`].
    pub fn add<'l>(&mut self, seqs: &[Seq], out: &[Out<'_>], logits: impl Iterator<Item = &'l [f32]>) -> Result<()> {
        for (o, logits) in out.iter().zip(logits) {
            match o.want {
                Want::Logits => self.logits.extend_from_slice(logits),
                Want::Sample(draw) => {
                    let token = draw.token(logits, &mut self.scratch)?;
                    self.sampled(seqs, o.row, token);
                }
            }
        }
        Ok(())
    }

    /// Takes tokens that the device chose, one for each of `out`; `None` where no logit was a number.
    ///
    /// # Errors
    /// When one is `None`.
    pub fn add_tokens(
        &mut self,
        seqs: &[Seq],
        out: &[Out<'_>],
        tokens: impl Iterator<Item = Option<u32>>,
    ) -> Result<()> {
        for (o, token) in out.iter().zip(tokens) {
            self.sampled(seqs, o.row, token.ok_or_else(sample::unusable)?);
        }
        Ok(())
    }

    fn sampled(&mut self, seqs: &[Seq], row: u32, token: u32) {
        if let Some(seq) = seqs.iter().find(|s| s.rows.contains(&row)) {
            self.choose(seq.slot, token);
        }
        self.tokens.push(token);
    }

    /// Notes what a slot is to go on from.
    pub fn choose(&mut self, slot: u32, token: u32) {
        self.previous.insert(slot, token);
    }

    /// Hands the step's tokens and logits over.
    pub fn take(&mut self) -> (Vec<u32>, Vec<f32>) {
        (std::mem::take(&mut self.tokens), std::mem::take(&mut self.logits))
    }

    pub fn step(&self) -> StepOut<'_> {
        StepOut { tokens: &self.tokens, logits: &self.logits }
    }
}
