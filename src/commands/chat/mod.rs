//! The conversation at a terminal.
//!
//! [`Chat`] holds what a conversation needs and does what its commands say; `command` understands them, `answer` asks the
//! model, `autosave` keeps every turn in the session's file, `sessions` changes between sessions.

mod answer;
mod autosave;
mod command;
#[cfg(feature = "memory")]
mod memory;
mod sessions;
mod set;
mod totals;

use std::ops::ControlFlow;

use self::autosave::Autosave;
use self::command::{Command, Topic};
use self::set::Settings;
use self::totals::Totals;
use super::Session;
use crate::cli::Cli;
use crate::config::{self, Dirs};
use crate::error::{Error, Result};
use crate::registry::manifest::DEFAULT_MODEL;
use crate::registry::{Manifest, ModelKind, resolve};
use crate::session::{Record, Sessions};
use crate::taper::Taper;
use crate::terminal::color::Color;
use crate::terminal::editor::{Input, LineEditor};
use crate::terminal::log;
use crate::text::Conversation;

pub(super) fn run(cli: &Cli, program: &Session) -> Result<()> {
    if cli.prompt.json || cli.prompt.raw {
        let flag = if cli.prompt.json { "--json" } else { "--raw" };
        return Err(Error::usage(format!("{flag} needs a prompt")).help("give one with -p, or pipe it in"));
    }
    let dirs = Dirs::from_env(config::process_env);
    let data = dirs.data()?;
    let sessions = Sessions::new(data);
    // Before the model, which takes longer: what cannot be continued is refused at once.
    let model = lasting(&cli.model.model, &dirs);
    let opened = sessions::at_start(&cli.chat, &sessions, &model)?;
    let of_session = opened.saved.as_ref().and_then(|saved| saved.model.clone()).map(|model| lasting(&model, &dirs));
    let model = of_session.filter(|_| !cli.model.model_named).unwrap_or(model);
    let program = &program.with_model(&model);
    let options = super::options(&cli.prompt, &cli.sampling)?;
    program.interrupt.hear_endings()?;
    // Before the model too: the first question may be typed while it loads.
    let mut editor = LineEditor::new(data.join("history"))?;
    let taper = program.load()?;
    taper.template()?;
    #[cfg(feature = "memory")]
    let recall = super::recall::Recall::open(&cli.recall, program)?.map(memory::Recall::new).transpose()?;
    let mut chat = Chat {
        #[cfg(feature = "memory")]
        recall,
        conversation: Conversation::new(),
        model,
        taper,
        settings: Settings { options, fixed_seed: cli.sampling.seed != -1 },
        color: cli.chat.color,
        autosave: Autosave::new(opened.file),
        sessions,
        models: models(&dirs),
        dirs,
        totals: Totals::default(),
        program,
    };
    chat.greet();
    chat.start(opened.saved, cli);
    chat.talk(&mut editor)
}

/// A model by a name that means the same in another folder, and under other settings.
fn lasting(model: &str, dirs: &Dirs) -> String {
    let lasting = if resolve::is_path(model) {
        std::path::absolute(model).ok().and_then(|path| path.into_os_string().into_string().ok())
    } else if model == DEFAULT_MODEL {
        Manifest::load(dirs).ok().map(|manifest| manifest.default_model().to_owned())
    } else {
        None
    };
    lasting.unwrap_or_else(|| model.to_owned())
}

/// The names that `/model` takes. A list of the user's with a mistake in it is no reason to refuse a chat: whoever names a
/// model of it is told.
fn models(dirs: &Dirs) -> Vec<String> {
    let manifest = Manifest::load(dirs).or_else(|_| Manifest::embedded());
    let all = manifest.iter().flat_map(Manifest::models);
    all.filter(|model| model.kind == ModelKind::Chat).map(|model| model.name.clone()).collect()
}

struct Chat<'a> {
    taper: Taper,
    #[cfg(feature = "memory")]
    recall: Option<memory::Recall>,
    /// The model as sessions keep it.
    model: String,
    dirs: Dirs,
    conversation: Conversation,
    settings: Settings,
    color: Color,
    autosave: Autosave,
    sessions: Sessions,
    /// Names of the registry, for Tab.
    models: Vec<String>,
    totals: Totals,
    program: &'a Session,
}

/// Whether the chat goes on.
type Flow = ControlFlow<()>;

impl Chat<'_> {
    fn greet(&self) {
        self.program.say(format_args!(
            "{}, context {}. /help lists the commands, Ctrl-D leaves.",
            self.taper.name(),
            self.taper.context()
        ));
    }

    fn talk(&mut self, editor: &mut LineEditor) -> Result<()> {
        loop {
            #[cfg(feature = "memory")]
            self.tell_of_memory();
            editor.set_phrases(self.phrases());
            match editor.read(">>> ")? {
                Input::End => return Ok(()),
                Input::Interrupted => log::note("Ctrl-D or /bye leaves the chat."),
                Input::Text(text) if text.trim().is_empty() => {}
                Input::Text(text) => {
                    if self.handle(&text)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn phrases(&self) -> Vec<String> {
        let sessions: Vec<String> = self.sessions.list().into_iter().map(|listed| listed.id).collect();
        command::phrases(&set::PARAMETERS, &sessions, &self.models)
    }

    /// Does what was typed. Only what makes going on pointless is an error: the rest is told, and the chat goes on.
    fn handle(&mut self, text: &str) -> Result<Flow> {
        match command::parse(text) {
            Ok(Some(Command::Bye)) => return Ok(Flow::Break(())),
            Ok(Some(Command::Regen)) => self.regenerate()?,
            Ok(Some(command)) => {
                if let Err(e) = self.obey(command) {
                    log::error(&e);
                }
            }
            Ok(None) => self.ask(text)?,
            Err(e) => log::note(e),
        }
        Ok(Flow::Continue(()))
    }

    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Help => log::note(command::help()),
            Command::System(text) => self.set_system(text),
            Command::Set { parameter, value } => {
                self.settings.set(parameter, value)?;
                log::note(format_args!("{parameter} is {value} now."));
            }
            Command::Show(topic) => self.show(topic)?,
            Command::Clear => {
                self.conversation.clear();
                if !self.autosave.file().is_new() {
                    self.autosave.keep(&[Record::Clear]);
                }
                log::note("The conversation starts anew.");
            }
            Command::Undo if self.conversation.undo().is_empty() => log::note("There is nothing to undo."),
            Command::Undo => {
                self.autosave.keep(&[Record::Undo]);
                log::note("The last question and its answer are forgotten.");
            }
            Command::Save(name) => self.save(name)?,
            Command::Load(name) => self.load(name)?,
            Command::Sessions => self.list_sessions(),
            Command::Stats => log::note(self.totals.describe(self.taper.context())),
            Command::Model(name) => self.change_model(name)?,
            #[cfg(feature = "memory")]
            Command::Remember(text) => self.memory()?.remember(text)?,
            #[cfg(feature = "memory")]
            Command::Recall(query) => self.memory()?.show(query)?,
            #[cfg(feature = "memory")]
            Command::Forget(id) => self.memory()?.forget(id)?,
            #[cfg(feature = "memory")]
            Command::Memory(Some(path)) => self.memory()?.add(path)?,
            #[cfg(feature = "memory")]
            Command::Memory(None) => self.memory()?.describe()?,
            Command::Regen | Command::Bye => {} // `handle` does them
        }
        Ok(())
    }

    fn set_system(&mut self, text: &str) {
        self.conversation.set_system(text);
        self.autosave.keep(&[Record::System { content: text.to_owned() }]);
        log::note(if text.is_empty() { "The system message is removed." } else { "The system message is set." });
    }

    /// Goes on with another model. While it loads the one before is kept, so that an error changes nothing.
    fn change_model(&mut self, name: &str) -> Result<()> {
        let taper = self.program.with_model(name).load()?;
        taper.template()?;
        self.taper = taper;
        self.model = lasting(name, &self.dirs);
        if !self.conversation.is_empty() {
            self.autosave.keep(&[Record::Model { name: self.model.clone() }]);
        }
        log::note(format_args!("{} answers from now on, context {}.", self.taper.name(), self.taper.context()));
        Ok(())
    }

    fn show(&self, topic: Topic) -> Result<()> {
        let all = topic == Topic::All;
        if all || topic == Topic::Settings {
            let (name, context) = (self.taper.name(), self.taper.context());
            log::note(format_args!("model {name}, context {context}, {}", self.settings.list()));
        }
        if all || topic == Topic::System {
            match self.conversation.system() {
                Some(system) => log::note(format_args!("system message: {system}")),
                None => log::note("no system message"),
            }
        }
        if all || topic == Topic::Session {
            self.show_session();
        }
        if topic == Topic::Template {
            log::note(format_args!("chat template:\n{}", self.taper.template()?.source().trim_end()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_session_keeps_what_the_default_and_a_relative_path_stand_for() {
        let dirs = Dirs::below(Path::new("/nonexistent"));
        assert_eq!(lasting("default", &dirs), "smollm2-135m");
        assert_eq!(lasting("smollm2", &dirs), "smollm2");
        assert_eq!(lasting("hf:ada/mine:a/b.gguf", &dirs), "hf:ada/mine:a/b.gguf");
        assert_eq!(lasting("synth:tinyllama-1.1b", &dirs), "synth:tinyllama-1.1b");
        let here = std::env::current_dir().unwrap();
        assert_eq!(lasting("sub/m.gguf", &dirs), here.join("sub/m.gguf").to_str().unwrap());
    }

    #[test]
    fn the_models_of_the_user_are_offered_and_a_mistake_in_their_list_stops_no_chat() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(folder.path());
        let list = dirs.config().unwrap().join("models.toml");
        std::fs::create_dir_all(dirs.config().unwrap()).unwrap();
        let mine = "[[model]]\nname = \"mine\"\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n\
                    [[model.source]]\nhub = \"ada/mine\"\nrevision = \"main\"\nfiles = [{ name = \"w.gguf\" }]\n";
        std::fs::write(&list, mine).unwrap();
        let names = models(&dirs);
        assert!(
            names.iter().any(|name| name == "mine") && names.iter().any(|name| name == "smollm2-135m"),
            "{names:?}"
        );
        assert!(!names.iter().any(|name| name == "all-minilm-l6-v2"), "an embedder does not chat: {names:?}");
        std::fs::write(&list, "name =").unwrap();
        assert!(models(&dirs).iter().any(|name| name == "smollm2-135m"));
    }
}
