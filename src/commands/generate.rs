//! One prompt, one answer: `-p`, `-f`, or piped input.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::quoted::Quoted;
use super::{Session, chat, input};
use crate::cli::{Cli, PromptArgs};
use crate::engine::{Done, Event, Finish};
use crate::error::{Error, Result};
use crate::terminal::reading::Reading;
use crate::terminal::render::Answer;

/// Answers the prompt; without one a person is there to chat. Under `--json` the last line tells how it ended, whatever
/// went wrong before the first token or after.
pub(super) fn run(cli: &Cli, session: &Session) -> Result<()> {
    let mut done = None;
    let result = prompt(&cli.prompt).and_then(|prompt| match prompt {
        Some(_) if cli.chat.continue_last || cli.chat.session.is_some() => {
            Err(Error::usage("--continue and --session are for a chat, and input is piped in"))
        }
        Some(prompt) => answer(&prompt, cli, session, &mut done),
        None => chat::run(cli, session),
    });
    if !cli.prompt.json {
        return result;
    }
    let written = Answer::new().line(&last_line(done.as_ref(), result.as_ref().err()).to_string());
    result.and(written)
}

/// The prompt that the arguments and standard input give; `None` when a person is there to chat.
///
/// # Errors
/// When the file or standard input cannot be read as text, or there is nothing in them.
fn prompt(args: &PromptArgs) -> Result<Option<String>> {
    let of_stdin = args.file.as_deref().is_some_and(|path| path == "-");
    let given = match &args.file {
        Some(path) if !of_stdin => {
            let bytes = input::file("the prompt", path)?;
            Some(input::text("the prompt", bytes).map_err(|e| e.in_file(path))?)
        }
        _ => args.prompt.clone(),
    };
    let reads_stdin = of_stdin || !super::stdin_is_terminal();
    let prompt = if reads_stdin { Some(with_piped(given, args.raw)?) } else { given };
    if prompt.as_ref().is_some_and(|prompt| prompt.trim().is_empty()) {
        return Err(Error::usage("the prompt is empty").help("give some text with -p, or on standard input"));
    }
    Ok(prompt)
}

/// Piped input, and behind it what was given otherwise.
fn with_piped(given: Option<String>, raw: bool) -> Result<String> {
    let piped = input::text("standard input", input::stdin()?)?;
    Ok(match given {
        Some(given) if piped.is_empty() => given,
        Some(given) => format!("{}\n\n{given}", piped.trim_end_matches('\n')),
        None if raw => piped,
        None => piped.trim_end_matches('\n').to_owned(), // the newline that ends a file is no part of a message
    })
}

/// Loads the model and answers. `done` is what the answer amounted to, when it failed too.
fn answer(prompt: &str, cli: &Cli, session: &Session, done: &mut Option<Done>) -> Result<()> {
    let options = super::options(&cli.prompt, &cli.sampling)?;
    let mut taper = session.load()?;
    #[cfg(feature = "memory")]
    let mut recall = super::recall::Recall::open(&cli.recall, session)?;
    #[cfg(feature = "memory")]
    let quoted = match &mut recall {
        Some(recall) => recall.quote(prompt, &taper)?,
        None => Quoted::default(),
    };
    #[cfg(not(feature = "memory"))]
    let quoted = Quoted::default();
    if !options.raw && taper.template().is_err() {
        session.say(format_args!(
            "{} is a base model (it has no chat template): the prompt is completed as it stands",
            taper.name()
        ));
    }
    let mut sink = Sink {
        answer: if cli.prompt.json { Answer::new() } else { Answer::styled(cli.chat.color) },
        reading: Reading::new(session.args.quiet || cli.prompt.json),
        json: cli.prompt.json,
        done,
        failed: None,
    };
    let caught = session.interrupt.catch();
    let result = taper.stream(&(quoted.text.clone() + prompt), &options, |event| {
        sink.take(event);
        if caught.pressed() || sink.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(caught);
    sink.reading.wipe();
    if let Some(e) = sink.failed {
        return Err(e);
    }
    if !cli.prompt.json {
        sink.answer.end()?;
    }
    let generation = result?;
    #[cfg(feature = "memory")]
    if let Some(recall) = recall.as_mut().filter(|recall| recall.turns && !generation.text.is_empty()) {
        recall.memory.keep_whole("turn", &super::recall::turn(prompt, &generation.text))?;
    }
    let done = generation.done;
    if done.finish == Finish::Interrupted {
        session.say("[interrupted]");
        return Err(Error::interrupted());
    }
    if !cli.prompt.json {
        session.say(session.answer_line(&taper, &done));
    }
    quoted.cite(session);
    Ok(())
}

/// Where events go: text as it comes, or JSON lines.
struct Sink<'a> {
    answer: Answer,
    reading: Reading,
    json: bool,
    done: &'a mut Option<Done>,
    failed: Option<Error>,
}

impl Sink<'_> {
    fn take(&mut self, event: &Event) {
        if self.failed.is_some() {
            return;
        }
        let written = match event {
            Event::Token { id, text } if self.json => {
                self.answer.line(&json!({"event": "token", "text": text, "id": id}).to_string())
            }
            Event::Token { text, .. } => {
                self.reading.wipe();
                self.answer.push(text)
            }
            Event::Prompt { computed, total } => {
                self.reading.at(*computed, *total);
                Ok(())
            }
            Event::Done(done) => {
                *self.done = Some(done.clone());
                Ok(())
            }
        };
        self.failed = written.err();
    }
}

/// The last of the JSON lines. What failed before there was a prompt in tokens has counts of nothing, and no seed.
fn last_line(done: Option<&Done>, e: Option<&Error>) -> Value {
    let seed = done.map(|done| done.seed);
    let nothing = Done::refused(0, 0);
    let done = done.unwrap_or(&nothing);
    let mut line = json!({
        "event": "done",
        "finish_reason": done.finish.to_string(),
        "prompt_tokens": done.prompt_tokens,
        "generated_tokens": done.generated_tokens,
        "prompt_seconds": done.prompt_seconds,
        "generation_seconds": done.generation_seconds,
        "seed": seed,
    });
    if let Some(e) = e.filter(|_| done.finish == Finish::Error) {
        line["error"] = e.what().into();
    }
    line
}
