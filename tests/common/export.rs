//! Writes a model's tensors as a Hugging Face safetensors folder, in f16 what is and in f32 all else, as the model was before
//! llama.cpp's converter took it: attention rows of each head in halves instead of pairs.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use taper::format::DType;
use taper::format::weights::Weights;
use taper::model::config::Config;
use taper::model::rope::Scaling;

/// Hugging Face's name for one of GGUF's.
fn hugging_face_name(gguf: &str) -> String {
    let Some((layer, part)) = gguf.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return match gguf {
            "token_embd.weight" => "model.embed_tokens.weight",
            "output_norm.weight" => "model.norm.weight",
            "output.weight" => "lm_head.weight",
            other => panic!("no Hugging Face name for {other}"),
        }
        .to_owned();
    };
    let (part, ending) = part.split_once('.').unwrap();
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("no Hugging Face name for {other}"),
    };
    format!("model.layers.{layer}.{part}.{ending}")
}

/// Undoes the converter's permutation: pair i of a head, rows 2i and 2i + 1, goes to rows i and i + `head_dim` / 2.
fn pairs_to_halves(values: &[f32], columns: usize, head_dim: usize) -> Vec<f32> {
    let mut out = vec![0f32; values.len()];
    for (row, source) in values.chunks_exact(columns).enumerate() {
        let (head, r) = (row / head_dim, row % head_dim);
        let target = head * head_dim + r / 2 + (r % 2) * head_dim / 2;
        out[target * columns..][..columns].copy_from_slice(source);
    }
    out
}

/// Writes `config.json` and `model.safetensors` into `folder`.
pub fn safetensors_folder(weights: &Weights, config: &Config, folder: &Path) {
    let mut tensors = BTreeMap::new();
    for name in weights.names() {
        let shape = weights.info(name).unwrap().shape.clone();
        let mut values = weights.f32(name, &shape).unwrap();
        if name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight") {
            values = pairs_to_halves(&values, shape[1], config.head_dim);
        }
        let (dtype, bytes): (Dtype, Vec<u8>) = if weights.info(name).unwrap().dtype == DType::F16 {
            (Dtype::F16, values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect())
        } else {
            (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        };
        tensors.insert(hugging_face_name(name), (dtype, shape, bytes));
    }
    let view = |dtype: &Dtype, shape: &Vec<usize>, bytes| TensorView::new(*dtype, shape.clone(), bytes).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| (name, view(dtype, shape, bytes)));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), config_json(config, !weights.contains("output.weight"))).unwrap();
}

fn config_json(config: &Config, tied: bool) -> String {
    assert_eq!(config.rope.scaling, Scaling::None);
    serde_json::json!({
        "model_type": "llama",
        "hidden_act": "silu",
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "intermediate_size": config.ffn,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope.base,
        "tie_word_embeddings": tied,
    })
    .to_string()
}
