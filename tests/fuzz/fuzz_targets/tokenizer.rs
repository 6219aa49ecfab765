//! Any vocabulary and any text: refused, or tokenized into ids that exist. What the bytes mean is in the check itself,
//! which tests/tokenizer.rs runs on random bytes.

#![no_main]

#[path = "../../tokenizer/any_vocabulary.rs"]
mod any_vocabulary;

#[path = "../../common"]
mod common {
    pub mod gguf_builder;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    any_vocabulary::check(bytes);
});
