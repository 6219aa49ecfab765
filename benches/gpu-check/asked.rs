//! What the command line asks to be checked.

use std::path::Path;

use taper::registry::resolve::is_path;

/// The parts, in their order.
pub const PARTS: [&str; 6] = ["parity", "race", "fidelity", "speed", "gemv", "memory"];
/// The part that takes a model.
const WITH_FILE: &str = "fidelity";

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Those that were named; none is all of them.
    named: Vec<String>,
    /// What stands behind `fidelity`.
    pub file: Option<String>,
}

impl Asked {
    /// The one flag is Cargo's own.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn of(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut asked = Self::default();
        let mut takes_file = false;
        for argument in arguments.filter(|argument| argument != "--bench") {
            let is_part = PARTS.contains(&argument.as_str());
            if is_part {
                takes_file = argument == WITH_FILE;
                asked.named.push(argument);
            } else if std::mem::take(&mut takes_file) {
                asked.file = Some(argument);
            } else {
                let parts = PARTS.join(", ");
                return Err(format!(
                    "there is no part `{argument}`: {parts} can be checked, and {WITH_FILE} takes a file"
                ));
            }
        }
        Ok(asked)
    }

    /// What is wrong with the model, where that is a file or a folder, before anything else takes its time.
    pub fn missing_file(&self) -> Option<String> {
        let file = self.file.as_deref().filter(|file| is_path(file) && !Path::new(file).exists())?;
        Some(format!("there is no `{file}` for {WITH_FILE}"))
    }

    pub fn wants(&self, part: &str) -> bool {
        self.named.is_empty() || self.named.iter().any(|name| name == part)
    }
}
