//! The phases as kernels.

use super::Cuda;
use super::args::{
    Activations, Attend, Begin, Decode, Finish, Gated, HandOn, Linear, Logits, NONE, Part, Plain, Qkv, Quantize,
    bytes_of, bytes_of_mut,
};
use super::gpu::{Address, Launch, THREADS};
use super::memory::{CHUNK, Places, chunks, head_rows};
use super::model::Matrix;
use super::pages::numbers;
use crate::backend::{Batch, Out, Phases, Probe, Slot, Want};
use crate::error::{Error, Result};
use crate::format::packed::{Format, GROUP};

/// Query heads of a block: `HEADS` of `attention.cu`.
const HEADS: u32 = 8;
/// Warps of a block: `WARPS` of `common.cuh`.
const WARPS: usize = 8;
/// The same of a block that gives 32 numbers of a row: `ADD` and `GATED` of `gemv.cuh`.
const GROUP_WARPS: usize = 16;

/// Rows of activations that a block takes at once.
fn rows_at_once(format: Format, rows: usize) -> usize {
    match rows {
        1 => 1,
        2..=4 => 4,
        _ if format.is_float() => 4,
        _ => 16,
    }
}

/// Bytes of a staged row of activations, see `stream.cuh`.
fn shared_bytes(format: Format, k: usize, rows: usize) -> usize {
    if rows == 1 && !format.is_float() { k + k / GROUP * 16 } else { 0 }
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
    fn waiting<A: Plain>(&mut self, kernel: &str, grid: [u32; 3], args: A) -> Result<()> {
        self.launch(&Launch { kernel, grid, threads: THREADS, shared: 0, waits: true }, args)
    }

    /// A kernel over a matrix of a format, of which so many blocks of so many warps give all rows. `x` is
    /// the width of the activations, and how many rows of them there are.
    fn over<A: Plain>(
        &mut self,
        what: &str,
        format: Format,
        blocks: usize,
        warps: usize,
        x: (usize, usize),
        args: A,
    ) -> Result<()> {
        let (k, rows) = x;
        let at_once = rows_at_once(format, rows);
        let kernel = format!("{what}_{format:?}_{at_once}");
        let grid = [blocks as u32, rows.div_ceil(at_once) as u32, 1];
        self.launch(
            &Launch {
                kernel: &kernel,
                grid,
                threads: 32 * warps as u32,
                shared: shared_bytes(format, k, rows),
                waits: true,
            },
            args,
        )
    }

    /// Where the step's rows belong.
    fn places(&self) -> Places {
        self.buffers.places[usize::from(!self.step.is_of_few())]
    }

    /// Takes a step in, and leaves for the GPU what it begins with.
    ///
    /// # Errors
    /// A batch that the engine built wrongly, or one that is larger than was planned.
    pub fn take_in(&mut self, batch: &Batch<'_>) -> Result<()> {
        batch.check(&self.model.config, self.limits.pages)?;
        if batch.rows.len() > self.limits.chunk {
            return Err(Error::runtime(format!("a step of {} rows is larger than was planned", batch.rows.len())));
        }
        self.step.take_in(batch, &self.model, &self.outcome)?;
        if self.step.is_of_few() {
            self.step.lay_out(&self.inbox);
            return Ok(());
        }
        self.step.upload(&self.buffers, &self.places(), &mut *self.gpu)?;
        self.plan_tiles()
    }

    /// The first kernel of a step.
    fn enqueue_begin(&mut self) -> Result<()> {
        self.next_norm = self.model.layers[0].attn_norm;
        if !self.step.is_of_few() {
            return Ok(());
        }
        let args = Begin {
            embeddings: self.inbox.embeddings.device,
            words: self.inbox.words.device,
            to_words: self.places().angles,
            stream: self.buffers.hidden,
            weight: self.next_norm,
            to: self.buffers.normed,
            best: self.buffers.best,
        };
        let rows = self.step.rows() as u32;
        let blocks = self.model.config.hidden.div_ceil(GROUP * WARPS) as u32;
        self.waiting("begin_step", [rows, blocks, 1], args)
    }

    /// Rows of the residual stream for the next norm; those that `which` names, or all of them in order.
    fn hand_on(&mut self, which: Address, rows: usize) -> Result<()> {
        let args = HandOn { x: self.buffers.hidden, weight: self.next_norm, which, to: self.buffers.normed };
        self.plainly("hand_on", [rows as u32, 1, 1], args)
    }

    /// All of a step but its head.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_body(&mut self) -> Result<()> {
        self.enqueue_begin()?;
        for layer in 0..self.layers() {
            self.qkv(layer)?;
            self.attend(layer)?;
            self.attn_out(layer)?;
            self.gate_up(layer)?;
            self.down(layer)?;
        }
        Ok(())
    }

    /// The step that was taken in, and the head where `settle` does not ask for it in pieces.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue(&mut self, out: &[Out<'_>]) -> Result<()> {
        self.enqueue_body()?;
        self.enqueue_head_of(out)
    }

    /// The head for all rows of the step, in order: few of them.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn enqueue_head(&mut self, rows: usize) -> Result<()> {
        self.logits(rows)
    }

    /// The head for the first rows of those that were handed on.
    fn logits(&mut self, rows: usize) -> Result<()> {
        let head = self.model.head;
        let args = Logits {
            matrix: head.place,
            x: self.buffers.normed,
            out: self.buffers.logits,
            best: self.buffers.best,
            eps: self.model.config.rms_eps,
            rows: rows as i32,
        };
        let block = WARPS * 4;
        let blocks = self.model.config.vocab.div_ceil(block);
        self.over("logits", head.format, blocks, WARPS, (self.model.config.hidden, rows), args)?;
        let args = Finish { best: self.buffers.best, out: self.best.device, rows: rows as i64 };
        self.waiting("finish_step", [1; 3], args)
    }

    /// Whether the head is for all rows of a step of few, in order.
    fn is_whole(&self, out: &[Out<'_>]) -> bool {
        self.step.is_of_few()
            && out.len() == self.step.rows()
            && out.len() <= head_rows(&self.limits)
            && out.iter().zip(0..).all(|(out, row)| out.row == row)
    }

    fn enqueue_head_of(&mut self, out: &[Out<'_>]) -> Result<()> {
        if self.is_whole(out) { self.enqueue_head(out.len()) } else { Ok(()) }
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
            self.step.ask_for(some, &self.buffers, &mut *self.gpu)?;
            self.gpu.write(self.buffers.best, &vec![0; 8 * some.len()])?;
            self.next_norm = self.model.output_norm;
            self.hand_on(self.buffers.which, some.len())?;
            self.logits(some.len())?;
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
            let ids = self.best.get::<u64>(out.len()).iter().map(|rank| (*rank != 0).then_some(!(*rank as u32)));
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
        if !self.step.is_of_few() || !self.is_half() || ![64, 128].contains(&config.head_dim) || group > 8 {
            return Ok(false);
        }
        let places = self.places();
        let args = Decode {
            query: self.buffers.query,
            cache: self.pages,
            page: numbers(config) as i64,
            layer: self.layer_offset(layer),
            tables: places.tables,
            table: places.table,
            positions: places.positions,
            partials: self.buffers.partials,
            counters: self.buffers.counters,
            out: self.buffers.attended,
            to: Activations { squares: 0, ..self.buffers.heads },
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            heads: config.heads as i32,
            kv_heads: config.kv_heads as i32,
            window: self.window(),
            chunks: chunks(&self.limits) as i32,
            pad: 0,
        };
        let kernel = format!("decode_{}_{}", config.head_dim, if group > 4 { 8 } else { 4 });
        let blocks = self.blocks_of_context().min(chunks(&self.limits));
        let grid = [blocks as u32, config.kv_heads as u32, self.step.rows() as u32];
        self.waiting(&kernel, grid, args)?;
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
        let args = Quantize { x: self.buffers.attended, to: Activations { squares: 0, ..self.buffers.heads } };
        self.plainly("quantize_rows", [self.step.rows() as u32, 1, 1], args)
    }

    /// Adds a matrix's product to the residual stream, which goes to the norm `next`.
    fn add(&mut self, matrix: Matrix, x: Activations, next: Address) -> Result<()> {
        if !self.step.is_of_few() {
            return self.add_many(matrix, x);
        }
        let rows = self.step.rows();
        self.next_norm = next;
        let args = Linear {
            matrix: matrix.place,
            x: Activations { squares: 0, ..x },
            to: self.buffers.normed,
            weight: next,
            stream: self.buffers.hidden,
            eps: 0.0,
            rows: rows as i32,
        };
        let blocks = self.model.config.hidden / GROUP;
        self.over("add_linear", matrix.format, blocks, GROUP_WARPS, (x.k as usize, rows), args)
    }
}

impl Phases for Cuda {
    fn layers(&self) -> usize {
        self.model.layers.len()
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.take_in(batch)?;
        self.enqueue_begin()
    }

    fn qkv(&mut self, layer: usize) -> Result<()> {
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
        let (matrices, bias, norm, places) = (l.qkv, l.bias, l.attn_norm, self.places());
        let x = self.normed(norm)?;
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
                cache: self.cache(layer),
                query: self.buffers.query,
                angles: places.angles,
                places: places.cells,
                eps: self.model.config.rms_eps,
                rows: rows as i32,
            };
            if !self.step.is_of_few() {
                self.qkv_many(leader.format, args)?;
                continue;
            }
            let same = matrices.iter().filter(|m| m.format == leader.format);
            let blocks = same.map(|m| (m.place.rows as usize).div_ceil(2 * WARPS)).sum();
            self.over("qkv", leader.format, blocks, WARPS, (self.model.config.hidden, rows), args)?;
        }
        Ok(())
    }

    fn attend(&mut self, layer: usize) -> Result<()> {
        if self.options.flash_attention && self.decode(layer)? {
            return Ok(());
        }
        let (config, places) = (&self.model.config, self.places());
        // As many as a recorded step has to do for.
        let chunks = (self.blocks_of_context() * super::memory::SPAN).div_ceil(CHUNK);
        let args = Attend {
            query: self.buffers.query,
            cache: self.pages,
            page: numbers(config) as i64,
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
            is_half: self.is_half().into(),
            pad: 0,
        };
        self.attend_by_rows(args)?;
        self.quantize_heads()
    }

    fn attn_out(&mut self, layer: usize) -> Result<()> {
        let l = &self.model.layers[layer];
        let (o, norm) = (l.o, l.ffn_norm);
        self.add(o, self.buffers.heads, norm)
    }

    fn gate_up(&mut self, layer: usize) -> Result<()> {
        let (rows, l) = (self.step.rows(), &self.model.layers[layer]);
        let (gate, up, norm) = (l.gate, l.up, l.ffn_norm);
        let args = Gated {
            gate: gate.place,
            up: up.place,
            x: self.normed(norm)?,
            to: Activations { squares: 0, ..self.buffers.gated },
            eps: self.model.config.rms_eps,
            rows: rows as i32,
        };
        if !self.step.is_of_few() {
            return self.gated_many(gate.format, args);
        }
        let (k, blocks) = (self.model.config.hidden, self.model.config.ffn / GROUP);
        self.over("gated", gate.format, blocks, GROUP_WARPS, (k, rows), args)
    }

    fn down(&mut self, layer: usize) -> Result<()> {
        let next = self.model.layers.get(layer + 1).map_or(self.model.output_norm, |l| l.attn_norm);
        self.add(self.model.layers[layer].down, self.buffers.gated, next)
    }

    fn head(&mut self, out: &[Out<'_>]) -> Result<()> {
        self.enqueue_head_of(out)?;
        self.settle(out)
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
        // What the next phase reads is what the last one made of them.
        match slot {
            Slot::Hidden if self.step.is_of_few() => self.hand_on(0, self.step.rows()),
            Slot::Attended => self.quantize_heads(),
            Slot::Hidden | Slot::Query => Ok(()),
            Slot::Gated => {
                let args = Quantize { x: place, to: Activations { squares: 0, ..self.buffers.gated } };
                self.plainly("quantize_rows", [self.step.rows() as u32, 1, 1], args)
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
