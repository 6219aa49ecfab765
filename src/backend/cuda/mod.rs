//! The CUDA backend: the kernels of `kernels/cuda` on one NVIDIA GPU.
//!
//! Weights are laid out anew when a model is loaded (`layout`, `model`); weights, pages and activations are three pieces of
//! the GPU's memory, taken before the first step (`memory`). Each phase is a kernel or two in one stream (`phases`); blocks
//! quantize what they multiply. Steps that decode are recorded once and then replayed (`replay`), each from the tokens that
//! the GPU chose in the one before (`flights`, `draws`, `changes`). What the backend asks of the GPU is the trait [`Gpu`]: tests run the
//! same backend and the same kernels on the host.

mod args;
mod attention;
mod changes;
mod draws;
mod few;
mod flights;
mod gpu;
mod hash;
mod head;
mod images;
pub mod layout;
mod load;
mod memory;
mod model;
mod modules;
mod pages;
mod phases;
mod prefill;
pub mod probe;
mod qkv;
mod replay;
mod several;
mod step;
mod tune;
mod tuned;
mod two_types;

pub use args::Plain;
pub use gpu::{Address, Gpu, Graph, Launch, Nvidia, Pinned, THREADS};
pub use model::refusal;
pub use tuned::Tuned;

use self::args::bytes_of;
pub use self::few::Sharing;
use self::flights::{Flights, Outbox};
pub use self::memory::FEW;
use self::memory::{Arena, Buffers, few, head_rows};
use self::model::{Layer, Model};
use self::prefill::Tiles;
use self::replay::Replays;
use self::step::{Inbox, STEPS, Step};
use super::outcome::{KEPT, Outcome};
use super::{Backend, Batch, DeviceTime, KvType, Limits, MemoryPlan, MemoryUse, PageOp, StepOut};
use crate::error::Result;
use crate::format::TensorInfo;
use crate::format::weights::Weights;
use crate::model::config::Config;
use crate::sample::Sampling;
use crate::terminal::progress::Mode;

/// Steps that the host may be ahead: one that runs, one that waits for it, and one for when the host is late.
const AHEAD: usize = 3;
const _: () = assert!(AHEAD <= STEPS, "a step's place is free again when it is collected");
const _: () = assert!(AHEAD <= KEPT, "what steps in flight chose is to be found when they are collected");

/// How it computes; faults are isolated by doing without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub kv_type: KvType,
    /// Steps that decode are recorded and replayed.
    pub graph: bool,
    /// Whether attention is blocked; otherwise it is written plainly, to check the blocked forms by.
    pub flash_attention: bool,
    /// Whether every step's logits are hashed, see [`Backend::logits_hash`].
    pub hashes: bool,
}

/// Bytes this backend takes of the GPU's memory.
pub fn plan(config: &Config, tensors: &[&TensorInfo], limits: Limits, options: Options) -> MemoryPlan {
    let mut arena = Arena::default();
    Buffers::new(&mut arena, config, &limits, options, model::have_two_types(tensors));
    MemoryPlan {
        limits,
        weights: model::weight_bytes(tensors),
        kv: (limits.pages as u64).saturating_mul(pages::bytes(config, options.kv_type) as u64),
        workspace: arena.next,
    }
}

/// The CUDA backend.
pub struct Cuda {
    gpu: Box<dyn Gpu>,
    model: Model,
    buffers: Buffers,
    limits: Limits,
    pages: Address,
    options: Options,
    step: Step,
    inbox: Inbox,
    tiles: Tiles,
    outbox: Outbox,
    flights: Flights,
    /// Logits that the host asked for: of `head_rows` rows.
    some_logits: Pinned,
    replays: Replays,
    sharing: Sharing,
    /// Kernels that were enqueued or recorded, and how many of them were the last step's of those that follow each other.
    launches: usize,
    launches_of_step: usize,
    outcome: Outcome,
    memory: MemoryUse,
}

impl Cuda {
    /// Lays the weights out in the memory of `gpu`, and takes room for pages and activations.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or unknown, or one with NaN or infinite numbers; or when the GPU has not the
    /// memory.
    pub fn load(
        mut gpu: Box<dyn Gpu>,
        config: &Config,
        weights: &Weights,
        plan: &MemoryPlan,
        options: Options,
        progress: Mode,
    ) -> Result<Self> {
        let model = Model::load(config, weights, plan.weights, progress, &mut *gpu)?;
        let workspace = gpu.take(plan.workspace as usize)?;
        let has_two_types = model.layers.iter().any(Layer::has_two_types);
        let buffers = Buffers::new(&mut Arena { next: workspace }, config, &plan.limits, options, has_two_types);
        let few = few(&plan.limits);
        gpu.write(buffers.slices, &vec![0; 4 * few])?;
        gpu.write(buffers.best, &vec![0; 8 * few.max(head_rows(&plan.limits))])?;
        gpu.write(buffers.ended, &[0; 4])?;
        gpu.write(buffers.hash, &[0; 8])?;
        if has_two_types {
            let zeros = vec![0; 4 * plan.limits.chunk * config.ffn];
            [buffers.gate, buffers.up].iter().try_for_each(|product| gpu.write(*product, &zeros))?;
        }
        gpu.write(buffers.in_order, bytes_of(&(0..plan.limits.chunk as u32).collect::<Vec<_>>()))?;
        Ok(Self {
            pages: gpu.take(plan.kv as usize)?,
            inbox: Inbox::new(config, &plan.limits, &mut *gpu)?,
            outbox: Outbox::new(&plan.limits, &mut *gpu)?,
            flights: Flights::default(),
            some_logits: gpu.take_pinned(4 * head_rows(&plan.limits) * config.vocab)?,
            buffers,
            limits: plan.limits,
            options,
            step: Step::new(few),
            tiles: Tiles::default(),
            replays: Replays::default(),
            sharing: Sharing::Beside,
            launches: 0,
            launches_of_step: 0,
            outcome: Outcome::default(),
            memory: MemoryUse { weights: plan.weights, kv: plan.kv },
            gpu,
            model,
        })
    }
}

impl Backend for Cuda {
    fn config(&self) -> &Config {
        &self.model.config
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.take_in(batch)?;
        if let Some(key) = self.replay_key(batch) {
            self.enqueue_next(key)?;
            self.take_off();
            return Ok(());
        }
        self.enqueue(batch.out)?;
        self.settle(batch.out)?;
        self.arrive();
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOut<'_>> {
        self.next_given()
    }

    fn in_flight(&self) -> usize {
        AHEAD
    }

    fn looks_back(&self, sampling: &Sampling) -> bool {
        draws::takes(sampling, self.model.config.vocab)
    }

    fn pages(&mut self, op: PageOp<'_>) -> Result<()> {
        self.page_op(op)
    }

    fn memory(&self) -> MemoryUse {
        self.memory
    }

    fn take_device_time(&mut self) -> Option<DeviceTime> {
        let (busy, idle) = self.flights.take_times();
        Some(DeviceTime { launches: self.launches_of_step, busy, idle })
    }

    fn logits_hash(&self) -> Option<u64> {
        self.options.hashes.then(|| self.flights.hash())
    }
}
