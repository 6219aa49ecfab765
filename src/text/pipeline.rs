//! The tokenizer that a tokenizer.json describes: normalizer, pre-tokenizer and BPE, run by the `tokenizers` crate.
//!
//! The crate's own `Tokenizer` is not used, for three reasons: it decides for itself where control tokens are
//! matched, it keeps a second copy of the vocabulary for them, and it panics on merges that no vocabulary could hold.

use serde::Deserialize as _;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    Model as _, NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
};

use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct Pipeline {
    bpe: BPE,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// For text that is not at the very beginning, where some vocabularies (Metaspace's `prepend_scheme: first`) do
    /// not put a space in front.
    later_pre_tokenizer: Option<PreTokenizerWrapper>,
}

impl Pipeline {
    /// `normalizer`, `pre_tokenizer`: the parts of tokenizer.json with these names.
    ///
    /// # Errors
    /// When the crate does not know one of them.
    pub fn new(bpe: BPE, normalizer: &Value, pre_tokenizer: &Value) -> Result<Self> {
        let mut later = pre_tokenizer.clone();
        prepend_nothing(&mut later);
        Ok(Self {
            bpe,
            normalizer: part("normalizer", normalizer)?,
            pre_tokenizer: part("pre_tokenizer", pre_tokenizer)?,
            later_pre_tokenizer: part("pre_tokenizer", &later)?,
        })
    }

    /// Appends the tokens of `text`, which has no special tokens in it. `first`: it is the beginning of the prompt.
    pub fn encode(&self, text: &[u8], first: bool, out: &mut Vec<u32>) -> Result<()> {
        let pieces = self.pieces(&String::from_utf8_lossy(text), first).map_err(|e| failed(&*e))?;
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Original, OffsetType::None) {
            out.extend(self.bpe.tokenize(piece).map_err(|e| failed(&*e))?.iter().map(|token| token.id));
        }
        Ok(())
    }

    fn pieces(&self, text: &str, first: bool) -> tokenizers::Result<PreTokenizedString> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut normalized)?;
        }
        let mut pieces = PreTokenizedString::from(normalized);
        let pre_tokenizer = if first { &self.pre_tokenizer } else { &self.later_pre_tokenizer };
        if let Some(pre_tokenizer) = pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        Ok(pieces)
    }
}

fn failed(e: &(dyn std::error::Error + Send + Sync)) -> Error {
    Error::model(format!("the model's tokenizer.json fails on this text: {e}"))
}

fn part<T: serde::de::DeserializeOwned>(name: &str, value: &Value) -> Result<Option<T>> {
    let parsed = Option::<T>::deserialize(value);
    parsed.map_err(|e| Error::model(format!("`{name}` of the tokenizer is not understood: {e}")))
}

/// Turns every `"prepend_scheme": "first"` into "never".
fn prepend_nothing(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "prepend_scheme" && value == "first" {
                    *value = "never".into();
                }
                prepend_nothing(value);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(prepend_nothing),
        _ => {}
    }
}
