//! The model's own chat template, which turns a conversation into the prompt it was trained on.
//!
//! Templates are Jinja programs from files that strangers made, so they run in a sandbox ([`super::jinja`]): no files,
//! bounded steps, bounded output.
//!
//! A template knows only strings, so a message that *contains* `<|im_end|>` and the `<|im_end|>` that the template
//! puts after it look the same in its output. [`ChatTemplate::prompt`] tells them apart: it renders the conversation
//! a second time with an invisible mark inside every control token of a message. Where marks come out, control tokens
//! are text.

use std::path::Path;

use serde_json::Value;

use super::conversation::Message;
use super::jinja::Jinja;
use super::load_folder::{optional, token_text};
use super::specials::SpecialTokens;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::format::gguf::Metadata;

/// A chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    jinja: Jinja,
}

impl ChatTemplate {
    /// The template of a GGUF file; `None` for base models, which have none.
    ///
    /// # Errors
    /// When the template is not valid Jinja; the message has the line.
    pub fn from_gguf(meta: &Metadata) -> Result<Option<Self>> {
        let source = meta.str("tokenizer.chat_template")?;
        source.map(Self::new).transpose().map_err(|e| e.in_file(meta.path()))
    }

    /// The template of a model folder: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`, which may be
    /// a list of named templates, of which `default` is meant.
    ///
    /// # Errors
    /// When a file cannot be read, or the template is not valid Jinja.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>> {
        let own_file = folder.join("chat_template.jinja");
        if own_file.is_file() {
            let source = std::fs::read_to_string(&own_file).map_err(|e| Error::io("read", &own_file, e))?;
            return Self::new(&source).map(Some).map_err(|e| e.in_file(&own_file));
        }
        let path = folder.join("tokenizer_config.json");
        let config = optional(&path)?;
        let source = config_template(&config["chat_template"]);
        source.map(Self::new).transpose().map_err(|e| e.in_file(&path))
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn new(source: &str) -> Result<Self> {
        Ok(Self { jinja: Jinja::new(source)? })
    }

    /// The template as it is in the file.
    pub fn source(&self) -> &str {
        self.jinja.source()
    }

    /// The prompt as text. `add_generation_prompt`: end with the beginning of an assistant's message.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or does not end.
    pub fn render(&self, tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default();
        self.jinja.render(messages, add_generation_prompt, text(tokenizer.bos()), text(tokenizer.eos()))
    }

    /// The prompt as ids, with the control tokens of the template, but none from the messages, and with BOS as the
    /// model asks.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        let text = self.render(tokenizer, messages, add_generation_prompt)?;
        let mark = unused_character(self.source(), messages, &text)?;
        // Marks at the ends of a message too keep its text from completing a control token that the template began.
        // They can change what a template does (one that asks how a message begins). Without them, and then at the
        // price of another text, control tokens in messages stay text whatever the template does.
        let mut marked = (String::new(), Vec::new());
        for ends_too in [true, false] {
            let messages: Vec<Message> = messages
                .iter()
                .map(|m| Message::new(m.role, with_marks(&m.content, tokenizer.specials(), mark, ends_too)))
                .collect();
            marked = without_marks(&self.render(tokenizer, &messages, add_generation_prompt)?, mark);
            if marked.0 == text {
                break;
            }
        }
        let (text, breaks) = marked;
        let mut ids = tokenizer.encode_with_breaks(&text, &breaks)?;
        tokenizer.add_bos(&mut ids);
        Ok(ids)
    }
}

/// The template in `tokenizer_config.json`.
fn config_template(value: &Value) -> Option<&str> {
    match value {
        Value::Array(list) => {
            let named = |entry: &&Value| entry["name"] == "default";
            list.iter().find(named).or(list.first()).and_then(|entry| token_text(&entry["template"]))
        }
        _ => value.as_str(),
    }
}

/// A character that nobody wrote: one of Unicode's noncharacters or a private one.
fn unused_character(template: &str, messages: &[Message], rendered: &str) -> Result<char> {
    let used = |c: char| {
        template.contains(c) || rendered.contains(c) || messages.iter().any(|message| message.content.contains(c))
    };
    let candidates = ('\u{FDD0}'..='\u{FDEF}').chain('\u{F0000}'..='\u{FFFFD}');
    candidates.into_iter().find(|&c| !used(c)).ok_or_else(|| Error::usage("the messages use every private character"))
}

/// `content` with `mark` inside each of its control tokens, and around it. Blanks stay outside, where templates trim
/// them; a message of blanks stays as it is.
fn with_marks(content: &str, specials: &SpecialTokens, mark: char, ends_too: bool) -> String {
    let mut points = specials.break_points(content);
    let start = content.len() - content.trim_start().len();
    let end = content.trim_end().len();
    if ends_too && start < end {
        points.extend([start, end]);
        points.sort_unstable();
        points.dedup();
    }
    let mut out = String::with_capacity(content.len() + points.len() * mark.len_utf8());
    let mut at = 0;
    for point in points {
        out.push_str(&content[at..point]);
        out.push(mark);
        at = point;
    }
    out.push_str(&content[at..]);
    out
}

/// The text without its marks, and where they were.
fn without_marks(text: &str, mark: char) -> (String, Vec<usize>) {
    let mut clean = String::with_capacity(text.len());
    let mut points = Vec::new();
    for (nth, part) in text.split(mark).enumerate() {
        if nth > 0 {
            points.push(clean.len());
        }
        clean.push_str(part);
    }
    (clean, points)
}

#[cfg(test)]
mod tests {
    use super::super::specials::Special;
    use super::*;

    #[test]
    fn marks_go_inside_control_tokens_and_around_the_text() {
        let special = |id, control| Special { id, control, eats_left: false, eats_right: false };
        let specials = SpecialTokens::new([("<s>".into(), special(1, true)), ("ab".into(), special(2, false))]);
        assert_eq!(with_marks(" ab <s>é ", &specials, '#', true), " #ab <#s>é# ");
        assert_eq!(with_marks(" ab <s>é ", &specials, '#', false), " ab <#s>é ");
        assert_eq!(with_marks(" \n", &specials, '#', true), " \n");
        assert_eq!(without_marks("a#<#s>##", '#'), ("a<s>".into(), vec![1, 2, 4, 4]));
    }

    #[test]
    fn the_mark_is_a_character_nobody_uses() {
        let messages = [Message::new(super::super::Role::User, "\u{FDD0}")];
        assert_eq!(unused_character("\u{FDD1}", &messages, "\u{FDD2}").unwrap(), '\u{FDD3}');
    }
}
