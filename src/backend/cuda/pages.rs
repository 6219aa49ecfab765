//! Pages of keys and values: (layers, K | V, `kv_heads`, `PAGE`, `head_dim`), in f32, f16 or 8 bits, see `kept.cuh`.

use super::Cuda;
use super::args::{Cache, Keep};
use super::gpu::Address;
use crate::backend::{KvType, PAGE, PageId, PageOp};
use crate::error::{Error, Result};
use crate::model::config::Config;

/// Bytes of a scale, which a head's numbers of a token have in 8 bits.
const SCALE: usize = size_of::<f32>();
/// The largest code, and the largest number that is kept: 127 of its scale do not round to infinity.
const LARGEST: f32 = 127.0;
const MOST: f32 = 3e38;
/// Warps of a block of `keep.cu`, a head each.
const WARPS: usize = 8;

/// `Kept` of `kept.cuh`.
pub fn kept(kv_type: KvType) -> i32 {
    match kv_type {
        KvType::F32 => 0,
        KvType::F16 => 1,
        KvType::Q8_0 => 2,
    }
}

/// Bytes of a number, or a code.
fn unit_bytes(kv_type: KvType) -> usize {
    match kv_type {
        KvType::F32 => 4,
        KvType::F16 => 2,
        KvType::Q8_0 => 1,
    }
}

/// Units of a block: one head's keys, or values, of a page.
fn block_units(kv_type: KvType, head_dim: usize) -> usize {
    PAGE * (head_dim + if kv_type == KvType::Q8_0 { SCALE } else { 0 })
}

/// Units of a page.
fn units(config: &Config, kv_type: KvType) -> usize {
    2 * config.layers * config.kv_heads * block_units(kv_type, config.head_dim)
}

/// Bytes of a page.
pub fn bytes(config: &Config, kv_type: KvType) -> usize {
    units(config, kv_type) * unit_bytes(kv_type)
}

/// The scale of a head's numbers: `cpu/pages.rs` has the same.
fn scale(numbers: &[f32]) -> f32 {
    let largest = numbers.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let scale = largest.min(MOST) / LARGEST;
    if scale < f32::MIN_POSITIVE { 0.0 } else { scale }
}

/// The nearest code, halves to even. What is no number gets one too, the same everywhere.
fn code(x: f32) -> i8 {
    if x.is_nan() { -LARGEST as i8 } else { x.clamp(-LARGEST, LARGEST).round_ties_even() as i8 }
}

/// A token's numbers of a head: where they begin among [`PageOp`]'s, and in which block they are.
struct Line {
    here: usize,
    block: usize,
    token: usize,
}

impl Cuda {
    /// Units from one page to the next.
    pub fn page_units(&self) -> i64 {
        units(&self.model.config, self.options.kv_type) as i64
    }

    /// Units from a page's first to a layer's.
    pub fn layer_offset(&self, layer: usize) -> i64 {
        (self.page_units() as usize / self.model.config.layers * layer) as i64
    }

    /// Where qkv leaves keys and values, and the rows' places there: in their pages, or all in f32, until the scales of heads are known.
    pub fn new_rows(&self, layer: usize, cells: Address) -> (Cache, Address) {
        let config = &self.model.config;
        let (kv_heads, head_dim) = (config.kv_heads as i32, config.head_dim as i32);
        if self.options.kv_type == KvType::Q8_0 {
            let page = (2 * config.kv_heads * block_units(KvType::F32, config.head_dim)) as i64;
            let cache = Cache { bytes: self.buffers.new_rows, page, layer: 0, kv_heads, head_dim, is_half: 0, pad: 0 };
            return (cache, self.buffers.in_order);
        }
        let is_half = (self.options.kv_type == KvType::F16).into();
        let (page, layer) = (self.page_units(), self.layer_offset(layer));
        (Cache { bytes: self.pages, page, layer, kv_heads, head_dim, is_half, pad: 0 }, cells)
    }

    /// Brings what qkv left to its pages, if it is not there.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn keep(&mut self, layer: usize, rows: usize, cells: Address) -> Result<()> {
        if self.options.kv_type != KvType::Q8_0 {
            return Ok(());
        }
        let config = &self.model.config;
        let args = Keep {
            numbers: self.buffers.new_rows,
            cache: self.pages,
            page: self.page_units(),
            layer: self.layer_offset(layer),
            places: cells,
            kv_heads: config.kv_heads as i32,
            head_dim: config.head_dim as i32,
        };
        let blocks = (2 * config.kv_heads).div_ceil(WARPS) as u32;
        self.waiting("keep_rows", [blocks, rows as u32, 1], args)
    }

    /// # Errors
    /// A page outside the pool, numbers that are not a page's, or when the GPU fails.
    pub fn page_op(&mut self, op: PageOp<'_>) -> Result<()> {
        let bytes = bytes(&self.model.config, self.options.kv_type);
        match op {
            PageOp::Copy { from, to } => {
                let (from, to) = (self.page_address(from)?, self.page_address(to)?);
                self.gpu.copy(from, to, bytes)
            }
            PageOp::Read { page, into } => {
                let at = self.page_address(page)?;
                self.check_page(into.len())?;
                let mut stored = vec![0; bytes];
                self.gpu.read(at, &mut stored)?;
                for line in self.lines() {
                    self.read_line(&stored, &line, &mut into[line.here..][..self.model.config.head_dim]);
                }
                Ok(())
            }
            PageOp::Write { page, from } => {
                let at = self.page_address(page)?;
                self.check_page(from.len())?;
                let mut stored = vec![0; bytes];
                for line in self.lines() {
                    self.write_line(&mut stored, &line, &from[line.here..][..self.model.config.head_dim]);
                }
                self.gpu.write(at, &stored)
            }
        }
    }

    fn read_line(&self, stored: &[u8], line: &Line, into: &mut [f32]) {
        let (at, scale_at) = self.places_of(line);
        match self.options.kv_type {
            KvType::F32 => {
                let numbers = stored[at..].as_chunks().0;
                into.iter_mut().zip(numbers).for_each(|(x, bytes)| *x = f32::from_le_bytes(*bytes));
            }
            KvType::F16 => {
                let numbers = stored[at..].as_chunks().0;
                into.iter_mut().zip(numbers).for_each(|(x, bytes)| *x = half::f16::from_le_bytes(*bytes).to_f32());
            }
            KvType::Q8_0 => {
                let scale = f32::from_le_bytes(std::array::from_fn(|i| stored[scale_at + i]));
                into.iter_mut().zip(&stored[at..]).for_each(|(x, code)| *x = f32::from(*code as i8) * scale);
            }
        }
    }

    fn write_line(&self, stored: &mut [u8], line: &Line, from: &[f32]) {
        let (at, scale_at) = self.places_of(line);
        match self.options.kv_type {
            KvType::F32 => {
                let numbers = stored[at..].as_chunks_mut().0;
                numbers.iter_mut().zip(from).for_each(|(bytes, x)| *bytes = x.to_le_bytes());
            }
            KvType::F16 => {
                let numbers = stored[at..].as_chunks_mut().0;
                numbers.iter_mut().zip(from).for_each(|(bytes, x)| *bytes = half::f16::from_f32(*x).to_le_bytes());
            }
            KvType::Q8_0 => {
                let scale = scale(from);
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                stored[at..].iter_mut().zip(from).for_each(|(to, x)| *to = code(x * inverse) as u8);
                stored[scale_at..][..SCALE].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }

    fn page_address(&self, page: PageId) -> Result<Address> {
        if page as usize >= self.limits.pages {
            return Err(Error::runtime(format!("page {page} is outside the pool of {}", self.limits.pages)));
        }
        Ok(self.pages + u64::from(page) * bytes(&self.model.config, self.options.kv_type) as u64)
    }

    /// A page's numbers, in the order of [`PageOp`]'s.
    fn lines(&self) -> impl Iterator<Item = Line> + use<> {
        let Config { layers, kv_heads, head_dim, .. } = self.model.config;
        (0..2 * layers * PAGE * kv_heads).map(move |row| Line {
            here: row * head_dim,
            block: row / kv_heads / PAGE * kv_heads + row % kv_heads,
            token: row / kv_heads % PAGE,
        })
    }

    /// The page's bytes at which a line begins, and at which its scale does.
    fn places_of(&self, line: &Line) -> (usize, usize) {
        let (kv_type, head_dim) = (self.options.kv_type, self.model.config.head_dim);
        let unit = unit_bytes(kv_type);
        let block = line.block * block_units(kv_type, head_dim) * unit;
        (block + line.token * head_dim * unit, block + PAGE * head_dim + line.token * SCALE)
    }

    fn check_page(&self, len: usize) -> Result<()> {
        let needed = 2 * self.model.config.layers * self.model.config.kv_dim() * PAGE;
        if len != needed {
            return Err(Error::runtime(format!("a page holds {needed} numbers, not {len}")));
        }
        Ok(())
    }
}
