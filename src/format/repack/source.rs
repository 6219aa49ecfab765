//! What packed weights were made from, as text that changes when the weights do.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::format::mapping::Mapping;
use crate::format::quantize::{self, Quant};
use crate::format::random;
use crate::format::weights::Weights;

/// Blocks of a file that are looked at, spread evenly from behind its header to its end.
const SAMPLES: usize = 64;
/// Bytes of a block.
const SAMPLE: usize = 4096;

/// A line for each file of a model: its path, size, time of change, and a hash of its header and of 64 samples. To read
/// all of it would take about as long as packing it; who changes some other byte and sets the time back goes unnoticed.
pub fn fingerprint(weights: &Weights) -> String {
    let mut text = String::new();
    for (file, header) in weights.files() {
        // The same file by whichever of its names; `synth:` names are no paths.
        let path = file.path().canonicalize().unwrap_or_else(|_| file.path().to_owned());
        let path = path.display();
        // A String takes everything.
        let _ = if file.is_made() {
            writeln!(text, "{path}: random, rule {}", random::RULE)
        } else {
            let modified = file.modified().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let (size, modified) = (file.size(), modified.unwrap_or_default().as_nanos());
            writeln!(text, "{path}: {size} bytes of {modified} ns, samples {:032x}", samples(file, header))
        };
    }
    if weights.quant() != Quant::None {
        let _ = writeln!(text, "quantized: {}, rule {}", weights.quant().name(), quantize::RULE);
    }
    text
}

/// The first half of the SHA-256 of a file's first `header` bytes and of the samples behind them.
fn samples(file: &Mapping, header: usize) -> u128 {
    let mut hash = Sha256::new();
    let mut take = |start: usize, end: usize| file.read_once(&(start..end), |bytes| hash.update(bytes));
    take(0, header);
    let last = file.size().saturating_sub(SAMPLE).max(header);
    for i in 0..SAMPLES {
        let start = header + ((last - header) as u64 * i as u64 / (SAMPLES as u64 - 1)) as usize;
        take(start, (start + SAMPLE).min(file.size()));
    }
    half(&hash.finalize())
}

/// The first 16 bytes of a hash.
pub fn half(hash: &[u8]) -> u128 {
    hash.iter().take(16).fold(0, |n, byte| n << 8 | u128::from(*byte))
}
