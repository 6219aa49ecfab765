//! Text to token ids and back, for every vocabulary that taper runs.
//!
//! [`Tokenizer::from_gguf`] and [`Tokenizer::from_folder`] build the same thing from the two kinds of model file. Ids
//! agree with llama.cpp's, one for one: `tests/tokenizer_golden.rs` compares thousands of strings.
//!
//! Encoding has two steps: special tokens are found first ([`super::specials`]), then the model tokenizes what lies
//! between them. Which parts of a text may hold control tokens is therefore decided in one place.

use super::bytelevel::ByteLevel;
use super::pipeline::Pipeline;
use super::sentencepiece::SentencePiece;
use super::specials::{Allowed, Fragment, Special, SpecialTokens};
use super::vocabulary::{Kind, Vocabulary};
use crate::error::Result;

/// Whether control tokens that are written out in a text become their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// They do: the text is a prompt that the user, or a template, wrote for the model.
    Parse,
    /// They stay text: nobody may smuggle `<|im_end|>` into a message.
    Plain,
}

/// The part of a tokenizer that turns plain text into ids.
#[derive(Debug)]
pub(super) enum Model {
    ByteLevel(Box<ByteLevel>),
    SentencePiece(SentencePiece),
    Pipeline(Box<Pipeline>),
}

/// What a model file says about BOS and EOS around a raw prompt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Added {
    pub bos: bool,
    pub eos: bool,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    specials: SpecialTokens,
    model: Model,
    added: Added,
}

impl Tokenizer {
    /// `blanks`: the special tokens that swallow white space to their left and right.
    pub(super) fn new(
        vocabulary: Vocabulary,
        model: Model,
        added: Added,
        blanks: impl Fn(&str) -> (bool, bool),
    ) -> Self {
        let specials = vocabulary.iter().filter_map(|(id, token)| {
            let control = match token.kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            let (eats_left, eats_right) = blanks(&token.text);
            Some((token.text.clone(), Special { id, control, eats_left, eats_right }))
        });
        let specials = SpecialTokens::new(specials);
        Self { vocabulary, specials, model, added }
    }

    /// The ids of `text`, without BOS or EOS.
    ///
    /// # Errors
    /// Only when a tokenizer.json has rules that fail on this text.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        self.encode_bytes(text.as_bytes(), specials)
    }

    /// [`Tokenizer::encode`] for bytes that may not be UTF-8 (a text to be measured, a file). They are repaired by
    /// llama.cpp's rules.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_bytes(&self, bytes: &[u8], specials: Specials) -> Result<Vec<u32>> {
        let allowed = match specials {
            Specials::Parse => Allowed::NotAcross(&[]),
            Specials::Plain => Allowed::Never,
        };
        self.encode_allowed(bytes, allowed)
    }

    /// The ids of a prompt in which control tokens count, except where they would reach across one of `breaks`
    /// (offsets in ascending order). Everything else is tokenized as if the breaks were not there.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(super) fn encode_with_breaks(&self, text: &str, breaks: &[usize]) -> Result<Vec<u32>> {
        self.encode_allowed(text.as_bytes(), Allowed::NotAcross(breaks))
    }

    /// The ids of a raw prompt: control tokens count, and BOS and EOS are added as the model asks, never twice.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_prompt_bytes(text.as_bytes())
    }

    /// [`Tokenizer::encode_prompt`] for bytes that may not be UTF-8.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt_bytes(&self, bytes: &[u8]) -> Result<Vec<u32>> {
        let mut ids = self.encode_bytes(bytes, Specials::Parse)?;
        self.add_bos(&mut ids);
        if let Some(eos) = self.eos().filter(|eos| self.added.eos && ids.last() != Some(eos)) {
            ids.push(eos);
        }
        Ok(ids)
    }

    /// Puts BOS in front where the model asks for it and it is not there yet.
    pub(super) fn add_bos(&self, ids: &mut Vec<u32>) {
        if let Some(bos) = self.bos().filter(|bos| self.added.bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
    }

    fn encode_allowed(&self, text: &[u8], allowed: Allowed) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for fragment in self.specials.split(text, allowed) {
            match fragment {
                Fragment::Special(id) => ids.push(id),
                Fragment::Text(range) => {
                    let first = range.start == 0;
                    let text = &text[range];
                    match &self.model {
                        Model::ByteLevel(model) => model.encode(text, &mut ids)?,
                        Model::SentencePiece(model) => model.encode(text, &mut ids),
                        Model::Pipeline(model) => model.encode(text, first, &mut ids)?,
                    }
                }
            }
        }
        Ok(ids)
    }

    /// What the token writes, which may be a part of a character; nothing for control tokens, and for ids beyond the
    /// vocabulary (models pad their embeddings).
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.written(id)
    }

    /// The token as the vocabulary spells it, for people: `Ġthe`, `▁the`, `<|im_end|>`.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.token(id).map(|token| &*token.text)
    }

    /// Whether `id` marks structure rather than text. The unknown token counts, as it writes nothing either.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), Some(Kind::Control | Kind::Unknown))
    }

    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// Whether the model wants BOS before every prompt.
    pub fn adds_bos(&self) -> bool {
        self.added.bos && self.bos().is_some()
    }

    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.eos
    }

    /// Every id that ends an answer, in ascending order.
    pub fn end_tokens(&self) -> &[u32] {
        &self.vocabulary.ends
    }

    pub fn vocab_len(&self) -> usize {
        self.vocabulary.len()
    }

    /// The id of a token by its spelling ([`Tokenizer::token_text`]).
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.vocabulary.id_of(token)
    }

    pub(super) fn specials(&self) -> &SpecialTokens {
        &self.specials
    }
}
