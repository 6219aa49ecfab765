//! Every flag and its help.
//!
//! Names follow llama.cpp where it has one. Flags that are not of one run alone have an environment name, `TAPER_` and the
//! long name. The flag wins, over the variables of flags that it conflicts with too.
#![allow(rustdoc::broken_intra_doc_links, reason = "comments here are the help, whose [:FILE] is no link")]

pub mod compute;
#[cfg(feature = "memory")]
mod memory;
mod models;
mod tips;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::backend::choose::Device;
use crate::config::process_env;
use crate::config::settings::{self, Flags, Settings};
use crate::error::{Error, Result};
use crate::format::quantize::Quant;
use crate::registry::manifest::DEFAULT_MODEL;
use crate::sample::Sampling;
use crate::terminal::color::Color;

pub use compute::{ComputeArgs, Switch};
#[cfg(feature = "memory")]
pub use memory::{
    AddArgs, EmbedArgs, EmbedderArgs, ExportArgs, ImportArgs, IndexArgs, MemoryArgs, MemoryBenchArgs, MemoryCommand,
    MemoryListArgs, MemoryRmArgs, MemoryShowArgs, RebuildArgs, RecallArgs, SearchArgs, StatsArgs, VectorFormat,
};
pub use models::{ListArgs, ModelsArgs, ModelsCommand, OutputArgs, PullArgs, RmArgs, ShowArgs, VerifyArgs};

/// Chats with a Llama-family model on the machine in front of you.
///
/// Without -p, -f or piped input: a chat. With one of them: one answer on standard output, all else on standard error.
#[derive(Debug, Parser)]
#[command(name = "taper", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[cfg(feature = "memory")]
    #[command(flatten)]
    pub recall: RecallArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub bench: BenchArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure a model's perplexity on a text, as llama-perplexity does
    Perplexity(PerplexityArgs),
    /// Print the token ids of standard input as one JSON array
    Tokenize(TokenizeArgs),
    /// Say what this machine has, and what taper makes of it
    Doctor(DoctorArgs),
    /// Print the script that completes taper's flags in a shell
    Completions { shell: Shell },
    /// List, fetch, show, remove and verify models
    Models(ModelsArgs),
    /// Keep texts, and find passages of them by meaning
    #[cfg(feature = "memory")]
    Memory(MemoryArgs),
    /// Print the vectors of texts
    #[cfg(feature = "memory")]
    Embed(EmbedArgs),
}

/// Which model, and how it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A name from the registry, a .gguf file, a folder with safetensors, or hf:USER/REPO[:FILE]; synth:SHAPE[:TYPE] has
    /// random weights [default: smollm2-135m, or what your models.toml says]
    #[arg(
        short,
        long,
        value_name = "NAME|PATH|HF",
        hide_env_values = true,
        env = "TAPER_MODEL",
        default_value = DEFAULT_MODEL,
        hide_default_value = true
    )]
    pub model: String,
    /// The model is of this run: neither the default, nor of the settings file
    #[arg(skip)]
    pub model_named: bool,
    /// Tokens of context; 0 is the model's own, or what fits in memory
    #[arg(short, long, value_name = "N", hide_env_values = true, env = "TAPER_CTX_SIZE", default_value_t = 0)]
    pub ctx_size: usize,
    /// Threads that compute [default: one for each core]
    #[arg(short, long, value_name = "N", hide_env_values = true, env = "TAPER_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What computes; auto takes the fastest backend that can run the model
    #[arg(long, value_enum, hide_env_values = true, env = "TAPER_DEVICE", default_value_t = Device::Auto)]
    pub device: Device,
    /// What floating-point weights become when they are loaded; quantized ones stay what they are
    #[arg(long, value_enum, value_name = "TYPE", hide_env_values = true, env = "TAPER_QUANT", default_value_t = Quant::None)]
    pub quant: Quant,
    /// Take the pre-tokenizer NAME instead of the one that the GGUF file names
    #[arg(long, value_name = "NAME", hide_env_values = true, env = "TAPER_PRE")]
    pub pre: Option<String>,
    /// Never touch the network
    #[arg(long, hide_env_values = true, env = "TAPER_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,
    /// Only answers and errors
    #[arg(short, long, hide_env_values = true, env = "TAPER_QUIET", value_parser = FalseyValueParser::new(), conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say what is being done; twice for more
    #[arg(short, long, hide_env_values = true, env = "TAPER_VERBOSE", action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// What to answer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// Answer TEXT and exit; piped input is put before it. Under --bench: prompt lengths, as 128,512
    #[arg(short, long, value_name = "TEXT", hide_env_values = true, env = "TAPER_PROMPT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Take the prompt from FILE; - is standard input
    #[arg(short, long, value_name = "FILE", hide_env_values = true, env = "TAPER_FILE", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,
    /// The system message (also -sys)
    #[arg(long, value_name = "TEXT", hide_env_values = true, env = "TAPER_SYSTEM", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// The system message is of this run, not of the settings file
    #[arg(skip)]
    pub system_named: bool,
    /// Most tokens of an answer; -1 is no limit. Under --bench: answer lengths, as 64,128
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        hide_env_values = true,
        env = "TAPER_PREDICT",
        value_delimiter = ',',
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..)
    )]
    pub predict: Vec<i64>,
    /// End tokens and stop texts do not count before N tokens
    #[arg(long, value_name = "N", hide_env_values = true, env = "TAPER_MIN_TOKENS", default_value_t = 0)]
    pub min_tokens: usize,
    /// End the answer before TEXT; may be given more than once
    #[arg(long, value_name = "TEXT", hide_env_values = true, env = "TAPER_STOP", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Complete the prompt as it stands, without the chat template
    #[arg(long, hide_env_values = true, env = "TAPER_RAW", value_parser = FalseyValueParser::new())]
    pub raw: bool,
    /// One JSON object a line: every token, then a summary
    #[arg(long, hide_env_values = true, env = "TAPER_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

/// The chat at a terminal.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatArgs {
    /// Go on with the last session, and its model unless -m names one
    #[arg(long = "continue", conflicts_with_all = ["session", "prompt", "file", "bench"])]
    pub continue_last: bool,
    /// Go on with the session ID, and its model unless -m names one; a new one is made if there is none of that name
    #[arg(long, value_name = "ID", conflicts_with_all = ["prompt", "file", "bench"])]
    pub session: Option<String>,
    /// Style answers with colors and bold
    #[arg(long, value_enum, value_name = "WHEN", hide_env_values = true, env = "TAPER_COLOR", default_value_t = Color::Auto)]
    pub color: Color,
}

/// How tokens are chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the random draws; -1 takes a new one and prints it
    #[arg(short, long, value_name = "N", hide_env_values = true, env = "TAPER_SEED", default_value_t = -1, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..))]
    pub seed: i64,
    /// 0 always takes the likeliest token
    #[arg(
        long,
        value_name = "X",
        hide_env_values = true,
        env = "TAPER_TEMP",
        default_value_t = 0.8,
        allow_negative_numbers = true
    )]
    pub temp: f32,
    /// Keep the N likeliest tokens; 0 keeps all
    #[arg(long, value_name = "N", hide_env_values = true, env = "TAPER_TOP_K", default_value_t = 40)]
    pub top_k: usize,
    /// Keep the likeliest tokens that together reach X; 1 keeps all
    #[arg(
        long,
        value_name = "X",
        hide_env_values = true,
        env = "TAPER_TOP_P",
        default_value_t = 0.95,
        allow_negative_numbers = true
    )]
    pub top_p: f32,
    /// Keep tokens at least X times as probable as the likeliest; 0 keeps all
    #[arg(
        long,
        value_name = "X",
        hide_env_values = true,
        env = "TAPER_MIN_P",
        default_value_t = 0.05,
        allow_negative_numbers = true
    )]
    pub min_p: f32,
    /// Make tokens of the last 64, the prompt's too, less likely; 1 is off
    #[arg(
        long,
        value_name = "X",
        hide_env_values = true,
        env = "TAPER_REPEAT_PENALTY",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub repeat_penalty: f32,
    /// Lower tokens by X for each time they came lately
    #[arg(
        long,
        value_name = "X",
        hide_env_values = true,
        env = "TAPER_FREQUENCY_PENALTY",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub frequency_penalty: f32,
    /// Lower tokens that came lately by X
    #[arg(
        long,
        value_name = "X",
        hide_env_values = true,
        env = "TAPER_PRESENCE_PENALTY",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub presence_penalty: f32,
    /// Add to a token's logit, as 15043+1 or 15043-inf; may be given more than once
    #[arg(long, value_name = "ID±X", hide_env_values = true, env = "TAPER_LOGIT_BIAS", value_parser = parse_bias)]
    pub logit_bias: Vec<(u32, f32)>,
}

impl SamplingArgs {
    /// The settings, with a seed drawn where none was given.
    ///
    /// # Errors
    /// A value out of its range.
    pub fn sampling(&self) -> Result<Sampling> {
        let sampling = Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: seed(self.seed),
            ..Sampling::default()
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// The seed that a number stands for. -1 is a new one; there are no others below 0, so that a seed is printed as it was
/// typed and can be typed again.
pub fn seed(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_else(|_| random_seed())
}

/// A seed that fits in 32 bits, so that people can type it again. The hasher's keys come from the system's random source.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 32
}

fn parse_bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let split = text.find(['+', '-']).filter(|at| *at > 0);
    let parsed = split.and_then(|at| Some((text[..at].parse().ok()?, text[at..].parse::<f32>().ok()?)));
    // What has digits and is infinite is too large for a number: it forbids no token by chance.
    let is_said = |bias: f32| !bias.is_nan() && (bias.is_finite() || text.ends_with(|c: char| c.is_ascii_alphabetic()));
    parsed.filter(|(_, bias)| is_said(*bias)).ok_or_else(|| "expected a token id and a number, as 15043+1".into())
}

/// The benchmark.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Benchmark")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct BenchArgs {
    /// Measure prompt and generation speed (-p 512 -n 128) instead of answering
    #[arg(long, group = "report", conflicts_with_all = ["file", "json", "raw", "system", "stop"])]
    pub bench: bool,
    /// Say what the model takes in memory with --ctx-size, and whether it fits, without loading it
    #[arg(long, group = "report", conflicts_with_all = ["prompt", "file", "json", "raw", "system", "stop"])]
    pub estimate_memory: bool,
    /// Repetitions of each measurement
    #[arg(short, long, value_name = "N", requires = "bench", default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repetitions: u16,
    /// Measure after N tokens of context too, as 0,1024
    #[arg(short, long, value_name = "N", requires = "bench", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<u32>,
    /// Measure five kinds of questions instead of random tokens
    #[arg(long, requires = "bench")]
    pub prompts: bool,
    /// Say how far the distributions are from the reference's, on a short text
    #[arg(long, requires = "bench")]
    pub check: bool,
    /// How the results are printed
    #[arg(short, long, value_enum, requires = "report", default_value_t = Format::Md)]
    pub output: Format,
}

/// A result's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    Md,
    Json,
    Csv,
}

#[derive(Debug, Clone, Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Say how far the distributions are from the reference's too: their Kullback-Leibler divergence
    #[arg(long)]
    pub kl: bool,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    pub output: Format,
}

#[derive(Debug, Clone, Args)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Take control tokens in the text as plain text, and add no BOS or EOS
    #[arg(long)]
    pub no_special: bool,
}

#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Threads that measure the memory's bandwidth [default: one for each core]
    #[arg(short, long, value_name = "N", hide_env_values = true, env = "TAPER_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// A shell that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The command line of this process: flag, then environment, then the user's settings file, then the default. Help, version
/// and usage errors end the program here.
///
/// # Errors
/// When a variable is wrong, or the settings file, where it matters; when help cannot be written.
pub fn parse() -> Result<Cli> {
    let args = spell_out(std::env::args_os());
    let typed = match settings::deaf(Cli::command()).try_get_matches_from(&args) {
        Ok(typed) => typed,
        Err(e) => return Err(leave(e, &args)),
    };
    layered(&args, &typed, process_env)
}

/// The command line with what the environment and the settings file add to it.
fn layered(args: &[OsString], typed: &ArgMatches, env: impl Fn(&str) -> Option<OsString>) -> Result<Cli> {
    let variables = Settings::of_env(&env);
    let mut file = match settings::of_user(&env) {
        Err(_) if !needs_settings(typed) => Settings::default(),
        read => read?,
    };
    let typed = settings::typed(&Cli::command(), typed);
    if typed.contains("bench") {
        file.forget("predict"); // the benchmark's lengths are no answer's
    }
    let of_this_run: Flags = typed.union(&variables.flags()).cloned().collect();
    let command = variables.apply(file.apply(Cli::command(), &of_this_run), &typed);
    let mut matches = settings::deaf(command).try_get_matches_from(args).map_err(|e| settings::bad_variable(&e))?;
    let mut cli = Cli::from_arg_matches_mut(&mut matches).map_err(|e| settings::bad_variable(&e))?;
    cli.model.model_named = of_this_run.contains("model");
    cli.prompt.system_named = of_this_run.contains("system");
    Ok(cli)
}

/// Whether a mistake in the settings file is a reason to refuse a command: not where nothing in the file could change what it
/// does. `doctor` tells of the mistake. A download must know whether the file forbids the network.
fn needs_settings(typed: &ArgMatches) -> bool {
    match typed.subcommand() {
        Some(("doctor" | "completions", _)) => false,
        Some(("models", models)) => models.subcommand_name() == Some("pull"),
        _ => true,
    }
}

/// Ends the program with clap's words: help, the version, or what is wrong with what was typed. Returns when the help that
/// was asked for cannot be written.
#[expect(clippy::exit, reason = "as clap's own, with its code: there is nothing to clean up yet")]
fn leave(mut e: clap::Error, args: &[OsString]) -> Error {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
        // Help tells the names of the variables, which the command that parses does not know.
        e = Cli::command().try_get_matches_from(args).err().unwrap_or(e);
    }
    if let Some(tip) = tips::of(&e, args) {
        e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    match e.print() {
        Err(failed) if !e.use_stderr() => Error::output(failed),
        _ => std::process::exit(e.exit_code()),
    }
}

/// Flags whose value may begin with a dash.
const TAKE_TEXT: [&str; 5] = ["-p", "--prompt", "-sys", "--system", "--stop"];

/// The process's arguments with `-sys` spelled out: clap would read it as `-s ys`.
fn spell_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false; // after `--`, and as the value of the flag before
    let mut value_of_text = false;
    args.map(|arg| {
        let plain = literal || value_of_text;
        literal |= arg == "--";
        value_of_text = !plain && TAKE_TEXT.iter().any(|flag| arg == *flag);
        match arg.to_str().filter(|_| !plain).and_then(|arg| arg.strip_prefix("-sys")) {
            Some("") => "--system".into(),
            Some(value) if value.starts_with('=') => format!("--system{value}").into(),
            _ => arg,
        }
    })
    .collect()
}

impl PromptArgs {
    /// The most tokens of an answer; `None` is no limit.
    ///
    /// # Errors
    /// More than one number, which only the benchmark takes.
    pub fn max_tokens(&self) -> Result<Option<usize>> {
        match self.predict.as_slice() {
            [] => Ok(None),
            [n] => Ok(usize::try_from(*n).ok()),
            more => {
                let what = format!("--predict is given {} numbers, and takes one; a list is for --bench", more.len());
                Err(Error::usage(what))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(args: &[&str]) -> Vec<String> {
        spell_out(args.iter().map(OsString::from)).into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sys_is_system_unless_it_is_a_text() {
        assert_eq!(spelled(&["taper", "-sys", "be brief"]), ["taper", "--system", "be brief"]);
        assert_eq!(spelled(&["taper", "-sys=-", "-system"]), ["taper", "--system=-", "-system"]);
        assert_eq!(spelled(&["taper", "-p", "-sys", "--stop", "-sys"]), ["taper", "-p", "-sys", "--stop", "-sys"]);
        assert_eq!(spelled(&["taper", "--", "-sys"]), ["taper", "--", "-sys"]);
    }

    /// What is made of arguments in an environment. No settings file: nothing says where it would be.
    fn parsed(args: &[&str], env: &[(&str, &str)]) -> Result<Cli> {
        let args = spell_out(std::iter::once(&"taper").chain(args).map(OsString::from));
        let typed = settings::deaf(Cli::command()).try_get_matches_from(&args).unwrap();
        layered(&args, &typed, |name| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn a_flag_wins_over_the_variables_that_it_conflicts_with() {
        let by_file = parsed(&["-f", "a.txt"], &[("TAPER_PROMPT", "x")]).unwrap();
        assert_eq!((by_file.prompt.prompt, by_file.prompt.file), (None, Some("a.txt".into())));
        let by_text = parsed(&["-p", "x"], &[("TAPER_FILE", "a.txt")]).unwrap();
        assert_eq!((by_text.prompt.prompt.as_deref(), by_text.prompt.file), (Some("x"), None));
        let loud = parsed(&["-v"], &[("TAPER_QUIET", "1")]).unwrap();
        assert_eq!((loud.model.quiet, loud.model.verbose), (false, 1));
        let quiet = parsed(&["-q"], &[("TAPER_VERBOSE", "2")]).unwrap();
        assert_eq!((quiet.model.quiet, quiet.model.verbose), (true, 0));
        let env = [("TAPER_JSON", "1"), ("TAPER_SYSTEM", "be brief"), ("TAPER_PREDICT", "1,2"), ("TAPER_TEMP", "0.5")];
        let bench = parsed(&["--bench"], &env).unwrap();
        assert_eq!((bench.prompt.json, bench.prompt.system), (false, None));
        assert_eq!((bench.prompt.predict, bench.sampling.temp), (vec![1, 2], 0.5));
        assert!(!parsed(&["--bench"], &[("TAPER_JSON", "0")]).unwrap().prompt.json);
        assert_eq!(parsed(&["--continue"], &[("TAPER_PROMPT", "x")]).unwrap().prompt.prompt, None);
    }

    #[test]
    fn a_flag_wins_over_its_own_variable_and_an_empty_one_is_none() {
        let env = [("TAPER_TEMP", "0.5"), ("TAPER_PROMPT", ""), ("TAPER_SEED", ""), ("TAPER_VERBOSE", "2")];
        let cli = parsed(&["--temp", "0.9"], &env).unwrap();
        assert_eq!((cli.sampling.temp, cli.sampling.seed, cli.prompt.prompt), (0.9, -1, None));
        assert_eq!(cli.model.verbose, 2);
        assert_eq!(parsed(&["-v"], &env).unwrap().model.verbose, 1);
    }

    #[test]
    fn variables_reach_a_commands_flags() {
        let cli = parsed(&["tokenize"], &[("TAPER_MODEL", "m"), ("TAPER_THREADS", "3")]).unwrap();
        let Some(Command::Tokenize(args)) = cli.command else { panic!("not tokenize") };
        assert_eq!((&*args.model.model, args.model.threads), ("m", Some(3)));
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error = |name, value| parsed(&[], &[(name, value)]).unwrap_err().to_string();
        assert_eq!(
            error("TAPER_TEMP", "warm"),
            "invalid value 'warm' for '--temp <X>': invalid float literal\n  in the environment variable TAPER_TEMP"
        );
        assert!(error("TAPER_CTX_SIZE", "-1").ends_with("in the environment variable TAPER_CTX_SIZE"));
    }

    #[test]
    fn seeds_and_lengths_below_minus_one_are_refused_with_the_range() {
        for flag in ["--seed", "--predict"] {
            let error = Cli::try_parse_from(["taper", flag, "-2"]).unwrap_err().to_string();
            assert!(error.contains(&format!("'-2' for '{flag} <N>': -2 is not in -1..9223372036854775807")), "{error}");
        }
        let largest = Cli::try_parse_from(["taper", "-s", "9223372036854775807"]).unwrap();
        assert_eq!(seed(largest.sampling.seed).to_string(), "9223372036854775807");
    }

    #[test]
    fn a_prompt_may_start_with_a_dash_and_numbers_may_be_negative() {
        let cli = Cli::try_parse_from(["taper", "-p", "-5 + 3?", "-n", "-1", "-s", "-1"]).unwrap();
        assert_eq!(cli.prompt.prompt.as_deref(), Some("-5 + 3?"));
        assert_eq!(cli.prompt.max_tokens().unwrap(), None);
    }

    #[test]
    fn a_list_of_lengths_is_for_the_benchmark() {
        let cli = Cli::try_parse_from(["taper", "-n", "1,2"]).unwrap();
        assert_eq!(
            cli.prompt.max_tokens().unwrap_err().what(),
            "--predict is given 2 numbers, and takes one; a list is for --bench"
        );
    }

    #[test]
    fn logit_biases_are_read_as_llama_cpp_writes_them() {
        assert_eq!(parse_bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(parse_bias("2-0.5"), Ok((2, -0.5)));
        assert_eq!(parse_bias("2-inf"), Ok((2, f32::NEG_INFINITY)));
        for bad in ["", "5", "+1", "x+1", "5+nan", "5+", "5-1e39", "5+1e400"] {
            assert!(parse_bias(bad).is_err(), "{bad}");
        }
    }
}
