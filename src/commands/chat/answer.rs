//! Asking the model, showing its answer as it comes, keeping both.

use super::{Chat, Flow};
#[cfg(not(feature = "memory"))]
use crate::commands::quoted::Quoted;
use crate::engine::{Event, Finish};
use crate::error::{Kind, Result};
use crate::session::Record;
use crate::taper::Generation;
use crate::terminal::interrupt::Caught;
use crate::terminal::log;
use crate::terminal::reading::Reading;
use crate::terminal::render::Answer;
use crate::text::Role;

impl Chat<'_> {
    /// Answers a question. It is on the disk before it is answered; one that cannot be answered is taken back.
    ///
    /// # Errors
    /// When answers can no longer be shown.
    pub(super) fn ask(&mut self, question: &str) -> Result<()> {
        let quoted = self.quote(question);
        let mut records = vec![Record::question_after(&quoted.text, question)];
        // Templates want question and answer in turn: one that was never answered gives way.
        if self.conversation.messages().last().is_some_and(|m| m.role == Role::User) {
            self.conversation.undo();
            records.insert(0, Record::Undo);
        }
        self.conversation.push(Role::User, quoted.text.clone() + question);
        if self.autosave.file().is_new()
            && let Some(system) = self.conversation.system()
        {
            records.insert(0, Record::System { content: system.to_owned() });
        }
        self.autosave.keep(&records);
        self.until_kept(|chat, caught| {
            let (generation, shown) = chat.generate(caught);
            if let Some(generation) = generation {
                #[cfg(feature = "memory")]
                chat.remember_turn(question, &generation);
                chat.accept(generation, false);
                quoted.cite(chat.program);
            } else {
                chat.conversation.undo();
                chat.autosave.keep(&[Record::Undo]);
            }
            shown
        })
    }

    #[cfg(not(feature = "memory"))]
    fn quote(&mut self, _question: &str) -> Quoted {
        Quoted::default()
    }

    /// Catches signals while an answer is made and kept. One that ends the program does so then.
    fn until_kept(&mut self, answer: impl FnOnce(&mut Self, &Caught) -> Result<()>) -> Result<()> {
        #[cfg(feature = "memory")]
        self.set_answering(true);
        let interrupt = &self.program.interrupt;
        let caught = interrupt.catch();
        let answered = answer(self, &caught);
        drop(caught);
        #[cfg(feature = "memory")]
        self.set_answering(false);
        interrupt.leave_if_told();
        answered
    }

    /// Answers the last question again. The answer before stays until there is another.
    ///
    /// # Errors
    /// As [`Chat::ask`].
    pub(super) fn regenerate(&mut self) -> Result<()> {
        let before = self.conversation.clone();
        if !self.conversation.undo_answer() {
            log::note("There is no question to answer again.");
            return Ok(());
        }
        self.until_kept(|chat, caught| {
            let (generation, shown) = chat.generate(caught);
            match generation {
                Some(generation) if !(generation.text.is_empty() && generation.done.finish == Finish::Interrupted) => {
                    chat.accept(generation, true);
                }
                stopped => {
                    chat.conversation = before;
                    if stopped.is_some() {
                        chat.program.say("[interrupted]");
                    }
                }
            }
            shown
        })
    }

    /// Keeps an answer, then tells how it ended: what is told has been kept.
    fn accept(&mut self, generation: Generation, again: bool) {
        let interrupted = generation.done.finish == Finish::Interrupted;
        // Stopped before it began, there is no answer; the question waits for /regen.
        if !(interrupted && generation.text.is_empty()) {
            let answer = Record::answer(&generation.text, interrupted);
            if again {
                self.autosave.keep(&[Record::Regen, answer]);
            } else {
                self.autosave.keep(&[answer]);
            }
            self.conversation.push(Role::Assistant, generation.text);
        }
        self.close(generation.done.finish);
        let speeds = self.program.answer_line(&self.taper, &generation.done);
        self.totals.add(&generation.done, &speeds);
        self.program.say(speeds);
        self.settings.next_seed();
    }

    /// Shows the answer to the conversation as it stands. `None` when there is none; why was told. Beside it: whether it could
    /// be shown. It ends where it cannot, and what came is there to be kept all the same.
    fn generate(&mut self, caught: &Caught) -> (Option<Generation>, Result<()>) {
        let mut answer = Answer::styled(self.color);
        let mut reading = Reading::new(self.program.args.quiet);
        let mut output = Ok(());
        let result = self.taper.chat(self.conversation.messages(), &self.settings.options, |event| {
            match event {
                Event::Prompt { computed, total } => reading.at(*computed, *total),
                Event::Token { text, .. } => {
                    reading.wipe();
                    output = std::mem::replace(&mut output, Ok(())).and_then(|()| answer.push(text));
                }
                Event::Done(_) => {}
            }
            if caught.pressed() || output.is_err() { Flow::Break(()) } else { Flow::Continue(()) }
        });
        drop(reading);
        let shown = output.and_then(|()| answer.end());
        let told = result.inspect_err(|e| {
            log::error(e);
            if e.kind() == Kind::Memory {
                log::note("/undo forgets the last question and its answer, /clear the whole conversation.");
            }
        });
        (told.ok(), shown)
    }

    /// Says why an answer ended, where that is not plain.
    fn close(&self, finish: Finish) {
        match finish {
            Finish::Interrupted => self.program.say("[interrupted]"),
            Finish::Length if self.settings.options.max_tokens.is_none() => log::note(format_args!(
                "[the context of {} tokens is full: /undo or /clear makes room]",
                self.taper.context()
            )),
            Finish::Length | Finish::Stop | Finish::Error => {}
        }
    }
}
