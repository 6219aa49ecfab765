//! Fetches files into the hub's cache so that nothing is fetched twice and nothing wrong is kept.
//!
//! A file is written to `blobs/HASH.incomplete` in the order of its bytes. That file's name and length are all the
//! state there is: whatever ends the process, the next one reads what is there into the hash again and asks for the
//! rest. Only when the hash is right does the blob get its name, and the snapshot its link.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::download::Fetch;
use super::super::space;
use super::cache::{Cache, Snapshot, make_parent, unwritable};
use super::choose::Choice;
use super::client::{Client, Entry, Listing, Stopped, Tell, unreachable_hub};
use super::part::{Hash, Part};
use crate::error::{Error, Result};
use crate::terminal::progress::{Progress, megabytes};

/// Attempts in a row that bring no byte before the download is given up.
const FRUITLESS: u32 = 3;

/// Lists the repository, lets `choose` choose, and fetches the choice.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) when the hub refuses, cannot be reached or sends something else;
/// [`Kind::Runtime`](crate::error::Kind::Runtime) when the cache cannot be written to.
pub(super) fn download(
    repo: &str,
    revision: &str,
    fetch: &Fetch,
    choose: impl FnOnce(&[String]) -> Result<Choice>,
) -> Result<(Choice, Snapshot)> {
    let client = Client::new(repo)?;
    let tell = |line: &str| fetch.progress.note(line);
    let listing = client.list(revision, &tell)?;
    let names: Vec<String> = listing.files.iter().map(|file| file.name.clone()).collect();
    let choice = choose(&names)?;
    let files = identify(&client, &listing, &choice, repo, &tell)?;
    let cache = Cache::new(&fetch.hub_cache, repo);
    check_space(&cache, &files)?;
    for file in &files {
        let transfer = Transfer { client: &client, commit: &listing.commit, file, cache: &cache, fetch };
        transfer.run()?;
        cache.link(&listing.commit, &file.entry.name, file.hash.text())?;
    }
    cache.set_revision(revision, &listing.commit)?;
    let snapshot = cache.at_commit(&listing.commit);
    fetch.progress.note(&format!("{repo} is in {}", snapshot.kind(&choice.files).path().display()));
    Ok((choice, snapshot))
}

/// A file and what its bytes have to hash to.
struct Wanted {
    entry: Entry,
    hash: Hash,
}

/// Finds the chosen files among the repository's, and their hashes.
fn identify(client: &Client, listing: &Listing, choice: &Choice, repo: &str, tell: Tell<'_>) -> Result<Vec<Wanted>> {
    let find =
        |name: &String| {
            listing.files.iter().find(|file| file.name == *name).cloned().ok_or_else(|| {
                Error::model("the hub has no such model, file or revision").at(format!("hf:{repo}:{name}"))
            })
        };
    let entries: Vec<Entry> = choice.files.iter().map(find).collect::<Result<_>>()?;
    let small: Vec<String> =
        entries.iter().filter(|file| file.sha256.is_none()).map(|file| file.name.clone()).collect();
    let mut ids = client.object_ids(&listing.commit, &small, tell)?.into_iter();
    let mut wanted = Vec::new();
    for (entry, promised) in entries.into_iter().zip(&choice.sha256) {
        let hash = match &entry.sha256 {
            Some(sha256) => Hash::Sha256(sha256.clone()),
            None => Hash::Git(ids.next().unwrap_or_default()), // one for each of `small`
        };
        if let (Some(promised), Hash::Sha256(hash)) = (promised, &hash)
            && promised != hash
        {
            return Err(Error::model(format!("models.toml expects SHA-256 {promised}, the hub has {hash}"))
                .at(format!("hf:{repo}:{}", entry.name))
                .help("the repository has changed: nothing was downloaded"));
        }
        wanted.push(Wanted { entry, hash });
    }
    Ok(wanted)
}

/// Refuses what the cache cannot take or its disk has no room for, before a byte is fetched.
fn check_space(cache: &Cache, files: &[Wanted]) -> Result<()> {
    cache.check_writable()?;
    let left = |file: &Wanted| {
        let have = |path: &Path| path.metadata().map_or(0, |found| found.len());
        let blob = cache.blob(file.hash.text());
        file.entry.bytes.saturating_sub(have(&blob).max(have(&incomplete(&blob))))
    };
    let need = files.iter().map(left).fold(0, u64::saturating_add);
    space::check(&cache.folder(), need, "HF_HUB_CACHE")
}

fn incomplete(blob: &Path) -> PathBuf {
    blob.with_extension("incomplete") // hashes have no extension
}

/// One file on its way.
struct Transfer<'t> {
    client: &'t Client,
    commit: &'t str,
    file: &'t Wanted,
    cache: &'t Cache,
    fetch: &'t Fetch,
}

impl Transfer<'_> {
    /// Brings the blob to its place, unless it is there.
    fn run(&self) -> Result<()> {
        let blob = self.cache.blob(self.file.hash.text());
        let is_there = || blob.metadata().is_ok_and(|found| found.len() == self.file.entry.bytes);
        if is_there() {
            return Ok(());
        }
        make_parent(&blob).map_err(|e| unwritable("make the cache's folder", &blob, e))?;
        let _lock = self.lock()?;
        if is_there() {
            return Ok(()); // the process that was waited for did it
        }
        let path = incomplete(&blob);
        let mut part = Part::open(path, &self.file.hash, self.file.entry.bytes)?;
        if part.bytes > 0 {
            let (have, all) = (megabytes(part.bytes), megabytes(self.file.entry.bytes));
            self.fetch.progress.note(&format!("going on with {}: {have} of {all} are here", self.file.entry.name));
        }
        self.fill(&mut part)?;
        if part.pieced && part.hash() != self.file.hash.text() {
            self.fetch.progress.note("the pieces do not fit together: starting again");
            part.restart()?;
            self.fill(&mut part)?;
        }
        part.finish(&blob, self.file.hash.text())
    }

    /// Waits until no other process writes this blob.
    fn lock(&self) -> Result<File> {
        let path = self.cache.lock(self.file.hash.text());
        let failed = |e| unwritable("lock the model's file", &path, e);
        make_parent(&path).map_err(failed)?;
        let lock = File::create(&path).map_err(failed)?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        let name = &self.file.entry.name;
                        self.fetch.progress.note(&format!("waiting for another program that is fetching {name}"));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Fetches what is missing, going on where a cut connection ended.
    fn fill(&self, part: &mut Part) -> Result<()> {
        let progress =
            Progress::new(self.fetch.progress, &format!("downloading {}", self.file.entry.name), self.file.entry.bytes);
        let mut fruitless = 0;
        while part.bytes < self.file.entry.bytes {
            let before = part.bytes;
            match self.attempt(part, &progress) {
                Ok(()) => {}
                Err(Ended::Failed(e)) => return Err(e),
                Err(Ended::Cut(why)) => {
                    part.pieced |= part.bytes > 0;
                    fruitless = if part.bytes > before { 0 } else { fruitless + 1 };
                    if fruitless == FRUITLESS {
                        return Err(unreachable_hub(&why).in_file(&part.path));
                    }
                    progress.note(&format!("{why}: trying again, {} are here", megabytes(part.bytes)));
                    std::thread::sleep(Duration::from_millis(250 << fruitless));
                }
            }
        }
        progress.finish();
        Ok(())
    }

    /// One request: to the end of the file if nothing comes between.
    fn attempt(&self, part: &mut Part, progress: &Progress) -> Result<(), Ended> {
        let all = self.file.entry.bytes;
        let mut bytes = self.client.bytes(self.commit, &self.file.entry, part.bytes, &|line| progress.note(line))?;
        if part.bytes > 0 && bytes.length == Some(all) {
            // A server that knows no ranges sends everything again.
            part.restart().map_err(Ended::Failed)?;
        }
        while let Some(more) = bytes.next()? {
            if part.bytes + more.len() as u64 > all {
                part.restart().map_err(Ended::Failed)?;
                return Err(Ended::Failed(
                    Error::model(format!("the server sends more than the {all} bytes that the hub promises"))
                        .at(&self.file.entry.name)
                        .help("nothing was kept; try again"),
                ));
            }
            part.write(&more).map_err(Ended::Failed)?;
            progress.set(part.bytes);
        }
        if part.bytes < all { Err(Ended::Cut("the connection ended early".to_owned())) } else { Ok(()) }
    }
}

/// Why an attempt ended before the file did.
enum Ended {
    Cut(String),
    Failed(Error),
}

impl From<Stopped> for Ended {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cut(why) => Self::Cut(why),
            Stopped::Refused(error) => Self::Failed(error),
        }
    }
}
