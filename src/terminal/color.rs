//! Whether a stream gets colors and styles.

use std::ffi::OsString;

use clap::ValueEnum;

/// What the user asked for with `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`
    #[default]
    Auto,
    /// Also in pipes and files
    Always,
    Never,
}

impl Color {
    /// Whether a stream is styled. `NO_COLOR` counts when it is set to anything but nothing, as <https://no-color.org> says.
    pub fn styles(self, is_terminal: bool, env: impl Fn(&str) -> Option<OsString>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && env("NO_COLOR").is_none_or(|v| v.is_empty()) && !is_dumb(env),
        }
    }
}

/// Whether the terminal takes no escape sequences.
pub fn is_dumb(env: impl Fn(&str) -> Option<OsString>) -> bool {
    env("TERM").is_some_and(|term| term == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_asks_the_stream_and_the_environment() {
        let none = |_: &str| None;
        let set = |wanted: &'static str, value: &'static str| move |name: &str| (name == wanted).then(|| value.into());
        assert!(Color::Auto.styles(true, none));
        assert!(!Color::Auto.styles(false, none));
        assert!(!Color::Auto.styles(true, set("NO_COLOR", "1")));
        assert!(Color::Auto.styles(true, set("NO_COLOR", "")));
        assert!(!Color::Auto.styles(true, set("TERM", "dumb")));
        assert!(Color::Always.styles(false, set("NO_COLOR", "1")));
        assert!(!Color::Never.styles(true, none));
    }
}
