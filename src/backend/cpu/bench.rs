//! One kernel at a time, for `benches/kernels.rs`. Kernels are unsafe to call, and private; here each comes with inputs of
//! its own that make it safe.
//!
//! Weights and pages may be many times what one run reads. Runs then go round in them, so that each finds its part in
//! memory and not in a cache, as a step of a model does.
#![expect(unsafe_code, reason = "kernels are unsafe to call")]

use half::{bf16, f16};

use super::attention::{CHUNK, Chunk, PARTIAL_HEAD, Query, SCRATCH};
use super::kernels::{Isa, Kernels};
use super::matmul::{GROUP_BYTES, Job};
use super::memory::{Part, Region, part_bytes};
use super::pages::{Pages, block_bytes};
use super::rows::{Groups, Lane, Rest};
use super::step::{Forms, Panel, Panels, panels};
use crate::backend::{KvType, PAGE, PageId};
use crate::error::{Error, Result};
use crate::format::dequantize::IQ4_CODEBOOK;
use crate::format::packed::{Format, GROUP, TILE, pack_row};
use crate::format::{DType, random};

/// Numbers of a row of weights: the hidden size of TinyLlama and of Llama 3.2 1B.
const K: usize = 2048;
/// Numbers of a head of attention.
const HEAD_DIM: usize = 64;
/// Query heads that share a key head, as in `SmolLM2`.
const HEADS: usize = 3;

/// Packed weights times rows of activations.
pub struct Matmul {
    kernels: &'static Kernels,
    format: Format,
    /// (tiles, tile bytes)
    weights: Part<u8>,
    tiles: usize,
    /// Tiles of a run.
    at_once: usize,
    /// The next run's first.
    next: usize,
    activations: Panels,
    panels: Vec<Panel>,
    /// (rows, `at_once` · 16)
    out: Part<f32>,
    _region: Region,
}

impl Matmul {
    /// `rows` rows of activations for about `bytes` of weights, of which a run takes about `at_once`.
    ///
    /// # Errors
    /// When the processor has not the instructions, or the system not the memory.
    pub fn new(isa: Isa, format: Format, bytes: usize, at_once: usize, rows: usize) -> Result<Self> {
        let kernels = Kernels::of(isa)?;
        let tile = tile(format)?;
        let at_once = tiles_of(format, at_once);
        let tiles = (bytes / tile.len() / at_once).max(1) * at_once;
        let is_float = format.is_float();
        let mut region = Region::new(
            part_bytes::<u8>(tiles * tile.len())
                + Panels::bytes(rows, K, false, is_float)
                + part_bytes::<f32>(rows * at_once * TILE)
                + part_bytes::<f32>(K),
        )?;
        let weights = region.take(tiles * tile.len())?;
        let activations = Panels::new(&mut region, rows, K, false, is_float)?;
        let (out, row) = (region.take(rows * at_once * TILE)?, region.take(K)?);
        let panels: Vec<Panel> = panels(rows, kernels.max_panel).collect();
        // SAFETY: nobody else has the region, and the panels have room for the rows.
        unsafe {
            weights.slice_mut(0, weights.len()).chunks_exact_mut(tile.len()).for_each(|to| to.copy_from_slice(&tile));
            for (panel, i) in panels.iter().flat_map(|panel| (0..panel.rows).map(move |i| (panel, i))) {
                row.slice_mut(0, K).copy_from_slice(&numbers(panel.first + i, K));
                let forms = Forms { codes: !is_float, numbers: is_float };
                activations.place(*panel, i, forms).put(kernels, row.at(0), Groups::whole(K));
            }
        }
        Ok(Self { kernels, format, weights, tiles, at_once, next: 0, activations, panels, out, _region: region })
    }

    /// Bytes of weights that a run of about `at_once` reads.
    pub fn bytes(format: Format, at_once: usize) -> u64 {
        (tiles_of(format, at_once) * format.tile_bytes(K)) as u64
    }

    /// Products that it adds up.
    pub fn multiply_adds(format: Format, at_once: usize, rows: usize) -> u64 {
        (tiles_of(format, at_once) * TILE * K * rows) as u64
    }

    /// Multiplies the next tiles, in the order in which a step does: with one panel the weights once through, with several
    /// each tile for all of them.
    pub fn run(&mut self) {
        let tiles = if self.panels.len() == 1 { self.at_once } else { 1 };
        let stride = self.at_once * TILE;
        for tile in (0..self.at_once).step_by(tiles) {
            for panel in &self.panels {
                let is_float = self.format.is_float();
                let job = Job {
                    format: self.format,
                    weights: self.weights.at((self.next + tile) * self.format.tile_bytes(K)),
                    tiles,
                    units: self.format.units(K),
                    codebook: IQ4_CODEBOOK.map(|c| (c as u8) ^ 0x80),
                    panel: if is_float { self.activations.numbers(*panel).cast() } else { self.activations.at(*panel) },
                    rest: std::ptr::null(),
                    rest_flags: std::ptr::null(),
                    width: panel.width,
                    rows: panel.rows,
                    out: self.out.at(panel.first * stride + tile * TILE),
                    stride,
                    last_lanes: TILE,
                    add: false,
                };
                // SAFETY: the job says what `new` laid out.
                unsafe { (self.kernels.matmul)(&job) };
            }
        }
        self.next = (self.next + self.at_once) % self.tiles;
    }
}

/// Whole tiles of about so many bytes.
fn tiles_of(format: Format, bytes: usize) -> usize {
    (bytes / format.tile_bytes(K)).max(1)
}

/// A tile of random numbers in a format.
fn tile(format: Format) -> Result<Vec<u8>> {
    let dtype = match format {
        Format::Affine4 => DType::Q4_0,
        Format::Affine4Min => DType::Q4_1,
        Format::Lut4 => DType::IQ4NL,
        Format::Int8 => DType::Q8_0,
        Format::Int8Min => DType::Q5_1,
        Format::Q4K => DType::Q4K,
        Format::Q6K => DType::Q6K,
        Format::Half => DType::F16,
        Format::BHalf => DType::BF16,
        Format::Single => DType::F32,
    };
    let none = || Error::runtime(format!("there are no random numbers in {dtype}"));
    let made = if format.is_float() { DType::F16 } else { dtype };
    let halves = || random::tensor(1, 0, made, TILE * K).ok_or_else(none);
    let wide = |bytes: [u8; 2]| f16::from_le_bytes(bytes).to_f32();
    let stored = match dtype {
        DType::BF16 => halves()?.as_chunks().0.iter().flat_map(|x| bf16::from_f32(wide(*x)).to_le_bytes()).collect(),
        DType::F32 => halves()?.as_chunks().0.iter().flat_map(|x| wide(*x).to_le_bytes()).collect(),
        _ => halves()?,
    };
    let mut tile = vec![0; format.tile_bytes(K)];
    for (lane, row) in stored.chunks_exact(stored.len() / TILE).enumerate() {
        pack_row(dtype, row, &mut tile, lane).map_err(|e| e.of("random"))?;
    }
    Ok(tile)
}

/// `n` numbers between −1 and 1 that repeat late: multiples of an irrational number.
fn numbers(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| 2.0 * ((seed * n + i) as f32 * 0.618_034).fract() - 1.0).collect()
}

/// The queries of one key head over a context of f32, f16 or 8-bit keys and values.
pub struct Attention {
    kernels: &'static Kernels,
    context: usize,
    kv_type: KvType,
    /// Layers, each with pages of its own; a run takes the next.
    layers: usize,
    next: usize,
    bytes: Part<u8>,
    table: Vec<PageId>,
    /// (heads, `HEAD_DIM`)
    query: Part<f32>,
    /// (heads, chunks, partial)
    partials: Part<f32>,
    scratch: Part<f32>,
    /// (heads, `HEAD_DIM`)
    out: Part<f32>,
    _region: Region,
}

/// Numbers of a partial result.
const PARTIAL: usize = PARTIAL_HEAD + HEAD_DIM;

impl Attention {
    /// Three query heads over `context` positions, a multiple of a page's, in as many layers as take about `bytes`.
    ///
    /// # Errors
    /// When the processor has not the instructions, or the system not the memory.
    pub fn new(isa: Isa, kv_type: KvType, context: usize, bytes: usize) -> Result<Self> {
        let kernels = Kernels::of(isa)?;
        let pages = context.div_ceil(PAGE);
        let pair = 2 * block_bytes(kv_type, HEAD_DIM);
        let layers = (bytes / (pages * pair)).max(1);
        let partials = HEADS * context.div_ceil(CHUNK) * PARTIAL;
        let mut region = Region::new(
            part_bytes::<u8>(layers * pages * pair)
                + 2 * part_bytes::<f32>(HEADS * HEAD_DIM)
                + part_bytes::<f32>(partials)
                + part_bytes::<f32>(SCRATCH),
        )?;
        let this = Self {
            kernels,
            context,
            kv_type,
            layers,
            next: 0,
            bytes: region.take(layers * pages * pair)?,
            table: (0..pages as PageId).collect(),
            query: region.take(HEADS * HEAD_DIM)?,
            partials: region.take(partials)?,
            scratch: region.take(SCRATCH)?,
            out: region.take(HEADS * HEAD_DIM)?,
            _region: region,
        };
        let first = this.pages(0);
        // SAFETY: nobody else has the region; keys and values are a whole head's.
        unsafe {
            this.query.slice_mut(0, HEADS * HEAD_DIM).copy_from_slice(&numbers(0, HEADS * HEAD_DIM));
            for offset in 0..PAGE {
                let (key, value) = (numbers(1 + offset, HEAD_DIM), numbers(1 + PAGE + offset, HEAD_DIM));
                (kernels.write_kv)(&first, 0, offset, 0..HEAD_DIM, key.as_ptr(), value.as_ptr());
            }
            let (page, others) = this.bytes.slice_mut(0, this.bytes.len()).split_at_mut(pair);
            others.chunks_exact_mut(pair).for_each(|to| to.copy_from_slice(page));
        }
        Ok(this)
    }

    /// (pages, layers, K | V): as in a cache.
    fn pages(&self, layer: usize) -> Pages {
        let block = block_bytes(self.kv_type, HEAD_DIM);
        Pages {
            base: self.bytes.at(layer * 2 * block),
            page_bytes: self.layers * 2 * block,
            keys: 0,
            values: block,
            kv_type: self.kv_type,
            head_dim: HEAD_DIM,
        }
    }

    /// Bytes of keys and values that a run reads.
    pub fn bytes(kv_type: KvType, context: usize) -> u64 {
        (context.div_ceil(PAGE) * 2 * block_bytes(kv_type, HEAD_DIM)) as u64
    }

    /// Attention of the three heads over the next layer's pages.
    pub fn run(&mut self) {
        let (pages, chunks) = (self.pages(self.next), self.context.div_ceil(CHUNK));
        for chunk in 0..chunks {
            let queries: [Query; HEADS] = std::array::from_fn(|head| Query {
                numbers: self.query.at(head * HEAD_DIM),
                first: 0,
                end: self.context,
                partial: self.partials.at((head * chunks + chunk) * PARTIAL),
            });
            let next = pages.keys(self.table[(chunk + 1) % chunks * CHUNK / PAGE]);
            let chunk = Chunk { number: chunk, next };
            // SAFETY: the table has the pages of all positions; partials and scratch are as large as is asked for.
            unsafe { (self.kernels.attend)(&queries, chunk, &pages, &self.table, self.scratch.at(0)) };
        }
        for head in 0..HEADS {
            let (partials, out) = (self.partials.at(head * chunks * PARTIAL), self.out.at(head * HEAD_DIM));
            // SAFETY: the partials were just written.
            unsafe { (self.kernels.join)(partials, chunks, PARTIAL, HEAD_DIM, out) };
        }
        self.next = (self.next + 1) % self.layers;
    }
}

/// A kernel that goes over one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKernel {
    Norm,
    Quantize,
    /// One group of 64 is an outlier.
    QuantizeWithRests,
    Swiglu,
}

impl RowKernel {
    pub const ALL: [Self; 4] = [Self::Norm, Self::Quantize, Self::QuantizeWithRests, Self::Swiglu];

    pub fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm",
            Self::Quantize => "quantize",
            Self::QuantizeWithRests => "quantize with rests",
            Self::Swiglu => "swiglu",
        }
    }

    /// Bytes of numbers that a run reads: a row, of `SwiGLU` two.
    pub fn bytes(self) -> u64 {
        let rows = if self == Self::Swiglu { 2 } else { 1 };
        (rows * K * size_of::<f32>()) as u64
    }
}

/// What is between the matrices, on one row of 2048 numbers that stays in the first-level cache.
pub struct Row {
    kernels: &'static Kernels,
    kernel: RowKernel,
    x: Vec<f32>,
    weight: Vec<f32>,
    out: Vec<f32>,
    panel: Vec<u8>,
    rests: Vec<u8>,
    flags: Vec<u8>,
}

impl Row {
    /// # Errors
    /// When the processor has not the instructions.
    pub fn new(isa: Isa, kernel: RowKernel) -> Result<Self> {
        let groups = K / GROUP;
        let mut x = numbers(0, K);
        match kernel {
            RowKernel::QuantizeWithRests => x[K / 2] = 50.0,
            // From here on SwiGLU leaves them as they are, times 1: it writes over what it reads, run after run.
            RowKernel::Swiglu => x.iter_mut().for_each(|x| *x += 25.0),
            RowKernel::Norm | RowKernel::Quantize => {}
        }
        Ok(Self {
            kernels: Kernels::of(isa)?,
            kernel,
            x,
            weight: vec![1.0; K],
            out: vec![0.0; K],
            panel: vec![0; groups * GROUP_BYTES],
            rests: vec![0; groups * GROUP_BYTES],
            flags: vec![0; groups],
        })
    }

    pub fn run(&mut self) {
        let Self { kernels, x, weight, out, panel, rests, flags, .. } = self;
        let lane = Lane { panel: panel.as_mut_ptr(), width: 1, row: 0 };
        // SAFETY: rows have K numbers, panels and flags room for their groups.
        unsafe {
            match self.kernel {
                RowKernel::Norm => (kernels.norm)(x.as_ptr(), weight.as_ptr(), 1e-5, K, out.as_mut_ptr()),
                RowKernel::Quantize => (kernels.quantize)(x.as_ptr(), Groups::whole(K), lane),
                RowKernel::QuantizeWithRests => {
                    let rest = Rest { panel: rests.as_mut_ptr(), flags: flags.as_mut_ptr() };
                    (kernels.quantize_with_rest)(x.as_ptr(), K / GROUP, lane, rest);
                }
                RowKernel::Swiglu => (kernels.swiglu)(x.as_mut_ptr(), weight.as_ptr(), K),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets() -> impl Iterator<Item = Isa> {
        Isa::ALL.iter().copied().filter(|isa| isa.is_available())
    }

    fn bits(part: Part<f32>) -> Vec<u32> {
        // SAFETY: nothing runs meanwhile.
        unsafe { part.slice(0, part.len()) }.iter().map(|x| x.to_bits()).collect()
    }

    fn is_ordinary(bits: &[u32]) -> bool {
        bits.iter().all(|x| f32::from_bits(*x).is_normal())
    }

    #[test]
    fn products_that_are_measured_are_whole_and_the_same_on_every_instruction_set() {
        for (format, rows) in Format::ALL.into_iter().flat_map(|format| [1, 4, 12].map(|rows| (format, rows))) {
            let tile = format.tile_bytes(K);
            let results = |isa: Isa| {
                let mut matmul = Matmul::new(isa, format, 4 * tile, 2 * tile, rows).unwrap();
                let runs = [(); 3].map(|()| {
                    matmul.run();
                    bits(matmul.out)
                });
                assert_eq!(matmul.next, 2, "the third run is the first again");
                assert!(runs.iter().all(|run| *run == runs[0]), "all tiles are alike");
                runs[0].clone()
            };
            let plain = results(Isa::Scalar);
            assert!(is_ordinary(&plain), "{format:?} x {rows}: {plain:?}");
            for isa in sets() {
                assert_eq!(results(isa), plain, "{format:?} x {rows}, {}", isa.name());
            }
            assert_eq!(Matmul::bytes(format, 2 * tile + 1), 2 * tile as u64);
            assert_eq!(Matmul::multiply_adds(format, 2 * tile, rows), (2 * 16 * 2048 * rows) as u64);
        }
    }

    #[test]
    fn attention_that_is_measured_is_the_same_in_all_layers_and_on_every_instruction_set() {
        for (kv_type, context) in [KvType::F32, KvType::F16, KvType::Q8_0].into_iter().flat_map(|t| [(t, 64), (t, 160)])
        {
            let bytes = 2 * Attention::bytes(kv_type, context) as usize;
            let results = |isa: Isa| {
                let mut attention = Attention::new(isa, kv_type, context, bytes).unwrap();
                assert_eq!(attention.layers, 2);
                let runs = [(); 3].map(|()| {
                    attention.run();
                    bits(attention.out)
                });
                assert!(runs.iter().all(|run| *run == runs[0]));
                runs[0].clone()
            };
            let plain = results(Isa::Scalar);
            assert!(is_ordinary(&plain), "{kv_type:?}, {context}: {plain:?}");
            for isa in sets() {
                assert_eq!(results(isa), plain, "{kv_type:?}, {context}, {}", isa.name());
            }
        }
    }

    #[test]
    fn rows_that_are_measured_stay_what_they_are() {
        for isa in sets() {
            let [mut rests, mut swiglu] =
                [RowKernel::QuantizeWithRests, RowKernel::Swiglu].map(|kernel| Row::new(isa, kernel).unwrap());
            rests.run();
            assert_eq!(rests.flags.iter().map(|flag| u32::from(*flag)).sum::<u32>(), 1, "one group is an outlier");
            let before = swiglu.x.clone();
            swiglu.run();
            assert_eq!(swiglu.x, before, "{}", isa.name());
        }
    }
}
