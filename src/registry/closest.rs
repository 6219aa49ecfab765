//! The name that was probably meant, where none is of the name that was given.

/// One that `asked` begins, or that few slips of the finger turn into it; `None` where none is near.
pub fn closest<'n>(names: impl IntoIterator<Item = &'n str>, asked: &str) -> Option<&'n str> {
    let asked = asked.to_lowercase();
    let slips = |name: &str| if name.starts_with(&asked) { 1 } else { edit_distance(name, &asked) };
    let names = names.into_iter().map(|name| (slips(name), name));
    names.filter(|(slips, name)| *slips <= name.len() / 3).min().map(|(_, name)| name)
}

/// Levenshtein's distance in characters, one row of its table at a time; a text much longer than any name is far.
fn edit_distance(a: &str, b: &str) -> usize {
    const LONG: usize = 128;
    if b.len() > LONG {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_substitutions() {
        for (a, b, expected) in
            [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("é", "e", 1)]
        {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_slip_finds_the_name_and_nonsense_finds_none() {
        let names = ["smollm2-135m", "smollm2", "home"];
        assert_eq!(closest(names, "smolm2-135m"), Some("smollm2-135m"));
        assert_eq!(closest(names, "SmolLM"), Some("smollm2"));
        assert_eq!(closest(names, "hom"), Some("home"));
        assert_eq!(closest(names, "gpt-oss"), None);
        assert_eq!(closest(names, &"a".repeat(100_000)), None);
    }
}
