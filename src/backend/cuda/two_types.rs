//! The feed-forward phase where gate and up matrices are of two types: a product by the kernels of each, then what joins them.

use super::Cuda;
use super::args::{Input, Logits, Swiglu};
use super::few::Few;
use super::gpu::Address;
use super::model::Matrix;
use crate::error::Result;
use crate::format::packed::GROUP;

/// Warps of a block: `WARPS` of `common.cuh`.
const WARPS: usize = 8;

impl Cuda {
    /// RMSNorm, both products, SwiGLU.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn gate_up_of_two(&mut self, layer: usize) -> Result<()> {
        let l = &self.model.layers[layer];
        let (gate, up, norm) = (l.gate, l.up, l.ffn_norm);
        let x = self.normed_input(norm, &[gate.format, up.format])?;
        self.product(gate, x, self.buffers.gate)?;
        self.product(up, x, self.buffers.up)?;
        let args = Swiglu {
            gate: self.buffers.gate,
            up: self.buffers.up,
            to: self.buffers.gated,
            is_of_few: self.step.is_of_few().into(),
            pad: 0,
        };
        let groups = self.model.config.ffn / GROUP;
        self.waiting("swiglu_of_two", [groups.div_ceil(WARPS) as u32, self.step.rows() as u32, 1], args)
    }

    /// A matrix times the normed rows of the step, to zeros. Of few rows by the head's kernels, for which too no row's answer depends on
    /// another; what they think the likeliest is nobody's.
    fn product(&mut self, matrix: Matrix, x: Input, out: Address) -> Result<()> {
        if !self.step.is_of_few() {
            return self.add_many(matrix, x.ready, out);
        }
        let (rows, k, tiles) = (self.step.rows(), self.model.config.hidden, self.model.config.ffn / 2);
        let best = self.buffers.ranks;
        let args = Logits { matrix: matrix.place, x, out, best, draws: 0, rows: rows as i32, pad: 0 };
        self.over(&Few { what: "logits", format: matrix.format, tile: 2, tiles, k, is_normed: true, rows }, args)
    }
}
