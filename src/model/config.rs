//! A model's sizes, from GGUF metadata or from a Hugging Face `config.json`, checked before anything is built on them.

use std::path::Path;

use serde::Deserialize;

use super::rope::{Rope, Scaling};
use crate::error::{Error, Result};
use crate::format::gguf::Metadata;

/// Sizes above this are refused: no Llama has them, and products of sizes below it cannot wrap.
const MAX_SIZE: usize = 1 << 24;
/// The longest context that is believed; 16 times Llama 3.1's.
const MAX_CONTEXT: usize = 1 << 21;

/// The sizes of a Llama-family model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub ffn: usize,
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple (grouped-query attention).
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// Tokens the model was trained to see at once.
    pub context: usize,
    pub rms_eps: f32,
    pub rope: Rope,
    /// A token sees this many positions, itself included; `None` sees all (Mistral 7B v0.1 has 4096).
    pub window: Option<usize>,
}

impl Config {
    /// Numbers in a key (or value) row: (`kv_heads`, `head_dim`).
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers in a query row: (`heads`, `head_dim`). Not always `hidden`.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Reads the `llama.*` metadata of a GGUF file.
    ///
    /// # Errors
    /// Another architecture, a missing key, or sizes that no model can have.
    pub fn from_gguf(meta: &Metadata) -> Result<Self> {
        let arch = meta.str("general.architecture")?.unwrap_or("(none)");
        if arch != "llama" {
            return Err(unsupported_architecture(arch).in_file(meta.path()));
        }
        let size = |key: &str| -> Result<Option<usize>> { Ok(meta.u32(&format!("llama.{key}"))?.map(|n| n as usize)) };
        let need = |key: &str| -> Result<usize> {
            size(key)?.ok_or_else(|| Error::model(format!("metadata `llama.{key}` is missing")).in_file(meta.path()))
        };
        if size("expert_count")?.is_some_and(|n| n > 0) {
            return Err(unsupported_architecture("llama with experts (Mixtral)").in_file(meta.path()));
        }
        let heads = need("attention.head_count")?;
        let hidden = need("embedding_length")?;
        let head_dim = size("attention.key_length")?.unwrap_or(hidden / heads.max(1));
        let vocab = match size("vocab_size")? {
            Some(n) => n,
            None => meta.strings("tokenizer.ggml.tokens")?.map_or(0, |t| t.len()),
        };
        for (key, must_be) in [("attention.value_length", head_dim), ("rope.dimension_count", head_dim)] {
            if let Some(n) = size(key)?.filter(|n| *n != must_be) {
                return Err(Error::model(format!(
                    "llama.{key} is {n}, head size is {must_be}: taper needs them equal"
                ))
                .in_file(meta.path()));
            }
        }
        let scaling = gguf_scaling(meta)?;
        let config = Self {
            layers: need("block_count")?,
            hidden,
            ffn: need("feed_forward_length")?,
            heads,
            kv_heads: size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            vocab,
            context: need("context_length")?,
            rms_eps: meta.f32("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope: Rope { base: meta.f32("llama.rope.freq_base")?.unwrap_or(10_000.0), scaling },
            window: size("attention.sliding_window")?.filter(|n| *n > 0),
        };
        config.check().map_err(|e| e.in_file(meta.path()))?;
        Ok(config)
    }

    /// Reads a Hugging Face `config.json` of `model_type` llama or mistral.
    ///
    /// # Errors
    /// The file is absent or not of that form, another architecture, or sizes that no model can have.
    pub fn from_json(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::model(format!("cannot read the model's configuration: {e}")).in_file(path))?;
        Self::parse_json(&text).map_err(|e| e.in_file(path))
    }

    fn parse_json(text: &str) -> Result<Self> {
        let unreadable = |e: serde_json::Error| Error::model(format!("the model's configuration cannot be read: {e}"));
        // First of all: another architecture's file has other fields, and a missing one is not what is wrong with it.
        let named: JsonArchitecture = serde_json::from_str(text).map_err(unreadable)?;
        let Some(default_context) = named.default_context() else {
            return Err(unsupported_architecture(named.name()));
        };
        let json: JsonConfig = serde_json::from_str(text).map_err(unreadable)?;
        if json.mlp_bias {
            return Err(Error::model("mlp_bias is not supported: no released Llama has it"));
        }
        if json.hidden_act != "silu" {
            return Err(Error::model(format!("hidden_act `{}` is not supported (supported: silu)", json.hidden_act)));
        }
        if json.partial_rotary_factor.is_some_and(|part| part != 1.0) {
            return Err(Error::model("partial_rotary_factor is not supported: Llamas turn whole heads"));
        }
        if json.quantization_config.is_some() {
            return Err(Error::model(
                "quantization_config is not supported: the folder's weights are already quantized",
            )
            .help("take the model as GGUF, or its original in f16 or bf16"));
        }
        let heads = json.num_attention_heads;
        let (base, scaling) = json.rope()?;
        let config = Self {
            layers: json.num_hidden_layers,
            hidden: json.hidden_size,
            ffn: json.intermediate_size,
            heads,
            kv_heads: json.num_key_value_heads.unwrap_or(heads),
            head_dim: json.head_dim.unwrap_or(json.hidden_size / heads.max(1)),
            vocab: json.vocab_size,
            context: json.max_position_embeddings.unwrap_or(default_context),
            rms_eps: json.rms_norm_eps,
            rope: Rope { base, scaling },
            window: json.sliding_window.filter(|n| *n > 0 && named.name() == "mistral"),
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses what would make later arithmetic wrap, divide by zero or allocate without end.
    fn check(&self) -> Result<()> {
        let sizes = [
            ("layers", self.layers, 1 << 12),
            ("hidden size", self.hidden, MAX_SIZE),
            ("feed-forward size", self.ffn, MAX_SIZE),
            ("heads", self.heads, 1 << 16),
            ("key/value heads", self.kv_heads, 1 << 16),
            ("head size", self.head_dim, 1 << 12),
            ("vocabulary", self.vocab, MAX_SIZE),
            ("context length", self.context, MAX_CONTEXT),
        ];
        for (name, value, most) in sizes {
            if value == 0 || value > most {
                return Err(Error::model(format!("the model's {name} is {value}; 1 to {most} is possible"))
                    .help("the file is damaged or not a Llama"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::model(format!(
                "{} attention heads cannot share {} key/value heads: not a multiple",
                self.heads, self.kv_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::model(format!("head size {} is odd; rotary embedding needs pairs", self.head_dim)));
        }
        if !(self.rms_eps.is_finite() && self.rms_eps >= 0.0) {
            return Err(Error::model(format!("RMSNorm's epsilon is {}", self.rms_eps)));
        }
        self.rope.check(self.head_dim)
    }
}

fn unsupported_architecture(arch: &str) -> Error {
    Error::model(format!("the model's architecture is `{arch}`, which taper does not run"))
        .help("supported: llama (Llama 1 to 3.x, TinyLlama, SmolLM2, Mistral)")
}

/// RoPE scaling as GGUF files write it. `rope_freqs.weight` (Llama 3.1 and later) is a tensor, read with the others.
fn gguf_scaling(meta: &Metadata) -> Result<Scaling> {
    let factor = meta.f32("llama.rope.scaling.factor")?;
    match meta.str("llama.rope.scaling.type")? {
        None | Some("none") => match meta.f32("llama.rope.scale_linear")? {
            Some(factor) if factor != 1.0 => Ok(Scaling::Linear { factor }),
            _ => Ok(Scaling::None),
        },
        Some("linear") => Ok(Scaling::Linear { factor: factor.unwrap_or(1.0) }),
        Some(other) => Err(unsupported_scaling(other).in_file(meta.path())),
    }
}

fn unsupported_scaling(name: &str) -> Error {
    Error::model(format!("RoPE scaling `{name}` is not supported (supported: linear, llama3)"))
}

/// What a `config.json` says it is. Some have only the list of classes that can load them.
#[derive(Deserialize)]
struct JsonArchitecture {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
}

impl JsonArchitecture {
    fn name(&self) -> &str {
        let class = self.architectures.iter().flatten().next().map(String::as_str);
        match (self.model_type.as_deref(), class) {
            (Some(name), _) => name,
            (None, Some("LlamaForCausalLM")) => "llama",
            (None, Some("MistralForCausalLM")) => "mistral",
            (None, class) => class.unwrap_or("(none)"),
        }
    }

    /// The context of a file that names none: transformers' defaults for `LlamaConfig` and `MistralConfig`. `None` for
    /// an architecture that taper does not run.
    fn default_context(&self) -> Option<usize> {
        match self.name() {
            "llama" => Some(2048),
            "mistral" => Some(32 * 4096),
            _ => None,
        }
    }
}

/// The fields of `config.json` that matter. Unknown ones are fine: the format has dozens for training alone.
#[derive(Deserialize)]
struct JsonConfig {
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<JsonScaling>,
    /// What transformers 5 writes instead of the two above.
    rope_parameters: Option<JsonScaling>,
    sliding_window: Option<usize>,
    #[serde(default)]
    mlp_bias: bool,
    partial_rotary_factor: Option<f32>,
    quantization_config: Option<serde::de::IgnoredAny>,
    #[serde(default = "default_act")]
    hidden_act: String,
}

fn default_eps() -> f32 {
    1e-6 // transformers' default for LlamaConfig
}

fn default_act() -> String {
    "silu".into()
}

#[derive(Deserialize, Clone)]
struct JsonScaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
}

impl JsonConfig {
    fn rope(&self) -> Result<(f32, Scaling)> {
        let given = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let base = given.and_then(|s| s.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        let Some(s) = given else { return Ok((base, Scaling::None)) };
        let need =
            |value: Option<f32>, name: &str| value.ok_or_else(|| Error::model(format!("rope_scaling lacks `{name}`")));
        let scaling = match s.rope_type.as_deref() {
            None if s.factor.is_some() => return Err(unsupported_scaling("(none named)")),
            None | Some("default") => Scaling::None,
            Some("linear") => Scaling::Linear { factor: need(s.factor, "factor")? },
            Some("llama3") => Scaling::Llama3 {
                factor: need(s.factor, "factor")?,
                low: need(s.low_freq_factor, "low_freq_factor")?,
                high: need(s.high_freq_factor, "high_freq_factor")?,
                original: need(
                    s.original_max_position_embeddings.map(|n| n as f32),
                    "original_max_position_embeddings",
                )?,
            },
            Some(other) => return Err(unsupported_scaling(other)),
        };
        Ok((base, scaling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"model_type":"llama","num_hidden_layers":2,"hidden_size":64,"intermediate_size":96,
        "num_attention_heads":4,"num_key_value_heads":2,"vocab_size":100,"max_position_embeddings":128
        ,"rms_norm_eps":1e-5 EXTRA}"#;

    fn parse(extra: &str) -> Result<Config> {
        Config::parse_json(&TINY.replace("EXTRA", extra))
    }

    #[test]
    fn reads_sizes_and_defaults() {
        let c = parse("").unwrap();
        assert_eq!((c.layers, c.head_dim, c.kv_dim(), c.q_dim()), (2, 16, 32, 64));
        assert_eq!(c.rope, Rope { base: 10_000.0, scaling: Scaling::None });
        assert_eq!(c.window, None);
    }

    #[test]
    fn reads_llama3_scaling_in_both_spellings() {
        let expected = Scaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192.0 };
        let fields = r#""factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
            "original_max_position_embeddings":8192"#;
        let old = parse(&format!(r#","rope_theta":5e5,"rope_scaling":{{"rope_type":"llama3",{fields}}}"#)).unwrap();
        let new = parse(&format!(r#","rope_parameters":{{"rope_theta":5e5,"rope_type":"llama3",{fields}}}"#)).unwrap();
        assert_eq!(old.rope, Rope { base: 5e5, scaling: expected });
        assert_eq!(old, new);
    }

    #[test]
    fn refuses_what_it_would_compute_wrongly() {
        let what = |extra: &str| parse(extra).unwrap_err().what().to_owned();
        assert_eq!(
            what(r#","rope_scaling":{"type":"yarn","factor":4.0}"#),
            "RoPE scaling `yarn` is not supported (supported: linear, llama3)"
        );
        assert_eq!(what(r#","hidden_act":"gelu""#), "hidden_act `gelu` is not supported (supported: silu)");
        assert_eq!(
            what(r#","rope_scaling":{"factor":2.0,"type":null}"#),
            "RoPE scaling `(none named)` is not supported (supported: linear, llama3)"
        );
        assert_eq!(
            what(r#","partial_rotary_factor":0.5"#),
            "partial_rotary_factor is not supported: Llamas turn whole heads"
        );
        assert_eq!(
            what(r#","quantization_config":{"bits":4}"#),
            "quantization_config is not supported: the folder's weights are already quantized"
        );
        assert_eq!(what(r#","mlp_bias":true"#), "mlp_bias is not supported: no released Llama has it");
        assert_eq!(what(r#","head_dim":15"#), "head size 15 is odd; rotary embedding needs pairs");
        assert_eq!(
            what(r#","rope_scaling":{"rope_type":"linear","factor":0.0}"#),
            "RoPE scaling by a factor of 0 is impossible"
        );
    }

    #[test]
    fn another_architecture_is_named_before_its_fields_are_missed() {
        let refused = |text: &str| Config::parse_json(text).unwrap_err().to_string();
        for text in [
            r#"{"model_type":"gemma3"}"#,
            r#"{"architectures":["gemma3"]}"#,
            r#"{"model_type":"gemma3","architectures":["LlamaForCausalLM"],"hidden_size":"many"}"#,
        ] {
            let error = refused(text);
            assert!(error.starts_with("the model's architecture is `gemma3`, which taper does not run"), "{error}");
            assert!(error.contains("supported: llama"), "{error}");
        }
        assert!(refused("{}").contains("architecture is `(none)`"));
        assert!(refused("[").contains("cannot be read"));
        assert!(refused(r#"{"architectures":["LlamaForCausalLM"]}"#).contains("missing field `num_hidden_layers`"));
    }

    #[test]
    fn a_context_that_is_not_said_is_transformers_default() {
        let text = TINY.replace(r#","max_position_embeddings":128"#, "").replace("EXTRA", "");
        assert_eq!(Config::parse_json(&text).unwrap().context, 2048);
        assert_eq!(Config::parse_json(&text.replace("\"llama\"", "\"mistral\"")).unwrap().context, 131_072);
    }

    #[test]
    fn refuses_impossible_heads() {
        for (heads, kv, message) in [
            ("0", "2", "the model's heads is 0; 1 to 65536 is possible"),
            ("4", "0", "the model's key/value heads is 0; 1 to 65536 is possible"),
            ("4", "8", "4 attention heads cannot share 8 key/value heads: not a multiple"),
        ] {
            let text = TINY
                .replace("\"num_attention_heads\":4", &format!("\"num_attention_heads\":{heads}"))
                .replace("\"num_key_value_heads\":2", &format!("\"num_key_value_heads\":{kv}"))
                .replace("EXTRA", r#","head_dim":16"#);
            assert_eq!(Config::parse_json(&text).unwrap_err().what(), message);
        }
    }

    #[test]
    fn keeps_a_sliding_window_of_mistral_only() {
        assert_eq!(parse(r#","sliding_window":32"#).unwrap().window, None);
        let mistral = TINY.replace("\"llama\"", "\"mistral\"").replace("EXTRA", r#","sliding_window":32"#);
        assert_eq!(Config::parse_json(&mistral).unwrap().window, Some(32));
        assert_eq!(Config::parse_json(&mistral.replace(":32}", ":0}")).unwrap().window, None);
    }
}
