//! Any bytes as a GGUF file: the reader either refuses them, or everything in them can be read.
//!
//! The same check runs in tests/gguf.rs on files damaged at random; here libFuzzer looks for the damage. Seed the corpus
//! with small files, for example those of llama.cpp's `models/ggml-vocab-*.gguf`.

#![no_main]

#[path = "../../gguf/read_all.rs"]
mod read_all;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read_all::read_all(bytes);
});
