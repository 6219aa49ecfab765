//! taper at a pseudo-terminal, with the user's folders of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rexpect::session::{PtySession, spawn_command};
use tempfile::TempDir;

/// The user's folders, empty at first: no test sees or changes those of whoever runs it.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The file of a session.
    pub fn session(&self, id: &str) -> PathBuf {
        self.0.path().join(format!("data/sessions/{id}.jsonl"))
    }

    pub fn history(&self) -> PathBuf {
        self.0.path().join("data/history")
    }

    /// A file of that name, in a folder of the test's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the settings file.
    pub fn settings(&self, text: &str) {
        std::fs::create_dir_all(self.0.path().join("config")).unwrap();
        std::fs::write(self.0.path().join("config/config.toml"), text).unwrap();
    }

    /// taper with the test model, without what the environment says of it.
    pub fn taper(&self, args: &[&str]) -> Command {
        let mut command = self.bare(&[]);
        command.arg("-m").arg(super::smollm2()).args(args);
        command
    }

    /// taper with the model of its choice.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = super::program::taper();
        command.args(args).env("TERM", "xterm");
        command.env("TAPER_DATA_DIR", self.0.path().join("data"));
        command.env("TAPER_CONFIG_DIR", self.0.path().join("config"));
        command
    }

    /// A greedy chat; waits for its first prompt. Answers take seconds, not minutes.
    pub fn chat(&self, args: &[&str]) -> PtySession {
        let mut chat = start(self.taper(&[&["--temp", "0"], args].concat()));
        chat.exp_string("Ctrl-D leaves.").unwrap();
        chat.exp_string(">>> ").unwrap();
        chat
    }
}

/// A shell around a program, at a terminal that echoes as people's do; what it is set to afterwards comes last.
pub fn in_shell(program: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap : INT; stty echo; echo \"shell $$\"; \"$0\" \"$@\"; echo \"exit code $?\"; stty -a"]);
    shell.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Starts a program at a terminal.
pub fn start(mut command: Command) -> PtySession {
    command.stdin(Stdio::inherit()); // the terminal, whatever it was before
    spawn_command(command, Some(60_000)).unwrap()
}

/// Sends a signal to the shell, which does not mind, and to what runs in it.
pub fn signal_all(chat: &mut PtySession, signal: &str) {
    let (_, shell) = chat.exp_regex("shell [0-9]+").unwrap();
    chat.exp_string(">>> ").unwrap();
    let group = shell.replace("shell ", "-");
    assert!(Command::new("kill").args(["-s", signal, "--", &group]).status().unwrap().success());
}

/// Types keys as they are.
pub fn keys(chat: &mut PtySession, keys: &str) {
    chat.send(keys).unwrap();
    chat.flush().unwrap();
}

/// Types a line and Enter.
pub fn say(chat: &mut PtySession, line: &str) {
    chat.send(line).unwrap();
    keys(chat, "\r");
}

/// Types a line, waits for what it must bring, and for the next prompt.
pub fn brings(chat: &mut PtySession, line: &str, expected: &str) {
    say(chat, line);
    chat.exp_string(expected).unwrap();
    chat.exp_string(">>> ").unwrap();
}

/// Waits for the end of an answer and for the next prompt.
pub fn next_prompt(chat: &mut PtySession) {
    chat.exp_string("[ prompt ").unwrap();
    chat.exp_string(">>> ").unwrap();
}

/// Waits for the end of the program, which must be a good one.
pub fn ends_well(chat: &mut PtySession) {
    ends_with(chat, 0);
}

/// Waits for the end of the program with that exit code; gives what it showed until then.
pub fn ends_with(chat: &mut PtySession, code: i32) -> String {
    let shown = chat.exp_eof().unwrap();
    let status = format!("{:?}", chat.process().wait().unwrap()); // the type is not exported
    assert!(status.starts_with("Exited(") && status.ends_with(&format!(", {code})")), "{status}\n{shown}");
    shown
}
