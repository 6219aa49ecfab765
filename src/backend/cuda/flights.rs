//! Steps that the host does not wait for: each goes on from the tokens that the GPU chose in the one before, and tells the host its own in
//! a ring (`choose.cu`). So the GPU has the next step before the host has heard of the last.

use std::collections::VecDeque;
use std::time::Duration;

use super::Cuda;
use super::gpu::{Gpu, Pinned};
use super::hash::chained;
use super::memory::{few, head_rows};
use super::step::STEPS;
use crate::backend::outcome::Outcome;
use crate::backend::{Batch, Limits, Seq, StepOut, Token};
use crate::error::{Error, Result};
use crate::sample;

/// Of a token that a step in flight chooses: its place among what the last steps chose, in the other bits. `PREVIOUS` of `step.cuh`.
const PREVIOUS: u32 = 1 << 31;
/// No logit was a number: the same there.
pub const NO_TOKEN: u32 = u32::MAX;

/// What a step gave.
struct Here {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    hash: u64,
}

/// What a submitted step gives.
enum Given {
    Here(Here),
    /// The GPU will tell: the how manieth of the steps that follow each other it is, and the slot of each row.
    Awaited {
        number: u64,
        slots: Vec<u32>,
        /// Whether it was submitted while the one before it was under way.
        follows: bool,
    },
}

/// Words behind a step's ids: a hash of its logits, when it began and ended, in nanoseconds of the GPU's clock, and how many steps have
/// ended.
const TOLD: usize = 7;

/// Where the GPU tells the tokens that it chose.
pub struct Outbox {
    /// (`STEPS` + 1, stride) words: ids, and what `choose.cu` tells behind them.
    pub words: Pinned,
    pub stride: usize,
}

/// Words that each step has for what it chose, here and in the GPU's own memory.
pub fn stride(limits: &Limits) -> usize {
    few(limits).max(head_rows(limits)) + TOLD
}

impl Outbox {
    /// # Errors
    /// When there is no memory for it.
    pub fn new(limits: &Limits, gpu: &mut dyn Gpu) -> Result<Self> {
        let stride = stride(limits);
        let words = gpu.take_pinned(4 * stride * (STEPS + 1))?;
        words.put(0, &vec![0; 4 * stride * (STEPS + 1)]);
        Ok(Self { words, stride })
    }

    /// The hash of a step that has ended, when it began and when it ended.
    fn told(&self, first: usize) -> [u64; 3] {
        let at = first + self.stride - TOLD;
        [at, at + 2, at + 4].map(|at| u64::from(self.words.word(at)) | u64::from(self.words.word(at + 1)) << 32)
    }

    /// The hash of the last logits of a step by itself; their kernels have ended.
    pub fn hash_alone(&self) -> u64 {
        self.told(STEPS * self.stride)[0]
    }

    /// What the last step by itself chose; it has ended.
    pub fn alone(&self, rows: usize) -> &[u32] {
        &self.words.get::<u32>(STEPS * self.stride + rows)[STEPS * self.stride..]
    }
}

/// What was submitted and not yet collected, oldest first.
#[derive(Default)]
pub struct Flights {
    given: VecDeque<Given>,
    /// Steps that follow each other so far.
    count: u64,
    /// When the last one ended, and for how long the GPU was at work and idle: in nanoseconds.
    ended: u64,
    busy: u64,
    idle: u64,
    /// Of the logits of all steps that were collected, and of the step by itself that is under way.
    hash: u64,
    hash_alone: u64,
    /// What the last step that was collected gave.
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

impl Flights {
    /// Forgets what was not collected, all of which has ended.
    pub fn drop_all(&mut self) {
        self.given.clear();
    }

    /// The number of the next step that follows.
    pub fn next(&self) -> u64 {
        self.count
    }

    /// For how long the GPU was at work and idle since this was last asked.
    pub fn take_times(&mut self) -> (Duration, Duration) {
        let [busy, idle] = [&mut self.busy, &mut self.idle].map(std::mem::take).map(Duration::from_nanos);
        (busy, idle)
    }

    /// Of the logits of all steps that were collected.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes the hash of logits of the step by itself, which may give them in pieces.
    pub fn add_hash(&mut self, hash: u64) {
        self.hash_alone = chained(self.hash_alone, hash);
    }

    fn add_times(&mut self, [begun, ended]: [u64; 2], follows: bool) {
        self.busy += ended.saturating_sub(begun);
        if follows {
            self.idle += begun.saturating_sub(self.ended);
        }
        self.ended = ended;
    }

    /// Steps whose tokens are still the GPU's alone, newest first: their numbers and slots. What was submitted before them is known.
    fn awaited(&self) -> impl Iterator<Item = (u64, &[u32])> {
        self.given.iter().rev().map_while(|given| match given {
            Given::Awaited { number, slots, .. } => Some((*number, slots.as_slice())),
            Given::Here { .. } => None,
        })
    }
}

/// What slots chose lately, as the GPU takes it: ids, or where it finds those that it has not told yet.
pub struct Chosen<'a> {
    flights: &'a Flights,
    outcome: &'a Outcome,
    stride: usize,
}

impl<'a> Chosen<'a> {
    pub fn new(flights: &'a Flights, outcome: &'a Outcome, outbox: &Outbox) -> Self {
        Self { flights, outcome, stride: outbox.stride }
    }

    /// Adds the batch's tokens to `to`, a row each.
    ///
    /// # Errors
    /// When a slot is to go on from its last token and has none.
    pub fn add_tokens(&self, batch: &Batch<'_>, to: &mut Vec<u32>) -> Result<()> {
        for (row, slot) in batch.rows.iter().zip(slots(batch.seqs)) {
            let mut token = [0];
            match row.token {
                Token::Id(id) => token = [id],
                Token::Previous => self.last(slot, &mut token)?,
            }
            to.extend(token);
        }
        Ok(())
    }

    /// The last tokens of a slot, as many as there is room for, the newest at the end.
    ///
    /// # Errors
    /// When it did not choose so many.
    pub fn last(&self, slot: u32, to: &mut [u32]) -> Result<()> {
        let mut missing = to.len();
        for (number, slots) in self.flights.awaited() {
            if missing > 0
                && let Some(row) = slots.iter().position(|s| *s == slot)
            {
                missing -= 1;
                to[missing] = PREVIOUS | ((number % STEPS as u64) as usize * self.stride + row) as u32;
            }
        }
        if missing > 0 {
            to[..missing].copy_from_slice(self.outcome.newest(slot, missing)?);
        }
        Ok(())
    }
}

/// The slot of each of a step's rows.
fn slots(seqs: &[Seq]) -> impl Iterator<Item = u32> {
    seqs.iter().flat_map(|seq| seq.rows.clone().map(|_| seq.slot))
}

impl Cuda {
    /// Books the step that was just asked for, whose tokens the GPU will tell.
    pub fn take_off(&mut self) {
        let (slots, follows) = (slots(self.step.seqs()).collect(), self.flights.awaited().next().is_some());
        self.flights.given.push_back(Given::Awaited { number: self.flights.count, slots, follows });
        self.flights.count += 1;
    }

    /// Books the step that just ended.
    pub fn arrive(&mut self) {
        let (tokens, logits) = self.outcome.take();
        let hash = std::mem::take(&mut self.flights.hash_alone);
        self.flights.given.push_back(Given::Here(Here { tokens, logits, hash }));
    }

    /// Waits for all steps that were submitted.
    ///
    /// # Errors
    /// When the GPU fails, or a step's logits are no numbers.
    pub fn land(&mut self) -> Result<()> {
        for i in 0..self.flights.given.len() {
            let Given::Awaited { number, slots, follows } = &mut self.flights.given[i] else { continue };
            let (number, slots, follows) = (*number, std::mem::take(slots), *follows);
            self.flights.given[i] = Given::Here(self.told_in_ring(number, &slots, follows)?);
        }
        Ok(())
    }

    /// Waits for what the GPU tells of a step.
    fn told_in_ring(&mut self, number: u64, slots: &[u32], follows: bool) -> Result<Here> {
        let Outbox { words, stride } = &self.outbox;
        let first = (number % STEPS as u64) as usize * stride;
        self.gpu.wait_for(words, first + stride - 1, (number + 1) as u32)?;
        let [hash, begun, ended] = self.outbox.told(first);
        self.flights.add_times([begun, ended], follows);
        let tokens: Vec<u32> = (first..first + slots.len()).map(|at| words.word(at)).collect();
        if tokens.contains(&NO_TOKEN) {
            return Err(sample::unusable());
        }
        slots.iter().zip(&tokens).for_each(|(slot, token)| self.outcome.choose(*slot, *token));
        Ok(Here { tokens, logits: Vec::new(), hash })
    }

    /// What the oldest step gave.
    ///
    /// # Errors
    /// When there is none, the GPU fails, or the logits are no numbers.
    pub fn next_given(&mut self) -> Result<StepOut<'_>> {
        let Here { tokens, logits, hash } = match self.flights.given.pop_front() {
            Some(Given::Here(here)) => here,
            Some(Given::Awaited { number, slots, follows }) => self.told_in_ring(number, &slots, follows)?,
            None => return Err(Error::runtime("a step is collected that was not submitted")),
        };
        (self.flights.tokens, self.flights.logits) = (tokens, logits);
        self.flights.hash = chained(self.flights.hash, hash);
        Ok(StepOut { tokens: &self.flights.tokens, logits: &self.flights.logits })
    }
}
