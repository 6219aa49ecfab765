//! Session files: nothing that was acknowledged is lost, however the writer ends.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

#[path = "session/any_file.rs"]
mod any_file;
#[path = "common/apart.rs"]
mod apart;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use taper::session::{MAX_BYTES, Record, Sessions};
use taper::text::{Conversation, Role};

/// Names the folder to the child process that writes.
const CHILD: &str = "TAPER_TEST_SESSION_FOLDER";
/// Names a folder on a disk with little room to the child process that fills it.
const SMALL_DISK: &str = "TAPER_TEST_SMALL_DISK";

fn sessions(folder: &Path) -> Sessions {
    Sessions::new(folder)
}

fn file(folder: &Path, id: &str) -> PathBuf {
    folder.join("sessions").join(format!("{id}.jsonl"))
}

fn turn(n: usize) -> [Record; 2] {
    [Record::question(&format!("question {n}")), Record::answer(&format!("answer {n} ").repeat(1 + n % 50), false)]
}

/// Not a test of its own: the process that [`no_acknowledged_turn_is_lost_to_kill`] kills. Says each turn that is saved.
#[test]
fn writer_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let (mut session, saved) = sessions(Path::new(&folder)).open("soak", "m").unwrap();
    let mut out = std::io::stdout().lock();
    for n in saved.conversation.messages().len() / 2.. {
        session.append(&turn(n)).unwrap();
        writeln!(out, "saved {n}").unwrap();
    }
}

/// Starts the writer, kills it after some turns, and gives the last turn that it acknowledged.
fn kill_a_writer(folder: &Path, turns: usize) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_that_is_killed", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut acknowledged =
        || lines.find_map(|line| line.split_once("saved ").map(|(_, n)| n.parse::<usize>().unwrap()));
    let mut last = acknowledged();
    for _ in 1..turns {
        last = acknowledged();
    }
    child.kill().unwrap(); // SIGKILL, wherever it is now
    while let Some(n) = acknowledged() {
        last = Some(n); // what it still said before it died counts
    }
    child.wait().unwrap();
    last.unwrap()
}

#[test]
fn no_acknowledged_turn_is_lost_to_kill() {
    let folder = tempfile::tempdir().unwrap();
    let rounds = if std::env::var_os("TAPER_SOAK").is_some() { 100 } else { 10 };
    for round in 0..rounds {
        let acknowledged = kill_a_writer(folder.path(), 1 + round % 7);
        if round % 3 == 0 {
            // As a power cut may leave it: half a line.
            let half = br#"{"type":"message","role":"assistant","content":"ha"#;
            OpenOptions::new().append(true).open(file(folder.path(), "soak")).unwrap().write_all(half).unwrap();
        }
        let (_, saved) = sessions(folder.path()).open_existing("soak", "m").unwrap();
        let messages = saved.conversation.messages();
        assert!(messages.len() >= 2 * (acknowledged + 1), "{} messages, turn {acknowledged}", messages.len());
        for (n, pair) in messages.chunks_exact(2).enumerate() {
            assert_eq!(pair[0].content, format!("question {n}"));
            assert_eq!(pair[1].content, format!("answer {n} ").repeat(1 + n % 50));
        }
        let text = std::fs::read_to_string(file(folder.path(), "soak")).unwrap();
        assert!(text.ends_with('\n'), "the torn line is gone from the file, too");
        // A question without its answer would shift the turns of the next round.
        if messages.len() % 2 == 1 {
            sessions(folder.path()).open("soak", "m").unwrap().0.append(&[Record::Undo]).unwrap();
        }
    }
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, _) = sessions(folder.path()).open("work", "m").unwrap();
    first.append(&turn(0)).unwrap();
    let error = sessions(folder.path()).open("work", "m").unwrap_err().to_string();
    assert!(error.starts_with("the session `work` is open in another taper\n  in "), "{error}");
    assert!(error.ends_with("choose another session with --session"), "{error}");
    drop(first);
    assert_eq!(sessions(folder.path()).open("work", "m").unwrap().1.conversation.messages().len(), 2);
}

#[test]
fn a_turn_that_cannot_be_written_is_written_with_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("sessions");
    std::fs::write(&in_the_way, "").unwrap(); // a file where the folder should be
    let mut session = sessions(folder.path()).fresh("m").unwrap();
    let error = session.append(&turn(0)).unwrap_err().to_string();
    assert!(error.starts_with("cannot make the folder of sessions: "), "{error}");
    std::fs::remove_file(&in_the_way).unwrap();
    session.append(&turn(1)).unwrap();
    let id = session.id().to_owned();
    drop(session);
    let (_, saved) = sessions(folder.path()).open_existing(&id, "m").unwrap();
    let questions: Vec<&str> = saved.conversation.messages().iter().step_by(2).map(|m| &*m.content).collect();
    assert_eq!(questions, ["question 0", "question 1"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sessions")).unwrap();
    std::os::unix::fs::symlink("/dev/full", file(folder.path(), "full")).unwrap();
    let (mut session, _) = sessions(folder.path()).open("full", "m").unwrap();
    for _ in 0..2 {
        let error = session.append(&turn(0)).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the session: "), "{error}");
    }
}

/// Not a test of its own: what [`a_turn_that_the_disk_has_no_room_for_is_saved_once_there_is_room`] runs on a small disk.
#[test]
fn writer_on_a_small_disk() {
    let Some(folder) = std::env::var_os(SMALL_DISK).map(PathBuf::from) else { return };
    let (mut session, _) = sessions(&folder).open("work", "m").unwrap();
    session.append(&turn(0)).unwrap();
    let mut filler = std::fs::File::create(folder.join("filler")).unwrap();
    while filler.write_all(&[0; 1024]).is_ok() {}
    // The first turn's page has some room left: the long turn is torn in its middle, and again when it is tried again.
    let long = [Record::question("why?"), Record::answer(&"because ".repeat(2000), false)];
    let before = std::fs::read(session.path()).unwrap();
    for records in [&long[..], &[]] {
        let error = session.append(records).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the session: No space left on device"), "{error}");
        assert_eq!(std::fs::read(session.path()).unwrap(), before, "no torn line stays");
    }
    filler.set_len(0).unwrap();
    session.append(&turn(1)).unwrap();
    drop(session);
    let (_, saved) = sessions(&folder).open_existing("work", "m").unwrap();
    let questions: Vec<&str> = saved.conversation.messages().iter().step_by(2).map(|m| &*m.content).collect();
    assert_eq!(questions, ["question 0", "why?", "question 1"]);
    writeln!(std::io::stdout(), "all turns are there").unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_turn_that_the_disk_has_no_room_for_is_saved_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=256k tmpfs \"$DISK\"; exec \"$WRITER\" --exact writer_on_a_small_disk --nocapture";
    let Some(mut command) = apart::with_own_mounts(script) else { return };
    command.env("WRITER", std::env::current_exe().unwrap()).env("DISK", folder.path()).env(SMALL_DISK, folder.path());
    let output = command.output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("all turns are there"), "{told}");
}

#[test]
fn a_session_damaged_anywhere_is_refused_or_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, _) = sessions(folder.path()).open("work", "m").unwrap();
    let events =
        [Record::System { content: "ä".into() }, Record::Regen, Record::Model { name: "n".into() }, Record::Undo];
    session.append(&turn(0)).unwrap();
    session.append(&events).unwrap();
    let whole = std::fs::read(session.path()).unwrap();
    assert!(any_file::check(&whole));
    let (mut sound, mut refused) = (0, 0);
    let mut count = |bytes: &[u8]| *if any_file::check(bytes) { &mut sound } else { &mut refused } += 1;
    for at in 0..whole.len() {
        count(&whole[..at]);
        count(&whole[at..]);
        for byte in [0, b'\n', b'"', b'}', b'1', 0xff] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            count(&damaged);
        }
    }
    assert!(sound > whole.len() && refused > whole.len(), "{sound} sound, {refused} refused");
}

#[test]
fn a_damaged_session_is_refused_with_its_line_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(sessions(folder.path()).open("work", "m").unwrap().0.append(&turn(0)));
    let path = file(folder.path(), "work");
    let damaged = std::fs::read_to_string(&path).unwrap().replace("\"user\"", "\"wizard\"") + "torn";
    std::fs::write(&path, &damaged).unwrap();
    let error = sessions(folder.path()).open("work", "m").unwrap_err().to_string();
    assert!(error.starts_with("line 2 of the session, column "), "{error}");
    assert!(error.contains("unknown variant `wizard`") && error.contains("work.jsonl"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    // Someone else's file is not a torn session.
    std::fs::write(&path, "my diary").unwrap();
    let error = sessions(folder.path()).open("work", "m").unwrap_err().to_string();
    assert!(error.starts_with("the file is no session of taper's"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "my diary");
}

#[test]
fn a_huge_session_is_refused_before_it_is_read_and_none_grows_so_large() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, _) = sessions(folder.path()).open("work", "m").unwrap();
    session.append(&turn(0)).unwrap();
    let error = session.append(&[Record::question(&"x".repeat(MAX_BYTES as usize))]).unwrap_err().to_string();
    assert!(error.starts_with("the session has reached 64 MB") && error.contains("/save NAME"), "{error}");
    drop(session);
    let path = file(folder.path(), "work");
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let error = sessions(folder.path()).open("work", "m").unwrap_err().to_string();
    assert!(error.starts_with("the session is 1024 MB large; 64 MB is the most"), "{error}");
}

#[test]
fn the_list_has_the_last_used_first_and_names_are_not_taken_twice() {
    let folder = tempfile::tempdir().unwrap();
    let sessions = sessions(folder.path());
    assert!(sessions.last().unwrap_err().to_string().starts_with("there is no session to continue"));
    let mut chat = Conversation::new();
    chat.set_system("be brief");
    chat.push(Role::User, "why?");
    sessions.save_as("old", "m", &chat).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20)); // file times are coarse
    sessions.save_as("new", "m", &chat).unwrap();
    let ids: Vec<String> = sessions.list().into_iter().map(|l| l.id).collect();
    assert_eq!(ids, ["new", "old"]);
    assert_eq!(sessions.first_question("old"), "why?");
    assert_eq!(sessions.open_existing("old", "m").unwrap().1.conversation, chat);
    let error = sessions.save_as("old", "m", &chat).unwrap_err().to_string();
    assert!(error.starts_with("there is a session `old` already"), "{error}");
    assert!(sessions.open_existing("older", "m").unwrap_err().to_string().starts_with("there is no session `older`"));
}

#[test]
#[cfg(unix)]
fn sessions_are_readable_for_their_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    drop(sessions(folder.path()).open("work", "m").unwrap());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file(folder.path(), "work")), 0o600);
    assert_eq!(mode(&folder.path().join("sessions")), 0o700);
}
