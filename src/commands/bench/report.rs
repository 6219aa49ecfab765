//! The benchmark's rows as people and programs read them: a Markdown table, a JSON array, CSV.

use serde_json::{Value, json};

use super::{Test, What};
use crate::cli::Format;
use crate::engine::fit::human_bytes;
use crate::error::Result;
use crate::stats::Spread;
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
    /// The memory's, in bytes a second.
    pub(super) bandwidth: f64,
    pub(super) hash: String,
}

impl Report<'_> {
    pub(super) fn print(&self, format: Format, rows: &[Row]) -> Result<()> {
        let mut answer = Answer::new();
        match format {
            Format::Json => {
                let all: Vec<Value> = rows.iter().map(|row| self.json(row)).collect();
                answer.line(&Value::from(all).to_string())
            }
            Format::Csv => csv(&rows.iter().map(|row| self.json(row)).collect::<Vec<_>>())
                .iter()
                .try_for_each(|line| answer.line(line)),
            Format::Md => {
                self.table(rows).iter().try_for_each(|line| answer.line(line))?;
                answer.line(&format!(
                    "\nMemory bandwidth with {} threads: {:.1} GB/s. Output hash: {}",
                    self.threads,
                    self.bandwidth / 1e9,
                    self.hash
                ))
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

    fn json(&self, row: &Row) -> Value {
        json!({
            "model": self.taper.name(),
            "size_bytes": self.taper.size().bytes,
            "n_params": self.taper.size().parameters,
            "backend": self.taper.backend_name(),
            "threads": self.threads,
            "test": row.test.name(),
            "tokens_per_second": {"mean": row.rate.mean, "stddev": row.rate.stddev, "median": row.rate.median},
            "gigabytes_per_second": self.read(row) / 1e9,
            "bandwidth_fraction": self.read(row) / self.bandwidth,
            "output_hash": self.hash,
        })
    }

    fn table(&self, rows: &[Row]) -> Vec<String> {
        let mut lines = vec![
            "| model | size | params | backend | threads | test | t/s | GB/s | of memory |".to_owned(),
            "|---|---:|---:|---|---:|---|---:|---:|---:|".to_owned(),
        ];
        lines.extend(rows.iter().map(|row| {
            format!(
                "| {} | {} | {:.1} M | {} | {} | {} | {:.2} ± {:.2} | {:.1} | {:.1} % |",
                self.taper.name(),
                human_bytes(self.taper.size().bytes),
                self.taper.size().parameters as f64 / 1e6,
                self.taper.backend_name(),
                self.threads,
                row.test.name(),
                row.rate.mean,
                row.rate.stddev,
                self.read(row) / 1e9,
                100.0 * self.read(row) / self.bandwidth,
            )
        }));
        lines
    }
}

/// The same keys as JSON's, an inner object's joined to its own by `_`: a header, then a line a row.
pub(super) fn csv(rows: &[Value]) -> Vec<String> {
    let flat: Vec<Vec<(String, String)>> = rows.iter().map(flatten).collect();
    let header = flat.first().map(|row| row.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>().join(","));
    let line = |row: &Vec<(String, String)>| row.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>().join(",");
    header.into_iter().chain(flat.iter().map(line)).collect()
}

fn flatten(row: &Value) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    for (key, value) in row.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) => {
                cells.extend(flatten(value).into_iter().map(|(inner, cell)| (format!("{key}_{inner}"), cell)));
            }
            Value::String(text) => cells.push((key.clone(), quoted(text))),
            other => cells.push((key.clone(), other.to_string())),
        }
    }
    cells
}

/// A text as RFC 4180 wants it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_has_jsons_keys_and_quotes_what_would_split() {
        let row = json!({"model": "a, \"b\"", "n": 3, "rate": {"mean": 1.5, "stddev": 0.0}});
        assert_eq!(csv(&[row]), ["model,n,rate_mean,rate_stddev", "\"a, \"\"b\"\"\",3,1.5,0.0"]);
        assert_eq!(csv(&[]), [""; 0]);
    }
}
