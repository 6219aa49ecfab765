//! What outlives a chat, at a real pseudo-terminal: sessions, history, settings.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use common::pty::{Home, brings, ends_well, ends_with, keys, next_prompt, say, start};

const PARIS: &str = "What is the capital of France?";

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_chat_killed_in_mid_answer_goes_on_where_it_was() {
    let home = Home::new();
    // The system message that the model's template has on its own: it changes no answer.
    let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    let mut chat = home.chat(&["--session", "work", "-n", "40", "-sys", system]);
    say(&mut chat, PARIS);
    next_prompt(&mut chat);
    brings(&mut chat, "/set predict 1000", "predict is 1000 now.");
    say(&mut chat, "Tell me a very long story.");
    chat.exp_string("\n").unwrap(); // the echo; the answer may have begun
    std::thread::sleep(std::time::Duration::from_millis(700));
    chat.process_mut().signal("SIGKILL".parse().unwrap()).unwrap(); // the signal's type is not exported
    chat.exp_eof().unwrap();
    assert!(read(&home.session("work")).ends_with("Tell me a very long story.\"}\n"), "the question is kept");

    let mut chat = start(home.taper(&["--continue", "--temp", "0", "-n", "24"]));
    chat.exp_string("Session work, 4 messages so far.").unwrap();
    chat.exp_string("Its last question has no answer: /regen answers it").unwrap();
    chat.exp_string(">>> ").unwrap();
    brings(&mut chat, "/show system", "system message: You are a helpful AI assistant named SmolLM");
    // A new question takes the unanswered one's place, and "it" is still Paris.
    say(&mut chat, "Which river flows through it?");
    chat.exp_string("Seine").unwrap();
    next_prompt(&mut chat);
    brings(&mut chat, "/show session", "session work, 5 messages, saved");
    say(&mut chat, "/bye");
    ends_well(&mut chat);
}

#[test]
fn an_interrupted_answer_is_kept_and_marked() {
    let home = Home::new();
    let mut chat = home.chat(&["--session", "work"]);
    say(&mut chat, "Tell me a very long story.");
    chat.exp_string("The story").or_else(|_| chat.exp_string("Once")).unwrap();
    chat.send_control('c').unwrap();
    chat.exp_string("[interrupted]").unwrap();
    next_prompt(&mut chat);
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    assert!(read(&home.session("work")).contains("\"role\":\"assistant\",\"content\":\""));
    assert!(read(&home.session("work")).ends_with(",\"interrupted\":true}\n"));
    let mut chat = start(home.taper(&["--continue"]));
    chat.exp_string("Its last answer was interrupted: /regen gives another.").unwrap();
    chat.exp_string(">>> ").unwrap();
    say(&mut chat, "/bye");
    ends_well(&mut chat);
}

#[test]
fn a_closed_window_and_a_termination_keep_what_came_of_the_answer() {
    for (signal, code) in [("SIGHUP", 129), ("SIGTERM", 143)] {
        let home = Home::new();
        let mut chat = home.chat(&["--session", "work"]);
        say(&mut chat, "Tell me a very long story.");
        chat.exp_string("The story").or_else(|_| chat.exp_string("Once")).unwrap();
        chat.process_mut().signal(signal.parse().unwrap()).unwrap();
        chat.process_mut().signal(signal.parse().unwrap()).unwrap(); // it may come twice
        ends_with(&mut chat, code);
        let session = read(&home.session("work"));
        assert!(session.contains(r#""role":"assistant","content":""#), "{session}");
        assert!(session.ends_with(",\"interrupted\":true}\n"), "{session}");
    }
}

#[test]
fn a_question_interrupted_while_it_is_read_waits_for_regen() {
    let home = Home::new();
    let mut chat = home.chat(&["-c", "4096", "-n", "4", "--session", "work"]);
    say(&mut chat, &"All work and no play makes Jack a dull boy. ".repeat(200));
    chat.exp_string("reading the prompt: 64 of ").unwrap();
    chat.send_control('c').unwrap();
    chat.exp_string("\u{1b}[2K").unwrap(); // the line is wiped
    chat.exp_string("[interrupted]").unwrap();
    next_prompt(&mut chat);
    assert_eq!(read(&home.session("work")).matches("assistant").count(), 0);
    say(&mut chat, PARIS);
    next_prompt(&mut chat);
    brings(&mut chat, "/show session", "2 messages, saved");
    say(&mut chat, "/bye");
    ends_well(&mut chat);
}

#[test]
fn sessions_are_saved_listed_loaded_and_open_once() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "8"]);
    brings(&mut chat, "/sessions", "There is no session yet.");
    brings(&mut chat, "/show session", "0 messages, nothing to save yet");
    say(&mut chat, PARIS);
    next_prompt(&mut chat);
    brings(&mut chat, "/save paris", "Saved as paris; /load paris or --session paris goes on from here.");
    brings(&mut chat, "/save paris", "there is a session `paris` already");
    brings(&mut chat, "/save ../x", "`../x` is no name for a session");
    brings(&mut chat, "/undo", "are forgotten.");
    brings(&mut chat, "/show session", "0 messages, saved");
    brings(&mut chat, "/system Be brief.", "The system message is set.");
    brings(&mut chat, "/show session", "1 message, saved");
    brings(&mut chat, "/system", "The system message is removed.");
    brings(&mut chat, "/sessions", "What is the capital of France?");
    brings(&mut chat, "/load nowhere", "there is no session `nowhere`");
    // Tab completes the command and the name.
    keys(&mut chat, "/lo\tpar\t\r");
    chat.exp_string("Session paris, 2 messages so far.").unwrap();
    chat.exp_string(">>> ").unwrap();
    brings(&mut chat, "/load paris", "this chat is the session `paris` already");

    let mut second = start(home.taper(&["--session", "paris"]));
    let refusal = ends_with(&mut second, 1);
    assert!(refusal.contains("error: the session `paris` is open in another taper"), "{refusal}");
    say(&mut chat, "/bye");
    ends_well(&mut chat);
    let events: Vec<String> =
        read(&home.session("paris")).lines().map(|line| line.chars().take(17).collect::<String>()).collect();
    assert_eq!(events, ["{\"taper_session\":", "{\"type\":\"message\"", "{\"type\":\"message\""]);
}

#[test]
fn what_happens_is_added_to_the_file_and_never_taken_from_it() {
    let home = Home::new();
    let mut chat = home.chat(&["-n", "4", "--session", "work"]);
    say(&mut chat, PARIS);
    next_prompt(&mut chat);
    let mut before = read(&home.session("work"));
    for (command, event) in [
        ("/regen", "{\"type\":\"regen\"}\n{\"type\":\"message\",\"role\":\"assistant\""),
        ("/system Be brief.", "{\"type\":\"system\",\"content\":\"Be brief.\"}\n"),
        ("/undo", "{\"type\":\"undo\"}\n"),
        ("/clear", "{\"type\":\"clear\"}\n"),
    ] {
        say(&mut chat, command);
        if command == "/regen" {
            next_prompt(&mut chat);
        } else {
            chat.exp_string(">>> ").unwrap();
        }
        let after = read(&home.session("work"));
        assert!(after.strip_prefix(&before).unwrap().starts_with(event), "{command}: {after}");
        before = after;
    }
    say(&mut chat, "/bye");
    ends_well(&mut chat);
}

#[test]
#[cfg(target_os = "linux")]
fn on_a_full_disk_the_chat_goes_on_and_says_what_is_not_saved() {
    let home = Home::new();
    std::fs::create_dir_all(home.session("full").parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", home.session("full")).unwrap();
    let mut chat = home.chat(&["-n", "24", "--session", "full"]);
    say(&mut chat, PARIS);
    chat.exp_string("error: cannot write the session: ").unwrap();
    chat.exp_string("This turn is not saved;").unwrap();
    chat.exp_string("is Paris").unwrap();
    next_prompt(&mut chat);
    brings(&mut chat, "/show session", "2 messages, not all of it saved");
    say(&mut chat, "/bye");
    ends_well(&mut chat);
}

#[test]
fn a_session_goes_on_with_its_model_unless_another_is_named() {
    let home = Home::new();
    let (first, second) = (home.file("first.gguf"), home.file("second.gguf"));
    for path in [&first, &second] {
        std::fs::copy(common::smollm2(), path).unwrap();
    }
    let leave = |mut chat: rexpect::session::PtySession| {
        chat.exp_string(">>> ").unwrap();
        say(&mut chat, "/bye");
        ends_well(&mut chat);
    };
    // Named by the settings, and by a path that means nothing elsewhere.
    home.settings("model = \"./first.gguf\"\n");
    let mut command = home.bare(&["--session", "work", "-n", "2"]);
    let mut chat = start({
        command.current_dir(first.parent().unwrap());
        command
    });
    chat.exp_string("first, context").unwrap();
    chat.exp_string(">>> ").unwrap();
    say(&mut chat, PARIS);
    next_prompt(&mut chat);
    say(&mut chat, "/bye");
    ends_well(&mut chat);
    let header = format!("{{\"taper_session\":1,\"model\":\"{}\"", first.display());
    assert!(read(&home.session("work")).starts_with(&header), "{}", read(&home.session("work")));

    home.settings("model = \"/nonexistent/m.gguf\"\n");
    let mut chat = start(home.bare(&["--continue"]));
    chat.exp_string("first, context").unwrap();
    leave(chat);
    let mut chat = start(home.bare(&["--session", "work", "-m", second.to_str().unwrap()]));
    chat.exp_string("second, context").unwrap();
    chat.exp_string(&format!("It was with {0}; /model {0} loads that again.", first.display())).unwrap();
    leave(chat);
    let mut chat = start(home.bare(&["--continue"]));
    chat.exp_string("second, context").unwrap();
    leave(chat);
}

#[test]
fn there_must_be_a_session_to_continue() {
    let mut chat = start(Home::new().taper(&["--continue"]));
    let refusal = ends_with(&mut chat, 1);
    assert!(refusal.contains("error: there is no session to continue"), "{refusal}");
}

#[test]
fn what_was_typed_comes_back_in_the_next_chat() {
    let home = Home::new();
    let mut chat = home.chat(&[]);
    brings(&mut chat, "/set top-k 7", "top-k is 7 now.");
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    let mut chat = home.chat(&[]);
    keys(&mut chat, "\u{1b}[A\r"); // arrow up
    chat.exp_string("top-k is 7 now.").unwrap();
    chat.exp_string(">>> ").unwrap();
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(home.history().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn settings_come_after_flags_and_the_environment() {
    let home = Home::new();
    home.settings("temp = 0.25\ntop-k = 11\ntop-p = 0.5\nsystem = \"Be brief.\"\n");
    let mut command = home.taper(&["--temp", "0.125"]);
    command.env("TAPER_TOP_K", "12");
    let mut chat = start(command);
    chat.exp_string(">>> ").unwrap();
    brings(&mut chat, "/show settings", "temp 0.125, top-k 12, top-p 0.5, min-p 0.05,");
    brings(&mut chat, "/show system", "system message: Be brief.");
    chat.send_control('d').unwrap();
    ends_well(&mut chat);
    home.settings("temp = 0.25\ntemperature = 1\n");
    let refusal = ends_with(&mut start(home.taper(&[])), 2);
    assert!(refusal.contains("error: there is no setting `temperature`; there are model"), "{refusal}");
    assert!(refusal.contains("config.toml, line 2, column 1"), "{refusal}");
    // Help does not depend on it.
    let help = ends_with(&mut start(home.taper(&["--help"])), 0);
    assert!(help.contains("Usage:"), "{help}");
}
