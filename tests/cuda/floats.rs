//! Weights in floating point, whose blocks have the one row of a step in shared memory.

use taper::backend::KvType;
use taper::format::DType;
use taper::model::config::Config;

use super::{EXACT, INT8, TIED, check_phases_of, config, gpus, last_logits, load};
use crate::common;

const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

#[test]
fn few_rows_in_floating_point_are_as_good_as_the_reference() {
    let config = Config { layers: 1, ..config() };
    for dtype in FLOATS {
        let weights = common::made::weights(&config, TIED, |_| dtype);
        let steps = [[1, 0, 0], [1, 1, 0], [13, 1, 2]];
        check_phases_of(&dtype.to_string(), &config, &weights, KvType::F16, &steps, EXACT);
    }
}

#[test]
fn long_rows_are_multiplied_where_they_fit_beside_weights_and_where_they_do_not() {
    // Rows that a block reads in more turns than it asks ahead, with a last strip of few groups; one that takes most of the host's shared
    // memory, and one that takes more than there is.
    for (hidden, ffn) in [(2336, 32), (32, 16_864), (32, 18_432)] {
        let config = Config { hidden, ffn, heads: 2, kv_heads: 1, layers: 1, ..config() };
        for dtype in [DType::F16, DType::F32] {
            let weights = common::made::weights(&config, TIED, |_| dtype);
            let what = format!("{dtype}, {hidden} and {ffn} numbers");
            check_phases_of(&what, &config, &weights, KvType::F16, &[[1, 0, 0]], EXACT);
        }
    }
}

#[test]
fn matrices_in_floating_point_beside_packed_ones_take_the_same_row() {
    let config = Config { layers: 1, ..config() };
    let mixed = |name: &str| if name.contains("attn_v") || name.contains("down") { DType::F16 } else { DType::Q4_0 };
    let weights = common::made::weights(&config, TIED, mixed);
    check_phases_of("f16 and q4_0", &config, &weights, KvType::F16, &[[1, 0, 0], [1, 1, 0]], INT8);
}

#[test]
fn answers_in_floating_point_do_not_depend_on_whether_a_row_came_alone() {
    let config = Config { layers: 1, ..config() };
    for dtype in FLOATS {
        let weights = common::made::weights(&config, TIED, |_| dtype);
        for (name, make) in gpus() {
            let logits = |backwards: bool, chunk: usize, has_neighbour: bool| {
                last_logits(&mut load(make(backwards), &config, &weights, KvType::F16), chunk, has_neighbour)
            };
            let expected = logits(false, 12, false);
            assert!(expected.iter().all(|x| x.is_finite()));
            for (backwards, chunk, has_neighbour) in [(true, 1, false), (false, 8, true)] {
                let got = logits(backwards, chunk, has_neighbour);
                assert!(got == expected, "{dtype} on the {name}, chunks of {chunk}, neighbour {has_neighbour}");
            }
        }
    }
}
