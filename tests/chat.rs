//! The chat at a real pseudo-terminal.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use common::pty::{Home, brings, ends_well, ends_with, in_shell, keys, next_prompt, say, signal_all, start};

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

#[test]
fn pasted_lines_are_one_message() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "24", "--session", "work"]);
    keys(&mut chat, "\u{1b}[200~What is the capital\rof France?\u{1b}[201~\r");
    chat.exp_string("is Paris").unwrap();
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    let session = std::fs::read_to_string(home.session("work")).unwrap();
    assert!(session.contains(r#""content":"What is the capital\nof France?""#), "{session}");
}

/// The questions of a session.
fn questions(home: &Home, session: &str) -> Vec<String> {
    let lines = std::fs::read_to_string(home.session(session)).unwrap();
    let questions = lines.lines().filter_map(|line| line.strip_prefix(r#"{"type":"message","role":"user","content":"#));
    questions.map(str::to_owned).collect()
}

#[test]
fn lines_that_come_at_once_are_questions_one_by_one() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "2", "--session", "work"]);
    keys(&mut chat, "first one\rsecond one\rthird one\r");
    for _ in 0..3 {
        next_prompt(&mut chat);
    }
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    assert_eq!(questions(&home, "work"), ["\"first one\"}", "\"second one\"}", "\"third one\"}"]);
}

#[test]
fn what_is_typed_during_an_answer_is_not_shown_in_it_and_asked_after_it() {
    let home = Home::new();
    let mut chat = start(in_shell(&home.taper(&["--temp", "0", "-n", "40", "--session", "work"])));
    chat.exp_string(">>> ").unwrap();
    say(&mut chat, "Tell me a very long story.");
    chat.exp_string("The story").or_else(|_| chat.exp_string("Once")).unwrap();
    keys(&mut chat, "first one\rsecond one\r");
    let answer = chat.exp_string("[ prompt ").unwrap();
    assert!(!answer.contains("first"), "{answer}");
    chat.exp_string("first one").unwrap(); // at the prompt
    next_prompt(&mut chat);
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    chat.exp_string("exit code 0").unwrap();
    let settings = chat.exp_eof().unwrap();
    assert!([" echo ", " icanon ", " icrnl "].iter().all(|on| settings.contains(on)), "{settings}");
    assert_eq!(questions(&home, "work")[1..], ["\"first one\"}", "\"second one\"}"]);
}

#[test]
fn a_signal_at_the_prompt_ends_the_program_and_gives_the_terminal_back() {
    let home = Home::new();
    let mut chat = start(in_shell(&home.taper(&[])));
    signal_all(&mut chat, "INT");
    chat.exp_string("exit code 130").unwrap();
    let settings = chat.exp_eof().unwrap();
    assert!([" echo ", " icanon ", " icrnl "].iter().all(|on| settings.contains(on)), "{settings}");
}

#[test]
fn bytes_that_are_not_utf8_are_left_out_and_said_to_be() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "2", "--session", "work"]);
    keys(&mut chat, "before ");
    chat.exp_string("before").unwrap();
    // Latin-1, and more of it than rustyline reads at once.
    let paste = [b"\x1b[200~".as_slice(), &[0xe9].repeat(1500), b"\rlost\r\x1b[201~"].concat();
    std::io::Write::write_all(&mut chat.process().get_file_handle().unwrap(), &paste).unwrap();
    chat.exp_string("Bytes that are not UTF-8 came in: they, and what came together with them, are left out.").unwrap();
    chat.exp_string(">>> ").unwrap();
    say(&mut chat, "and after");
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    assert_eq!(questions(&home, "work"), ["\"before and after\"}"]);
}

#[test]
fn wide_characters_are_edited_whole_also_after_a_resize() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "1", "--session", "work"]);
    keys(&mut chat, "漢字👩‍🚀");
    chat.process_mut().signal("SIGWINCH".parse().unwrap()).unwrap();
    keys(&mut chat, "\u{7f}\u{1b}[D\u{7f}é\r"); // backspace, left, backspace
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    let session = std::fs::read_to_string(home.session("work")).unwrap();
    assert!(session.contains(r#""content":"é字""#), "{session}");
}

#[test]
fn tab_completes_commands_and_their_words() {
    let home = Home::new();
    let mut chat = home.chat(&[]);
    keys(&mut chat, "/sh\tte\t\r");
    chat.exp_string("chat template:").unwrap();
    chat.exp_string(">>> ").unwrap();
    keys(&mut chat, "/set mi\t0.25\r");
    chat.exp_string("min-p is 0.25 now.").unwrap();
    chat.exp_string(">>> ").unwrap();
    keys(&mut chat, "/model smol\t");
    chat.exp_string("smollm2-135m").unwrap();
    chat.send_control('c').unwrap();
    chat.exp_string(">>> ").unwrap();
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
}

#[test]
fn markdown_is_styled_on_a_terminal_and_nowhere_else() {
    let home = Home::new();
    let question = ["--temp", "0", "-n", "24", "-p", "Write a Python program that prints hello."];
    let bold_or_code = "\u{1b}[0;";
    let mut shown = String::new();
    for more in [&[][..], &["--color", "never"]] {
        let mut at_terminal = start(home.taper(&[&question[..], more].concat()));
        shown += if ends_with(&mut at_terminal, 0).contains(bold_or_code) { "styled " } else { "plain " };
    }
    for more in [&[][..], &["--color", "always"]] {
        let mut piped = home.taper(&[&question[..], more].concat());
        let out = String::from_utf8(piped.stdin(std::process::Stdio::null()).output().unwrap().stdout).unwrap();
        shown += if out.contains(bold_or_code) { "styled " } else { "plain " };
    }
    assert_eq!(shown, "styled plain plain styled ");
}

#[test]
fn settings_change_and_mistakes_change_nothing() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "24"]);
    for (command, says) in [
        ("/set predict 2", "predict is 2 now."),
        ("/set top-p 2", "--top-p is 2; 0 to 1 is possible"),
        ("/set tmp 1", "there is no parameter `tmp`"),
        ("/show settings", "top-p 0.95"),
        ("/stats", "There is no answer yet."),
        ("/model /nonexistent/m.gguf", "/nonexistent/m.gguf"),
        ("/clear it", "/clear takes nothing behind it"),
    ] {
        brings(&mut chat, command, says);
    }
    say(&mut chat, "What is the capital of France?");
    next_prompt(&mut chat);
    brings(&mut chat, "/stats", "2 written");
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
}

#[test]
fn another_model_takes_the_conversation_over() {
    let home = Home::new();
    let copy = home.file("other.gguf");
    std::fs::copy(common::smollm2(), &copy).unwrap();
    let mut chat = home.chat(&["-n", "40"]);
    say(&mut chat, "What is the capital of France?");
    next_prompt(&mut chat);
    brings(&mut chat, &format!("/model {}", copy.display()), "other answers from now on, context");
    say(&mut chat, "Which river flows through it?");
    chat.exp_string("Seine").unwrap();
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
}

#[test]
fn an_empty_prompt_is_a_usage_error_at_a_terminal_too() {
    let mut program = start(Home::new().taper(&["-p", ""]));
    let shown = ends_with(&mut program, 2);
    assert!(shown.contains("error: the prompt is empty"), "{shown}");
}
