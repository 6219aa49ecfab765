//! A model's files, opened and checked: sizes, tensors, vocabulary, chat template. Nothing is loaded yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::Config;
use super::tensors;
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::gguf::Gguf;
use crate::format::quantize::Quant;
use crate::format::weights::Weights;
use crate::registry::{FileKind, ModelFiles};
use crate::text::{ChatTemplate, Tokenizer};

/// All that a backend and an engine need to know of a model.
pub struct OpenModel {
    /// What the user called it.
    pub name: String,
    pub path: PathBuf,
    pub config: Config,
    pub weights: Weights,
    pub tokenizer: Arc<Tokenizer>,
    /// `None` is a base model: it completes text and knows no turns.
    pub template: Option<ChatTemplate>,
}

impl OpenModel {
    /// Opens a GGUF file or a safetensors folder. `pre` overrides the pre-tokenizer that a GGUF names.
    ///
    /// # Errors
    /// Whatever is wrong with the files; the message names the file, and the entry in it.
    pub fn open(files: &ModelFiles, pre: Option<&str>) -> Result<Self> {
        let (config, weights, tokenizer, template, path) = match &files.kind {
            FileKind::Gguf(path) => {
                let gguf = Gguf::open(path)?;
                let config = Config::from_gguf(&gguf.metadata)?;
                let tokenizer = Tokenizer::from_gguf(&gguf.metadata, pre)?;
                let template = ChatTemplate::from_gguf(&gguf.metadata)?;
                (config, Weights::from_gguf(&gguf), tokenizer, template, path)
            }
            FileKind::Folder(path) => {
                if pre.is_some() {
                    return Err(Error::usage("--pre is for GGUF files: a folder's tokenizer.json says how to split")
                        .in_file(path));
                }
                let config = Config::from_json(&path.join("config.json"))?;
                let weights = Weights::from_safetensors(path, config.heads, config.kv_heads)?;
                (config, weights, Tokenizer::from_folder(path)?, ChatTemplate::from_folder(path)?, path)
            }
        };
        check_vocabulary(&config, &tokenizer, path)?;
        let tokenizer = Arc::new(tokenizer);
        Ok(Self { name: files.name.clone(), path: path.clone(), config, weights, tokenizer, template })
    }

    /// Has floating-point matrices quantized when they are read. Whether there are any. The embedding stays as it is where
    /// another matrix is the head: only rows of it are looked up.
    ///
    /// # Errors
    /// When their rows do not fill groups.
    pub fn quantize(&mut self, quant: Quant) -> Result<bool> {
        let (head, kept) = if self.weights.contains(tensors::OUTPUT) {
            (tensors::OUTPUT, Some(tensors::EMBEDDING))
        } else {
            (tensors::EMBEDDING, None)
        };
        self.weights = self.weights.quantized(quant, head, kept)?;
        Ok(self.weights.quant() != Quant::None)
    }

    /// Every tensor of the files.
    pub fn tensors(&self) -> Result<Vec<&TensorInfo>> {
        self.weights.names().map(|name| self.weights.info(name)).collect()
    }
}

/// A tokenizer may leave ids of the embedding unused (padding), never the other way round.
fn check_vocabulary(config: &Config, tokenizer: &Tokenizer, path: &Path) -> Result<()> {
    if tokenizer.vocab_len() > config.vocab {
        return Err(Error::model(format!(
            "the tokenizer has {} tokens, the model's embedding {}",
            tokenizer.vocab_len(),
            config.vocab
        ))
        .in_file(path)
        .help("the tokenizer belongs to another model"));
    }
    Ok(())
}
