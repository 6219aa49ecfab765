//! What a step tells the GPU: embeddings, positions, places and block tables.

use super::args::bytes_of;
use super::gpu::{Gpu, Pinned};
use super::memory::{Buffers, FEW, Places};
use super::model::Model;
use crate::backend::outcome::Outcome;
use crate::backend::{Batch, Limits, Out, PAGE, Seq};
use crate::error::Result;
use crate::model::config::Config;
use crate::model::tensors::EMBEDDING;

/// The rows of a step.
#[derive(Default)]
pub struct Step {
    ids: Vec<u32>,
    seqs: Vec<Seq>,
    /// (rows, hidden)
    hidden: Vec<f32>,
    /// (rows, `head_dim` / 2, cosine | sine)
    angles: Vec<f32>,
    positions: Vec<u32>,
    places: Vec<u32>,
    table: Vec<u32>,
    known: Vec<u32>,
    tables: Vec<u32>,
    which: Vec<u32>,
}

impl Step {
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    pub fn is_of_few(&self) -> bool {
        self.rows() <= FEW
    }

    pub fn seqs(&self) -> &[Seq] {
        &self.seqs
    }

    /// Tokens of the longest context.
    pub fn longest(&self) -> usize {
        self.seqs.iter().map(|seq| seq.kv_len as usize).max().unwrap_or(0)
    }

    /// # Errors
    /// When a slot is to go on from its last token and has none, or an embedding cannot be read.
    pub fn take_in(&mut self, batch: &Batch<'_>, model: &Model, outcome: &Outcome) -> Result<()> {
        self.ids.clear();
        outcome.ids(batch, &mut self.ids)?;
        let hidden = model.config.hidden;
        self.hidden.resize(self.ids.len() * hidden, 0.0);
        for (id, row) in self.ids.iter().zip(self.hidden.chunks_exact_mut(hidden)) {
            model.weights.row(EMBEDDING, *id as usize, row)?;
        }
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
        Ok(())
    }

    /// Copies all of it to the GPU.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn upload(&self, buffers: &Buffers, to: &Places, gpu: &mut dyn Gpu) -> Result<()> {
        gpu.write(buffers.hidden, bytes_of(&self.hidden))?;
        gpu.write(to.angles, bytes_of(&self.angles))?;
        gpu.write(to.positions, bytes_of(&self.positions))?;
        gpu.write(to.cells, bytes_of(&self.places))?;
        gpu.write(to.table, bytes_of(&self.table))?;
        gpu.write(to.known, bytes_of(&self.known))?;
        gpu.write(to.tables, bytes_of(&self.tables))
    }

    /// Lays it out where `begin_step` finds it; few rows.
    pub fn lay_out(&self, inbox: &Inbox) {
        inbox.embeddings.put(0, bytes_of(&self.hidden));
        let mut at = 0;
        for (words, column) in [
            (bytes_of(&self.angles), inbox.rows * inbox.head_dim),
            (bytes_of(&self.positions), inbox.rows),
            (bytes_of(&self.places), inbox.rows),
            (bytes_of(&self.table), inbox.rows),
            (bytes_of(&self.known), inbox.rows),
            (bytes_of(&self.tables), 0),
        ] {
            inbox.words.put(at, words);
            at += 4 * column;
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
    /// (rows, hidden) numbers.
    pub embeddings: Pinned,
    /// As [`Places`] has them.
    pub words: Pinned,
    rows: usize,
    head_dim: usize,
}

impl Inbox {
    /// # Errors
    /// When there is no memory for it.
    pub fn new(config: &Config, limits: &Limits, gpu: &mut dyn Gpu) -> Result<Self> {
        let rows = limits.chunk.min(FEW);
        Ok(Self {
            embeddings: gpu.take_pinned(4 * rows * config.hidden)?,
            words: gpu.take_pinned(4 * Places::words(config, limits, rows))?,
            rows,
            head_dim: config.head_dim,
        })
    }

    /// Words of a step in front of its block tables.
    pub fn words_before_tables(&self) -> usize {
        self.rows * (self.head_dim + 4)
    }
}
