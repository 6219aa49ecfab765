//! The bytes that answering must read, so that a speed can be told as a share of the memory's.
//!
//! Weights count in the encoding of their file, of the embedding one row a token: a backend that keeps them wider in memory
//! reads more, and gains nothing by it here. Keys and values count as the backend keeps them.

use crate::engine::Done;
use crate::format::TensorInfo;
use crate::model::tensors::{EMBEDDING, OUTPUT};

/// What a step reads, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// All matrices and norms, the head included, without the embedding's rows.
    pub weights: u64,
    /// One row of the embedding.
    pub embedding_row: u64,
    /// One token's keys and values in all layers.
    pub kv_token: u64,
}

impl Traffic {
    pub fn of(tensors: &[&TensorInfo], kv_token: u64) -> Self {
        // A head of its own is another tensor; a tied one is the embedding, read whole.
        let tied = !tensors.iter().any(|t| t.name == OUTPUT);
        let bytes = |t: &TensorInfo| t.bytes.len() as u64;
        let weights = tensors.iter().filter(|t| tied || t.name != EMBEDDING).map(|t| bytes(t)).sum();
        let embedding = tensors.iter().find(|t| t.name == EMBEDDING);
        let embedding_row = embedding.map_or(0, |t| bytes(t) / t.shape[0].max(1) as u64);
        Self { weights, embedding_row, kv_token }
    }

    /// `tokens` generated one by one after `depth` others: each reads all weights and the keys and values before it.
    pub fn generating(&self, tokens: usize, depth: usize) -> u64 {
        let (n, depth) = (tokens as u64, depth as u64);
        n * (self.weights + self.embedding_row) + self.kv_token * (n * depth + n * n.saturating_sub(1) / 2)
    }

    /// A prompt of `tokens` after `depth` others: the weights and the keys and values before it once, however many steps
    /// it is cut into.
    pub fn prompt(&self, tokens: usize, depth: usize) -> u64 {
        self.weights + self.embedding_row * tokens as u64 + self.kv_token * depth as u64
    }

    /// Bytes a second of a finished answer's generation. The first token comes with the prompt.
    pub fn rate(&self, done: &Done) -> Option<f64> {
        let tokens = done.generated_tokens.saturating_sub(1);
        (tokens > 0 && done.generation_seconds > 0.0)
            .then(|| self.generating(tokens, done.prompt_tokens) as f64 / done.generation_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::DType;

    fn tensor(name: &str, shape: &[usize]) -> TensorInfo {
        let bytes = DType::Q8_0.bytes_of(shape.iter().product()).unwrap();
        TensorInfo { name: name.into(), dtype: DType::Q8_0, shape: shape.to_vec(), bytes: 0..bytes }
    }

    #[test]
    fn of_an_embedding_beside_a_head_one_row_counts_and_a_tied_one_counts_whole() {
        let (embedding, matrix) = (tensor(EMBEDDING, &[100, 32]), tensor("blk.0.attn_q.weight", &[32, 32]));
        let head = tensor(OUTPUT, &[100, 32]);
        let untied = Traffic::of(&[&embedding, &matrix, &head], 10);
        assert_eq!(untied, Traffic { weights: 32 * 34 + 100 * 34, embedding_row: 34, kv_token: 10 });
        let tied = Traffic::of(&[&embedding, &matrix], 10);
        assert_eq!(tied, untied);
    }

    #[test]
    fn each_generated_token_reads_what_came_before_it() {
        let t = Traffic { weights: 1000, embedding_row: 10, kv_token: 1 };
        assert_eq!(t.generating(1, 0), 1010);
        assert_eq!(t.generating(3, 0), 3030 + (1 + 2));
        assert_eq!(t.generating(3, 100), 3030 + (100 + 101 + 102));
        assert_eq!(t.prompt(4, 100), 1000 + 40 + 100);
    }
}
