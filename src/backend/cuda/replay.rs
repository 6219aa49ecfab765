//! Steps that decode, recorded once and then replayed: launching some hundred kernels one by one takes the host longer than the
//! GPU needs for them.

use std::collections::HashMap;

use super::gpu::Graph;
use super::memory::{SPAN, head_rows};
use super::{Cuda, FEW};
use crate::backend::Batch;
use crate::error::Result;

/// What a recorded step depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    rows: usize,
    /// Chunks of context that there are blocks for: a power of two, of which those behind the context's end do nothing.
    chunks: usize,
}

/// Steps that were recorded, or came once.
#[derive(Default)]
pub struct Replays(HashMap<Key, Option<Graph>>);

impl Cuda {
    /// The recorded step that a batch can use: each sequence has one row, of which something is wanted.
    pub fn replay_key(&self, batch: &Batch<'_>) -> Option<Key> {
        let rows = batch.rows.len();
        let decodes = rows <= FEW.min(head_rows(&self.limits))
            && batch.seqs.len() == rows
            && batch.out.len() == rows
            && batch.out.iter().zip(0..).all(|(out, row)| out.row == row);
        decodes.then(|| Key { rows, chunks: self.blocks_of_context() })
    }

    /// Blocks along the context of the step's longest sequence; more than there are chunks, so that a recorded step does for longer ones.
    pub fn blocks_of_context(&self) -> usize {
        self.step.longest().div_ceil(SPAN).next_power_of_two()
    }

    /// Enqueues the step that was taken in, recorded if it was met before. The first of a kind is not recorded: kernels are
    /// loaded when they are first launched, which cannot be recorded.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn replay(&mut self, key: Key) -> Result<()> {
        match self.replays.0.get(&key).copied() {
            Some(Some(graph)) => self.gpu.replay(graph),
            Some(None) => {
                self.gpu.record()?;
                let enqueued = self.enqueue_decode(key.rows);
                let graph = self.gpu.recorded()?;
                enqueued?;
                self.replays.0.insert(key, Some(graph));
                self.gpu.replay(graph)
            }
            None => {
                self.replays.0.insert(key, None);
                self.enqueue_decode(key.rows)
            }
        }
    }

    fn enqueue_decode(&mut self, rows: usize) -> Result<()> {
        self.enqueue_body()?;
        self.enqueue_head(rows)
    }
}
