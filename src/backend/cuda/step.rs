//! What a step tells the GPU: ids, positions, places, block tables, and how tokens are drawn.

use super::args::bytes_of;
use super::flights::Chosen;
use super::gpu::{Gpu, Pinned};
use super::memory::{Buffers, Places, few};
use super::model::Model;
use super::{changes, draws};
use crate::backend::{Batch, Limits, Out, PAGE, Seq, Want};
use crate::error::Result;
use crate::model::config::Config;

/// Steps that follow each other of which the host has told and not yet collected: `STEPS` of `step.cuh`. A further place is for steps by
/// themselves.
pub const STEPS: usize = 4;

/// The rows of a step.
#[derive(Default)]
pub struct Step {
    /// Rows that steps of few have at most.
    few: usize,
    /// (rows): ids, or rows of the step before.
    tokens: Vec<u32>,
    seqs: Vec<Seq>,
    /// (rows, `head_dim` / 2, cosine | sine)
    angles: Vec<f32>,
    positions: Vec<u32>,
    places: Vec<u32>,
    table: Vec<u32>,
    known: Vec<u32>,
    tables: Vec<u32>,
    /// (out, `draws::WORDS`), where the GPU can choose all tokens; otherwise empty.
    draws: Vec<u32>,
    /// (out, `changes::WORDS`), where the GPU is to change logits of some of them; otherwise empty.
    changes: Vec<u32>,
    which: Vec<u32>,
}

impl Step {
    pub fn new(few: usize) -> Self {
        Self { few, ..Self::default() }
    }

    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    pub fn is_of_few(&self) -> bool {
        self.rows() <= self.few
    }

    pub fn seqs(&self) -> &[Seq] {
        &self.seqs
    }

    /// Whether the GPU can choose all tokens that are wanted.
    pub fn is_chosen_there(&self) -> bool {
        !self.draws.is_empty()
    }

    /// Whether it has to draw some of them.
    pub fn is_drawn(&self) -> bool {
        draws::are_drawn(&self.draws)
    }

    /// Whether it has to change logits before.
    pub fn is_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Tokens of the longest context.
    pub fn longest(&self) -> usize {
        self.seqs.iter().map(|seq| seq.kv_len as usize).max().unwrap_or(0)
    }

    /// # Errors
    /// When a row is to go on from a token that nobody chose, or penalties are to look at one.
    pub fn take_in(&mut self, batch: &Batch<'_>, model: &Model, chosen: &Chosen<'_>) -> Result<()> {
        self.tokens.clear();
        chosen.add_tokens(batch, &mut self.tokens)?;
        self.seqs.clear();
        self.seqs.extend_from_slice(batch.seqs);
        for vector in [&mut self.positions, &mut self.places, &mut self.table, &mut self.known, &mut self.tables] {
            vector.clear();
        }
        self.angles.clear();
        for seq in batch.seqs {
            let table = &batch.pages[seq.pages.start as usize..seq.pages.end as usize];
            for row in &batch.rows[seq.rows.start as usize..seq.rows.end as usize] {
                let page = table[row.pos as usize / PAGE];
                self.positions.push(row.pos);
                self.places.push(page * PAGE as u32 + row.pos % PAGE as u32);
                self.table.push(self.tables.len() as u32);
                self.known.push(seq.kv_len - seq.rows.len() as u32);
                for frequency in &model.frequencies {
                    let (sine, cosine) = (row.pos as f32 * frequency).sin_cos();
                    self.angles.extend([cosine, sine]);
                }
            }
            self.tables.extend(&table[..(seq.kv_len as usize).div_ceil(PAGE)]);
        }
        self.take_draws(batch.out, model.config.vocab, chosen)
    }

    fn take_draws(&mut self, out: &[Out<'_>], vocab: usize, chosen: &Chosen<'_>) -> Result<()> {
        self.draws.clear();
        self.changes.clear();
        for (i, o) in out.iter().enumerate() {
            let chain = if let Want::Sample(draw) = &o.want { draws::chain(draw, vocab) } else { None };
            let Some(chain) = chain else {
                self.draws.clear();
                self.changes.clear();
                return Ok(());
            };
            self.draws.extend(draws::words(&chain));
            if let Some(changes) = chain.changes
                && let Some(seq) = self.seqs.iter().find(|seq| seq.rows.contains(&o.row))
            {
                self.changes.resize((i + 1) * changes::WORDS, 0);
                changes::lay_out(&changes, seq.slot, chosen, &mut self.changes[i * changes::WORDS..])?;
            }
        }
        if self.is_changed() {
            self.changes.resize(out.len() * changes::WORDS, 0);
        }
        Ok(())
    }

    /// Words that say how logits are changed, for a step that follows others: one by itself leaves that to the host.
    pub fn changing_words(&self) -> usize {
        self.changes.len()
    }

    /// Copies all of it to the GPU.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn upload(&self, to: &Places, gpu: &mut dyn Gpu) -> Result<()> {
        gpu.write(to.tokens, bytes_of(&self.tokens))?;
        gpu.write(to.angles, bytes_of(&self.angles))?;
        gpu.write(to.positions, bytes_of(&self.positions))?;
        gpu.write(to.cells, bytes_of(&self.places))?;
        gpu.write(to.table, bytes_of(&self.table))?;
        gpu.write(to.known, bytes_of(&self.known))?;
        gpu.write(to.tables, bytes_of(&self.tables))
    }

    /// Lays it out where `begin.cu` finds it, few rows: for the step so many behind the first that follow each other, or by itself.
    pub fn lay_out(&self, inbox: &Inbox, number: Option<u64>) {
        let first = 4 * inbox.stride * number.map_or(STEPS, |n| (n % STEPS as u64) as usize);
        let mut at = first;
        for (words, column) in [
            (bytes_of(&self.angles), inbox.rows * inbox.head_dim),
            (bytes_of(&self.positions), inbox.rows),
            (bytes_of(&self.places), inbox.rows),
            (bytes_of(&self.table), inbox.rows),
            (bytes_of(&self.known), inbox.rows),
            (bytes_of(&self.tokens), inbox.rows),
            (bytes_of(&self.draws), inbox.rows * draws::WORDS),
            (bytes_of(&self.tables), 0),
        ] {
            inbox.words.put(at, words);
            at += 4 * column;
        }
        if number.is_some() {
            inbox.words.put(first + 4 * inbox.changes, bytes_of(&self.changes));
        }
    }

    /// Tells which rows the head is for.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn ask_for(&mut self, out: &[Out<'_>], to: &Buffers, gpu: &mut dyn Gpu) -> Result<()> {
        self.which.clear();
        self.which.extend(out.iter().map(|o| o.row));
        gpu.write(to.which, bytes_of(&self.which))
    }
}

/// Where the host leaves what a step of few rows begins with.
pub struct Inbox {
    /// (`STEPS` + 1, stride), each as [`Places`] has them.
    pub words: Pinned,
    pub stride: usize,
    /// Words in front of those that say how logits are changed.
    pub changes: usize,
    rows: usize,
    head_dim: usize,
}

impl Inbox {
    /// # Errors
    /// When there is no memory for it.
    pub fn new(config: &Config, limits: &Limits, gpu: &mut dyn Gpu) -> Result<Self> {
        let rows = few(limits);
        let changes = Places::words(config, limits, rows);
        let stride = changes + rows * changes::WORDS;
        Ok(Self { words: gpu.take_pinned(4 * stride * (STEPS + 1))?, stride, changes, rows, head_dim: config.head_dim })
    }

    /// Rows that there is room for.
    pub fn rows(&self) -> usize {
        self.rows
    }
}
