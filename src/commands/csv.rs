//! Results as CSV: what `-o csv` makes of the rows that `-o json` prints.

use serde_json::Value;

/// The same keys as JSON's, an inner object's joined to its own by `_`: a header, then a line a row.
pub(super) fn lines(rows: &[Value]) -> Vec<String> {
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
    use serde_json::json;

    use super::*;

    #[test]
    fn csv_has_jsons_keys_and_quotes_what_would_split() {
        let row = json!({"model": "a, \"b\"", "n": 3, "rate": {"mean": 1.5, "stddev": 0.0}});
        assert_eq!(lines(&[row]), ["model,n,rate_mean,rate_stddev", "\"a, \"\"b\"\"\",3,1.5,0.0"]);
        assert_eq!(lines(&[]), [""; 0]);
    }
}
