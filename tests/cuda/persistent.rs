//! Steps of one row as one kernel: to the last bit what the kernels of phases give, in logits and pages.

use super::ahead::{OPTIONS, draws, submit};
use super::common::made;
use super::common::runner::{Pool, with_batch};
use super::common::tiny::Random;
use super::{LIMITS, Maker, TIED, config, gpus, load_with};

use taper::backend::cuda::{Cuda, Options, Sharing};
use taper::backend::{Backend, PAGE, PageOp, Token, Want};
use taper::format::DType;
use taper::format::weights::Weights;
use taper::model::config::Config;
use taper::model::tensors::Extras;
use taper::sample::Sampling;

const HASHED: Options = Options { hashes: true, ..OPTIONS };

fn wide_heads(head_dim: usize) -> Config {
    Config { head_dim, heads: 6, kv_heads: 2, ..config() }
}

/// Of an answer of four tokens behind a prompt of so many: ids, the hash of all logits, keys and values.
#[derive(Debug, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    hash: Option<u64>,
    pages: Vec<f32>,
}

fn answer(backend: &mut Cuda, prompt: usize, ahead: usize) -> Answer {
    let draw = draws(Sampling { seed: 7, temperature: 1.5, ..Sampling::default() }, &[]);
    let ids: Vec<Token> = Random(3).ids(prompt, backend.config().vocab).into_iter().map(Token::Id).collect();
    let mut sequence = [Pool::new(LIMITS.pages).sequence(prompt + 8)];
    let mut tokens = Vec::new();
    for piece in ids.chunks(LIMITS.chunk) {
        with_batch(&mut [(&mut sequence[0], piece)], Want::Sample(draw(0)), |batch| backend.submit(batch).unwrap());
        tokens = backend.collect().unwrap().tokens.to_vec();
    }
    let mut last = tokens[0];
    for step in 1..4 + ahead {
        if step < 4 {
            let token = if ahead == 0 { Token::Id(last) } else { Token::Previous };
            submit(backend, &mut sequence, &[token], Want::Sample(draw(step as u64)));
        }
        if step > ahead {
            last = backend.collect().unwrap().tokens[0];
            tokens.push(last);
        }
    }
    let numbers = 2 * backend.config().layers * backend.config().kv_dim() * PAGE;
    let mut pages = Vec::new();
    for page in &sequence[0].pages[..(prompt + 3).div_ceil(PAGE)] {
        let mut page_numbers = vec![0.0; numbers];
        backend.pages(PageOp::Read { page: *page, into: &mut page_numbers }).unwrap();
        // Of places that nobody has written, whatever is there.
        pages.extend(page_numbers.iter().map(|x| if x.is_nan() { 0.0 } else { *x }));
    }
    Answer { tokens, hash: backend.logits_hash(), pages }
}

fn check(what: &str, config: &Config, weights: &Weights, prompts: &[usize]) {
    for (name, make) in gpus() {
        for prompt in prompts {
            let loaded = |make: &Maker, backwards: bool| load_with(make(backwards), config, weights, HASHED);
            let mut apart = loaded(&make, false);
            apart.share(Sharing::Beside);
            let expected = answer(&mut apart, *prompt, 2);
            for (backwards, ahead) in [(false, 2), (true, 0)] {
                let mut backend = loaded(&make, backwards);
                assert!(backend.can_persist(), "{what}");
                backend.share(Sharing::Persistent);
                let got = answer(&mut backend, *prompt, ahead);
                assert!(
                    got == expected,
                    "{what} on the {name}, {prompt} tokens, backwards {backwards}: {:?} and {:?}",
                    (got.tokens, got.hash),
                    (&expected.tokens, expected.hash)
                );
                let launches = backend.take_device_time().unwrap().launches;
                assert!(launches < 7, "{launches} launches are no step of one kernel");
            }
        }
    }
}

#[test]
fn a_step_is_one_kernel_with_the_answers_of_many() {
    for dtype in [DType::Q4_0, DType::Q4_1, DType::IQ4NL] {
        let config = wide_heads(64);
        check(&format!("{dtype:?}"), &config, &made::weights(&config, TIED, |_| dtype), &[5]);
    }
}

#[test]
fn chunks_of_context_are_joined_and_windows_kept_inside_it() {
    let config = wide_heads(64);
    let weights = made::weights(&config, TIED, |_| DType::Q4_0);
    check("chunks", &config, &weights, &[125, 300]);
    check("a window", &Config { window: Some(100), ..config }, &weights, &[300]);
}

#[test]
fn sizes_of_all_kinds_are_computed_inside_it() {
    // Rows of more than a lot, three layers, biases, a head of its own with an odd last row.
    let config = Config { layers: 3, ffn: 2080, vocab: 331, ..wide_heads(64) };
    let extras = Extras { tied: false, qkv_bias: true, rope_factors: false };
    check("three layers", &config, &made::weights(&config, extras, |_| DType::Q4_0), &[20]);
    let outliers = |i: usize| if i == 7 { 60.0 } else { 1.0 };
    let weights = made::normed(&wide_heads(64), TIED, |_| DType::Q4_0, outliers);
    check("outliers", &wide_heads(64), &weights, &[9]);
}

#[test]
fn models_that_no_such_kernel_is_for_do_without() {
    let mixed = |name: &str| if name.contains("ffn_down") { DType::Q4_1 } else { DType::Q4_0 };
    for (name, make) in gpus() {
        let can = |config: &Config, dtype: &dyn Fn(&str) -> DType, options: Options| {
            load_with(make(false), config, &made::weights(config, TIED, dtype), options).can_persist()
        };
        let one = |_: &str| DType::Q4_0;
        assert!(can(&wide_heads(64), &one, OPTIONS), "{name}");
        assert!(!can(&wide_heads(64), &mixed, OPTIONS), "two types");
        assert!(!can(&wide_heads(64), &|_| DType::Q8_0, OPTIONS), "8 bits");
        assert!(!can(&wide_heads(32), &one, OPTIONS), "heads of 32");
        assert!(!can(&Config { layers: 1, ..wide_heads(64) }, &one, OPTIONS), "one layer");
        let kept = Options { kv_type: taper::backend::KvType::Q8_0, ..OPTIONS };
        assert!(!can(&wide_heads(64), &one, kept), "keys in 8 bits");
        assert!(!can(&wide_heads(64), &one, Options { flash_attention: false, ..OPTIONS }), "plain attention");
    }
}
