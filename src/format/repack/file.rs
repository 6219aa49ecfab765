//! The form of a file of packed weights, and its reader.
//!
//! `taperpak`, the length of the description (u64), the description, a checksum for each part (u64), a checksum of all
//! that; at the next multiple of 4096 the parts, one after the other. Little-endian. A reader knows the whole
//! description before it opens the file, so nothing here is parsed: it is compared.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::checksum::sum;

const MAGIC: &[u8; 8] = b"taperpak";
/// Where the parts begin is a multiple of this.
const ALIGN: u64 = 4096;
/// Read and summed at once: what stays in a core's own cache.
const PIECE: usize = 256 << 10;

/// What a file is to hold.
#[derive(Debug)]
pub struct Content {
    pub description: String,
    /// The parts' bytes; multiples of 8.
    pub parts: Vec<u64>,
}

impl Content {
    /// The file's beginning, for parts with these checksums.
    pub fn header(&self, sums: &[u64]) -> Vec<u8> {
        let mut header = self.fixed();
        header.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        header.extend(sum(&header, 0).to_le_bytes());
        header
    }

    /// The header up to the checksums.
    fn fixed(&self) -> Vec<u8> {
        let mut text = self.description.clone().into_bytes();
        text.resize(text.len().next_multiple_of(8), b'\n');
        [&MAGIC[..], &(text.len() as u64).to_le_bytes(), &text].concat()
    }

    /// Where part `part` begins; behind the last part, the file's length.
    pub fn start(&self, part: usize) -> u64 {
        let header = self.fixed().len() as u64 + 8 * (self.parts.len() as u64 + 1);
        header.next_multiple_of(ALIGN) + self.parts[..part].iter().sum::<u64>()
    }
}

/// Why a file is not taken.
#[derive(Debug)]
pub enum Unfit {
    Absent,
    /// It is whole, as far as one can see, and of something else.
    Other,
    Unreadable(std::io::Error),
    Damaged(&'static str),
}

/// A file of packed weights that is being read, by several threads.
#[derive(Debug)]
pub struct Reader {
    file: File,
    parts: Vec<ReadPart>,
    failed: OnceLock<std::io::Error>,
}

#[derive(Debug)]
struct ReadPart {
    start: u64,
    /// The sum that was written less the sums of what was read: 0 in the end.
    missing: AtomicU64,
}

impl Reader {
    /// # Errors
    /// When there is no file with this content.
    pub fn open(path: &Path, content: &Content) -> Result<Self, Unfit> {
        let no = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Unfit::Absent,
            _ => Unfit::Unreadable(e),
        };
        if !std::fs::metadata(path).map_err(no)?.is_file() {
            return Err(Unfit::Unreadable(std::io::Error::other("it is not a file"))); // opening a FIFO would wait
        }
        let mut file = File::open(path).map_err(no)?;
        let fixed = content.fixed();
        let n = content.parts.len();
        let mut header = Vec::new();
        let wanted = fixed.len() + 8 * (n + 1);
        file.by_ref().take(wanted as u64).read_to_end(&mut header).map_err(Unfit::Unreadable)?;
        if !header.starts_with(MAGIC) {
            return Err(Unfit::Damaged("it does not begin like one"));
        }
        if !header.starts_with(&fixed) {
            return Err(Unfit::Other);
        }
        let numbers: Vec<u64> = header[fixed.len()..].as_chunks().0.iter().map(|n| u64::from_le_bytes(*n)).collect();
        let Some((sums, [of_header])) = numbers.split_at_checked(n).filter(|(_, last)| last.len() == 1) else {
            return Err(Unfit::Damaged("it ends early"));
        };
        if *of_header != sum(&header[..wanted - 8], 0) {
            return Err(Unfit::Damaged("its header's checksum is wrong"));
        }
        if file.metadata().map_err(Unfit::Unreadable)?.len() != content.start(n) {
            return Err(Unfit::Damaged("it is shorter or longer than it was"));
        }
        let mut start = content.start(0);
        let parts = content.parts.iter().zip(sums).map(|(bytes, sum)| {
            start += bytes;
            ReadPart { start: start - bytes, missing: AtomicU64::new(*sum) }
        });
        Ok(Self { parts: parts.collect(), file, failed: OnceLock::new() })
    }

    /// Reads `into.len()` bytes of part `part`, from byte `at` on; both multiples of 8. Any thread may; together they
    /// read every byte once.
    pub fn read(&self, part: usize, at: usize, into: &mut [u8]) {
        let part = &self.parts[part];
        for (i, piece) in into.chunks_mut(PIECE).enumerate() {
            let at = (at + i * PIECE) as u64;
            if let Err(e) = self.file.read_exact_at(piece, part.start + at) {
                let _ = self.failed.set(e); // the first is enough
                return;
            }
            part.missing.fetch_sub(sum(piece, at), Ordering::Relaxed);
        }
    }

    /// Whether all was read as it was written. A file that was has been of use, which its time of change says.
    pub fn finish(self) -> Result<(), Unfit> {
        if let Some(e) = self.failed.into_inner() {
            return Err(Unfit::Unreadable(e));
        }
        if self.parts.into_iter().any(|part| part.missing.into_inner() != 0) {
            return Err(Unfit::Damaged("a checksum is wrong"));
        }
        let _ = self.file.set_modified(SystemTime::now()); // of a cache that is read-only nothing is removed
        Ok(())
    }
}
