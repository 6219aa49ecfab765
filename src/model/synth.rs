//! `synth:SHAPE[:TYPE]`: a model of a known shape with random weights. Right for speed and memory, meaningless for text.
//!
//! It is what lets a speed be measured before a download. Nothing is stored: a tensor's blocks are made when a backend asks
//! for them, so what does not fit in memory is refused before anything is made. The vocabulary is synthetic too: SentencePiece
//! with the 256 bytes, then one invented word an id.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::config::Config;
use super::open::OpenModel;
use super::tensors::{self, EMBEDDING, Extras, OUTPUT};
use crate::error::{Error, Result};
use crate::format::gguf::Gguf;
use crate::format::mapping::Mapping;
use crate::format::weights::Weights;
use crate::format::{DType, TensorInfo, random};
use crate::text::Tokenizer;

const PREFIX: &str = "synth:";
/// Of all random weights.
const SEED: u64 = 0;
/// Long enough for the depths that people measure at, whatever the model of this shape was trained on.
const CONTEXT: u32 = 8192;
/// Columns that the K types need a multiple of.
const K_BLOCK: usize = 256;

/// The sizes of a released model.
#[derive(Debug, PartialEq)]
struct Shape {
    names: &'static [&'static str],
    layers: u32,
    hidden: u32,
    ffn: u32,
    heads: u32,
    kv_heads: u32,
    vocab: usize,
    rope_base: f32,
    tied: bool,
}

#[rustfmt::skip]
const SHAPES: [Shape; 8] = [
    Shape { names: &["tinyllama-1.1b"], layers: 22, hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, vocab: 32000, rope_base: 1e4, tied: false },
    Shape { names: &["llama-3.2-1b"], layers: 16, hidden: 2048, ffn: 8192, heads: 32, kv_heads: 8, vocab: 128_256, rope_base: 5e5, tied: true },
    Shape { names: &["llama-3.2-3b"], layers: 28, hidden: 3072, ffn: 8192, heads: 24, kv_heads: 8, vocab: 128_256, rope_base: 5e5, tied: true },
    Shape { names: &["llama-3.1-8b"], layers: 32, hidden: 4096, ffn: 14336, heads: 32, kv_heads: 8, vocab: 128_256, rope_base: 5e5, tied: false },
    Shape { names: &["llama-2-7b", "7b"], layers: 32, hidden: 4096, ffn: 11008, heads: 32, kv_heads: 32, vocab: 32000, rope_base: 1e4, tied: false },
    Shape { names: &["llama-2-13b", "13b"], layers: 40, hidden: 5120, ffn: 13824, heads: 40, kv_heads: 40, vocab: 32000, rope_base: 1e4, tied: false },
    Shape { names: &["llama-2-70b", "70b"], layers: 80, hidden: 8192, ffn: 28672, heads: 64, kv_heads: 8, vocab: 32000, rope_base: 1e4, tied: false },
    Shape { names: &["smollm2-135m"], layers: 30, hidden: 576, ffn: 1536, heads: 9, kv_heads: 3, vocab: 49152, rope_base: 1e5, tied: true },
];

/// How the matrices are stored: all alike, or llama.cpp's mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    All(DType),
    Q4KM,
}

const KINDS: [(&str, Kind); 5] = [
    ("q4_0", Kind::All(DType::Q4_0)),
    ("q4_1", Kind::All(DType::Q4_1)),
    ("q8_0", Kind::All(DType::Q8_0)),
    ("q4_k_m", Kind::Q4KM),
    ("f16", Kind::All(DType::F16)),
];

/// A model to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Synth {
    shape: &'static Shape,
    kind: Kind,
    kind_name: &'static str,
}

impl Synth {
    /// What `spec` asks for; `None` when it does not begin with `synth:`.
    ///
    /// # Errors
    /// A shape or type that is not known.
    pub fn named(spec: &str) -> Result<Option<Self>> {
        let Some(rest) = spec.strip_prefix(PREFIX) else { return Ok(None) };
        let (shape, kind) = rest.split_once(':').unwrap_or((rest, KINDS[0].0));
        let unknown = |what: &str, name: &str, known: Vec<&str>| {
            Error::model(format!("`{name}` is no {what} of a synthetic model"))
                .at(spec)
                .help(format!("{what}s: {}; for example synth:tinyllama-1.1b:q4_0", known.join(", ")))
        };
        let Some(shape) = SHAPES.iter().find(|s| s.names.contains(&shape)) else {
            return Err(unknown("shape", shape, SHAPES.iter().map(|s| s.names[0]).collect()));
        };
        let Some(&(kind_name, kind)) = KINDS.iter().find(|(name, _)| *name == kind) else {
            return Err(unknown("type", kind, KINDS.iter().map(|(name, _)| *name).collect()));
        };
        Ok(Some(Self { shape, kind, kind_name }))
    }

    /// Its name, written out. With the seed, 0, it names the weights: no two models share it.
    pub fn name(&self) -> String {
        format!("{PREFIX}{}:{}", self.shape.names[0], self.kind_name)
    }

    /// The model, its weights still to be made.
    ///
    /// # Errors
    /// None that a user can bring about.
    pub fn open(&self) -> Result<OpenModel> {
        let name = self.name();
        let header = Mapping::from_bytes(self.header(), &name);
        let gguf = Gguf::parse(&header).map_err(|e| Error::runtime(e.to_string()).at(&name).caused_by(e))?;
        let config = Config::from_gguf(&gguf.metadata)?;
        let extras = Extras { tied: self.shape.tied, qkv_bias: false, rope_factors: false };
        let tensors = (0..).zip(tensors::shapes(&config, extras));
        let made =
            tensors.map(|(number, (tensor, shape))| self.tensor(number, tensor, shape)).collect::<Result<Vec<_>>>()?;
        Ok(OpenModel {
            weights: Weights::made(&name, made),
            tokenizer: Arc::new(Tokenizer::from_gguf(&gguf.metadata, None)?),
            template: None,
            path: PathBuf::from(&name),
            config,
            name,
        })
    }

    /// A tensor's entry and its bytes, which are made when they are read.
    fn tensor(&self, number: u64, name: String, shape: Vec<usize>) -> Result<(TensorInfo, Mapping)> {
        let dtype = self.dtype(&name, &shape);
        let elements = shape.iter().product();
        let Some(bytes) = dtype.bytes_of(elements) else {
            return Err(Error::runtime(format!("{elements} numbers do not fill blocks of {dtype}")).at(name));
        };
        let make = move || random::tensor(SEED, number, dtype, elements).unwrap_or_default();
        let mapping = Mapping::made(&self.name(), bytes, make);
        Ok((TensorInfo { name, dtype, shape, bytes: Range { start: 0, end: bytes } }, mapping))
    }

    fn dtype(&self, name: &str, shape: &[usize]) -> DType {
        let [_, columns] = shape else { return DType::F32 }; // norms
        match self.kind {
            Kind::All(dtype) => dtype,
            Kind::Q4KM => {
                let dtype = self.q4_k_m(name);
                if columns.is_multiple_of(K_BLOCK) { dtype } else { without_k(dtype) }
            }
        }
    }

    /// The mix that llama.cpp's quantizer makes for `Q4_K_M`.
    fn q4_k_m(&self, name: &str) -> DType {
        let head = if self.shape.tied { EMBEDDING } else { OUTPUT };
        let layer = name.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let more = use_more_bits(layer, self.shape.layers);
        if name == head || more && (name.ends_with("attn_v.weight") || name.ends_with("ffn_down.weight")) {
            DType::Q6K
        } else if name.ends_with("attn_v.weight") && self.shape.layers == 80 {
            DType::Q5K // eight heads share a value head of the 70B model, which can afford more for it
        } else {
            DType::Q4K
        }
    }

    /// A GGUF file's header with the metadata of this model and no tensors.
    fn header(&self) -> Vec<u8> {
        let s = self.shape;
        let words = (0..s.vocab).map(|id| match id {
            0 => "<unk>".to_owned(),
            1 => "<s>".to_owned(),
            2 => "</s>".to_owned(),
            3..259 => format!("<0x{:02X}>", id - 3),
            _ => format!("\u{2581}t{}", id - 259),
        });
        // Unknown, control, byte, normal: the numbers of ggml's token types.
        let types = (0..s.vocab).map(|id| match id {
            0 => 2i32,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        });
        let mut header = Header::default();
        header.text("general.architecture", "llama");
        header.number("llama.block_count", s.layers);
        header.number("llama.context_length", CONTEXT);
        header.number("llama.embedding_length", s.hidden);
        header.number("llama.feed_forward_length", s.ffn);
        header.number("llama.attention.head_count", s.heads);
        header.number("llama.attention.head_count_kv", s.kv_heads);
        header.entry("llama.attention.layer_norm_rms_epsilon", FLOAT, &1e-5f32.to_le_bytes());
        header.entry("llama.rope.freq_base", FLOAT, &s.rope_base.to_le_bytes());
        header.number("llama.vocab_size", s.vocab as u32);
        header.text("tokenizer.ggml.model", "llama");
        header.array("tokenizer.ggml.tokens", TEXT, s.vocab, words.flat_map(|w| text(&w)).collect());
        header.array(
            "tokenizer.ggml.scores",
            FLOAT,
            s.vocab,
            (0..s.vocab).flat_map(|i| (-(i as f32)).to_le_bytes()).collect(),
        );
        header.array("tokenizer.ggml.token_type", INT, s.vocab, types.flat_map(i32::to_le_bytes).collect());
        header.number("tokenizer.ggml.bos_token_id", 1);
        header.number("tokenizer.ggml.eos_token_id", 2);
        header.finish()
    }
}

/// Which layers of `Q4_K_M` get `Q6_K` values and down projections: the first and last eighth, and each third between. The
/// rule of llama.cpp's function of this name.
fn use_more_bits(layer: u32, layers: u32) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// What llama.cpp takes instead of a K type where rows do not fill its blocks.
fn without_k(dtype: DType) -> DType {
    match dtype {
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        _ => DType::Q8_0,
    }
}

// GGUF's numbers for value types.
const UINT: u32 = 4;
const INT: u32 = 5;
const FLOAT: u32 = 6;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The metadata of a GGUF file in the making.
#[derive(Default)]
struct Header {
    entries: u64,
    bytes: Vec<u8>,
}

impl Header {
    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.entries += 1;
        self.bytes.extend(text(key));
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.entry(key, UINT, &value.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.entry(key, TEXT, &text(value));
    }

    fn array(&mut self, key: &str, kind: u32, count: usize, items: Vec<u8>) {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend((count as u64).to_le_bytes());
        value.extend(items);
        self.entry(key, ARRAY, &value);
    }

    fn finish(self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(0u64.to_le_bytes()); // tensors
        file.extend(self.entries.to_le_bytes());
        file.extend(self.bytes);
        file
    }
}

/// A text with its length before it.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(spec: &str) -> OpenModel {
        Synth::named(spec).unwrap().unwrap().open().unwrap()
    }

    #[test]
    fn every_shape_and_type_is_a_whole_llama() {
        for shape in SHAPES.iter().flat_map(|s| s.names) {
            let model = open(&format!("synth:{shape}"));
            tensors::check(&model.config, &model.weights).unwrap();
            assert_eq!(model.tokenizer.vocab_len(), model.config.vocab, "{shape}");
        }
        for (kind, _) in KINDS {
            let model = open(&format!("synth:smollm2-135m:{kind}"));
            let shape = [model.config.hidden, model.config.ffn];
            assert_eq!(model.weights.f32("blk.29.ffn_down.weight", &shape).unwrap().len(), shape[0] * shape[1]);
            let raw = model.weights.raw("blk.29.ffn_down.weight").unwrap();
            assert_eq!(raw.len(), model.weights.info("blk.29.ffn_down.weight").unwrap().bytes.len(), "{kind}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_released_models() {
        let sizes = |spec: &str| {
            let model = open(spec);
            let tensors = model.tensors().unwrap();
            let parameters: usize = tensors.iter().map(|t| t.elements()).sum();
            (parameters, tensors.iter().map(|t| t.bytes.len()).sum::<usize>())
        };
        assert_eq!(sizes("synth:tinyllama-1.1b").0, 1_100_048_384);
        assert_eq!(sizes("synth:llama-3.1-8b").0, 8_030_261_248);
        assert_eq!(sizes("synth:7b").0, 6_738_415_616);
        assert_eq!(sizes("synth:13b").0, 13_015_864_320);
        assert_eq!(sizes("synth:70b").0, 68_976_648_192);
        assert_eq!(sizes("synth:smollm2-135m").0, 134_515_008);
        assert_eq!(sizes("synth:llama-3.2-1b").0, 1_235_814_400);
        // As large as the files of these names on the hub, less their headers: 4.08 GB and 4.92 GB.
        assert!((4.07e9..4.09e9).contains(&(sizes("synth:7b:q4_k_m").1 as f64)));
        assert!((4.90e9..4.93e9).contains(&(sizes("synth:llama-3.1-8b:q4_k_m").1 as f64)));
    }

    #[test]
    fn half_of_the_layers_get_more_bits() {
        let more: Vec<u32> = (0..32).filter(|l| use_more_bits(*l, 32)).collect();
        assert_eq!(more, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
    }

    #[test]
    fn names_are_told_and_slips_are_answered_with_what_there_is() {
        assert_eq!(Synth::named("smollm2-135m").unwrap(), None);
        assert_eq!(Synth::named("synth:70b").unwrap().unwrap().name(), "synth:llama-2-70b:q4_0");
        let error = Synth::named("synth:llama-9").unwrap_err().to_string();
        assert!(error.contains("`llama-9` is no shape") && error.contains("llama-3.1-8b"), "{error}");
        let error = Synth::named("synth:7b:q3").unwrap_err().to_string();
        assert!(error.contains("`q3` is no type") && error.contains("q4_k_m"), "{error}");
    }
}
