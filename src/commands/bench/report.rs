//! The benchmark's rows as people and programs read them: a Markdown table, a JSON array, CSV.

use serde_json::{Value, json};

use super::{Test, What};
use crate::cli::Format;
use crate::commands::csv;
use crate::engine::fit::human_bytes;
use crate::error::Result;
use crate::stats::Spread;
use crate::stats::divergence::Divergence;
use crate::taper::Taper;
use crate::terminal::render::Answer;

/// A test and its tokens a second.
pub(super) struct Row {
    pub(super) test: Test,
    pub(super) rate: Spread,
}

/// What all rows share.
pub(super) struct Report<'a> {
    pub(super) taper: &'a Taper,
    pub(super) threads: usize,
    /// The memory's, in bytes a second; `None` where the model is in a GPU's, which was not measured.
    pub(super) bandwidth: Option<f64>,
    pub(super) hash: String,
    pub(super) divergence: Option<Divergence>,
}

impl Report<'_> {
    pub(super) fn print(&self, format: Format, rows: &[Row]) -> Result<()> {
        let mut answer = Answer::new();
        match format {
            Format::Json => {
                let all: Vec<Value> = rows.iter().map(|row| self.json(row)).collect();
                answer.line(&Value::from(all).to_string())
            }
            Format::Csv => csv::lines(&rows.iter().map(|row| self.json(row)).collect::<Vec<_>>())
                .iter()
                .try_for_each(|line| answer.line(line)),
            Format::Md => {
                self.table(rows).iter().try_for_each(|line| answer.line(line))?;
                let threads = self.threads;
                let memory = self.bandwidth.map_or_else(String::new, |rate| {
                    format!("Memory bandwidth with {threads} threads: {:.1} GB/s. ", rate / 1e9)
                });
                answer.line(&format!("\n{memory}Output hash: {}", self.hash))?;
                self.divergence.iter().try_for_each(|divergence| answer.line(&divergence.line()))
            }
        }
    }

    /// Bytes a second that the test read.
    fn read(&self, row: &Row) -> f64 {
        let Test { what, tokens, depth } = row.test;
        let traffic = self.taper.traffic();
        let bytes = match what {
            What::Prompt => traffic.prompt(tokens, depth),
            What::Generate => traffic.generating(tokens, depth),
        };
        bytes as f64 / tokens as f64 * row.rate.mean
    }

    /// The same as a share of what the memory gives.
    fn share(&self, row: &Row) -> Option<f64> {
        self.bandwidth.map(|bandwidth| self.read(row) / bandwidth)
    }

    fn json(&self, row: &Row) -> Value {
        let mut json = json!({
            "model": self.taper.name(),
            "size_bytes": self.taper.size().bytes,
            "n_params": self.taper.size().parameters,
            "backend": self.taper.choice().name(),
            "threads": self.threads,
            "kv_type": self.taper.choice().kv_type().name(),
            "flash_attention": self.taper.choice().flash_attention(),
            "test": row.test.name(),
            "tokens_per_second": {"mean": row.rate.mean, "stddev": row.rate.stddev, "median": row.rate.median},
            "gigabytes_per_second": self.read(row) / 1e9,
            "bandwidth_fraction": self.share(row),
            "output_hash": self.hash,
        });
        if let Some(divergence) = &self.divergence {
            json["divergence"] = divergence.json();
        }
        json
    }

    fn table(&self, rows: &[Row]) -> Vec<String> {
        let mut lines = vec![
            "| model | size | params | backend | threads | KV | test | t/s | GB/s | of memory |".to_owned(),
            "|---|---:|---:|---|---:|---|---|---:|---:|---:|".to_owned(),
        ];
        lines.extend(rows.iter().map(|row| {
            format!(
                "| {} | {} | {:.1} M | {} | {} | {} | {} | {:.2} ± {:.2} | {:.1} | {} |",
                self.taper.name(),
                human_bytes(self.taper.size().bytes),
                self.taper.size().parameters as f64 / 1e6,
                self.taper.choice().name(),
                self.threads,
                self.taper.choice().kv_type().name(),
                row.test.name(),
                row.rate.mean,
                row.rate.stddev,
                self.read(row) / 1e9,
                self.share(row).map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", 100.0 * share)),
            )
        }));
        lines
    }
}
