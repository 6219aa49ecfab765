//! Steps of 2 to 16 rows: packed matrices take them on tensor cores, in the order of sums of one row.

use taper::backend::cuda::{self, Cuda, Gpu, Options};
use taper::backend::{KvType, Limits};
use taper::format::DType;
use taper::format::weights::Weights;
use taper::model::config::Config;
use taper::terminal::progress::Mode;

use super::common::made;
use super::{INT8, LIMITS, TIED, check_phases_of, config, gpus, infos, last_logits, load};

/// Matrices whose rows have odd numbers of groups, and more of them than go at once; those with 256 numbers a scale.
fn models() -> Vec<(DType, Config)> {
    let long = Config { ffn: 32 * 67, layers: 1, ..config() };
    let wide = Config { hidden: 256, ffn: 2304, heads: 8, layers: 1, ..config() };
    let types = [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q5_1, DType::IQ4NL].map(|dtype| (dtype, long.clone()));
    types.into_iter().chain([DType::Q4K, DType::Q6K].map(|dtype| (dtype, wide.clone()))).collect()
}

/// Now and then a normed number is so large that what its codes leave counts.
fn with_outliers(config: &Config, dtype: DType) -> Weights {
    made::normed(config, TIED, |_| dtype, |i| if i % 71 == 5 { 60.0 } else { 1.0 })
}

#[test]
fn one_row_and_several_with_outliers_are_as_good_as_the_reference() {
    for (dtype, config) in models().into_iter().filter(|(dtype, _)| [DType::Q4_1, DType::Q6K].contains(dtype)) {
        let weights = with_outliers(&config, dtype);
        check_phases_of(&dtype.to_string(), &config, &weights, KvType::F16, &[[1, 0, 0], [5, 1, 2]], INT8);
    }
}

#[test]
fn a_rows_answer_does_not_depend_on_how_many_came_with_it() {
    for (dtype, config) in models() {
        let weights = with_outliers(&config, dtype);
        for (name, make) in gpus() {
            let logits = |backwards: bool, chunk: usize, has_neighbour: bool| {
                last_logits(&mut load(make(backwards), &config, &weights, KvType::F16), chunk, has_neighbour)
            };
            let expected = logits(false, 1, false);
            assert!(expected.iter().all(|x| x.is_finite()));
            for (backwards, chunk, has_neighbour) in [(true, 12, false), (false, 4, true)] {
                let got = logits(backwards, chunk, has_neighbour);
                assert!(got == expected, "{dtype} on the {name}, chunks of {chunk}, neighbour {has_neighbour}");
            }
        }
    }
}

#[test]
fn where_many_sequences_are_served_two_blocks_have_rows_beyond_sixteen() {
    let config = Config { layers: 1, ..config() };
    let limits = Limits { sequences: 17, ..LIMITS };
    let options = Options { kv_type: KvType::F16, graph: true, flash_attention: true, hashes: false };
    for dtype in [DType::Q4_0, DType::F16] {
        let weights = with_outliers(&config, dtype);
        let plan = cuda::plan(&config, &infos(&weights), limits, options);
        let load = |gpu: Box<dyn Gpu>| Cuda::load(gpu, &config, &weights, &plan, options, Mode::Quiet).unwrap();
        for (name, make) in gpus() {
            let expected = last_logits(&mut load(make(false)), 1, false);
            for (chunk, has_neighbour) in [(24, false), (20, true)] {
                let got = last_logits(&mut load(make(true)), chunk, has_neighbour);
                assert!(got == expected, "{dtype} on the {name}, chunks of {chunk}, neighbour {has_neighbour}");
            }
        }
    }
}
