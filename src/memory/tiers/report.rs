//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// A form of the vectors and its figures.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    /// Of a vector, in memory.
    pub bytes: f64,
    /// Seconds.
    pub build: f64,
    /// Recall@10 of the form alone, and of an exact rerank of its shortlist.
    pub recall: f64,
    pub reranked: f64,
    /// Queries a second with rerank, one and 32 at a time.
    pub single: f64,
    pub batched: f64,
}

/// The figures of all forms on the same vectors and queries.
#[derive(Debug, Clone)]
pub struct Report {
    pub vectors: usize,
    pub dim: usize,
    /// Held out.
    pub queries: usize,
    pub shortlist: usize,
    /// The index that was chosen, in a line.
    pub chosen: String,
    pub rows: Vec<Row>,
}

impl Report {
    pub fn table(&self) -> String {
        let mut out = format!(
            "{} vectors with {} components, {} queries held out, exact rerank of {}\n\n",
            self.vectors, self.dim, self.queries, self.shortlist
        );
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        _ = writeln!(out, "{:width$}  bytes  build s  recall@10  reranked  queries/s  32 at once", "");
        for row in &self.rows {
            let Row { name, bytes, build, recall, reranked, single, batched } = row;
            _ = writeln!(
                out,
                "{name:width$}  {bytes:5.0}  {build:7.2}  {recall:9.3}  {reranked:8.3}  {single:9.0}  {batched:10.0}"
            );
        }
        _ = write!(out, "\nchosen: {}", self.chosen);
        out
    }

    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "name": row.name,
                "bytes_per_vector": row.bytes,
                "build_seconds": row.build,
                "recall_at_10": row.recall,
                "recall_at_10_reranked": row.reranked,
                "queries_per_second": row.single,
                "queries_per_second_32": row.batched,
            })
        };
        json!({
            "vectors": self.vectors,
            "dim": self.dim,
            "queries": self.queries,
            "shortlist": self.shortlist,
            "chosen": self.chosen,
            "tiers": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::memory::index::tests::made;
    use crate::memory::tiers::{Options, bench};

    #[test]
    fn every_tier_is_built_and_measured() {
        let vectors = made(1500, 48, 30, 10);
        let mut heard = Vec::new();
        let report = bench(&vectors, &Options::default(), &mut |name| heard.push(name.to_owned()));
        let report = report.unwrap();
        assert_eq!(heard, report.rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>());
        assert_eq!(report.vectors + report.queries, 1500);
        for row in &report.rows {
            assert!(row.single > 0.0 && row.batched > 0.0 && row.bytes >= 0.0, "{row:?}");
            assert!(row.recall <= row.reranked && row.reranked > 0.4, "{row:?}");
        }
        let by_name = |name: &str| report.rows.iter().find(|row| row.name == name).unwrap();
        assert!(by_name("int8").recall > 0.95 && by_name("int8").reranked > 0.999);
        assert_eq!((by_name("PQ, 4 components a code").bytes, by_name("SORF 512, int8").bytes), (6.0, 516.0));
        let table = report.table();
        assert!(table.contains("\nNyström 1024, int8 "), "{table}");
        assert_eq!(report.json()["tiers"].as_array().unwrap().len(), report.rows.len());
    }

    #[test]
    fn too_few_records_are_refused() {
        let error = bench(&made(900, 48, 3, 1), &Options::default(), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("900 records are too few") && error.contains("1000 are the least"), "{error}");
    }
}
