//! `taper completions SHELL`: the script that teaches a shell taper's flags, made from their definitions.

use clap::CommandFactory;
use clap_complete::{Shell as Generator, generate};

use crate::cli::{Cli, Shell};
use crate::error::Result;
use crate::terminal::render::Answer;

pub(super) fn run(shell: Shell) -> Result<()> {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    // Into memory first: the generator knows no closed pipes.
    let mut script = Vec::new();
    generate(generator, &mut Cli::command(), "taper", &mut script);
    Answer::new().line(String::from_utf8_lossy(&script).trim_end())
}
