//! Texts as unit vectors: a BERT encoder, its token vectors averaged, as the Python package sentence-transformers does it.
//!
//! An embedder is a folder of that package's form: config.json, tokenizer.json, model.safetensors, and, where they are there,
//! `sentence_bert_config.json` (how many tokens it reads) and `1_Pooling/config.json` (how token vectors become one). Parity
//! with the package, to 1e-4 in cosine, is tested on 200 texts (tests/embed.rs).

mod batch;
mod cache;
mod encoder;

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde::Deserialize;
use tokenizers::Tokenizer;

use self::cache::Cache;
use self::encoder::Encoder;
use crate::backend::cpu::encoder::Precision;
use crate::error::{Error, Result};
use crate::format::mapping::Mapping;
use crate::registry::{FileKind, ModelFiles};

/// The embedder of a memory that names no other.
pub const DEFAULT_EMBEDDER: &str = "all-minilm-l6-v2";

/// Bytes of vectors that are kept, so that a text that comes again is not computed again.
const CACHE_BYTES: usize = 4 << 20;

/// How token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    Mean,
    /// That of the first token.
    First,
}

/// What makes token vectors.
enum Net {
    /// On our kernels.
    Ours(Box<Encoder>),
    /// By candle, in f32: the judge of ours, and for shapes that those do not take.
    Candle(Box<BertModel>),
}

/// Who computes, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Compute {
    /// Our kernels in f32, or candle for shapes that those do not take
    #[default]
    #[value(name = "f32")]
    Single,
    /// Matrices in int8: faster; vectors differ from those in f32 by less than 0.0015 in cosine
    Int8,
    /// candle, in f32
    Reference,
}

/// A loaded embedder.
pub struct Embedder {
    name: String,
    net: Net,
    tokenizer: Tokenizer,
    /// Tokens that it reads of a text, `[CLS]` and `[SEP]` among them.
    max_tokens: usize,
    /// How many of those are `[CLS]`, `[SEP]` and their like; all but one of them at the end.
    special: usize,
    dim: usize,
    pooling: Pooling,
    cache: Mutex<Cache>,
}

/// `sentence_bert_config.json`.
#[derive(Deserialize)]
struct Limits {
    max_seq_length: Option<usize>,
}

/// `1_Pooling/config.json`.
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are the file's")]
struct PoolingFile {
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
}

impl Embedder {
    /// Loads the embedder in a model's files.
    ///
    /// # Errors
    /// When they are no BERT embedder, or damaged.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        Self::open_for(files, Compute::default())
    }

    /// The same, and who computes.
    ///
    /// # Errors
    /// As [`Embedder::open`].
    pub fn open_for(files: &ModelFiles, compute: Compute) -> Result<Self> {
        let FileKind::Folder(folder) = &files.kind else {
            return Err(Error::model("a GGUF file cannot embed")
                .in_file(files.kind.path())
                .help(format!("take {DEFAULT_EMBEDDER}, or a folder with a BERT's safetensors")));
        };
        let config: Config = json(&folder.join("config.json"))?;
        check(&config).map_err(|wrong| Error::model(wrong).in_file(&folder.join("config.json")))?;
        let net = weights(&folder.join("model.safetensors"), &config, compute)?;
        let (tokenizer, special) = tokenizer(&folder.join("tokenizer.json"), &config)?;
        let limits: Limits =
            optional(&folder.join("sentence_bert_config.json"))?.unwrap_or(Limits { max_seq_length: None });
        let most = config.max_position_embeddings;
        Ok(Self {
            name: files.name.clone(),
            net,
            tokenizer,
            max_tokens: limits.max_seq_length.map_or(most, |asked| asked.clamp(special + 1, most)),
            special,
            dim: config.hidden_size,
            pooling: pooling(&folder.join("1_Pooling/config.json"))?,
            cache: Mutex::new(Cache::new(CACHE_BYTES)),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Components of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tokens that it reads of a text; what follows them is not seen.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens - self.special
    }

    /// Where the tokens of a text begin, in bytes; all of them, however long it is.
    ///
    /// # Errors
    /// When it cannot be tokenized, which the tokenizer alone can explain.
    pub fn token_starts(&self, text: &str) -> Result<Vec<usize>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| failed("tokenize a text", &*e))?;
        Ok(encoding.get_offsets().iter().map(|(start, _)| *start).collect())
    }

    /// The unit vector of one text; kept, in case that it comes again.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed_one(&self, text: &str) -> Result<Arc<[f32]>> {
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(text);
        if let Some(vector) = known {
            return Ok(vector);
        }
        let vector: Arc<[f32]> = self.embed(&[text])?.concat().into();
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(text, &vector);
        Ok(vector)
    }

    /// Unit vectors of texts, in their order.
    ///
    /// # Errors
    /// When a text cannot be tokenized, or the model's weights make no numbers of it.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let encodings =
            self.tokenizer.encode_batch_fast(texts.to_vec(), true).map_err(|e| failed("tokenize a text", &*e))?;
        let ids: Vec<Cow<'_, [u32]>> = encodings.iter().map(|encoding| self.cut(encoding.get_ids())).collect();
        let ids: Vec<&[u32]> = ids.iter().map(|ids| &**ids).collect();
        let batches = batch::pack(&ids);
        let mut vectors = vec![Vec::new(); texts.len()];
        for (text, vector) in self.side_by_side(&batches, &ids)? {
            vectors[text] = normalized(vector, &self.name)?;
        }
        Ok(vectors)
    }

    /// Runs batches on as many threads as compute, each its own: candle divides matrix products among threads, but not what is
    /// done to every number, which takes as long. A batch alone, such as a question, has its products shared.
    fn side_by_side(&self, batches: &[Vec<usize>], ids: &[&[u32]]) -> Result<Vec<(usize, Vec<f32>)>> {
        let next = AtomicUsize::new(0);
        let all = candle_core::utils::get_num_threads();
        let sharing = if batches.len() == 1 { all } else { 1 };
        let work = || -> Result<Vec<(usize, Vec<f32>)>> {
            let mut made = Vec::new();
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                let vectors = self.forward(batch, ids, sharing).map_err(|e| failed("embed a text", &e))?;
                made.extend(batch.iter().copied().zip(vectors));
            }
            Ok(made)
        };
        let threads = all.min(batches.len());
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut made = work()?;
            for other in others {
                let joined = other.join().map_err(|_| Error::runtime("cannot embed a text: a thread ended"))?;
                made.extend(joined?);
            }
            Ok(made)
        })
    }

    /// What the model reads of a text's tokens: of one that is too long its beginning, with what ends every text.
    fn cut<'a>(&self, ids: &'a [u32]) -> Cow<'a, [u32]> {
        if ids.len() <= self.max_tokens {
            return ids.into();
        }
        let end = &ids[ids.len() - (self.special - 1)..];
        [&ids[..self.max_tokens - end.len()], end].concat().into()
    }

    /// Vectors (texts, dim) of the texts `batch` of `ids`, of no particular length.
    fn forward(&self, batch: &[usize], ids: &[&[u32]], threads: usize) -> candle_core::Result<Vec<Vec<f32>>> {
        match &self.net {
            Net::Ours(encoder) => Ok(self.pooled(encoder, batch, ids, threads)),
            Net::Candle(bert) => self.forward_candle(bert, batch, ids),
        }
    }

    fn pooled(&self, encoder: &Encoder, batch: &[usize], ids: &[&[u32]], threads: usize) -> Vec<Vec<f32>> {
        let texts: Vec<&[u32]> = batch.iter().map(|text| ids[*text]).collect();
        let mut states = &encoder.forward(&texts, threads)[..];
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let (own, others) = states.split_at(text.len() * self.dim); // (tokens, dim)
            states = others;
            let rows = match self.pooling {
                Pooling::First => &own[..self.dim],
                Pooling::Mean => own,
            };
            let mut sum = vec![0.0; self.dim]; // its length does not matter
            for row in rows.chunks_exact(self.dim) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            vectors.push(sum);
        }
        vectors
    }

    fn forward_candle(&self, bert: &BertModel, batch: &[usize], ids: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let longest = batch.iter().map(|text| ids[*text].len()).max().unwrap_or(0);
        let padded = batch.iter().any(|text| ids[*text].len() != longest);
        let mut tokens = Vec::with_capacity(batch.len() * longest); // (texts, longest)
        let mut mask = Vec::with_capacity(batch.len() * longest); // 1 where there is a token
        for text in batch {
            let own = ids[*text];
            tokens.extend_from_slice(own);
            tokens.resize(tokens.len() + longest - own.len(), 0);
            mask.resize(mask.len() + own.len(), 1f32);
            mask.resize(mask.len() + longest - own.len(), 0f32);
        }
        let shape = (batch.len(), longest);
        let tokens = Tensor::from_vec(tokens, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let hidden = bert.forward(&tokens, &tokens.zeros_like()?, padded.then_some(&mask))?; // (texts, longest, dim)
        let pooled = match self.pooling {
            Pooling::First => hidden.narrow(1, 0, 1)?.squeeze(1)?,
            Pooling::Mean => mask.unsqueeze(1)?.matmul(&hidden)?.squeeze(1)?, // its length does not matter
        };
        pooled.to_vec2()
    }
}

/// Scales a vector to length 1.
fn normalized(mut vector: Vec<f32>, model: &str) -> Result<Vec<f32>> {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return Err(Error::model(format!("{model} makes no vector of a text: its length is {norm}"))
            .help("its weights are damaged: fetch the model again"));
    }
    for x in &mut vector {
        *x = (f64::from(*x) / norm) as f32;
    }
    Ok(vector)
}

/// The sizes that the program relies on; damage in others makes tensors that do not fit.
fn check(config: &Config) -> Result<(), String> {
    let Config { hidden_size, num_attention_heads, max_position_embeddings, .. } = *config;
    if num_attention_heads == 0 || hidden_size == 0 || !hidden_size.is_multiple_of(num_attention_heads) {
        return Err(format!("hidden_size {hidden_size} does not divide into {num_attention_heads} attention heads"));
    }
    if !(8..=65536).contains(&max_position_embeddings) {
        return Err(format!("max_position_embeddings is {max_position_embeddings}; 8 to 65536 is possible"));
    }
    Ok(())
}

fn weights(path: &Path, config: &Config, compute: Compute) -> Result<Net> {
    let damaged = |e: candle_core::Error| {
        Error::model(format!("the embedder's weights cannot be used: {e}"))
            .in_file(path)
            .help("the file is damaged, or of another model than its config.json: download it again")
            .caused_by(e)
    };
    let map = Mapping::open(path)?;
    let tensors = candle_core::safetensors::load_buffer(&map, &Device::Cpu).map_err(damaged)?;
    let precision = match compute {
        Compute::Single => Some(Precision::Single),
        Compute::Int8 => Some(Precision::Int8),
        Compute::Reference => None,
    };
    if let Some(precision) = precision.filter(|_| encoder::takes(config)) {
        let encoder = Encoder::new(config, &tensors, precision).map_err(|e| e.in_file(path))?;
        return Ok(Net::Ours(Box::new(encoder)));
    }
    let variables = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    Ok(Net::Candle(Box::new(BertModel::load(variables, config).map_err(damaged)?)))
}

/// The tokenizer, and how many special tokens it puts around a text.
fn tokenizer(path: &Path, config: &Config) -> Result<(Tokenizer, usize)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read the embedder's tokenizer", path, e))?;
    let invalid =
        |wrong: String| Error::model(format!("the embedder's tokenizer cannot be used: {wrong}")).in_file(path);
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| invalid(e.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| invalid(e.to_string()))?;
    let size = tokenizer.get_vocab_size(true);
    if size > config.vocab_size {
        return Err(invalid(format!("it has {size} tokens, and the model {}", config.vocab_size)));
    }
    let special = tokenizer.encode_fast("", true).map_err(|e| invalid(e.to_string()))?.len();
    if special == 0 {
        return Err(invalid("it puts no token around a text, as BERT's do".to_owned()));
    }
    Ok((tokenizer, special))
}

fn pooling(path: &Path) -> Result<Pooling> {
    let Some(file) = optional::<PoolingFile>(path)? else { return Ok(Pooling::Mean) };
    let others = file.pooling_mode_max_tokens || file.pooling_mode_mean_sqrt_len_tokens;
    match (file.pooling_mode_mean_tokens, file.pooling_mode_cls_token) {
        (true, false) if !others => Ok(Pooling::Mean),
        (false, true) if !others => Ok(Pooling::First),
        _ => Err(Error::model("the embedder pools in a way that taper does not know")
            .in_file(path)
            .help("taper knows pooling_mode_mean_tokens and pooling_mode_cls_token, one of them and nothing else")),
    }
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    optional(path)?.ok_or_else(|| {
        Error::model("the embedder's folder has no such file")
            .in_file(path)
            .help("an embedder's folder has config.json, tokenizer.json and model.safetensors")
    })
}

fn optional<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read the embedder's configuration", path, e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::model(format!("not a BERT embedder's configuration: {e}")).in_file(path).caused_by(e))
}

fn failed(doing: &str, e: &(dyn std::error::Error + 'static)) -> Error {
    Error::runtime(format!("cannot {doing}: {e}"))
}
