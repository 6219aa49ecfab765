//! One thread's part of every phase.
//!
//! All threads go through the same phases with a [`Worker`] each, over the same buffers. A thread computes the rows of
//! the output that its tiles of a matrix give, and what follows from those alone (RoPE, the writing of keys and values,
//! SwiGLU, quantization for the next matrix); then all meet. So no number is written by two threads, and none is read
//! in the phase that writes it, except by its writer.
#![expect(unsafe_code, reason = "threads share buffers, each writing its own part")]

mod attend;

use super::kernels::Kernels;
use super::matmul::Job;
use super::memory::Part;
use super::model::{Layer, Matrix, Model};
use super::pages::Cache;
use super::pool::Thread;
use super::rows::Groups;
use super::step::{Buffers, Forms, Own, Panel, Panels, Place, Step, panels};
use crate::backend::{Batch, Out, Phases};
use crate::error::Result;
use crate::format::packed::{GROUP, TILE};

/// Bytes of activations that stay in a core's second-level cache while weights stream by. From 128 KB to 1.5 MB prompts of
/// 96 to 512 tokens are read within 3 % of the same speed (`docs/cpu.md`).
const BLOCK_BYTES: usize = 384 << 10;

/// What all threads see.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    pub model: &'a Model,
    pub buffers: &'a Buffers,
    pub cache: &'a Cache,
    pub step: &'a Step,
    pub kernels: &'static Kernels,
    /// Whether attention is the blocked one.
    pub flash_attention: bool,
    /// (rows wanted, vocab).
    pub logits: Part<f32>,
}

pub struct Worker<'a> {
    pub shared: Shared<'a>,
    pub thread: Thread<'a>,
}

/// Where a matrix's results go.
struct Target {
    /// (rows, `stride`)
    to: Part<f32>,
    stride: usize,
    add: bool,
}

impl Worker<'_> {
    fn own(&self) -> &Own {
        &self.shared.buffers.own[self.thread.index]
    }

    /// The normed rows of the residual stream, for some matrices: this thread's own where they are few, otherwise
    /// everybody's.
    fn normed(&self, weight: &[f32], forms: Forms) -> Panels {
        let Shared { model, buffers, kernels, .. } = self.shared;
        let (hidden, eps) = (model.config.hidden, model.config.rms_eps);
        let row = self.own().row.at(0);
        self.prepared(hidden, true, forms, |t, place| {
            // SAFETY: the row is written by nobody in this phase, the scratch row is this thread's, the place this
            // call's.
            unsafe {
                (kernels.norm)(buffers.hidden.at(t * hidden), weight.as_ptr(), eps, hidden, row);
                place.put(kernels, row, Groups::whole(hidden));
            }
        })
    }

    /// Activations of `k` numbers a row, `put(row, place)` making each.
    fn prepared(&self, k: usize, has_rest: bool, forms: Forms, put: impl Fn(usize, Place)) -> Panels {
        let Shared { buffers, step, .. } = self.shared;
        let (panels, mine) = if step.is_few() {
            (self.own().panels.of(k, has_rest), 0..step.panels.len())
        } else {
            (buffers.shared.of(k, has_rest), self.thread.share(step.panels.len()))
        };
        for panel in &step.panels[mine] {
            // SAFETY: the panel is this thread's in this phase.
            unsafe { panels.forget_rests(*panel) };
            for row in 0..panel.rows {
                put(panel.first + row, panels.place(*panel, row, forms));
            }
        }
        if !step.is_few() {
            self.thread.meet();
        }
        panels
    }

    /// This thread's tiles of a matrix times some panels.
    fn multiply(&self, matrix: &Matrix, activations: &Panels, which: &[Panel], target: &Target) {
        let (first, tiles) = matrix.tiles(self.thread.index);
        if tiles == 0 {
            return;
        }
        // One panel: the weights once through. Several: each tile stays in the first-level cache for all of them.
        let at_once = if which.len() == 1 { tiles } else { 1 };
        for tile in (0..tiles).step_by(at_once) {
            for panel in which {
                let is_float = matrix.format.is_float();
                let rest = activations.rest(*panel).filter(|_| !is_float);
                let column = (first + tile) * TILE;
                let job = Job {
                    format: matrix.format,
                    weights: matrix.tile(self.thread.index, tile),
                    tiles: at_once,
                    units: matrix.format.units(matrix.k),
                    codebook: matrix.codebook.map(|c| (c as u8) ^ 0x80),
                    panel: if is_float { activations.numbers(*panel).cast() } else { activations.at(*panel) },
                    rest: rest.map_or(std::ptr::null(), |rest| rest.panel),
                    rest_flags: rest.map_or(std::ptr::null(), |rest| rest.flags),
                    width: panel.width,
                    rows: panel.rows,
                    out: target.to.at(panel.first * target.stride + column),
                    stride: target.stride,
                    last_lanes: TILE.min(matrix.rows - (column + (at_once - 1) * TILE)),
                    add: target.add,
                };
                // SAFETY: the tiles are this thread's, the panels were finished before the last meeting or by this
                // thread, and the columns of the target belong to the tiles.
                unsafe { (self.shared.kernels.matmul)(&job) };
            }
        }
    }

    /// This thread's tiles times all rows, in blocks that the cache holds; `after` follows each block.
    fn multiply_blocks<const N: usize>(
        &self,
        matrices: &[(&Matrix, Target); N],
        activations: &Panels,
        after: impl Fn(std::ops::Range<usize>),
    ) {
        let all = &self.shared.step.panels;
        let forms = Forms::of(&matrices.each_ref().map(|(matrix, _)| *matrix));
        let panel_bytes = activations.groups * forms.group_bytes() * self.shared.kernels.max_panel;
        for block in all.chunks((BLOCK_BYTES / panel_bytes.max(1)).max(1)) {
            for (matrix, target) in matrices {
                self.multiply(matrix, activations, block, target);
            }
            let (first, last) = (block[0], block[block.len() - 1]);
            after(first.first..last.first + last.rows);
        }
    }

    /// The columns of a matrix's results that this thread's tiles give.
    fn columns(&self, matrix: &Matrix) -> std::ops::Range<usize> {
        let (first, tiles) = matrix.tiles(self.thread.index);
        first * TILE..((first + tiles) * TILE).min(matrix.rows)
    }

    fn biased(&self, to: Part<f32>, matrix: &Matrix, bias: &[f32]) {
        let columns = self.columns(matrix);
        for t in 0..self.shared.step.rows() {
            // SAFETY: this thread's columns, which it has just written.
            let row = unsafe { to.slice_mut(t * matrix.rows + columns.start, columns.len()) };
            for (x, b) in row.iter_mut().zip(&bias[columns.clone()]) {
                *x += b;
            }
        }
    }

    /// RoPE on this thread's columns.
    fn rotate(&self, to: Part<f32>, matrix: &Matrix) {
        let Shared { model, buffers, step, kernels, .. } = self.shared;
        let dim = model.config.head_dim;
        let columns = self.columns(matrix);
        for t in 0..step.rows() {
            for column in columns.clone().step_by(TILE) {
                let angle = t * dim + column % dim;
                // SAFETY: a tile's columns lie in one head, whose size is a multiple of 16; they are this thread's.
                unsafe {
                    let x = to.at(t * matrix.rows + column);
                    (kernels.rotate)(x, buffers.cos.at(angle), buffers.sin.at(angle), TILE);
                }
            }
        }
    }

    fn layer(&self, layer: usize) -> &Layer {
        &self.shared.model.layers[layer]
    }
}

impl Phases for Worker<'_> {
    fn layers(&self) -> usize {
        self.shared.model.layers.len()
    }

    fn begin(&mut self, _: &Batch<'_>) -> Result<()> {
        let Shared { model, buffers, step, .. } = self.shared;
        let (hidden, dim) = (model.config.hidden, model.config.head_dim);
        for t in self.thread.share(step.rows()) {
            if model.is_tied() {
                // SAFETY: this row is this thread's in this phase.
                let row = unsafe { buffers.hidden.slice_mut(t * hidden, hidden) };
                model.head.row(step.ids[t] as usize, row);
            }
            // SAFETY: as above.
            let (cos, sin) = unsafe { (buffers.cos.slice_mut(t * dim, dim), buffers.sin.slice_mut(t * dim, dim)) };
            for (i, frequency) in model.frequencies.iter().enumerate() {
                let (s, c) = (step.positions[t] as f32 * frequency).sin_cos();
                cos[2 * i..2 * i + 2].fill(c);
                (sin[2 * i], sin[2 * i + 1]) = (-s, s);
            }
        }
        self.thread.meet();
        Ok(())
    }

    fn qkv(&mut self, layer: usize) -> Result<()> {
        let buffers = self.shared.buffers;
        let l = self.layer(layer);
        let activations = self.normed(&l.attn_norm, Forms::of(&[&l.q, &l.k, &l.v]));
        let target = |to: Part<f32>, matrix: &Matrix| Target { to, stride: matrix.rows, add: false };
        let matrices = [
            (&l.q, target(buffers.query, &l.q)),
            (&l.k, target(buffers.key, &l.k)),
            (&l.v, target(buffers.value, &l.v)),
        ];
        self.multiply_blocks(&matrices, &activations, |_| ());
        if let Some([q, k, v]) = &l.bias {
            self.biased(buffers.query, &l.q, q);
            self.biased(buffers.key, &l.k, k);
            self.biased(buffers.value, &l.v, v);
        }
        self.rotate(buffers.query, &l.q);
        self.rotate(buffers.key, &l.k);
        self.write_pages(layer);
        self.thread.meet();
        Ok(())
    }

    fn attend(&mut self, layer: usize) -> Result<()> {
        if !self.shared.flash_attention {
            self.attend_plainly(layer);
        } else if self.shared.step.is_few() {
            self.attend_few(layer);
        } else {
            self.attend_many(layer);
        }
        self.thread.meet();
        Ok(())
    }

    fn attn_out(&mut self, layer: usize) -> Result<()> {
        let Shared { model, buffers, kernels, .. } = self.shared;
        let (q_dim, hidden) = (model.config.q_dim(), model.config.hidden);
        let o = &self.layer(layer).o;
        let activations = self.prepared(q_dim, false, Forms::of(&[o]), |t, place| {
            // SAFETY: what was attended is written by nobody in this phase; the place is this call's.
            unsafe { place.put(kernels, buffers.attended.at(t * q_dim), Groups::whole(q_dim)) };
        });
        let target = Target { to: buffers.hidden, stride: hidden, add: true };
        self.multiply_blocks(&[(o, target)], &activations, |_| ());
        self.thread.meet();
        Ok(())
    }

    fn gate_up(&mut self, layer: usize) -> Result<()> {
        let Shared { model, buffers, kernels, step, .. } = self.shared;
        let ffn = model.config.ffn;
        let l = self.layer(layer);
        let activations = self.normed(&l.ffn_norm, Forms::of(&[&l.gate, &l.up]));
        let target = |to| Target { to, stride: ffn, add: false };
        let columns = self.columns(&l.gate);
        let groups = Groups { first: columns.start / GROUP, count: columns.len() / GROUP, all: ffn / GROUP };
        let matrices = [(&l.gate, target(buffers.gate)), (&l.up, target(buffers.up))];
        let forms = Forms::of(&[&l.down]);
        self.multiply_blocks(&matrices, &activations, |rows| {
            for panel in step.panels.iter().filter(|panel| rows.contains(&panel.first)) {
                for row in 0..panel.rows {
                    let at = (panel.first + row) * ffn + columns.start;
                    // SAFETY: these columns and groups are this thread's.
                    unsafe {
                        (kernels.swiglu)(buffers.gate.at(at), buffers.up.at(at), columns.len());
                        buffers.gated.place(*panel, row, forms).put(kernels, buffers.gate.at(at), groups);
                    }
                }
            }
        });
        self.thread.meet();
        Ok(())
    }

    fn down(&mut self, layer: usize) -> Result<()> {
        let Shared { model, buffers, .. } = self.shared;
        let target = Target { to: buffers.hidden, stride: model.config.hidden, add: true };
        self.multiply_blocks(&[(&self.layer(layer).down, target)], &buffers.gated, |_| ());
        self.thread.meet();
        Ok(())
    }

    fn head(&mut self, out: &[Out<'_>]) -> Result<()> {
        let Shared { model, buffers, kernels, logits, .. } = self.shared;
        let (hidden, vocab) = (model.config.hidden, model.config.vocab);
        let own = self.own();
        let (activations, forms) = (own.panels.of(hidden, true), Forms::of(&[&model.head]));
        // A panel at a time, which every thread prepares for itself.
        for panel in panels(out.len(), kernels.max_panel) {
            let alone = Panel { first: 0, ..panel };
            // SAFETY: the panel is this thread's own.
            unsafe { activations.forget_rests(alone) };
            for row in 0..panel.rows {
                let t = out[panel.first + row].row as usize;
                // SAFETY: the row is written by nobody in this phase; scratch row and place are this thread's.
                unsafe {
                    let weight = model.output_norm.as_ptr();
                    (kernels.norm)(buffers.hidden.at(t * hidden), weight, model.config.rms_eps, hidden, own.row.at(0));
                    activations.place(alone, row, forms).put(kernels, own.row.at(0), Groups::whole(hidden));
                }
            }
            let to = logits.from(panel.first * vocab);
            self.multiply(&model.head, &activations, &[alone], &Target { to, stride: vocab, add: false });
        }
        self.thread.meet();
        Ok(())
    }
}
