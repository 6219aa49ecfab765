//! The index as a file.
//!
//! Little-endian: a magic number that names the version, the sizes, then the arrays one after another, each with its
//! length in front. Of a graph on the disk the pieces stay in the file, which is kept open. A file is read only if its SHA-256 and its count of vectors are the ones that the store has noted:
//! what another hand wrote, or half of what ours did, is never parsed but built anew.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::graph::Graph;
use super::graph::disk::Disk;
use super::graph::nodes::{Node, Nodes};
use super::int8::{self, Int8};
use super::layout::{Coded, Form, Layout};
use super::lists::Lists;
use super::packed::Packed;
use super::pq::Quantizer;
use super::{Effort, Index};
use crate::backend::cpu::memory::reserved;
use crate::backend::cpu::scans::Scans;
use crate::error::{Error, Result};
use crate::memory::ids::Ids;
use crate::memory::{PART, hex};

/// Changes with whatever changes the meaning of the bytes.
const MAGIC: [u8; 8] = *b"taperIX4";
/// What an index of each form begins with.
const EXACT: usize = 0;
const INT8: usize = 1;
const CODES: usize = 2;
const GRAPH: usize = 3;
const DISK: usize = 4;
/// Bytes that are hashed or converted at once.
const BUFFER: usize = 1 << 18;

impl Index {
    /// Writes it beside `path`, under a name of one writer at a time, and renames it into place. Gives the SHA-256 of the file, in hexadecimal, which
    /// [`Index::open`] wants to see again.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn save(&self, path: &Path) -> Result<String> {
        let cannot = |e| Error::io("write the memory's index", path, e);
        let part = path.with_added_extension(PART);
        let written = self.write(&part).and_then(|hash| std::fs::rename(&part, path).map(|()| hash));
        if written.is_err() {
            std::fs::remove_file(&part).ok();
        }
        written.map_err(cannot)
    }

    fn write(&self, path: &Path) -> std::io::Result<String> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600); // as the memory's file
        let file = options.open(path)?;
        let mut out = Out { file: BufWriter::with_capacity(BUFFER, file), hash: Sha256::new() };
        out.put(&MAGIC)?;
        let form = match self.layout.as_ref().map(|layout| &layout.form) {
            None => EXACT,
            Some(Form::Int8(_)) => INT8,
            Some(Form::Graph(..)) => GRAPH,
            Some(Form::Disk(_)) => DISK,
            Some(Form::Codes(_)) => CODES,
        };
        for number in [self.dim, self.count, form, self.effort.reach, self.effort.rerank] {
            out.number(number)?;
        }
        out.put(&self.recall.to_le_bytes())?;
        out.array(&self.ids.firsts)?;
        out.array(&self.ids.rows)?;
        if let Some(layout) = &self.layout {
            out.array(&layout.lists.means)?;
            out.array(&layout.lists.starts)?;
            out.array(&layout.lists.rows)?;
            match &layout.form {
                Form::Int8(int8) => out.int8(int8)?,
                Form::Graph(int8, graph) => {
                    out.int8(int8)?;
                    out.array(&graph.edges)?;
                }
                Form::Disk(Disk { packed, nodes }) => {
                    out.array(&packed.mean)?;
                    out.array(&packed.bytes)?;
                    out.array(&packed.factors)?;
                    out.nodes(nodes)?;
                }
                Form::Codes(Coded { quantizer, codes, .. }) => {
                    out.number(quantizer.sub)?;
                    out.array(&quantizer.rotation)?;
                    out.array(&quantizer.centroids)?;
                    out.array(codes)?;
                }
            }
        }
        out.file.flush()?;
        out.file.get_ref().sync_all()?;
        Ok(hex(&out.hash.finalize()))
    }

    /// Reads what [`Index::save`] wrote: `sha256` is what that gave, `count` and `dim` are those of the memory.
    ///
    /// # Errors
    /// When there is no such file, or it is not that one.
    pub fn open(path: &Path, sha256: &str, count: usize, dim: usize) -> Result<Self> {
        let cannot = |e| Error::io("read the memory's index", path, e);
        let other = |what: &str| {
            Error::runtime(format!("this is not the memory's index: {what}"))
                .in_file(path)
                .help("rebuild it: taper memory rebuild NAME")
        };
        // Looked at before opening: opening a FIFO for reading waits for a writer.
        if !std::fs::metadata(path).map_err(cannot)?.is_file() {
            return Err(other("it is not a file"));
        }
        let mut file = File::open(path).map_err(cannot)?;
        if hash(&mut file).map_err(cannot)? != sha256 {
            return Err(other("its SHA-256 is another"));
        }
        file.rewind().map_err(cannot)?;
        let size = file.metadata().map_err(cannot)?.len();
        let mut input = In { file: BufReader::with_capacity(BUFFER, file), left: size };
        let index =
            Self::read(&mut input).map_err(cannot)?.ok_or_else(|| other("it is of another version of taper"))?;
        if (index.count, index.dim) != (count, dim) {
            return Err(other(&format!("it has {} vectors with {} components", index.count, index.dim)));
        }
        Ok(index)
    }

    /// None where it is no index of this version.
    fn read(input: &mut In) -> std::io::Result<Option<Self>> {
        if input.get::<8>()? != MAGIC {
            return Ok(None);
        }
        let [dim, count, form, reach, rerank] = input.numbers()?;
        let effort = Effort { reach, rerank };
        let recall = f32::from_le_bytes(input.get()?);
        let ids = Ids { firsts: input.array()?, rows: input.array()?, len: count as u32 };
        let Ok(scans) = Scans::of_processor() else { return Ok(None) };
        let layout = if form == EXACT { None } else { Some(Layout::read(input, dim, form)?) };
        Ok(Some(Self { dim, count, ids, scans, layout, effort, recall }))
    }
}

impl Layout {
    fn read(input: &mut In, dim: usize, form: usize) -> std::io::Result<Self> {
        let lists = Lists::new(dim, input.array()?, input.array()?, input.array()?);
        let form = match form {
            INT8 => Form::Int8(input.int8(dim)?),
            GRAPH => Form::Graph(input.int8(dim)?, Graph { edges: input.array()? }),
            DISK => {
                let packed = Packed { mean: input.array()?, bytes: input.array()?, factors: input.array()? };
                Form::Disk(Disk { packed, nodes: input.nodes(dim)? })
            }
            CODES => {
                let [sub] = input.numbers()?;
                let (rotation, centroids) = (input.array()?, input.array()?);
                let parts = centroids.len() / (16 * sub.max(1));
                let quantizer = Quantizer { dim, sub, parts, rotation, centroids };
                Form::Codes(Coded { quantizer, blocks: lists.blocks(), codes: input.array()? })
            }
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        };
        Ok(Self { lists, form })
    }
}

fn hash(file: &mut File) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// A number that arrays in the file are made of.
trait Element: Copy {
    const SIZE: usize;
    fn write(self, out: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($($type:ty),*) => {$(
        impl Element for $type {
            const SIZE: usize = size_of::<$type>();
            fn write(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
        }
    )*};
}

element!(f32, u32, i64, u8, i8);

struct Out {
    file: BufWriter<File>,
    hash: Sha256,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }

    fn number(&mut self, number: usize) -> std::io::Result<()> {
        self.put(&(number as u64).to_le_bytes())
    }

    fn int8(&mut self, int8: &Int8) -> std::io::Result<()> {
        self.array(&int8.bytes)?;
        self.array(&int8.scales)
    }

    fn nodes(&mut self, nodes: &Nodes) -> std::io::Result<()> {
        self.number(nodes.size())?;
        let (mut node, mut bytes) = (Node::default(), Vec::with_capacity(2 * BUFFER));
        for row in 0..nodes.len() as u32 {
            nodes.read(row, &mut node)?;
            node.write(&mut bytes);
            if bytes.len() >= BUFFER {
                self.put(&bytes)?;
                bytes.clear();
            }
        }
        self.put(&bytes)
    }

    fn array<T: Element>(&mut self, array: &[T]) -> std::io::Result<()> {
        self.number(array.len())?;
        let mut bytes = Vec::with_capacity(BUFFER);
        for chunk in array.chunks(BUFFER / T::SIZE) {
            bytes.clear();
            for x in chunk {
                x.write(&mut bytes);
            }
            self.put(&bytes)?;
        }
        Ok(())
    }
}

struct In {
    file: BufReader<File>,
    left: u64,
}

impl In {
    fn get<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.left = self.left.saturating_sub(N as u64);
        Ok(bytes)
    }

    fn numbers<const N: usize>(&mut self) -> std::io::Result<[usize; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = u64::from_le_bytes(self.get()?) as usize;
        }
        Ok(numbers)
    }

    fn int8(&mut self, dim: usize) -> std::io::Result<Int8> {
        let (bytes, scales) = (self.array()?, self.array()?);
        Ok(Int8 { width: int8::width(dim), bytes, scales })
    }

    /// What is left where it is, and read piece by piece.
    fn nodes(&mut self, dim: usize) -> std::io::Result<Nodes> {
        let [len] = self.numbers()?;
        let at = self.file.stream_position()?;
        let file = self.file.get_ref().try_clone()?;
        Nodes::in_file(file, at, len, dim).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }

    fn array<T: Element>(&mut self) -> std::io::Result<Vec<T>> {
        let [len] = self.numbers()?;
        let bytes = (len as u64).saturating_mul(T::SIZE as u64);
        if bytes > self.left {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= bytes;
        let mut array = reserved(len);
        let mut buffer = vec![0; BUFFER];
        while array.len() < len {
            let n = (len - array.len()).min(BUFFER / T::SIZE) * T::SIZE;
            self.file.read_exact(&mut buffer[..n])?;
            array.extend(buffer[..n].chunks_exact(T::SIZE).map(T::read));
        }
        Ok(array)
    }
}
