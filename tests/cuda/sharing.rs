//! Kernels that share multiprocessors one way or another: the same answers, and the way that was found to be the fastest is kept.

use super::ahead::{OPTIONS, answers, draws};
use super::common::made;
use super::common::runner::{Pool, with_batch};
use super::common::tiny::Random;
use super::{LIMITS, TIED, config, gpus, load_with};

use std::path::Path;

use taper::backend::cuda::{Cuda, Sharing, Tuned};
use taper::backend::{Backend, Token, Want};
use taper::format::DType;
use taper::model::config::Config;
use taper::sample::Sampling;

/// The logits of a few tokens, one after the other.
fn logits(backend: &mut Cuda) -> Vec<f32> {
    let ids = Random(11).ids(4, backend.config().vocab);
    let mut sequence = Pool::new(LIMITS.pages).sequence(64);
    let mut all = Vec::new();
    for id in ids {
        with_batch(&mut [(&mut sequence, &[Token::Id(id)][..])], Want::Logits, |batch| backend.submit(batch).unwrap());
        all.extend_from_slice(backend.collect().unwrap().logits);
    }
    all
}

/// A tensor's type by its name.
type TypeOf<'a> = &'a dyn Fn(&str) -> DType;

#[test]
fn answers_are_the_same_with_kernels_side_by_side_and_alone() {
    // So many rows that warps have several turns, of which the last is not full.
    let config = Config { hidden: 256, heads: 8, ffn: 768, ..config() };
    let mixed = |name: &str| if name.contains("attn_v") || name.contains("ffn_down") { DType::Q6K } else { DType::Q4K };
    let types: [(&str, TypeOf<'_>); 4] =
        [("Q4_0", &|_| DType::Q4_0), ("Q4_1", &|_| DType::Q4_1), ("Q6_K", &|_| DType::Q6K), ("Q4_K and Q6_K", &mixed)];
    let draw = draws(Sampling::greedy(), &[]);
    for (what, dtype) in types {
        let weights = made::weights(&config, TIED, dtype);
        for (name, make) in gpus() {
            let mut backend = load_with(make(false), &config, &weights, OPTIONS);
            let (beside, answers_beside) = (logits(&mut backend), answers(&mut backend, 2, &draw));
            for sharing in [Sharing::Alone, Sharing::Beside] {
                backend.share(sharing);
                assert_eq!(beside, logits(&mut backend), "{what} on the {name}, {sharing:?}");
                assert_eq!(answers_beside, answers(&mut backend, 2, &draw), "{what} on the {name}, {sharing:?}");
            }
            assert!(beside.iter().all(|logit| logit.is_finite()));
        }
    }
}

/// Of which steps take little time on the host, too.
fn small() -> Config {
    Config { layers: 1, hidden: 32, ffn: 32, heads: 2, kv_heads: 1, ..config() }
}

/// The sharing of a model that was tuned just now, and whether steps were run for it.
fn tuned(folder: &Path, gpu: &str) -> Option<(Sharing, bool)> {
    let weights = made::weights(&small(), TIED, |_| DType::Q4_0);
    let (_, make) = gpus().into_iter().next()?;
    let mut backend = load_with(make(false), &small(), &weights, OPTIONS);
    backend.tune(&Tuned::within(folder, gpu));
    let was_tried = backend.take_device_time().unwrap().launches > 0;
    Some((backend.sharing(), was_tried))
}

#[test]
fn what_was_found_is_kept_for_each_gpu_and_tried_again_where_the_file_is_damaged_or_of_other_kernels() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("new");
    let file = folder.join("tuned.json");
    let Some((found, was_tried)) = tuned(&folder, "one") else { return };
    assert!(was_tried, "nothing is known yet");
    assert_eq!(tuned(&folder, "one"), Some((found, false)));
    // Whatever the file says is taken.
    let text = std::fs::read_to_string(&file).unwrap();
    let [other, other_word, word] = match found {
        Sharing::Beside => ["alone", "\"alone\"", "\"beside\""],
        Sharing::Alone => ["beside", "\"beside\"", "\"alone\""],
    };
    assert!(text.contains(word), "{text}");
    std::fs::write(&file, text.replace(word, other_word)).unwrap();
    let (taken, was_tried) = tuned(&folder, "one").unwrap();
    assert_eq!((format!("{taken:?}").to_lowercase(), was_tried), (other.to_owned(), false));
    // Another GPU's is another, and neither is lost.
    assert!(tuned(&folder, "two").unwrap().1);
    assert_eq!(tuned(&folder, "one"), Some((taken, false)));
    assert!(!tuned(&folder, "two").unwrap().1);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"kernels\": \"", "\"kernels\": \"older ")).unwrap();
    assert!(tuned(&folder, "one").unwrap().1);
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert!(tuned(&folder, "one").unwrap().1);
    assert!(!tuned(&folder, "one").unwrap().1);
    // No folder, no file, and no failure.
    std::fs::write(cache.path().join("in the way"), b"").unwrap();
    assert!(tuned(&cache.path().join("in the way"), "one").unwrap().1);
}

#[test]
fn a_model_that_was_tuned_answers_as_one_that_was_not() {
    let weights = made::weights(&small(), TIED, |_| DType::Q4_0);
    for (name, make) in gpus() {
        let mut backend = load_with(make(false), &small(), &weights, OPTIONS);
        let expected = logits(&mut backend);
        let mut backend = load_with(make(false), &small(), &weights, OPTIONS);
        backend.tune(&Tuned::default());
        assert_eq!(logits(&mut backend), expected, "{name}");
        assert_eq!(backend.take_device_time().unwrap().idle_share(), None, "tuning is no generation, {name}");
    }
}

#[test]
fn a_model_whose_logits_are_no_numbers_for_the_token_that_is_tried_is_loaded_all_the_same() {
    let cache = tempfile::tempdir().unwrap();
    let weights = made::normed(&small(), TIED, |_| DType::Q4_0, |_| f32::MAX);
    for (name, make) in gpus() {
        let mut backend = load_with(make(false), &small(), &weights, OPTIONS);
        backend.tune(&Tuned::within(cache.path(), "one"));
        assert!(backend.take_device_time().unwrap().launches > 0, "it was tried, {name}");
        assert_eq!(backend.sharing(), Sharing::Beside);
        assert!(!cache.path().join("tuned.json").exists(), "nothing was found, {name}");
    }
}
