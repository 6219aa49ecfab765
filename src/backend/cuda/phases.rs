//! The phases as kernels.

use super::Cuda;
use super::args::{
    Activations, Attend, Begin, Choose, Decode, Finish, Gated, Input, Linear, Logits, NONE, Part, Plain, Qkv, Quantize,
    Row, bytes_of, bytes_of_mut,
};
use super::draws;
use super::flights::NO_TOKEN;
use super::gpu::{Address, Gpu, Launch, THREADS};
use super::layout::matrix_bytes;
use super::memory::{CHUNK, Places, SPAN, chunks, head_rows};
use super::model::Matrix;
use super::pages::kept;
use crate::backend::{Batch, KvType, Out, PAGE, Phases, Probe, Slot, Want};
use crate::error::{Error, Result};
use crate::format::packed::{Format, GROUP};

/// Query heads of a block: `HEADS` of `attention.cu`.
const HEADS: u32 = 8;
/// Warps of a block: `WARPS` of `common.cuh`.
const WARPS: usize = 8;

/// Whether blocks make of the one row what they multiply, of so many bytes of shared memory: `STAGED` of `stream.cuh`. A long row in
/// floating point may leave nothing to weights; kernels of several rows read it where it is.
fn stages(format: Format, rows: usize, k: usize, is_normed: bool, room: usize) -> bool {
    rows == 1 && staged_bytes(format, k, is_normed) + MOST_OF_A_WARP + OWN_SHARED <= room
}

/// Bytes of a staged row: `bytes` of `stage.cuh` and of `numbers.cuh`.
fn staged_bytes(format: Format, k: usize, is_normed: bool) -> usize {
    if format.is_float() { k / GROUP * (4 * GROUP + 16) } else { coded_bytes(k, is_normed) }
}

/// The same of one in int8.
fn coded_bytes(k: usize, is_normed: bool) -> usize {
    (k / GROUP * if is_normed { 88 } else { 48 }).next_multiple_of(16)
}

/// A kernel over the rows of a matrix, with few rows of activations.
struct Few<'a> {
    what: &'a str,
    format: Format,
    /// Rows of a tile, which is what a warp computes at a time.
    tile: usize,
    tiles: usize,
    /// Of the activations.
    k: usize,
    is_normed: bool,
    rows: usize,
}

impl Few<'_> {
    /// Rows of activations that a block takes at once.
    fn at_once(&self, room: usize) -> usize {
        match self.rows {
            1 if stages(self.format, 1, self.k, self.is_normed, room) => 1,
            1..=4 => 4,
            _ if self.format.is_float()
                || copied_bytes(self.format, self.k, 16) + MOST_OF_A_WARP + OWN_SHARED > room =>
            {
                4
            }
            _ => 16,
        }
    }

    /// What a block can have: the same of `gemv.cuh`.
    fn most_warps(&self, at_once: usize) -> usize {
        match (at_once, self.what) {
            (1, _) if self.format.is_float() => 16,
            (1, "add_linear") => 32,
            (1, _) => 24,
            _ if self.format.is_float() => WARPS,
            _ => 16,
        }
    }

    /// Shared memory of a block with so many warps that have tiles: `stage.cuh`, and `Stream` of `stream.cuh`.
    fn shared(&self, at_once: usize, warps: usize) -> usize {
        let strip = matrix_bytes(self.format, 1, STRIP).next_multiple_of(16);
        let lots = if self.tile == 1 || matrix_bytes(self.format, 1, GROUP * 8) >= GROUP * 8 { 3 } else { 2 };
        let rows = match at_once {
            1 => staged_bytes(self.format, self.k, self.is_normed),
            rows => copied_bytes(self.format, self.k, rows),
        };
        rows + warps * lots * together(self.format) * self.tile * strip
    }

    /// Blocks, warps of each, and the shared memory that they take. One block a multiprocessor, of as few warps as it takes to have all
    /// tiles in as few turns as there can be, and of as many as it takes to quantize four numbers each; with several rows in floating
    /// point, blocks of 8 warps for one turn.
    fn cut(&self, gpu: &dyn Gpu) -> [usize; 3] {
        let at_once = self.at_once(gpu.shared_memory());
        let fits = |warps: &usize| self.shared(at_once, *warps) <= gpu.shared_memory() - OWN_SHARED;
        let most = (1..=self.most_warps(at_once)).rev().find(fits).unwrap_or(1);
        if at_once > 1 && self.format.is_float() {
            return [self.tiles.div_ceil(most), most, self.shared(at_once, most)];
        }
        let turns = self.tiles.div_ceil(gpu.multiprocessors() * most);
        let warps = self.tiles.div_ceil(gpu.multiprocessors() * turns);
        let blocks = self.tiles.div_ceil(turns * warps);
        let warps = warps.max(most.min(QUANTIZING_WARPS).min(self.k.div_ceil(4 * 32)));
        [blocks, warps, self.shared(at_once, warps.min(self.tiles.div_ceil(blocks)))]
    }
}

/// Shared memory of so many rows that a block copies: `CopiedRows` of `stream.cuh`.
fn copied_bytes(format: Format, k: usize, rows: usize) -> usize {
    if format.is_float() { 0 } else { rows * (k / GROUP) * 48 }
}

/// Warps of a block that are there to quantize alone, at most: their registers keep the next kernel's blocks out.
const QUANTIZING_WARPS: usize = 24;
/// Numbers of a strip: 32 groups, see `stream.cuh`.
const STRIP: usize = 32 * GROUP;
/// Bytes that a warp's weights take at most: two rows of two strips in f32.
const MOST_OF_A_WARP: usize = 2 * 2 * STRIP * 4;
/// Shared memory that kernels over matrices have beside what a launch gives them, at most.
const OWN_SHARED: usize = 5120;

/// Strips of a row that are computed together: `TOGETHER` of `stream.cuh`.
fn together(format: Format) -> usize {
    if format.is_float() { 1 } else { 2 }
}

impl Cuda {
    fn launch<A: Plain>(&mut self, launch: &Launch<'_>, args: A) -> Result<()> {
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
    fn over<A: Plain>(&mut self, few: &Few<'_>, args: A) -> Result<()> {
        let [blocks, warps, shared] = few.cut(&*self.gpu);
        let at_once = few.at_once(self.gpu.shared_memory());
        let launch = Launch {
            kernel: &format!("{}_{:?}_{at_once}", few.what, few.format),
            grid: [blocks as u32, few.rows.div_ceil(at_once) as u32, 1],
            threads: 32 * warps as u32,
            shared,
            waits: true,
        };
        self.launch(&launch, args)
    }

    /// Quantizes rows of numbers: those that `which` names, or all in order.
    pub fn quantize(&mut self, row: Row, which: Address, rows: usize, to: Activations) -> Result<()> {
        let is_normed = row.weight != 0;
        let launch = Launch {
            kernel: if is_normed { "quantize_unnormed" } else { "quantize_rows" },
            grid: [rows as u32, 1, 1],
            threads: THREADS,
            shared: coded_bytes(to.k as usize, is_normed),
            waits: true,
        };
        self.launch(&launch, Quantize { row, which, to })
    }

    /// Numbers as rows to be multiplied; `weight` is that of their norm, or 0.
    fn row(&self, numbers: Address, weight: Address, k: usize) -> Row {
        Row { numbers, weight, k: k as i64, eps: self.model.config.rms_eps, inverse: 1.0 / k as f32 }
    }

    fn stages(&self, format: Format, rows: usize, row: &Row) -> bool {
        stages(format, rows, row.k as usize, row.weight != 0, self.gpu.shared_memory())
    }

    /// The same as matrices of some formats take them, of few rows: made by their kernels, or now.
    fn input(
        &mut self,
        row: Row,
        which: Address,
        rows: usize,
        ready: Activations,
        formats: &[Format],
    ) -> Result<Input> {
        if which != 0 || !formats.iter().all(|format| self.stages(*format, rows, &row)) {
            self.quantize(row, which, rows, ready)?;
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
        let tokens = self.tokens_of(batch)?;
        self.step.take_in(batch, &tokens, &self.model);
        Ok(())
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
        let args = Begin {
            embedding: embedding.place,
            tokens: places.tokens,
            chosen: self.buffers.chosen,
            words: if is_of_few { self.inbox.words.device } else { 0 },
            to_words: places.angles,
            ended,
            stream: self.buffers.hidden,
            stride: self.inbox.stride as i64,
            count: if is_of_few { self.words_of_replay() as u32 } else { 0 },
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

    /// The head for the first rows of the step, in order: few of them. `draws` says which tokens may not come, 0 that all may.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_head(&mut self, rows: usize, draws: Address) -> Result<()> {
        let row = self.row(self.buffers.hidden, self.model.output_norm, self.model.config.hidden);
        self.logits(row, 0, rows, draws)
    }

    /// The head for rows of the residual stream: those that `which` names, or all in order.
    fn logits(&mut self, row: Row, which: Address, rows: usize, draws: Address) -> Result<()> {
        let (head, k) = (self.model.head, self.model.config.hidden);
        let args = Logits {
            matrix: head.place,
            x: self.input(row, which, rows, self.buffers.normed, &[head.format])?,
            out: self.buffers.logits,
            best: self.buffers.best,
            draws,
            rows: rows as i32,
            pad: 0,
        };
        let tiles = self.model.config.vocab.div_ceil(2);
        self.over(&Few { what: "logits", format: head.format, tile: 2, tiles, k, is_normed: true, rows }, args)
    }

    /// Draws the tokens of a step's rows.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_choice(&mut self, rows: usize) -> Result<()> {
        let args = Choose {
            logits: self.buffers.logits,
            draws: self.places().draws,
            some: self.buffers.some,
            counters: self.buffers.slices,
            best: self.buffers.best,
            vocab: self.model.config.vocab as i32,
            pad: 0,
        };
        self.waiting("choose", [draws::slices(self.model.config.vocab) as u32, rows as u32, 1], args)
    }

    /// The last kernel of a step; `ended` is 0 for one by itself.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_finish(&mut self, rows: usize, ended: Address) -> Result<()> {
        let args = Finish {
            best: self.buffers.best,
            chosen: self.buffers.chosen,
            ended,
            out: self.outbox.words.device,
            rows: rows as u32,
            stride: self.outbox.stride as u32,
        };
        self.waiting("finish_step", [1; 3], args)
    }

    /// The same for wanted rows of any step.
    fn logits_of(&mut self, out: &[Out<'_>]) -> Result<()> {
        let k = self.model.config.hidden;
        let mut row = self.row(self.buffers.hidden, self.model.output_norm, k);
        if self.stages(self.model.head.format, out.len(), &row) {
            row.numbers += (4 * k * out[0].row as usize) as Address;
            self.logits(row, 0, 1, 0)?;
        } else {
            self.step.ask_for(out, &self.buffers, &mut *self.gpu)?;
            self.logits(row, self.buffers.which, out.len(), 0)?;
        }
        self.enqueue_finish(out.len(), 0)
    }

    /// Whether the head is for all rows of a step of few, in order.
    fn is_whole(&self, out: &[Out<'_>]) -> bool {
        self.step.is_of_few()
            && out.len() == self.step.rows()
            && out.len() <= head_rows(&self.limits)
            && out.iter().zip(0..).all(|(out, row)| out.row == row)
    }

    fn enqueue_head_of(&mut self, out: &[Out<'_>]) -> Result<()> {
        if !self.is_whole(out) {
            return Ok(());
        }
        self.enqueue_head(out.len(), 0)?;
        self.enqueue_finish(out.len(), 0)
    }

    /// Collects what is wanted of the step.
    ///
    /// # Errors
    /// When the GPU fails, or the logits are no numbers.
    pub fn settle(&mut self, out: &[Out<'_>]) -> Result<()> {
        self.outcome.clear();
        if self.is_whole(out) {
            return self.read_out(out);
        }
        for some in out.chunks(head_rows(&self.limits)) {
            self.logits_of(some)?;
            self.read_out(some)?;
        }
        if out.is_empty() { self.gpu.wait() } else { Ok(()) }
    }

    /// Takes the tokens, or the logits where the host has to choose, of the head's rows.
    fn read_out(&mut self, out: &[Out<'_>]) -> Result<()> {
        let vocab = self.model.config.vocab;
        let likeliest = |o: &Out<'_>| matches!(o.want, Want::Sample(draw) if draw.is_likeliest());
        if out.iter().all(likeliest) {
            self.gpu.wait()?;
            let ids = self.outbox.alone(out.len()).iter().map(|id| (*id != NO_TOKEN).then_some(*id));
            return self.outcome.add_tokens(self.step.seqs(), out, ids);
        }
        self.gpu.fetch(self.buffers.logits, &self.some_logits, 4 * out.len() * vocab)?;
        self.gpu.wait()?;
        let logits = self.some_logits.get::<f32>(out.len() * vocab);
        self.outcome.add(self.step.seqs(), out, logits.chunks_exact(vocab))
    }

    /// Attention of few rows by the kernels made for it; whether there are any for such heads.
    fn decode(&mut self, layer: usize) -> Result<bool> {
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
    fn attend_by_rows(&mut self, args: Attend) -> Result<()> {
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
    fn window(&self) -> i32 {
        self.model.config.window.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX))
    }

    /// What attention gave, quantized.
    fn quantize_heads(&mut self) -> Result<()> {
        let row = self.row(self.buffers.attended, 0, self.model.config.q_dim());
        self.quantize(row, 0, self.step.rows(), self.buffers.heads)
    }

    /// Adds a matrix's product with numbers, which are `ready` where the step is one of many rows, to the residual stream.
    fn add(&mut self, matrix: Matrix, numbers: Address, ready: Activations) -> Result<()> {
        if !self.step.is_of_few() {
            return self.add_many(matrix, ready);
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
    fn normed_input(&mut self, weight: Address, formats: &[Format]) -> Result<Input> {
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
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
        let (matrices, bias, norm, places) = (l.qkv, l.bias, l.attn_norm, self.places());
        let x = self.normed_input(norm, &matrices.map(|m| m.format))?;
        let (cache, cells) = self.new_rows(layer, places.cells);
        // One launch for all parts of a format.
        for (first, leader) in matrices.iter().enumerate() {
            if matrices[..first].iter().any(|m| m.format == leader.format) {
                continue;
            }
            let part = |i: usize| Part {
                matrix: matrices[i].place,
                bias: bias[i],
                kind: if matrices[i].format == leader.format { i as i64 } else { NONE },
            };
            let args = Qkv {
                parts: std::array::from_fn(part),
                x,
                cache,
                query: self.buffers.query,
                angles: places.angles,
                places: cells,
                rows: rows as i32,
                pad: 0,
            };
            if !self.step.is_of_few() {
                self.qkv_many(leader.format, args)?;
                continue;
            }
            let same = matrices.iter().filter(|m| m.format == leader.format);
            let tiles = same.map(|m| m.place.rows as usize / 2).sum();
            let k = self.model.config.hidden;
            self.over(&Few { what: "qkv", format: leader.format, tile: 2, tiles, k, is_normed: true, rows }, args)?;
        }
        self.keep(layer, rows, places.cells)
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
        if self.step.is_of_few() { Ok(()) } else { self.quantize_heads() }
    }

    fn attn_out(&mut self, layer: usize) -> Result<()> {
        self.add(self.model.layers[layer].o, self.buffers.attended, self.buffers.heads)
    }

    fn gate_up(&mut self, layer: usize) -> Result<()> {
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
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
            Slot::Attended => self.quantize_heads(),
            Slot::Hidden | Slot::Query => Ok(()),
            Slot::Gated => {
                self.quantize(self.row(place, 0, self.model.config.ffn), 0, self.step.rows(), self.buffers.gated)
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
