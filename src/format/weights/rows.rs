//! A matrix row by row: in taper's order, and quantized where that is asked for.

use super::{RowOrder, Stored};
use crate::error::Result;
use crate::format::dequantize::{Codebook, IQ4_CODEBOOK, dequantize, dequantize_with};
use crate::format::packed::Refused;
use crate::format::quantize::{Quantizer, RowEncoder};
use crate::format::{DType, TensorInfo};

/// The rows of a tensor whose bytes are at hand.
#[derive(Debug)]
pub struct Rows<'a> {
    /// As the rows are handed out.
    info: &'a TensorInfo,
    source: Source<'a>,
    quantized: Option<(Codebook, RowEncoder)>,
}

/// Rows as they are in the file.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    dtype: DType,
    /// How many there are.
    rows: usize,
    order: RowOrder,
    bytes: &'a [u8],
}

/// Where a row is quantized.
#[derive(Debug, Default)]
pub struct Room {
    numbers: Vec<f32>,
    blocks: Vec<u8>,
}

impl<'a> Rows<'a> {
    /// `bytes`: all of the tensor's as stored. A codebook that is to be learned is learned here.
    pub(super) fn of(stored: &'a Stored, bytes: &'a [u8]) -> Self {
        let source = Source { dtype: stored.info.dtype, rows: stored.info.shape[0], order: stored.order, bytes };
        let encoder = |quantizer: &Quantizer| {
            let codebook = *quantizer.codebook(source.rows, columns(&stored.info), |r, out| source.numbers(r, out));
            (codebook, quantizer.encoder(&codebook))
        };
        let quantized = stored.quantized.as_ref().map(|quantized| encoder(&quantized.quantizer));
        Self { info: stored.info(), source, quantized }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.source.rows
    }

    pub fn is_empty(&self) -> bool {
        self.source.rows == 0
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The file's type.
    pub fn stored_dtype(&self) -> DType {
        self.source.dtype
    }

    /// Bytes in the file.
    pub fn stored_bytes(&self) -> usize {
        self.source.bytes.len()
    }

    /// Writes the numbers of row `r` as the file has them to `out`.
    ///
    /// # Errors
    /// When `out` is not as long as a row.
    pub fn stored_numbers(&self, r: usize, out: &mut [f32]) -> Result<()> {
        dequantize(self.source.dtype, self.source.row(r), out)
    }

    /// The type of their blocks.
    pub fn dtype(&self) -> DType {
        self.info.dtype
    }

    /// What 4-bit codes stand for; of no meaning to types without a codebook.
    pub fn codebook(&self) -> Codebook {
        self.quantized.as_ref().map_or(IQ4_CODEBOOK, |(codebook, _)| *codebook)
    }

    /// Row `r`'s blocks.
    ///
    /// # Errors
    /// When its numbers cannot be quantized.
    pub fn row<'b>(&'b self, r: usize, room: &'b mut Room) -> Result<&'b [u8], Refused> {
        let Some((_, encoder)) = &self.quantized else { return Ok(self.source.row(r)) };
        room.numbers.resize(columns(self.info), 0.0);
        self.source.numbers(r, &mut room.numbers);
        encoder.encode(&room.numbers, &mut room.blocks)?;
        Ok(&room.blocks)
    }

    /// Writes row `r`'s numbers to `out`.
    ///
    /// # Errors
    /// As [`Self::row`], and when `out` is not as long as a row.
    pub fn numbers(&self, r: usize, room: &mut Room, out: &mut [f32]) -> Result<()> {
        let row = self.row(r, room).map_err(|refused| refused.of(&self.info.name))?;
        dequantize_with(self.info.dtype, &self.codebook(), row, out)
    }
}

impl<'a> Source<'a> {
    /// Row `r` of the matrix, wherever it is stored.
    fn row(&self, r: usize) -> &'a [u8] {
        let row_bytes = self.bytes.len() / self.rows;
        &self.bytes[self.order.stored_row(r) * row_bytes..][..row_bytes]
    }

    /// The numbers of a row of a floating-point type. Any number of them is stored.
    fn numbers(&self, r: usize, out: &mut [f32]) {
        let done = dequantize(self.dtype, self.row(r), out);
        debug_assert!(done.is_ok(), "a row has as many bytes as its columns take");
    }
}

/// Numbers of a row.
fn columns(info: &TensorInfo) -> usize {
    info.elements() / info.shape[0]
}
