//! What the program does, one file a command. All of them load a model the same way and drive the same engine.

mod bench;
mod chat;
mod completions;
mod csv;
mod divergence;
mod doctor;
#[cfg(feature = "memory")]
mod embed;
mod estimate;
mod generate;
mod input;
#[cfg(feature = "memory")]
mod memory;
mod models;
mod perplexity;
mod quoted;
#[cfg(feature = "memory")]
mod recall;
mod tokenize;

use std::fmt::Display;
use std::io::IsTerminal;

use crate::backend::candle;
use crate::backend::choose::{Compute, Goal};
use crate::cli::{Cli, Command, ModelArgs, PromptArgs, SamplingArgs};
use crate::config::{self, Dirs};
use crate::engine::Done;
use crate::error::{Error, Result};
use crate::format::quantize::Quant;
use crate::format::repack::{self, Repack};
use crate::model::open::OpenModel;
use crate::model::synth::Synth;
use crate::registry::{self, Fetch, Manifest, ModelFiles};
use crate::stats::cores::Cores;
use crate::stats::{self, bandwidth};
use crate::taper::{LoadOptions, Options, Taper};
use crate::terminal::interrupt::Interrupt;
use crate::terminal::log;
use crate::terminal::progress::Mode;

/// Runs what the command line asks for.
///
/// # Errors
/// Whatever ends the program; its kind is the exit code.
pub fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Some(Command::Perplexity(args)) => perplexity::run(args, &Session::start(&args.model)?),
        Some(Command::Tokenize(args)) => tokenize::run(args, &Session::start(&args.model)?),
        Some(Command::Doctor(args)) => doctor::run(args),
        Some(Command::Completions { shell }) => completions::run(*shell),
        Some(Command::Models(args)) => models::run(args),
        #[cfg(feature = "memory")]
        Some(Command::Memory(args)) => memory::run(args),
        #[cfg(feature = "memory")]
        Some(Command::Embed(args)) => embed::run(args),
        None => {
            let session = Session::start(&cli.model)?;
            if cli.bench.bench {
                bench::run(cli, &session)
            } else if cli.bench.estimate_memory {
                estimate::run(cli, &session)
            } else {
                generate::run(cli, &session)
            }
        }
    }
}

/// What every command has: the model arguments, and Ctrl-C.
struct Session {
    args: ModelArgs,
    /// How many threads compute.
    threads: usize,
    interrupt: Interrupt,
}

impl Session {
    fn start(args: &ModelArgs) -> Result<Self> {
        log::init(args.quiet, args.verbose);
        let threads = threads(args.threads);
        // Before any thread is started.
        candle::set_threads(threads);
        Ok(Self { args: args.clone(), threads, interrupt: Interrupt::listen()? })
    }

    /// Tells what only `-q` does without.
    fn say(&self, line: impl Display) {
        if !self.args.quiet {
            log::note(line);
        }
    }

    /// The line after an answer; with the share of the memory's bandwidth if that was ever measured here.
    fn answer_line(&self, taper: &Taper, done: &Done) -> String {
        let known = || bandwidth::known(&Dirs::from_env(config::process_env), self.threads);
        let bandwidth = if taper.choice().is_on_host() { known() } else { None };
        stats::answer_line(done, taper.traffic(), bandwidth)
    }

    /// The same with another model.
    fn with_model(&self, model: &str) -> Self {
        let args = ModelArgs { model: model.to_owned(), ..self.args.clone() };
        Self { args, interrupt: self.interrupt.clone(), ..*self }
    }

    /// The model's files, fetched if they are absent.
    fn files(&self) -> Result<ModelFiles> {
        let mut fetch = Fetch::from_env(config::process_env);
        fetch.offline |= self.args.offline;
        fetch.progress = Mode::for_stderr(self.args.quiet);
        let dirs = Dirs::from_env(config::process_env);
        registry::resolve(&self.args.model, &dirs, &fetch)
            .map_err(|e| without_tag(&self.args.model, &dirs).unwrap_or(e))
    }

    fn open(&self) -> Result<OpenModel> {
        let mut model = match Synth::named(&self.args.model)? {
            Some(synth) => synth.open()?,
            None => OpenModel::open(&self.files()?, self.args.pre.as_deref())?,
        };
        self.quantize(&mut model)?;
        Ok(model)
    }

    /// Has a model quantized as `--quant` asks for.
    fn quantize(&self, model: &mut OpenModel) -> Result<()> {
        let quant = self.args.quant;
        if quant != Quant::None && !model.quantize(quant)? {
            let name = &model.name;
            self.say(format_args!("--quant {} changes nothing: {name} is quantized already", quant.name()));
        }
        Ok(())
    }

    /// How the flags want it loaded.
    ///
    /// # Errors
    /// When the flags contradict each other.
    fn options(&self) -> Result<LoadOptions> {
        let asked = Some(self.args.ctx_size).filter(|n| *n > 0);
        let flags = self.args.compute.compute()?;
        let compute = Compute { device: self.args.device, threads: Some(self.threads), ..flags };
        compute.check()?;
        Ok(LoadOptions {
            compute,
            context: asked,
            pre_tokenizer: self.args.pre.clone(),
            quant: self.args.quant,
            repack: Repack {
                folder: repack::Folder::of(&Dirs::from_env(config::process_env)),
                wait: false,
                progress: Mode::for_stderr(self.args.quiet),
            },
            ..LoadOptions::default()
        })
    }

    /// Says what was chosen for a goal.
    fn tell_choice(&self, model: &OpenModel, options: &LoadOptions) -> Result<()> {
        let choice = Taper::choose(model, options)?;
        let flag = match options.compute.goal {
            Goal::Balance => return Ok(()),
            Goal::Memory => "--optimize-memory",
            Goal::Speed => "--max-speed",
        };
        let chosen_for = |goal: Goal| {
            let compute = Compute { goal, chunk: options.compute.chunk, ..Compute::default() };
            Taper::choose(model, &LoadOptions { compute, ..options.clone() }).ok()
        };
        let is_default = chosen_for(Goal::Balance).as_ref() == Some(&choice);
        let is_alone = chosen_for(options.compute.goal).as_ref() == Some(&choice);
        self.say(format_args!(
            "{flag} takes{} the {} backend, {}{}",
            if is_default { " the defaults, there is nothing better:" } else { "" },
            choice.name(),
            choice.description(),
            if is_alone { "" } else { "; other flags had their say" }
        ));
        Ok(())
    }

    /// The model, loaded to talk to.
    fn load(&self) -> Result<Taper> {
        self.load_with(&self.options()?)
    }

    /// The model, loaded with nothing left to do that would disturb a measurement. `context` stands in where the user
    /// named none; a step has at most `chunk` rows.
    fn load_to_measure(&self, context: usize, chunk: usize) -> Result<Taper> {
        let mut options = self.options()?;
        options.context.get_or_insert(context);
        if options.compute.goal != Goal::Memory {
            options.compute.chunk = Some(chunk);
        }
        options.repack.wait = true;
        self.load_with(&options)
    }

    fn load_with(&self, options: &LoadOptions) -> Result<Taper> {
        let start = std::time::Instant::now();
        let model = self.open()?;
        self.tell_choice(&model, options)?;
        let taper = Taper::from_model(model, options)?;
        tracing::info!("{} loaded in {:.2} s", taper.name(), start.elapsed().as_secs_f64());
        Ok(taper)
    }
}

/// What is wrong with `smollm2:latest`: other programs' names have a tag behind them.
fn without_tag(model: &str, dirs: &Dirs) -> Option<Error> {
    let (name, tag) = model.split_once(':')?;
    let manifest = Manifest::load(dirs).ok()?;
    if registry::resolve::is_path(model) || manifest.find(model).is_some() {
        return None;
    }
    manifest.find(name)?;
    let what = format!("there is no model named `{model}`: names have no tags here, and `{tag}` is one");
    Some(Error::model(what).help(format!("write -m {name}")))
}

/// The threads that compute: those asked for, but no more than there are processors and time for. More would not share
/// the work but wait for each other, and 1024 on two cores take minutes for a token.
fn threads(asked: Option<u16>) -> usize {
    let cores = Cores::of_process();
    let (asked, most) = (asked.map_or(cores.usual(), usize::from), cores.most());
    if asked > most {
        let few = most < cores.processors;
        let room = match cores.quota.filter(|_| few) {
            Some(quota) => format!("{quota:.2} cores' time"),
            None if most == 1 => "1 core".to_owned(),
            None => format!("{most} cores"),
        };
        let compute = if most == 1 { "computes" } else { "compute" };
        tracing::warn!("{asked} threads are asked for, and this process may use {room}: {most} {compute}");
    }
    asked.min(most)
}

/// The options of an answer from the flags.
fn options(prompt: &PromptArgs, sampling: &SamplingArgs) -> Result<Options> {
    Ok(Options {
        max_tokens: prompt.max_tokens()?,
        min_tokens: prompt.min_tokens,
        stop: prompt.stop.clone(),
        sampling: sampling.sampling()?,
        system: prompt.system.clone(),
        raw: prompt.raw,
    })
}

/// Whether a person types: nothing is piped in.
fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}
