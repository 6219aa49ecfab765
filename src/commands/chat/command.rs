//! What is typed after a slash.

use crate::error::{Error, Result};

/// One command, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Help,
    System(&'a str),
    Set {
        parameter: &'a str,
        value: &'a str,
    },
    Show(Topic),
    Clear,
    Regen,
    Undo,
    Save(&'a str),
    Load(&'a str),
    Sessions,
    Stats,
    Model(&'a str),
    #[cfg(feature = "memory")]
    Remember(&'a str),
    #[cfg(feature = "memory")]
    Recall(&'a str),
    #[cfg(feature = "memory")]
    Forget(i64),
    /// With a path: adds what is there.
    #[cfg(feature = "memory")]
    Memory(Option<&'a str>),
    Bye,
}

/// What `/show` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    /// Everything but the template, which is long.
    All,
    Template,
    Settings,
    System,
    Session,
}

/// Its words after `/show`.
pub(super) const TOPICS: [&str; 4] = ["template", "settings", "system", "session"];

/// Usage and meaning, in the order of `/help`.
const COMMANDS: &[(&str, &str)] = &[
    ("/help", "show this list"),
    ("/system TEXT", "set the system message (nothing: remove it)"),
    ("/set PARAMETER VALUE", "change how answers are made, as /set temp 0.7"),
    ("/show [TOPIC]", "show the settings, the system message and the session; or one of them, or the template"),
    ("/clear", "forget the conversation"),
    ("/regen", "answer the last question again"),
    ("/undo", "forget the last question and its answer"),
    ("/save NAME", "keep the conversation as it is now, as a session of that name"),
    ("/load NAME", "go on with another session"),
    ("/sessions", "list the sessions"),
    ("/stats", "show speeds and how full the context is"),
    ("/model NAME", "go on with another model"),
    #[cfg(feature = "memory")]
    ("/remember TEXT", "keep a text in the memory (--memory NAME)"),
    #[cfg(feature = "memory")]
    ("/recall QUERY", "show the passages of the memory that are nearest in meaning"),
    #[cfg(feature = "memory")]
    ("/forget ID", "remove a record from the memory"),
    #[cfg(feature = "memory")]
    ("/memory [add PATH]", "show the memory; or add a file or folder to it while the chat goes on"),
    ("/bye", "leave (also /exit, /quit and Ctrl-D)"),
];

/// The text of `/help`.
pub(super) fn help() -> String {
    let lines: Vec<String> = COMMANDS.iter().map(|(usage, meaning)| format!("{usage:22}{meaning}\n")).collect();
    lines.concat()
        + "Several lines: between \"\"\" and \"\"\", after a trailing \\, with Ctrl-J, or pasted. Ctrl-C stops an answer."
}

/// What Tab completes, given the words that commands take now.
pub(super) fn phrases(parameters: &[&str], sessions: &[String], models: &[String]) -> Vec<String> {
    let bare = COMMANDS.iter().map(|(usage, _)| match usage.split_once(' ') {
        Some((name, _)) => format!("{name} "),
        None => (*usage).to_owned(),
    });
    let with = |command: &str, words: Vec<&str>, end: &str| -> Vec<String> {
        words.iter().map(|word| format!("{command} {word}{end}")).collect()
    };
    bare.chain(with("/set", parameters.to_vec(), " "))
        .chain(with("/show", TOPICS.to_vec(), ""))
        .chain(with("/load", sessions.iter().map(String::as_str).collect(), ""))
        .chain(with("/model", models.iter().map(String::as_str).collect(), ""))
        .collect()
}

/// The command in what was typed; `None` when it is a message.
///
/// # Errors
/// When it looks like a command and is none, or its words are missing or too many.
pub(super) fn parse(text: &str) -> Result<Option<Command<'_>>> {
    let text = text.trim();
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let command = match name {
        "/system" => Command::System(rest),
        "/set" => set(rest)?,
        "/show" => Command::Show(topic(rest)?),
        "/save" => Command::Save(one_word(name, rest)?),
        "/load" => Command::Load(one_word(name, rest)?),
        "/model" if rest.is_empty() => return Err(incomplete(name)),
        "/model" => Command::Model(rest), // a path may have spaces
        #[cfg(feature = "memory")]
        "/remember" if !rest.is_empty() => Command::Remember(rest),
        #[cfg(feature = "memory")]
        "/recall" if !rest.is_empty() => Command::Recall(rest),
        #[cfg(feature = "memory")]
        "/forget" => Command::Forget(one_word(name, rest)?.parse().map_err(|_| incomplete(name))?),
        #[cfg(feature = "memory")]
        "/remember" | "/recall" => return Err(incomplete(name)),
        #[cfg(feature = "memory")]
        "/memory" => Command::Memory(memory(rest)?),
        "/help" | "/?" => bare(name, rest, Command::Help)?,
        "/clear" => bare(name, rest, Command::Clear)?,
        "/regen" => bare(name, rest, Command::Regen)?,
        "/undo" => bare(name, rest, Command::Undo)?,
        "/sessions" => bare(name, rest, Command::Sessions)?,
        "/stats" => bare(name, rest, Command::Stats)?,
        "/bye" | "/exit" | "/quit" => bare(name, rest, Command::Bye)?,
        _ if looks_like_command(name) => {
            return Err(Error::usage(format!("{name} is no command; /help lists them.")));
        }
        _ => return Ok(None),
    };
    Ok(Some(command))
}

fn set(rest: &str) -> Result<Command<'_>> {
    match rest.split_whitespace().collect::<Vec<_>>()[..] {
        [parameter, value] => Ok(Command::Set { parameter, value }),
        _ => Err(incomplete("/set")),
    }
}

fn topic(rest: &str) -> Result<Topic> {
    Ok(match rest {
        "" => Topic::All,
        "template" => Topic::Template,
        "settings" => Topic::Settings,
        "system" => Topic::System,
        "session" => Topic::Session,
        other => {
            return Err(Error::usage(format!("/show has no `{other}`; it takes {}", TOPICS.join(", "))));
        }
    })
}

/// The path behind `/memory add`, which may have spaces.
#[cfg(feature = "memory")]
fn memory(rest: &str) -> Result<Option<&str>> {
    let path = rest.strip_prefix("add").filter(|path| path.starts_with(char::is_whitespace)).map(str::trim);
    match path {
        Some(path) if !path.is_empty() => Ok(Some(path)),
        _ if rest.is_empty() => Ok(None),
        _ => Err(incomplete("/memory")),
    }
}

fn one_word<'a>(name: &str, rest: &'a str) -> Result<&'a str> {
    if rest.is_empty() || rest.contains(char::is_whitespace) { Err(incomplete(name)) } else { Ok(rest) }
}

/// A command that takes nothing. Words behind it may well be a question that happens to start so; doing the command would
/// lose them, and `/clear` more.
fn bare<'a>(name: &str, rest: &str, command: Command<'a>) -> Result<Command<'a>> {
    if rest.is_empty() { Ok(command) } else { Err(Error::usage(format!("{name} takes nothing behind it"))) }
}

fn incomplete(name: &str) -> Error {
    let entry = COMMANDS.iter().find(|(usage, _)| usage.split(' ').next() == Some(name));
    let (usage, meaning) = entry.copied().unwrap_or((name, ""));
    Error::usage(format!("it is typed {usage}: {meaning}"))
}

/// A slash and a word, as people mistype commands; a path ("/etc/passwd is …") is none.
fn looks_like_command(word: &str) -> bool {
    word.strip_prefix('/').is_some_and(|w| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn every_command_of_the_help_is_understood() {
        for (usage, _) in COMMANDS {
            let typed = usage.replace("[TOPIC]", "template").replace(" ID", " 7").replace("[add PATH]", "add a b.txt");
            assert!(parse(&typed).unwrap().is_some(), "{usage}");
        }
        assert_eq!(parse("/?").unwrap(), Some(Command::Help));
        for leaves in ["/bye", "/exit", "/quit"] {
            assert_eq!(parse(leaves).unwrap(), Some(Command::Bye));
            assert!(help().contains(leaves), "{leaves}");
        }
    }

    #[test]
    fn a_path_is_a_question_not_a_command() {
        for message in ["/etc/passwd what is it?", "/", "help", "/2 is a half", "hello /clear"] {
            assert_eq!(parse(message).unwrap(), None, "{message}");
        }
        assert_eq!(error("/hlep"), "/hlep is no command; /help lists them.");
    }

    #[test]
    fn wrong_words_are_named_and_nothing_is_done() {
        assert_eq!(error("/clear the table"), "/clear takes nothing behind it");
        assert_eq!(error("/help me write a poem"), "/help takes nothing behind it");
        assert_eq!(error("/? who"), "/? takes nothing behind it");
        assert_eq!(
            error("/set temp"),
            "it is typed /set PARAMETER VALUE: change how answers are made, as /set temp 0.7"
        );
        assert_eq!(error("/show me"), "/show has no `me`; it takes template, settings, system, session");
        assert!(error("/load").starts_with("it is typed /load NAME") && error("/save a b").contains("/save NAME"));
        #[cfg(feature = "memory")]
        for wrong in ["/memory a.txt", "/memory add", "/memory addendum", "/forget x", "/remember", "/recall"] {
            assert!(error(wrong).starts_with("it is typed /"), "{wrong}");
        }
        assert_eq!(parse("/set temp 1").unwrap(), Some(Command::Set { parameter: "temp", value: "1" }));
    }
}
