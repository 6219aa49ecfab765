//! Each kernel alone, on one thread: `cargo bench --bench kernels`, with a part of a benchmark's name behind `--` for some of
//! them, with `TAPER_CPU` for one instruction set.
//!
//! Criterion tells bytes a second: of weights for products, of keys and values for attention, of numbers for what goes over
//! rows. Products are measured with weights that lie in memory, where their bytes are the limit, and with weights that stay
//! in the second-level cache, where arithmetic is. The table at the end sets the first beside what a thread can read from
//! this machine's memory.
#![expect(clippy::print_stdout, reason = "the result is this program's output")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use taper::KvType;
use taper::backend::cpu::Isa;
use taper::backend::cpu::bench::{Attention, Matmul, Row, RowKernel};
use taper::format::packed::Format;
use taper::stats::{Spread, bandwidth};

/// Rows of activations: one that generates, a few, a widest panel.
const ROWS: [usize; 3] = [1, 4, 12];
/// More than caches hold.
const FROM_MEMORY: usize = 128 << 20;
/// What a run takes of that.
const RUN: usize = 1 << 20;
/// Less than second-level caches hold.
const FROM_CACHE: usize = 384 << 10;

/// Where weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    Cache,
}

impl Place {
    const ALL: [Self; 2] = [Self::Memory, Self::Cache];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cache => "cache",
        }
    }

    /// Bytes of weights in all, and of a run.
    fn bytes(self) -> (usize, usize) {
        match self {
            Self::Memory => (FROM_MEMORY, RUN),
            Self::Cache => (FROM_CACHE, FROM_CACHE),
        }
    }

    /// The name of the benchmarks of a format's weights there.
    fn group(self, isa: Isa, format: Format) -> String {
        format!("{}/{format:?} from {}", isa.name(), self.name())
    }
}

/// Seconds of a run by benchmark, for the table: criterion does not hand out what it measured.
type Times = BTreeMap<String, Vec<f64>>;

struct Bench {
    criterion: Criterion,
    times: Times,
}

fn main() -> Result<(), Box<dyn Error>> {
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
        .nresamples(2000)
        .configure_from_args();
    let mut bench = Bench { criterion, times: Times::new() };
    let sets = instruction_sets()?;
    let before = bandwidth::measure(1);
    for isa in &sets {
        bench.products(*isa);
        bench.attention(*isa);
        bench.rows(*isa);
    }
    bench.criterion.final_summary();
    let memory = before.max(bandwidth::measure(1));
    for isa in sets {
        table(isa, &bench.times, memory);
    }
    Ok(())
}

/// The one that `TAPER_CPU` names, or all that this processor has.
fn instruction_sets() -> taper::Result<Vec<Isa>> {
    if std::env::var_os("TAPER_CPU").is_some() {
        return Ok(vec![Isa::from_env()?]);
    }
    Ok(Isa::ALL.iter().copied().filter(|isa| isa.is_available()).collect())
}

impl Bench {
    fn products(&mut self, isa: Isa) {
        for (place, format) in Place::ALL.into_iter().flat_map(|place| Format::ALL.map(|format| (place, format))) {
            let (all, at_once) = place.bytes();
            for rows in ROWS {
                let make = || Matmul::new(isa, format, all, at_once, rows);
                let bytes = Matmul::bytes(format, at_once);
                self.one(&place.group(isa, format), rows, bytes, make, Matmul::run);
            }
        }
    }

    fn attention(&mut self, isa: Isa) {
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8_0] {
            let group = format!("{}/attention {}", isa.name(), kv_type.name());
            for context in [64, 1024, 4096] {
                let make = || Attention::new(isa, kv_type, context, FROM_MEMORY);
                self.one(&group, context, Attention::bytes(kv_type, context), make, Attention::run);
            }
        }
    }

    fn rows(&mut self, isa: Isa) {
        for kernel in RowKernel::ALL {
            self.one(isa.name(), kernel.name(), kernel.bytes(), || Row::new(isa, kernel), Row::run);
        }
    }

    /// Measures `run`, of `bytes`, on what `make` makes: only once it is to run, since a filter leaves out most.
    fn one<T>(
        &mut self,
        group: &str,
        parameter: impl Display,
        bytes: u64,
        make: impl Fn() -> taper::Result<T>,
        run: impl Fn(&mut T),
    ) {
        let times = self.times.entry(format!("{group}/{parameter}")).or_default();
        let mut made = None;
        let mut group = self.criterion.benchmark_group(group);
        group.throughput(Throughput::Bytes(bytes)).sampling_mode(SamplingMode::Flat);
        group.bench_function(BenchmarkId::from_parameter(parameter), |bencher| {
            // Criterion fails by panics, and leaves its callers no other way.
            let input = made.get_or_insert_with(|| make().unwrap_or_else(|e| panic!("{e}")));
            bencher.iter_custom(|runs| {
                let start = Instant::now();
                (0..runs).for_each(|_| run(input));
                let took = start.elapsed();
                times.push(took.as_secs_f64() / runs as f64);
                took
            });
        });
    }
}

/// Prints, of each format that was run, bytes a second from memory with their share of `memory`, and multiply-adds a second
/// from the cache: medians.
fn table(isa: Isa, times: &Times, memory: f64) {
    let cells = |place: Place, format: Format, cell: &dyn Fn(f64, usize) -> String| -> String {
        let cell = |rows: usize| {
            let times = times.get(&format!("{}/{rows}", place.group(isa, format)));
            times.and_then(|times| Spread::of(times)).map_or("–".into(), |spread| cell(spread.median, rows))
        };
        ROWS.map(|rows| format!("{:>12}", cell(rows))).concat()
    };
    let lines = Format::ALL.map(|format| {
        let rate = |seconds: f64, _| {
            let rate = Matmul::bytes(format, RUN) as f64 / seconds;
            format!("{:.1} ({:.0} %)", rate / 1e9, 100.0 * rate / memory)
        };
        let arithmetic = |seconds: f64, rows| {
            format!("{:.1}", Matmul::multiply_adds(format, FROM_CACHE, rows) as f64 / seconds / 1e9)
        };
        let (streamed, cached) = (cells(Place::Memory, format, &rate), cells(Place::Cache, format, &arithmetic));
        (format, format!("{streamed}{cached}"))
    });
    if lines.iter().all(|(_, line)| !line.contains(char::is_numeric)) {
        return; // a filter left them all out
    }
    println!("\n{}, one thread; memory gives it {:.1} GB/s", isa.name(), memory / 1e9);
    println!("{:<12}{:^36}{:^36}", "", "GB/s of weights from memory", "G multiply-adds a second from the cache");
    let rows = ROWS.map(|rows| format!("{:>12}", format!("x {rows}"))).concat();
    println!("{:<12}{rows}{rows}", "rows");
    for (format, line) in lines {
        println!("{:<12}{line}", format!("{format:?}"));
    }
}
