//! Flags that need not be typed every time: the user's settings file, `config.toml`, and the environment.
//!
//! A key of the file is a flag's long name, a variable is `TAPER_` and that name. A value becomes the flag's default, so
//! that the order is flag, environment, file, built-in default; so that it is checked by the very rules of the command
//! line; and so that it contradicts nothing that is typed, for clap's conflicts are between what is typed alone. Flags of
//! one run (`-p`, `--json`, `--continue`) are no keys of the file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::Path;

use clap::builder::OsStr;
use clap::error::ContextKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use toml::{Spanned, Value};

use crate::cli::Cli;
use crate::error::{Error, Result};

/// The keys, in the order of the help.
const KEYS: &[&str] = &[
    "model",
    "ctx-size",
    "threads",
    "device",
    "quant",
    "pre",
    "offline",
    "quiet",
    "kv-type",
    "flash-attention",
    "optimize-memory",
    "max-speed",
    "system",
    "predict",
    "min-tokens",
    "stop",
    "color",
    #[cfg(feature = "memory")]
    "memory",
    #[cfg(feature = "memory")]
    "memory-budget",
    #[cfg(feature = "memory")]
    "embedder",
    "seed",
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "repeat-penalty",
    "frequency-penalty",
    "presence-penalty",
];

/// Defaults by flag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, Vec<OsString>>,
}

/// Flags by their long names.
pub type Flags = BTreeSet<String>;

/// What is wrong, and at which byte.
struct Wrong {
    what: String,
    byte: usize,
}

impl Settings {
    /// Reads the file; one that is not there has no settings.
    ///
    /// # Errors
    /// When it cannot be read, or anything in it is wrong; the message has the line and the column.
    pub fn read(path: &Path) -> Result<Self> {
        match regular_file(path) {
            Ok(text) => Self::parse(&text, path),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Self::default()),
            Err(e) => Err(Error::usage(format!("cannot read the settings: {e}")).in_file(path).caused_by(e)),
        }
    }

    /// Reads the text of a settings file.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        check(text).map_err(|Wrong { what, byte }| {
            let before = text.get(..byte).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
            Error::usage(what).at(format_args!("{}, line {line}, column {column}", path.display()))
        })
    }

    /// What the environment says; a variable that is set to nothing says nothing. The values are checked with the rest of
    /// the command line.
    pub fn of_env(env: impl Fn(&str) -> Option<OsString>) -> Self {
        let of_flag = |key: String| Some((key.clone(), vec![super::value(&env, &variable(&key))?]));
        Self { values: Cli::command().get_arguments().filter_map(setting).filter_map(of_flag).collect() }
    }

    /// The flags that are set.
    pub fn flags(&self) -> Flags {
        self.values.keys().cloned().collect()
    }

    /// Forgets a flag's value.
    pub fn forget(&mut self, key: &str) {
        self.values.remove(key);
    }

    /// Makes the settings the defaults of the command's flags, and of its subcommands'. `above` are the flags that a
    /// stronger source sets: where a setting conflicts with one of them it does not count.
    #[must_use]
    pub fn apply(&self, command: Command, above: &Flags) -> Command {
        let overruled = overruled(&command, above);
        let command = command.mut_args(|arg| match setting(&arg).and_then(|key| self.values.get_key_value(&key)) {
            Some((key, values)) if !overruled.contains(key) => arg.default_values(values.iter().map(OsStr::from)),
            _ => arg,
        });
        command.mut_subcommands(|sub| self.apply(sub, above))
    }
}

/// A file's text. Opening a FIFO would wait for its writer.
fn regular_file(path: &Path) -> io::Result<String> {
    match std::fs::metadata(path)? {
        found if found.is_file() => std::fs::read_to_string(path),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

/// The flags that were typed, a subcommand's among them.
pub fn typed(command: &Command, matches: &ArgMatches) -> Flags {
    let is_typed = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let mut flags: Flags = command.get_arguments().filter(is_typed).filter_map(long).collect();
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        flags.extend(typed(command, matches));
    }
    flags
}

/// The flags that conflict with one of `above`, whichever of the two declares it.
fn overruled(command: &Command, above: &Flags) -> Flags {
    let mut overruled = Flags::new();
    for arg in command.get_arguments() {
        let others: Flags = command.get_arg_conflicts_with(arg).into_iter().filter_map(long).collect();
        match long(arg) {
            Some(flag) if above.contains(&flag) => overruled.extend(others),
            Some(flag) if !others.is_disjoint(above) => drop(overruled.insert(flag)),
            _ => {}
        }
    }
    overruled
}

fn long(arg: &Arg) -> Option<String> {
    arg.get_long().map(str::to_owned)
}

/// A flag's environment name.
fn variable(long: &str) -> String {
    format!("TAPER_{}", long.to_uppercase().replace('-', "_"))
}

/// A command that is deaf to the environment, as are its subcommands: clap takes a variable for something typed.
pub fn deaf(command: Command) -> Command {
    command.mut_args(|arg| arg.env(None)).mut_subcommands(deaf)
}

/// clap's refusal of a value that was not typed. Those of the file were tried out when it was read.
pub fn bad_variable(e: &clap::Error) -> Error {
    let error = Error::usage(first_line(e));
    match e.get(ContextKind::InvalidArg).map(ToString::to_string).as_deref().and_then(flag_in) {
        Some(flag) => error.at(format_args!("the environment variable {}", variable(flag))),
        None => error,
    }
}

/// The long name in clap's `--ctx-size <N>`.
pub fn flag_in(usage: &str) -> Option<&str> {
    usage.split(' ').next()?.strip_prefix("--")
}

fn first_line(e: &clap::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// The key of a flag: its long name, where its environment name says that it is the flag of that meaning.
fn setting(arg: &Arg) -> Option<String> {
    let long = arg.get_long()?;
    (arg.get_env()? == variable(long).as_str()).then(|| long.to_owned())
}

/// The values of every key, each tried out as the flag that it stands for.
fn check(text: &str) -> Result<Settings, Wrong> {
    let parsed: BTreeMap<Spanned<String>, Spanned<Value>> = toml::from_str(text)
        .map_err(|e| Wrong { what: e.message().trim().to_owned(), byte: e.span().map_or(0, |span| span.start) })?;
    let mut settings = Settings::default();
    for (key, value) in parsed {
        let byte = key.span().start;
        let key = key.into_inner();
        if !KEYS.contains(&&*key) {
            return Err(Wrong { what: format!("there is no setting `{key}`; there are {}", KEYS.join(", ")), byte });
        }
        let byte = value.span().start;
        let values = texts(&key, value.get_ref()).map_err(|what| Wrong { what, byte })?;
        settings.values.insert(key, values.into_iter().map(OsString::from).collect());
    }
    Ok(settings)
}

/// A value as the command line would have it.
fn texts(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let is_switch = Cli::command().get_arguments().any(|a| a.get_long() == Some(key) && is_switch(a));
    let texts = match value {
        Value::Boolean(on) if is_switch => return Ok(vec![on.to_string()]),
        _ if is_switch => return Err(format!("{key} is true or false")),
        Value::String(text) => vec![text.clone()],
        Value::Integer(n) => vec![n.to_string()],
        Value::Float(x) => vec![x.to_string()],
        Value::Array(items) if key == "stop" => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| "stop is a list of texts".to_owned()))
            .collect::<Result<_, _>>()?,
        other => return Err(format!("{key} cannot be of type {}", other.type_str())),
    };
    try_out(key, &texts)?;
    Ok(texts)
}

/// Parses the flag with these values, and makes the checks that the program makes later.
fn try_out(key: &str, values: &[String]) -> Result<(), String> {
    let flags = values.iter().map(|value| format!("--{key}={value}"));
    let args: Vec<String> = std::iter::once("taper".to_owned()).chain(flags).collect();
    let parsed = deaf(Cli::command()).try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = parsed.map_err(|e| first_line(&e))?;
    cli.sampling.sampling().map_err(|e| e.what().to_owned())?;
    cli.prompt.max_tokens().map_err(|e| e.what().to_owned())?;
    Ok(())
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The settings of this user; without a home there are none.
///
/// # Errors
/// As [`Settings::read`].
pub fn of_user(env: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
    match super::Dirs::from_env(env).config() {
        Ok(folder) => Settings::read(&folder.join("config.toml")),
        Err(_) => Ok(Settings::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("config.toml"))
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    /// The command line with a settings file, deaf to the environment.
    fn cli(settings: &str, args: &[&str]) -> Cli {
        let command = deaf(parse(settings).unwrap().apply(Cli::command(), &Flags::new()));
        let args = std::iter::once("taper").chain(args.iter().copied());
        Cli::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    #[test]
    fn every_key_is_a_flag_with_an_environment_name() {
        let flags: Vec<String> = Cli::command().get_arguments().filter_map(setting).collect();
        for key in KEYS {
            assert!(flags.iter().any(|flag| flag == key), "{key}");
        }
    }

    #[test]
    fn settings_are_defaults_and_flags_win() {
        let text = "\u{feff}temp = 0.5\r\ntop-k = 7\r\nsystem = \"\"\"be\nbrief\"\"\"\r\nquiet = true\r\nstop = [\"a\", \"b\"]\r\nthreads = 3\r\n";
        let defaults = cli(text, &[]);
        assert_eq!((defaults.sampling.temp, defaults.sampling.top_k), (0.5, 7));
        assert_eq!(defaults.prompt.system.as_deref(), Some("be\nbrief"));
        assert!(defaults.model.quiet && defaults.prompt.stop == ["a", "b"] && defaults.model.threads == Some(3));
        assert_eq!(cli(text, &["--temp", "0.9"]).sampling.temp, 0.9);
        assert_eq!(cli(text, &["--stop", "c"]).prompt.stop, ["c"]);
        // A default is no choice of the user's: it forbids no other flag.
        assert!(cli(text, &["--bench"]).bench.bench);
    }

    #[test]
    fn subcommands_take_the_settings_of_their_flags() {
        let cli = cli("threads = 3\nmodel = \"m\"\ntemp = 0.5", &["tokenize"]);
        let Some(crate::cli::Command::Tokenize(args)) = cli.command else { panic!("not tokenize") };
        assert_eq!((args.model.threads, &*args.model.model), (Some(3), "m"));
    }

    #[test]
    fn mistakes_are_named_with_line_and_column() {
        for (text, expected) in [
            ("temp = 0.5\ntmp = 1", "there is no setting `tmp`; there are model, ctx-size,"),
            ("temp = \"warm\"", "invalid value 'warm' for '--temp <X>': invalid float literal"),
            ("top-p = 2", "--top-p is 2; 0 to 1 is possible"),
            ("threads = 0", "invalid value '0' for '--threads <N>': 0 is not in 1..=1024"),
            ("threads = true", "threads cannot be of type boolean"),
            ("quiet = \"yes\"", "quiet is true or false"),
            ("stop = [1]", "stop is a list of texts"),
            ("predict = [1, 2]", "predict cannot be of type array"),
            ("[temp]\nx = 1", "temp cannot be of type table"),
            ("prompt = \"x\"", "there is no setting `prompt`"),
            ("temp = 1\ntemp = 2", "duplicate key"),
        ] {
            assert!(error(text).starts_with(expected), "{text}: {}", error(text));
        }
        assert!(error("temp = 0.5\r\n  tmp = 1").ends_with("\n  in config.toml, line 2, column 3"));
        assert!(error("temp = 0.5\ntop-p =  2").ends_with("line 2, column 10"));
        assert!(error("ä = ").contains("line 1, column "));
    }

    #[test]
    fn a_missing_file_has_no_settings_and_a_folder_is_an_error() {
        assert!(Settings::read(Path::new("/nonexistent/config.toml")).unwrap().flags().is_empty());
        let folder = tempfile::tempdir().unwrap();
        assert!(Settings::read(folder.path()).unwrap_err().to_string().starts_with("cannot read the settings: "));
    }
}
