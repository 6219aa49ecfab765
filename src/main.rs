//! Parse, dispatch, turn the error into an exit code.

use std::process::ExitCode;

use taper::cli;
use taper::commands;
use taper::error::Kind;
use taper::terminal::log;

fn main() -> ExitCode {
    match cli::parse().and_then(|cli| commands::run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            match e.kind() {
                // Nobody is left to be told, or nobody needs to be.
                Kind::OutputClosed | Kind::Interrupted => {}
                _ => log::error(&e),
            }
            ExitCode::from(e.kind().exit_code())
        }
    }
}
