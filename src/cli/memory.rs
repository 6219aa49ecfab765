//! The flags of `taper memory`, `taper embed`, and those with which a chat uses a memory.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueEnum};

use crate::memory::embed::{Compute, DEFAULT_EMBEDDER};

const MEMORY: &str = "Keep texts, and find passages of them by meaning

A memory is one SQLite file in taper's data folder: texts, where they come from, and their vectors. What was told to be kept is \
on the disk; several tapers may use one memory at a time.";

/// What a chat and an answer remember.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory")]
pub struct RecallArgs {
    /// Quote passages of the memory NAME that have to do with a question before it, and print their sources after the answer
    #[arg(long, value_name = "NAME", hide_env_values = true, env = "TAPER_MEMORY", conflicts_with_all = ["bench", "estimate_memory", "raw"])]
    pub memory: Option<String>,
    /// Most tokens of a prompt that are passages; never more than a quarter of the context
    #[arg(long, value_name = "N", hide_env_values = true, env = "TAPER_MEMORY_BUDGET", default_value_t = 768)]
    pub memory_budget: usize,
    /// The embedder of a memory that is new: a name from the registry, or a folder with a BERT's safetensors [default:
    /// all-minilm-l6-v2]
    #[arg(long, value_name = "NAME|PATH", hide_env_values = true, env = "TAPER_EMBEDDER")]
    pub embedder: Option<String>,
    /// How the embedder computes
    #[arg(long, value_name = "TYPE", hide_env_values = true, env = "TAPER_EMBEDDER_TYPE", value_enum, default_value_t)]
    pub embedder_type: Compute,
    /// Remember the conversation too, one record a turn
    #[arg(long, requires = "memory", hide_env_values = true, env = "TAPER_MEMORY_TURNS", value_parser = FalseyValueParser::new())]
    pub memory_turns: bool,
}

#[derive(Debug, Clone, Args)]
#[command(long_about = MEMORY)]
pub struct MemoryArgs {
    #[command(subcommand)]
    pub command: MemoryCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum MemoryCommand {
    /// Add files, folders or standard input; what is there already is not added twice
    Add(AddArgs),
    /// Find the passages nearest in meaning to a query
    Search(SearchArgs),
    /// List the memories, or the sources in one
    List(MemoryListArgs),
    /// Show a record
    Show(MemoryShowArgs),
    /// Remove records, a source, or a whole memory
    Rm(MemoryRmArgs),
    /// Count records, and hash what they say
    Stats(StatsArgs),
    /// Check every record, and make anew what is damaged and can be; and the index
    Rebuild(RebuildArgs),
    /// Compare forms in which vectors can be searched, on the memory's own
    Bench(MemoryBenchArgs),
    /// Print a memory as JSON lines
    Export(ExportArgs),
    /// Add what export printed
    Import(ImportArgs),
}

/// What makes vectors, and how.
#[derive(Debug, Clone, Args)]
pub struct EmbedderArgs {
    /// The embedder: a name from the registry, or a folder with a BERT's safetensors [default: the memory's own, or
    /// all-minilm-l6-v2]
    #[arg(long, value_name = "NAME|PATH", hide_env_values = true, env = "TAPER_EMBEDDER")]
    pub embedder: Option<String>,
    /// How the embedder computes
    #[arg(long, value_name = "TYPE", hide_env_values = true, env = "TAPER_EMBEDDER_TYPE", value_enum, default_value_t)]
    pub embedder_type: Compute,
    /// Threads that compute [default: one for each core]
    #[arg(short, long, value_name = "N", hide_env_values = true, env = "TAPER_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Never touch the network
    #[arg(long, hide_env_values = true, env = "TAPER_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,
    /// Only results and errors
    #[arg(short, long, hide_env_values = true, env = "TAPER_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,
}

impl EmbedderArgs {
    /// The embedder, given the one that made a memory's vectors.
    pub fn name<'a>(&'a self, of_memory: Option<&'a str>) -> &'a str {
        named(self.embedder.as_deref(), of_memory)
    }
}

impl RecallArgs {
    /// As [`EmbedderArgs::name`].
    pub fn embedder<'a>(&'a self, of_memory: Option<&'a str>) -> &'a str {
        named(self.embedder.as_deref(), of_memory)
    }
}

fn named<'a>(asked: Option<&'a str>, of_memory: Option<&'a str>) -> &'a str {
    asked.or(of_memory).unwrap_or(DEFAULT_EMBEDDER)
}

/// What the index of a memory is to reach.
#[derive(Debug, Clone, Args)]
pub struct IndexArgs {
    /// The share of the ten nearest passages that a search is to find, of which the index and its parameters follow, by
    /// measuring; 1: all are compared. Kept with the memory [default: what it was, or 0.98]
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    pub target_recall: Option<f64>,
    /// Most memory that the index may take, in MB; the vectors themselves stay on the disk. 0: what it needs. Kept with the
    /// memory
    #[arg(long, value_name = "MB", value_parser = megabytes, allow_negative_numbers = true)]
    pub index_memory: Option<u32>,
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|share| (0.5..=1.0).contains(share));
    number.ok_or_else(|| "a share is a number from 0.5 to 1".to_owned())
}

fn megabytes(text: &str) -> Result<u32, String> {
    const MOST: u32 = 1_000_000;
    let number = text.parse::<u32>().ok().filter(|megabytes| *megabytes <= MOST);
    number.ok_or_else(|| format!("a bound is a whole number of megabytes, as 120, up to {MOST}; 0 is none"))
}

#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// The memory; made if there is none of that name
    pub name: String,
    /// Files, folders with all files of text below them, or - for standard input. Of HTML what people read is added, and
    /// offsets are bytes of that text
    #[arg(value_name = "FILE|DIR|-", required = true)]
    pub paths: Vec<PathBuf>,
    /// Most tokens of a passage, from 20 to what the embedder reads of a text (254). Kept with the memory; what is there
    /// already is cut anew when it is added again [default: what it was, or 200]
    #[arg(long, value_name = "N")]
    pub chunk_tokens: Option<usize>,
    #[command(flatten)]
    pub index: IndexArgs,
    #[command(flatten)]
    pub embedder: EmbedderArgs,
}

#[derive(Debug, Clone, Args)]
pub struct SearchArgs {
    /// The memory
    pub name: String,
    /// What is looked for, in words or a sentence
    #[arg(required = true, allow_hyphen_values = true)]
    pub query: String,
    /// Most passages, 1 to 1000
    #[arg(short = 'k', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub top: u16,
    /// One JSON object a line
    #[arg(long, hide_env_values = true, env = "TAPER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    #[command(flatten)]
    pub embedder: EmbedderArgs,
}

#[derive(Debug, Clone, Args)]
pub struct MemoryListArgs {
    /// The memory; all of them when there is none
    pub name: Option<String>,
    /// One JSON object a line
    #[arg(long, hide_env_values = true, env = "TAPER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct MemoryShowArgs {
    /// The memory
    pub name: String,
    /// The number that search and list print
    pub id: i64,
    /// One JSON object
    #[arg(long, hide_env_values = true, env = "TAPER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct MemoryRmArgs {
    /// The memory
    pub name: String,
    /// Records; without any, and without --source, the whole memory is removed
    #[arg(value_name = "ID")]
    pub ids: Vec<i64>,
    /// All records of a source, as list prints it
    #[arg(long, value_name = "SOURCE", conflicts_with = "ids")]
    pub source: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Clone, Args)]
pub struct StatsArgs {
    /// The memory
    pub name: String,
    /// One JSON object
    #[arg(long, hide_env_values = true, env = "TAPER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RebuildArgs {
    /// The memory
    pub name: String,
    #[command(flatten)]
    pub index: IndexArgs,
    #[command(flatten)]
    pub embedder: EmbedderArgs,
}

#[derive(Debug, Clone, Args)]
pub struct MemoryBenchArgs {
    /// The memory
    pub name: String,
    /// Most records that take part, the first ones; a form takes minutes to make of a million
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub records: usize,
    /// As for rebuild [default: the memory's]
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    pub target_recall: Option<f64>,
    /// Threads that compute [default: one for each core]
    #[arg(short, long, value_name = "N", hide_env_values = true, env = "TAPER_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// One JSON object
    #[arg(long, hide_env_values = true, env = "TAPER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The memory
    pub name: String,
}

#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// The memory; made if there is none of that name
    pub name: String,
    /// What export printed; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    #[command(flatten)]
    pub embedder: EmbedderArgs,
}

/// How vectors are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VectorFormat {
    /// One JSON array a line
    Jsonl,
    /// An array of NumPy's, (texts, dimensions), 32-bit
    Npy,
}

#[derive(Debug, Clone, Args)]
pub struct EmbedArgs {
    /// The text
    #[arg(allow_hyphen_values = true, required_unless_present = "file")]
    pub text: Option<String>,
    /// Embed every line of FILE; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// How the vectors are printed
    #[arg(short, long, value_enum, default_value_t = VectorFormat::Jsonl)]
    pub output: VectorFormat,
    #[command(flatten)]
    pub embedder: EmbedderArgs,
}
