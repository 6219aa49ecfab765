//! One prompt, one answer: `-p`, `-f`, or piped input.

use std::io::Read;
use std::ops::ControlFlow;

use serde_json::json;

use super::Session;
use crate::cli::{Cli, PromptArgs};
use crate::engine::{Done, Event, Finish};
use crate::error::{Error, Result};
use crate::terminal::log;
use crate::terminal::reading::Reading;
use crate::terminal::render::Answer;

/// The prompt that the arguments and standard input give; `None` when a person is there to chat.
///
/// # Errors
/// When the file or standard input cannot be read as text, or there is nothing in them.
pub(super) fn prompt(args: &PromptArgs) -> Result<Option<String>> {
    let given = match &args.file {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|e| Error::usage(format!("cannot read the prompt: {e}")).in_file(path))?,
        ),
        None => args.prompt.clone(),
    };
    if super::stdin_is_terminal() {
        return Ok(given);
    }
    let mut piped = String::new();
    std::io::stdin()
        .read_to_string(&mut piped)
        .map_err(|e| Error::usage(format!("cannot read standard input as text: {e}")))?;
    let prompt = match given {
        Some(given) if piped.is_empty() => given,
        Some(given) => format!("{}\n\n{given}", piped.trim_end_matches('\n')),
        None if args.raw => piped,
        None => piped.trim_end_matches('\n').to_owned(), // the newline that ends a file is no part of a message
    };
    if prompt.trim().is_empty() {
        return Err(Error::usage("the prompt is empty").help("give some text with -p, or on standard input"));
    }
    Ok(Some(prompt))
}

pub(super) fn run(prompt: &str, cli: &Cli, session: &Session) -> Result<()> {
    let options = super::options(&cli.prompt, &cli.sampling)?;
    let mut taper = session.load(None, None)?;
    if !options.raw && taper.template().is_err() {
        log::note(format_args!(
            "{} is a base model (it has no chat template): the prompt is completed as it stands",
            taper.name()
        ));
    }
    let mut sink = Sink {
        answer: if cli.prompt.json { Answer::new() } else { Answer::styled(cli.chat.color) },
        reading: Reading::new(session.args.quiet || cli.prompt.json),
        json: cli.prompt.json,
        failed: None,
    };
    let caught = session.interrupt.catch();
    let result = taper.stream(prompt, &options, |event| {
        sink.take(event);
        if caught.pressed() || sink.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(caught);
    sink.reading.wipe();
    if let Some(e) = sink.failed {
        return Err(e);
    }
    let done = match result {
        Ok(generation) => generation.done,
        Err(e) => {
            if cli.prompt.json {
                sink.answer.line(&error_json(&e, options.sampling.seed).to_string())?;
            } else {
                sink.answer.end()?;
            }
            return Err(e);
        }
    };
    if !cli.prompt.json {
        sink.answer.end()?;
    }
    if done.finish == Finish::Interrupted {
        log::note("[interrupted]");
        return Err(Error::interrupted());
    }
    if !cli.prompt.json && !session.args.quiet {
        log::note(session.answer_line(&taper, &done));
    }
    Ok(())
}

/// Where events go: text as it comes, or JSON lines.
struct Sink {
    answer: Answer,
    reading: Reading,
    json: bool,
    failed: Option<Error>,
}

impl Sink {
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
            Event::Done(done) if self.json => self.answer.line(&done_json(done).to_string()),
            Event::Prompt { computed, total } => {
                self.reading.at(*computed, *total);
                Ok(())
            }
            Event::Done(_) => Ok(()),
        };
        self.failed = written.err();
    }
}

/// The last line of an answer that failed.
fn error_json(e: &Error, seed: u64) -> serde_json::Value {
    let nothing = Done {
        finish: Finish::Error,
        prompt_tokens: 0,
        cached_tokens: 0,
        generated_tokens: 0,
        prompt_seconds: 0.0,
        generation_seconds: 0.0,
        seed,
    };
    let mut json = done_json(&nothing);
    json["error"] = e.what().into();
    json
}

fn done_json(done: &Done) -> serde_json::Value {
    json!({
        "event": "done",
        "finish_reason": done.finish.to_string(),
        "prompt_tokens": done.prompt_tokens,
        "generated_tokens": done.generated_tokens,
        "prompt_seconds": done.prompt_seconds,
        "generation_seconds": done.generation_seconds,
        "seed": done.seed,
    })
}
