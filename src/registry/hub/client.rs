//! What taper asks of the hub, through Hugging Face's client library: which files a repository has, and their bytes.
//!
//! The library knows the endpoint (`HF_ENDPOINT`), the token (`HF_TOKEN`, or the one that logging in left), proxies and
//! certificates. Its errors become taper's here, and every wait has an end: a server that says nothing for
//! `HF_HUB_DOWNLOAD_TIMEOUT` seconds (30 unless set) has stalled.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use hf_hub::repository::{HFRepository, RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFError};
use tokio::runtime::Runtime;

use super::cache::{is_hex, is_plain_path};
use crate::error::{Error, Result};

/// One model repository of the hub.
pub struct Client {
    runtime: Runtime,
    hub: HFClient,
    repo: String,
    patience: Duration,
}

/// A repository at one commit.
pub struct Listing {
    pub commit: String,
    pub files: Vec<Entry>,
}

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub bytes: u64,
    /// `None` for a file that is not in LFS: [`Client::object_ids`] knows its git object id.
    pub sha256: Option<String>,
}

/// Why no more bytes came.
pub enum Stopped {
    /// Trying again may help.
    Cut(String),
    Refused(Error),
}

/// Where the user is told why nothing comes.
pub type Tell<'t> = &'t dyn Fn(&str);

/// Bytes of a file as they come.
pub struct Bytes<'c> {
    client: &'c Client,
    stream: Pin<Box<dyn Stream<Item = hf_hub::HFResult<Vec<u8>>> + Send>>,
    /// What the server says it sends.
    pub length: Option<u64>,
}

impl Client {
    /// `repo` is USER/NAME.
    ///
    /// # Errors
    /// When the endpoint is no URL or the system gives no sockets.
    pub fn new(repo: &str) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| Error::runtime(format!("cannot prepare a download: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
        let agent = concat!("taper/", env!("CARGO_PKG_VERSION"));
        // No attempts of the library's: it asks a hub that is busy again at once, and says nothing of it.
        let mut hub = HFClient::builder().user_agent(agent).retry_max_attempts(0);
        if let Some(token) = token_to_trim() {
            hub = hub.token(token);
        }
        let hub = hub.build().map_err(|e| failed(&e).help("HF_ENDPOINT, if it is set, has to be a URL"))?;
        let seconds = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok().and_then(|text| text.parse::<u64>().ok());
        let patience = Duration::from_secs(seconds.filter(|n| *n > 0).unwrap_or(30));
        Ok(Self { runtime, hub, repo: repo.to_owned(), patience })
    }

    /// The files of `revision`, and the commit that it is now.
    ///
    /// # Errors
    /// What the hub says, in taper's words.
    pub fn list(&self, revision: &str, tell: Tell<'_>) -> Result<Listing> {
        // The library has no parameter for `?blobs=true`, without which sizes and hashes are missing, and puts a
        // repository's name into the address as it is.
        let (user, name) = hf_hub::split_id(&self.repo);
        let request = self.hub.model(user, format!("{name}/revision/{revision}?blobs=true"));
        let info = self.ask(tell, || async { request.info().send().await }).map_err(|e| self.refusal(e, None))?;
        let malformed = |what: &str| {
            Error::model(format!("the hub's answer cannot be used: {what}")).at(format!("hf:{}", self.repo))
        };
        let commit = info.sha.filter(|sha| is_hex(sha)).ok_or_else(|| malformed("it names no commit"))?;
        let mut files = Vec::new();
        for file in info.siblings.unwrap_or_default() {
            // Such names are no model's, and must not become paths.
            let (true, Some(bytes)) = (is_plain_path(&file.rfilename), file.size) else { continue };
            let sha256 = file.lfs.and_then(|lfs| lfs.sha256).map(|hash| hash.to_ascii_lowercase());
            if sha256.as_ref().is_some_and(|hash| hash.len() != 64 || !is_hex(hash)) {
                return Err(malformed("a file's SHA-256 is none"));
            }
            files.push(Entry { name: file.rfilename, bytes, sha256 });
        }
        Ok(Listing { commit, files })
    }

    /// The git object ids of files that are not in LFS, in the order of `names`.
    ///
    /// # Errors
    /// What the hub says, in taper's words.
    pub fn object_ids(&self, commit: &str, names: &[String], tell: Tell<'_>) -> Result<Vec<String>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let repo = self.repository();
        let request = || async { repo.get_paths_info().paths(names.to_vec()).revision(commit).send().await };
        let found = self.ask(tell, request).map_err(|e| self.refusal(e, None))?;
        let id = |wanted: &String| {
            found.iter().find_map(|entry| match entry {
                RepoTreeEntry::File { oid, path, .. } if path == wanted && oid.len() == 40 && is_hex(oid) => {
                    Some(oid.to_ascii_lowercase())
                }
                _ => None,
            })
        };
        names
            .iter()
            .map(|name| {
                id(name).ok_or_else(|| Error::model(format!("the hub does not say what {name} is")).at(&self.repo))
            })
            .collect()
    }

    /// Asks for a file from byte `start`, which is below its length, to its end.
    ///
    /// # Errors
    /// [`Stopped`], and whether to try again.
    pub fn bytes(&self, commit: &str, file: &Entry, start: u64, tell: Tell<'_>) -> Result<Bytes<'_>, Stopped> {
        let repo = self.repository();
        let range = (start > 0).then_some(start..file.bytes);
        let request = || async {
            let request = repo.download_file_stream().filename(file.name.as_str()).revision(commit);
            request.maybe_range(range.clone()).send().await
        };
        let (length, stream) = self.ask(tell, request).map_err(|e| self.stopped(e, Some(&file.name)))?;
        Ok(Bytes { client: self, stream: Box::pin(stream.map(|bytes| bytes.map(|bytes| bytes.to_vec()))), length })
    }

    fn repository(&self) -> HFRepository<RepoTypeModel> {
        let (user, name) = hf_hub::split_id(&self.repo);
        self.hub.model(user, name)
    }

    /// Asks, and asks again where the hub says that it is busy or no connection comes about.
    fn ask<T, F: Future<Output = hf_hub::HFResult<T>>>(
        &self,
        tell: Tell<'_>,
        request: impl Fn() -> F,
    ) -> Result<T, Failed> {
        let mut waited = Duration::ZERO;
        let mut attempt = 0;
        loop {
            let failed = match self.wait(request()) {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let Some(wait) = failed.wait(attempt) else { return Err(failed) };
            waited += wait;
            // Twice the patience, a minute unless set, is what a user is kept waiting for a hub that sends nothing.
            if waited > 2 * self.patience {
                return Err(failed);
            }
            if failed.is_busy() {
                tell(&format!("the hub is busy ({failed}): trying again in {} s", wait.as_secs()));
            }
            std::thread::sleep(wait);
            attempt += 1;
        }
    }

    /// Runs a request to its end, or to the end of patience.
    fn wait<T>(&self, request: impl Future<Output = hf_hub::HFResult<T>>) -> Result<T, Failed> {
        let limited = async { tokio::time::timeout(self.patience, request).await };
        match self.runtime.block_on(limited) {
            Ok(result) => result.map_err(|e| Failed::Hub(Box::new(e))),
            Err(_) => Err(Failed::Stalled(self.patience)),
        }
    }

    fn stopped(&self, failed: Failed, file: Option<&str>) -> Stopped {
        match &failed {
            Failed::Stalled(_) => Stopped::Cut(failed.to_string()),
            Failed::Hub(e) if matches!(**e, HFError::Request { .. }) => Stopped::Cut(failed.to_string()),
            Failed::Hub(_) => Stopped::Refused(self.refusal(failed, file)),
        }
    }

    /// The hub's answer as an error that says what to do.
    fn refusal(&self, failed: Failed, file: Option<&str>) -> Error {
        let place = file.map_or_else(|| format!("hf:{}", self.repo), |file| format!("hf:{}:{file}", self.repo));
        let Failed::Hub(error) = failed else {
            return unreachable_hub(&failed.to_string()).at(place);
        };
        let error = match *error {
            HFError::AuthRequired { context } => {
                Error::model(said("the hub wants to know who asks", context.server_message)).help(
                    "a gated model needs the token of an account that accepted its licence on the model's page: put it \
                     into HF_TOKEN\n  the hub answers the same for a repository that does not exist: check the name",
                )
            }
            HFError::Forbidden { context } => {
                Error::model(said("the hub does not let this account in", context.server_message))
                    .help("accept the licence on the model's page with the account whose token is in HF_TOKEN")
            }
            HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
                Error::model("the hub has no such model, file or revision").help("check the name on the hub")
            }
            HFError::RateLimited { retry_after, .. } => {
                let when = retry_after.map_or_else(|| "later".to_owned(), |wait| format!("in {} s", wait.as_secs()));
                Error::model("the hub has had too many requests from here")
                    .help(format!("try again {when}; what came is kept. A token in HF_TOKEN raises the limit"))
            }
            HFError::Http { context } => {
                Error::model(said(&format!("the hub answered {}", context.status), context.server_message))
                    .help("try again later; what came is kept")
            }
            HFError::Request { source, .. } => unreachable_hub(&innermost(&source)),
            other => Error::model(printable(&format!("the download failed: {other}"))),
        };
        error.at(place)
    }
}

/// `HF_TOKEN` without the blanks and the newline around it, with which the library sends none; `None` where it does the
/// right thing by itself.
fn token_to_trim() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let token = set("HF_TOKEN").filter(|_| set("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_none())?;
    Some(token.trim()).filter(|trimmed| *trimmed != token && !trimmed.is_empty()).map(str::to_owned)
}

impl Bytes<'_> {
    /// The next bytes; `None` at the end of what the server sends.
    ///
    /// # Errors
    /// [`Stopped`], and whether to try again.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, Stopped> {
        let stream = &mut self.stream;
        let next = async { stream.next().await.transpose() };
        self.client.wait(next).map_err(|e| self.client.stopped(e, None))
    }
}

/// A request that came to nothing.
#[derive(Debug)]
enum Failed {
    Stalled(Duration),
    Hub(Box<HFError>),
}

impl Failed {
    /// The status of an answer that asks for patience: too many requests, or a server that cannot just now.
    fn is_busy(&self) -> bool {
        let Self::Hub(error) = self else { return false };
        match &**error {
            HFError::RateLimited { .. } => true,
            HFError::Http { context } => matches!(context.status.as_u16(), 408 | 500 | 502..=504),
            _ => false,
        }
    }

    /// How long to wait before the request is sent again, after so many attempts that failed; `None` is not at all.
    fn wait(&self, attempts: u32) -> Option<Duration> {
        const MOST: u32 = 5;
        let Self::Hub(error) = self else { return None };
        let doubled = |first: u64| Duration::from_millis(first << attempts);
        match &**error {
            _ if attempts == MOST => None,
            HFError::RateLimited { retry_after: Some(wait), .. } => Some((*wait).max(Duration::from_secs(1))),
            _ if self.is_busy() => Some(doubled(1000)),
            HFError::Request { .. } if attempts < 2 => Some(doubled(200)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stalled(patience) => write!(f, "nothing came for {} s", patience.as_secs()),
            Self::Hub(e) => match &**e {
                HFError::RateLimited { .. } => f.write_str("too many requests from here"),
                HFError::Http { context } => write!(f, "it answered {}", context.status),
                e => f.write_str(&innermost(e)),
            },
        }
    }
}

/// The refusal of a network that does not answer.
pub(super) fn unreachable_hub(why: &str) -> Error {
    Error::model(format!("cannot reach the hub: {why}")).help(
        "check the network, HTTPS_PROXY and HF_ENDPOINT; what came is kept, and the next run goes on from there\n  or \
         download the model by other means and give its path",
    )
}

/// The last of an error's causes says what happened; those before it say where.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    printable(&last.to_string())
}

fn said(what: &str, message: Option<String>) -> String {
    message.map_or_else(|| what.to_owned(), |message| format!("{what}: {}", printable(&message)))
}

/// What a server says, in one line of bounded length and without escapes.
fn printable(text: &str) -> String {
    const MOST: usize = 300;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_one_short_line_without_escapes() {
        assert_eq!(said("no", Some("go\u{1b}[31m\r\naway".to_owned())), "no: go [31m  away");
        assert_eq!(said("no", None), "no");
        assert_eq!(printable(&"x".repeat(100_000)).len(), 300);
    }
}
