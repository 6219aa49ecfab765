//! Cutting text into words before byte-level BPE, by the rules that `tokenizer.ggml.pre` names.
//!
//! The wrong rules give slightly wrong tokens and a model that is slightly worse, with nothing to see. So a name that
//! is not in the table is an error, which `--pre` overrides; it is never guessed.
//!
//! Names, patterns and flags are those of llama.cpp's table, where converters take the names from. The patterns in
//! turn are from the models' own tokenizer.json files.

use std::ops::Range;

use tokenizers::tokenizer::pattern::Pattern as _;
use tokenizers::utils::SysRegex;

use crate::error::{Error, Result};

/// One row: names that share rules.
struct Rule {
    names: &'static [&'static str],
    /// Each is applied to the pieces that the one before has left; matches and what lies between them are pieces.
    patterns: &'static [&'static str],
    /// A word that is a token is that token, whatever the merges would make of it.
    ignore_merges: bool,
    /// Whether prompts begin with BOS when the file does not say.
    add_bos: bool,
}

const DIGIT: &str = r"\p{N}";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const RULES: &[Rule] = &[
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Rule { names: &["dbrx", "smaug-bpe"], patterns: &[LLAMA3], ignore_merges: false, add_bos: false },
    Rule {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[DIGIT, GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "mellum",
        ],
        patterns: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "grok-2"],
        patterns: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
    },
    Rule { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    Rule {
        names: &["falcon"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
];

/// The names that `PreTokenizer::new` knows.
pub fn known_names() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.names).copied()
}

/// Cuts text into the words that BPE does not merge across.
pub(super) struct PreTokenizer {
    rule: &'static Rule,
    patterns: Vec<SysRegex>,
}

impl PreTokenizer {
    /// # Errors
    /// When the name is not known, or there is none.
    pub fn new(name: Option<&str>) -> Result<Self> {
        let Some(rule) = RULES.iter().find(|rule| name.is_some_and(|name| rule.names.contains(&name))) else {
            let what = match name {
                Some(name) => format!("the model names a pre-tokenizer that taper does not know: `{name}`"),
                None => "the model does not name its pre-tokenizer (`tokenizer.ggml.pre`)".into(),
            };
            let known = known_names().collect::<Vec<_>>().join(", ");
            return Err(Error::model(what).help(format!("choose one with --pre NAME (known: {known})")));
        };
        let compile = |p: &&str| SysRegex::new(p).map_err(|e| Error::runtime(format!("pattern `{p}`: {e}")));
        let patterns = rule.patterns.iter().map(compile).collect::<Result<_>>()?;
        Ok(Self { rule, patterns })
    }

    pub fn ignore_merges(&self) -> bool {
        self.rule.ignore_merges
    }

    pub fn add_bos(&self) -> bool {
        self.rule.add_bos
    }

    /// The words of `text`, in order and without gaps, as ranges of its bytes.
    ///
    /// # Errors
    /// Never for the patterns above; the `tokenizers` crate's interface allows for it.
    pub fn split(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let mut words: Vec<Range<usize>> = std::iter::once(0..text.len()).collect();
        for pattern in &self.patterns {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                let pieces = pattern.find_matches(&text[word.clone()]);
                let pieces = pieces.map_err(|e| Error::runtime(format!("cannot cut the text into words: {e}")))?;
                finer.extend(pieces.into_iter().map(|((start, end), _)| word.start + start..word.start + end));
            }
            words = finer;
        }
        words.retain(|word| !word.is_empty());
        Ok(words)
    }
}

impl std::fmt::Debug for PreTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PreTokenizer({})", self.rule.names[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        PreTokenizer::new(Some(name)).unwrap().split(text).unwrap().into_iter().map(|word| &text[word]).collect()
    }

    #[test]
    fn each_family_cuts_in_its_own_way() {
        let text = "I'M  12345!\n\n x";
        assert_eq!(words("gpt-2", text), ["I", "'", "M", " ", " 12345", "!", "\n\n", " x"]);
        assert_eq!(words("smollm", text), ["I", "'", "M", "  ", "1", "2", "3", "4", "5", "!", "\n\n", " x"]);
        assert_eq!(words("llama-bpe", text), ["I", "'M", " ", " ", "123", "45", "!\n\n", " x"]);
        assert_eq!(words("qwen2", text), ["I", "'M", " ", " ", "1", "2", "3", "4", "5", "!\n\n", " x"]);
        assert_eq!(words("tekken", "aBc 12/\n"), ["a", "Bc", " ", "1", "2", "/\n"]);
        assert_eq!(words("default", "a:1234"), ["a", ":", "123", "4"]);
    }

    #[test]
    fn names_are_unique_and_all_patterns_compile() {
        let mut names: Vec<_> = known_names().collect();
        for name in &names {
            assert_eq!(words(name, "a b").concat(), "a b");
        }
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        for (name, says) in [(Some("klingon"), "`klingon`"), (None, "does not name")] {
            let message = PreTokenizer::new(name).unwrap_err().to_string();
            assert!(
                message.contains(says) && message.contains("--pre NAME") && message.contains("smollm"),
                "{message}"
            );
        }
    }
}
