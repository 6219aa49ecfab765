//! The formats that the fast backends compute with: a file's blocks, put into the order in which kernels read them.
//!
//! A matrix (rows, k) is cut into tiles of 16 rows, a tile into units along k, a unit into groups of 32 numbers of each
//! row. In a group, 64 bytes hold 4 neighbouring codes of 16 rows (8 for nibbles: 4 in the low halves, the next 4 in
//! the high ones), so that one instruction multiplies them with 4 activations, and a lane is a row. Scales of 16 rows
//! lie together in front of their codes, so that a kernel reads a unit from its first byte to its last: a processor that
//! is kept waiting by memory foresees nothing else (scales behind the codes cost a fifth of the speed of `Q8_0`, and in
//! `Q6_K`, whose upper bits lay apart too, two thirds). Bytes stay those of the file (to 3 %), and so do the numbers:
//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `IQ4_NL`, `Q4_K` and `Q6_K` import without loss. Other quantized types become
//! [`Format::Int8`], by rounding again. Floating-point numbers stay what they are (`float`).

mod float;

use half::f16;

use super::DType;
use super::dequantize::{IQ4_CODEBOOK, dequantize};
use crate::error::{Error, Result};

/// Rows of a tile.
pub const TILE: usize = 16;
/// Numbers of a row that share a scale.
pub const GROUP: usize = 32;

/// How a packed matrix stores its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// scale · (nibble − 8).
    Affine4,
    /// scale · nibble + minimum.
    Affine4Min,
    /// scale · the codebook's number for the nibble.
    Lut4,
    /// scale · byte.
    Int8,
    /// scale · byte + minimum.
    Int8Min,
    /// `Q4_K`: scale · sub-scale · nibble − minimum scale · sub-minimum; the first of 256 numbers, the second of 32.
    Q4K,
    /// `Q6_K`: scale · sub-scale · (6 bits − 32); the first of 256 numbers, the second of 16.
    Q6K,
    /// f16.
    Half,
    /// bf16.
    BHalf,
    /// f32.
    Single,
}

impl Format {
    pub const ALL: [Self; 10] = [
        Self::Affine4,
        Self::Affine4Min,
        Self::Lut4,
        Self::Int8,
        Self::Int8Min,
        Self::Q4K,
        Self::Q6K,
        Self::Half,
        Self::BHalf,
        Self::Single,
    ];

    /// What a file's type becomes.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::Single,
            DType::F16 => Self::Half,
            DType::BF16 => Self::BHalf,
            DType::Q4_0 => Self::Affine4,
            DType::Q4_1 => Self::Affine4Min,
            DType::IQ4NL => Self::Lut4,
            DType::Q5_1 => Self::Int8Min,
            DType::Q4K => Self::Q4K,
            DType::Q6K => Self::Q6K,
            DType::Q5_0
            | DType::Q8_0
            | DType::Q8_1
            | DType::Q2K
            | DType::Q3K
            | DType::Q5K
            | DType::Q8K
            | DType::IQ4XS => Self::Int8,
        }
    }

    /// Whether it is multiplied with activations in f32, not with quantized ones.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Half | Self::BHalf | Self::Single)
    }

    /// Whether the numbers of a file's type stay what they are.
    pub fn is_lossless(dtype: DType) -> bool {
        !matches!(dtype, DType::Q2K | DType::Q3K | DType::Q5K | DType::Q8K | DType::IQ4XS)
    }

    /// Groups of a unit.
    pub const fn unit_groups(self) -> usize {
        match self {
            Self::Q4K | Self::Q6K => 8,
            Self::Half | Self::BHalf | Self::Single => 1,
            _ => 2,
        }
    }

    /// Bytes of a unit of a tile; a multiple of 64, so that units stay aligned.
    pub const fn unit_bytes(self) -> usize {
        match self {
            Self::Affine4 | Self::Lut4 => 2 * (256 + 32),
            Self::Affine4Min => 2 * (256 + 64),
            Self::Int8 => 2 * (512 + 32),
            Self::Int8Min => 2 * (512 + 64),
            Self::Q4K => q4k::BYTES,
            Self::Q6K => q6k::BYTES,
            Self::Half | Self::BHalf => GROUP * TILE * 2,
            Self::Single => GROUP * TILE * 4,
        }
    }

    /// Bytes of a group's nibbles or bytes, of 16 rows.
    const fn code_bytes(self) -> usize {
        match self {
            Self::Int8 | Self::Int8Min => 512,
            _ => 256,
        }
    }

    /// Where the nibbles or bytes of group `g` of a unit begin.
    pub const fn codes(self, g: usize) -> usize {
        match self {
            Self::Q4K => q4k::CODES + 256 * g,
            Self::Q6K => q6k::codes(g),
            Self::Affine4Min | Self::Int8Min => MINIMUM + 64 + self.code_bytes() * g,
            _ => 64 + self.code_bytes() * g,
        }
    }

    /// Units of a row of `k` numbers; the last one may be filled up with zeros.
    pub const fn units(self, k: usize) -> usize {
        k.div_ceil(self.unit_groups() * GROUP)
    }

    /// Bytes of a tile of rows of `k` numbers.
    pub const fn tile_bytes(self, k: usize) -> usize {
        self.units(k) * self.unit_bytes()
    }

    /// Bytes of a matrix.
    pub const fn matrix_bytes(self, rows: usize, k: usize) -> usize {
        rows.div_ceil(TILE) * self.tile_bytes(k)
    }
}

/// Where the minima begin in a unit of two groups, 16 f16 a group; the scales begin it.
pub const MINIMUM: usize = 64;

/// Where `Q4_K`'s parts lie in a unit of 16 rows of 256 numbers.
pub mod q4k {
    /// 16 f16.
    pub const SCALE: usize = 0;
    /// 16 f16.
    pub const MINIMUM: usize = 32;
    /// 8 groups' sub-scales, 16 bytes each.
    pub const SCALES: usize = 64;
    /// 8 groups' sub-minima.
    pub const MINIMA: usize = SCALES + 128;
    pub const CODES: usize = MINIMA + 128;
    pub const BYTES: usize = CODES + 8 * 256;
}

/// Where `Q6_K`'s parts lie in a unit of 16 rows of 256 numbers: 16 f16 that fill a line, then 4 pairs of groups.
pub mod q6k {
    pub const SCALE: usize = 0;
    /// Sub-scales of 4 half groups, then each group's upper bits and nibbles.
    const PAIR: usize = 64 + 2 * (128 + 256);
    pub const BYTES: usize = 64 + 4 * PAIR;

    /// 16 signed sub-scales of a half group.
    pub const fn scales(half: usize) -> usize {
        64 + half / 4 * PAIR + half % 4 * 16
    }

    /// The upper two bits of a group's codes: 128 bytes, a byte for each of 4 lines of codes.
    pub const fn high(g: usize) -> usize {
        64 + g / 2 * PAIR + 64 + g % 2 * (128 + 256)
    }

    pub const fn codes(g: usize) -> usize {
        high(g) + 128
    }
}

/// Why numbers have no packed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A number, scale or minimum is NaN or infinite.
    NotFinite,
    /// A group's scale or minimum would be beyond f16.
    TooLarge,
}

impl Refused {
    /// As the error that names the tensor.
    pub fn of(self, tensor: &str) -> Error {
        let holds = match self {
            Self::NotFinite => "NaN or infinite numbers",
            Self::TooLarge => "numbers too large to be quantized",
        };
        Error::model(format!("tensor `{tensor}` holds {holds}"))
            .help("the file is damaged or was converted wrongly: convert or download the model again")
    }
}

/// Writes a stored row to lane `lane` of its tile, whose bytes were all zero.
///
/// # Errors
/// When a scale or number is NaN or infinite.
///
/// # Panics
/// When the tile is too short for the row's blocks: callers checked that.
pub fn pack_row(dtype: DType, row: &[u8], tile: &mut [u8], lane: usize) -> Result<(), Refused> {
    let format = Format::of(dtype);
    if format.is_float() {
        return float::pack_row(format, row, tile, lane);
    }
    let mut place = Place { format, tile, lane };
    for (i, block) in row.chunks_exact(dtype.block_bytes()).enumerate() {
        match dtype {
            DType::Q4K => place.q4k(i, block)?,
            DType::Q6K => place.q6k(i, block)?,
            _ if dtype.block_len() == GROUP => place.group(i, &group(dtype, block))?,
            _ => {
                for (j, numbers) in numbers(dtype, block).as_chunks::<GROUP>().0.iter().enumerate() {
                    place.group(i * dtype.block_len() / GROUP + j, &rounded(numbers)?)?;
                }
            }
        }
    }
    Ok(())
}

/// 32 numbers: scale · code + min.
struct Group {
    /// Nibbles, or signed bytes as they are.
    codes: [u8; GROUP],
    scale: f16,
    min: f16,
}

/// A block of 32 of the file.
fn group(dtype: DType, block: &[u8]) -> Group {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
    let nibbles = |from: usize| -> [u8; GROUP] {
        let bytes = &block[from..][..16];
        std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
    };
    let five = |high: usize, less: u8| -> [u8; GROUP] {
        let low = nibbles(high + 4);
        std::array::from_fn(|i| (low[i] | (block[high + i / 8] >> (i % 8) & 1) << 4).wrapping_sub(less))
    };
    let bytes = |from: usize| {
        let bytes = &block[from..][..GROUP];
        std::array::from_fn(|i| bytes[i])
    };
    let (codes, min) = match dtype {
        DType::Q4_0 | DType::IQ4NL => (nibbles(2), f16::ZERO),
        DType::Q4_1 => (nibbles(4), half(2)),
        DType::Q5_0 => (five(2, 16), f16::ZERO),
        DType::Q5_1 => (five(4, 0), half(2)),
        DType::Q8_0 => (bytes(2), f16::ZERO),
        DType::Q8_1 => (bytes(4), f16::ZERO),
        _ => unreachable!("{dtype} has no blocks of 32"),
    };
    Group { codes, scale: half(0), min }
}

/// The numbers of a block of 256.
fn numbers(dtype: DType, block: &[u8]) -> [f32; 256] {
    let mut out = [f32::NAN; 256];
    // A failure leaves NaN, which the caller refuses.
    let _ = dequantize(dtype, block, &mut out);
    out
}

/// 32 numbers to the nearest of 255 steps.
fn rounded(numbers: &[f32; GROUP]) -> Result<Group, Refused> {
    let largest = numbers.iter().fold(0.0f32, |m, x| if x.is_nan() { f32::NAN } else { m.max(x.abs()) });
    let scale = f16::from_f32(largest / 127.0);
    if !largest.is_finite() || !scale.is_finite() {
        return Err(Refused::NotFinite);
    }
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let codes = numbers.map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8);
    Ok(Group { codes, scale, min: f16::ZERO })
}

/// One row's lane of a tile.
struct Place<'a> {
    format: Format,
    tile: &'a mut [u8],
    lane: usize,
}

impl Place<'_> {
    /// Group `i` of the row, in one of the formats of two groups a unit.
    fn group(&mut self, i: usize, group: &Group) -> Result<(), Refused> {
        let (unit, i) = (i / 2 * self.format.unit_bytes(), i % 2);
        if self.format.code_bytes() == 512 {
            self.bytes(unit + self.format.codes(i), &group.codes);
        } else {
            self.nibbles(unit + self.format.codes(i), &group.codes);
        }
        self.half(unit + i * 32, group.scale)?;
        if matches!(self.format, Format::Affine4Min | Format::Int8Min) {
            self.half(unit + MINIMUM + i * 32, group.min)?;
        }
        Ok(())
    }

    /// A block of `Q4_K`: two f16, 8 groups' sub-scales and sub-minima of 6 bits in 12 bytes, 128 bytes of nibbles.
    fn q4k(&mut self, i: usize, block: &[u8]) -> Result<(), Refused> {
        let unit = i * q4k::BYTES;
        let (halves, packed, codes) = (&block[..4], &block[4..16], &block[16..]);
        for g in 0..8 {
            let (scale, min) = if g < 4 {
                (packed[g] & 63, packed[g + 4] & 63)
            } else {
                (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4)
            };
            self.tile[unit + q4k::SCALES + 16 * g + self.lane] = scale;
            self.tile[unit + q4k::MINIMA + 16 * g + self.lane] = min;
            let bytes = &codes[g / 2 * 32..][..32];
            self.nibbles(unit + self.format.codes(g), &std::array::from_fn(|j| bytes[j] >> (4 * (g % 2)) & 15));
        }
        self.half(unit + q4k::SCALE, f16::from_le_bytes([halves[0], halves[1]]))?;
        self.half(unit + q4k::MINIMUM, f16::from_le_bytes([halves[2], halves[3]]))
    }

    /// A block of `Q6_K`: 128 bytes of low nibbles, 64 of upper two bits, 16 sub-scales, an f16. Each half of it
    /// interleaves four groups.
    fn q6k(&mut self, i: usize, block: &[u8]) -> Result<(), Refused> {
        let unit = i * q6k::BYTES;
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        for g in 0..8 {
            let (half, which) = (g / 4, g % 4);
            let low = &low[64 * half + 32 * (which % 2)..][..32];
            let high = &high[32 * half..][..32];
            self.nibbles(unit + q6k::codes(g), &std::array::from_fn(|j| low[j] >> (4 * (which / 2)) & 15));
            for (j, byte) in high.iter().enumerate() {
                let line = j / 4;
                let at = unit + q6k::high(g) + 64 * (line / 4) + 4 * self.lane + j % 4;
                self.tile[at] |= (byte >> (2 * which) & 3) << (2 * (line % 4));
            }
            for h in 0..2 {
                self.tile[unit + q6k::scales(2 * g + h) + self.lane] = scales[2 * g + h];
            }
        }
        self.half(unit + q6k::SCALE, f16::from_le_bytes([block[208], block[209]]))
    }

    fn nibbles(&mut self, at: usize, codes: &[u8; GROUP]) {
        for (line, codes) in codes.as_chunks::<8>().0.iter().enumerate() {
            let four: [u8; 4] = std::array::from_fn(|j| codes[j] | codes[j + 4] << 4);
            self.tile[at + 64 * line + 4 * self.lane..][..4].copy_from_slice(&four);
        }
    }

    /// Bytes biased by 128.
    fn bytes(&mut self, at: usize, codes: &[u8; GROUP]) {
        for (line, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
            let four = codes.map(|code| code ^ 0x80);
            self.tile[at + 64 * line + 4 * self.lane..][..4].copy_from_slice(&four);
        }
    }

    fn half(&mut self, at: usize, value: f16) -> Result<(), Refused> {
        if !value.is_finite() {
            return Err(Refused::NotFinite);
        }
        self.tile[at + 2 * self.lane..][..2].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

/// The numbers of one row of a tile: what its codes mean. For embeddings, and to check kernels by.
///
/// # Panics
/// When the tile is too short for `out.len()` numbers.
pub fn unpack_row(format: Format, codebook: &[i8; 16], tile: &[u8], lane: usize, out: &mut [f32]) {
    if format.is_float() {
        return float::unpack_row(format, tile, lane, out);
    }
    for (g, out) in out.chunks_mut(GROUP).enumerate() {
        let unit = &tile[g / format.unit_groups() * format.unit_bytes()..][..format.unit_bytes()];
        let g = g % format.unit_groups();
        let half = |at: usize| f16::from_le_bytes([unit[at + 2 * lane], unit[at + 2 * lane + 1]]).to_f32();
        let byte = |i: usize| unit[format.codes(g) + 64 * (i / 4) + 4 * lane + i % 4];
        let nibble = |i: usize| byte(i / 8 * 4 + i % 4) >> (i % 8 / 4 * 4) & 15;
        for (i, x) in out.iter_mut().enumerate() {
            *x = match format {
                Format::Affine4 => half(32 * g) * (f32::from(nibble(i)) - 8.0),
                Format::Lut4 => half(32 * g) * f32::from(codebook[usize::from(nibble(i))]),
                Format::Affine4Min => half(32 * g) * f32::from(nibble(i)) + half(MINIMUM + 32 * g),
                Format::Int8 => half(32 * g) * f32::from((byte(i) ^ 0x80) as i8),
                Format::Int8Min => half(32 * g) * f32::from((byte(i) ^ 0x80) as i8) + half(MINIMUM + 32 * g),
                Format::Q4K => {
                    let (scale, min) = (unit[q4k::SCALES + 16 * g + lane], unit[q4k::MINIMA + 16 * g + lane]);
                    half(q4k::SCALE) * f32::from(scale) * f32::from(nibble(i)) - half(q4k::MINIMUM) * f32::from(min)
                }
                Format::Q6K => {
                    let line = i / 4;
                    let high = unit[q6k::high(g) + 64 * (line / 4) + 4 * lane + i % 4] >> (2 * (line % 4)) & 3;
                    let scale = unit[q6k::scales(2 * g + i / 16) + lane] as i8;
                    let code = i32::from(nibble(i) | high << 4) - 32;
                    half(q6k::SCALE) * f32::from(scale) * code as f32
                }
                Format::Half | Format::BHalf | Format::Single => unreachable!("floating-point rows were read above"),
            };
        }
    }
}

/// The codebook of the files' type; of no meaning to formats without one.
pub const CODEBOOK: [i8; 16] = IQ4_CODEBOOK;

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of random bits with scales that are numbers.
    fn row(dtype: DType, k: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as u8
        };
        let mut row: Vec<u8> = (0..dtype.bytes_of(k).unwrap()).map(|_| next()).collect();
        for block in row.chunks_exact_mut(dtype.block_bytes()) {
            let halves: &[usize] = match dtype {
                DType::F32 => &[2],
                DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
                DType::Q6K => &[208],
                DType::Q2K => &[80, 82],
                DType::Q3K => &[108],
                DType::Q8K => {
                    block[..4].copy_from_slice(&0.013f32.to_le_bytes());
                    &[]
                }
                _ => &[0],
            };
            for at in halves {
                block[at + 1] = block[at + 1] & 0x83 | 0x20; // an exponent in the middle
            }
        }
        row
    }

    #[test]
    fn packed_rows_mean_what_the_file_says() {
        for dtype in DType::ALL.iter().copied() {
            let format = Format::of(dtype);
            for k in [256, 768] {
                let mut tile = vec![0; format.tile_bytes(k)];
                let rows: Vec<Vec<u8>> = (0..TILE).map(|lane| row(dtype, k, 7 + lane as u64)).collect();
                for (lane, row) in rows.iter().enumerate() {
                    pack_row(dtype, row, &mut tile, lane).unwrap();
                }
                for (lane, row) in rows.iter().enumerate() {
                    let (mut expected, mut got) = (vec![0.0; k], vec![0.0; k]);
                    dequantize(dtype, row, &mut expected).unwrap();
                    unpack_row(format, &CODEBOOK, &tile, lane, &mut got);
                    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let allowed = match dtype {
                        _ if format.is_float() => 0.0,
                        _ if Format::is_lossless(dtype) => 1e-6,
                        _ => 0.5 / 127.0 + 1e-3,
                    } * largest;
                    for (e, g) in expected.iter().zip(&got) {
                        assert!((e - g).abs() <= allowed, "{dtype}, lane {lane}: {e} became {g}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_odd_number_of_groups_is_filled_up_with_zeros() {
        let k = 3 * GROUP;
        let mut tile = vec![0; Format::Affine4.tile_bytes(k)];
        assert_eq!(tile.len(), 2 * 576);
        pack_row(DType::Q4_0, &row(DType::Q4_0, k, 1), &mut tile, 5).unwrap();
        let mut out = vec![1.0; 4 * GROUP];
        unpack_row(Format::Affine4, &CODEBOOK, &tile, 5, &mut out);
        assert!(out[..k].iter().any(|x| *x != 0.0) && out[k..].iter().all(|x| *x == 0.0));
    }

    #[test]
    fn scales_that_are_no_numbers_are_refused() {
        let floats = [(DType::F16, 511), (DType::BF16, 511), (DType::F32, 1023)]; // the last numbers
        let scales = [(DType::Q4_0, 1), (DType::Q4_1, 3), (DType::Q4K, 3), (DType::Q6K, 209), (DType::Q2K, 81)];
        for (dtype, at) in scales.into_iter().chain(floats) {
            let mut bad = row(dtype, 256, 3);
            bad[at] = if matches!(dtype, DType::BF16 | DType::F32) { 0x7f } else { 0x7c };
            bad[at - 1] |= 0x80; // the lowest bit of an exponent of 8
            let mut tile = vec![0; Format::of(dtype).tile_bytes(256)];
            assert_eq!(pack_row(dtype, &bad, &mut tile, 0), Err(Refused::NotFinite), "{dtype}");
        }
    }
}
