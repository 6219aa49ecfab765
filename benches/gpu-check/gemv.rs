//! How fast the kernel of gate and up matrices reads them by itself: launched over and over, through layers that are more than any
//! second-level cache has.

use std::time::Instant;

use taper::Result;
use taper::backend::cuda::{self, Cuda, Nvidia, Options, Sharing};
use taper::backend::{Batch, KvType, Limits, Phases, Probe, Row, Seq, Slot, Token};
use taper::format::DType;
use taper::model::config::Config;
use taper::model::tensors::Extras;
use taper::terminal::progress::Mode;

use crate::parity::infos;
use crate::{Finding, made, tiny};

const LIMITS: Limits = Limits { context: 64, sequences: 1, chunk: 16, pages: 2 };
const TIMES: usize = 10;
/// Of a recording, which is replayed so often between two looks at the clock: asking and waiting are next to nothing then.
const LAUNCHES: usize = 100;
const REPLAYS: usize = 4;
/// Numbers of a row, rows of each of the two matrices, and layers.
const SHAPES: [[usize; 3]; 2] = [[4096, 14_336, 4], [2048, 5632, 22]];

pub fn check(tell: &mut dyn FnMut(Finding)) -> Result<()> {
    for [hidden, ffn, layers] in SHAPES {
        let config =
            Config { layers, hidden, ffn, heads: 32, kv_heads: 4, head_dim: 64, vocab: 1024, ..tiny::config() };
        let bytes = (2 * ffn * hidden / 32 * 18) as f64;
        let rate = bytes / seconds(&config)?;
        tell(Finding {
            what: format!("two Q4_0 matrices of {ffn} rows of {hidden} numbers, a kernel"),
            found: format!("{:.2} TB/s", rate / 1e12),
            bound: String::new(),
            is_right: true,
        });
    }
    Ok(())
}

/// Of a kernel.
fn seconds(config: &Config) -> Result<f64> {
    let weights =
        made::normed(config, Extras { tied: true, qkv_bias: false, rope_factors: false }, |_| DType::Q4_0, |_| 1.0);
    let options = Options { kv_type: KvType::F16, graph: true, flash_attention: true, hashes: false };
    let plan = cuda::plan(config, &infos(&weights)?, LIMITS, options);
    let mut backend = Cuda::load(Box::new(Nvidia::open(true)?), config, &weights, &plan, options, Mode::Quiet)?;
    // The other way two blocks of this kernel may meet in a multiprocessor, where another kernel comes between them in a step.
    backend.share(Sharing::Alone);
    let (row, seq) = (Row { token: Token::Id(5), pos: 0 }, Seq { slot: 0, rows: 0..1, kv_len: 1, pages: 0..1 });
    backend.begin(&Batch { rows: &[row], seqs: &[seq], pages: &[0], out: &[] })?;
    let through = |backend: &mut Cuda| (0..LAUNCHES).try_for_each(|i| backend.gate_up(i % config.layers));
    through(&mut backend)?;
    let recorded = backend.record(through)?;
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let start = Instant::now();
        for _ in 0..REPLAYS {
            backend.replay(recorded)?;
        }
        backend.get(Slot::Gated)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best / (REPLAYS * LAUNCHES) as f64)
}
