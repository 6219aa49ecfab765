//! What every token of a model is: its text in the file, what sort it is, and the bytes it writes.
//!
//! Both sources, GGUF metadata and tokenizer.json, are brought into this one form, so that everything after loading
//! (matching control tokens, detokenizing, knowing when an answer ends) is written once. The rules are llama.cpp's
//! where formats leave them open, because GGUF files are made for llama.cpp.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// What a token is for. The numbers of GGUF's `tokenizer.ggml.token_type` map onto these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    /// Stands for what the vocabulary cannot write. Treated like a control token: it writes nothing.
    Unknown,
    /// Marks structure (`<|im_start|>`); writes nothing, and is found in text only where the caller says so.
    Control,
    /// Added by the model's maker; found whole in any text, before anything else is tokenized.
    UserDefined,
    /// A filler id.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

/// How tokens are spelled in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's: every byte is a printable character ([`super::bytelevel`]).
    ByteLevel,
    /// SentencePiece's: U+2581 for a space, single bytes as `<0x0A>`.
    SentencePiece,
}

/// One token as a model file describes it.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub text: Box<str>,
    pub kind: Kind,
}

/// Texts that end an answer in some family, whatever the file says about them (llama.cpp keeps the same list: files
/// whose metadata names only one of a model's end tokens are common).
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// All tokens of a model, by id and by text.
#[derive(Debug)]
pub(super) struct Vocabulary {
    tokens: Vec<Token>,
    /// What each token writes; empty for control tokens and fillers.
    written: Vec<Box<[u8]>>,
    ids: HashMap<Box<str>, u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    /// In ascending order.
    pub ends: Vec<u32>,
}

/// The ids that a file names for a purpose.
#[derive(Debug, Default)]
pub(super) struct NamedIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    /// Further ends: `eot`, `eom`, and the list of `generation_config.json`.
    pub ends: Vec<u32>,
}

impl Vocabulary {
    /// # Errors
    /// When two tokens have the same text, a byte token is not of the form `<0xHH>`, or a named id is not in the
    /// vocabulary.
    pub fn new(mut tokens: Vec<Token>, spelling: Spelling, named: &NamedIds) -> Result<Self> {
        if u32::try_from(tokens.len()).is_err() {
            return Err(Error::model("the vocabulary has more tokens than 32-bit ids"));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter_mut().enumerate() {
            if token.text.is_empty() {
                token.text = format!("[EMPTY_{id}]").into(); // llama.cpp's name; an empty text would match everywhere
            }
            if let Some(first) = ids.insert(token.text.clone(), id as u32) {
                return Err(Error::model(format!("tokens {first} and {id} are both `{}`", token.text)));
            }
        }
        let ends = end_tokens(&mut tokens, &ids, named)?;
        let written =
            tokens.iter().enumerate().map(|(id, token)| written(id, token, spelling)).collect::<Result<Vec<_>>>()?;
        let NamedIds { bos, eos, unknown, .. } = *named;
        Ok(Self { tokens, written, ids, bos, eos, unknown, ends })
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub fn token(&self, id: u32) -> Option<&Token> {
        self.tokens.get(id as usize)
    }

    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.token(id).map(|t| t.kind)
    }

    /// What `id` writes; nothing for ids that models have beyond their vocabulary (padded embeddings).
    pub fn written(&self, id: u32) -> &[u8] {
        self.written.get(id as usize).map_or(&[], |b| b)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Token)> {
        self.tokens.iter().enumerate().map(|(id, token)| (id as u32, token))
    }
}

/// Every id that ends an answer: the named ones and those with well-known texts, which become control tokens (some
/// converters write them as normal ones).
fn end_tokens(tokens: &mut [Token], ids: &HashMap<Box<str>, u32>, named: &NamedIds) -> Result<Vec<u32>> {
    let all_named = [("beginning", named.bos), ("end", named.eos), ("unknown", named.unknown)];
    let all_named = all_named.into_iter().filter_map(|(what, id)| Some((what, id?)));
    for (what, id) in all_named.chain(named.ends.iter().map(|&id| ("end", id))) {
        if id as usize >= tokens.len() {
            let n = tokens.len();
            return Err(Error::model(format!("the {what} token has the id {id}, but the vocabulary has {n} tokens")));
        }
    }
    let mut ends: Vec<u32> = END_TEXTS.iter().filter_map(|text| ids.get(*text).copied()).collect();
    for &id in &ends {
        tokens[id as usize].kind = Kind::Control;
    }
    ends.extend(named.eos);
    ends.extend(&named.ends);
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// The bytes a token writes.
fn written(id: usize, token: &Token, spelling: Spelling) -> Result<Box<[u8]>> {
    let text = &*token.text;
    let bytes = match token.kind {
        Kind::Unknown | Kind::Control | Kind::Unused => Vec::new(),
        Kind::UserDefined => text.as_bytes().to_vec(),
        Kind::Byte => {
            let Some(byte) = byte_token(text) else {
                return Err(Error::model(format!("token {id} is marked as a byte but reads `{text}`, not `<0xHH>`")));
            };
            vec![byte]
        }
        Kind::Normal => match spelling {
            Spelling::ByteLevel => super::bytelevel::decode(text),
            Spelling::SentencePiece => text.replace('\u{2581}', " ").into_bytes(),
        },
    };
    Ok(bytes.into())
}

/// The byte of `<0xHH>`.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}
