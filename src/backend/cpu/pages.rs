//! Where keys and values lie, and how their numbers are kept.
//!
//! A page of a layer has a block for each key head's K, then one for each head's V. K is two tiles of (d, 16 positions),
//! so that a vector is 16 scores; V is (32 positions, d), so that a vector is 16 numbers of the answer. A page's layers
//! lie together, so that a short conversation touches little memory.
//!
//! `q8_0` keeps number = scale · code, the codes in 8 bits, with a scale of each token and head behind its block's codes.
//! Scales are f32: no head is too small or too large for them, 16 of them are a vector beside 16 scores, and with 64
//! numbers a head they take no more than f16 scales of 32 numbers do. Numbers that were read become the same codes and
//! scale when they are written again: true of every f32 scale, tried on all 2²³ of a power of two; f16 ones would drift
//! among their subnormal numbers.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels are unsafe as a whole; their contract is at the top of each")]
#![expect(unsafe_code, reason = "raw loads and vector instructions")]

use std::ops::Range;

use super::kernels::Kernels;
use super::memory::{Part, Region};
use super::simd::{LANES, Simd};
use crate::backend::{KvType, PAGE, PageId};
use crate::error::{Error, Result};
use crate::model::config::Config;

/// The largest code.
const LARGEST: f32 = 127.0;
/// The largest number that is kept in 8 bits: 127 of its scale do not round to infinity.
const MOST: f32 = 3e38;

/// One layer's pages, as seen by one key head.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    /// The layer's part of the first page.
    pub base: *mut u8,
    /// From one page to the next.
    pub page_bytes: usize,
    /// From the layer's part of a page to this head's keys and values.
    pub keys: usize,
    pub values: usize,
    pub kv_type: KvType,
    pub head_dim: usize,
}

/// Bytes of a block: one head's keys, or values, of a page.
pub fn block_bytes(kv_type: KvType, head_dim: usize) -> usize {
    match kv_type {
        KvType::F32 => PAGE * head_dim * size_of::<f32>(),
        KvType::F16 => PAGE * head_dim * size_of::<u16>(),
        KvType::Q8_0 => PAGE * (head_dim + size_of::<f32>()),
    }
}

/// Whether a head's numbers are kept in units of a scale, so that they can only be written together.
pub fn is_scaled(kv_type: KvType) -> bool {
    kv_type == KvType::Q8_0
}

impl Pages {
    /// This head's keys in a page.
    pub fn keys(&self, page: PageId) -> *mut u8 {
        self.base.wrapping_add(page as usize * self.page_bytes + self.keys)
    }

    /// This head's values in a page.
    pub fn values(&self, page: PageId) -> *mut u8 {
        self.base.wrapping_add(page as usize * self.page_bytes + self.values)
    }

    /// The scales of a block of scaled numbers: one for each position.
    pub fn scales(&self, block: *mut u8) -> *mut f32 {
        block.wrapping_add(PAGE * self.head_dim).cast()
    }

    /// The key of position `offset` of a page, in f32.
    ///
    /// # Safety
    /// The page is there and nobody writes it; `out` is `head_dim` numbers.
    pub unsafe fn read_key(&self, page: PageId, offset: usize, out: &mut [f32]) {
        let first = offset / LANES * self.head_dim * LANES + offset % LANES;
        self.read(self.keys(page), offset, (first, LANES), out);
    }

    /// The value of position `offset` of a page, in f32.
    ///
    /// # Safety
    /// As of [`Pages::read_key`].
    pub unsafe fn read_value(&self, page: PageId, offset: usize, out: &mut [f32]) {
        self.read(self.values(page), offset, (offset * self.head_dim, 1), out);
    }

    /// The numbers `first`, `first + step`, … of a block.
    #[expect(clippy::cast_ptr_alignment, reason = "blocks begin on cache lines")]
    unsafe fn read(&self, block: *mut u8, offset: usize, (first, step): (usize, usize), out: &mut [f32]) {
        for (d, x) in out.iter_mut().enumerate() {
            let i = first + d * step;
            *x = match self.kv_type {
                KvType::F32 => *block.cast::<f32>().add(i),
                KvType::F16 => half::f16::from_bits(*block.cast::<u16>().add(i)).to_f32(),
                KvType::Q8_0 => f32::from(*block.cast::<i8>().add(i)) * *self.scales(block).add(offset),
            };
        }
    }
}

/// Keys or values of one type.
pub trait Kept {
    type Number: Copy + Default;
    /// Whether they are in units of a scale.
    const SCALED: bool;

    /// 16 numbers.
    unsafe fn load<S: Simd>(from: *const Self::Number) -> S::F;
    unsafe fn store<S: Simd>(to: *mut Self::Number, x: S::F);
}

pub struct Single;
pub struct Half;
pub struct Byte;

impl Kept for Single {
    type Number = f32;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::F {
        S::load(from)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut f32, x: S::F) {
        S::store(to, x);
    }
}

impl Kept for Half {
    type Number = u16;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::F {
        S::load_half(from)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut u16, x: S::F) {
        S::store_half(to, x);
    }
}

impl Kept for Byte {
    type Number = i8;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const i8) -> S::F {
        S::to_f32(S::load_i8(from))
    }
    /// To the nearest code, halves to even. What is infinite or no number gets a code too, the same everywhere.
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut i8, x: S::F) {
        let x = S::min(S::max(x, S::splat(-LARGEST)), S::splat(LARGEST));
        S::store_i8(to, S::round(x));
    }
}

/// Writes numbers `dims` of the key and value of position `offset` of a page.
///
/// # Safety
/// The page is there; `key` and `value` are the numbers from `dims.start` on, a multiple of 16: of scaled types those
/// of the whole head. The processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn write<S: Simd>(
    pages: &Pages,
    page: PageId,
    offset: usize,
    dims: Range<usize>,
    key: *const f32,
    value: *const f32,
) {
    match pages.kv_type {
        KvType::F32 => put::<S, Single>(pages, page, offset, dims, key, value),
        KvType::F16 => put::<S, Half>(pages, page, offset, dims, key, value),
        KvType::Q8_0 => put::<S, Byte>(pages, page, offset, dims, key, value),
    }
}

#[inline(always)]
unsafe fn put<S: Simd, K: Kept>(
    pages: &Pages,
    page: PageId,
    offset: usize,
    dims: Range<usize>,
    key: *const f32,
    value: *const f32,
) {
    let (keys, values) = (pages.keys(page), pages.values(page));
    let mut units = [S::splat(1.0); 2];
    if K::SCALED {
        for (unit, (x, block)) in units.iter_mut().zip([(key, keys), (value, values)]) {
            let scale = scale::<S>(x, dims.len());
            *pages.scales(block).add(offset) = scale;
            *unit = S::splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
        }
    }
    let (keys, values) = (keys.cast::<K::Number>(), values.cast::<K::Number>());
    for i in (0..dims.len()).step_by(LANES) {
        let d = dims.start + i;
        let mut column = [K::Number::default(); LANES];
        K::store::<S>(column.as_mut_ptr(), S::mul(S::load(key.add(i)), units[0]));
        scatter(keys.add((offset / LANES * pages.head_dim + d) * LANES + offset % LANES), &column);
        K::store::<S>(values.add(offset * pages.head_dim + d), S::mul(S::load(value.add(i)), units[1]));
    }
}

/// The scale of `n` numbers: max|x| / 127; 0 where that is too small for a divisor.
#[inline(always)]
unsafe fn scale<S: Simd>(x: *const f32, n: usize) -> f32 {
    let mut largest = S::zero();
    for i in (0..n).step_by(LANES) {
        largest = S::max(S::abs(S::load(x.add(i))), largest);
    }
    let scale = S::largest(largest).min(MOST) / LARGEST;
    if scale < f32::MIN_POSITIVE { 0.0 } else { scale }
}

/// Writes 16 numbers to the first of each 16.
#[inline(always)]
unsafe fn scatter<T: Copy>(to: *mut T, numbers: &[T; LANES]) {
    for (i, number) in numbers.iter().enumerate() {
        to.add(i * LANES).write_unaligned(*number);
    }
}

/// All pages of all layers.
pub struct Cache {
    pub kv_type: KvType,
    /// How many there are.
    pub pages: usize,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    /// (pages, layers, K | V, key heads): blocks.
    bytes: Part<u8>,
    _region: Region,
}

impl Cache {
    /// # Errors
    /// When the system has not so much memory.
    pub fn new(config: &Config, pages: usize, kv_type: KvType) -> Result<Self> {
        let bytes = pages * Self::page_bytes(config, kv_type);
        let mut region = Region::new(bytes)?;
        let Config { layers, kv_heads, head_dim, .. } = *config;
        Ok(Self { kv_type, pages, layers, kv_heads, head_dim, bytes: region.take(bytes)?, _region: region })
    }

    /// Bytes of a page, in all layers.
    pub fn page_bytes(config: &Config, kv_type: KvType) -> usize {
        2 * config.layers * config.kv_heads * block_bytes(kv_type, config.head_dim)
    }

    /// A layer's pages as a key head sees them.
    pub fn head(&self, layer: usize, head: usize) -> Pages {
        let block = block_bytes(self.kv_type, self.head_dim);
        let layer_bytes = 2 * self.kv_heads * block;
        Pages {
            base: self.bytes.at(layer * layer_bytes),
            page_bytes: self.layers * layer_bytes,
            keys: head * block,
            values: (self.kv_heads + head) * block,
            kv_type: self.kv_type,
            head_dim: self.head_dim,
        }
    }

    /// Copies a page.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn copy(&mut self, from: PageId, to: PageId) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        let bytes = self.bytes.len() / self.pages;
        // SAFETY: both are pages of the pool, and nobody else uses them: this is borrowed mutably.
        unsafe { std::ptr::copy(self.bytes.at(from as usize * bytes), self.bytes.at(to as usize * bytes), bytes) };
        Ok(())
    }

    /// Reads a page's numbers in the order of [`crate::backend::PageOp`].
    ///
    /// # Errors
    /// When there is no such page, or it holds another number of numbers.
    pub fn read(&mut self, page: PageId, into: &mut [f32]) -> Result<()> {
        self.check(page)?;
        self.check_len(into.len())?;
        for (pages, offset, key, value) in self.rows() {
            // SAFETY: a page of the pool, borrowed mutably.
            unsafe {
                pages.read_key(page, offset, &mut into[key..][..pages.head_dim]);
                pages.read_value(page, offset, &mut into[value..][..pages.head_dim]);
            }
        }
        Ok(())
    }

    /// Writes a page's numbers.
    ///
    /// # Errors
    /// As [`Cache::read`].
    pub fn write(&mut self, page: PageId, from: &[f32], kernels: &Kernels) -> Result<()> {
        self.check(page)?;
        self.check_len(from.len())?;
        for (pages, offset, key, value) in self.rows() {
            let (key, value) = (&from[key..][..pages.head_dim], &from[value..][..pages.head_dim]);
            // SAFETY: a page of the pool, borrowed mutably; key and value are a whole head's.
            unsafe { (kernels.write_kv)(&pages, page, offset, 0..pages.head_dim, key.as_ptr(), value.as_ptr()) };
        }
        Ok(())
    }

    /// Each position of each head of each layer, and where its key and value lie among a page's numbers.
    fn rows(&self) -> impl Iterator<Item = (Pages, usize, usize, usize)> + use<'_> {
        let all = (0..self.layers).flat_map(|layer| (0..self.kv_heads).map(move |head| (layer, head)));
        all.flat_map(move |(layer, head)| {
            let pages = self.head(layer, head);
            (0..PAGE).map(move |offset| {
                let place =
                    |values: usize| (((2 * layer + values) * PAGE + offset) * self.kv_heads + head) * self.head_dim;
                (pages, offset, place(0), place(1))
            })
        })
    }

    fn check(&self, page: PageId) -> Result<()> {
        if page as usize >= self.pages {
            return Err(Error::runtime(format!("page {page} is outside the pool of {}", self.pages)));
        }
        Ok(())
    }

    fn check_len(&self, len: usize) -> Result<()> {
        let needed = 2 * self.layers * PAGE * self.kv_heads * self.head_dim;
        if len != needed {
            return Err(Error::runtime(format!("a page holds {needed} numbers, not {len}")));
        }
        Ok(())
    }
}
