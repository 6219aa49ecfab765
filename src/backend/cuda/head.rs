//! The end of a step: the head, and what becomes of its logits.

use super::Cuda;
use super::args::{Choose, Finish, Logits, Row};
use super::draws;
use super::few::Few;
use super::flights::NO_TOKEN;
use super::gpu::Address;
use super::memory::head_rows;
use super::several;
use crate::backend::{Out, Want};
use crate::error::Result;

impl Cuda {
    /// The head for the first rows of the step, in order: few of them. `draws` says which tokens may not come, 0 that all may.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_head(&mut self, rows: usize, draws: Address) -> Result<()> {
        let row = self.row(self.buffers.hidden, self.model.output_norm, self.model.config.hidden);
        self.logits(row, 0, rows, draws)
    }

    /// The head for rows of the residual stream: those that `which` names, or all in order.
    fn logits(&mut self, row: Row, which: Address, rows: usize, draws: Address) -> Result<()> {
        let (head, k) = (self.model.head, self.model.config.hidden);
        let args = Logits {
            matrix: head.place,
            x: self.input(row, which, rows, self.buffers.normed, &[head.format])?,
            out: self.buffers.logits,
            best: self.buffers.best,
            draws,
            rows: rows as i32,
            pad: 0,
        };
        let tiles = self.model.config.vocab.div_ceil(2);
        self.over(&Few { what: "logits", format: head.format, tile: 2, tiles, k, is_normed: true, rows }, args)
    }

    /// Draws the tokens of a step's rows, some of whose logits are changed before or not.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_choice(&mut self, rows: usize, changes: bool) -> Result<()> {
        let args = Choose {
            logits: self.buffers.logits,
            draws: self.places().draws,
            changes: if changes { self.places().changes } else { 0 },
            chosen: self.buffers.chosen,
            some: self.buffers.some,
            counters: self.buffers.slices,
            best: self.buffers.best,
            vocab: self.model.config.vocab as i32,
            pad: 0,
        };
        self.waiting("choose", [draws::slices(self.model.config.vocab) as u32, rows as u32, 1], args)
    }

    /// The last kernel of a step; `ended` is 0 for one by itself.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_finish(&mut self, rows: usize, ended: Address) -> Result<()> {
        self.enqueue_hash(rows)?;
        let args = Finish {
            best: self.buffers.best,
            chosen: self.buffers.chosen,
            ended,
            begun: self.buffers.begun,
            hash: if self.options.hashes { self.buffers.hash } else { 0 },
            out: self.outbox.words.device,
            rows: rows as u32,
            stride: self.outbox.stride as u32,
        };
        self.waiting("finish_step", [1; 3], args)
    }

    /// The same for wanted rows of any step.
    fn logits_of(&mut self, out: &[Out<'_>]) -> Result<()> {
        let k = self.model.config.hidden;
        let mut row = self.row(self.buffers.hidden, self.model.output_norm, k);
        if self.stages(self.model.head.format, out.len(), &row) {
            row.numbers += (4 * k * out[0].row as usize) as Address;
            self.logits(row, 0, 1, 0)?;
        } else {
            self.step.ask_for(out, &self.buffers, &mut *self.gpu)?;
            self.logits(row, self.buffers.which, out.len(), 0)?;
        }
        self.enqueue_finish(out.len(), 0)
    }

    /// Whether the head is for all rows of a step of few, in order.
    fn is_whole(&self, out: &[Out<'_>]) -> bool {
        self.step.is_of_few()
            && out.len() == self.step.rows()
            && out.len() <= head_rows(&self.limits)
            && out.iter().zip(0..).all(|(out, row)| out.row == row)
    }

    /// The same for what is wanted of the step, where that is all of few rows, and the host is told.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_head_of(&mut self, out: &[Out<'_>]) -> Result<()> {
        if !self.is_whole(out) {
            return Ok(());
        }
        self.enqueue_head(out.len(), 0)?;
        self.enqueue_finish(out.len(), 0)
    }

    /// Collects what is wanted of the step.
    ///
    /// # Errors
    /// When the GPU fails, or the logits are no numbers.
    pub fn settle(&mut self, out: &[Out<'_>]) -> Result<()> {
        self.outcome.clear();
        if self.is_whole(out) {
            return self.read_out(out);
        }
        // Rows that are named, and not in order, are quantized for kernels of several rows.
        let (head, k) = (self.model.head.format, self.model.config.hidden);
        let has_room = head.is_float() || several::fits(head, k, self.gpu.shared_memory());
        for some in out.chunks(if has_room { head_rows(&self.limits) } else { 1 }) {
            self.logits_of(some)?;
            self.read_out(some)?;
        }
        if out.is_empty() { self.gpu.wait() } else { Ok(()) }
    }

    /// Takes the tokens, or the logits where the host has to choose, of the head's rows.
    fn read_out(&mut self, out: &[Out<'_>]) -> Result<()> {
        let vocab = self.model.config.vocab;
        let likeliest = |o: &Out<'_>| matches!(o.want, Want::Sample(draw) if draw.is_likeliest());
        if out.iter().all(likeliest) {
            self.gpu.wait()?;
            self.flights.add_hash(self.outbox.hash_alone());
            let ids = self.outbox.alone(out.len()).iter().map(|id| (*id != NO_TOKEN).then_some(*id));
            return self.outcome.add_tokens(self.step.seqs(), out, ids);
        }
        self.gpu.fetch(self.buffers.logits, &self.some_logits, 4 * out.len() * vocab)?;
        self.gpu.wait()?;
        self.flights.add_hash(self.outbox.hash_alone());
        let logits = self.some_logits.get::<f32>(out.len() * vocab);
        self.outcome.add(self.step.seqs(), out, logits.chunks_exact(vocab))
    }
}
