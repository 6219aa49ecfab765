//! A tokenizer from a Hugging Face model folder: tokenizer.json, and what three other files say about where prompts
//! begin and answers end.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::bpe;
use super::pipeline::Pipeline;
use super::tokenizer::{Added, Model, Tokenizer};
use super::vocabulary::{Kind, NamedIds, Spelling, Token, Vocabulary, byte_token};
use crate::error::{Error, Result};

/// Ids without a token that a vocabulary may have; more is taken for damage.
const MAX_HOLES: usize = 65536;

/// tokenizer.json, as far as it is used.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// The `model` of tokenizer.json, when it is BPE.
#[derive(Deserialize)]
struct BpeFile {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeFile>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Merges were lines before tokenizers 0.20.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeFile {
    Line(String),
    Pair(String, String),
}

impl Tokenizer {
    /// Builds the tokenizer of a folder with tokenizer.json and, if they are there, `tokenizer_config.json`,
    /// `generation_config.json` and config.json.
    ///
    /// # Errors
    /// When tokenizer.json is absent, is not of the BPE kind, or contradicts itself.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            return Err(Error::model("the model folder has no tokenizer.json")
                .in_file(folder)
                .help("download it with the model, or use a GGUF file, which has its tokenizer inside"));
        }
        let file = required(&path)?;
        let config = optional(&folder.join("tokenizer_config.json"))?;
        let others = [optional(&folder.join("generation_config.json"))?, optional(&folder.join("config.json"))?];
        load(file, &config, &others).map_err(|e| e.in_file(&path))
    }
}

fn required<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_slice(&text).map_err(|e| {
        Error::model(format!("not valid: {e}")).in_file(path).help("the file is damaged: download the model again")
    })
}

/// `Null` when there is no such file.
pub(super) fn optional(path: &Path) -> Result<Value> {
    if path.is_file() { required(path) } else { Ok(Value::Null) }
}

fn load(file: TokenizerFile, config: &Value, others: &[Value; 2]) -> Result<Tokenizer> {
    let kind = file.model.get("type").and_then(Value::as_str).unwrap_or("BPE");
    if kind != "BPE" {
        return Err(Error::model(format!("the tokenizer is of the kind `{kind}`, which taper does not have"))
            .help("taper has `BPE`, the kind of the Llama family"));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if file.model.get(key).and_then(Value::as_str).is_some_and(|s| !s.is_empty()) {
            return Err(Error::model(format!("the tokenizer uses `{key}`, which taper does not have")));
        }
    }
    let model = BpeFile::deserialize(file.model)
        .map_err(|e| Error::model(format!("`model` of the tokenizer is not understood: {e}")))?;
    let byte_level = has_type(&file.pre_tokenizer, "ByteLevel") || has_type(&file.decoder, "ByteLevel");
    let spelling = if byte_level { Spelling::ByteLevel } else { Spelling::SentencePiece };
    let tokens = tokens(&model, &file.added_tokens)?;
    let named = named_ids(&tokens, &model, config, others);
    let vocabulary = Vocabulary::new(tokens, spelling, &named)?;
    let merges = model.merges.into_iter().map(|merge| match merge {
        MergeFile::Line(line) => bpe::parse_merge(&line),
        MergeFile::Pair(left, right) => Ok((left, right)),
    });
    let unknown = model.unk_token.filter(|text| vocabulary.id_of(text).is_some());
    let bpe = bpe::build(&vocabulary, merges.collect::<Result<_>>()?, unknown.as_deref(), |builder| {
        let builder = builder.fuse_unk(model.fuse_unk).byte_fallback(model.byte_fallback);
        let builder = builder.ignore_merges(model.ignore_merges);
        match &unknown {
            Some(text) => builder.unk_token(text.clone()),
            None => builder,
        }
    })?;
    let pipeline = Pipeline::new(bpe, &file.normalizer, &file.pre_tokenizer)?;
    let added = added(&vocabulary, config, &file.post_processor);
    let blanks = |text: &str| {
        let token = file.added_tokens.iter().find(|t| t.content == text);
        token.map_or((false, false), |t| (t.lstrip, t.rstrip))
    };
    Ok(Tokenizer::new(vocabulary, Model::Pipeline(Box::new(pipeline)), added, blanks))
}

/// Whether a part of tokenizer.json is, or has somewhere in it, a component of this type.
fn has_type(part: &Value, name: &str) -> bool {
    match part {
        Value::Object(map) => map.get("type").is_some_and(|t| t == name) || map.values().any(|v| has_type(v, name)),
        Value::Array(list) => list.iter().any(|v| has_type(v, name)),
        _ => false,
    }
}

/// All tokens by id. Ids without a token get a filler.
fn tokens(model: &BpeFile, added: &[AddedToken]) -> Result<Vec<Token>> {
    let highest = model.vocab.values().copied().chain(added.iter().map(|t| t.id)).max();
    let len = highest.map_or(0, |id| id as usize + 1);
    if len > model.vocab.len() + added.len() + MAX_HOLES {
        let known = model.vocab.len() + added.len();
        return Err(Error::model(format!("the tokenizer has {known} tokens, but ids up to {}", len - 1)));
    }
    let mut tokens: Vec<Option<Token>> = vec![None; len];
    for (text, &id) in &model.vocab {
        let kind = match byte_token(text) {
            Some(_) if model.byte_fallback => Kind::Byte,
            _ => Kind::Normal,
        };
        if let Some(other) = tokens[id as usize].replace(Token { text: text.as_str().into(), kind }) {
            return Err(Error::model(format!("the tokens `{}` and `{text}` both have the id {id}", other.text)));
        }
    }
    for token in added {
        let kind = if token.special { Kind::Control } else { Kind::UserDefined };
        // Added tokens that are in the vocabulary too keep the id they have there.
        let id = model.vocab.get(&token.content).copied().unwrap_or(token.id);
        tokens[id as usize] = Some(Token { text: token.content.as_str().into(), kind });
    }
    let filler = |id| Token { text: format!("[PAD{id}]").into(), kind: Kind::Unused };
    Ok(tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| filler(id))).collect())
}

/// Ids by the texts in `tokenizer_config.json`, else by the numbers in the other files.
fn named_ids(tokens: &[Token], model: &BpeFile, config: &Value, others: &[Value; 2]) -> NamedIds {
    let id_of = |text: &str| tokens.iter().position(|t| &*t.text == text).map(|id| id as u32);
    let named = |name: &str| {
        let number = || others.iter().flat_map(|file| ids(&file[format!("{name}_id")])).next();
        match config.get(name) {
            Some(token) => token_text(token).and_then(id_of),
            None => number(),
        }
    };
    let eos = named("eos_token");
    NamedIds {
        bos: named("bos_token"),
        eos,
        unknown: model.unk_token.as_deref().and_then(id_of),
        ends: others.iter().flat_map(|file| ids(&file["eos_token_id"])).collect(),
    }
}

/// A token in `tokenizer_config.json`: its text, or an object with it.
pub(super) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// What `tokenizer_config.json` says about BOS and EOS; where it is silent, what the post-processor's template does.
fn added(vocabulary: &Vocabulary, config: &Value, post_processor: &Value) -> Added {
    let template = single_template(post_processor);
    let is = |piece: Option<&Value>, id: Option<u32>| {
        let text = piece.and_then(|p| p["SpecialToken"]["id"].as_str());
        id.is_some() && text.is_some_and(|text| vocabulary.id_of(text) == id)
    };
    let says = |key: &str| config.get(key).and_then(Value::as_bool);
    Added {
        bos: says("add_bos_token").unwrap_or_else(|| is(template.first(), vocabulary.bos)),
        eos: says("add_eos_token").unwrap_or_else(|| is(template.last(), vocabulary.eos)),
    }
}

/// The pieces that a post-processor makes a single text into; none if it has no template.
fn single_template(processor: &Value) -> &[Value] {
    let own = processor["single"].as_array();
    let inner = || processor["processors"].as_array()?.iter().map(single_template).find(|t| !t.is_empty());
    own.map(Vec::as_slice).or_else(inner).unwrap_or_default()
}
