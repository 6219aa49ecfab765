//! A memory of many records as a chat sees it: how long it takes to open, and to find passages for a question.
//!
//! ```text
//! cargo bench --bench recall -- FOLDER --embedder all-minilm-l6-v2/ --vectors vectors.f32 --passages passages.jsonl [--records 100000]
//! ```
//!
//! Vectors are those that `retrieval` widened to a million, texts are passages in turn: what is found says nothing, but
//! costs what it costs. The memory stays in the folder for the next time. Questions are `questions/questions.jsonl`'s.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark for those who work on taper"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use taper::memory::Memory;
use taper::memory::embed::Embedder;
use taper::memory::store::{Access, Passage, Store};
use taper::memory::tend::{Build, Tended, tend};
use taper::registry::resolve::at_path;

const PASSAGES: usize = 5;
const ROUNDS: usize = 5;

#[derive(Parser)]
struct Args {
    folder: PathBuf,
    #[arg(long)]
    embedder: PathBuf,
    /// (n, 384) of f32.
    #[arg(long)]
    vectors: Option<PathBuf>,
    /// A JSON string a line.
    #[arg(long)]
    passages: Option<PathBuf>,
    #[arg(long, default_value_t = 100_000)]
    records: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    taper::backend::candle::set_threads(args.threads);
    let embedder = Arc::new(Embedder::open(&at_path(&args.embedder).expect("an embedder")).expect("an embedder"));
    let path = args.folder.join("recall.sqlite");
    if let (Some(vectors), Some(passages)) = (&args.vectors, &args.passages) {
        let mut store = Store::open(&path, Access::Create).expect("a memory");
        store.set_model(&embedder.model().expect("a model")).expect("a memory of this embedder");
        let texts: Vec<String> = BufReader::new(File::open(passages).expect("passages"))
            .lines()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect();
        fill(&mut store, &mut File::open(vectors).expect("vectors"), &texts, args.records);
        let start = Instant::now();
        if let Tended::Built(what) = tend(&mut store, Build::Always, args.threads, &mut |_| ()).expect("an index") {
            println!("built in {:.1} s: {what}", start.elapsed().as_secs_f64());
        }
    }
    measure(&path, &embedder);
}

fn fill(store: &mut Store, vectors: &mut File, texts: &[String], records: usize) {
    let mut source = store.begin("passages", b"1", records).expect("a source");
    while source.done < records {
        let n = 1000.min(records - source.done);
        let mut bytes = vec![0; n * 4 * 384];
        vectors.read_exact(&mut bytes).expect("vectors");
        let numbers: Vec<f32> = bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        let passages: Vec<Passage> = numbers
            .chunks_exact(384)
            .zip(source.done..)
            .map(|(vector, at)| Passage { begins: at, ends: at + 1, text: &texts[at % texts.len()], vector })
            .collect();
        store.append(&mut source, &passages).expect("room");
    }
}

fn measure(path: &std::path::Path, embedder: &Arc<Embedder>) {
    let questions = include_str!("questions/questions.jsonl").lines().map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        entry["question"].as_str().unwrap().to_owned()
    });
    let questions: Vec<String> = questions.collect();
    let (mut opens, mut searches) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let start = Instant::now();
        let store = Store::open(path, Access::Existing).expect("a memory");
        let mut memory = Memory::new(store, embedder.clone()).expect("a memory");
        let index = memory.describe_index().expect("an index");
        opens.push(start.elapsed().as_secs_f64());
        if round == 0 {
            println!("{} records; {}", memory.store().count().expect("a count"), index.unwrap_or("no index".into()));
        }
        for question in &questions {
            let question = format!("{question} ({round})"); // so that its vector is not in the cache
            let start = Instant::now();
            assert_eq!(memory.search(&question, PASSAGES).expect("passages").len(), PASSAGES);
            searches.push(start.elapsed().as_secs_f64());
        }
    }
    println!("opened in {:.0} ms (median of {ROUNDS})", 1e3 * median(&mut opens));
    println!("question to passages, embedding included: median {:.2} ms", 1e3 * median(&mut searches));
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
