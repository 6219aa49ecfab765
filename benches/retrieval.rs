//! The memory's index beside exact FAISS on many vectors: queries a second, recall, memory, time to open.
//!
//! ```text
//! benches/passages.py 60000 > passages.jsonl
//! taper embed -o npy … > real.npy                     (n, dim) of f32
//! cargo bench --bench retrieval -- FOLDER --vectors real.npy --count 1000000 [--memory 120] [--target-recall 0.98]
//! cargo bench --bench retrieval -- FOLDER                   measures what is in the folder once more
//! ```
//!
//! The first 1,000 vectors are held out: the second half of them are the queries measured with, the first half may be
//! what the index is tuned by (`--tune held-out`; else its own vectors are). The others are widened to the count:
//! copies with Gaussian noise whose length is the median distance of a vector to its nearest neighbour.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark for those who work on taper"
)]

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use taper::memory::index::{self, Index, Target, choose, faiss};
use taper::memory::{Hit, Vectors};
use taper::{Error, Result};

const HELD_OUT: usize = 1000;
/// Queries that exact FAISS is timed with, a round.
const EXACT: usize = 10;
const ROUNDS: usize = 3;

#[derive(Parser)]
struct Args {
    /// Where vectors and indexes are kept.
    folder: PathBuf,
    /// Real vectors, as a .npy file; builds everything anew.
    #[arg(long)]
    vectors: Option<PathBuf>,
    #[arg(long, default_value_t = 1_000_000)]
    count: usize,
    /// What the index may hold, in MB.
    #[arg(long)]
    memory: Option<usize>,
    #[arg(long, default_value_t = 0.98)]
    target_recall: f32,
    /// `held-out`: tune by the first half of the vectors held out; else by the memory's own.
    #[arg(long, default_value = "own")]
    tune: String,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, hide = true)]
    bench: bool,
}

/// Vectors in a file, read one at a time.
struct OnDisk {
    file: File,
    dim: usize,
    count: usize,
}

impl OnDisk {
    fn open(path: &Path, dim: usize) -> Self {
        let file = File::open(path).expect("vectors");
        let count = file.metadata().expect("vectors").len() as usize / (4 * dim);
        Self { file, dim, count }
    }
}

impl Vectors for OnDisk {
    fn dim(&self) -> usize {
        self.dim
    }
    fn len(&self) -> usize {
        self.count
    }
    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let mut bytes = [0; 4096];
        let bytes = &mut bytes[..4 * self.dim];
        self.file
            .read_exact_at(bytes, (row * 4 * self.dim) as u64)
            .map_err(|e| Error::runtime(format!("cannot read a vector: {e}")))?;
        for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *x = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
    fn id(&self, row: usize) -> i64 {
        row as i64
    }
}

/// (numbers, dim) of a .npy file, version 1, f32, C order.
fn npy(path: &Path) -> (Vec<f32>, usize) {
    let mut bytes = Vec::new();
    File::open(path).expect("npy").read_to_end(&mut bytes).expect("npy");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..header]);
    assert!(text.contains("'<f4'") && text.contains("'fortran_order': False"), "{text}");
    let shape = text.split('(').nth(1).expect("a shape");
    let dim = shape.split([',', ')']).nth(1).and_then(|n| n.trim().parse().ok()).expect("two dimensions");
    (bytes[header..].as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(), dim)
}

/// Writes the real vectors and noisy copies of them.
fn widen(real: &[f32], dim: usize, count: usize, path: &Path) {
    let mut flat = faiss::Flat::new(dim).expect("faiss");
    flat.add(real).expect("faiss");
    let found = flat.search(&real[..2000 * dim], 2).expect("faiss");
    let mut distances: Vec<f32> = found.iter().map(|hits| (2.0 - 2.0 * hits[1].score).max(0.0).sqrt()).collect();
    distances.sort_by(f32::total_cmp);
    let noise = distances[distances.len() / 2] / (dim as f32).sqrt();
    println!("median distance to the nearest neighbour: {:.3}", distances[distances.len() / 2]);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut uniform = || (rng.next_u32() as f32 + 0.5) / 4_294_967_296.0;
    let mut out = BufWriter::new(File::create(path).expect("a file"));
    let mut vector = vec![0.0; dim];
    for i in 0..count {
        let from = &real[i * dim % real.len()..][..dim];
        vector.copy_from_slice(from);
        if i * dim >= real.len() {
            for pair in vector.chunks_mut(2) {
                // Box and Muller's two Gaussian numbers of two uniform ones.
                let radius = (-2.0 * uniform().ln()).sqrt() * noise;
                let (sin, cos) = (std::f32::consts::TAU * uniform()).sin_cos();
                pair[0] += radius * cos;
                pair[1] += radius * sin;
            }
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            for x in &mut vector {
                *x /= length;
            }
        }
        for x in &vector {
            out.write_all(&x.to_le_bytes()).expect("room");
        }
    }
    out.flush().expect("room");
}

/// Resident bytes of this process, its own and mapped.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps");
    let line = text.lines().find(|line| line.starts_with("Rss:")).expect("Rss");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number") * 1024
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn share_found(hits: &[Hit], truth: &[Hit]) -> f64 {
    truth.iter().filter(|t| hits.iter().any(|h| h.row == t.row)).count() as f64 / truth.len() as f64
}

fn main() {
    let args = Args::parse();
    let file = |name: &str| args.folder.join(name);
    if let Some(path) = &args.vectors {
        std::fs::create_dir_all(&args.folder).expect("a folder");
        let (numbers, dim) = npy(path);
        let held = HELD_OUT * dim;
        std::fs::write(file("queries.f32"), numbers[..held].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            .expect("room");
        let wide = file("vectors.f32");
        if !wide.exists() || OnDisk::open(&wide, dim).count != args.count {
            faiss::set_threads(args.threads);
            widen(&numbers[held..], dim, args.count, &wide);
        }
        let queries = if args.tune == "own" { Vec::new() } else { numbers[..held / 2].to_vec() };
        drop(numbers);
        let target = Target {
            recall: args.target_recall,
            memory: args.memory.map(|mb| mb * 1_000_000),
            threads: args.threads,
            queries,
        };
        let start = Instant::now();
        let index = index::build(&OnDisk::open(&wide, dim), &target).expect("an index");
        println!("built in {:.0} s: {}", start.elapsed().as_secs_f64(), index.describe());
        let hash = index.save(&file("index")).expect("room");
        std::fs::write(file("index.sha256"), format!("{hash} {dim}")).expect("room");
    }
    measure(&args, &file);
}

fn measure(args: &Args, file: &dyn Fn(&str) -> PathBuf) {
    let note = std::fs::read_to_string(file("index.sha256")).expect("build first: --vectors");
    let (hash, dim) = note.split_once(' ').expect("a note");
    let dim: usize = dim.parse().expect("a number");
    let queries = OnDisk::open(&file("queries.f32"), dim);
    let vectors = OnDisk::open(&file("vectors.f32"), dim);
    let mut all = vec![0.0; HELD_OUT * dim];
    for (row, out) in all.chunks_mut(dim).enumerate() {
        queries.read(row, out).expect("a query");
    }
    let queries = &all[HELD_OUT / 2 * dim..];

    let before = resident();
    let start = Instant::now();
    let index = Index::open(&file("index"), hash, vectors.count, dim).expect("the index");
    println!("opened in {:.0} ms: {}", 1e3 * start.elapsed().as_secs_f64(), index.describe());
    let mut answers = Vec::new();
    let mut ours = Vec::new();
    let time_ours = |ours: &mut Vec<f64>, answers: &mut Vec<Vec<Hit>>| {
        answers.clear();
        for query in queries.chunks(dim) {
            let start = Instant::now();
            answers.push(index.search(&vectors, query, 10).expect("hits"));
            ours.push(start.elapsed().as_secs_f64());
        }
    };
    time_ours(&mut ours, &mut answers);
    println!("resident beyond the bare process: {:.1} MB", (resident() - before) as f64 / 1e6);
    ours.clear();

    faiss::set_threads(args.threads);
    let mut flat = faiss::Flat::new(dim).expect("faiss");
    let mut chunk = vec![0.0; 10_000 * dim];
    for first in (0..vectors.count).step_by(10_000) {
        let n = 10_000.min(vectors.count - first);
        for (i, out) in chunk[..n * dim].chunks_mut(dim).enumerate() {
            vectors.read(first + i, out).expect("a vector");
        }
        flat.add(&chunk[..n * dim]).expect("faiss");
    }
    let mut exact = Vec::new();
    for round in 0..ROUNDS {
        for query in queries.chunks(dim).skip(round * EXACT).take(EXACT) {
            let start = Instant::now();
            flat.search(query, 10).expect("hits");
            exact.push(start.elapsed().as_secs_f64());
        }
        time_ours(&mut ours, &mut answers);
    }
    let start = Instant::now();
    let truth = flat.search(queries, choose::K).expect("hits");
    let batch = (queries.len() / dim) as f64 / start.elapsed().as_secs_f64();
    let recall: f64 = answers.iter().zip(&truth).map(|(a, t)| share_found(a, t)).sum::<f64>() / truth.len() as f64;
    let (mean, exact) = (ours.iter().sum::<f64>() / ours.len() as f64, exact.iter().sum::<f64>() / exact.len() as f64);
    println!("exact FAISS: {:.2} queries/s one at a time, {batch:.0} in one batch of {}", 1.0 / exact, truth.len());
    println!(
        "this index: {:.0} queries/s, {:.0}x; median {:.3} ms, recall@10 {recall:.4}",
        1.0 / mean,
        exact / mean,
        1e3 * median(&mut ours)
    );
}
