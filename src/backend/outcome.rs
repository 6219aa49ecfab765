//! What steps give: the same for every backend that samples on the host.

use std::collections::HashMap;

use super::{Batch, Out, Seq, StepOut, Token, Want};
use crate::error::{Error, Result};
use crate::sample::{self, Draw, Scratch};

/// Tokens of each slot that are kept: at least as many as steps are in flight.
pub const KEPT: usize = 4;

/// What a slot sampled last, the newest at the end.
#[derive(Debug, Default, Clone, Copy)]
struct Newest {
    ids: [u32; KEPT],
    count: usize,
}

impl Newest {
    fn push(&mut self, id: u32) {
        self.ids.rotate_left(1);
        self.ids[KEPT - 1] = id;
        self.count = KEPT.min(self.count + 1);
    }
}

/// The last step's tokens and logits, and what each slot sampled last: what [`Token::Previous`] stands for.
#[derive(Debug, Default)]
pub struct Outcome {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    newest: HashMap<u32, Newest>,
    /// Room for the end of a sequence.
    history: Vec<u32>,
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
                    Token::Previous => self.newest(seq.slot, 1)?[0],
                });
            }
        }
        Ok(())
    }

    /// The last `count` tokens that a slot sampled, the newest at the end.
    ///
    /// # Errors
    /// When there are not so many, or more than are kept.
    pub fn newest(&self, slot: u32, count: usize) -> Result<&[u32]> {
        let newest = self.newest.get(&slot).filter(|newest| count <= newest.count);
        let newest = newest.ok_or_else(|| Error::runtime(format!("slot {slot} has sampled no token to go on from")))?;
        Ok(&newest.ids[KEPT - count..])
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
                    let token = self.draw(seqs, o.row, draw, logits)?;
                    self.sampled(seqs, o.row, token);
                }
            }
        }
        Ok(())
    }

    /// Draws a row's token; what steps sampled that were in flight when it was asked for, penalties look at too.
    fn draw(&mut self, seqs: &[Seq], row: u32, draw: Draw<'_>, logits: &[f32]) -> Result<u32> {
        let mut history = std::mem::take(&mut self.history);
        history.clear();
        let in_flight = slot_of(seqs, row).filter(|_| draw.ahead > 0 && draw.sampling.looks_back());
        let draw = if let Some(slot) = in_flight {
            let known = draw.history.len().saturating_sub(draw.sampling.repeat_last);
            history.extend_from_slice(&draw.history[known..]);
            history.extend_from_slice(self.newest(slot, draw.ahead)?);
            Draw { history: &history, ahead: 0, ..draw }
        } else {
            draw
        };
        let token = draw.token(logits, &mut self.scratch);
        self.history = history;
        token
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
        if let Some(slot) = slot_of(seqs, row) {
            self.choose(slot, token);
        }
        self.tokens.push(token);
    }

    /// Notes what a slot is to go on from.
    pub fn choose(&mut self, slot: u32, token: u32) {
        self.newest.entry(slot).or_default().push(token);
    }

    /// Hands the step's tokens and logits over.
    pub fn take(&mut self) -> (Vec<u32>, Vec<f32>) {
        (std::mem::take(&mut self.tokens), std::mem::take(&mut self.logits))
    }

    pub fn step(&self) -> StepOut<'_> {
        StepOut { tokens: &self.tokens, logits: &self.logits }
    }
}

/// The slot whose row it is.
fn slot_of(seqs: &[Seq], row: u32) -> Option<u32> {
    seqs.iter().find(|seq| seq.rows.contains(&row)).map(|seq| seq.slot)
}
