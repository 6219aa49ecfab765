//! Hashes of logits that the device makes: of every bit of every step, whoever runs ahead of whom.

use super::ahead::{ANSWER, OPTIONS, answers, backend, begin, draws, submit};
use super::{Random, config, gpus};
use taper::backend::cuda::{Cuda, Gpu, Launch, Options, THREADS};
use taper::backend::{Backend, Token, Want};
use taper::sample::{Draw, Sampling, Scratch};

/// The same of the sources.
fn mixed(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

fn sum(logits: &[f32]) -> u64 {
    let terms = logits.iter().zip(0u64..).map(|(logit, i)| mixed(i << 32 | u64::from(logit.to_bits())));
    terms.fold(0, u64::wrapping_add)
}

/// The device's own, by so many blocks, added to 5.
fn on_device(gpu: &mut dyn Gpu, logits: &[f32], blocks: u32) -> u64 {
    let (from, to) = (gpu.take(4 * logits.len()).unwrap(), gpu.take(8).unwrap());
    gpu.write(from, &logits.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>()).unwrap();
    gpu.write(to, &5u64.to_ne_bytes()).unwrap();
    let launch = Launch { kernel: "hash_logits", grid: [blocks, 1, 1], threads: THREADS, shared: 0, waits: true };
    let args = [from, to, logits.len() as u64].map(u64::to_ne_bytes).concat();
    gpu.launch(&launch, &args).unwrap();
    let mut hash = [0; 8];
    gpu.read(to, &mut hash).unwrap();
    u64::from_ne_bytes(hash)
}

#[test]
fn a_hash_is_of_every_bit_and_place_and_of_no_order() {
    let logits = Random(1).values(1000);
    let mut changed = [logits.clone(), logits.clone()];
    changed[0][999] = f32::from_bits(logits[999].to_bits() ^ 1);
    changed[1].swap(3, 700);
    for (name, make) in gpus() {
        for (blocks, backwards) in [(1, false), (3, true), (9, false)] {
            let mut gpu = make(backwards);
            for logits in [&logits, &changed[0], &changed[1]] {
                assert_eq!(
                    on_device(&mut *gpu, logits, blocks),
                    sum(logits).wrapping_add(5),
                    "{name}, {blocks} blocks"
                );
            }
        }
    }
    assert!(changed.iter().all(|changed| sum(changed) != sum(&logits)));
}

/// The hash behind the same answers, from logits that the host asks for and hashes itself.
fn hash_on_host(backend: &mut Cuda, draw: impl Fn(u64) -> Draw<'static>) -> u64 {
    let (mut running, mut last) = begin(backend, &draw);
    let mut hash = backend.logits_hash().unwrap();
    let vocab = backend.config().vocab;
    for index in 1..ANSWER {
        let tokens: Vec<Token> = last.iter().map(|id| Token::Id(*id)).collect();
        submit(backend, &mut running, &tokens, Want::Logits);
        let logits = backend.collect().unwrap().logits.to_vec();
        hash = hash.rotate_left(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ sum(&logits);
        let logits = logits.chunks(vocab);
        last = logits.map(|logits| draw(index).token(logits, &mut Scratch::default()).unwrap()).collect();
    }
    assert_eq!(backend.logits_hash(), Some(hash), "of steps by themselves");
    hash
}

#[test]
fn the_hash_of_steps_ahead_is_that_of_their_logits() {
    let draw = draws(Sampling { seed: 7, temperature: 1.5, ..Sampling::default() }, &[]);
    for (name, make) in gpus() {
        let options = Options { hashes: true, ..OPTIONS };
        let expected = hash_on_host(&mut backend(make(false), &config(), options), &draw);
        for (graph, ahead) in [(true, 2), (false, 1), (true, 0)] {
            let mut backend = backend(make(true), &config(), Options { graph, ..options });
            answers(&mut backend, ahead, &draw);
            assert_eq!(backend.logits_hash(), Some(expected), "{name}, {ahead} ahead, graph {graph}");
        }
        assert_eq!(backend(make(false), &config(), OPTIONS).logits_hash(), None, "nobody asked for it");
    }
}
