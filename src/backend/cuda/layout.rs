//! Weights as the GPU's kernels read them: planes, one behind the other.
//!
//! The first planes are codes, (rows, groups) of 16 bytes: a lane of a warp reads a group of 32 numbers with one load, a warp
//! 512 neighbouring bytes. Then come scales, and what else a format has. The importers are those of `format::packed`:
//! a row is taken out of its tile there, so that a number means the same on every backend. `kernels/cuda/dot.cuh` is
//! the other side of this.

use crate::format::dequantize::Codebook;
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

/// Where a row's groups are in a plane.
#[derive(Clone, Copy, Default)]
struct Line {
    at: usize,
    bytes: usize,
    share: usize,
}

/// Planes of the format that has most.
const MOST_PLANES: usize = 8;

impl Planes<'_> {
    /// Takes row `row` out of lane `lane` of its tile.
    ///
    /// # Panics
    /// When the tile or the planes are too short for `k` numbers a row.
    pub fn put(&mut self, row: usize, tile: &[u8], lane: usize) {
        let lines = self.lines(row);
        let (unit_groups, unit_bytes) = (self.format.unit_groups(), self.format.unit_bytes());
        for g in 0..self.k / GROUP {
            let unit = &tile[g / unit_groups * unit_bytes..][..unit_bytes];
            let mut to = Group { planes: self.bytes, lines: &lines, g };
            if self.format.is_float() {
                to.floats(self.format, unit, lane);
            } else {
                to.codes(self.format, unit, g % unit_groups, lane);
                to.scales(self.format, unit, g % unit_groups, lane);
            }
        }
    }

    fn lines(&self, row: usize) -> [Line; MOST_PLANES] {
        let mut lines = [Line::default(); MOST_PLANES];
        let mut before = 0;
        for (line, (bytes, share)) in lines.iter_mut().zip(planes(self.format)) {
            let of_row = bytes * (self.k / GROUP / share);
            *line = Line { at: before + row * of_row, bytes: *bytes, share: *share };
            before += self.rows * of_row;
        }
        lines
    }
}

/// A codebook as kernels have it: its numbers without their signs, of which each half has one. `None` of one whose halves have both.
pub fn magnitudes(codebook: &Codebook) -> Option<[u8; size_of::<Codebook>()]> {
    let (below, above) = codebook.split_at(codebook.len() / 2);
    let has_signs = below.iter().all(|x| (-127..=0).contains(x)) && above.iter().all(|x| *x >= 0);
    has_signs.then(|| codebook.map(i8::unsigned_abs))
}

/// A group of a row in all planes.
struct Group<'a> {
    planes: &'a mut [u8],
    lines: &'a [Line; MOST_PLANES],
    g: usize,
}

impl Group<'_> {
    fn plane(&mut self, plane: usize) -> &mut [u8] {
        let Line { at, bytes, share } = self.lines[plane];
        &mut self.planes[at + self.g / share * bytes..][..bytes]
    }

    /// A tile has four neighbouring codes of each of its 16 rows side by side.
    fn codes(&mut self, format: Format, unit: &[u8], in_unit: usize, lane: usize) {
        let word = |at: usize, line: usize| {
            let bytes = &unit[at + 64 * line + 4 * lane..][..4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let at = format.codes(in_unit);
        match format {
            Format::Int8 | Format::Int8Min => {
                for half in 0..2 {
                    put_words(self.plane(half), |i| word(at, 4 * half + i) ^ 0x8080_8080);
                }
            }
            // Neighbours share a byte, as a permutation reads them.
            Format::Lut4 => put_words(self.plane(0), |i| {
                let word = word(at, i);
                side_by_side(word & 0x0F0F_0F0F) | side_by_side(word >> 4 & 0x0F0F_0F0F) << 16
            }),
            _ => put_words(self.plane(0), |i| word(at, i)),
        }
        if format == Format::Q6K {
            put_words(self.plane(1), |i| word(q6k::high(in_unit), i));
        }
    }

    fn scales(&mut self, format: Format, unit: &[u8], in_unit: usize, lane: usize) {
        let half = |at: usize| [unit[at + 2 * lane], unit[at + 2 * lane + 1]];
        let pair = |a: [u8; 2], b: [u8; 2]| [a[0], a[1], b[0], b[1]];
        let (scale, minimum) = (32 * in_unit, MINIMUM + 32 * in_unit);
        match format {
            Format::Affine4 | Format::Lut4 => self.plane(1).copy_from_slice(&half(scale)),
            Format::Affine4Min => self.plane(1).copy_from_slice(&pair(half(scale), half(minimum))),
            Format::Int8 => self.plane(2).copy_from_slice(&half(scale)),
            Format::Int8Min => self.plane(2).copy_from_slice(&pair(half(scale), half(minimum))),
            Format::Q4K => {
                let sub = [unit[q4k::SCALES + 16 * in_unit + lane], unit[q4k::MINIMA + 16 * in_unit + lane]];
                self.plane(1).copy_from_slice(&sub);
                self.plane(2).copy_from_slice(&pair(half(q4k::SCALE), half(q4k::MINIMUM)));
            }
            Format::Q6K => {
                let sub = [unit[q6k::scales(2 * in_unit) + lane], unit[q6k::scales(2 * in_unit + 1) + lane]];
                self.plane(2).copy_from_slice(&sub);
                self.plane(3).copy_from_slice(&half(q6k::SCALE));
            }
            Format::Half | Format::BHalf | Format::Single => {}
        }
    }

    /// A unit is one group, of whose numbers it has those of all 16 rows side by side.
    fn floats(&mut self, format: Format, unit: &[u8], lane: usize) {
        if format == Format::Single {
            self.numbers::<4>(unit, lane);
        } else {
            self.numbers::<2>(unit, lane);
        }
    }

    fn numbers<const N: usize>(&mut self, unit: &[u8], lane: usize) {
        for (plane, numbers) in unit.chunks_exact(16 * TILE).enumerate() {
            let to = self.plane(plane).as_chunks_mut::<N>().0;
            for (to, line) in to.iter_mut().zip(numbers.as_chunks::<N>().0.chunks_exact(TILE)) {
                *to = line[lane];
            }
        }
    }
}

fn put_words(to: &mut [u8], word: impl Fn(usize) -> u32) {
    for (i, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *to = word(i).to_le_bytes();
    }
}

/// The lower halves of four bytes as two bytes.
fn side_by_side(word: u32) -> u32 {
    let pairs = (word | word >> 4) & 0x00FF_00FF;
    (pairs | pairs >> 8) & 0xFFFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::packed::CODEBOOK;

    #[test]
    fn a_codebook_of_two_halves_is_kept_without_signs_and_no_other() {
        let kept = magnitudes(&CODEBOOK).unwrap();
        assert_eq!((kept[0], kept[7], kept[8], kept[15]), (127, 10, 1, 113));
        let changed = |i: usize, x: i8| {
            let mut codebook = CODEBOOK;
            codebook[i] = x;
            magnitudes(&codebook)
        };
        assert_eq!(changed(7, 0).map(|kept| kept[7]), Some(0));
        assert_eq!(changed(8, 0).map(|kept| kept[8]), Some(0));
        // A byte whose highest bit is set would be taken for a sign.
        for (i, x) in [(7, 1), (8, -1), (0, -128)] {
            assert_eq!(changed(i, x), None, "{i}: {x}");
        }
    }
}
