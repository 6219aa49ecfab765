//! The text of an HTML page, as Markdown: headings, paragraphs, lists, rows of tables, code. What is not read by people (scripts,
//! styles, what leads to other pages) is left out.
//!
//! Tags are taken as they come and no tree is built, so that a page with mistakes in it gives its text too, and one that nests
//! without end costs nothing.

mod layout;
#[cfg(test)]
mod tests;

use html5gum::{DefaultEmitter, Token, Tokenizer};

use self::layout::{Break, Layout};

/// What is left out with all that is in it.
const SILENT: [&str; 15] = [
    "audio", "button", "canvas", "datalist", "iframe", "nav", "noembed", "noscript", "object", "script", "select",
    "style", "svg", "template", "video",
];
/// What begins and ends a line.
const LINES: [&str; 10] = ["address", "br", "caption", "dd", "div", "dt", "figcaption", "li", "summary", "tr"];
/// What begins and ends a paragraph.
const PARAGRAPHS: [&str; 20] = [
    "article",
    "aside",
    "blockquote",
    "body",
    "details",
    "dl",
    "fieldset",
    "figure",
    "footer",
    "form",
    "header",
    "hr",
    "main",
    "ol",
    "p",
    "search",
    "section",
    "table",
    "ul",
    "title",
];

/// The text of a page.
pub fn text(html: &str) -> String {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true); // what is in a script is no tag
    let mut page = Page { layout: Layout::default(), silent: None };
    for Ok(token) in Tokenizer::new_with_emitter(html.trim_start_matches('\u{FEFF}'), emitter) {
        match token {
            Token::StartTag(tag) => page.start(&String::from_utf8_lossy(&tag.name), tag.self_closing),
            Token::EndTag(tag) => page.end(&String::from_utf8_lossy(&tag.name)),
            Token::String(text) if page.silent.is_none() => page.layout.text(&String::from_utf8_lossy(&text)),
            Token::String(_) | Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    page.layout.finish()
}

/// Whether a file is a page by its name.
pub fn is_named(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    ["html", "htm", "xhtml"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether a text that has no name begins as a page does.
pub fn begins(text: &str) -> bool {
    let text = text.trim_start_matches('\u{FEFF}').trim_start().as_bytes();
    ["<!doctype html", "<html"]
        .iter()
        .any(|start| text.get(..start.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(start.as_bytes())))
}

struct Page {
    layout: Layout,
    /// The element that is left out, and how many of its name are open.
    silent: Option<(String, usize)>,
}

impl Page {
    fn start(&mut self, name: &str, self_closing: bool) {
        if let Some((silent, depth)) = &mut self.silent {
            *depth += usize::from(silent == name);
            return;
        }
        match name {
            // Only what is no HTML closes itself.
            "svg" if self_closing => {}
            _ if SILENT.contains(&name) => self.silent = Some((name.to_owned(), 1)),
            "pre" => self.layout.open_code(),
            "li" => self.layout.begin(Break::Line, "- "),
            "td" | "th" => self.layout.cell(),
            "title" => self.layout.begin(Break::Paragraph, "# "),
            _ => match level(name) {
                Some(level) => self.layout.begin(Break::Paragraph, &format!("{} ", "#".repeat(level))),
                // A paragraph in an item begins behind the item's dash.
                None if self.layout.has_begun() => {}
                None => self.edge(name),
            },
        }
    }

    fn end(&mut self, name: &str) {
        if let Some((silent, depth)) = &mut self.silent {
            *depth -= usize::from(silent == name);
            if *depth == 0 {
                self.silent = None;
            }
            return;
        }
        match name {
            "pre" => self.layout.close_code(),
            _ if level(name).is_some() => self.layout.begin(Break::Paragraph, ""),
            _ => self.edge(name),
        }
    }

    fn edge(&mut self, name: &str) {
        if PARAGRAPHS.contains(&name) {
            self.layout.begin(Break::Paragraph, "");
        } else if LINES.contains(&name) {
            self.layout.begin(Break::Line, "");
        }
    }
}

/// Of a heading.
fn level(name: &str) -> Option<usize> {
    ["h1", "h2", "h3", "h4", "h5", "h6"].iter().position(|known| *known == name).map(|at| at + 1)
}
