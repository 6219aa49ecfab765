//! The chat at a real pseudo-terminal.

mod common;

use std::process::Command;

use assert_cmd::cargo::CommandCargoExt;
use rexpect::session::{PtySession, spawn_command};

/// A chat with the test model, greedy; waits for its first prompt. Answers take seconds, not minutes.
fn chat(args: &[&str]) -> PtySession {
    let mut command = Command::cargo_bin("taper").unwrap();
    command.arg("-m").arg(common::smollm2()).args(["--temp", "0"]).args(args);
    command.env("TERM", "xterm").env_remove("TAPER_MODEL");
    let mut chat = spawn_command(command, Some(60_000)).unwrap();
    chat.exp_string("Ctrl-D leaves.").unwrap();
    chat.exp_string(">>> ").unwrap();
    chat
}

/// Types a line and Enter.
fn say(chat: &mut PtySession, line: &str) {
    chat.send(line).unwrap();
    chat.send("\r").unwrap();
    chat.flush().unwrap();
}

fn exit_code(chat: &mut PtySession) -> i32 {
    chat.exp_eof().unwrap();
    match chat.process().wait().unwrap() {
        rexpect::process::wait::WaitStatus::Exited(_, code) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_remembers_and_leaves_with_ctrl_d() {
    let mut chat = chat(&["-n", "40"]);
    say(&mut chat, "What is the capital of France?");
    chat.exp_string("Paris").unwrap();
    chat.exp_string("[ prompt ").unwrap();
    chat.exp_string(">>> ").unwrap();
    say(&mut chat, "What did I just ask you about? Repeat my question.");
    chat.exp_string("France").unwrap();
    chat.exp_string("France").unwrap(); // the first was the echo's… of the question before
    chat.exp_string(">>> ").unwrap();
    chat.send_control('d').unwrap();
    assert_eq!(exit_code(&mut chat), 0);
}
