//! Words and breaks between them, as they are on a page: many blanks are one, and what is empty leaves none.

/// What stands between two pieces of text; the greater of those that meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Break {
    #[default]
    None,
    Space,
    Cell,
    Line,
    Paragraph,
}

#[derive(Default)]
pub(super) struct Layout {
    out: String,
    /// What comes before the next text; and what that begins with, if it begins a line.
    gap: Break,
    prefix: String,
    /// Code that is not at its end yet, and how many elements of code it is in.
    code: String,
    depth: usize,
}

impl Layout {
    /// What follows begins so, and with `prefix` if it has any text.
    pub fn begin(&mut self, gap: Break, prefix: &str) {
        if self.depth > 0 {
            self.code.push('\n');
            return;
        }
        self.gap = self.gap.max(gap);
        prefix.clone_into(&mut self.prefix);
    }

    /// Whether a heading or an item has begun that has no text yet.
    pub fn has_begun(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// What follows is the next cell of a row.
    pub fn cell(&mut self) {
        self.gap = self.gap.max(Break::Cell);
    }

    pub fn text(&mut self, text: &str) {
        if self.depth > 0 {
            self.code.push_str(text);
            return;
        }
        if text.starts_with(char::is_whitespace) {
            self.gap = self.gap.max(Break::Space);
        }
        for word in text.split_whitespace() {
            self.word(word);
            self.gap = Break::Space;
        }
        if !text.ends_with(char::is_whitespace) && self.gap == Break::Space && !text.is_empty() {
            self.gap = Break::None;
        }
    }

    pub fn open_code(&mut self) {
        self.depth += 1;
    }

    /// Writes the code, if this is its end, fenced by more marks than are in it.
    pub fn close_code(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.depth > 0 {
            return;
        }
        let code = std::mem::take(&mut self.code);
        let code = code.trim_end().trim_start_matches(['\r', '\n']);
        if code.is_empty() {
            return;
        }
        let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        self.gap = Break::Paragraph;
        self.prefix.clear();
        self.word(&format!("{fence}\n{code}\n{fence}"));
        self.gap = Break::Paragraph;
    }

    pub fn finish(mut self) -> String {
        if self.depth > 0 {
            self.depth = 1;
            self.close_code();
        }
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }

    fn word(&mut self, word: &str) {
        let gap = std::mem::take(&mut self.gap);
        if !self.out.is_empty() {
            self.out.push_str(match gap {
                Break::None => "",
                Break::Space => " ",
                Break::Cell => " | ",
                Break::Line => "\n",
                Break::Paragraph => "\n\n",
            });
        }
        self.out.push_str(&std::mem::take(&mut self.prefix));
        // Marks of where a word may be broken are not read.
        self.out.extend(word.chars().filter(|c| !matches!(c, '\u{AD}' | '\u{200B}')));
    }
}
