//! `/set PARAMETER VALUE`: how answers are made from now on.

use std::str::FromStr;

use crate::cli;
use crate::error::{Error, Result};
use crate::taper::Options;

/// What can be set, named as the flags.
pub(super) const PARAMETERS: [&str; 9] =
    ["temp", "top-k", "top-p", "min-p", "repeat-penalty", "frequency-penalty", "presence-penalty", "seed", "predict"];

/// The options of the next answers, and whether the user chose their seed.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub options: Options,
    /// Every answer draws from the same seed. Otherwise each draws from a new one.
    pub fixed_seed: bool,
}

impl Settings {
    /// Changes one parameter.
    ///
    /// # Errors
    /// A name that is none, a value that is no number or out of range. Nothing is changed then.
    pub fn set(&mut self, parameter: &str, value: &str) -> Result<()> {
        let mut new = self.clone();
        let sampling = &mut new.options.sampling;
        match parameter {
            "temp" => sampling.temperature = number(parameter, value)?,
            "top-k" => sampling.top_k = number(parameter, value)?,
            "top-p" => sampling.top_p = number(parameter, value)?,
            "min-p" => sampling.min_p = number(parameter, value)?,
            "repeat-penalty" => sampling.repeat_penalty = number(parameter, value)?,
            "frequency-penalty" => sampling.frequency_penalty = number(parameter, value)?,
            "presence-penalty" => sampling.presence_penalty = number(parameter, value)?,
            "seed" => {
                let seed = from_minus_one(parameter, value)?;
                new.fixed_seed = seed != -1;
                sampling.seed = cli::seed(seed);
            }
            "predict" => new.options.max_tokens = usize::try_from(from_minus_one(parameter, value)?).ok(),
            _ => {
                return Err(Error::usage(format!("there is no parameter `{parameter}`"))
                    .help(format!("these can be set: {}", PARAMETERS.join(", "))));
            }
        }
        new.options.sampling.check()?;
        *self = new;
        Ok(())
    }

    /// All parameters with their values, in one line.
    pub fn list(&self) -> String {
        let s = &self.options.sampling;
        let predict = self.options.max_tokens.map_or("no limit".to_owned(), |n| n.to_string());
        format!(
            "temp {}, top-k {}, top-p {}, min-p {}, repeat-penalty {}, frequency-penalty {}, presence-penalty {}, \
             seed {}{}, predict {predict}",
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repeat_penalty,
            s.frequency_penalty,
            s.presence_penalty,
            s.seed,
            if self.fixed_seed { "" } else { " (changes with every answer)" },
        )
    }

    /// After an answer: the next one draws anew, unless the user wants the same draws.
    pub fn next_seed(&mut self) {
        if !self.fixed_seed {
            let seed = &mut self.options.sampling.seed;
            *seed = seed.wrapping_add(1) & u64::from(u32::MAX);
        }
    }
}

fn number<T: FromStr>(parameter: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| no_number(parameter, value))
}

/// As the flag of that name: -1 leaves it open, other numbers below 0 mean nothing.
fn from_minus_one(parameter: &str, value: &str) -> Result<i64> {
    let number = number(parameter, value)?;
    if number < -1 { Err(no_number(parameter, value)) } else { Ok(number) }
}

fn no_number(parameter: &str, value: &str) -> Error {
    Error::usage(format!("`{value}` is no number that {parameter} can be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { options: Options::default(), fixed_seed: false }
    }

    #[test]
    fn every_parameter_can_be_set_and_is_listed() {
        let mut settings = settings();
        for parameter in PARAMETERS {
            settings.set(parameter, "1").unwrap();
            assert!(settings.list().contains(&format!("{parameter} 1")), "{parameter}: {}", settings.list());
        }
    }

    #[test]
    fn a_bad_value_is_named_and_changes_nothing() {
        let mut settings = settings();
        let before = settings.list();
        let mut error = |parameter, value| settings.set(parameter, value).unwrap_err().to_string();
        assert_eq!(error("temp", "warm"), "`warm` is no number that temp can be");
        assert_eq!(error("top-k", "-3"), "`-3` is no number that top-k can be");
        assert_eq!(error("seed", "-2"), "`-2` is no number that seed can be");
        assert_eq!(error("predict", "-2"), "`-2` is no number that predict can be");
        assert_eq!(error("top-p", "2"), "--top-p is 2; 0 to 1 is possible");
        assert!(error("temp", "NaN").contains("temp is NaN"));
        assert!(error("tmp", "1").starts_with("there is no parameter `tmp`\n  these can be set: temp, top-k"));
        assert_eq!(settings.list(), before);
    }

    #[test]
    fn a_seed_stays_until_it_is_given_back() {
        let mut settings = settings();
        settings.set("seed", "7").unwrap();
        settings.next_seed();
        assert_eq!(settings.options.sampling.seed, 7);
        settings.set("seed", "-1").unwrap();
        let drawn = settings.options.sampling.seed;
        settings.next_seed();
        assert_ne!(settings.options.sampling.seed, drawn);
        settings.set("predict", "-1").unwrap();
        assert_eq!(settings.options.max_tokens, None);
    }
}
