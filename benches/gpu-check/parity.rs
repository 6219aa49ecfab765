//! Logits of small random models of every type, beside those of the reference.

use taper::Result;
use taper::backend::candle::{self, Candle};
use taper::backend::cuda::{self, Cuda, Nvidia, Options};
use taper::backend::{Backend, KvType, Limits};
use taper::format::weights::Weights;
use taper::format::{DType, TensorInfo};
use taper::model::config::Config;
use taper::model::tensors::Extras;
use taper::terminal::progress::Mode;

use crate::Finding;
use crate::feed::last_logits;
use crate::{made, tiny};

const LIMITS: Limits = Limits { context: 256, sequences: 1, chunk: 64, pages: 8 };
/// A prompt in chunks, the last two of few rows, and what is decoded behind it.
const STEPS: [usize; 9] = [64, 37, 13, 7, 1, 1, 1, 1, 1];
/// Normalized mean square errors: of int8 activations a phase may have 5e-4, and these are four layers' and a head's.
const INT8: f64 = 4e-3;
const EXACT: f64 = 1e-5;

pub fn check(tell: &mut dyn FnMut(Finding)) -> Result<()> {
    let packed = [DType::Q4_0, DType::Q4_1, DType::IQ4NL, DType::Q8_0, DType::Q5_1, DType::Q4K, DType::Q6K];
    let floats = [DType::F16, DType::BF16, DType::F32];
    // Every type once before any a second time, for those who stop it.
    for (kv_type, head_dim) in [(KvType::F16, 64), (KvType::Q8_0, 128), (KvType::F16, 128), (KvType::Q8_0, 64)] {
        for dtype in packed.into_iter().chain(floats) {
            let bound = if floats.contains(&dtype) { EXACT } else { INT8 };
            // Rounding keys and values to 8 bits is no error of the kernels.
            let bound = if kv_type == KvType::Q8_0 { bound.max(INT8) } else { bound };
            let error = error(dtype, head_dim, kv_type)?;
            tell(Finding {
                what: format!("{dtype}, heads of {head_dim}, keys and values in {}", kv_type.name()),
                found: format!("{error:.1e}"),
                bound: format!("{bound:.1e}"),
                is_right: error <= bound,
            });
        }
    }
    Ok(())
}

/// The error of all logits of a text.
fn error(dtype: DType, head_dim: usize, kv_type: KvType) -> Result<f64> {
    let config = Config {
        layers: 4,
        hidden: 768,
        ffn: 1280,
        heads: 512 / head_dim,
        kv_heads: 256 / head_dim,
        head_dim,
        vocab: 1003,
        ..tiny::config()
    };
    let extras = Extras { tied: true, qkv_bias: true, rope_factors: false };
    // Some normed numbers are outliers, whose codes leave a rest.
    let weights = made::normed(&config, extras, |_| dtype, |i| if i % 271 == 5 { 30.0 } else { 1.0 });
    let infos: Vec<&TensorInfo> = infos(&weights)?;
    let mut judge = Candle::load(&config, &weights, &candle::plan(&config, &infos, LIMITS))?;
    let options = Options { kv_type, graph: true, flash_attention: true, hashes: false };
    let plan = cuda::plan(&config, &infos, LIMITS, options);
    let gpu = Box::new(Nvidia::open(true)?);
    let mut backend = Cuda::load(gpu, &config, &weights, &plan, options, Mode::Quiet)?;
    let (expected, got) = (logits(&mut judge)?, logits(&mut backend)?);
    let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let error = squares(&mut expected.iter().zip(&got).map(|(a, b)| a - b));
    Ok(error / squares(&mut expected.into_iter()))
}

pub fn infos(weights: &Weights) -> Result<Vec<&TensorInfo>> {
    weights.names().map(|name| weights.info(name)).collect()
}

/// The logits behind each of the steps.
fn logits(backend: &mut dyn Backend) -> Result<Vec<f32>> {
    let ids = tiny::Random(11).ids(STEPS.iter().sum(), backend.config().vocab);
    let pages: Vec<u32> = (0..LIMITS.pages as u32).rev().collect();
    let (mut logits, mut done) = (Vec::new(), 0);
    for n in STEPS {
        logits.extend_from_slice(last_logits(backend, &ids[done..done + n], done, &pages)?);
        done += n;
    }
    Ok(logits)
}
