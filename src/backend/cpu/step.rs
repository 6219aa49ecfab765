//! The step being worked on: its rows, where they lie in panels, and the buffers between phases.

use super::Options;
use super::attention::{CHUNK, PARTIAL_HEAD, QUERIES, SCRATCH};
use super::kernels::Kernels;
use super::matmul::{GROUP_BYTES, panel_width};
use super::memory::{Part, Region, part_bytes};
use super::model::Matrix;
use super::rows::{Groups, Lane, Rest};
use crate::backend::{Limits, PageId, Seq};
use crate::error::Result;
use crate::format::packed::GROUP;
use crate::model::config::Config;

/// Up to so many rows every thread prepares all activations for itself: cheaper than to share them out and meet. With 1 or
/// 2 here 3 and 4 rows are 1 to 7 % slower; with 8 or 12, which change steps of 5 to 12 rows, preparing is 1 % slower to 4 %
/// faster, and attention over 1024 tokens makes 5 to 8 and 12 rows up to 9 % slower (`docs/cpu.md`).
pub const FEW: usize = 4;
/// Rows of the widest panel.
pub const WIDEST: usize = 12;

/// Rows of activations that go through a matrix kernel together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panel {
    pub first: usize,
    pub rows: usize,
    /// As it is laid out: `rows`, rounded up to what there is a kernel for.
    pub width: usize,
}

/// Cuts rows into panels.
pub fn panels(rows: usize, max_panel: usize) -> impl Iterator<Item = Panel> {
    (0..rows).step_by(max_panel).map(move |first| {
        let rows = max_panel.min(rows - first);
        Panel { first, rows, width: panel_width(rows, max_panel) }
    })
}

/// Activations of several rows as matrices read them: quantized, in f32 for weights in floating point, or both. Panels, one
/// after the other.
#[derive(Debug, Clone, Copy)]
pub struct Panels {
    bytes: Part<u8>,
    /// The same in f32; nothing where the model has no such weights.
    numbers: Part<f32>,
    /// Groups of a row.
    pub groups: usize,
    /// Panels of what outliers left, and for each row (of which a panel's first counts) a byte a group.
    rest: Part<u8>,
    flags: Part<u8>,
    /// Whether outliers leave anything.
    has_rest: bool,
}

impl Panels {
    /// For so many rows of `k` numbers.
    ///
    /// # Errors
    /// When the region was planned too small.
    pub fn new(region: &mut Region, rows: usize, k: usize, has_rest: bool, has_numbers: bool) -> Result<Self> {
        let (rows, groups) = (rows + WIDEST, k / GROUP);
        let numbers = region.take(if has_numbers { rows * k } else { 0 })?;
        let mut take = |bytes: usize, is_needed: bool| region.take(if is_needed { rows * bytes } else { 0 });
        Ok(Self {
            numbers,
            bytes: take(row_bytes(groups), true)?,
            rest: take(row_bytes(groups), has_rest)?,
            flags: take(flag_bytes(groups), has_rest)?,
            groups,
            has_rest,
        })
    }

    /// Bytes that [`Panels::new`] takes.
    pub fn bytes(rows: usize, k: usize, has_rest: bool, has_numbers: bool) -> usize {
        let (rows, groups) = (rows + WIDEST, k / GROUP);
        let bytes = part_bytes::<u8>(rows * row_bytes(groups));
        let rests = if has_rest { bytes + part_bytes::<u8>(rows * flag_bytes(groups)) } else { 0 };
        let numbers = if has_numbers { part_bytes::<f32>(rows * k) } else { 0 };
        bytes + rests + numbers
    }

    /// For rows of `k` numbers, outliers with or without rests; the same bytes serve rows of several lengths, one after
    /// the other.
    pub fn of(self, k: usize, has_rest: bool) -> Self {
        Self { groups: k / GROUP, has_rest, ..self }
    }

    /// Where the rests of a panel are, if there are any.
    pub fn rest(&self, panel: Panel) -> Option<Rest> {
        let (at, flags) = (panel.first * row_bytes(self.groups), panel.first * flag_bytes(self.groups));
        self.has_rest.then(|| Rest { panel: self.rest.at(at), flags: self.flags.at(flags) })
    }

    /// Has a panel begin without rests.
    ///
    /// # Safety
    /// No other thread uses the panel.
    #[expect(unsafe_code, reason = "panels are shared by threads")]
    pub unsafe fn forget_rests(&self, panel: Panel) {
        if self.has_rest {
            let bytes = flag_bytes(self.groups);
            // SAFETY: the caller's promise.
            unsafe { self.flags.slice_mut(panel.first * bytes, bytes) }.fill(0);
        }
    }

    /// The first byte of a panel. All panels before it are as wide as they can be, so that it begins at its first row.
    pub fn at(&self, panel: Panel) -> *mut u8 {
        self.bytes.at(panel.first * row_bytes(self.groups))
    }

    /// The first number of a panel in f32.
    pub fn numbers(&self, panel: Panel) -> *mut f32 {
        self.numbers.at(panel.first * self.groups * GROUP)
    }

    /// Where a row of a panel goes.
    pub fn place(&self, panel: Panel, row: usize, forms: Forms) -> Place {
        Place {
            lane: Lane { panel: self.at(panel), width: panel.width, row },
            rest: self.rest(panel),
            numbers: if forms.numbers { self.numbers(panel) } else { std::ptr::null_mut() },
            forms,
        }
    }
}

/// The forms of activations that matrices read.
#[derive(Debug, Clone, Copy)]
pub struct Forms {
    pub codes: bool,
    pub numbers: bool,
}

impl Forms {
    /// Those that some matrices read.
    pub fn of(matrices: &[&Matrix]) -> Self {
        let any = |is_float: bool| matrices.iter().any(|m| m.format.is_float() == is_float);
        Self { codes: any(false), numbers: any(true) }
    }

    /// Bytes of a group of a row, in the larger form.
    pub fn group_bytes(self) -> usize {
        if self.numbers { size_of::<f32>() * GROUP } else { GROUP_BYTES }
    }
}

/// A row's place in a panel, in all its forms.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    lane: Lane,
    rest: Option<Rest>,
    numbers: *mut f32,
    forms: Forms,
}

impl Place {
    /// Puts groups of a row there; with the rests of outliers only whole rows.
    ///
    /// # Safety
    /// `x` is the groups' numbers, and no other thread uses their place.
    #[expect(unsafe_code, reason = "panels are shared by threads")]
    pub unsafe fn put(self, kernels: &Kernels, x: *const f32, groups: Groups) {
        let Self { lane, rest, numbers, forms } = self;
        // SAFETY: the caller's promise; the panel has room for all groups.
        unsafe {
            match rest {
                _ if !forms.codes => {}
                Some(rest) => (kernels.quantize_with_rest)(x, groups.all, lane, rest),
                None => (kernels.quantize)(x, groups, lane),
            }
            if forms.numbers {
                interleave(x, groups, numbers, lane);
            }
        }
    }
}

/// Writes numbers of a row between those of its panel's other rows.
///
/// # Safety
/// As of [`Place::put`].
#[expect(unsafe_code, reason = "panels are shared by threads")]
unsafe fn interleave(x: *const f32, groups: Groups, panel: *mut f32, lane: Lane) {
    let (first, count) = (groups.first * GROUP, groups.count * GROUP);
    // SAFETY: the caller's promise.
    unsafe {
        let to = panel.add(first * lane.width + lane.row);
        if lane.width == 1 {
            return to.copy_from_nonoverlapping(x, count);
        }
        for i in 0..count {
            *to.add(i * lane.width) = *x.add(i);
        }
    }
}

/// Bytes of a row of `groups` groups; weights' units are of two groups at least.
fn row_bytes(groups: usize) -> usize {
    groups.next_multiple_of(2) * GROUP_BYTES
}

/// Bytes of a row's flags: the largest units have 8 groups.
fn flag_bytes(groups: usize) -> usize {
    groups.next_multiple_of(8)
}

/// Everything between the phases, for as many rows as a step may have.
pub struct Buffers {
    pub hidden: Part<f32>,   // (rows, hidden)
    pub query: Part<f32>,    // (rows, q_dim)
    pub key: Part<f32>,      // (rows, kv_dim)
    pub value: Part<f32>,    // (rows, kv_dim)
    pub attended: Part<f32>, // (rows, q_dim)
    pub gate: Part<f32>,     // (rows, ffn), then SwiGLU's output
    pub up: Part<f32>,       // (rows, ffn)
    /// (rows, `head_dim`): every cosine twice; every sine twice, the first time negative.
    pub cos: Part<f32>,
    pub sin: Part<f32>,
    /// Activations of the rows, where all threads share them.
    pub shared: Panels,
    pub gated: Panels,
    /// Partial results of few rows: (rows, heads, chunks).
    pub partials: Part<f32>,
    pub own: Vec<Own>,
    /// Chunks of the longest context.
    pub chunks: usize,
    /// Numbers of a partial result.
    pub partial: usize,
    _region: Region,
}

/// A thread's own.
pub struct Own {
    pub panels: Panels,
    /// A normed row, or a key or value.
    pub row: Part<f32>,
    pub scores: Part<f32>,
    /// Partial results of some queries: (queries, chunks).
    pub partials: Part<f32>,
}

impl Buffers {
    /// For a model that has weights in floating point or not.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn new(config: &Config, limits: &Limits, options: &Options, has_numbers: bool) -> Result<Self> {
        let mut region = Region::new(Self::bytes(config, limits, options, has_numbers))?;
        let rows = limits.chunk;
        let widest = config.hidden.max(config.q_dim());
        let (chunks, partial) = (limits.context.div_ceil(CHUNK), PARTIAL_HEAD + config.head_dim);
        let own = |region: &mut Region| -> Result<Own> {
            Ok(Own {
                panels: Panels::new(region, WIDEST, widest, true, has_numbers)?,
                row: region.take(widest)?,
                scores: region.take(scores(limits, options))?,
                partials: region.take(QUERIES * chunks * partial)?,
            })
        };
        Ok(Self {
            hidden: region.take(rows * config.hidden)?,
            query: region.take(rows * config.q_dim())?,
            key: region.take(rows * config.kv_dim())?,
            value: region.take(rows * config.kv_dim())?,
            attended: region.take(rows * config.q_dim())?,
            gate: region.take(rows * config.ffn)?,
            up: region.take(rows * config.ffn)?,
            cos: region.take(rows * config.head_dim)?,
            sin: region.take(rows * config.head_dim)?,
            shared: Panels::new(&mut region, rows, widest, true, has_numbers)?,
            gated: Panels::new(&mut region, rows, config.ffn, false, has_numbers)?,
            partials: region.take(FEW * config.heads * chunks * partial)?,
            own: (0..options.threads).map(|_| own(&mut region)).collect::<Result<_>>()?,
            chunks,
            partial,
            _region: region,
        })
    }

    /// Bytes that [`Buffers::new`] takes.
    pub fn bytes(config: &Config, limits: &Limits, options: &Options, has_numbers: bool) -> usize {
        let rows = limits.chunk;
        let widest = config.hidden.max(config.q_dim());
        let (chunks, partial) = (limits.context.div_ceil(CHUNK), PARTIAL_HEAD + config.head_dim);
        let numbers = |per_row: usize| part_bytes::<f32>(rows * per_row);
        let own = Panels::bytes(WIDEST, widest, true, has_numbers)
            + part_bytes::<f32>(widest)
            + part_bytes::<f32>(scores(limits, options))
            + part_bytes::<f32>(QUERIES.saturating_mul(chunks).saturating_mul(partial));
        let streams = numbers(config.hidden)
            + 2 * numbers(config.q_dim())
            + 2 * numbers(config.kv_dim())
            + 2 * numbers(config.ffn)
            + 2 * numbers(config.head_dim);
        streams
            + Panels::bytes(rows, widest, true, has_numbers)
            + Panels::bytes(rows, config.ffn, false, has_numbers)
            + part_bytes::<f32>(FEW * config.heads * chunks * partial)
            + options.threads * own
    }
}

/// Scores that a thread holds at once: of some queries over a chunk, or of a query over all of its context.
fn scores(limits: &Limits, options: &Options) -> usize {
    if options.flash_attention { SCRATCH } else { limits.context }
}

/// The rows of a step.
#[derive(Default)]
pub struct Step {
    /// Token ids.
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub seqs: Vec<Seq>,
    pub pages: Vec<PageId>,
    pub panels: Vec<Panel>,
}

impl Step {
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    pub fn table(&self, seq: &Seq) -> &[PageId] {
        &self.pages[seq.pages.start as usize..seq.pages.end as usize]
    }

    /// Whether every thread prepares all activations for itself.
    pub fn is_few(&self) -> bool {
        self.rows() <= FEW
    }
}
