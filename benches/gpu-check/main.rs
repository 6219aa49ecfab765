//! What this machine's NVIDIA GPU makes of taper's kernels: whether they are right, whether the order of things shows, how fast they are.
//! One program to carry to a machine, one table to send back:
//!
//!     cargo bench --no-default-features --bench gpu-check --no-run
//!     gpu-check [parity] [race] [speed] [gemv] [memory]
//!
//! Without a GPU it says why and ends well.
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod gemv;
#[path = "../../tests/common/gguf_builder.rs"]
mod gguf_builder;
#[path = "../../tests/common/made.rs"]
mod made;
mod memory;
mod parity;
mod race;
mod speed;
#[path = "../../tests/common/tiny.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "of what tests share, this takes the random numbers")]
mod tiny;

use std::process::ExitCode;

use taper::backend::choose::{Compute, Device};
use taper::backend::cuda::probe;
use taper::model::synth::Synth;
use taper::{LoadOptions, Result, Taper};

/// A line of the table.
pub struct Finding {
    pub what: String,
    pub found: String,
    /// What was to be found; empty where there is no bound.
    pub bound: String,
    pub is_right: bool,
}

/// A part of the check, which tells as it goes.
type Part = fn(&mut dyn FnMut(Finding)) -> Result<()>;

const PARTS: [(&str, Part); 5] = [
    ("parity", parity::check),
    ("race", race::check),
    ("speed", speed::check),
    ("gemv", gemv::check),
    ("memory", memory::check),
];

fn main() -> ExitCode {
    let gpu = match probe::look() {
        Ok(gpu) => gpu,
        Err(absence) => {
            println!("skipped: no GPU is checked, {}", absence.what());
            return ExitCode::SUCCESS;
        }
    };
    // Cargo adds flags of its own.
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = named.iter().find(|name| !PARTS.iter().any(|(part, _)| part == name)) {
        println!("there is no part `{unknown}`: parity, race, speed, gemv and memory are what can be checked");
        return ExitCode::from(2);
    }
    let (major, minor) = gpu.capability;
    println!("{}, compute capability {major}.{minor}, {:.1} GB\n", gpu.name, gpu.memory as f64 / 1e9);
    println!("| part | what | found | bound | |\n|---|---|---:|---:|---|");
    let mut is_right = true;
    for (name, check) in PARTS.into_iter().filter(|(name, _)| named.is_empty() || named.iter().any(|n| n == name)) {
        let mut tell = |f: Finding| {
            is_right &= f.is_right;
            let verdict = if f.is_right { "" } else { "**WRONG**" };
            println!("| {name} | {} | {} | {} | {verdict} |", f.what, f.found, f.bound);
        };
        if let Err(e) = check(&mut tell) {
            println!("| {name} | failed | {e} | | **WRONG** |");
            is_right = false;
        }
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A synthetic model on the GPU.
fn load(name: &str, context: usize, sequences: usize, compute: Compute) -> Result<Taper> {
    let synth = Synth::named(name)?.ok_or_else(|| taper::Error::usage(format!("`{name}` is no synthetic model")))?;
    let compute = Compute { device: Device::Cuda, ..compute };
    Taper::from_model(
        synth.open()?,
        &LoadOptions { compute, context: Some(context), sequences, ..LoadOptions::default() },
    )
}
