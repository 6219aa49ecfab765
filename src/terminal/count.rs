//! Numbers of things in words.

/// "1 answer", "2 answers".
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
