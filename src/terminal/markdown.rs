//! Light styling of Markdown while it streams: bold, code, headings.
//!
//! The text itself passes through, character by character, marks included; only style changes are put between. So nothing
//! has to be held back until its end is known, and no text can be lost or reordered however it is cut into pieces. What is
//! left open ends with its line (a code fence: with the answer).

/// What the terminal is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Bold,
    Code,
}

impl Style {
    fn escape(self) -> &'static str {
        match self {
            Self::Plain => "\x1b[0m",
            Self::Bold => "\x1b[0;1m",
            Self::Code => "\x1b[0;36m",
        }
    }
}

/// How far into its line the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nothing yet but this many spaces.
    Indent(u8),
    /// A run of `#`: a heading if a space follows.
    Hashes(u8),
    /// A run of backticks: a fence from three on, else inline code.
    Ticks(u8),
    Body,
}

/// The state of one answer.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent: bold may hold code, a heading both")]
pub struct Markdown {
    shown: Style,
    line: Line,
    fence: bool,
    heading: bool,
    code: bool,
    bold: bool,
    /// The character before was the first `*` of what may become `**`.
    star: bool,
    /// `**` came; it opens bold text unless a space follows ("2 ** 3").
    opening: bool,
}

impl Default for Markdown {
    fn default() -> Self {
        Self {
            shown: Style::Plain,
            line: Line::Indent(0),
            fence: false,
            heading: false,
            code: false,
            bold: false,
            star: false,
            opening: false,
        }
    }
}

impl Markdown {
    /// The text with style changes in it.
    pub fn style(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            self.take(c, &mut out);
        }
        out
    }

    /// Takes the last style off.
    pub fn end(&mut self) -> &'static str {
        let was = std::mem::take(self).shown;
        if was == Style::Plain { "" } else { Style::Plain.escape() }
    }

    fn take(&mut self, c: char, out: &mut String) {
        if c == '\n' {
            *self = Self { shown: self.shown, fence: self.fence, ..Self::default() };
            self.switch(Style::Plain, out);
            out.push(c);
            return;
        }
        self.line = self.advance(c);
        let closes = self.line == Line::Body && !self.fence && self.mark(c);
        self.switch(self.wanted(), out);
        out.push(c);
        if closes {
            if c == '`' { self.code = false } else { self.bold = false }
        }
    }

    /// Where the line is after `c`, with what its start means: heading, fence, inline code.
    fn advance(&mut self, c: char) -> Line {
        match (self.line, c) {
            (Line::Indent(n), ' ') if n < 3 => Line::Indent(n + 1),
            (Line::Indent(_), '`') => Line::Ticks(1),
            (Line::Ticks(n), '`') if n < 3 => {
                self.fence ^= n == 2;
                Line::Ticks(n + 1)
            }
            (Line::Ticks(1), _) => {
                self.code = !self.fence;
                Line::Body
            }
            (Line::Indent(_), '#') => Line::Hashes(1),
            (Line::Hashes(n), '#') if n < 6 => Line::Hashes(n + 1),
            (Line::Hashes(_), ' ') => {
                self.heading = !self.fence;
                Line::Body
            }
            _ => Line::Body,
        }
    }

    /// Takes up what `c` opens; `true` when it closes the style that is open, after itself.
    fn mark(&mut self, c: char) -> bool {
        let second_star = std::mem::replace(&mut self.star, false);
        if std::mem::replace(&mut self.opening, false) && !c.is_whitespace() && !self.code {
            self.bold = true;
        }
        match c {
            '`' => std::mem::replace(&mut self.code, true),
            '*' if self.code => false,
            '*' if second_star && self.bold => true,
            '*' if second_star => {
                self.opening = true;
                false
            }
            '*' => {
                self.star = true;
                false
            }
            _ => false,
        }
    }

    fn wanted(&self) -> Style {
        match () {
            () if self.fence || self.code => Style::Code,
            () if self.bold || self.heading => Style::Bold,
            () => Style::Plain,
        }
    }

    fn switch(&mut self, to: Style, out: &mut String) {
        if self.shown != to {
            self.shown = to;
            out.push_str(to.escape());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Styled, with the escapes made readable.
    fn styled(text: &str) -> String {
        let mut markdown = Markdown::default();
        let out = markdown.style(text) + markdown.end();
        out.replace("\x1b[0;1m", "<b>").replace("\x1b[0;36m", "<c>").replace("\x1b[0m", "</>")
    }

    #[test]
    fn bold_code_and_headings_are_styled() {
        assert_eq!(styled("a **b** c"), "a **<b>b**</> c");
        assert_eq!(styled("call `f(x)` now"), "call <c>`f(x)`</> now");
        assert_eq!(styled("`x` first"), "`<c>x`</> first");
        assert_eq!(styled("## Title\ntext"), "##<b> Title</>\ntext");
        assert_eq!(styled("```rust\nlet a = 1;\n```\nend"), "``<c>`rust</>\n<c>let a = 1;</>\n<c>``</>`\nend");
    }

    #[test]
    fn what_only_looks_like_markdown_stays_plain() {
        for text in ["2 ** 3 ** 4", "a * b", "#include <x>", "C# and F#", "* item\n* item", "snake_case_name"] {
            assert_eq!(styled(text), text);
        }
        assert_eq!(styled("`**not bold**`"), "`<c>**not bold**`</>");
    }

    #[test]
    fn a_style_left_open_ends_with_its_line() {
        assert_eq!(styled("**open\nnext"), "**<b>open</>\nnext");
        assert_eq!(styled("`open"), "`<c>open</>");
    }

    proptest! {
        #[test]
        fn no_text_is_lost_or_moved_and_cuts_change_nothing(text in "[a-z *`#\n😊]{0,60}", cut in 0usize..60) {
            let mut markdown = Markdown::default();
            let whole = markdown.style(&text) + markdown.end();
            let cut = text.floor_char_boundary(cut);
            let pieces = markdown.style(&text[..cut]) + &markdown.style(&text[cut..]) + markdown.end();
            prop_assert_eq!(&pieces, &whole);
            let bare = whole.replace("\x1b[0;1m", "").replace("\x1b[0;36m", "").replace("\x1b[0m", "");
            prop_assert_eq!(bare, text);
        }
    }
}
