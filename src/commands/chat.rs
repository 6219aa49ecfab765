//! The conversation at a terminal.

use std::ops::ControlFlow;

use super::Session;
use crate::cli::Cli;
use crate::engine::{Event, Finish};
use crate::error::{Error, Kind, Result};
use crate::taper::{Options, Taper};
use crate::terminal::editor::{Input, LineEditor};
use crate::terminal::log;
use crate::terminal::render::Answer;
use crate::text::{Conversation, Role};

const HELP: &str = "\
/clear          forget the conversation
/undo           forget the last question and its answer
/regen          answer the last question again
/system TEXT    set the system message (nothing: remove it)
/show           show the conversation's settings and template
/bye            leave (also Ctrl-D)
Several lines: between \"\"\" and \"\"\", after a trailing \\, or with Ctrl-J. Ctrl-C stops an answer.";

pub(super) fn run(cli: &Cli, session: &Session) -> Result<()> {
    if cli.prompt.json || cli.prompt.raw {
        let flag = if cli.prompt.json { "--json" } else { "--raw" };
        return Err(Error::usage(format!("{flag} needs a prompt")).help("give one with -p, or pipe it in"));
    }
    let options = super::options(&cli.prompt, &cli.sampling)?;
    let taper = session.load(None, None)?;
    taper.template()?;
    let mut conversation = Conversation::new();
    conversation.set_system(options.system.as_deref().unwrap_or_default());
    let mut chat = Chat { conversation, taper, options, fixed_seed: cli.sampling.seed != -1, session };
    chat.greet();
    chat.talk(&mut LineEditor::new()?)
}

struct Chat<'a> {
    taper: Taper,
    conversation: Conversation,
    options: Options,
    /// The user named the seed: every answer draws from it. Otherwise each draws from a new one.
    fixed_seed: bool,
    session: &'a Session,
}

/// Whether the chat goes on.
type Flow = ControlFlow<()>;

impl Chat<'_> {
    fn greet(&self) {
        if !self.session.args.quiet {
            log::note(format_args!(
                "{}, context {}. /help lists the commands, Ctrl-D leaves.",
                self.taper.name(),
                self.taper.context()
            ));
        }
    }

    fn talk(&mut self, editor: &mut LineEditor) -> Result<()> {
        loop {
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

    fn handle(&mut self, text: &str) -> Result<Flow> {
        let (word, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        match word {
            "/bye" | "/exit" | "/quit" => return Ok(Flow::Break(())),
            "/help" | "/?" => log::note(HELP),
            "/clear" => {
                self.conversation.clear();
                log::note("The conversation starts anew.");
            }
            "/undo" if self.conversation.undo().is_empty() => log::note("There is nothing to undo."),
            "/undo" => log::note("The last question and its answer are forgotten."),
            "/regen" if self.conversation.undo_answer() => self.answer()?,
            "/regen" => log::note("There is no question to answer again."),
            "/system" => {
                self.conversation.set_system(rest.trim());
                let set = self.conversation.system().is_some();
                log::note(if set { "The system message is set." } else { "The system message is removed." });
            }
            "/show" => self.show()?,
            command if is_command(command) => {
                log::note(format_args!("{command} is no command; /help lists them."));
            }
            _ => {
                self.conversation.push(Role::User, text);
                self.answer()?;
            }
        }
        Ok(Flow::Continue(()))
    }

    fn show(&self) -> Result<()> {
        let s = &self.options.sampling;
        log::note(format_args!(
            "model {}, context {}, temp {}, top-k {}, top-p {}, min-p {}, repeat-penalty {}, seed {}",
            self.taper.name(),
            self.taper.context(),
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repeat_penalty,
            s.seed
        ));
        if let Some(system) = self.conversation.system() {
            log::note(format_args!("system message: {system}"));
        }
        log::note(format_args!("chat template:\n{}", self.taper.template()?.source().trim_end()));
        Ok(())
    }

    /// Answers the last question, shows the answer as it comes, and keeps it. A question that cannot be answered is not kept;
    /// only what makes going on pointless ends the chat.
    fn answer(&mut self) -> Result<()> {
        let mut answer = Answer::new();
        let mut output = Ok(());
        let caught = self.session.interrupt.catch();
        let result = self.taper.chat(self.conversation.messages(), &self.options, |event| {
            if let Event::Token { text, .. } = event {
                output = std::mem::replace(&mut output, Ok(())).and_then(|()| answer.push(text));
            }
            if caught.pressed() || output.is_err() { Flow::Break(()) } else { Flow::Continue(()) }
        });
        drop(caught);
        output?;
        answer.end()?;
        match result {
            Ok(generation) => {
                self.conversation.push(Role::Assistant, generation.text);
                self.close(generation.done.finish);
                if !self.session.args.quiet {
                    log::note(self.session.answer_line(&self.taper, &generation.done));
                }
                if !self.fixed_seed {
                    self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1) & u64::from(u32::MAX);
                }
            }
            Err(e) => {
                self.conversation.undo();
                log::error(&e);
                if e.kind() == Kind::Memory {
                    log::note("/undo forgets the last question and its answer, /clear the whole conversation.");
                }
            }
        }
        Ok(())
    }

    /// Says why an answer ended, where that is not plain.
    fn close(&self, finish: Finish) {
        match finish {
            Finish::Interrupted => log::note("[interrupted]"),
            Finish::Length if self.options.max_tokens.is_none() => log::note(format_args!(
                "[the context of {} tokens is full: /undo or /clear makes room]",
                self.taper.context()
            )),
            Finish::Length | Finish::Stop | Finish::Error => {}
        }
    }
}

/// A slash and a word, as people mistype commands; a path ("/etc/passwd is …") is none.
fn is_command(word: &str) -> bool {
    word.strip_prefix('/').is_some_and(|w| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests {
    use super::is_command;

    #[test]
    fn a_path_is_a_question_not_a_command() {
        assert!(is_command("/hlep"));
        assert!(!is_command("/etc/passwd") && !is_command("/") && !is_command("help") && !is_command("/2"));
    }
}
