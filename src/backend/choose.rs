//! Which backend runs a model, and why.

use super::candle::{self, Candle};
use super::cpu::{self, Cpu};
use super::{Backend, Limits, MemoryPlan};
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::repack::Repack;
use crate::format::weights::Weights;
use crate::model::config::Config;

/// What the user wants to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Device {
    /// The fastest that takes the model.
    #[default]
    Auto,
    /// Our kernels: 4-bit and 8-bit weights as they are in the file.
    Cpu,
    /// candle in f32: slow, and the judge of the others.
    Reference,
}

/// A backend, not yet loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    kind: Kind,
    /// For people: why it and not another.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cpu(cpu::Options),
    Reference,
}

impl Choice {
    /// The backend for a model on `device` with so many threads.
    ///
    /// # Errors
    /// When the device that was named does not take the model.
    pub fn of(device: Device, config: &Config, tensors: &[&TensorInfo], threads: usize) -> Result<Self> {
        if device == Device::Reference {
            return Ok(Self { kind: Kind::Reference, why: "--device reference asks for it".into() });
        }
        match (cpu::refusal(config, tensors), device) {
            (None, _) => Self::cpu(threads),
            (Some(why), Device::Cpu) => Err(Error::model(format!("the CPU backend does not take this model: {why}"))
                .help("leave --device out to take the backend that does")),
            (Some(why), _) => Ok(Self { kind: Kind::Reference, why }),
        }
    }

    /// The backend of this machine for models that it takes.
    ///
    /// # Errors
    /// When `TAPER_CPU` names what the processor has not.
    pub fn cpu(threads: usize) -> Result<Self> {
        let options = cpu::Options::from_env(threads)?;
        Ok(Self { kind: Kind::Cpu(options), why: format!("kernels for {}", options.isa.name()) })
    }

    /// As benchmarks name it.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Cpu(_) => "cpu",
            Kind::Reference => "reference",
        }
    }

    /// Rows of a step that fill its matrix kernels, and are soon done when Ctrl-C is pressed.
    pub fn chunk(&self) -> usize {
        match self.kind {
            Kind::Cpu(_) => 256,
            Kind::Reference => 64,
        }
    }

    pub fn plan(&self, config: &Config, tensors: &[&TensorInfo], limits: Limits) -> MemoryPlan {
        match &self.kind {
            Kind::Cpu(options) => cpu::plan(config, tensors, limits, options),
            Kind::Reference => candle::plan(config, tensors, limits),
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
            Kind::Reference => Box::new(Candle::load(config, weights, plan)?),
        })
    }
}
