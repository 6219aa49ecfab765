//! Stored blocks to f32, for every type of [`DType`].
//!
//! candle knows fifteen of GGUF's types and is the reference for them; `IQ4_NL` and `IQ4_XS` it does not know, they are
//! written here. Work goes in slices of a few hundred blocks, so that next to the file's bytes and the caller's
//! numbers only one slice exists in between, however large the tensor is.

use std::borrow::Cow;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::DType;
use crate::error::{Error, Result};

/// Numbers handed to candle at a time; a multiple of every type's block.
const SLICE: usize = 1 << 15;
/// The largest alignment of candle's block structures (`Q8_K` begins with an f32; the others hold f16).
const BLOCK_ALIGN: usize = 4;

/// What 4-bit indices stand for, before the scale.
pub type Codebook = [i8; 16];

/// What the 4-bit indices of `IQ4_NL` and `IQ4_XS` stand for, before the scale. From ggml (`kvalues_iq4nl`).
pub const IQ4_CODEBOOK: Codebook = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Writes the numbers of `bytes`, whole blocks of type `dtype`, to `out`.
///
/// # Errors
/// When `bytes` is not exactly what `out.len()` numbers of this type take.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    dequantize_with(dtype, &IQ4_CODEBOOK, bytes, out)
}

/// The same with a codebook of the tensor's own in place of `IQ4_NL`'s.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_with(dtype: DType, codebook: &Codebook, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.bytes_of(out.len()) != Some(bytes.len()) {
        return Err(Error::model(format!("{} bytes of {dtype} do not hold {} numbers", bytes.len(), out.len())));
    }
    let candle = |ggml: GgmlDType, out: &mut [f32]| with_candle(ggml, dtype, bytes, out);
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        DType::IQ4NL => blocks(bytes, out, |block| iq4_nl(block, codebook)),
        DType::IQ4XS => blocks(bytes, out, iq4_xs),
        DType::Q4_0 => candle(GgmlDType::Q4_0, out)?,
        DType::Q4_1 => candle(GgmlDType::Q4_1, out)?,
        DType::Q5_0 => candle(GgmlDType::Q5_0, out)?,
        DType::Q5_1 => candle(GgmlDType::Q5_1, out)?,
        DType::Q8_0 => candle(GgmlDType::Q8_0, out)?,
        DType::Q8_1 => candle(GgmlDType::Q8_1, out)?,
        DType::Q2K => candle(GgmlDType::Q2K, out)?,
        DType::Q3K => candle(GgmlDType::Q3K, out)?,
        DType::Q4K => candle(GgmlDType::Q4K, out)?,
        DType::Q5K => candle(GgmlDType::Q5K, out)?,
        DType::Q6K => candle(GgmlDType::Q6K, out)?,
        DType::Q8K => candle(GgmlDType::Q8K, out)?,
    }
    Ok(())
}

/// candle's own conversion, a slice at a time.
fn with_candle(ggml: GgmlDType, dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let slice_bytes = SLICE / dtype.block_len() * dtype.block_bytes();
    let mut room = Vec::new();
    for (bytes, out) in bytes.chunks(slice_bytes).zip(out.chunks_mut(SLICE)) {
        let blocks = ggml.from_data(Cow::Borrowed(aligned(bytes, &mut room)));
        match blocks.dequantize(out.len()) {
            Ok(CpuStorage::F32(numbers)) => out.copy_from_slice(&numbers),
            Ok(_) => return Err(Error::runtime(format!("candle did not dequantize {dtype} to f32"))),
            Err(e) => return Err(Error::runtime(format!("candle cannot dequantize {dtype}: {e}")).caused_by(e)),
        }
    }
    Ok(())
}

/// `bytes` where candle's block structures may lie, copied to `room` only when they do not already: a file may ask for
/// an alignment of 1, and candle panics on blocks at odd addresses.
fn aligned<'a>(bytes: &'a [u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    if bytes.as_ptr().align_offset(BLOCK_ALIGN) == 0 {
        return bytes;
    }
    room.resize(bytes.len() + BLOCK_ALIGN, 0);
    let start = room.as_ptr().align_offset(BLOCK_ALIGN);
    let place = &mut room[start..start + bytes.len()];
    place.copy_from_slice(bytes);
    place
}

/// One number from each `N` bytes.
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], number: fn([u8; N]) -> f32) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *x = number(*b);
    }
}

/// `LEN` numbers from each block of `BYTES` bytes.
fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES]) -> [f32; LEN],
) {
    for (numbers, b) in out.as_chunks_mut::<LEN>().0.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
        *numbers = block(b);
    }
}

/// `IQ4_NL`: an f16 scale, then 32 indices into the codebook.
fn iq4_nl(block: &[u8; 18], codebook: &Codebook) -> [f32; 32] {
    let [d0, d1, indices @ ..] = block;
    looked_up(codebook, f16::from_le_bytes([*d0, *d1]).to_f32(), indices)
}

/// `IQ4_XS`: 8 groups of 32 under one f16 scale. A group's own scale has 6 bits, biased by 32: the low four lie in
/// `scales_l` (two groups a byte), the high two in the 16-bit `scales_h`.
fn iq4_xs(block: &[u8; 136]) -> [f32; 256] {
    let [d0, d1, h0, h1, l0, l1, l2, l3, indices @ ..] = block;
    let scale = f16::from_le_bytes([*d0, *d1]).to_f32();
    let scales_h = u16::from_le_bytes([*h0, *h1]);
    let scales_l = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
    let mut out = [0.0; 256];
    for (group, (numbers, indices)) in
        out.as_chunks_mut::<32>().0.iter_mut().zip(indices.as_chunks::<16>().0).enumerate()
    {
        let low = scales_l >> (4 * group) & 0xf;
        let high = u32::from(scales_h) >> (2 * group) & 0x3;
        let own = (low | high << 4) as f32 - 32.0;
        *numbers = looked_up(&IQ4_CODEBOOK, scale * own, indices);
    }
    out
}

/// A group of 32: numbers 0 to 15 in the low nibbles, 16 to 31 in the high ones.
fn looked_up(codebook: &Codebook, scale: f32, indices: &[u8; 16]) -> [f32; 32] {
    let mut out = [0.0; 32];
    for (i, byte) in indices.iter().enumerate() {
        out[i] = scale * f32::from(codebook[usize::from(byte & 0xf)]);
        out[i + 16] = scale * f32::from(codebook[usize::from(byte >> 4)]);
    }
    out
}
