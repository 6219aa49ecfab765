//! The phases as kernels.

use super::Cuda;
use super::args::{Activations, Attend, Begin, Gated, Input, Linear, Plain, Quantize, Row, bytes_of, bytes_of_mut};
use super::few::{Cut, Few, STRIP, coded_bytes, stages};
use super::flights::Chosen;
use super::gpu::{Address, Launch, THREADS};
use super::memory::{CHUNK, Places, SPAN};
use super::model::Matrix;
use super::pages::kept;
use crate::backend::{Batch, Out, PAGE, Phases, Probe, Slot};
use crate::error::{Error, Result};
use crate::format::packed::Format;

/// Threads of a block that quantizes a row: the same of `rows.cu`.
const MOST_QUANTIZING: usize = 512;

impl Cuda {
    fn launch<A: Plain>(&mut self, launch: &Launch<'_>, args: A) -> Result<()> {
        self.launches += 1;
        self.gpu.launch(launch, bytes_of(&[args]))
    }

    /// A kernel that waits for nothing by itself.
    pub fn plainly<A: Plain>(&mut self, kernel: &str, grid: [u32; 3], args: A) -> Result<()> {
        self.launch(&Launch { kernel, grid, threads: THREADS, shared: 0, waits: false }, args)
    }

    /// One that does.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn waiting<A: Plain>(&mut self, kernel: &str, grid: [u32; 3], args: A) -> Result<()> {
        self.launch(&Launch { kernel, grid, threads: THREADS, shared: 0, waits: true }, args)
    }

    /// A kernel over a matrix, or over two.
    pub fn over<A: Plain>(&mut self, few: &Few<'_>, args: A) -> Result<()> {
        let cut = few.cut(&*self.gpu, self.sharing);
        self.launch_cut(&format!("{}_{:?}_{}", few.what, few.format, cut.at_once), few.rows, &cut, args)
    }

    /// The same, cut already.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn launch_cut<A: Plain>(&mut self, kernel: &str, rows: usize, cut: &Cut, args: A) -> Result<()> {
        let &Cut { at_once, blocks, warps, shared } = cut;
        let grid = [blocks as u32, rows.div_ceil(at_once) as u32, 1];
        self.launch(&Launch { kernel, grid, threads: 32 * warps as u32, shared, waits: true }, args)
    }

    /// Quantizes rows of numbers for matrices of some formats: those that `which` names, or all in order.
    pub fn quantize(
        &mut self,
        row: Row,
        which: Address,
        rows: usize,
        to: Activations,
        formats: &[Format],
    ) -> Result<()> {
        let (is_normed, k) = (row.weight != 0, to.k as usize);
        let launch = Launch {
            kernel: if is_normed { "quantize_unnormed" } else { "quantize_rows" },
            grid: [rows as u32, 1, 1],
            threads: (k / 4).next_multiple_of(32).min(MOST_QUANTIZING) as u32,
            shared: coded_bytes(k, is_normed),
            waits: true,
        };
        let keeps_numbers = formats.iter().any(|format| format.is_float()).into();
        self.launch(&launch, Quantize { row, which, to, keeps_numbers, pad: 0 })
    }

    /// Numbers as rows to be multiplied; `weight` is that of their norm, or 0.
    pub fn row(&self, numbers: Address, weight: Address, k: usize) -> Row {
        Row { numbers, weight, k: k as i64, eps: self.model.config.rms_eps, inverse: 1.0 / k as f32 }
    }

    pub fn stages(&self, format: Format, rows: usize, row: &Row) -> bool {
        stages(format, rows, row.k as usize, row.weight != 0, self.gpu.shared_memory())
    }

    /// The same as matrices of some formats take them, of few rows: made by their kernels, or now.
    pub fn input(
        &mut self,
        row: Row,
        which: Address,
        rows: usize,
        ready: Activations,
        formats: &[Format],
    ) -> Result<Input> {
        if which != 0 || !formats.iter().all(|format| self.stages(*format, rows, &row)) {
            self.quantize(row, which, rows, ready, formats)?;
        }
        Ok(Input { row, ready })
    }

    /// Where the step's rows belong.
    pub fn places(&self) -> Places {
        self.buffers.places[usize::from(!self.step.is_of_few())]
    }

    /// Takes a step in.
    ///
    /// # Errors
    /// A batch that the engine built wrongly, or one that is larger than was planned.
    pub fn take_in(&mut self, batch: &Batch<'_>) -> Result<()> {
        batch.check(&self.model.config, self.limits.pages)?;
        if batch.rows.len() > self.limits.chunk {
            return Err(Error::runtime(format!("a step of {} rows is larger than was planned", batch.rows.len())));
        }
        let chosen = Chosen::new(&self.flights, &self.outcome, &self.outbox);
        self.step.take_in(batch, &self.model, &chosen)
    }

    /// Leaves for the GPU what a step begins with that is by itself.
    fn leave_input(&mut self) -> Result<()> {
        if self.step.is_of_few() {
            self.step.lay_out(&self.inbox, None);
            return Ok(());
        }
        self.step.upload(&self.places(), &mut *self.gpu)?;
        self.plan_tiles()
    }

    /// Words that this step begins with, and every other that its recording does for: block tables of the longest context.
    fn words_of_replay(&self) -> usize {
        let sequences = self.step.rows().min(self.limits.sequences);
        let tables = sequences * (self.blocks_of_context() * SPAN / PAGE).min(self.limits.context.div_ceil(PAGE));
        Places::words_before_tables(&self.model.config, self.inbox.rows()) + tables
    }

    /// The first kernel of a step.
    fn enqueue_begin(&mut self, ended: Address) -> Result<()> {
        let (places, embedding, is_of_few) = (self.places(), self.model.embedding, self.step.is_of_few());
        let count = if is_of_few { self.words_of_replay() } else { 0 };
        let args = Begin {
            embedding: embedding.place,
            tokens: places.tokens,
            chosen: self.buffers.chosen,
            words: if is_of_few { self.inbox.words.device } else { 0 },
            to_words: places.angles,
            ended,
            begun: self.buffers.begun,
            stream: self.buffers.hidden,
            stride: self.inbox.stride as i64,
            count: count as u32,
            gap: if is_of_few { self.inbox.changes - count } else { 0 } as u32,
            more: if ended == 0 { 0 } else { self.step.changing_words() as u32 },
            pad: 0,
        };
        let rows = self.step.rows() as u32;
        let strips = self.model.config.hidden.div_ceil(STRIP) as u32;
        self.waiting(&format!("begin_{:?}", embedding.format), [rows, strips, 1], args)
    }

    /// All of a step but its head. `ended` is 0 for a step by itself.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_body(&mut self, ended: Address) -> Result<()> {
        self.enqueue_begin(ended)?;
        for layer in 0..self.layers() {
            self.qkv(layer)?;
            self.attend(layer)?;
            self.attn_out(layer)?;
            self.gate_up(layer)?;
            self.down(layer)?;
        }
        Ok(())
    }

    /// The step that was taken in, by itself, and the head where `settle` does not ask for it in pieces.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue(&mut self, out: &[Out<'_>]) -> Result<()> {
        self.land()?;
        self.leave_input()?;
        self.enqueue_body(0)?;
        self.enqueue_head_of(out)
    }

    /// What attention gave, quantized for a matrix.
    fn quantize_heads(&mut self, format: Format) -> Result<()> {
        let row = self.row(self.buffers.attended, 0, self.model.config.q_dim());
        self.quantize(row, 0, self.step.rows(), self.buffers.heads, &[format])
    }

    /// Adds a matrix's product with numbers, which are `ready` where the step is one of many rows, to the residual stream.
    fn add(&mut self, matrix: Matrix, numbers: Address, ready: Activations) -> Result<()> {
        if !self.step.is_of_few() {
            return self.add_many(matrix, ready, self.buffers.hidden);
        }
        let (rows, k) = (self.step.rows(), ready.k as usize);
        let args = Linear {
            matrix: matrix.place,
            x: self.input(self.row(numbers, 0, k), 0, rows, ready, &[matrix.format])?,
            stream: self.buffers.hidden,
            rows: rows as i32,
            pad: 0,
        };
        let tiles = self.model.config.hidden;
        self.over(&Few { what: "add_linear", format: matrix.format, tile: 1, tiles, k, is_normed: false, rows }, args)
    }

    /// The residual stream as matrices of some formats take it.
    pub fn normed_input(&mut self, weight: Address, formats: &[Format]) -> Result<Input> {
        let row = self.row(self.buffers.hidden, weight, self.model.config.hidden);
        if self.step.is_of_few() {
            return self.input(row, 0, self.step.rows(), self.buffers.normed, formats);
        }
        Ok(Input { row, ready: self.normed(weight)? })
    }
}

impl Phases for Cuda {
    fn layers(&self) -> usize {
        self.model.layers.len()
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.take_in(batch)?;
        self.land()?;
        self.leave_input()?;
        self.enqueue_begin(0)
    }

    fn qkv(&mut self, layer: usize) -> Result<()> {
        self.enqueue_qkv(layer)
    }

    fn attend(&mut self, layer: usize) -> Result<()> {
        if self.options.flash_attention && self.decode(layer)? {
            return Ok(());
        }
        let (config, places) = (&self.model.config, self.places());
        // As many as a recorded step has to do for.
        let chunks = (self.blocks_of_context() * SPAN).div_ceil(CHUNK);
        let args = Attend {
            query: self.buffers.query,
            cache: self.pages,
            page: self.page_units(),
            layer: self.layer_offset(layer),
            tables: places.tables,
            table: places.table,
            positions: places.positions,
            partials: self.buffers.partials,
            out: self.buffers.attended,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            heads: config.heads as i32,
            kv_heads: config.kv_heads as i32,
            head_dim: config.head_dim as i32,
            window: self.window(),
            chunks: chunks as i32,
            kept: kept(self.options.kv_type),
            pad: 0,
        };
        self.attend_by_rows(args)?;
        if self.step.is_of_few() { Ok(()) } else { self.quantize_heads(self.model.layers[layer].o.format) }
    }

    fn attn_out(&mut self, layer: usize) -> Result<()> {
        self.add(self.model.layers[layer].o, self.buffers.attended, self.buffers.heads)
    }

    fn gate_up(&mut self, layer: usize) -> Result<()> {
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
        if l.has_two_types() {
            return self.gate_up_of_two(layer);
        }
        let (gate, up, norm) = (l.gate, l.up, l.ffn_norm);
        let args = Gated {
            gate: gate.place,
            up: up.place,
            x: self.normed_input(norm, &[gate.format])?,
            to: self.buffers.gated,
            rows: rows as i32,
            pad: 0,
        };
        if !self.step.is_of_few() {
            return self.gated_many(gate.format, args);
        }
        let (k, tiles) = (self.model.config.hidden, self.model.config.ffn);
        self.over(&Few { what: "gated", format: gate.format, tile: 2, tiles, k, is_normed: true, rows }, args)
    }

    fn down(&mut self, layer: usize) -> Result<()> {
        self.add(self.model.layers[layer].down, self.buffers.gated.numbers, self.buffers.gated)
    }

    fn head(&mut self, out: &[Out<'_>]) -> Result<()> {
        self.enqueue_head_of(out)?;
        self.settle(out)?;
        self.arrive();
        Ok(())
    }
}

impl Cuda {
    fn slot(&self, slot: Slot) -> (Address, usize) {
        let config = &self.model.config;
        match slot {
            Slot::Hidden => (self.buffers.hidden, config.hidden),
            Slot::Query => (self.buffers.query, config.q_dim()),
            Slot::Attended => (self.buffers.attended, config.q_dim()),
            Slot::Gated => (self.buffers.gated.numbers, config.ffn),
        }
    }
}

impl Probe for Cuda {
    fn put(&mut self, slot: Slot, values: &[f32]) -> Result<()> {
        let (place, _) = self.slot(slot);
        self.gpu.write(place, bytes_of(values))?;
        // Matrices of many rows read what the phase before them made of its numbers.
        match slot {
            _ if self.step.is_of_few() => Ok(()),
            Slot::Attended => {
                let mut formats = self.model.layers.iter().map(|l| l.o.format);
                // Of whichever layer comes next: with numbers, where one of them takes these.
                let next = formats.clone().find(|format| format.is_float()).or_else(|| formats.next());
                next.map_or(Ok(()), |format| self.quantize_heads(format))
            }
            Slot::Hidden | Slot::Query => Ok(()),
            Slot::Gated => {
                let row = self.row(place, 0, self.model.config.ffn);
                self.quantize(row, 0, self.step.rows(), self.buffers.gated, &[])
            }
        }
    }

    fn get(&mut self, slot: Slot) -> Result<Vec<f32>> {
        let (place, columns) = self.slot(slot);
        let mut values = vec![0.0; self.step.rows() * columns];
        self.gpu.read(place, bytes_of_mut(&mut values))?;
        Ok(values)
    }
}
