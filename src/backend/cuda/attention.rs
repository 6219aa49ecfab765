//! Attention of few rows, and which kernels do it.

use super::Cuda;
use super::args::{Attend, Decode};
use super::memory::chunks;
use crate::backend::KvType;
use crate::error::Result;

/// Query heads of a block: `HEADS` of `attention.cu`.
const HEADS: u32 = 8;

impl Cuda {
    /// Attention of few rows by the kernels made for it; whether there are any for such heads.
    pub fn decode(&mut self, layer: usize) -> Result<bool> {
        let config = &self.model.config;
        let group = config.heads / config.kv_heads;
        let what = match self.options.kv_type {
            KvType::F16 => "decode",
            KvType::Q8_0 => "decode_q8",
            KvType::F32 => return Ok(false),
        };
        if !self.step.is_of_few() || ![64, 128].contains(&config.head_dim) || group > 8 {
            return Ok(false);
        }
        let places = self.places();
        let args = Decode {
            query: self.buffers.query,
            cache: self.pages,
            page: self.page_units(),
            layer: self.layer_offset(layer),
            tables: places.tables,
            table: places.table,
            positions: places.positions,
            known: places.known,
            partials: self.buffers.partials,
            out: self.buffers.attended,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            heads: config.heads as i32,
            kv_heads: config.kv_heads as i32,
            window: self.window(),
            chunks: chunks(&self.limits) as i32,
            pad: 0,
        };
        let kernel = format!("{what}_{}", config.head_dim);
        let blocks = self.blocks_of_context().min(chunks(&self.limits));
        let (heads, rows) = (config.heads as u32, self.step.rows() as u32);
        let join = format!("join_{}", config.head_dim);
        self.waiting(&kernel, [blocks as u32, config.kv_heads as u32, rows], args)?;
        if blocks > 1 {
            self.waiting(&join, [heads, rows, 1], args)?;
        }
        Ok(true)
    }

    /// Attention where the kernels made for few rows do not do.
    pub fn attend_by_rows(&mut self, args: Attend) -> Result<()> {
        if !self.options.flash_attention {
            return self.attend_plainly(args);
        }
        if !self.step.is_of_few() && self.attend_many(args)? {
            return Ok(());
        }
        let (rows, heads) = (self.step.rows() as u32, args.heads as u32);
        let blocks = args.kv_heads as u32 * (heads / args.kv_heads as u32).div_ceil(HEADS);
        if !self.step.is_of_few() {
            return self.plainly("attend_row", [1, blocks, rows], args);
        }
        self.plainly("attend_chunk", [args.chunks as u32, blocks, rows], args)?;
        self.plainly("attend_join", [1, heads, rows], args)
    }

    /// Positions that a row sees.
    pub fn window(&self) -> i32 {
        self.model.config.window.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX))
    }
}
