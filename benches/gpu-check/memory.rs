//! The GPU's memory that a model takes, beside what was planned for it.

use taper::backend::choose::Compute;
use taper::backend::cuda::Nvidia;
use taper::engine::fit::human_bytes;
use taper::model::synth::Synth;
use taper::{LoadOptions, Result, Taper};

use crate::{Finding, load};

/// How far what is taken may be from the plan.
const BOUND: f64 = 0.05;

pub fn check(tell: &mut dyn FnMut(Finding)) -> Result<()> {
    // The driver's context is there already, which is no model's.
    let gpu = Nvidia::open(true)?;
    for (model, context) in [("synth:tinyllama-1.1b", 4096), ("synth:llama-3.2-1b", 8192)] {
        let before = gpu.free_memory()?;
        let taper = load(model, context, 1, Compute::default())?;
        let taken = before.saturating_sub(gpu.free_memory()?);
        drop(taper);
        let planned = planned(model, context)?;
        let off = taken as f64 / planned as f64 - 1.0;
        tell(Finding {
            what: format!("{model}, context {context}"),
            found: format!("{} ({:+.1} %)", human_bytes(taken), 100.0 * off),
            bound: format!("{} ± 5 %", human_bytes(planned)),
            is_right: off.abs() <= BOUND,
        });
    }
    Ok(())
}

fn planned(model: &str, context: usize) -> Result<u64> {
    let synth = Synth::named(model)?.ok_or_else(|| taper::Error::usage("no such model"))?;
    let compute = Compute { device: taper::backend::choose::Device::Cuda, ..Compute::default() };
    let options = LoadOptions { compute, context: Some(context), ..LoadOptions::default() };
    Ok(Taper::plan(&synth.open()?, &options, None)?.total())
}
