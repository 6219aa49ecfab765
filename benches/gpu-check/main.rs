//! What this machine's NVIDIA GPU makes of taper's kernels: whether they are right, whether the order of things shows, how fast they are.
//! One program to carry to a machine, one table to send back:
//!
//!     cargo bench --profile carried --no-default-features --bench gpu-check --no-run
//!     gpu-check [parity] [race] [fidelity FILE.gguf] [speed] [gemv] [memory]
//!
//! Without names it checks all; fidelity takes a model with real weights, and says so where there is none.
//! Without a GPU it says why and ends well.

mod asked;
mod feed;
mod fidelity;
mod forced;
mod gemv;
#[path = "../../tests/common/gguf_builder.rs"]
mod gguf_builder;
#[path = "../../tests/common/made.rs"]
mod made;
mod memory;
mod parity;
mod prompts;
mod race;
mod speed;
#[path = "../../tests/common/tiny.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "of what tests share, this takes the random numbers")]
mod tiny;

use std::io::Write as _;
use std::process::ExitCode;

use asked::{Asked, PARTS};
use taper::backend::choose::{Compute, Device};
use taper::backend::cuda::{Nvidia, probe};
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

/// Writes a line of the output; whoever has closed it wants none.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let asked = Asked::of(std::env::args().skip(1));
    let asked = match asked.and_then(|asked| asked.missing_file().map_or(Ok(asked), Err)) {
        Ok(asked) => asked,
        Err(what) => {
            say(&what);
            return ExitCode::from(2);
        }
    };
    let gpu = match probe::look() {
        Ok(gpu) => gpu,
        Err(absence) => {
            say(&format!("skipped: no GPU is checked, {}", absence.what()));
            return ExitCode::SUCCESS;
        }
    };
    let (major, minor) = gpu.capability;
    say(&format!("{}, compute capability {major}.{minor}, {:.1} GB\n", gpu.name, gpu.memory as f64 / 1e9));
    say("| part | what | found | bound | |\n|---|---|---:|---:|---|");
    // Models share their kernels as long as somebody has them: where the driver has to make code of them, it does so once.
    let _kernels = Nvidia::open(true);
    let mut is_right = true;
    for name in PARTS.into_iter().filter(|part| asked.wants(part)) {
        let mut tell = |f: Finding| {
            is_right &= f.is_right;
            let verdict = if f.is_right { "" } else { "**WRONG**" };
            say(&format!("| {name} | {} | {} | {} | {verdict} |", f.what, f.found, f.bound));
        };
        if let Err(e) = check(name, asked.file.as_deref(), &mut tell) {
            say(&format!("| {name} | failed | {e} | | **WRONG** |"));
            is_right = false;
        }
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A part of the check, which tells as it goes.
fn check(part: &str, file: Option<&str>, tell: &mut dyn FnMut(Finding)) -> Result<()> {
    match part {
        "parity" => parity::check(tell),
        "race" => race::check(tell),
        "fidelity" => fidelity::check(file, tell),
        "speed" => speed::check(tell),
        "gemv" => gemv::check(tell),
        "memory" => memory::check(tell),
        other => Err(taper::Error::usage(format!("there is no part `{other}`"))),
    }
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
