//! Pages of keys and values: (layers, K | V, `kv_heads`, `PAGE`, `head_dim`), in f16 or f32.

use super::Cuda;
use super::args::Cache;
use super::gpu::Address;
use crate::backend::{KvType, PAGE, PageId, PageOp};
use crate::error::{Error, Result};
use crate::model::config::Config;

/// Numbers of a page.
pub fn numbers(config: &Config) -> usize {
    2 * config.layers * config.kv_dim() * PAGE
}

/// Bytes of a page.
pub fn bytes(config: &Config, kv_type: KvType) -> usize {
    numbers(config) * if kv_type == KvType::F16 { 2 } else { 4 }
}

impl Cuda {
    /// Numbers from a page's first to a layer's.
    pub fn layer_offset(&self, layer: usize) -> i64 {
        (numbers(&self.model.config) / self.model.config.layers * layer) as i64
    }

    pub fn is_half(&self) -> bool {
        self.options.kv_type == KvType::F16
    }

    pub fn cache(&self, layer: usize) -> Cache {
        let config = &self.model.config;
        Cache {
            bytes: self.pages,
            page: numbers(config) as i64,
            layer: self.layer_offset(layer),
            kv_heads: config.kv_heads as i32,
            head_dim: config.head_dim as i32,
            is_half: self.is_half().into(),
            pad: 0,
        }
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
                for (here, there) in self.page_order() {
                    into[here] = if self.is_half() {
                        half::f16::from_le_bytes([stored[2 * there], stored[2 * there + 1]]).to_f32()
                    } else {
                        f32::from_le_bytes(std::array::from_fn(|i| stored[4 * there + i]))
                    };
                }
                Ok(())
            }
            PageOp::Write { page, from } => {
                let at = self.page_address(page)?;
                self.check_page(from.len())?;
                let mut stored = vec![0; bytes];
                for (here, there) in self.page_order() {
                    if self.is_half() {
                        stored[2 * there..][..2].copy_from_slice(&half::f16::from_f32(from[here]).to_le_bytes());
                    } else {
                        stored[4 * there..][..4].copy_from_slice(&from[here].to_le_bytes());
                    }
                }
                self.gpu.write(at, &stored)
            }
        }
    }

    fn page_address(&self, page: PageId) -> Result<Address> {
        if page as usize >= self.limits.pages {
            return Err(Error::runtime(format!("page {page} is outside the pool of {}", self.limits.pages)));
        }
        Ok(self.pages + u64::from(page) * bytes(&self.model.config, self.options.kv_type) as u64)
    }

    /// Goes through a page's numbers: their place among [`PageOp`]'s, and among the GPU's.
    fn page_order(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Config { layers, kv_heads, head_dim, .. } = self.model.config;
        (0..2 * layers * PAGE * kv_heads).flat_map(move |row| {
            let (head, offset, block) = (row % kv_heads, row / kv_heads % PAGE, row / kv_heads / PAGE);
            let there = ((block * kv_heads + head) * PAGE + offset) * head_dim;
            (0..head_dim).map(move |d| (row * head_dim + d, there + d))
        })
    }

    fn check_page(&self, len: usize) -> Result<()> {
        let needed = numbers(&self.model.config);
        if len != needed {
            return Err(Error::runtime(format!("a page holds {needed} numbers, not {len}")));
        }
        Ok(())
    }
}
