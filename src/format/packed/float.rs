//! Floating-point weights in tiles of 16 rows: number k of all rows, then number k + 1 of all rows, as the file has them.

use half::{bf16, f16};

use super::{Format, Refused, TILE};

/// Writes a stored row to lane `lane` of its tile.
///
/// # Errors
/// When a number is NaN or infinite.
pub(super) fn pack_row(format: Format, row: &[u8], tile: &mut [u8], lane: usize) -> Result<(), Refused> {
    match format {
        Format::Half => put(row, tile, lane, |x| f16::from_le_bytes(x).is_finite()),
        Format::BHalf => put(row, tile, lane, |x| bf16::from_le_bytes(x).is_finite()),
        _ => put(row, tile, lane, |x| f32::from_le_bytes(x).is_finite()),
    }
}

fn put<const N: usize>(
    row: &[u8],
    tile: &mut [u8],
    lane: usize,
    is_finite: impl Fn([u8; N]) -> bool,
) -> Result<(), Refused> {
    for (number, line) in row.as_chunks::<N>().0.iter().zip(tile.chunks_exact_mut(N * TILE)) {
        if !is_finite(*number) {
            return Err(Refused::NotFinite);
        }
        line[N * lane..][..N].copy_from_slice(number);
    }
    Ok(())
}

/// The numbers of one row of a tile.
pub(super) fn unpack_row(format: Format, tile: &[u8], lane: usize, out: &mut [f32]) {
    match format {
        Format::Half => get(tile, lane, out, |x| f16::from_le_bytes(x).to_f32()),
        Format::BHalf => get(tile, lane, out, |x| bf16::from_le_bytes(x).to_f32()),
        _ => get(tile, lane, out, f32::from_le_bytes),
    }
}

fn get<const N: usize>(tile: &[u8], lane: usize, out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (x, line) in out.iter_mut().zip(tile.as_chunks::<N>().0.chunks_exact(TILE)) {
        *x = number(line[lane]);
    }
}
