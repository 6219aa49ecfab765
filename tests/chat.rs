//! The chat at a real pseudo-terminal.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use common::pty::{Home, ends_well, next_prompt, say};

#[test]
fn it_answers_remembers_and_leaves_with_ctrl_d() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "40"]);
    say(&mut chat, "What is the capital of France?");
    chat.exp_string("The capital of France is Paris.").unwrap();
    next_prompt(&mut chat);
    // Without the turn before, "it" has no river.
    say(&mut chat, "Which river flows through it?");
    chat.exp_string("Seine").unwrap();
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
}

#[test]
fn ctrl_c_ends_the_answer_and_not_the_chat() {
    let home = Home::new();
    let mut chat = home.chat(&[]);
    say(&mut chat, "Tell me a very long story.");
    chat.exp_string("The story").or_else(|_| chat.exp_string("Once")).unwrap();
    chat.send_control('c').unwrap();
    chat.exp_string("[interrupted]").unwrap();
    next_prompt(&mut chat);
    // At an empty prompt it only says how to leave.
    chat.send_control('c').unwrap();
    chat.exp_string("Ctrl-D or /bye leaves the chat.").unwrap();
    say(&mut chat, "/bye");
    ends_well(&mut chat);
}

#[test]
fn ctrl_c_is_felt_while_a_long_prompt_is_read() {
    let home = Home::new();
    let mut chat = home.chat(&["-c", "4096"]);
    say(&mut chat, &"All work and no play makes Jack a dull boy. ".repeat(200));
    std::thread::sleep(std::time::Duration::from_millis(500));
    chat.send_control('c').unwrap();
    chat.exp_string("[interrupted]").unwrap();
    chat.exp_string(">>> ").unwrap();
    say(&mut chat, "/bye");
    ends_well(&mut chat);
}

#[test]
fn a_message_goes_over_several_lines_in_three_ways() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "24"]);
    for lines in [
        &["\"\"\"What is the capital", "of France?\"\"\""][..],
        &["What is the capital\\", "of France?"],
        &["What is the capital\nof France?"],
    ] {
        say(&mut chat, "/clear");
        chat.exp_string("anew.").unwrap();
        for line in lines {
            say(&mut chat, line);
        }
        chat.exp_string("is Paris").unwrap();
        next_prompt(&mut chat);
    }
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
}

#[test]
fn commands_change_the_conversation() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "24"]);
    for (command, says) in [
        ("/undo", "There is nothing to undo."),
        ("/regen", "There is no question to answer again."),
        ("/hlep", "/hlep is no command; /help lists them."),
        ("/help", "/regen                answer the last question again"),
        ("/system Answer in one word.", "The system message is set."),
        ("/show", "system message: Answer in one word."),
        ("/system", "The system message is removed."),
    ] {
        say(&mut chat, command);
        chat.exp_string(says).unwrap();
        chat.exp_string(">>> ").unwrap();
    }
    say(&mut chat, "What is the capital of France?");
    chat.exp_string("is Paris.").unwrap();
    next_prompt(&mut chat);
    say(&mut chat, "/regen");
    chat.exp_string("is Paris.").unwrap();
    next_prompt(&mut chat);
    say(&mut chat, "/undo");
    chat.exp_string("are forgotten.").unwrap();
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
}

#[test]
fn a_question_that_does_not_fit_is_refused_and_the_chat_goes_on() {
    let home = Home::new();
    let mut chat = home.chat(&["-c", "64", "-n", "16"]);
    say(&mut chat, &"word ".repeat(100));
    chat.exp_string("the context holds 64").unwrap();
    chat.exp_string("/clear the whole conversation").unwrap();
    chat.exp_string(">>> ").unwrap();
    say(&mut chat, "Say hi.");
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
}
