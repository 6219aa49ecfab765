//! Where a text is cut into passages: at its headings, paragraphs and blocks of code, near a size in tokens, each beginning
//! with the end of the one before.
//!
//! A passage is a range of bytes of the source and nothing else, so that it can be found there again. What cannot be cut by its
//! structure is cut by sentences, lines, words, and characters in the end: every passage is bounded, whatever the text.

use std::ops::Range;

/// How large passages are. The encoder reads 254 tokens; what does not fit would not be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Most tokens of a passage.
    pub tokens: usize,
    /// Of those, how many at most are the end of the passage before.
    pub overlap: usize,
}

impl Size {
    /// Passages of up to so many tokens. What they repeat grows with them.
    pub fn of(tokens: usize) -> Self {
        Self { tokens, overlap: tokens * 3 / 20 }
    }
}

impl Default for Size {
    fn default() -> Self {
        Self::of(200)
    }
}

/// A token stands for this many bytes at least: a megabyte without a space is one unknown word to the tokenizer.
const BYTES_A_TOKEN: usize = 16;

/// What a text's lines mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Paragraphs between blank lines.
    Plain,
    /// Headings and fenced code too.
    Markdown,
    /// Lines belong together, sentences do not count.
    Code,
}

impl Syntax {
    /// The syntax of a source by its name. Of a page the text is Markdown.
    pub fn of(name: &str) -> Self {
        const CODE: [&str; 36] = [
            "asm", "bash", "c", "cc", "cpp", "cs", "css", "cu", "cxx", "go", "h", "hpp", "java", "jl", "js", "json",
            "jsx", "kt", "lua", "m", "php", "pl", "py", "r", "rb", "rs", "s", "scala", "sh", "sql", "swift", "toml",
            "ts", "tsx", "yaml", "zig",
        ];
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
        match extension.as_str() {
            "md" | "markdown" | "html" | "htm" | "xhtml" => Self::Markdown,
            code if CODE.binary_search(&code).is_ok() => Self::Code,
            _ => Self::Plain,
        }
    }
}

/// A stretch of text that is not cut further.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    range: Range<usize>,
    /// A passage would rather begin with it than end with it.
    heading: bool,
}

/// Cuts a text into passages, as ranges of its bytes, in order, without blanks around them. `tokens` is where its tokens begin.
pub fn chunk(text: &str, tokens: &[u32], size: Size, syntax: Syntax) -> Vec<Range<usize>> {
    let measure = Measure { tokens, text };
    let mut pieces = Vec::new();
    for block in blocks(text, syntax) {
        let levels: &[Level] = match syntax {
            Syntax::Code => &[Level::Lines, Level::Words, Level::Characters],
            _ if block.code => &[Level::Lines, Level::Words, Level::Characters],
            _ => &[Level::Sentences, Level::Lines, Level::Words, Level::Characters],
        };
        measure.split(block.range, size.tokens, levels, &mut |range| {
            pieces.push(Piece { range, heading: block.heading });
        });
    }
    measure.pack(&pieces, size)
}

/// Where a piece that is too long is cut, the best place first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Sentences,
    Lines,
    Words,
    Characters,
}

struct Measure<'a> {
    tokens: &'a [u32],
    text: &'a str,
}

impl Measure<'_> {
    /// The size of a range in tokens.
    fn size(&self, range: &Range<usize>) -> usize {
        let before = |at: usize| self.tokens.partition_point(|token| (*token as usize) < at);
        (before(range.end) - before(range.start)).max(range.len().div_ceil(BYTES_A_TOKEN))
    }

    /// Hands over a range in parts that are no larger than `most`.
    fn split(&self, range: Range<usize>, most: usize, levels: &[Level], part: &mut impl FnMut(Range<usize>)) {
        let [level, finer @ ..] = levels else { return part(range) };
        if self.size(&range) <= most {
            return part(range);
        }
        let mut start = range.start;
        while start < range.end {
            let end = match level {
                Level::Sentences => end_of_sentence(self.text, start, range.end),
                Level::Lines => end_of_line(self.text, start, range.end),
                Level::Words => end_of_word(self.text, start, range.end),
                Level::Characters => self.as_much_as_fits(start, range.end, most),
            };
            self.split(start..end, most, finer, part);
            start = end;
        }
    }

    /// The end of the longest range of whole characters from `start` that is no larger than `most`; one character at least.
    fn as_much_as_fits(&self, start: usize, end: usize, most: usize) -> usize {
        let first = self.tokens.partition_point(|token| (*token as usize) < start);
        let by_tokens = self.tokens.get(first + most).map_or(end, |token| *token as usize);
        let limit = by_tokens.min(start + most * BYTES_A_TOKEN).min(end);
        let fits = (start + 1..=limit).rev().find(|at| self.text.is_char_boundary(*at));
        fits.unwrap_or_else(|| start + self.text[start..].chars().next().map_or(1, char::len_utf8))
    }

    /// Puts pieces together while they fit.
    fn pack(&self, pieces: &[Piece], size: Size) -> Vec<Range<usize>> {
        let mut passages: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        while at < pieces.len() {
            let start = match passages.last() {
                Some(before) if !pieces[at].heading => self.overlap(before, &pieces[at].range, size),
                _ => pieces[at].range.start,
            };
            let mut end = at + 1;
            while end < pieces.len() {
                let next = &pieces[end];
                let full = self.size(&(start..next.range.end)) > size.tokens;
                // A section of its own, once there is something to set it apart from.
                let section = next.heading && self.size(&(start..next.range.start)) * 2 >= size.tokens;
                if full || section {
                    break;
                }
                end += 1;
            }
            // A heading belongs to what follows it.
            while end < pieces.len() && end - 1 > at && pieces[end - 1].heading {
                end -= 1;
            }
            let passage = trimmed(self.text, start..pieces[end - 1].range.end);
            if !passage.is_empty() && passages.last().is_none_or(|last| last.end < passage.end) {
                passages.push(passage);
            }
            at = end;
        }
        passages
    }

    /// Where a passage begins whose first piece is `next`: at a sentence or line of the one before, if one is near enough to its
    /// end and both still fit.
    fn overlap(&self, before: &Range<usize>, next: &Range<usize>, size: Size) -> usize {
        let mut start = next.start;
        let mut at = before.start;
        while at < before.end {
            let end = end_of_line(self.text, at, before.end).min(end_of_sentence(self.text, at, before.end));
            let fits = self.size(&(at..before.end)) <= size.overlap && self.size(&(at..next.end)) <= size.tokens;
            if at > before.start && fits {
                start = at;
                break;
            }
            at = end;
        }
        start.min(next.start)
    }
}

struct Block {
    range: Range<usize>,
    heading: bool,
    code: bool,
}

/// Paragraphs, headings and fenced code, without the blank lines between them.
fn blocks(text: &str, syntax: Syntax) -> Vec<Block> {
    let markdown = syntax == Syntax::Markdown;
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false; // the last block takes the next line
    let mut fence: Option<&str> = None;
    let mut start = 0;
    while start < text.len() {
        let end = end_of_line(text, start, text.len());
        let line = text[start..end].trim();
        let marks = fence_of(line).filter(|_| markdown);
        let closes = fence.zip(marks).is_some_and(|(opened, marks)| marks.starts_with(opened));
        let heading = markdown && fence.is_none() && is_heading(line);
        let begins = fence.is_none() && (marks.is_some() || heading || !open);
        match blocks.last_mut() {
            _ if line.is_empty() && fence.is_none() => {}
            Some(block) if !begins => block.range.end = end,
            _ => blocks.push(Block { range: start..end, heading, code: marks.is_some() }),
        }
        if fence.is_none() {
            fence = marks;
        } else if closes {
            fence = None;
        }
        open = fence.is_some() || !(line.is_empty() || heading || closes);
        start = end;
    }
    blocks
}

/// The marks that open or close a block of code.
fn fence_of(line: &str) -> Option<&str> {
    let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let marks = &line[..line.len() - line.trim_start_matches(mark).len()];
    (marks.len() >= 3).then_some(marks)
}

fn is_heading(line: &str) -> bool {
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && rest.starts_with([' ', '\t'])
}

/// Behind the next line break.
fn end_of_line(text: &str, start: usize, end: usize) -> usize {
    text[start..end].find('\n').map_or(end, |at| start + at + 1)
}

/// Behind the blanks after the next full stop.
fn end_of_sentence(text: &str, start: usize, end: usize) -> usize {
    let mut stopped = false;
    let mut blank = false;
    for (at, c) in text[start..end].char_indices() {
        if blank && !c.is_whitespace() {
            return start + at;
        }
        if matches!(c, '。' | '！' | '？') {
            return start + at + c.len_utf8();
        }
        blank = stopped && c.is_whitespace();
        stopped = blank || matches!(c, '.' | '!' | '?') || (stopped && matches!(c, '"' | '\'' | ')' | ']' | '”' | '’'));
    }
    end
}

/// Behind the blanks after the next word.
fn end_of_word(text: &str, start: usize, end: usize) -> usize {
    let mut blank = false;
    for (at, c) in text[start..end].char_indices() {
        if blank && !c.is_whitespace() {
            return start + at;
        }
        blank = c.is_whitespace();
    }
    end
}

/// Without the blank lines before it and the blanks behind it: the first line keeps what it is indented by.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let end = range.start + text[range.clone()].trim_end().len();
    let mut start = range.start;
    while start < end {
        let line = end_of_line(text, start, end);
        if !text[start..line].trim().is_empty() {
            break;
        }
        start = line;
    }
    start..end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A token a word.
    fn words(text: &str) -> Vec<u32> {
        let starts = |(at, c): (usize, char)| {
            let first = at == 0 || text[..at].ends_with(char::is_whitespace);
            (first && !c.is_whitespace()).then_some(at as u32)
        };
        text.char_indices().filter_map(starts).collect()
    }

    fn passages(text: &str, tokens: usize, overlap: usize, syntax: Syntax) -> Vec<&str> {
        let ranges = chunk(text, &words(text), Size { tokens, overlap }, syntax);
        ranges.into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn paragraphs_stay_whole_while_they_fit() {
        let text = "one two three.\n\nfour five\nsix.\n\n\n  seven eight.\n";
        assert_eq!(passages(text, 100, 0, Syntax::Plain), [text.trim_end()]);
        assert_eq!(passages(text, 6, 0, Syntax::Plain), ["one two three.\n\nfour five\nsix.", "  seven eight."]);
        assert_eq!(passages(text, 4, 0, Syntax::Plain), ["one two three.", "four five\nsix.", "  seven eight."]);
        assert_eq!(passages("", 4, 0, Syntax::Plain), [""; 0]);
        assert_eq!(passages(" \n\n\t\n", 4, 0, Syntax::Plain), [""; 0]);
    }

    #[test]
    fn a_heading_is_with_what_follows_it() {
        let text = "# A\n\none two three four\n\n## B\n\nfive six seven\n\n## C\nend";
        assert_eq!(
            passages(text, 8, 0, Syntax::Markdown),
            ["# A\n\none two three four", "## B\n\nfive six seven", "## C\nend"]
        );
        let tail = "one two three four five\n\n# H\n\nsix seven eight nine ten";
        assert_eq!(
            passages(tail, 8, 0, Syntax::Markdown),
            ["one two three four five", "# H\n\nsix seven eight nine ten"]
        );
    }

    #[test]
    fn fenced_code_is_one_block_and_its_comments_are_no_headings() {
        let text = "Intro here.\n\n```sh\n# not a heading\n\nrun it\n```\n\nOutro here.";
        assert_eq!(
            passages(text, 9, 0, Syntax::Markdown),
            ["Intro here.", "```sh\n# not a heading\n\nrun it\n```", "Outro here."]
        );
    }

    #[test]
    fn a_long_paragraph_is_cut_between_sentences_and_the_next_passage_repeats_the_last_one() {
        let text = "One two three. Four five six! Seven eight nine? Ten eleven twelve.";
        assert_eq!(
            passages(text, 6, 3, Syntax::Plain),
            [
                "One two three. Four five six!",
                "Four five six! Seven eight nine?",
                "Seven eight nine? Ten eleven twelve."
            ]
        );
        assert_eq!(
            passages(text, 6, 0, Syntax::Plain),
            ["One two three. Four five six!", "Seven eight nine? Ten eleven twelve."]
        );
    }

    #[test]
    fn code_is_cut_between_lines_and_keeps_its_indentation() {
        let text = "    a = 1. Then\n    b = 2\n    c = 3\n";
        assert_eq!(passages(text, 7, 0, Syntax::Code), ["    a = 1. Then\n    b = 2", "    c = 3"]);
    }

    #[test]
    fn a_text_without_any_place_to_cut_is_cut_between_characters() {
        let text = "é".repeat(1000);
        let passages = passages(&text, 10, 5, Syntax::Plain);
        assert!(passages.iter().all(|passage| passage.len() <= 10 * BYTES_A_TOKEN));
        assert_eq!(passages.concat(), text);
    }

    #[test]
    fn names_tell_the_syntax() {
        for (name, syntax) in [
            ("a/b.MD", Syntax::Markdown),
            ("page.html", Syntax::Markdown),
            ("x.rs", Syntax::Code),
            ("x.zig", Syntax::Code),
            ("README", Syntax::Plain),
            ("notes.txt", Syntax::Plain),
        ] {
            assert_eq!(Syntax::of(name), syntax, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_character_is_in_a_passage_and_passages_are_bounded(
            text in "([a-zé。]{0,20}[ \n.#`?~]{0,3}){0,60}",
            tokens in 1usize..40,
            overlap in 0usize..20,
            kind in 0..3,
        ) {
            let syntax = [Syntax::Plain, Syntax::Markdown, Syntax::Code][kind as usize];
            let starts = words(&text);
            let measure = Measure { tokens: &starts, text: &text };
            let mut covered = 0;
            for range in chunk(&text, &starts, Size { tokens, overlap }, syntax) {
                prop_assert!(measure.size(&range) <= tokens, "{:?} has {}", &text[range.clone()], measure.size(&range));
                prop_assert!(range.end > covered);
                if range.start > covered {
                    prop_assert!(text[covered..range.start].trim().is_empty(), "{:?} is lost", &text[covered..range.start]);
                }
                covered = range.end;
            }
            prop_assert!(text[covered..].trim().is_empty());
        }
    }
}
