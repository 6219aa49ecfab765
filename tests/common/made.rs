//! Weights in the shape of a model, their numbers random.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

use taper::format::mapping::Mapping;
use taper::format::weights::Weights;
use taper::format::{DType, TensorInfo, random};
use taper::model::config::Config;
use taper::model::tensors::{self, Extras};

use super::tiny::Random;

/// Matrices of the type that `dtype` gives for their names.
#[allow(dead_code, reason = "not all who share this take it")]
pub fn weights(config: &Config, extras: Extras, dtype: impl Fn(&str) -> DType) -> Weights {
    normed(config, extras, dtype, |_| 1.0)
}

/// The same with weights of norms, of which `norm` gives each number.
pub fn normed(config: &Config, extras: Extras, dtype: impl Fn(&str) -> DType, norm: impl Fn(usize) -> f32) -> Weights {
    let tensors = tensors::shapes(config, extras).into_iter().enumerate().map(|(i, (name, shape))| {
        let n = shape.iter().product();
        let (dtype, bytes) = match (shape.len(), dtype(&name)) {
            (2, DType::F32) => (DType::F32, numbers(i, n).flat_map(f32::to_le_bytes).collect()),
            (2, DType::BF16) => {
                (DType::BF16, numbers(i, n).flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect())
            }
            (1, _) if name.contains("norm") => (DType::F32, (0..n).flat_map(|i| norm(i).to_le_bytes()).collect()),
            (1, _) if name.ends_with("bias") => (DType::F32, numbers(i, n).flat_map(f32::to_le_bytes).collect()),
            (2, dtype) => (dtype, random::tensor(3, i as u64, dtype, n).unwrap()),
            _ => (DType::F32, random::tensor(3, i as u64, DType::F32, n).unwrap()),
        };
        let info = TensorInfo { name: name.clone(), dtype, shape, bytes: 0..bytes.len() };
        (info, Mapping::from_bytes(bytes, &name))
    });
    Weights::made("made", tensors.collect::<Vec<_>>())
}

/// As small as trained weights.
fn numbers(seed: usize, n: usize) -> impl Iterator<Item = f32> {
    Random(seed as u64).values(n).into_iter().map(|x| 0.035 * x)
}
