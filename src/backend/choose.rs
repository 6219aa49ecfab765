//! Which backend runs a model, how, and why.

use super::candle::{self, Candle};
use super::cpu::{self, Cpu, Isa};
use super::cuda::{self, Cuda, Nvidia, Tuned, probe};
use super::{Backend, KvType, Limits, MemoryPlan};
use crate::engine::fit;
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::repack::Repack;
use crate::format::weights::Weights;
use crate::model::config::Config;
use crate::stats::cores::Cores;

/// Rows of a step where memory is to be saved: four panels of the widest matrix kernel. Prompts are read as fast as with
/// 512; 12 rows took a fifth longer on one thread and several times as long on two threads of a busy machine, to save
/// 0.9 MB of SmolLM2's 158 (Zen 4, 2026-11-21).
const FEW_ROWS: usize = 48;

/// Bytes of a GPU's memory that are left to its driver, the context and the kernels: a guess, not measured yet.
const GPU_RESERVE: u64 = 800 << 20;

/// What the user wants to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Device {
    /// The fastest that takes the model.
    #[default]
    Auto,
    /// Our kernels: weights as they are in the file.
    Cpu,
    /// Our kernels on an NVIDIA GPU.
    Cuda,
    /// candle in f32: slow, and the judge of the others.
    Reference,
}

/// What is to be spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Goal {
    /// Neither at the other's cost.
    #[default]
    Balance,
    /// The least memory that keeps answers right.
    Memory,
    /// The least time among what is exact.
    Speed,
}

/// How to compute. What is `None` is chosen by the backend, for the goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch by itself")]
pub struct Compute {
    pub device: Device,
    /// One for each core; never more than this process has processors and time for.
    pub threads: Option<usize>,
    pub kv_type: Option<KvType>,
    /// Attention in blocks; otherwise all of a query's scores at once.
    pub flash_attention: Option<bool>,
    /// Rows of the largest step.
    pub chunk: Option<usize>,
    pub goal: Goal,
    /// On a GPU, launch every kernel by itself.
    pub no_graph: bool,
    /// On a GPU, let no kernel begin before the one in front has ended.
    pub no_pdl: bool,
    /// On a GPU, steps of few rows alone, among which an answer depends neither on the others nor on how its prompt was cut.
    pub deterministic: bool,
    /// On a GPU, hash every step's logits: for checks, so no flag asks for it.
    pub hash_logits: bool,
}

impl Compute {
    /// # Errors
    /// When what is asked for contradicts itself, whatever the model.
    pub fn check(&self) -> Result<()> {
        match self.kv_type {
            Some(kv_type) if self.device == Device::Reference && kv_type != KvType::F32 => {
                Err(only_f32(kv_type).help("leave --device or --kv-type out"))
            }
            _ => Ok(()),
        }
    }
}

fn only_f32(kv_type: KvType) -> Error {
    Error::usage(format!(
        "--kv-type {} is asked for; the reference backend keeps keys and values in f32 alone",
        kv_type.name()
    ))
}

/// A backend, not yet loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    kind: Kind,
    /// Rows of the largest step.
    chunk: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Cpu(cpu::Options),
    Cuda {
        options: cuda::Options,
        /// Kernels begin before the one in front has ended.
        overlap: bool,
        gpu: probe::Gpu,
    },
    Reference {
        /// For people: why it and not another.
        why: String,
    },
}

impl Choice {
    /// The backend for a model.
    ///
    /// # Errors
    /// When the device that was named does not take the model, or the one that does cannot do what is asked for.
    pub fn of(compute: &Compute, config: &Config) -> Result<Self> {
        compute.check()?;
        if compute.device == Device::Reference {
            return Ok(Self::reference(compute, "--device reference asks for it".into()));
        }
        if compute.device == Device::Cuda {
            return Self::cuda(compute, config);
        }
        match (cpu::refusal(config), compute.device, compute.kv_type) {
            (None, ..) => Self::cpu(compute),
            (Some(why), Device::Cpu, _) => {
                Err(Error::model(format!("the CPU backend does not take this model: {why}"))
                    .help("leave --device out to take the backend that does"))
            }
            (Some(why), _, Some(kv_type)) if kv_type != KvType::F32 => {
                Err(only_f32(kv_type)
                    .help(format!("leave --kv-type out: {why}, so the reference has to run this model")))
            }
            (Some(why), ..) => Ok(Self::reference(compute, why)),
        }
    }

    /// The backend of this machine for models that it takes.
    ///
    /// # Errors
    /// When `TAPER_CPU` names what the processor has not.
    pub fn cpu(compute: &Compute) -> Result<Self> {
        let (small, cores) = (compute.goal == Goal::Memory, Cores::of_process());
        Ok(Self {
            kind: Kind::Cpu(cpu::Options {
                threads: compute.threads.map_or(cores.usual(), |n| n.min(cores.most())),
                isa: Isa::from_env()?,
                kv_type: compute.kv_type.unwrap_or(if small { KvType::Q8_0 } else { KvType::F16 }),
                flash_attention: compute.flash_attention.unwrap_or(true),
            }),
            // As many as fill its matrix kernels, and are soon done when Ctrl-C is pressed.
            chunk: compute.chunk.unwrap_or(if small { FEW_ROWS } else { 256 }),
        })
    }

    fn cuda(compute: &Compute, config: &Config) -> Result<Self> {
        let gpu = probe::look().map_err(|absence| absence.error())?;
        if let Some(why) = cuda::refusal(config) {
            return Err(Error::model(format!("the CUDA backend does not take this model: {why}"))
                .help("leave --device out to take a backend that does"));
        }
        let options = cuda::Options {
            kv_type: compute.kv_type.unwrap_or(KvType::F16),
            graph: !compute.no_graph,
            flash_attention: compute.flash_attention.unwrap_or(true),
            hashes: compute.hash_logits,
        };
        let kind = Kind::Cuda { options, overlap: !compute.no_pdl, gpu };
        Ok(Self { kind, chunk: Self::cuda_chunk(compute) })
    }

    /// Rows of a step on a GPU.
    fn cuda_chunk(compute: &Compute) -> usize {
        // As many as give each processor of a large GPU a tile of a narrow matrix.
        let usual = if compute.goal == Goal::Memory { FEW_ROWS } else { 512 };
        let chunk = compute.chunk.unwrap_or(usual);
        if compute.deterministic { chunk.min(cuda::FEW) } else { chunk }
    }

    fn reference(compute: &Compute, why: String) -> Self {
        let chunk = if compute.goal == Goal::Memory { FEW_ROWS } else { 64 };
        Self { kind: Kind::Reference { why }, chunk: compute.chunk.unwrap_or(chunk) }
    }

    /// As benchmarks name it.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Cpu(_) => "cpu",
            Kind::Cuda { .. } => "cuda",
            Kind::Reference { .. } => "reference",
        }
    }

    /// For people: how it computes, and why.
    pub fn description(&self) -> String {
        let attention = if self.flash_attention() { "blocked attention" } else { "plain attention" };
        let how = format!("keys and values in {}, {attention}, {} rows a step", self.kv_type().name(), self.chunk);
        match &self.kind {
            Kind::Cpu(o) => {
                let threads = if o.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", o.threads) };
                format!("kernels for {}, {threads}, {how}", o.isa.name())
            }
            Kind::Cuda { gpu, .. } => format!("{}, {how}", gpu.name),
            Kind::Reference { why } => format!("{why}; {how}"),
        }
    }

    /// Rows of the largest step.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    pub fn kv_type(&self) -> KvType {
        match &self.kind {
            Kind::Cpu(options) => options.kv_type,
            Kind::Cuda { options, .. } => options.kv_type,
            Kind::Reference { .. } => KvType::F32,
        }
    }

    pub fn flash_attention(&self) -> bool {
        match &self.kind {
            Kind::Cpu(options) => options.flash_attention,
            Kind::Cuda { options, .. } => options.flash_attention,
            Kind::Reference { .. } => false,
        }
    }

    /// Bytes of memory that there are for a model; `None` where the system does not say.
    pub fn available_memory(&self) -> Option<u64> {
        match &self.kind {
            Kind::Cuda { gpu, .. } => Some(gpu.memory.saturating_sub(GPU_RESERVE)),
            Kind::Cpu(_) | Kind::Reference { .. } => fit::available_memory(),
        }
    }

    /// Whether a model's memory is the system's own.
    pub fn is_on_host(&self) -> bool {
        !matches!(self.kind, Kind::Cuda { .. })
    }

    pub fn plan(&self, config: &Config, tensors: &[&TensorInfo], limits: Limits) -> MemoryPlan {
        match &self.kind {
            Kind::Cpu(options) => cpu::plan(config, tensors, limits, options),
            Kind::Cuda { options, .. } => cuda::plan(config, tensors, limits, *options),
            Kind::Reference { .. } => candle::plan(config, tensors, limits),
        }
    }

    /// # Errors
    /// When the weights are damaged, or the system has not the memory that was planned.
    pub fn load(
        &self,
        config: &Config,
        weights: &Weights,
        plan: &MemoryPlan,
        repack: &Repack,
    ) -> Result<Box<dyn Backend>> {
        Ok(match &self.kind {
            Kind::Cpu(options) => Box::new(Cpu::load(config, weights, plan, options, repack)?),
            Kind::Cuda { options, overlap, gpu } => {
                let nvidia = Box::new(Nvidia::open(*overlap)?);
                let mut cuda = Cuda::load(nvidia, config, weights, plan, *options, repack.progress)?;
                // Hashes are of the steps that a caller asks for.
                if options.graph && !options.hashes {
                    let folder = repack.folder.as_ref().and_then(|folder| folder.path().parent());
                    cuda.tune(&folder.map(|folder| Tuned::within(folder, &gpu.name)).unwrap_or_default());
                }
                Box::new(cuda)
            }
            Kind::Reference { .. } => Box::new(Candle::load(config, weights, plan)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_to_be_deterministic_takes_steps_of_few_rows() {
        let rows = |chunk, deterministic| Choice::cuda_chunk(&Compute { chunk, deterministic, ..Compute::default() });
        assert_eq!([rows(None, false), rows(Some(100), false)], [512, 100]);
        assert_eq!([rows(None, true), rows(Some(100), true), rows(Some(5), true)], [16, 16, 5]);
    }
}
