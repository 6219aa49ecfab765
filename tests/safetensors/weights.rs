//! One model from either container: names, row order, numbers and their refusals.

use half::{bf16, f16};
use safetensors::tensor::Dtype;
use taper::format::DType;
use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::format::weights::{RowOrder, Weights};

use super::gguf_builder::{GgufBuilder, le_bytes};
use super::written;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 6;
const HIDDEN: usize = 3;

/// The weights of a folder with one file. The mapping outlives the folder's removal.
fn from_safetensors(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> taper::error::Result<Weights> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), written(tensors)).unwrap();
    Weights::from_safetensors(dir.path(), HEADS, KV_HEADS)
}

fn from_gguf(file: &GgufBuilder) -> Weights {
    Weights::from_gguf(&Gguf::parse(&Mapping::from_bytes(file.bytes(), "test.gguf")).unwrap())
}

#[test]
fn hugging_face_names_become_ggufs() {
    let names = [
        ("lm_head.weight", "output.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.layers.0.mlp.gate_proj.bias", "blk.0.ffn_gate.bias"),
        ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"),
        ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"),
        ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
        ("model.layers.11.self_attn.k_proj.weight", "blk.11.attn_k.weight"),
        ("model.layers.11.self_attn.o_proj.weight", "blk.11.attn_output.weight"),
        ("model.layers.11.self_attn.q_proj.bias", "blk.11.attn_q.bias"),
        ("model.layers.11.self_attn.q_proj.weight", "blk.11.attn_q.weight"),
        ("model.layers.11.self_attn.v_proj.weight", "blk.11.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
        // What is not known keeps its name, for the model to refuse.
        ("lm_head.scales", "lm_head.scales"),
        ("model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
        ("model.layers.x.mlp.up_proj.weight", "model.layers.x.mlp.up_proj.weight"),
        ("score", "score"),
    ];
    let tensors: Vec<_> = names.iter().map(|(hf, _)| (*hf, Dtype::F32, &[8][..], vec![0; 32])).collect();
    let weights = from_safetensors(&tensors).unwrap();
    for (hf, gguf) in names {
        assert!(weights.contains(gguf), "{hf} should be {gguf}; there are {:?}", weights.names().collect::<Vec<_>>());
        assert_eq!(weights.info(gguf).unwrap().name, gguf);
    }
    assert_eq!(weights.names().count(), names.len());
}

#[test]
fn computed_buffers_are_dropped() {
    let tensors = [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, &[2][..], vec![0; 8]),
        ("model.norm.weight", Dtype::F32, &[1], vec![0; 4]),
    ];
    let weights = from_safetensors(&tensors).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["output_norm.weight"]);
    assert_eq!(weights.source_bytes(), 4);
}

/// Numbers that tell where they are stored: row in the hundreds, column in the ones.
fn numbered(rows: usize) -> Vec<f32> {
    (0..rows).flat_map(|r| (0..HIDDEN).map(move |c| (100 * r + c) as f32)).collect()
}

/// Two rows of a head that the rotary embedding turns together lie `HEAD_DIM / 2` apart in safetensors.
#[test]
fn query_and_key_rows_become_pairs() {
    let (q, k) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let weights = from_safetensors(&[
        ("model.layers.0.self_attn.q_proj.weight", Dtype::F32, &[q, HIDDEN], le_bytes(&numbered(q))),
        ("model.layers.0.self_attn.k_proj.weight", Dtype::F32, &[k, HIDDEN], le_bytes(&numbered(k))),
        ("model.layers.0.self_attn.v_proj.weight", Dtype::F32, &[k, HIDDEN], le_bytes(&numbered(k))),
        ("model.layers.0.self_attn.q_proj.bias", Dtype::F32, &[q], le_bytes(&numbered(q)[..q])),
    ])
    .unwrap();
    // The stored row of each row of one head.
    let within = [0, 3, 1, 4, 2, 5];
    for (name, rows) in [("blk.0.attn_q.weight", q), ("blk.0.attn_k.weight", k)] {
        let expected: Vec<f32> = (0..rows)
            .map(|r| r / HEAD_DIM * HEAD_DIM + within[r % HEAD_DIM])
            .flat_map(|r| numbered(rows)[r * HIDDEN..(r + 1) * HIDDEN].to_vec())
            .collect();
        assert_eq!(weights.f32(name, &[rows, HIDDEN]).unwrap(), expected, "{name}");
        assert_eq!(weights.row_order(name).unwrap(), RowOrder::HalvesToPairs { head_dim: HEAD_DIM });
        assert_eq!(weights.raw(name).unwrap(), le_bytes(&numbered(rows)), "raw bytes are as stored");
    }
    let bias: Vec<f32> = (0..q).map(|r| numbered(q)[r / HEAD_DIM * HEAD_DIM + within[r % HEAD_DIM]]).collect();
    assert_eq!(weights.f32("blk.0.attn_q.bias", &[q]).unwrap(), bias);
    assert_eq!(weights.f32("blk.0.attn_v.weight", &[k, HIDDEN]).unwrap(), numbered(k));
    assert_eq!(weights.row_order("blk.0.attn_v.weight").unwrap(), RowOrder::AsStored);
}

#[test]
fn both_containers_give_the_same_numbers() {
    let rows = HEADS * HEAD_DIM;
    // What a converter does for GGUF, in its own words: (head, half, j) becomes (head, j, half).
    let mut pairs = vec![0.0; rows * HIDDEN];
    for head in 0..HEADS {
        for half in 0..2 {
            for j in 0..HEAD_DIM / 2 {
                let (from, to) = (head * HEAD_DIM + half * HEAD_DIM / 2 + j, head * HEAD_DIM + 2 * j + half);
                pairs[to * HIDDEN..][..HIDDEN].copy_from_slice(&numbered(rows)[from * HIDDEN..][..HIDDEN]);
            }
        }
    }
    let name = "blk.3.attn_q.weight";
    let ours = from_gguf(&GgufBuilder::new().tensor_f32(name, &[rows, HIDDEN], &pairs));
    let stored: Vec<u8> = numbered(rows).iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let theirs = "model.layers.3.self_attn.q_proj.weight";
    let theirs = from_safetensors(&[(theirs, Dtype::BF16, &[rows, HIDDEN], stored)]).unwrap();
    let rounded: Vec<f32> =
        ours.f32(name, &[rows, HIDDEN]).unwrap().into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
    assert_eq!(theirs.f32(name, &[rows, HIDDEN]).unwrap(), rounded);
}

#[test]
fn rows_that_are_not_heads() {
    for rows in [HEADS * HEAD_DIM + 1, HEADS * 3] {
        let name = "model.layers.0.self_attn.q_proj.weight";
        let error = from_safetensors(&[(name, Dtype::F32, &[rows, 1], vec![0; rows * 4])]).unwrap_err();
        assert_eq!(error.what(), format!("tensor `{name}` has {rows} rows, which are not 4 even heads"));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = written(&[("model.layers.0.self_attn.k_proj.weight", Dtype::F32, &[8], vec![0; 32])]);
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    assert!(Weights::from_safetensors(dir.path(), 8, 0).unwrap_err().what().ends_with("which are not 0 even heads"));
}

#[test]
fn two_names_for_one_tensor() {
    let tensors =
        [("lm_head.weight", Dtype::F32, &[1][..], vec![0; 4]), ("output.weight", Dtype::F32, &[1], vec![0; 4])];
    assert!(from_safetensors(&tensors).unwrap_err().what().ends_with("is there twice"));
}

#[test]
fn gguf_tensors_keep_names_and_rows() {
    let file = GgufBuilder::new().tensor_f32("blk.0.attn_q.weight", &[8, 2], &numbered(8)[..16]).tensor_raw(
        "token_embd.weight",
        DType::Q8_0,
        &[2, 32],
        &[0; 68],
    );
    let weights = from_gguf(&file);
    assert_eq!(weights.names().collect::<Vec<_>>(), ["blk.0.attn_q.weight", "token_embd.weight"]);
    assert_eq!(weights.f32("blk.0.attn_q.weight", &[8, 2]).unwrap(), numbered(8)[..16]);
    assert_eq!(weights.row_order("blk.0.attn_q.weight").unwrap(), RowOrder::AsStored);
    assert_eq!(weights.f32("token_embd.weight", &[2, 32]).unwrap(), [0.0; 64]);
    assert_eq!(weights.source_bytes(), 64 + 68);
    assert_eq!(weights.path().to_str(), Some("test.gguf"));
}

#[test]
fn missing_tensors_are_named_with_their_file() {
    let weights = from_gguf(&GgufBuilder::new());
    let expected = "tensor `output_norm.weight` is missing\n  in test.gguf\n  \
                    the model is incomplete: convert or download it again";
    let name = "output_norm.weight";
    assert!(!weights.contains(name));
    assert_eq!(weights.info(name).unwrap_err().to_string(), expected);
    assert_eq!(weights.raw(name).unwrap_err().to_string(), expected);
    assert_eq!(weights.row_order(name).unwrap_err().to_string(), expected);
    assert_eq!(weights.f32(name, &[1]).unwrap_err().to_string(), expected);
}

#[test]
fn other_shapes_are_refused_with_both() {
    let weights = from_gguf(&GgufBuilder::new().tensor_f32("t", &[2, 3], &[0.0; 6]));
    for shape in [&[3, 2][..], &[6], &[2, 3, 1]] {
        let what = format!("tensor `t` has shape [2, 3], expected {shape:?}");
        assert_eq!(weights.f32("t", shape).unwrap_err().what(), what);
    }
}

#[test]
fn numbers_that_are_none_are_refused_by_tensor() {
    let mut q8_0 = vec![1; 68];
    q8_0[34..36].copy_from_slice(&f16::NAN.to_le_bytes());
    let mut q4_k = vec![1; 144];
    q4_k[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let file = GgufBuilder::new()
        .tensor_raw("nan_scale", DType::Q8_0, &[2, 32], &q8_0)
        .tensor_raw("infinite_scale", DType::Q4K, &[1, 256], &q4_k)
        .tensor_f32("infinite", &[3], &[1.0, f32::NEG_INFINITY, 0.0]);
    let weights = from_gguf(&file);
    let what = |name, shape: &[usize]| weights.f32(name, shape).unwrap_err().what().to_owned();
    assert_eq!(what("nan_scale", &[2, 32]), "tensor `nan_scale` holds NaN at position 32");
    assert_eq!(what("infinite_scale", &[1, 256]), "tensor `infinite_scale` holds inf at position 0");
    assert_eq!(what("infinite", &[3]), "tensor `infinite` holds -inf at position 1");
    assert!(weights.raw("infinite").is_ok(), "bytes are bytes");
}
