//! Models whose gate and up matrices are of two types.

use super::common::{made, nmse};
use super::{INT8, LIMITS, TIED, check_phases_of, config, gpus, infos, last_logits, load};
use taper::backend::KvType;
use taper::backend::cuda::{self, Options};
use taper::format::DType;
use taper::format::weights::Weights;
use taper::model::config::Config;

fn weights(config: &Config, gate: DType, up: DType) -> Weights {
    made::weights(config, TIED, |name| if name.contains("ffn_up") { up } else { gate })
}

#[test]
fn phases_agree_where_gate_and_up_are_of_two_types() {
    // One row, few and many, in every order: products of many rows are added to what those before them left.
    let steps = [[20, 1, 2], [1, 0, 0], [3, 1, 0], [17, 0, 1], [1, 0, 0]];
    let wide = Config { hidden: 256, ffn: 256, heads: 8, layers: 1, ..config() };
    let narrow = Config { layers: 1, ..config() };
    for (config, gate, up) in [
        (&wide, DType::Q4K, DType::Q6K),
        (&wide, DType::Q6K, DType::Q5_1),
        (&narrow, DType::Q4_0, DType::Q8_0),
        (&narrow, DType::IQ4NL, DType::F16),
        (&narrow, DType::F32, DType::Q4_1),
    ] {
        let what = format!("gate in {gate}, up in {up}");
        check_phases_of(&what, config, &weights(config, gate, up), KvType::F16, &steps, INT8);
    }
}

#[test]
fn a_rows_answer_depends_on_no_other_row_where_they_are_of_two_types() {
    for (name, make) in gpus() {
        let logits = |backwards: bool, chunk: usize, has_neighbour: bool| {
            let weights = weights(&config(), DType::Q8_0, DType::Q4_1);
            last_logits(&mut load(make(backwards), &config(), &weights, KvType::F16), chunk, has_neighbour)
        };
        let expected = logits(false, 12, false);
        assert!(expected.iter().all(|x| x.is_finite()));
        for (backwards, chunk, has_neighbour) in [(true, 1, false), (false, 7, true)] {
            let got = logits(backwards, chunk, has_neighbour);
            assert!(got == expected, "{name}, backwards {backwards}, chunks of {chunk}, neighbour {has_neighbour}");
        }
        // All at once: what joins the products has to quantize them, for kernels of many rows.
        let error = nmse(&expected, &logits(false, 24, false));
        assert!(error <= INT8, "{name}, many rows: {error:e}");
    }
}

#[test]
fn only_they_take_memory_for_two_products() {
    let plan = |up| {
        let options = Options { kv_type: KvType::F16, graph: true, flash_attention: true, hashes: false };
        let weights = weights(&config(), DType::Q4_0, up);
        cuda::plan(&config(), &infos(&weights), LIMITS, options).workspace
    };
    let products = 2 * 4 * LIMITS.chunk * config().ffn;
    assert!((products..products + 1024).contains(&((plan(DType::Q8_0) - plan(DType::Q4_0)) as usize)));
}
