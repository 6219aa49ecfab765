//! A step of the CPU backend takes no memory once one of its size has run: this program counts, on all threads.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]
#![expect(unsafe_code, reason = "an allocator is unsafe to write")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::made;
use common::runner::{Pool, Running, with_batch};
use common::tiny::{self, Random};
use taper::Sampling;
use taper::backend::cpu::{self, Cpu, Isa, Options};
use taper::backend::{Backend, KvType, Limits, Token, Want};
use taper::format::DType;
use taper::format::repack::Repack;
use taper::model::config::Config;
use taper::model::tensors::Extras;
use taper::sample::Draw;

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMITS: Limits = Limits { context: 600, sequences: 4, chunk: 96, pages: 64 };
const VOCAB: usize = 600;

/// Every number that decides which code runs: grouped heads beyond a kernel's 8 queries, biases, a head of its own.
fn backend(dtype: DType, options: &Options) -> Cpu {
    let config = Config { hidden: 192, ffn: 160, head_dim: 16, heads: 12, kv_heads: 1, vocab: VOCAB, ..tiny::config() };
    let extras = Extras { tied: dtype != DType::Q4_1, qkv_bias: dtype == DType::Q4_1, rope_factors: false };
    let weights = made::weights(&config, extras, |_| dtype);
    let infos: Vec<_> = weights.names().map(|n| weights.info(n).unwrap()).collect();
    let plan = cpu::plan(&config, &infos, LIMITS, options);
    Cpu::load(&config, &weights, &plan, options, &Repack::default()).unwrap()
}

/// Runs a step of `rows` tokens of each sequence; how often memory was taken meanwhile.
fn allocations(backend: &mut Cpu, running: &mut [Running], rows: usize, want: Want<'_>) -> usize {
    let tokens: Vec<Token> = Random(rows as u64).ids(rows, VOCAB).into_iter().map(Token::Id).collect();
    let mut parts: Vec<(&mut Running, &[Token])> = running.iter_mut().map(|r| (r, tokens.as_slice())).collect();
    with_batch(&mut parts, want, |batch| {
        let before = COUNT.load(Ordering::SeqCst);
        backend.submit(batch).unwrap();
        let out = backend.collect().unwrap();
        let taken = COUNT.load(Ordering::SeqCst) - before;
        assert_eq!(out.tokens.len() + out.logits.len() / VOCAB, batch.out.len());
        taken
    })
}

#[test]
fn steps_take_no_memory_when_one_of_their_size_has_run() {
    let greedy = Sampling::greedy();
    let drawn = Sampling { repeat_penalty: 1.1, logit_bias: vec![(9, 1.0), (4, -1.0)], ..Sampling::default() };
    let history: Vec<u32> = (0..100).map(|i| i * 7 % VOCAB as u32).collect();
    let draw = |sampling| Want::Sample(Draw { sampling, history: &history, ahead: 0, index: 5, banned: &[3] });
    let forms = [(KvType::F16, true), (KvType::Q8_0, true), (KvType::F32, false)];
    for (dtype, (kv_type, flash_attention)) in [DType::Q4_1, DType::Q8_0, DType::F16].into_iter().zip(forms) {
        let mut backend =
            backend(dtype, &Options { threads: 3, isa: Isa::choose(None).unwrap(), kv_type, flash_attention });
        for want in [Want::Logits, draw(&greedy), draw(&drawn)] {
            let mut pool = Pool::new(LIMITS.pages);
            let mut running: Vec<Running> = (0..2).map(|_| pool.sequence(500)).collect();
            // Prefill, verifying a draft, decoding: over several chunks of attention.
            for (rows, steps) in [(48, 6), (3, 5), (1, 40)] {
                allocations(&mut backend, &mut running, rows, want);
                for step in 1..steps {
                    let taken = allocations(&mut backend, &mut running, rows, want);
                    assert_eq!(taken, 0, "{dtype}, {kv_type:?}, {want:?}: step {step} of {rows} rows");
                }
            }
        }
    }
}
