//! The seam between the model and the machine: one forward pass ([`crate::model::llama::forward`]), many backends.
//!
//! A backend implements seven phases. A phase is the unit of fusion on every device and the unit of testing: through
//! [`Probe`] every backend must agree with the reference, [`candle`], phase by phase. Steps are submitted and collected,
//! so that a device can run ahead of the host. There is no `Send` bound: a backend lives on its engine's thread.

pub mod candle;
pub mod choose;
pub mod cpu;
pub mod cuda;
mod outcome;

use std::ops::Range;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::llama;
use crate::sample::{Draw, Sampling};

/// Tokens a page of the KV cache holds, on every backend.
pub const PAGE: usize = 32;

/// A page of the pool: `PAGE` tokens' keys and values in every layer.
pub type PageId = u32;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KvType {
    /// As they were computed.
    F32,
    /// Half the bytes.
    F16,
    /// 8 bits and a scale for each token and head: about a quarter of the bytes.
    #[value(name = "q8_0")]
    Q8_0,
}

impl KvType {
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// One step's work: rows of several sequences, flat, with the pages where their keys and values live.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// All sequences' rows, one after the other.
    pub rows: &'a [Row],
    pub seqs: &'a [Seq],
    /// All sequences' block tables, one after the other.
    pub pages: &'a [PageId],
    /// What is wanted of the step, in the order in which [`StepOut`] gives it.
    pub out: &'a [Out<'a>],
}

/// One token to push through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub token: Token,
    pub pos: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Id(u32),
    /// What this sequence's slot sampled in the step before; the host need not know it yet.
    Previous,
}

/// A sequence's share of a batch: 1 row decodes, k rows verify a draft, more prefill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seq {
    /// Names the sequence to the backend over its life: [`Token::Previous`] is kept a slot.
    pub slot: u32,
    /// Its rows; adjacent, in the order of their positions, the last at `kv_len - 1`.
    pub rows: Range<u32>,
    /// Tokens in the cache once this step's rows are written.
    pub kv_len: u32,
    /// Its block table, a range of [`Batch::pages`]: at least `kv_len / PAGE`, rounded up.
    pub pages: Range<u32>,
}

/// Something wanted of one row.
#[derive(Debug, Clone, Copy)]
pub struct Out<'a> {
    pub row: u32,
    pub want: Want<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Want<'a> {
    /// The row's logits, (vocab).
    Logits,
    /// One token drawn from them.
    Sample(Draw<'a>),
}

/// What a step gave, in the order of [`Batch::out`].
#[derive(Debug, Clone, Copy)]
pub struct StepOut<'a> {
    /// One for each [`Want::Sample`].
    pub tokens: &'a [u32],
    /// One row for each [`Want::Logits`]: (wanted, vocab).
    pub logits: &'a [f32],
}

/// Work on whole pages, outside a step. A page's numbers, on every backend: (layers, key | value, PAGE, `kv_heads`,
/// `head_dim`) in f32.
#[derive(Debug)]
pub enum PageOp<'a> {
    Copy { from: PageId, to: PageId },
    Read { page: PageId, into: &'a mut [f32] },
    Write { page: PageId, from: &'a [f32] },
}

/// How much a backend may use, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens one sequence may hold.
    pub context: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Rows of the largest step.
    pub chunk: usize,
    /// Pages of the pool; at least those of one full context. Fewer than all sequences could fill is fine: those that came
    /// last give way.
    pub pages: usize,
}

impl Limits {
    /// With pages for a full context of every sequence.
    pub fn new(context: usize, sequences: usize, chunk: usize) -> Self {
        Self { context, sequences, chunk, pages: context.div_ceil(PAGE).saturating_mul(sequences) }
    }
}

/// Bytes that a backend will take; made from sizes alone, before anything is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    pub limits: Limits,
    pub weights: u64,
    pub kv: u64,
    /// Activations and scores of the largest step.
    pub workspace: u64,
}

impl MemoryPlan {
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.workspace)
    }
}

/// What a loaded backend holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    pub weights: u64,
    pub kv: u64,
}

/// What a device did with its time, of steps that it goes on with by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceTime {
    /// Kernels of such a step.
    pub launches: usize,
    /// From a step's first kernel to its last.
    pub busy: Duration,
    /// From a step's last kernel to the next one's first, where that was submitted before the step had been collected.
    pub idle: Duration,
}

impl DeviceTime {
    /// The share of the time that nothing ran; `None` where nothing was timed.
    pub fn idle_share(&self) -> Option<f64> {
        let all = (self.busy + self.idle).as_secs_f64();
        (all > 0.0).then(|| self.idle.as_secs_f64() / all)
    }
}

/// The phases of a step. They only enqueue; their errors may surface in [`Backend::collect`].
pub trait Phases {
    /// How many layers [`crate::model::llama::forward`] goes through.
    fn layers(&self) -> usize;

    /// Takes in the rows and looks up their embeddings.
    fn begin(&mut self, batch: &Batch<'_>) -> Result<()>;

    /// RMSNorm, then Q, K and V, then RoPE on Q and K; K and V are written to their pages.
    fn qkv(&mut self, layer: usize) -> Result<()>;

    /// Causal attention of the queries over each sequence's pages.
    fn attend(&mut self, layer: usize) -> Result<()>;

    /// Output projection, added to the residual stream.
    fn attn_out(&mut self, layer: usize) -> Result<()>;

    /// RMSNorm, gate and up projections, SwiGLU.
    fn gate_up(&mut self, layer: usize) -> Result<()>;

    /// Down projection, added to the residual stream.
    fn down(&mut self, layer: usize) -> Result<()>;

    /// Final RMSNorm and LM head for the rows asked for, and sampling where a sample was asked for.
    fn head(&mut self, out: &[Out<'_>]) -> Result<()>;
}

/// One device's way to run the phases.
pub trait Backend: Phases {
    fn config(&self) -> &Config;

    /// Enqueues a whole step. A captured graph or a persistent kernel overrides it.
    fn submit(&mut self, batch: &Batch<'_>) -> Result<()> {
        llama::forward(self, batch)
    }

    /// Waits for the oldest step in flight.
    fn collect(&mut self) -> Result<StepOut<'_>>;

    /// Steps that may be submitted before the first is collected.
    fn in_flight(&self) -> usize {
        1
    }

    /// Whether it knows by itself what steps in flight sample, so that steps may be submitted ahead although a token depends on those
    /// before it: [`Draw::ahead`].
    fn looks_back(&self, _: &Sampling) -> bool {
        false
    }

    fn pages(&mut self, op: PageOp<'_>) -> Result<()>;

    fn memory(&self) -> MemoryUse;

    /// A hash of the logits of every step that was collected so far, where the backend was loaded to make one: what checks that answers are
    /// the same to the last bit goes by it. It depends on what was wanted of each step, and on nothing else beside the logits.
    fn logits_hash(&self) -> Option<u64> {
        None
    }

    /// How a device that is asked for steps ahead spent its time since this was last asked; `None` where there is none.
    fn take_device_time(&mut self) -> Option<DeviceTime> {
        None
    }
}

/// What lies between two phases; the parity tests put it in and read it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The residual stream: (rows, hidden).
    Hidden,
    /// Rotated queries: (rows, heads, `head_dim`).
    Query,
    /// What attention gave: (rows, heads, `head_dim`).
    Attended,
    /// SwiGLU's output: (rows, ffn).
    Gated,
}

/// For tests alone: a backend's activations between phases, in f32.
pub trait Probe {
    fn put(&mut self, slot: Slot, values: &[f32]) -> Result<()>;

    fn get(&mut self, slot: Slot) -> Result<Vec<f32>>;
}

impl Batch<'_> {
    /// Checks what every backend relies on: ids, positions and pages inside their bounds.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a batch that the engine built wrongly.
    pub fn check(&self, config: &Config, pool_pages: usize) -> Result<()> {
        let broken = |what: String| Err(Error::runtime(format!("the engine built a broken step: {what}")));
        for row in self.rows {
            if let Token::Id(id) = row.token
                && id as usize >= config.vocab
            {
                return Err(Error::runtime(format!(
                    "token {id} is outside the model's vocabulary of {} tokens",
                    config.vocab
                ))
                .help("the tokenizer does not belong to this model"));
            }
        }
        let mut next_row = 0;
        for seq in self.seqs {
            let len = seq.rows.end.saturating_sub(seq.rows.start);
            if seq.rows.start != next_row || len == 0 || seq.rows.end as usize > self.rows.len() || len > seq.kv_len {
                return broken(format!("rows {:?} of {} with {} cached", seq.rows, self.rows.len(), seq.kv_len));
            }
            next_row = seq.rows.end;
            let rows = &self.rows[seq.rows.start as usize..seq.rows.end as usize];
            let first = seq.kv_len - len;
            if rows.iter().zip(first..).any(|(row, pos)| row.pos != pos) {
                return broken(format!("positions of slot {} do not run from {first}", seq.slot));
            }
            let Some(table) = self.pages.get(seq.pages.start as usize..seq.pages.end as usize) else {
                return broken(format!("block table {:?} of {}", seq.pages, self.pages.len()));
            };
            if table.len() * PAGE < seq.kv_len as usize || table.iter().any(|p| *p as usize >= pool_pages) {
                return broken(format!("{} pages for {} tokens of slot {}", table.len(), seq.kv_len, seq.slot));
            }
        }
        if next_row as usize != self.rows.len() || self.out.iter().any(|o| o.row >= next_row) {
            return broken(format!("{next_row} of {} rows belong to a sequence", self.rows.len()));
        }
        Ok(())
    }
}
