//! Any text as a chat template: refused, stopped, or rendered. The same check runs in tests/template.rs on damaged real
//! templates; those (tests/data/templates) are good seeds for the corpus. Run with a limit on memory and with
//! `-timeout=10`: that a template ends is part of what is checked.

#![no_main]

#[path = "../../template/any_template.rs"]
mod any_template;

#[path = "../../common"]
mod common {
    pub mod gguf_builder;
}

libfuzzer_sys::fuzz_target!(|source: &str| {
    any_template::check(source);
});
