//! Contexts and rows so long that kernels go through them in several turns.

use taper::backend::{KvType, Limits, PAGE, Token, Want};
use taper::format::DType;
use taper::model::config::Config;

use super::common::made;
use super::common::runner::{Pool, with_batch};
use super::{
    Candle, Cuda, INT8, Mode, Options, TIED, candle, check_phases_of, config, cuda, fill_pages, gpus, infos, one_step,
};

#[test]
fn several_rows_of_many_numbers_are_copied_a_few_at_a_time_or_multiplied_one_by_one() {
    // Sixteen of them take more shared memory than the host has, then eight.
    for ffn in [4096, 8192] {
        let config = Config { ffn, layers: 1, ..config() };
        let weights = made::weights(&config, TIED, |_| DType::Q4_0);
        check_phases_of(&format!("{ffn} numbers"), &config, &weights, KvType::F16, &[[13, 1, 2]], INT8);
    }
}

#[test]
fn chunks_of_a_long_context_are_joined_in_several_turns() {
    // A slice of threads has four chunks at a time: with heads of 128 numbers, turns are of 4,096 positions.
    let (known, context) = (4300, 4320);
    let config = Config { heads: 2, kv_heads: 1, head_dim: 128, layers: 1, ..config() };
    let limits = Limits { context, ..Limits::new(context, 1, 16) };
    let weights = made::weights(&config, TIED, |_| DType::Q4_0);
    for (name, make) in gpus() {
        for kv_type in [KvType::F16, KvType::Q8_0] {
            let options = Options { kv_type, graph: true, flash_attention: true, hashes: false };
            let plan = cuda::plan(&config, &infos(&weights), limits, options);
            let mut backend = Cuda::load(make(false), &config, &weights, &plan, options, Mode::Quiet).unwrap();
            let mut judge = Candle::load(&config, &weights, &candle::plan(&config, &infos(&weights), limits)).unwrap();
            let mut running = Pool::new(context.div_ceil(PAGE)).sequence(context);
            fill_pages(&mut judge, &mut backend, &mut running, known);
            let what = format!("{known} positions in {} on the {name}", kv_type.name());
            let parts = &mut [(&mut running, &[Token::Id(5)][..])];
            with_batch(parts, Want::Logits, |batch| one_step(&mut judge, &mut backend, batch, &what, INT8));
        }
    }
}
