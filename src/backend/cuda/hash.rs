//! Hashes of logits, made on the GPU: whether two ways to run the same steps give the same bits, without fetching them.

use super::Cuda;
use super::args::Hash;
use crate::error::Result;

/// Logits of a block.
const SLICE: usize = 4096;

/// A running hash with what comes behind it.
pub fn chained(hash: u64, next: u64) -> u64 {
    hash.rotate_left(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ next
}

impl Cuda {
    /// Hashes the logits of so many rows, where that is asked for; `finish_step` hands the hash on.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_hash(&mut self, rows: usize) -> Result<()> {
        if !self.options.hashes {
            return Ok(());
        }
        let count = rows * self.model.config.vocab;
        let args = Hash { logits: self.buffers.logits, to: self.buffers.hash, count: count as i64 };
        self.waiting("hash_logits", [count.div_ceil(SLICE) as u32, 1, 1], args)
    }
}
