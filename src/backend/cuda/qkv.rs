//! The phase before attention: queries, and keys and values to their pages.

use super::Cuda;
use super::args::{NONE, Part, Qkv, TwoQkv};
use super::few::Few;
use crate::error::Result;
use crate::format::packed::Format;

/// Formats of which one kernel takes both, with one row of activations: those that `Q4_K_M` files have side by side.
const TOGETHER: [Format; 2] = [Format::Q4K, Format::Q6K];

impl Cuda {
    /// A launch for all parts of a format.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_qkv(&mut self, layer: usize) -> Result<()> {
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
        let (matrices, bias, norm, places) = (l.qkv, l.bias, l.attn_norm, self.places());
        let all = matrices.map(|m| m.format);
        let x = self.normed_input(norm, &all)?;
        let (cache, cells) = self.new_rows(layer, places.cells);
        let (query, k) = (self.buffers.query, self.model.config.hidden);
        let args = |format: Format| Qkv {
            parts: std::array::from_fn(|i| Part {
                matrix: matrices[i].place,
                bias: bias[i],
                kind: if all[i] == format { i as i64 } else { NONE },
            }),
            x,
            cache,
            query,
            angles: places.angles,
            places: cells,
            rows: rows as i32,
            pad: 0,
        };
        let few = |format: Format| {
            let same = matrices.iter().filter(|m| m.format == format);
            let tiles = same.map(|m| m.place.rows as usize / 2).sum();
            Few { what: "qkv", format, tile: 2, tiles, k, is_normed: true, rows }
        };
        let formats = (0..3).filter(|i| !all[..*i].contains(&all[*i])).map(|i| all[i]);
        if rows == 1 && formats.clone().eq(TOGETHER) && TOGETHER.iter().all(|f| self.stages(*f, 1, &x.row)) {
            let [first, second] = TOGETHER;
            let (cut, split) = few(first).cut_with(&few(second), &*self.gpu, self.sharing);
            let args = TwoQkv { first: args(first), second: args(second), split: split as i64 };
            self.launch_cut("qkv_Q4K_Q6K_1", rows, &cut, args)?;
            return self.keep(layer, rows, places.cells);
        }
        for format in formats {
            if self.step.is_of_few() {
                self.over(&few(format), args(format))?;
            } else {
                self.qkv_many(format, args(format))?;
            }
        }
        self.keep(layer, rows, places.cells)
    }
}
