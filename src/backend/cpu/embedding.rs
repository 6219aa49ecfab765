//! Token embeddings where they are not the head's rows: a row a token, read from the model's files.

use crate::error::Result;
use crate::format::DType;
use crate::format::packed::{CODEBOOK, Format, pack_row, unpack_row};
use crate::format::weights::Weights;
use crate::model::tensors::EMBEDDING;

pub struct Embedding {
    weights: Weights,
    dtype: DType,
    rows: usize,
    /// Where a row is unpacked: candle, which knows more types, takes memory for every row.
    tile: Option<Vec<u8>>,
}

impl Embedding {
    /// # Errors
    /// When the tensor is missing.
    pub fn of(weights: &Weights) -> Result<Self> {
        let info = weights.info(EMBEDDING)?;
        let format = Format::of(info.dtype);
        let is_unpacked = Format::is_lossless(info.dtype) && !format.is_float();
        let tile = is_unpacked.then(|| vec![0; format.tile_bytes(info.shape[1])]);
        Ok(Self { weights: weights.clone(), dtype: info.dtype, rows: info.shape[0], tile })
    }

    /// Writes a token's numbers to `out`.
    ///
    /// # Errors
    /// When they are NaN or infinite, or not as many as `out` holds.
    pub fn row(&mut self, id: usize, out: &mut [f32]) -> Result<()> {
        let Some(tile) = &mut self.tile else { return self.weights.row(EMBEDDING, id, out) };
        let bytes = self.weights.raw(EMBEDDING)?;
        let row_bytes = bytes.len() / self.rows;
        let stored = self.weights.row_order(EMBEDDING)?.stored_row(id);
        tile.fill(0);
        pack_row(self.dtype, &bytes[stored * row_bytes..][..row_bytes], tile, 0)
            .map_err(|e| e.of(EMBEDDING).in_file(self.weights.path()))?;
        unpack_row(Format::of(self.dtype), &CODEBOOK, tile, 0, out);
        Ok(())
    }
}
