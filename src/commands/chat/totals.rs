//! What a chat has cost so far: `/stats`.

use crate::engine::Done;
use crate::terminal::count::counted;

/// Sums over the answers of this run of the program.
#[derive(Debug, Default)]
pub(super) struct Totals {
    answers: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    seconds: f64,
    /// The last answer, and the line of its speeds.
    last: Option<(Done, String)>,
}

impl Totals {
    pub fn add(&mut self, done: &Done, speeds: &str) {
        self.answers += 1;
        self.prompt_tokens += done.prompt_tokens.saturating_sub(done.cached_tokens);
        self.generated_tokens += done.generated_tokens;
        self.seconds += done.prompt_seconds + done.generation_seconds;
        self.last = Some((done.clone(), speeds.to_owned()));
    }

    /// For a context of that many tokens.
    pub fn describe(&self, context: usize) -> String {
        let Some((last, speeds)) = &self.last else { return "There is no answer yet.".to_owned() };
        format!(
            "{} in {:.1} s: {} tokens read, {} written\nthe last one {}, {} of its {} prompt tokens remembered\n\
             context: {} of {context} tokens used",
            counted(self.answers, "answer"),
            self.seconds,
            self.prompt_tokens,
            self.generated_tokens,
            speeds,
            last.cached_tokens,
            last.prompt_tokens,
            last.prompt_tokens + last.generated_tokens,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Finish;

    #[test]
    fn answers_add_up() {
        let mut totals = Totals::default();
        assert_eq!(totals.describe(64), "There is no answer yet.");
        let done = Done {
            finish: Finish::Stop,
            prompt_tokens: 20,
            cached_tokens: 15,
            generated_tokens: 7,
            prompt_seconds: 1.0,
            generation_seconds: 2.0,
            seed: 3,
        };
        totals.add(&done, "[ fast ]");
        assert!(totals.describe(64).starts_with("1 answer in 3.0 s"), "{}", totals.describe(64));
        totals.add(&done, "[ prompt 5.0 t/s | generation 3.0 t/s | seed 3 ]");
        assert_eq!(
            totals.describe(64),
            "2 answers in 6.0 s: 10 tokens read, 14 written\n\
             the last one [ prompt 5.0 t/s | generation 3.0 t/s | seed 3 ], 15 of its 20 prompt tokens remembered\n\
             context: 27 of 64 tokens used"
        );
    }
}
