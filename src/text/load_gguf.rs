//! A tokenizer from the metadata of a GGUF file: the keys `tokenizer.ggml.*`.
//!
//! Defaults for absent keys are llama.cpp's, since that is what the files were tried with.

use super::bpe;
use super::bytelevel::ByteLevel;
use super::pretokenizer::PreTokenizer;
use super::sentencepiece::SentencePiece;
use super::tokenizer::{Added, Model, Tokenizer};
use super::vocabulary::{Kind, NamedIds, Spelling, Token, Vocabulary};
use crate::error::{Error, Result};
use crate::format::gguf::Metadata;

impl Tokenizer {
    /// Builds the tokenizer that `meta` describes. `pre`: what the user wants in place of `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// When there is no tokenizer, it is of a kind that taper does not have, its pre-tokenizer is not known, or its
    /// parts contradict each other.
    pub fn from_gguf(meta: &Metadata, pre: Option<&str>) -> Result<Self> {
        load(meta, pre).map_err(|e| e.in_file(meta.path()))
    }
}

fn load(meta: &Metadata, pre: Option<&str>) -> Result<Tokenizer> {
    let model = meta.str("tokenizer.ggml.model")?.ok_or_else(|| missing("model"))?;
    let (spelling, defaults) = match model {
        "gpt2" => (Spelling::ByteLevel, NamedIds::default()),
        "llama" => {
            // SentencePiece's own order: <unk>, <s>, </s>.
            (Spelling::SentencePiece, NamedIds { unknown: Some(0), bos: Some(1), eos: Some(2), ends: vec![] })
        }
        _ => {
            return Err(Error::model(format!("the tokenizer is of the kind `{model}`, which taper does not have"))
                .help("taper has `llama` (SentencePiece) and `gpt2` (byte-level BPE), those of the Llama family"));
        }
    };
    let tokens = tokens(meta)?;
    let named = named_ids(meta, &defaults, tokens.len())?;
    let vocabulary = Vocabulary::new(tokens, spelling, &named)?;
    let (model, add_bos) = match spelling {
        Spelling::ByteLevel => {
            let words = PreTokenizer::new(pre.or(meta.str("tokenizer.ggml.pre")?))?;
            let merges = meta.strings("tokenizer.ggml.merges")?.ok_or_else(|| missing("merges"))?;
            let merges = merges.into_iter().map(bpe::parse_merge).collect::<Result<_>>()?;
            let add_bos = words.add_bos();
            (Model::ByteLevel(Box::new(ByteLevel::new(&vocabulary, merges, words)?)), add_bos)
        }
        Spelling::SentencePiece => {
            let scores = meta.f32s("tokenizer.ggml.scores")?.ok_or_else(|| missing("scores"))?;
            let prefix = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
            (Model::SentencePiece(SentencePiece::new(&vocabulary, &scores, prefix)?), true)
        }
    };
    let added = Added {
        bos: meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
        eos: meta.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    };
    Ok(Tokenizer::new(vocabulary, model, added, |_| (false, false)))
}

fn missing(key: &str) -> Error {
    Error::model(format!("the file has no `tokenizer.ggml.{key}`"))
        .help("give a file with its tokenizer: some GGUF files hold only tensors, such as LoRA adapters")
}

/// The vocabulary's texts and kinds. All are normal when the file does not say.
fn tokens(meta: &Metadata) -> Result<Vec<Token>> {
    let texts = meta.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokens"))?;
    let kinds = match meta.i32s("tokenizer.ggml.token_type")? {
        Some(kinds) => kinds.into_iter().map(kind).collect(),
        None => vec![Kind::Normal; texts.len()],
    };
    if kinds.len() != texts.len() {
        let (tokens, kinds) = (texts.len(), kinds.len());
        return Err(Error::model(format!("the vocabulary has {tokens} tokens, but {kinds} token types")));
    }
    Ok(texts.into_iter().zip(kinds).map(|(text, kind)| Token { text: text.into(), kind }).collect())
}

/// The numbers of `tokenizer.ggml.token_type`.
fn kind(number: i32) -> Kind {
    match number {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        6 => Kind::Byte,
        _ => Kind::Unused, // 5; 0 is "undefined"
    }
}

fn named_ids(meta: &Metadata, defaults: &NamedIds, tokens: usize) -> Result<NamedIds> {
    let id = |name: &str| meta.u32(&format!("tokenizer.ggml.{name}_token_id"));
    // A default says nothing about this file, so one that is out of range is no error.
    let or_default = |id: Option<u32>, default: Option<u32>| id.or(default.filter(|&d| (d as usize) < tokens));
    let ends = ["eot", "eom"].into_iter().filter_map(|name| id(name).transpose()).collect::<Result<_>>()?;
    Ok(NamedIds {
        bos: or_default(id("bos")?, defaults.bos),
        eos: or_default(id("eos")?, defaults.eos),
        unknown: or_default(id("unknown")?, defaults.unknown),
        ends,
    })
}
