//! The user's settings file, `config.toml`: flags that need not be typed every time.
//!
//! A key is a flag's long name. Its value becomes the flag's default, so that the order is flag, environment, this file,
//! built-in default, and so that it is checked by the very rules of the command line. Flags of one run (`-p`, `--json`,
//! `--continue`) are no settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::builder::OsStr;
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};
use toml::{Spanned, Value};

use crate::cli::Cli;
use crate::error::{Error, Result};

/// The keys, in the order of the help.
const KEYS: [&str; 20] = [
    "model",
    "ctx-size",
    "threads",
    "device",
    "pre",
    "offline",
    "quiet",
    "system",
    "predict",
    "min-tokens",
    "stop",
    "color",
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
    values: BTreeMap<String, Vec<String>>,
}

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
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
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

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Makes the settings the defaults of the command's flags, and of its subcommands'. `except` are left alone.
    #[must_use]
    pub fn apply(&self, command: Command, except: &[&str]) -> Command {
        let command = command.mut_args(|arg| match setting(&arg).and_then(|key| self.values.get_key_value(&key)) {
            Some((key, values)) if !except.contains(&&**key) => arg.default_values(values.iter().map(OsStr::from)),
            _ => arg,
        });
        command.mut_subcommands(|sub| self.apply(sub, except))
    }
}

/// The key of a flag: its long name, where its environment name says that it is the flag of that meaning.
fn setting(arg: &Arg) -> Option<String> {
    let long = arg.get_long()?;
    let env = format!("TAPER_{}", long.to_uppercase().replace('-', "_"));
    (arg.get_env()? == env.as_str()).then(|| long.to_owned())
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
        settings.values.insert(key, values);
    }
    Ok(settings)
}

/// A value as the command line would have it.
fn texts(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let is_switch = command().get_arguments().any(|a| a.get_long() == Some(key) && is_switch(a));
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
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = parsed.map_err(|e| {
        let text = e.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })?;
    cli.sampling.sampling().map_err(|e| e.what().to_owned())?;
    cli.prompt.max_tokens().map_err(|e| e.what().to_owned())?;
    Ok(())
}

/// The command line, deaf to the environment.
fn command() -> Command {
    Cli::command().mut_args(|arg| arg.env(None))
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The settings of this user; without a home there are none.
///
/// # Errors
/// As [`Settings::read`].
pub fn of_user(env: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
    match super::Dirs::from_env(env) {
        Ok(dirs) => Settings::read(&dirs.config.join("config.toml")),
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
        let command = parse(settings).unwrap().apply(Cli::command(), &[]).mut_args(|arg| arg.env(None));
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
        assert!(Settings::read(Path::new("/nonexistent/config.toml")).unwrap().is_empty());
        let folder = tempfile::tempdir().unwrap();
        assert!(Settings::read(folder.path()).unwrap_err().to_string().starts_with("cannot read the settings: "));
    }
}
