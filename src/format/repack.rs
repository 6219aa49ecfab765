//! Weights as a backend packed them, kept on disk: the second start reads what the first one worked out.
//!
//! One file a model and layout, in `repacked/` of the cache. It is taken only if it was made from these very weights by
//! this very layout (`source`), and if every byte of it is as it was written (`checksum`); what is damaged is
//! removed and packed again. Its parts lie in the order of the matrices, whatever the number of threads, and are read
//! into the backend's own memory rather than mapped: that keeps huge pages and each thread's share in one run, and a
//! file in the system's cache is read at the speed of memory.
//!
//! Files are written behind a model that runs already (`write`), under a name of their own until they are whole. That
//! they cannot be written is no error: the next start packs again.

mod checksum;
mod file;
mod folder;
mod source;
mod write;

use std::fmt::Write as _;
use std::path::PathBuf;

pub use file::Reader;
pub use folder::{Folder, Kept, bytes};
pub use write::{Contents, Writer};

use super::dequantize::Codebook;
use super::packed::Format;
use super::weights::Weights;
use crate::terminal::progress::Mode;
use file::{Content, Unfit};

/// Below this many bytes nothing is kept: they are packed in the blink of an eye (30 ms on two cores).
pub const LEAST: usize = 8 << 20;

/// How loading goes about packing.
#[derive(Debug, Clone, Default)]
pub struct Repack {
    /// Where packed weights are kept; `None` keeps none.
    pub folder: Option<Folder>,
    /// Whether loading ends only when they are written: for those who measure what comes then.
    pub wait: bool,
    /// How it is shown when it takes long.
    pub progress: Mode,
}

/// How a backend lays weights out, and everything but the source that their bytes depend on.
#[derive(Debug, Clone)]
pub struct Layout {
    pub backend: &'static str,
    /// Changes when the same weights become other bytes.
    pub version: u32,
    /// What the user chose about the weights, such as a format to quantize to; short, `-` for nothing.
    pub options: String,
    pub parts: Vec<Part>,
}

/// A packed matrix. In the file its tiles lie one after the other, and behind them its codebook if its format has one.
#[derive(Debug, Clone)]
pub struct Part {
    pub name: String,
    pub format: Format,
    pub rows: usize,
    pub k: usize,
}

impl Part {
    fn bytes(&self) -> usize {
        self.format.matrix_bytes(self.rows, self.k) + if self.has_codebook() { size_of::<Codebook>() } else { 0 }
    }

    fn has_codebook(&self) -> bool {
        self.format == Format::Lut4
    }
}

impl Repack {
    /// The place of packed weights; `None` when they are not kept.
    pub fn slot(&self, weights: &Weights, layout: &Layout) -> Option<Slot> {
        let folder = self.folder.clone()?;
        let parts: Vec<u64> = layout.parts.iter().map(|part| part.bytes() as u64).collect();
        if parts.iter().sum::<u64>() < LEAST as u64 {
            return None;
        }
        let path = folder.file(weights.path(), layout);
        Some(Slot { folder, path, content: Content { description: describe(weights, layout), parts } })
    }
}

/// What must be the same for a file to be taken, as text that people can read at its beginning.
fn describe(weights: &Weights, layout: &Layout) -> String {
    let Layout { backend, version, options, parts } = layout;
    let mut text = format!("taper: weights packed for {backend}, layout {version}, options {options}\n");
    text += &source::fingerprint(weights);
    for part @ Part { name, format, rows, k } in parts {
        let codebook = if part.has_codebook() { " and its codebook" } else { "" };
        let _ = writeln!(text, "{name}: {format:?}{codebook}, {rows} x {k}"); // a String takes everything
    }
    text
}

/// The place of one model's packed weights.
#[derive(Debug)]
pub struct Slot {
    folder: Folder,
    path: PathBuf,
    content: Content,
}

impl Slot {
    /// Lets `fill` read the parts, if they are there. Whether they were, and were right: if not, what was read is
    /// worth nothing.
    pub fn read(&self, fill: impl FnOnce(&Reader)) -> bool {
        let reader = Reader::open(&self.path, &self.content).and_then(|reader| {
            fill(&reader);
            reader.finish()
        });
        let Err(unfit) = reader else { return true };
        let path = self.path.display();
        match unfit {
            Unfit::Absent => tracing::debug!("no packed weights in {path}"),
            Unfit::Other => tracing::info!("the packed weights in {path} are of other weights or an older taper"),
            Unfit::Unreadable(e) => tracing::info!("the packed weights in {path} cannot be read: {e}"),
            Unfit::Damaged(what) => {
                tracing::warn!("the packed weights in {path} are damaged ({what}); they are removed and made again");
                // What cannot be removed is written over, or found again.
                let _ = std::fs::remove_file(&self.path);
            }
        }
        false
    }

    /// Gets ready to write the parts.
    pub fn write(self, contents: impl Contents) -> Option<Writer> {
        Writer::start(self.folder, self.path, self.content, contents)
    }
}
