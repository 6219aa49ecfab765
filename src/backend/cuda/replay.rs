//! Steps that decode, recorded once and then replayed: launching some hundred kernels one by one takes the host longer than the
//! GPU needs for them.

use std::collections::HashMap;

use super::Cuda;
use super::few::Sharing;
use super::gpu::{Address, Graph};
use super::memory::{SPAN, few, head_rows};
use crate::backend::Batch;
use crate::error::Result;

/// What a recorded step depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    rows: usize,
    /// Chunks of context that there are blocks for: a power of two, of which those behind the context's end do nothing.
    chunks: usize,
    /// Whether tokens are drawn, or all the head's likeliest.
    draws: bool,
    /// Whether logits are changed before.
    changes: bool,
    sharing: Sharing,
}

/// Steps that were recorded, or came once.
#[derive(Default)]
pub struct Replays(HashMap<Key, Option<Graph>>);

impl Cuda {
    /// The recorded step that a batch can use: each sequence has one row, of which a token is wanted that the GPU can choose.
    pub fn replay_key(&self, batch: &Batch<'_>) -> Option<Key> {
        let rows = batch.rows.len();
        let decodes = rows <= few(&self.limits).min(head_rows(&self.limits))
            && self.step.is_chosen_there()
            && batch.seqs.len() == rows
            && batch.out.len() == rows
            && batch.out.iter().zip(0..).all(|(out, row)| out.row == row);
        decodes.then(|| Key {
            rows,
            chunks: self.blocks_of_context(),
            draws: self.step.is_drawn(),
            changes: self.step.is_changed(),
            sharing: self.sharing,
        })
    }

    /// Blocks along the context of the step's longest sequence; more than there are chunks, so that a recorded step does for longer ones.
    pub fn blocks_of_context(&self) -> usize {
        self.step.longest().div_ceil(SPAN).next_power_of_two()
    }

    /// Enqueues the step that was taken in behind those that are under way, recorded if it was met before. The first of a kind is not
    /// recorded: kernels are loaded when they are first launched, which cannot be recorded.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_next(&mut self, key: Key) -> Result<()> {
        self.step.lay_out(&self.inbox, Some(self.flights.next()));
        let ended = self.buffers.ended;
        if !self.options.graph {
            return self.enqueue_decode(key, ended);
        }
        match self.replays.0.get(&key).copied() {
            Some(Some(graph)) => self.gpu.replay(graph),
            Some(None) => {
                let graph = self.record(|cuda| cuda.enqueue_decode(key, ended))?;
                self.replays.0.insert(key, Some(graph));
                self.gpu.replay(graph)
            }
            None => {
                self.replays.0.insert(key, None);
                self.enqueue_decode(key, ended)
            }
        }
    }

    /// Records what `body` enqueues, all of which was launched before.
    ///
    /// # Errors
    /// Those of `body`, or when the GPU fails.
    pub fn record(&mut self, body: impl FnOnce(&mut Self) -> Result<()>) -> Result<Graph> {
        self.gpu.record()?;
        let enqueued = body(self);
        let graph = self.gpu.recorded()?;
        enqueued.map(|()| graph)
    }

    /// Enqueues what was recorded.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn replay(&mut self, graph: Graph) -> Result<()> {
        self.gpu.replay(graph)
    }

    fn enqueue_decode(&mut self, key: Key, ended: Address) -> Result<()> {
        let before = self.launches;
        self.enqueue_body(ended)?;
        self.enqueue_head(key.rows, self.places().draws)?;
        if key.draws {
            self.enqueue_choice(key.rows, key.changes)?;
        }
        self.enqueue_finish(key.rows, ended)?;
        self.launches_of_step = self.launches - before;
        Ok(())
    }
}
