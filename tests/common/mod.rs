//! What the integration tests share.
#![allow(dead_code, reason = "every test file uses the part that it needs")]

pub mod apart;
pub mod export;
pub mod gguf_builder;
pub mod hash;
pub mod made;
pub mod naive;
pub mod program;
pub mod pty;
pub mod runner;
pub mod tiny;

use std::path::PathBuf;

/// The SmolLM2-135M-Instruct GGUF that `make test` fetched.
pub fn smollm2() -> PathBuf {
    from_env("TAPER_TEST_MODEL")
}

/// The folder of the all-MiniLM-L6-v2 that `make test` fetched.
pub fn embedder() -> PathBuf {
    from_env("TAPER_TEST_EMBEDDER")
}

/// The folder of tokenizer vocabularies that `make test` fetched.
pub fn vocabularies() -> PathBuf {
    from_env("TAPER_TEST_VOCABS")
}

fn from_env(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(path) => path.into(),
        None => panic!("{name} is not set: run the tests with `make test`, which fetches what they need"),
    }
}

/// How far `got` is from `expected`: normalized mean squared error.
pub fn nmse(expected: &[f32], got: &[f32]) -> f64 {
    assert_eq!(expected.len(), got.len());
    let square = |x: f64| x * x;
    let error: f64 = expected.iter().zip(got).map(|(e, g)| square(f64::from(*e) - f64::from(*g))).sum();
    let power: f64 = expected.iter().map(|e| square(f64::from(*e))).sum();
    if power == 0.0 { error } else { error / power }
}

/// The largest difference, relative to the largest magnitude of `expected`.
pub fn max_relative(expected: &[f32], got: &[f32]) -> f32 {
    assert_eq!(expected.len(), got.len());
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let difference = expected.iter().zip(got).fold(0f32, |m, (e, g)| m.max((e - g).abs()));
    assert!(difference.is_finite(), "not a number among the values");
    difference / largest
}
