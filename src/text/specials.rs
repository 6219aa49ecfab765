//! Finding control and user-defined tokens in text, before anything else is tokenized.
//!
//! At each place the longest token wins, as in Hugging Face's tokenizers. Where control tokens may be found is the
//! caller's decision and a matter of safety: what a user types must never become `<|im_end|>`.

use std::collections::HashMap;
use std::ops::Range;

/// A token that is matched as a whole, and how it treats the blanks around it.
#[derive(Debug, Clone)]
pub(super) struct Special {
    pub id: u32,
    /// Only where control tokens are wanted.
    pub control: bool,
    /// Swallows white space to its left (`lstrip` of tokenizer.json).
    pub eats_left: bool,
    /// Swallows white space to its right (`rstrip`).
    pub eats_right: bool,
}

/// Where control tokens may be found in a text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Allowed<'a> {
    /// Nowhere.
    Never,
    /// Anywhere but across these offsets, which are in ascending order.
    NotAcross(&'a [usize]),
}

/// The tokens to look for.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    by_text: HashMap<Box<[u8]>, Special>,
    /// By first byte: the lengths that occur, longest first. Most bytes start no special token.
    lengths: Vec<Vec<usize>>,
}

/// A part of a text after the search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Special(u32),
}

impl SpecialTokens {
    pub fn new(tokens: impl IntoIterator<Item = (Box<str>, Special)>) -> Self {
        let by_text: HashMap<Box<[u8]>, Special> =
            tokens.into_iter().map(|(text, special)| (text.into_boxed_bytes(), special)).collect();
        let mut lengths = vec![Vec::new(); 256];
        for text in by_text.keys() {
            if let Some(&first) = text.first() {
                lengths[first as usize].push(text.len());
            }
        }
        for list in &mut lengths {
            list.sort_unstable_by(|a, b| b.cmp(a));
            list.dedup();
        }
        Self { by_text, lengths }
    }

    /// Cuts `text` at its special tokens. Empty fragments are left out.
    pub fn split(&self, text: &[u8], allowed: Allowed) -> Vec<Fragment> {
        let mut out = Vec::new();
        let mut start = 0; // of the text that is not yet in `out`
        let mut at = 0;
        while at < text.len() {
            let Some((len, special)) = self.longest_at(text, at, allowed) else {
                at += 1;
                continue;
            };
            let mut before = start..at;
            if special.eats_left {
                before.end = start + text[before.clone()].trim_ascii_end().len();
            }
            if !before.is_empty() {
                out.push(Fragment::Text(before));
            }
            out.push(Fragment::Special(special.id));
            at += len;
            if special.eats_right {
                at = text.len() - text[at..].trim_ascii_start().len();
            }
            start = at;
        }
        if start < text.len() {
            out.push(Fragment::Text(start..text.len()));
        }
        out
    }

    /// Offsets that keep every control token in `text` from being found, when given to [`Allowed::NotAcross`]: one
    /// inside each occurrence, after its first character. (Tokens of one character cannot be told from text.)
    pub fn break_points(&self, text: &str) -> Vec<usize> {
        let bytes = text.as_bytes();
        let starts_token = |at: usize| {
            self.lengths_at(bytes, at).any(|len| self.by_text.get(&bytes[at..at + len]).is_some_and(|s| s.control))
        };
        text.char_indices().filter(|&(at, _)| starts_token(at)).map(|(at, c)| at + c.len_utf8()).collect()
    }

    /// The lengths worth looking up at `at`, longest first.
    fn lengths_at(&self, text: &[u8], at: usize) -> impl Iterator<Item = usize> {
        let left = text.len() - at;
        let lengths = self.lengths.get(text[at] as usize).map_or(&[][..], |l| l);
        lengths.iter().copied().filter(move |&len| len <= left)
    }

    fn longest_at(&self, text: &[u8], at: usize, allowed: Allowed) -> Option<(usize, &Special)> {
        self.lengths_at(text, at).find_map(|len| {
            let special = self.by_text.get(&text[at..at + len])?;
            let found = !special.control
                || match allowed {
                    Allowed::Never => false,
                    Allowed::NotAcross(points) => {
                        let next = points.partition_point(|&p| p <= at);
                        points.get(next).is_none_or(|&p| p >= at + len)
                    }
                };
            found.then_some((len, special))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> SpecialTokens {
        let special = |id, control| Special { id, control, eats_left: false, eats_right: false };
        SpecialTokens::new([
            ("<s>".into(), special(1, true)),
            ("<s>x".into(), special(2, true)),
            ("  ".into(), special(3, false)),
            ("    ".into(), special(4, false)),
            ("<mask>".into(), Special { id: 5, control: true, eats_left: true, eats_right: true }),
        ])
    }

    const ANYWHERE: Allowed<'static> = Allowed::NotAcross(&[]);

    #[test]
    fn the_longest_token_wins() {
        use Fragment::{Special, Text};
        assert_eq!(tokens().split(b"a<s>x<s>y", ANYWHERE), [Text(0..1), Special(2), Special(1), Text(8..9)]);
        assert_eq!(tokens().split(b"       ", ANYWHERE), [Special(4), Special(3), Text(6..7)]);
        assert_eq!(tokens().split(b"", ANYWHERE), []);
    }

    #[test]
    fn plain_text_holds_no_control_tokens() {
        use Fragment::{Special, Text};
        assert_eq!(tokens().split(b"<s>  <s>", Allowed::Never), [Text(0..3), Special(3), Text(5..8)]);
    }

    #[test]
    fn control_tokens_do_not_cross_a_break() {
        use Fragment::{Special, Text};
        let split = |points| tokens().split(b"<s><s>", Allowed::NotAcross(points));
        assert_eq!(split(&[1]), [Text(0..3), Special(1)]);
        assert_eq!(split(&[3]), [Special(1), Special(1)]);
        assert_eq!(split(&[0, 4, 6]), [Special(1), Text(3..6)]);
    }

    #[test]
    fn break_points_hide_every_control_token() {
        let text = "a<s><<s>xé<mask>  <s";
        let points = tokens().break_points(text);
        assert_eq!(points, [2, 6, 12]);
        let fragments = tokens().split(text.as_bytes(), Allowed::NotAcross(&points));
        assert_eq!(fragments, [Fragment::Text(0..17), Fragment::Special(3), Fragment::Text(19..21)]);
    }

    #[test]
    fn some_tokens_swallow_blanks() {
        use Fragment::{Special, Text};
        assert_eq!(tokens().split(b"a \t<mask>\n b", ANYWHERE), [Text(0..1), Special(5), Text(11..12)]);
        assert_eq!(tokens().split(b" <mask> ", ANYWHERE), [Special(5)]);
    }
}
