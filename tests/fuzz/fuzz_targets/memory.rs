//! Any bytes as a text that a memory cuts, and as an export that it reads. The same check runs in tests/store.rs on texts made
//! of what is special in them; exports of your own are good seeds for the corpus.

#![no_main]

#[path = "../../store/any_text.rs"]
mod any_text;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    any_text::check(bytes);
});
