//! The reference: every phase as plain candle tensor operations in f32.
//!
//! It is the judge of the other backends and the fallback for models they do not take, so it is written to be read:
//! weights are dequantized to f32 once, keys and values live in f32 pages, and each phase is its formula. It is checked
//! in turn against candle-transformers' own Llama and against loops over f64 (tests/parity.rs, tests/phases.rs).

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_nn::ops::{rms_norm, softmax_last_dim};
use candle_nn::rotary_emb::rope_i;

use super::outcome::Outcome;
use super::{
    Backend, Batch, Limits, MemoryPlan, MemoryUse, Out, PAGE, PageId, PageOp, Phases, Probe, Seq, Slot, StepOut,
};
use crate::error::{Error, Result};
use crate::format::TensorInfo;
use crate::format::weights::Weights;
use crate::model::config::Config;
use crate::model::tensors::{self, of_layer};

const F32: u64 = 4;

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::runtime(format!("the reference backend failed: {e}")).caused_by(e)
    }
}

/// Bytes the reference takes: all weights in f32, all pages in f32, and the largest step's tensors.
pub fn plan(config: &Config, tensors: &[&TensorInfo], limits: Limits) -> MemoryPlan {
    let weights: u64 = tensors.iter().map(|t| t.elements() as u64 * F32).sum();
    let page = (PAGE * config.kv_dim() * 2 * config.layers) as u64 * F32;
    let (rows, context) = (limits.chunk as u64, limits.context as u64);
    // The two phases that hold most: attention (scores, mask and softmax; gathered keys and values) and gate_up (gate,
    // up, silu, product), beside the residual stream, its norm and the logits of one row a sequence. The user names the
    // context: a sum beyond all memory must stay one.
    let attention = context.saturating_mul(rows * (2 * config.heads as u64 + 1) + 4 * config.kv_dim() as u64);
    let feed_forward = 4 * rows * config.ffn as u64;
    let stream = 4 * rows * config.hidden as u64 + 2 * limits.sequences as u64 * config.vocab as u64;
    let workspace = attention.max(feed_forward).saturating_add(stream).saturating_mul(F32);
    MemoryPlan { limits, weights, kv: (limits.pages as u64).saturating_mul(page), workspace }
}

/// Sets how many threads candle's matrix products use, by the environment variable that candle reads.
///
/// Call it before the process starts a second thread.
#[expect(unsafe_code, reason = "candle takes its thread count from the environment only")]
pub fn set_threads(threads: usize) {
    // SAFETY: called from main before any thread is started, so nobody reads the environment at the same time.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
}

/// A matrix product's weight, (out, in), with the bias that some models add.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// (rows, in) → (rows, out)
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

struct Layer {
    attn_norm: Tensor, // (hidden)
    q: Linear,         // (heads * head_dim, hidden)
    k: Linear,         // (kv_heads * head_dim, hidden)
    v: Linear,         // (kv_heads * head_dim, hidden)
    o: Linear,         // (hidden, heads * head_dim)
    ffn_norm: Tensor,  // (hidden)
    gate: Linear,      // (ffn, hidden)
    up: Linear,        // (ffn, hidden)
    down: Linear,      // (hidden, ffn)
}

/// One layer's keys or values: (pages * PAGE, `kv_heads` * `head_dim`); a token's row is page * PAGE + offset.
type Pool = Tensor;

/// The step being worked on.
struct Step {
    seqs: Vec<Seq>,
    pages: Vec<PageId>,
    /// Cosine and sine of every row's angles: (rows, `head_dim` / 2).
    cos: Tensor,
    sin: Tensor,
    hidden: Tensor,   // (rows, hidden)
    query: Tensor,    // (rows, heads, head_dim)
    attended: Tensor, // (rows, heads * head_dim)
    gated: Tensor,    // (rows, ffn)
}

/// The reference backend.
pub struct Candle {
    config: Config,
    embedding: Tensor, // (vocab, hidden)
    layers: Vec<Layer>,
    output_norm: Tensor,
    head: Linear, // (vocab, hidden)
    frequencies: Vec<f32>,
    keys: Vec<Pool>,
    values: Vec<Pool>,
    pool_pages: usize,
    step: Step,
    outcome: Outcome,
    memory: MemoryUse,
}

impl Candle {
    /// Dequantizes the weights to f32 and lays out the pages. The pool's memory is touched only as pages are written.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or unknown, or one with NaN or infinite values.
    pub fn load(config: &Config, weights: &Weights, plan: &MemoryPlan) -> Result<Self> {
        let extras = tensors::check(config, weights)?;
        let all: HashMap<String, Vec<usize>> = tensors::shapes(config, extras).into_iter().collect();
        let tensor = |name: &str| -> Result<Tensor> {
            let shape = all.get(name).ok_or_else(|| Error::model(format!("no Llama has a tensor `{name}`")))?;
            Ok(Tensor::from_vec(weights.f32(name, shape)?, shape.as_slice(), &Device::Cpu)?)
        };
        let linear = |layer: usize, part: &str| -> Result<Linear> {
            let bias = of_layer(layer, &format!("{part}.bias"));
            let bias = all.contains_key(&bias).then(|| tensor(&bias)).transpose()?;
            Ok(Linear { weight: tensor(&of_layer(layer, &format!("{part}.weight")))?, bias })
        };
        // The largest tensors first: while one is read its stored bytes are in memory too, and later there is less
        // room.
        let embedding = tensor(tensors::EMBEDDING)?;
        let head = if extras.tied { embedding.clone() } else { tensor(tensors::OUTPUT)? };
        let layers = (0..config.layers).map(|l| {
            Ok(Layer {
                attn_norm: tensor(&of_layer(l, "attn_norm.weight"))?,
                q: linear(l, "attn_q")?,
                k: linear(l, "attn_k")?,
                v: linear(l, "attn_v")?,
                o: linear(l, "attn_output")?,
                ffn_norm: tensor(&of_layer(l, "ffn_norm.weight"))?,
                gate: linear(l, "ffn_gate")?,
                up: linear(l, "ffn_up")?,
                down: linear(l, "ffn_down")?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let factors = extras.rope_factors.then(|| weights.f32(tensors::ROPE_FACTORS, &[config.head_dim / 2]));
        let pool_pages = plan.limits.pages;
        let pool = || Tensor::zeros((pool_pages * PAGE, config.kv_dim()), candle_core::DType::F32, &Device::Cpu);
        let pools = || (0..config.layers).map(|_| pool()).collect::<candle_core::Result<Vec<Pool>>>();
        Ok(Self {
            config: config.clone(),
            embedding,
            layers,
            output_norm: tensor(tensors::OUTPUT_NORM)?,
            head: Linear { weight: head, bias: None },
            frequencies: config.rope.frequencies(config.head_dim, factors.transpose()?.as_deref()),
            keys: pools()?,
            values: pools()?,
            pool_pages,
            step: Step::empty()?,
            outcome: Outcome::default(),
            memory: MemoryUse { weights: plan.weights, kv: plan.kv },
        })
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Ok(rms_norm(x, weight, self.config.rms_eps)?)
    }

    /// Turns each pair of each head by its row's angles: (rows, heads, `head_dim`) → same.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let heads_first = x.transpose(0, 1)?.contiguous()?.unsqueeze(0)?; // (1, heads, rows, head_dim)
        let turned = rope_i(&heads_first, &self.step.cos, &self.step.sin)?;
        Ok(turned.squeeze(0)?.transpose(0, 1)?.contiguous()?)
    }

    /// Writes new rows, (rows, `kv_dim`), to their pages, one run of tokens in a page at a time.
    fn write_pages(&self, pool: &Pool, rows: &Tensor) -> Result<()> {
        for seq in &self.step.seqs {
            let len = seq.rows.end - seq.rows.start;
            let first = seq.kv_len - len;
            let mut done = 0;
            while done < len {
                let pos = first + done;
                let offset = pos as usize % PAGE;
                let run = (len - done).min((PAGE - offset) as u32);
                let page = self.step.table(seq)[pos as usize / PAGE] as usize;
                let source = rows.narrow(0, (seq.rows.start + done) as usize, run as usize)?;
                // slice_set wants a tensor of its own: a narrowed one may share the whole batch's storage.
                pool.slice_set(&source.force_contiguous()?, 0, page * PAGE + offset)?;
                done += run;
            }
        }
        Ok(())
    }

    /// A sequence's cached rows in order: (`kv_heads`, `kv_len`, `head_dim`).
    fn gather(&self, pool: &Pool, seq: &Seq) -> Result<Tensor> {
        let used = (seq.kv_len as usize).div_ceil(PAGE);
        let pages = Tensor::new(&self.step.table(seq)[..used], &Device::Cpu)?;
        let Config { kv_heads, head_dim, .. } = self.config;
        Ok(pool
            .reshape((self.pool_pages, PAGE * kv_heads * head_dim))?
            .index_select(&pages, 0)?
            .reshape((used * PAGE, kv_heads, head_dim))?
            .narrow(0, 0, seq.kv_len as usize)?
            .transpose(0, 1)?
            .contiguous()?)
    }

    /// What each row may not see, as an addend: (rows, `kv_len`), 0 or −∞. `None` when all rows see everything.
    fn mask(&self, seq: &Seq) -> Result<Option<Tensor>> {
        let (rows, kv_len) = ((seq.rows.end - seq.rows.start) as usize, seq.kv_len as usize);
        let window = self.config.window.unwrap_or(usize::MAX);
        if rows == 1 && kv_len <= window {
            return Ok(None);
        }
        let first = kv_len - rows;
        let hidden = |row: usize, key: usize| key > first + row || first + row - key >= window;
        let addends: Vec<f32> = (0..rows)
            .flat_map(|row| (0..kv_len).map(move |key| if hidden(row, key) { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        Ok(Some(Tensor::from_vec(addends, (rows, kv_len), &Device::Cpu)?))
    }

    /// softmax(Q·Kᵀ / √`head_dim` + mask)·V for one sequence: → (rows, heads * `head_dim`).
    fn attend_one(&self, layer: usize, seq: &Seq) -> Result<Tensor> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let (start, rows) = (seq.rows.start as usize, (seq.rows.end - seq.rows.start) as usize);
        let kv_len = seq.kv_len as usize;
        let keys = self.gather(&self.keys[layer], seq)?;
        let values = self.gather(&self.values[layer], seq)?;
        // The query heads of a group lie next to each other, so they become further rows of their key head.
        let query = self.step.query.narrow(0, start, rows)?.transpose(0, 1)?.contiguous()?; // (heads, rows, head_dim)
        let query = query.reshape((kv_heads, heads / kv_heads * rows, head_dim))?;
        let mut scores = (query.matmul(&keys.t()?)? / (head_dim as f64).sqrt())?;
        if let Some(mask) = self.mask(seq)? {
            scores = scores.reshape((heads, rows, kv_len))?.broadcast_add(&mask)?;
            scores = scores.reshape((kv_heads, heads / kv_heads * rows, kv_len))?;
        }
        let mixed = softmax_last_dim(&scores)?.matmul(&values)?; // (kv_heads, group * rows, head_dim)
        Ok(mixed.reshape((heads, rows, head_dim))?.transpose(0, 1)?.reshape((rows, heads * head_dim))?)
    }

    /// The first row of one layer's keys or values of a page.
    fn page_row(&self, page: PageId) -> Result<usize> {
        if page as usize >= self.pool_pages {
            return Err(Error::runtime(format!("page {page} is outside the pool of {}", self.pool_pages)));
        }
        Ok(page as usize * PAGE)
    }

    /// All pools in the order of [`PageOp`]'s numbers: layer by layer, keys before values.
    fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.keys.iter().zip(&self.values).flat_map(|(k, v)| [k, v])
    }
}

impl Step {
    fn empty() -> Result<Self> {
        let none = Tensor::zeros(0, candle_core::DType::F32, &Device::Cpu)?;
        let [cos, sin, hidden, query, attended, gated] = std::array::from_fn(|_| none.clone());
        Ok(Self { seqs: Vec::new(), pages: Vec::new(), cos, sin, hidden, query, attended, gated })
    }

    fn table(&self, seq: &Seq) -> &[PageId] {
        &self.pages[seq.pages.start as usize..seq.pages.end as usize]
    }
}

impl Phases for Candle {
    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        batch.check(&self.config, self.pool_pages)?;
        let mut ids = Vec::with_capacity(batch.rows.len());
        self.outcome.ids(batch, &mut ids)?;
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let angles: Vec<f32> =
            batch.rows.iter().flat_map(|row| self.frequencies.iter().map(|f| row.pos as f32 * f)).collect();
        let angles = Tensor::from_vec(angles, (batch.rows.len(), self.frequencies.len()), &Device::Cpu)?;
        self.step = Step {
            seqs: batch.seqs.to_vec(),
            pages: batch.pages.to_vec(),
            cos: angles.cos()?,
            sin: angles.sin()?,
            hidden: self.embedding.index_select(&ids, 0)?,
            ..Step::empty()?
        };
        Ok(())
    }

    fn qkv(&mut self, layer: usize) -> Result<()> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let l = &self.layers[layer];
        let x = self.norm(&self.step.hidden, &l.attn_norm)?;
        let rows = x.dim(0)?;
        let query = self.rotate(&l.q.forward(&x)?.reshape((rows, heads, head_dim))?)?;
        let keys = self.rotate(&l.k.forward(&x)?.reshape((rows, kv_heads, head_dim))?)?;
        self.write_pages(&self.keys[layer], &keys.flatten_from(1)?)?;
        self.write_pages(&self.values[layer], &l.v.forward(&x)?)?;
        self.step.query = query;
        Ok(())
    }

    fn attend(&mut self, layer: usize) -> Result<()> {
        let parts = self.step.seqs.iter().map(|seq| self.attend_one(layer, seq)).collect::<Result<Vec<_>>>()?;
        self.step.attended = Tensor::cat(&parts, 0)?;
        Ok(())
    }

    fn attn_out(&mut self, layer: usize) -> Result<()> {
        let projected = self.layers[layer].o.forward(&self.step.attended)?;
        self.step.hidden = (&self.step.hidden + projected)?;
        Ok(())
    }

    fn gate_up(&mut self, layer: usize) -> Result<()> {
        let l = &self.layers[layer];
        let x = self.norm(&self.step.hidden, &l.ffn_norm)?;
        self.step.gated = (l.gate.forward(&x)?.silu()? * l.up.forward(&x)?)?;
        Ok(())
    }

    fn down(&mut self, layer: usize) -> Result<()> {
        let projected = self.layers[layer].down.forward(&self.step.gated)?;
        self.step.hidden = (&self.step.hidden + projected)?;
        Ok(())
    }

    fn head(&mut self, out: &[Out<'_>]) -> Result<()> {
        if out.is_empty() {
            return self.outcome.settle(&self.step.seqs, out, std::iter::empty());
        }
        let rows: Vec<u32> = out.iter().map(|o| o.row).collect();
        let x = self.step.hidden.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
        let all = self.head.forward(&self.norm(&x, &self.output_norm)?)?.flatten_all()?.to_vec1::<f32>()?;
        self.outcome.settle(&self.step.seqs, out, all.chunks_exact(self.config.vocab))
    }
}

impl Backend for Candle {
    fn config(&self) -> &Config {
        &self.config
    }

    fn collect(&mut self) -> Result<StepOut<'_>> {
        Ok(self.outcome.step())
    }

    fn pages(&mut self, op: PageOp<'_>) -> Result<()> {
        let part = PAGE * self.config.kv_dim();
        match op {
            PageOp::Copy { from, to } => {
                let (from, to) = (self.page_row(from)?, self.page_row(to)?);
                for pool in self.pools() {
                    pool.slice_set(&pool.narrow(0, from, PAGE)?.force_contiguous()?, 0, to)?;
                }
            }
            PageOp::Read { page, into } => {
                let row = self.page_row(page)?;
                check_page_len(into.len(), part * 2 * self.config.layers)?;
                for (pool, out) in self.pools().zip(into.chunks_exact_mut(part)) {
                    out.copy_from_slice(&pool.narrow(0, row, PAGE)?.flatten_all()?.to_vec1::<f32>()?);
                }
            }
            PageOp::Write { page, from } => {
                let row = self.page_row(page)?;
                check_page_len(from.len(), part * 2 * self.config.layers)?;
                for (pool, values) in self.pools().zip(from.chunks_exact(part)) {
                    let values = Tensor::from_slice(values, (PAGE, self.config.kv_dim()), &Device::Cpu)?;
                    pool.slice_set(&values, 0, row)?;
                }
            }
        }
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        self.memory
    }
}

fn check_page_len(len: usize, needed: usize) -> Result<()> {
    if len != needed {
        return Err(Error::runtime(format!("a page holds {needed} numbers, not {len}")));
    }
    Ok(())
}

impl Probe for Candle {
    fn put(&mut self, slot: Slot, values: &[f32]) -> Result<()> {
        let Config { heads, head_dim, .. } = self.config;
        let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
        let rows = self.step.cos.dim(0)?;
        match slot {
            Slot::Hidden => self.step.hidden = values.reshape((rows, self.config.hidden))?,
            Slot::Query => self.step.query = values.reshape((rows, heads, head_dim))?,
            Slot::Attended => self.step.attended = values.reshape((rows, heads * head_dim))?,
            Slot::Gated => self.step.gated = values.reshape((rows, self.config.ffn))?,
        }
        Ok(())
    }

    fn get(&mut self, slot: Slot) -> Result<Vec<f32>> {
        let tensor = match slot {
            Slot::Hidden => &self.step.hidden,
            Slot::Query => &self.step.query,
            Slot::Attended => &self.step.attended,
            Slot::Gated => &self.step.gated,
        };
        Ok(tensor.flatten_all()?.to_vec1()?)
    }
}
