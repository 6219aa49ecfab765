//! What steps give: the same for every backend that samples on the host.

use std::collections::HashMap;

use super::{Batch, Out, Seq, StepOut, Token, Want};
use crate::error::{Error, Result};
use crate::sample::Scratch;

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

    /// Takes a step's logits, one slice for each of `out`, and samples where that is wanted.
    ///
    /// # Errors
    /// When a token cannot be drawn: the logits are no numbers.
    pub fn settle<'l>(&mut self, seqs: &[Seq], out: &[Out<'_>], logits: impl Iterator<Item = &'l [f32]>) -> Result<()> {
        self.tokens.clear();
        self.logits.clear();
        for (o, logits) in out.iter().zip(logits) {
            match o.want {
                Want::Logits => self.logits.extend_from_slice(logits),
                Want::Sample(draw) => {
                    let token = draw.token(logits, &mut self.scratch)?;
                    if let Some(seq) = seqs.iter().find(|s| s.rows.contains(&o.row)) {
                        self.previous.insert(seq.slot, token);
                    }
                    self.tokens.push(token);
                }
            }
        }
        Ok(())
    }

    pub fn step(&self) -> StepOut<'_> {
        StepOut { tokens: &self.tokens, logits: &self.logits }
    }
}
