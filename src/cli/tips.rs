//! What to type instead: the tip in clap's refusals, for what people bring along from other programs.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;
use crate::config::settings;

/// The tip for what was refused; `None` leaves clap's own, where it has one.
pub(super) fn of(e: &clap::Error, args: &[OsString]) -> Option<String> {
    match e.kind() {
        ErrorKind::ValueValidation => of_value(text(e, ContextKind::InvalidArg)?, text(e, ContextKind::InvalidValue)?),
        ErrorKind::InvalidSubcommand => of_word(e, args),
        ErrorKind::ArgumentConflict => {
            flags_before_command(e).or_else(|| json_of_report(e)).or_else(|| of_word(e, args))
        }
        _ => None,
    }
}

/// What to type instead of `taper -m X tokenize`, where the command takes the flags.
fn flags_before_command(e: &clap::Error) -> Option<String> {
    let name = text(e, ContextKind::InvalidSubcommand)?;
    let flags = match e.get(ContextKind::PriorArg)? {
        ContextValue::String(flag) => std::slice::from_ref(flag),
        ContextValue::Strings(flags) => flags,
        _ => return None,
    };
    let cli = Cli::command();
    let known: Vec<&str> = cli.find_subcommand(name)?.get_arguments().filter_map(clap::Arg::get_long).collect();
    let all_known = flags.iter().all(|flag| settings::flag_in(flag).is_some_and(|long| known.contains(&long)));
    all_known.then(|| format!("a command's flags come after it: taper {name} {}", flags.join(" ")))
}

/// For `--bench --json`.
fn json_of_report(e: &clap::Error) -> Option<String> {
    let mut flags = [text(e, ContextKind::InvalidArg)?, text(e, ContextKind::PriorArg)?];
    flags.sort_unstable();
    let [report @ ("--bench" | "--estimate-memory"), "--json"] = flags else { return None };
    Some(format!("its results have another flag for that: taper {report} -o json"))
}

/// For a cluster of letters that clap takes for a short flag and its value.
fn of_value(flag: &str, value: &str) -> Option<String> {
    match settings::flag_in(flag)? {
        "seed" => match value.strip_prefix("ys")? {
            "tem" => Some("a long flag has two dashes: --system TEXT".to_owned()),
            message => Some(format!("the text stands apart: -sys {}", quoted(message))),
        },
        "predict" if value.starts_with("gl") => Some("there is no -ngl to choose: leave it out".to_owned()),
        _ => None,
    }
}

/// For a word where a command could be: one of another program's, or a prompt without its flag.
fn of_word(e: &clap::Error, args: &[OsString]) -> Option<String> {
    let word = text(e, ContextKind::InvalidSubcommand)?;
    if Cli::command().find_subcommand(word).is_some() {
        return None;
    }
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let at = args.iter().skip(1).position(|arg| arg == word)? + 1;
    let (before, rest) = (&args[1..at], &args[at + 1..]);
    match word {
        "run" => {
            let (model, prompt) = rest.split_first().map_or(("NAME", rest), |(model, rest)| (model.as_str(), rest));
            let prompt = if prompt.is_empty() { String::new() } else { format!(" -p {}", quoted(&prompt.join(" "))) };
            Some(format!("a model is named with -m: taper -m {}{prompt}", quoted(model)))
        }
        "chat" => Some(format!("taper is a chat without a command: {}", line(&[before, rest].concat()))),
        "ls" => Some("models have a command of their own: taper models list".to_owned()),
        _ if is_models_command(word) => {
            Some(format!("models have a command of their own: {} {}", line(&["models".into()]), line_of(&args[at..])))
        }
        _ if e.get(ContextKind::SuggestedSubcommand).is_some() => None, // clap saw a slip of the finger
        _ => Some(format!("a prompt comes after -p, in quotes: {}", with_prompt(before, &args[at..]))),
    }
}

fn is_models_command(word: &str) -> bool {
    Cli::command().find_subcommand("models").is_some_and(|models| models.find_subcommand(word).is_some())
}

/// The command line with the words from `words` on as its prompt, or as the end of the one that it has.
fn with_prompt(before: &[String], words: &[String]) -> String {
    let end = words.iter().position(|word| word.starts_with('-')).unwrap_or(words.len());
    let prompt = words[..end].join(" ");
    let mut args = before.to_vec();
    match before {
        [.., flag, start] if flag == "-p" || flag == "--prompt" => {
            args.truncate(before.len() - 1);
            args.push(format!("{start} {prompt}"));
        }
        _ => args.extend(["-p".to_owned(), prompt]),
    }
    args.extend_from_slice(&words[end..]);
    line(&args)
}

/// A command line of taper's.
fn line(args: &[String]) -> String {
    format!("taper {}", line_of(args)).trim_end().to_owned()
}

fn line_of(args: &[String]) -> String {
    args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ")
}

/// A word as shells take it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn text(e: &clap::Error, kind: ContextKind) -> Option<&str> {
    match e.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip(args: &[&str]) -> Option<String> {
        let args: Vec<OsString> = std::iter::once(&"taper").chain(args).map(OsString::from).collect();
        let e = settings::deaf(Cli::command()).try_get_matches_from(&args).unwrap_err();
        of(&e, &args)
    }

    #[test]
    fn flags_before_a_command_are_shown_behind_it() {
        let expected = "a command's flags come after it: taper tokenize --model <NAME|PATH|HF>";
        assert_eq!(tip(&["-m", "x", "tokenize"]).as_deref(), Some(expected));
        assert_eq!(tip(&["-p", "x", "tokenize"]), None);
        assert_eq!(tip(&["--no-such-flag"]), None);
    }

    #[test]
    fn what_other_programs_take_is_answered_with_the_right_command() {
        for (args, expected) in [
            (&["run", "smollm2"][..], "taper -m smollm2"),
            (&["run", "smollm2", "why", "me?"], "taper -m smollm2 -p 'why me?'"),
            (&["run"], "taper -m NAME"),
            (&["chat"], ": taper"),
            (&["chat", "-m", "smollm2"], ": taper -m smollm2"),
            (&["list"], ": taper models list"),
            (&["ls"], ": taper models list"),
            (&["pull", "smollm2"], ": taper models pull smollm2"),
            (&["hello there"], ": taper -p 'hello there'"),
            (&["why", "it's", "-n", "3"], ": taper -p 'why it'\\''s' -n 3"),
            (&["-m", "x", "hello there"], ": taper -m x -p 'hello there'"),
            (&["-p", "hi", "there", "you"], ": taper -p 'hi there you'"),
            (&["--bench", "--json"], ": taper --bench -o json"),
            (&["--json", "--estimate-memory"], ": taper --estimate-memory -o json"),
            (&["-sysfoo"], ": -sys foo"),
            (&["-system", "foo"], ": --system TEXT"),
            (&["-ngl", "5"], "leave it out"),
        ] {
            let tip = tip(args).unwrap_or_default();
            assert!(tip.ends_with(expected), "{args:?}: {tip}");
        }
        assert_eq!(tip(&["tokenise"]), None, "clap knows what was meant");
    }
}
