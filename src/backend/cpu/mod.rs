//! The CPU backend: packed 4-bit and 8-bit weights with int8 activations, floating-point weights with f32 ones, our own
//! kernels.
//!
//! A step is one job of a thread pool (`pool`): every thread goes through the phases of `worker`, meeting the others
//! between them. Weights are packed for the kernels when a model is loaded (`model`); the kernels are written once
//! (`matmul`, `rows`, `attention`) and compiled for each instruction set (`kernels`). All of them give the same bits,
//! and a row's result depends on nothing but its own sequence: not on its neighbours, the chunking, the threads or the
//! processor.

#![allow(clippy::inline_always, reason = "kernels must be inlined into the functions that enable their instructions")]
#![allow(clippy::wildcard_imports, reason = "of the processor's instructions, by the hundred")]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[doc(hidden)]
pub mod bench;
mod embedding;
pub mod encoder;
mod kernels;
mod load;
mod matmul;
pub(crate) mod memory;
mod model;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pages;
mod plain;
mod pool;
mod rows;
pub mod scans;
mod simd;
mod step;
#[cfg(test)]
mod tests;
mod worker;

pub use kernels::Isa;
pub use model::refusal;

use super::outcome::Outcome;
use super::{Backend, Batch, KvType, Limits, MemoryPlan, MemoryUse, Out, PageOp, Phases, Probe, Slot, StepOut};
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::repack::{Repack, Writer};
use crate::format::weights::Weights;
use crate::model::config::Config;
use crate::model::llama;
use kernels::Kernels;
use memory::{Part, Region};
use model::Model;
use pages::Cache;
use pool::{Pool, Thread};
use rows::Groups;
use step::{Buffers, Forms, Step, panels};
use worker::{Shared, Worker};

/// How to run on this processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub threads: usize,
    pub isa: Isa,
    pub kv_type: KvType,
    /// Whether attention is blocked; otherwise it is written plainly, to check the blocked form by.
    pub flash_attention: bool,
}

/// Bytes this backend takes: packed weights, pages, and the largest step's activations.
pub fn plan(config: &Config, tensors: &[&TensorInfo], limits: Limits, options: &Options) -> MemoryPlan {
    let vectors: usize = tensors.iter().filter(|t| t.shape.len() == 1).map(|t| 4 * t.elements()).sum();
    let page = Cache::page_bytes(config, options.kv_type) as u64;
    let logits = (limits.sequences * config.vocab * 4) as u64;
    MemoryPlan {
        limits,
        weights: model::packed_bytes(tensors) + vectors as u64,
        kv: (limits.pages as u64).saturating_mul(page),
        workspace: Buffers::bytes(config, &limits, options, model::has_floats(tensors)) as u64 + logits,
    }
}

/// The CPU backend.
pub struct Cpu {
    model: Model,
    buffers: Buffers,
    cache: Cache,
    step: Step,
    kernels: &'static Kernels,
    flash_attention: bool,
    pool: Pool,
    /// Grows to the most rows that were ever wanted at once.
    logits: (Region, Part<f32>),
    outcome: Outcome,
    memory: MemoryUse,
    /// Keeps the packed weights for the next start.
    writer: Option<Writer>,
}

impl Cpu {
    /// Packs the weights, or reads them as they were packed before, and lays out pages and buffers.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or unknown, or one with NaN or infinite numbers; or when the system has not the
    /// memory.
    pub fn load(
        config: &Config,
        weights: &Weights,
        plan: &MemoryPlan,
        options: &Options,
        repack: &Repack,
    ) -> Result<Self> {
        let kernels = Kernels::of(options.isa)?;
        let mut pool = Pool::new(options.threads);
        let (model, writer) = Model::load(config, weights, &mut pool, repack)?;
        Ok(Self {
            buffers: Buffers::new(config, &plan.limits, options, model.has_floats())?,
            cache: Cache::new(config, plan.limits.pages, options.kv_type)?,
            step: Step::default(),
            kernels,
            flash_attention: options.flash_attention,
            pool,
            logits: logits(plan.limits.sequences, config)?,
            outcome: Outcome::default(),
            memory: MemoryUse { weights: plan.weights, kv: plan.kv },
            model,
            writer,
        })
    }

    /// Takes in a step's rows.
    fn prepare(&mut self, batch: &Batch<'_>) -> Result<()> {
        batch.check(&self.model.config, self.cache.pages)?;
        let step = &mut self.step;
        step.ids.clear();
        step.positions.clear();
        self.outcome.ids(batch, &mut step.ids)?;
        step.positions.extend(batch.rows.iter().map(|row| row.pos));
        step.seqs.clear();
        step.seqs.extend_from_slice(batch.seqs);
        step.pages.clear();
        step.pages.extend_from_slice(batch.pages);
        step.panels.clear();
        step.panels.extend(panels(step.ids.len(), self.kernels.max_panel));
        let hidden = self.model.config.hidden;
        if step.ids.len() * hidden > self.buffers.hidden.len() {
            return Err(Error::runtime(format!("a step of {} rows is larger than was planned", step.ids.len())));
        }
        if let Some(embedding) = &mut self.model.embedding {
            for (t, id) in step.ids.iter().enumerate() {
                // SAFETY: no job is running.
                #[expect(unsafe_code, reason = "buffers are shared with the threads of a job")]
                let row = unsafe { self.buffers.hidden.slice_mut(t * hidden, hidden) };
                embedding.row(*id as usize, row)?;
            }
        }
        Ok(())
    }

    /// Makes room for a step's logits.
    fn reserve(&mut self, rows: usize) -> Result<()> {
        if rows * self.model.config.vocab > self.logits.1.len() {
            self.logits = logits(rows, &self.model.config)?;
        }
        Ok(())
    }

    /// Runs `work` on every thread.
    fn run(&mut self, work: impl Fn(&mut Worker<'_>) -> Result<()> + Sync) {
        let shared = Shared {
            model: &self.model,
            buffers: &self.buffers,
            cache: &self.cache,
            step: &self.step,
            kernels: self.kernels,
            flash_attention: self.flash_attention,
            logits: self.logits.1,
        };
        self.pool.run(&|thread: Thread<'_>| {
            let done = work(&mut Worker { shared, thread });
            debug_assert!(done.is_ok(), "a worker's phases cannot fail: the others would wait for it");
        });
    }

    /// Hands out what the head computed, and samples.
    fn finish(&mut self, out: &[Out<'_>]) -> Result<()> {
        let vocab = self.model.config.vocab;
        let row = |i: usize| {
            // SAFETY: the job has ended.
            #[expect(unsafe_code, reason = "buffers are shared with the threads of a job")]
            unsafe {
                self.logits.1.slice(i * vocab, vocab)
            }
        };
        self.outcome.settle(&self.step.seqs, out, (0..out.len()).map(row))?;
        if !out.is_empty() {
            self.writer.iter_mut().for_each(Writer::begin);
        }
        Ok(())
    }
}

/// Room for so many rows of logits.
fn logits(rows: usize, config: &Config) -> Result<(Region, Part<f32>)> {
    let count = rows.max(1) * config.vocab;
    let mut region = Region::new(memory::part_bytes::<f32>(count))?;
    let part = region.take(count)?;
    Ok((region, part))
}

impl Phases for Cpu {
    fn layers(&self) -> usize {
        self.model.layers.len()
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.prepare(batch)?;
        self.run(|worker| worker.begin(batch));
        Ok(())
    }

    fn qkv(&mut self, layer: usize) -> Result<()> {
        self.run(|worker| worker.qkv(layer));
        Ok(())
    }

    fn attend(&mut self, layer: usize) -> Result<()> {
        self.run(|worker| worker.attend(layer));
        Ok(())
    }

    fn attn_out(&mut self, layer: usize) -> Result<()> {
        self.run(|worker| worker.attn_out(layer));
        Ok(())
    }

    fn gate_up(&mut self, layer: usize) -> Result<()> {
        self.run(|worker| worker.gate_up(layer));
        Ok(())
    }

    fn down(&mut self, layer: usize) -> Result<()> {
        self.run(|worker| worker.down(layer));
        Ok(())
    }

    fn head(&mut self, out: &[Out<'_>]) -> Result<()> {
        self.reserve(out.len())?;
        self.run(|worker| worker.head(out));
        self.finish(out)
    }
}

impl Backend for Cpu {
    fn config(&self) -> &Config {
        &self.model.config
    }

    /// All phases in one job: threads meet, but do not wait for the caller between them.
    fn submit(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.prepare(batch)?;
        self.reserve(batch.out.len())?;
        self.run(|worker| llama::forward(worker, batch));
        self.finish(batch.out)
    }

    fn collect(&mut self) -> Result<StepOut<'_>> {
        Ok(self.outcome.step())
    }

    fn pages(&mut self, op: PageOp<'_>) -> Result<()> {
        match op {
            PageOp::Copy { from, to } => self.cache.copy(from, to),
            PageOp::Read { page, into } => self.cache.read(page, into),
            PageOp::Write { page, from } => self.cache.write(page, from, self.kernels),
        }
    }

    fn memory(&self) -> MemoryUse {
        self.memory
    }
}

impl Cpu {
    fn slot(&self, slot: Slot) -> (Part<f32>, usize) {
        let config = &self.model.config;
        match slot {
            Slot::Hidden => (self.buffers.hidden, config.hidden),
            Slot::Query => (self.buffers.query, config.q_dim()),
            Slot::Attended => (self.buffers.attended, config.q_dim()),
            Slot::Gated => (self.buffers.gate, config.ffn),
        }
    }
}

#[expect(unsafe_code, reason = "buffers are shared with the threads of a job")]
impl Probe for Cpu {
    fn put(&mut self, slot: Slot, values: &[f32]) -> Result<()> {
        let (part, columns) = self.slot(slot);
        // SAFETY: no job is running.
        unsafe { part.slice_mut(0, values.len()) }.copy_from_slice(values);
        if slot == Slot::Gated {
            // What `down` reads is what `gate_up` made of them.
            let gated = self.buffers.gated;
            for panel in &self.step.panels {
                for row in 0..panel.rows {
                    let x = part.at((panel.first + row) * columns);
                    let forms = Forms { codes: true, numbers: self.model.has_floats() };
                    // SAFETY: no job is running, and the panels have room for the step's rows.
                    unsafe { gated.place(*panel, row, forms).put(self.kernels, x, Groups::whole(columns)) };
                }
            }
        }
        Ok(())
    }

    fn get(&mut self, slot: Slot) -> Result<Vec<f32>> {
        let (part, columns) = self.slot(slot);
        // SAFETY: no job is running.
        Ok(unsafe { part.slice(0, self.step.rows() * columns) }.to_vec())
    }
}
