//! Any bytes as a session file: refused, or gone on from. The same check runs in tests/session.rs on damaged real files;
//! sessions of your own are good seeds for the corpus.

#![no_main]

#[path = "../../session/any_file.rs"]
mod any_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    any_file::check(bytes);
});
