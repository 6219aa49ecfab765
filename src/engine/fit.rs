//! Does it fit? The memory plan, before anything is loaded.
//!
//! A context that the user named is kept or refused with both numbers; one that nobody named shrinks to what there is, and
//! says so.

use crate::backend::{Limits, MemoryPlan, PAGE};
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::model::config::Config;
use crate::stats::{cgroup, machine};

/// The shortest context that a shrunken plan may end with.
const LEAST_CONTEXT: usize = 512;
/// The longest context: positions are 32 bits wide here, and signed in the formats and engines that we are compared with.
const MOST_CONTEXT: usize = i32::MAX as usize;

const ASK_FOR_LESS: &str = "give a smaller --ctx-size, or none to take what fits; under --bench shorter lengths";

/// What the user asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// `None` is the model's own, or what fits.
    pub context: Option<usize>,
    pub sequences: usize,
    pub chunk: usize,
}

/// Plans the memory of a model on a backend within `available` bytes (`None`: not known, so not checked).
///
/// # Errors
/// When the weights alone, or the context that was asked for, do not fit; with both numbers. Also for a context that
/// cannot be counted, which would fit where the memory is not known.
pub fn fit(
    config: &Config,
    tensors: &[&TensorInfo],
    wanted: Wanted,
    planner: impl Fn(&Config, &[&TensorInfo], Limits) -> MemoryPlan,
    available: Option<u64>,
) -> Result<MemoryPlan> {
    if let Some(context) = wanted.context.filter(|n| *n > MOST_CONTEXT) {
        return Err(Error::memory(format!(
            "a context of {context} is asked for; the longest there can be is {MOST_CONTEXT}"
        ))
        .help(ASK_FOR_LESS));
    }
    let plan_for =
        |context: usize| planner(config, tensors, Limits::new(context, wanted.sequences, wanted.chunk.min(context)));
    let full = plan_for(wanted.context.unwrap_or(config.context.min(MOST_CONTEXT)));
    let available = available.unwrap_or(u64::MAX);
    if full.total() <= available {
        return Ok(full);
    }
    let least = plan_for(LEAST_CONTEXT.min(config.context));
    if least.total() > available {
        return Err(too_large(&least, available).help("use a smaller model, or free memory"));
    }
    if wanted.context.is_some() {
        return Err(too_large(&full, available).help(ASK_FOR_LESS));
    }
    Ok(plan_for(longest(|context| plan_for(context).total() <= available, full.limits.context)))
}

/// The longest context, in whole pages, that `fits`; at least [`LEAST_CONTEXT`], which is known to.
fn longest(fits: impl Fn(usize) -> bool, most: usize) -> usize {
    let (mut low, mut high) = (LEAST_CONTEXT / PAGE, most.div_ceil(PAGE));
    while low + 1 < high {
        let middle = low.midpoint(high);
        if fits(middle * PAGE) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low * PAGE
}

/// Asks the system for all of a plan's memory and gives it back. What it refuses here (`ulimit -v`, a machine whose memory
/// is not known) would otherwise end the program in the middle of loading, without a word about contexts.
///
/// # Errors
/// When the system refuses.
pub fn try_out(plan: &MemoryPlan) -> Result<()> {
    let bytes = usize::try_from(plan.total()).unwrap_or(usize::MAX);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|e| {
        Error::memory(format!("{}; the system gives no such amount", needs(plan))).help(ASK_FOR_LESS).caused_by(e)
    })
}

fn too_large(plan: &MemoryPlan, available: u64) -> Error {
    Error::memory(format!("{}; {} are available", needs(plan), human_bytes(available)))
}

fn needs(plan: &MemoryPlan) -> String {
    format!(
        "the model needs {} with a context of {} ({} weights, {} KV cache, {} workspace)",
        human_bytes(plan.total()),
        plan.limits.context,
        human_bytes(plan.weights),
        human_bytes(plan.kv),
        human_bytes(plan.workspace),
    )
}

/// Bytes in the unit that people read: "98.4 MB" (powers of 1000).
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Bytes that this process may still take: the system's free memory, or the control groups' where that is less. `None`
/// where the system does not say (taper asks Linux only).
pub fn available_memory() -> Option<u64> {
    let free = machine::free_memory()?;
    Some(cgroup::memory_left().map_or(free, |left| left.min(free)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::model::rope::{Rope, Scaling};

    const WEIGHTS: u64 = 1_000_000;

    fn config() -> Config {
        let rope = Rope { base: 1e4, scaling: Scaling::None };
        Config {
            layers: 1,
            hidden: 8,
            ffn: 8,
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            vocab: 8,
            context: 4096,
            rms_eps: 1e-5,
            rope,
            window: None,
        }
    }

    /// A kilobyte of cache for each token.
    fn planner(_: &Config, _: &[&TensorInfo], limits: Limits) -> MemoryPlan {
        MemoryPlan { limits, weights: WEIGHTS, kv: limits.context as u64 * 1000, workspace: 0 }
    }

    fn fit_in(context: Option<usize>, available: u64) -> Result<MemoryPlan> {
        let wanted = Wanted { context, sequences: 1, chunk: 64 };
        fit(&config(), &[], wanted, planner, Some(available))
    }

    #[test]
    fn the_models_context_is_kept_when_it_fits() {
        assert_eq!(fit_in(None, WEIGHTS + 4_096_000).unwrap().limits.context, 4096);
    }

    #[test]
    fn an_unnamed_context_shrinks_to_the_last_page_that_fits() {
        assert_eq!(fit_in(None, WEIGHTS + 2_000_000).unwrap().limits.context, 1984);
        assert_eq!(fit_in(None, WEIGHTS + 2_016_000).unwrap().limits.context, 2016);
    }

    #[test]
    fn a_named_context_is_refused_with_both_numbers() {
        let e = fit_in(Some(3000), WEIGHTS + 2_000_000).unwrap_err();
        assert_eq!(e.kind(), Kind::Memory);
        assert_eq!(
            e.what(),
            "the model needs 4.0 MB with a context of 3000 (1.0 MB weights, 3.0 MB KV cache, 0 B workspace); 3.0 MB \
             are available"
        );
    }

    #[test]
    fn a_context_beyond_counting_is_refused_whatever_memory_there_is() {
        for context in [1 << 31, usize::MAX] {
            let wanted = Wanted { context: Some(context), sequences: usize::MAX, chunk: usize::MAX };
            let e = fit(&config(), &[], wanted, planner, None).unwrap_err();
            assert_eq!(e.kind(), Kind::Memory);
            assert_eq!(
                e.what(),
                format!("a context of {context} is asked for; the longest there can be is 2147483647")
            );
        }
    }

    #[test]
    fn memory_that_the_system_does_not_give_is_an_error_and_no_abort() {
        let plan = planner(&config(), &[], Limits::new(1 << 20, 1, 64));
        assert!(try_out(&plan).is_ok());
        let e = try_out(&MemoryPlan { kv: 1 << 60, ..plan }).unwrap_err().to_string();
        assert!(e.contains("with a context of 1048576 (") && e.contains("the system gives no such amount"), "{e}");
    }

    #[test]
    fn a_model_too_large_for_any_context_is_refused() {
        let e = fit_in(None, WEIGHTS).unwrap_err();
        assert!(e.to_string().ends_with("use a smaller model, or free memory"), "{e}");
    }

    #[test]
    fn bytes_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 98_362_432].map(human_bytes), ["0 B", "999 B", "1.0 kB", "98.4 MB"]);
    }
}
