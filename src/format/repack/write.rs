//! Writes packed weights behind a model that runs already.
//!
//! On a thread of its own, and not before it is told to begin: behind the first token, which would otherwise share the
//! processor with it. A program that ends earlier than the writing waits half a second for what may be nearly done, and
//! gives up: then nothing is left, and the next start packs again. Answers take longer than writing, so that is rare.
//!
//! The file gets its name when the system has all of it, before the disk has: a slow disk is no reason for the program to
//! wait or for the work to be lost, and what a power cut then tears, the checksums find.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::checksum::sum;
use super::file::Content;
use super::folder::{Folder, UNFINISHED};

/// How long a program that ends waits.
const PATIENCE: Duration = Duration::from_millis(500);
/// Written between looks at whether to stop.
const PIECE: usize = 1 << 20;

/// The packed bytes of a model; they stay as they are as long as this lives.
pub trait Contents: Send + 'static {
    /// The runs of memory that make up part `part`, in order; multiples of 8 bytes.
    fn runs(&self, part: usize) -> Vec<&[u8]>;
}

/// A file in the making. Dropping it stops it.
#[derive(Debug)]
pub struct Writer {
    unfinished: PathBuf,
    /// The thread waits until this is dropped.
    pause: Option<Sender<()>>,
    stop: Arc<AtomicBool>,
    /// Hears when the file has its name; closed when the thread has ended.
    done: Receiver<()>,
}

impl Writer {
    /// Ready to write; `None` where there is no thread to be had.
    pub(super) fn start(folder: Folder, path: PathBuf, content: Content, contents: impl Contents) -> Option<Self> {
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(format!(".{}.{UNFINISHED}", std::process::id()));
        let unfinished = PathBuf::from(unfinished);
        let ((pause, paused), (ended, done)) = (channel(), channel());
        let stop = Arc::new(AtomicBool::new(false));
        let job = Job { folder, path, unfinished: unfinished.clone(), content, stop: stop.clone() };
        let thread = std::thread::Builder::new().name("repack".into()).spawn(move || {
            let _ = paused.recv(); // nothing is ever sent: it ends with the pause
            job.run(&contents, &ended);
        });
        thread.inspect_err(|e| tracing::info!("packed weights are not kept: {e}")).ok()?;
        Some(Self { unfinished, pause: Some(pause), stop, done })
    }

    /// From here the thread writes.
    pub fn begin(&mut self) {
        self.pause = None;
    }

    /// Returns when the file is on the disk, or cannot be written.
    pub fn wait(&mut self) {
        self.begin();
        while self.done.recv().is_ok() {}
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.begin();
        if self.done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            self.stop.store(true, Ordering::Relaxed);
            let _ = std::fs::remove_file(&self.unfinished); // what stays is swept by the next writer
        }
    }
}

/// What the thread does.
struct Job {
    folder: Folder,
    path: PathBuf,
    unfinished: PathBuf,
    content: Content,
    stop: Arc<AtomicBool>,
}

impl Job {
    fn run(&self, contents: &impl Contents, done: &Sender<()>) {
        match self.write(contents) {
            Ok(Some(file)) => {
                tracing::debug!("packed weights are kept in {}", self.path.display());
                let _ = done.send(()); // who does not listen has gone on
                self.folder.retire();
                let _ = file.sync_all(); // the checksums will tell
            }
            Ok(None) => tracing::info!("packed weights are not kept: another process is writing them"),
            // A read-only folder, a full disk, the end of the program: packing again is all it costs.
            Err(e) => tracing::info!("packed weights are not kept in {}: {e}", self.folder.path().display()),
        }
    }

    /// The file in its place; `None` when another process is making it.
    fn write(&self, contents: &impl Contents) -> io::Result<Option<File>> {
        std::fs::create_dir_all(self.folder.path())?;
        if self.folder.sweep(&self.path) {
            return Ok(None);
        }
        let file = match OpenOptions::new().write(true).create_new(true).open(&self.unfinished) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(None),
            file => file?,
        };
        if file.try_lock().is_err() {
            return Ok(None); // swept away in this moment
        }
        let written = self.fill(&file, contents).and_then(|()| std::fs::rename(&self.unfinished, &self.path));
        if written.is_err() {
            let _ = std::fs::remove_file(&self.unfinished); // swept by the next writer
        }
        written.map(|()| Some(file))
    }

    /// The parts, and when they are whole the header.
    fn fill(&self, mut file: &File, contents: &impl Contents) -> io::Result<()> {
        let mut sums = Vec::with_capacity(self.content.parts.len());
        file.seek(SeekFrom::Start(self.content.start(0)))?;
        for part in 0..self.content.parts.len() {
            let (mut total, mut at) = (0u64, 0);
            for piece in contents.runs(part).into_iter().flat_map(|run| run.chunks(PIECE)) {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(io::Error::new(ErrorKind::Interrupted, "the program ends"));
                }
                total = total.wrapping_add(sum(piece, at));
                file.write_all(piece)?;
                at += piece.len() as u64;
            }
            sums.push(total);
        }
        file.rewind()?;
        file.write_all(&self.content.header(&sums))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Dirs;

    /// Weights on a disk so slow that each part takes a while.
    struct Slow(Vec<u8>, Duration);

    impl Contents for Slow {
        fn runs(&self, _: usize) -> Vec<&[u8]> {
            std::thread::sleep(self.1);
            vec![&self.0]
        }
    }

    fn writer(folder: &Folder, pause: Duration) -> Writer {
        let content = Content { description: "test".into(), parts: vec![4096; 5] };
        Writer::start(folder.clone(), folder.path().join("a.packed"), content, Slow(vec![1; 4096], pause)).unwrap()
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_is_written_before_it_is_time_and_an_end_waits_for_little() {
        let cache = tempfile::tempdir().unwrap();
        let folder = Folder::of(&Dirs::below(cache.path())).unwrap();
        let writer = writer(&folder, Duration::ZERO);
        std::thread::sleep(Duration::from_millis(50));
        assert!(names(&folder).is_empty());
        drop(writer);
        assert_eq!(names(&folder), ["a.packed"]);
    }

    #[test]
    fn an_end_does_not_wait_for_much_and_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let folder = Folder::of(&Dirs::below(cache.path())).unwrap();
        let mut writer = writer(&folder, PATIENCE);
        writer.begin();
        while names(&folder).is_empty() {
            std::thread::yield_now();
        }
        let start = Instant::now();
        drop(writer);
        assert!(start.elapsed() < PATIENCE * 2, "{:?}", start.elapsed());
        assert!(names(&folder).is_empty());
        std::thread::sleep(PATIENCE * 2);
        assert!(names(&folder).is_empty(), "nor comes it later");
    }
}
