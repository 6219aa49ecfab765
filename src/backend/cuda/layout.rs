//! Weights as the GPU's kernels read them: planes, one behind the other.
//!
//! The first planes are codes, (rows, groups) of 16 bytes: a lane of a warp reads a group of 32 numbers with one load, a warp
//! 512 neighbouring bytes. Then come scales, and what else a format has. The importers are those of `format::packed`:
//! a row is taken out of its tile there, so that a number means the same on every backend. `kernels/cuda/dot.cuh` is
//! the other side of this.

use crate::format::packed::{Format, GROUP, MINIMUM, TILE, q4k, q6k};

/// Every matrix and vector begins on such a boundary.
pub const ALIGN: usize = 256;

/// Bytes that a group of a row has in each plane, and how many groups share them.
pub fn planes(format: Format) -> &'static [(usize, usize)] {
    match format {
        Format::Affine4 | Format::Lut4 => &[(16, 1), (2, 1)],
        Format::Affine4Min => &[(16, 1), (4, 1)],
        Format::Int8 => &[(16, 1), (16, 1), (2, 1)],
        Format::Int8Min => &[(16, 1), (16, 1), (4, 1)],
        Format::Q4K => &[(16, 1), (2, 1), (4, 8)],
        Format::Q6K => &[(16, 1), (8, 1), (2, 1), (2, 8)],
        Format::Half | Format::BHalf => &[(16, 1); 4],
        Format::Single => &[(16, 1); 8],
    }
}

/// Bytes of a matrix.
pub fn matrix_bytes(format: Format, rows: usize, k: usize) -> usize {
    planes(format).iter().map(|(bytes, share)| bytes * rows * (k / GROUP / share)).sum()
}

/// Bytes of a row in each plane.
pub fn plane_bytes(format: Format, k: usize) -> impl Iterator<Item = usize> {
    planes(format).iter().map(move |(bytes, share)| bytes * (k / GROUP / share))
}

/// A matrix in the making.
pub struct Planes<'a> {
    pub format: Format,
    pub rows: usize,
    pub k: usize,
    pub bytes: &'a mut [u8],
}

impl Planes<'_> {
    /// Takes row `row` out of lane `lane` of its tile.
    ///
    /// # Panics
    /// When the tile or the planes are too short for `k` numbers a row.
    pub fn put(&mut self, row: usize, tile: &[u8], lane: usize) {
        for g in 0..self.k / GROUP {
            if self.format.is_float() {
                self.floats(row, g, tile, lane);
                continue;
            }
            let unit = &tile[g / self.format.unit_groups() * self.format.unit_bytes()..][..self.format.unit_bytes()];
            self.codes(row, g, unit, lane);
            self.scales(row, g, unit, lane);
        }
    }

    /// Where group `g` of a row is in a plane.
    fn at(&mut self, plane: usize, row: usize, g: usize) -> &mut [u8] {
        let size = |(bytes, share): (usize, usize)| bytes * (self.k / GROUP / share);
        let before: usize = planes(self.format)[..plane].iter().map(|p| self.rows * size(*p)).sum();
        let (bytes, share) = planes(self.format)[plane];
        let at = before + row * size((bytes, share)) + g / share * bytes;
        &mut self.bytes[at..at + bytes]
    }

    fn codes(&mut self, row: usize, g: usize, unit: &[u8], lane: usize) {
        let (format, in_unit) = (self.format, g % self.format.unit_groups());
        let byte = |i: usize| unit[format.codes(in_unit) + 64 * (i / 4) + 4 * lane + i % 4];
        match format {
            Format::Int8 | Format::Int8Min => {
                for half in 0..2 {
                    let to = self.at(half, row, g);
                    to.iter_mut().enumerate().for_each(|(i, to)| *to = byte(16 * half + i) ^ 0x80);
                }
            }
            // Neighbours share a byte, as a permutation reads them.
            Format::Lut4 => {
                let nibble = |i: usize| byte(i / 8 * 4 + i % 4) >> (i % 8 / 4 * 4) & 15;
                let to = self.at(0, row, g);
                to.iter_mut().enumerate().for_each(|(i, to)| *to = nibble(2 * i) | nibble(2 * i + 1) << 4);
            }
            _ => self.at(0, row, g).iter_mut().enumerate().for_each(|(i, to)| *to = byte(i)),
        }
        if format == Format::Q6K {
            let to = self.at(1, row, g);
            to.iter_mut()
                .enumerate()
                .for_each(|(i, to)| *to = unit[q6k::high(in_unit) + 64 * (i / 4) + 4 * lane + i % 4]);
        }
    }

    fn scales(&mut self, row: usize, g: usize, unit: &[u8], lane: usize) {
        let in_unit = g % self.format.unit_groups();
        let half = |at: usize| [unit[at + 2 * lane], unit[at + 2 * lane + 1]];
        let pair = |a: [u8; 2], b: [u8; 2]| [a[0], a[1], b[0], b[1]];
        let (scale, minimum) = (32 * in_unit, MINIMUM + 32 * in_unit);
        match self.format {
            Format::Affine4 | Format::Lut4 => self.at(1, row, g).copy_from_slice(&half(scale)),
            Format::Affine4Min => self.at(1, row, g).copy_from_slice(&pair(half(scale), half(minimum))),
            Format::Int8 => self.at(2, row, g).copy_from_slice(&half(scale)),
            Format::Int8Min => self.at(2, row, g).copy_from_slice(&pair(half(scale), half(minimum))),
            Format::Q4K => {
                let sub = [unit[q4k::SCALES + 16 * in_unit + lane], unit[q4k::MINIMA + 16 * in_unit + lane]];
                self.at(1, row, g).copy_from_slice(&sub);
                self.at(2, row, g).copy_from_slice(&pair(half(q4k::SCALE), half(q4k::MINIMUM)));
            }
            Format::Q6K => {
                let sub = [unit[q6k::scales(2 * in_unit) + lane], unit[q6k::scales(2 * in_unit + 1) + lane]];
                self.at(2, row, g).copy_from_slice(&sub);
                self.at(3, row, g).copy_from_slice(&half(q6k::SCALE));
            }
            Format::Half | Format::BHalf | Format::Single => {}
        }
    }

    fn floats(&mut self, row: usize, g: usize, tile: &[u8], lane: usize) {
        let bytes = if self.format == Format::Single { 4 } else { 2 };
        for i in 0..GROUP {
            let from = &tile[((g * GROUP + i) * TILE + lane) * bytes..][..bytes];
            self.at(i * bytes / 16, row, g)[i * bytes % 16..][..bytes].copy_from_slice(from);
        }
    }
}
