//! Figures for people: speeds, their spread, the machine's cores; what memory gives ([`bandwidth`]) and what an answer takes
//! of it ([`traffic`]).

pub mod bandwidth;
pub mod cgroup;
pub mod cores;
pub mod divergence;
pub mod machine;
pub mod traffic;

use cores::Cores;
use traffic::Traffic;

use crate::engine::Done;

/// Threads that compute when nobody says how many: one for each core that this process may use.
pub fn cores() -> usize {
    Cores::of_process().usual()
}

/// The line after an answer: `[ prompt 812 t/s | generation 341 t/s | 38.1 GB/s, 88 % of memory bandwidth | seed 7 ]`.
/// Without a known `bandwidth` (bytes a second) that part is left out.
pub fn answer_line(done: &Done, traffic: &Traffic, bandwidth: Option<f64>) -> String {
    let computed = done.prompt_tokens - done.cached_tokens.min(done.prompt_tokens);
    // The first token comes with the prompt; the others take the generation's time.
    let generation = rate(done.generated_tokens.saturating_sub(1), done.generation_seconds);
    let memory = traffic.rate(done).zip(bandwidth).map_or_else(String::new, |(read, bandwidth)| {
        format!(" | {:.1} GB/s, {:.0} % of memory bandwidth", read / 1e9, 100.0 * read / bandwidth)
    });
    format!("[ prompt {} | generation {generation}{memory} | seed {} ]", rate(computed, done.prompt_seconds), done.seed)
}

fn rate(tokens: usize, seconds: f64) -> String {
    if tokens == 0 || seconds <= 0.0 {
        return "–".into();
    }
    let rate = tokens as f64 / seconds;
    if rate < 10.0 { format!("{rate:.1} t/s") } else { format!("{rate:.0} t/s") }
}

/// Mean, sample standard deviation and median of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub stddev: f64,
    pub median: f64,
}

impl Spread {
    /// `None` without measurements.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let stddev = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]);
        Some(Self { mean, stddev, median })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Finish;

    #[test]
    fn spread_is_the_textbooks() {
        let s = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((s.mean, s.median), (2.5, 2.5));
        assert!((s.stddev - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[7.0]), Some(Spread { mean: 7.0, stddev: 0.0, median: 7.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn the_answers_line_counts_only_what_was_computed() {
        let done = Done {
            finish: Finish::Stop,
            prompt_tokens: 100,
            cached_tokens: 60,
            generated_tokens: 11,
            prompt_seconds: 0.5,
            generation_seconds: 2.0,
            seed: 7,
        };
        let traffic = Traffic { weights: 2_000_000_000, embedding_row: 0, kv_token: 0 };
        assert_eq!(answer_line(&done, &traffic, None), "[ prompt 80 t/s | generation 5.0 t/s | seed 7 ]");
        assert_eq!(
            answer_line(&done, &traffic, Some(40e9)),
            "[ prompt 80 t/s | generation 5.0 t/s | 10.0 GB/s, 25 % of memory bandwidth | seed 7 ]"
        );
        let one = Done { generated_tokens: 1, generation_seconds: 0.0, ..done };
        assert_eq!(answer_line(&one, &traffic, Some(40e9)), "[ prompt 80 t/s | generation – | seed 7 ]");
    }
}
