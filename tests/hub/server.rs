//! A hub of one repository, `ada/tiny`, on 127.0.0.1: the answers of the real one to the requests that taper makes,
//! and its failures on demand.
#![allow(dead_code, reason = "every test file uses the part that it needs")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::hash::hex;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of the repository.
#[derive(Clone)]
pub struct File {
    pub name: String,
    pub bytes: Vec<u8>,
    /// In LFS: the bytes are behind a redirect, and the hub knows their SHA-256.
    pub lfs: bool,
    /// The size that the hub claims, where it is another.
    pub claims: Option<u64>,
}

impl File {
    pub fn lfs(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.into(), bytes: bytes.into(), lfs: true, claims: None }
    }

    pub fn plain(name: &str, bytes: &[u8]) -> Self {
        Self { lfs: false, ..Self::lfs(name, bytes) }
    }

    pub fn hash(&self) -> String {
        if self.lfs {
            return hex(&Sha256::digest(&self.bytes));
        }
        let mut hash = Sha1::new();
        hash.update(format!("blob {}\0", self.bytes.len()));
        hash.update(&self.bytes);
        hex(&hash.finalize())
    }
}

/// What goes wrong with one answer that carries a file's bytes.
#[derive(Clone, Copy)]
pub enum Fault {
    /// The connection closes after so many bytes.
    Cut(usize),
    /// After so many bytes nothing more comes, and the connection stays open.
    Stall(usize),
    /// The bytes come slowly.
    Slow,
    /// Bytes of the right number and the wrong values.
    Garbage,
    /// All bytes come, whatever range was asked for.
    NoRanges,
}

#[derive(Default)]
struct State {
    files: Vec<File>,
    faults: VecDeque<Fault>,
    /// Status line, further headers and body of every answer.
    refusal: Option<(String, String)>,
    /// The same of the next answers.
    refusals: VecDeque<(String, String)>,
    log: Vec<String>,
}

pub struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn with(files: &[File]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { files: files.to_vec(), ..State::default() }));
        let (shared, own) = (state.clone(), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, address) = (shared.clone(), own.clone());
                std::thread::spawn(move || answer(&stream, &state, &address));
            }
        });
        Self { address, state }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next answers with bytes fail so, in this order.
    pub fn fail(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// From now on every answer is this status, with these headers (each ending in CRLF).
    pub fn refuse(&self, status: &str, headers: &str) {
        self.state.lock().unwrap().refusal = Some((status.to_owned(), headers.to_owned()));
    }

    /// The next answers are these statuses, with these headers.
    pub fn refuse_next(&self, answers: &[(&str, &str)]) {
        let answers = answers.iter().map(|(status, headers)| ((*status).to_owned(), (*headers).to_owned()));
        self.state.lock().unwrap().refusals.extend(answers);
    }

    /// The requests since the last call: method, path, range and token.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

struct Request {
    method: String,
    path: String,
    range: Option<usize>,
    body: Value,
    log: String,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut log = format!("{method} {path}");
    let (mut range, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                log = format!("{log} {value}");
                range = value.strip_prefix("bytes=")?.split('-').next()?.parse().ok();
            }
            "authorization" => log = format!("{log} {value}"),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, range, body: serde_json::from_slice(&body).unwrap_or_default(), log })
}

fn answer(stream: &TcpStream, state: &Mutex<State>, address: &str) {
    let Some(request) = read(stream) else { return };
    let mut held = state.lock().unwrap();
    held.log.push(request.log.clone());
    if let Some((status, headers)) = held.refusals.pop_front().or_else(|| held.refusal.clone()) {
        return reply(stream, &status, &headers, b"");
    }
    let files = held.files.clone();
    let path = request.path.split('?').next().unwrap_or_default();
    if path == "/api/models/ada/tiny/revision/main" {
        // As the real one: sizes and hashes only for those who ask for blobs.
        let blobs = request.path.ends_with("?blobs=true");
        let sibling = |file: &File| {
            let bytes = file.claims.unwrap_or(file.bytes.len() as u64);
            match (blobs, file.lfs) {
                (false, _) => json!({ "rfilename": file.name }),
                (true, false) => json!({ "rfilename": file.name, "size": bytes, "blobId": file.hash() }),
                (true, true) => json!({ "rfilename": file.name, "size": bytes, "blobId": "0".repeat(40),
                    "lfs": { "sha256": file.hash(), "size": bytes, "pointerSize": 130 } }),
            }
        };
        let siblings: Vec<Value> = files.iter().map(sibling).collect();
        let info = json!({ "_id": "1", "id": "ada/tiny", "private": false, "sha": COMMIT, "siblings": siblings });
        return reply(stream, "200 OK", "Content-Type: application/json\r\n", info.to_string().as_bytes());
    }
    if path == format!("/api/models/ada/tiny/paths-info/{COMMIT}") {
        let asked = |file: &&File| request.body["paths"].as_array().unwrap().contains(&json!(file.name));
        let entry =
            |file: &File| json!({ "type": "file", "oid": file.hash(), "size": file.bytes.len(), "path": file.name });
        let found: Vec<Value> = files.iter().filter(asked).map(entry).collect();
        return reply(
            stream,
            "200 OK",
            "Content-Type: application/json\r\n",
            Value::from(found).to_string().as_bytes(),
        );
    }
    let resolve = format!("/ada/tiny/resolve/{COMMIT}/");
    let named = |prefix: &str| {
        let name = path.strip_prefix(prefix)?;
        files.iter().find(|file| file.name == name)
    };
    match (named(&resolve), named("/cdn/")) {
        (Some(file), _) if file.lfs => {
            let headers = format!(
                "Location: {address}/cdn/{}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\n",
                file.name,
                file.hash(),
                file.bytes.len()
            );
            reply(stream, "302 Found", &headers, b"");
        }
        (Some(file), _) | (None, Some(file)) => {
            let fault = if request.method == "GET" { held.faults.pop_front() } else { None };
            drop(held);
            send(stream, &request, file, fault);
        }
        _ => reply(stream, "404 Not Found", "X-Error-Code: EntryNotFound\r\n", b""),
    }
}

fn reply(mut stream: &TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn send(mut stream: &TcpStream, request: &Request, file: &File, fault: Option<Fault>) {
    let start = if matches!(fault, Some(Fault::NoRanges)) { 0 } else { request.range.unwrap_or(0) };
    let mut bytes = file.bytes[start..].to_vec();
    let head = format!(
        "HTTP/1.1 {}\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        if start > 0 { "206 Partial Content" } else { "200 OK" },
        file.hash(),
        bytes.len()
    );
    if stream.write_all(head.as_bytes()).is_err() || request.method == "HEAD" {
        return;
    }
    match fault {
        Some(Fault::Cut(n)) => bytes.truncate(n),
        Some(Fault::Stall(n)) => {
            let _ = stream.write_all(&bytes[..n]);
            // Until the other side has had enough.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.read(&mut [0]);
            return;
        }
        Some(Fault::Slow) => {
            for piece in bytes.chunks(10_000) {
                if stream.write_all(piece).and_then(|()| stream.flush()).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            return;
        }
        Some(Fault::Garbage) => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::NoRanges) | None => {}
    }
    let _ = stream.write_all(&bytes);
}
