//! A sandbox for chat templates: Jinja as Hugging Face's `apply_chat_template` sets it up, with limits.
//!
//! What a template may use: `messages` (role and content), `add_generation_prompt`, `bos_token`, `eos_token`,
//! `raise_exception`, `strftime_now`, loop controls and Python's string and dictionary methods. What it may not: run
//! for ever, recurse without end, write more than [`MAX_OUTPUT`].
//!
//! One thing is not bounded, because minijinja has no hook for it: what a single step costs. A hostile template can still
//! fill the memory, or take very long, by doubling a string or a list in a variable.

use std::fmt::Write as _;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};

use super::conversation::Message;
use crate::error::{Error, Result};

/// Bytes that a template may write. The largest contexts are below it.
const MAX_OUTPUT: usize = 4 << 20;
/// Steps of minijinja's machine for any conversation, and for each message in it. Real templates take about 50 a message.
const FUEL: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Nested calls. Each takes some KiB of the thread's stack.
const MAX_DEPTH: usize = 64;
/// Spaces a level of indented JSON.
const MAX_INDENT: usize = 16;
/// The name under which the template is compiled.
const NAME: &str = "chat_template";

/// A compiled template.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
    source: String,
}

/// The text of `raise_exception`, by which a template refuses a conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl Jinja {
    /// # Errors
    /// When `source` is not valid Jinja.
    pub fn new(source: &str) -> Result<Self> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::runtime(format!("minijinja refuses its own syntax: {e}")))?);
        env.set_recursion_limit(MAX_DEPTH);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // These allocate whatever number a template names, and no chat template needs them.
        for filter in ["batch", "slice", "format", "indent"] {
            env.remove_filter(filter);
        }
        env.add_filter("tojson", to_json);
        // In Python None is not iterable; templates ask this of `tools`.
        env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            let e = minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception");
            Err(e.with_source(Refused(message)))
        });
        env.add_function("strftime_now", strftime_now);
        env.add_template_owned(NAME, without_generation_tags(source)).map_err(|e| {
            let line = e.line().map_or_else(String::new, |line| format!(" in line {line}"));
            Error::model(format!("the chat template is not valid{line}: {}", described(&e)))
        })?;
        Ok(Self { environment: env, source: source.to_owned() })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// # Errors
    /// When the template raises an exception, fails, or goes beyond its limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, bos: &str, eos: &str) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.name(), content => message.content.as_str() })
            .collect();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_MESSAGE * messages.len() as u64));
        let context = context! {
            messages,
            add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
            tools => (),
            documents => (),
        };
        let mut out = Bounded(Vec::new());
        let template = environment.get_template(NAME).map_err(|e| failed(&e))?;
        template.render_captured_to(context, &mut out).map_err(|e| failed(&e))?;
        String::from_utf8(out.0).map_err(|_| Error::model("the chat template writes text that is not UTF-8"))
    }
}

/// `{% generation %}` … `{% endgeneration %}` as an `if` that always holds. Hugging Face's extension marks with them what
/// the assistant says, which matters in training only.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for (nth, part) in source.split("{%").enumerate() {
        if nth > 0 {
            out.push_str("{%");
        }
        let (tag, rest) = part.split_at(part.find("%}").unwrap_or(0));
        let stand_in = match tag.trim_matches(['-', '+']).trim() {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => {
                out.push_str(part);
                continue;
            }
        };
        out.push_str(&tag.replace(tag.trim_matches(|c: char| "+-".contains(c) || c.is_whitespace()), stand_in));
        out.push_str(rest);
    }
    out
}

/// Output that ends in an error where it gets too long.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("it writes more than {} MiB", MAX_OUTPUT >> 20)));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's `json.dumps` as Hugging Face calls it. minijinja's filter writes the same, but escapes for HTML, which is
/// taken back here.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands its arguments over by value")]
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?, // the other options of json.dumps do not matter here
    };
    if indent.as_ref().and_then(Value::as_usize).is_some_and(|n| n > MAX_INDENT) {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("indent is more than {MAX_INDENT}")));
    }
    let json = minijinja::filters::tojson(value, indent, Kwargs::from_iter([] as [(&str, Value); 0]))?;
    Ok(without_html_escapes(json.as_str().unwrap_or_default()))
}

/// Undoes the escapes of `<`, `>`, `&` and `'` in JSON.
fn without_html_escapes(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let escapes = [("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&"), ("\\u0027", "'")];
        let (len, plain) = match escapes.into_iter().find(|(code, _)| escape.starts_with(code)) {
            Some((code, plain)) => (code.len(), plain),
            None => (2, &escape[..2]), // in JSON something ASCII follows every backslash
        };
        out.push_str(plain);
        rest = &escape[len..];
    }
    out + rest
}

/// The local date and time in C's notation, for templates that tell the model what day it is.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut out = String::new();
    // chrono finds a wrong format when it writes, and then `to_string` would panic.
    write!(out, "{}", chrono::Local::now().format(format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("`{format}` is not a format of dates"))
    })?;
    Ok(out)
}

/// What happened when the template ran, in the user's terms.
fn failed(e: &minijinja::Error) -> Error {
    if let Some(Refused(message)) = cause(e) {
        return Error::usage(format!("the model's chat template refuses this conversation: {message}"))
            .help("some models take no system message, or insist that user and assistant take turns");
    }
    if let Some(limit) = cause::<io::Error>(e) {
        return Error::model(format!("the chat template was stopped: {limit}"));
    }
    if e.kind() == ErrorKind::OutOfFuel {
        return Error::model("the chat template was stopped: it does not come to an end");
    }
    let line = e.line().map_or_else(String::new, |line| format!(" in line {line}"));
    Error::model(format!("the chat template fails{line}: {}", described(e)))
}

/// The first error of type `E` among the causes of `e`.
fn cause<E: std::error::Error + 'static>(e: &minijinja::Error) -> Option<&E> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// minijinja's message without its file and line, which are ours to give.
fn described(e: &minijinja::Error) -> String {
    match e.detail() {
        Some(detail) => format!("{}: {detail}", e.kind()),
        None => e.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        Jinja::new(source)?.render(&[Message::new(super::super::Role::User, "a<b>'&\\u003c\\é")], true, "<s>", "</s>")
    }

    #[test]
    fn json_is_written_as_python_does() {
        let json = r#"{"role": "user", "content": "a<b>'&\\u003c\\é"}"#;
        assert_eq!(render("{{ messages[0] | tojson }}").unwrap(), json);
        assert_eq!(render("{{ [1, {}, 'x'] | tojson(indent=2) }}").unwrap(), "[\n  1,\n  {},\n  \"x\"\n]");
        assert_eq!(render("{{ 'é' | tojson(ensure_ascii=False) }}").unwrap(), "\"é\"");
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let source = "{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}\ny\n";
        assert_eq!(render(source).unwrap(), "x\ny");
    }

    #[test]
    fn python_methods_and_loop_controls_work() {
        let source =
            "{% for x in ['a ', 'b', 'c'] %}{% if x == 'c' %}{% break %}{% endif %}{{ x.strip().upper() }}{% endfor %}";
        assert_eq!(render(source).unwrap(), "AB");
        assert_eq!(render("{{ messages[0].get('none', 'd') }}{{ 'abc'.startswith('a') }}").unwrap(), "dTrue");
    }

    #[test]
    fn generation_tags_write_nothing() {
        let source = "a\n{%- generation -%}\nb{% endgeneration %}c {{ '{% generation' }}";
        assert_eq!(render(source).unwrap(), "abc {% generation");
    }

    #[test]
    fn dates_are_local_and_wrong_formats_are_errors() {
        let today = chrono::Local::now().format("%d %b %Y").to_string();
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), today);
        assert!(render("{{ strftime_now('%!') }}").unwrap_err().to_string().contains("not a format"));
    }

    #[test]
    fn bad_templates_are_stopped_and_say_why() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        let deep = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
        let cases = [
            (endless, "does not come to an end"),
            ("{% for a in range(1000000000) %}{% endfor %}", "range has too many elements"),
            (deep, "recursion"),
            ("{% for a in range(20000) %}{{ 'x' * 1000 }}{% endfor %}", "more than 4 MiB"),
            ("{{ 'x' * 10000000000 }}", "too large"),
            ("{{ raise_exception('no system, please') }}", "refuses this conversation: no system, please"),
            ("a\n{% if %}", "not valid in line 2"),
            ("a\n\n{{ messages[0].content.nothing() }}", "fails in line 3"),
            ("{{ 'a' | indent(1000000000000) }}", "unknown filter"),
            ("{{ [1] | tojson(indent=1000000000000) }}", "indent is more than"),
            ("{% include '/etc/passwd' %}", "template not found"),
        ];
        for (source, says) in cases {
            let message = render(source).unwrap_err().to_string();
            assert!(message.contains(says), "{source}: {message}");
        }
    }
}
