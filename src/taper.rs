//! taper as a library: load a model, ask it.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::backend::choose::{Choice, Compute, Device};
use crate::backend::cuda::probe;
use crate::backend::{Backend, MemoryPlan, PAGE};
use crate::config::{self, Dirs};
use crate::engine::fit::{self, Wanted};
use crate::engine::{Done, Engine, Event, Finish, Request};
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::quantize::Quant;
use crate::format::repack::{self, Repack};
use crate::model::config::Config;
use crate::model::open::OpenModel;
use crate::model::synth::Synth;
use crate::registry::{self, Fetch, ModelFiles};
use crate::sample::Sampling;
use crate::stats::traffic::Traffic;
use crate::text::{ChatTemplate, Message, Role, Tokenizer};

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    pub compute: Compute,
    /// Tokens of the context; `None` is the model's own, or what fits in memory.
    pub context: Option<usize>,
    /// Requests that run at the same time; 0 is 1.
    pub sequences: usize,
    /// Overrides a GGUF's `tokenizer.ggml.pre`.
    pub pre_tokenizer: Option<String>,
    /// What floating-point matrices become.
    pub quant: Quant,
    /// How weights are packed for the backend, and whether that is kept for the next start.
    pub repack: Repack,
}

/// How to answer a prompt.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub max_tokens: Option<usize>,
    pub min_tokens: usize,
    pub stop: Vec<String>,
    pub sampling: Sampling,
    /// The system message, where the chat template has a place for one.
    pub system: Option<String>,
    /// Complete the prompt as it stands instead of answering it as a chat message.
    pub raw: bool,
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub text: String,
    pub tokens: Vec<u32>,
    pub done: Done,
}

/// A loaded model.
///
/// ```
/// use taper::{Options, Sampling, Taper};
///
/// let mut model = Taper::load("smollm2-135m")?;
/// let options = Options { max_tokens: Some(8), sampling: Sampling::greedy(), ..Options::default() };
/// let answer = model.generate("What is the capital of France?", &options)?;
/// assert!(!answer.text.is_empty() && answer.tokens.len() <= 8);
/// # Ok::<(), taper::Error>(())
/// ```
pub struct Taper {
    name: String,
    config: Config,
    engine: Engine,
    template: Option<ChatTemplate>,
    traffic: Traffic,
    size: Size,
    choice: Choice,
}

/// How large a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its tensors as their files hold them.
    pub bytes: u64,
    pub parameters: u64,
}

impl Taper {
    /// Loads a model by registry name, .gguf path or safetensors folder, with everything at its default. A registry model
    /// that is absent is fetched; packed weights are kept in taper's cache.
    ///
    /// # Errors
    /// When it cannot be found, fetched, read, or does not fit in memory.
    pub fn load(model: &str) -> Result<Self> {
        let dirs = Dirs::from_env(config::process_env);
        let repack = Repack { folder: repack::Folder::of(&dirs), ..Repack::default() };
        let options = LoadOptions { repack, ..LoadOptions::default() };
        if let Some(synth) = Synth::named(model)? {
            return Self::from_model(synth.open()?, &options);
        }
        let files = registry::resolve(model, &dirs, &Fetch::from_env(config::process_env))?;
        Self::open(&files, &options)
    }

    /// Loads a model from files that [`registry::resolve()`] found.
    ///
    /// # Errors
    /// When the files are damaged or unsupported, or the model does not fit in memory.
    pub fn open(files: &ModelFiles, options: &LoadOptions) -> Result<Self> {
        let mut model = OpenModel::open(files, options.pre_tokenizer.as_deref())?;
        model.quantize(options.quant)?;
        Self::from_model(model, options)
    }

    /// The backend that will run a model.
    ///
    /// # Errors
    /// When the device that was named does not take it, or cannot do what is asked for.
    pub fn choose(model: &OpenModel, options: &LoadOptions) -> Result<Choice> {
        if options.compute.device == Device::Auto
            && let Ok(gpu) = Self::gpu(model, options)
        {
            return Ok(gpu);
        }
        Choice::of(&options.compute, &model.config).map_err(|e| e.in_file(&model.path))
    }

    /// The GPU that takes a model when none is named.
    ///
    /// # Errors
    /// When there is none, it does not take the model, or has no room for it and a context that is worth having.
    fn gpu(model: &OpenModel, options: &LoadOptions) -> Result<Choice> {
        let choice = Choice::of(&Compute { device: Device::Cuda, ..options.compute }, &model.config)?;
        let plan = Self::plan_for(&choice, model, options, choice.available_memory())?;
        if options.context.is_none_or(|n| n == 0) && plan.limits.context < model.config.context.min(ENOUGH_CONTEXT) {
            return Err(Error::memory(format!("its memory has room for a context of {} alone", plan.limits.context)));
        }
        Ok(choice)
    }

    /// Plans the memory of a model within `available` bytes; `None` does not look whether it fits.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn plan(model: &OpenModel, options: &LoadOptions, available: Option<u64>) -> Result<MemoryPlan> {
        Self::plan_for(&Self::choose(model, options)?, model, options, available)
    }

    fn plan_for(
        choice: &Choice,
        model: &OpenModel,
        options: &LoadOptions,
        available: Option<u64>,
    ) -> Result<MemoryPlan> {
        let wanted = Wanted {
            context: options.context.filter(|n| *n > 0),
            sequences: options.sequences.max(1),
            chunk: choice.chunk(),
        };
        let planner = |config: &Config, tensors: &[&TensorInfo], limits| choice.plan(config, tensors, limits);
        fit::fit(&model.config, &model.tensors()?, wanted, planner, available).map_err(|e| e.in_file(&model.path))
    }

    /// Loads an already opened model.
    ///
    /// # Errors
    /// When it does not fit in memory, or its tensors are damaged.
    pub fn from_model(model: OpenModel, options: &LoadOptions) -> Result<Self> {
        let choice = Self::choose(&model, options)?;
        let is_gpu_of_its_own = options.compute.device == Device::Auto && !choice.is_on_host();
        match Self::load_on(&choice, &model, options) {
            // Somebody else may have its memory.
            Err(e) if is_gpu_of_its_own => {
                tracing::warn!("the GPU is not used: {}", e.what());
                let choice = Choice::of(&options.compute, &model.config).map_err(|e| e.in_file(&model.path))?;
                let (backend, plan) = Self::load_on(&choice, &model, options)?;
                Self::with(model, choice, backend, &plan)
            }
            loaded => loaded.and_then(|(backend, plan)| Self::with(model, choice, backend, &plan)),
        }
    }

    /// Loads a model's weights, and says what is done and why.
    fn load_on(choice: &Choice, model: &OpenModel, options: &LoadOptions) -> Result<(Box<dyn Backend>, MemoryPlan)> {
        let plan = Self::plan_for(choice, model, options, choice.available_memory())?;
        if choice.is_on_host() {
            fit::try_out(&plan).map_err(|e| e.in_file(&model.path))?;
        }
        if plan.limits.context > model.config.context {
            tracing::warn!(
                "a context of {} is longer than the {} tokens the model was trained on; answers get worse past those",
                plan.limits.context,
                model.config.context
            );
        }
        if plan.limits.context < options.context.filter(|n| *n > 0).unwrap_or(model.config.context) {
            tracing::warn!(
                "the model's context of {} does not fit in memory; {} is used instead",
                model.config.context,
                plan.limits.context
            );
        }
        if options.compute.device == Device::Auto && choice.is_on_host() && tracing::enabled!(tracing::Level::INFO) {
            let why = probe::look().map_err(|absence| absence.what());
            let why = why.and_then(|_| Self::gpu(model, options).map_err(|e| e.what().to_owned()));
            why.err().into_iter().for_each(|why| tracing::info!("no GPU is used: {why}"));
        }
        tracing::info!("the {} backend computes: {}", choice.name(), choice.description());
        if options.compute.flash_attention == Some(true) && !choice.flash_attention() {
            tracing::warn!("the {} backend has plain attention alone: its answers are the same", choice.name());
        }
        Ok((choice.load(&model.config, &model.weights, &plan, &options.repack)?, plan))
    }

    fn with(model: OpenModel, choice: Choice, backend: Box<dyn Backend>, plan: &MemoryPlan) -> Result<Self> {
        let tensors = model.tensors()?;
        let kv_token = plan.kv / (plan.limits.pages * PAGE) as u64;
        Ok(Self {
            traffic: Traffic::of(&tensors, kv_token),
            size: Size {
                bytes: tensors.iter().map(|t| t.bytes.len() as u64).sum(),
                parameters: tensors.iter().map(|t| t.elements() as u64).sum(),
            },
            name: model.name,
            choice,
            engine: Engine::new(backend, model.tokenizer, plan.limits),
            config: model.config,
            template: model.template,
        })
    }

    /// Answers a prompt: as a chat message when the model has a template, otherwise (or with [`Options::raw`]) by completing
    /// it.
    ///
    /// # Errors
    /// When the prompt does not fit in the context, or a step fails.
    pub fn generate(&mut self, prompt: &str, options: &Options) -> Result<Generation> {
        self.stream(prompt, options, |_| ControlFlow::Continue(()))
    }

    /// [`Taper::generate`], handing over every [`Event`] as it comes. `Break` interrupts the answer; what came is kept. The
    /// last is [`Event::Done`], before an error too once the prompt is tokens: its counts are of what was done by then.
    ///
    /// # Errors
    /// As [`Taper::generate`].
    pub fn stream(
        &mut self,
        prompt: &str,
        options: &Options,
        on_event: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let tokens = match &self.template {
            Some(template) if !options.raw => {
                let system = options.system.iter().map(|s| Message::new(Role::System, s.as_str()));
                let messages: Vec<Message> = system.chain([Message::new(Role::User, prompt)]).collect();
                template.prompt(self.engine.tokenizer(), &messages, true)?
            }
            _ => self.engine.tokenizer().encode_prompt(prompt)?,
        };
        self.run(tokens, options, on_event)
    }

    /// Answers the last message of a conversation.
    ///
    /// # Errors
    /// As [`Taper::generate`]; also when the model has no chat template.
    pub fn chat(
        &mut self,
        messages: &[Message],
        options: &Options,
        on_event: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let tokens = self.template()?.prompt(self.engine.tokenizer(), messages, true)?;
        self.run(tokens, options, on_event)
    }

    /// Goes on from token ids.
    ///
    /// # Errors
    /// As [`Taper::generate`].
    pub fn run(
        &mut self,
        prompt: Vec<u32>,
        options: &Options,
        mut on_event: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let refused = Done::refused(prompt.len(), options.sampling.seed);
        let request = Request {
            prompt,
            max_tokens: options.max_tokens,
            min_tokens: options.min_tokens,
            stop: options.stop.clone(),
            ignore_end: false,
            sampling: options.sampling.clone(),
        };
        let id = self.engine.add_request(request).inspect_err(|_| {
            let _ = on_event(&Event::Done(refused)); // there is nothing left to stop
        })?;
        let mut answer = Answer::default();
        loop {
            let events = match self.engine.step() {
                Ok(events) => events,
                Err(e) => {
                    for event in self.engine.abort(id, Finish::Error) {
                        answer.take(event, &mut on_event);
                    }
                    return Err(e);
                }
            };
            for (_, event) in events {
                answer.take(event, &mut on_event);
            }
            if answer.stopped {
                for event in self.engine.abort(id, Finish::Interrupted) {
                    answer.take(event, &mut on_event);
                }
            }
            if let Some(done) = answer.done {
                return Ok(Generation { text: answer.text, tokens: answer.tokens, done });
            }
        }
    }

    /// The chat template.
    ///
    /// # Errors
    /// When the model has none: it is a base model.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::model(format!("`{}` has no chat template: it is a base model, which completes text", self.name))
                .help("use --raw with -p to complete a prompt, or choose an instruct model")
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens of its context.
    pub fn context(&self) -> usize {
        self.engine.limits().context
    }

    /// The backend that runs it, and how.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The bytes that its steps must read.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub fn size(&self) -> Size {
        self.size
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.engine.tokenizer()
    }

    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

/// A GPU with room for so many tokens is better than a processor with room for more.
const ENOUGH_CONTEXT: usize = 4096;

/// An answer while it comes.
#[derive(Default)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
    done: Option<Done>,
    /// The caller has heard enough.
    stopped: bool,
}

impl Answer {
    fn take(&mut self, event: Event, on_event: &mut impl FnMut(&Event) -> ControlFlow<()>) {
        self.stopped |= on_event(&event).is_break();
        match event {
            Event::Prompt { .. } => {}
            Event::Token { id, text } => {
                self.text += &text;
                self.tokens.push(id);
            }
            Event::Done(done) => self.done = Some(done),
        }
    }
}
