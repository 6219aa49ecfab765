//! The flags that trade speed, memory and exactness.

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

use crate::backend::KvType;
use crate::backend::choose::{Compute, Goal};
use crate::error::{Error, Result};

/// How it computes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Speed and memory")]
pub struct ComputeArgs {
    /// How keys and values are kept [default: f16; the reference keeps f32 alone]
    #[arg(long, value_enum, value_name = "TYPE", hide_env_values = true, env = "TAPER_KV_TYPE")]
    pub kv_type: Option<KvType>,
    /// Attention in blocks; off computes it plainly, to check the blocks by [default: on]
    #[arg(long, value_enum, value_name = "ON|OFF", hide_env_values = true, env = "TAPER_FLASH_ATTENTION")]
    pub flash_attention: Option<Switch>,
    /// Take the least memory that keeps answers right, and say how; other flags win over it
    #[arg(long, hide_env_values = true, env = "TAPER_OPTIMIZE_MEMORY", value_parser = FalseyValueParser::new(), conflicts_with = "max_speed")]
    pub optimize_memory: bool,
    /// Take what is exact and fastest here, and say what that is; other flags win over it
    #[arg(long, hide_env_values = true, env = "TAPER_MAX_SPEED", value_parser = FalseyValueParser::new())]
    pub max_speed: bool,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// What a GPU does without: to isolate a fault, or for the same bits whatever goes on beside.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Speed and memory")]
pub struct GpuArgs {
    /// On a GPU, launch every kernel by itself, to isolate a fault
    #[arg(long, hide_short_help = true, hide_env_values = true, env = "TAPER_NO_GRAPH", value_parser = FalseyValueParser::new())]
    pub no_graph: bool,
    /// On a GPU, let no kernel begin before the one in front has ended, to isolate a fault
    #[arg(long, hide_short_help = true, hide_env_values = true, env = "TAPER_NO_PDL", value_parser = FalseyValueParser::new())]
    pub no_pdl: bool,
    /// On a GPU, the same bits however a prompt is cut and whatever is computed beside it: steps of at most 16 tokens, which read
    /// prompts more slowly; processors always give the same
    #[arg(long, hide_short_help = true, hide_env_values = true, env = "TAPER_DETERMINISTIC", value_parser = FalseyValueParser::new())]
    pub deterministic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

impl ComputeArgs {
    /// What the flags ask for; device, threads and rows are other flags'.
    ///
    /// # Errors
    /// Two goals at once: the environment or the settings file can name both, where clap sees no conflict.
    pub fn compute(&self) -> Result<Compute> {
        let goal = match (self.optimize_memory, self.max_speed) {
            (false, false) => Goal::Balance,
            (true, false) => Goal::Memory,
            (false, true) => Goal::Speed,
            (true, true) => {
                return Err(Error::usage("--optimize-memory and --max-speed are both asked for").help(
                    "choose one of them; they may also be set as TAPER_OPTIMIZE_MEMORY, TAPER_MAX_SPEED or in \
                     config.toml",
                ));
            }
        };
        Ok(Compute {
            kv_type: self.kv_type,
            flash_attention: self.flash_attention.map(|switch| switch == Switch::On),
            goal,
            no_graph: self.gpu.no_graph,
            no_pdl: self.gpu.no_pdl,
            deterministic: self.gpu.deterministic,
            ..Compute::default()
        })
    }
}
