//! `--quant`: one model from either container gives the same weights, what cannot be quantized is refused by name, and the
//! program says what it did.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::path::Path;

use common::gguf_builder::GgufBuilder;
use common::program::{failed, succeeded, taper};
use common::runner::{Pool, in_chunks};
use common::{export, tiny};
use taper::backend::candle::{self, Candle};
use taper::backend::cpu::{self, Cpu, Isa, Options};
use taper::backend::{KvType, Limits};
use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::format::quantize::Quant;
use taper::format::repack::Repack;
use taper::format::weights::Weights;
use taper::format::{DType, TensorInfo};
use taper::model::config::Config;
use taper::model::tensors::{self, Extras};

const LIMITS: Limits = Limits { context: 64, sequences: 1, chunk: 32, pages: 4 };
const QUANTS: [Quant; 6] = [Quant::Q8_0, Quant::Q4_1, Quant::Q4_0, Quant::Iq4Nl, Quant::Nf4, Quant::Learned];
const TIED: Extras = Extras { tied: true, qkv_bias: false, rope_factors: false };

fn config() -> Config {
    Config { hidden: 96, ffn: 160, head_dim: 32, heads: 6, kv_heads: 2, vocab: 61, ..tiny::config() }
}

/// A model of random numbers, its matrices in f16; `change` may spoil the values of some.
fn gguf(extras: Extras, change: impl Fn(&str, &mut Vec<f32>)) -> GgufBuilder {
    let config = config();
    let mut model = tiny::Tiny::new(config.clone(), extras, 3);
    let gguf = tiny::with_vocabulary(tiny::with_sizes(GgufBuilder::new(), &config), config.vocab);
    model.tensors.iter_mut().fold(gguf, |gguf, (name, (shape, values))| {
        change(name, values);
        if shape.len() == 1 {
            return gguf.tensor_f32(name, shape, values);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        gguf.tensor_raw(name, DType::F16, shape, &bytes)
    })
}

fn weights(gguf: &GgufBuilder) -> Weights {
    Weights::from_gguf(&Gguf::parse(&Mapping::from_bytes(gguf.bytes(), "tiny.gguf")).unwrap())
}

fn quantized(weights: &Weights, quant: Quant) -> Weights {
    let head = if weights.contains(tensors::OUTPUT) { tensors::OUTPUT } else { tensors::EMBEDDING };
    let kept = (head == tensors::OUTPUT).then_some(tensors::EMBEDDING);
    weights.quantized(quant, head, kept).unwrap()
}

fn infos(weights: &Weights) -> Vec<&TensorInfo> {
    weights.names().map(|n| weights.info(n).unwrap()).collect()
}

fn on_cpu(weights: &Weights) -> taper::Result<Cpu> {
    let options = Options { threads: 2, isa: Isa::choose(None)?, kv_type: KvType::F16, flash_attention: true };
    let plan = cpu::plan(&config(), &infos(weights), LIMITS, &options);
    Cpu::load(&config(), weights, &plan, &options, &Repack::default())
}

fn on_reference(weights: &Weights) -> taper::Result<Candle> {
    Candle::load(&config(), weights, &candle::plan(&config(), &infos(weights), LIMITS))
}

fn bits(weights: &Weights) -> Vec<u32> {
    let logits = in_chunks(&mut on_cpu(weights).unwrap(), &mut Pool::new(LIMITS.pages), &[1, 40, 50, 30, 2], 3);
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn safetensors_and_gguf_of_one_model_give_the_same_logits_bit_for_bit() {
    for extras in [TIED, Extras { tied: false, ..TIED }] {
        let from_gguf = weights(&gguf(extras, |_, _| ()));
        let folder = tempfile::tempdir().unwrap();
        export::safetensors_folder(&from_gguf, &config(), folder.path());
        let from_safetensors = Weights::from_safetensors(folder.path(), config().heads, config().kv_heads).unwrap();
        assert_eq!(from_safetensors.info("blk.0.attn_q.weight").unwrap().dtype, DType::F16);
        let mut all = Vec::new();
        for quant in QUANTS {
            let expected = bits(&quantized(&from_gguf, quant));
            assert!(bits(&quantized(&from_safetensors, quant)) == expected, "{}", quant.name());
            all.push(expected);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), QUANTS.len(), "no two are alike");
    }
}

#[test]
fn rows_that_are_looked_up_are_those_of_the_whole_matrix() {
    for quant in QUANTS {
        let weights = quantized(&weights(&gguf(TIED, |_, _| ())), quant);
        for name in ["blk.1.attn_k.weight", tensors::EMBEDDING] {
            let shape = weights.info(name).unwrap().shape.clone();
            let whole = weights.f32(name, &shape).unwrap();
            let mut row = vec![0.0; shape[1]];
            weights.row(name, 7, &mut row).unwrap();
            assert_eq!(row, whole[7 * shape[1]..][..shape[1]], "{}, {name}", quant.name());
        }
    }
}

#[test]
fn numbers_that_are_none_are_refused_by_the_name_of_their_tensor_on_both_backends() {
    for bad in [f32::NAN, f32::INFINITY, 1e6] {
        let spoilt = gguf(TIED, |name, values| {
            if name == "blk.1.ffn_up.weight" {
                values[777] = bad; // 1e6 is infinite in f16
            }
        });
        for quant in QUANTS {
            let weights = quantized(&weights(&spoilt), quant);
            let expected = "tensor `blk.1.ffn_up.weight` holds NaN or infinite numbers";
            assert_eq!(on_cpu(&weights).err().unwrap().what(), expected, "{}", quant.name());
            assert_eq!(on_reference(&weights).err().unwrap().what(), expected, "{}", quant.name());
        }
    }
}

fn stderr(folder: &Path, args: &[&str]) -> String {
    let mut command = taper();
    command.current_dir(folder).envs([("TAPER_CACHE_DIR", folder), ("TAPER_CONFIG_DIR", folder)]).args(args);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn the_program_quantizes_for_the_fast_backend_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    gguf(TIED, |_, _| ()).write(&folder.path().join("m.gguf"));
    let args = ["-m", "m.gguf", "--device", "auto", "-v", "--raw", "-p", "ABC", "-n", "2"];
    let told = stderr(folder.path(), &args);
    assert!(told.contains("the cpu backend computes") && told.contains("info: weights packed in "), "{told}");
    let told = stderr(folder.path(), &[&args[..], &["--quant", "nf4"]].concat());
    assert!(told.contains("info: F16 as IQ4_NL: -6") && told.contains(" % bytes, relative rms error "), "{told}");
    assert!(told.contains("the cpu backend computes") && told.contains("info: weights packed as nf4 in "), "{told}");
    let mut by_environment = taper();
    by_environment.current_dir(folder.path()).env("TAPER_QUANT", "q4_0").args(["-m", "m.gguf", "--device", "cpu"]);
    succeeded(by_environment.args(["--raw", "-p", "ABC", "-n", "2"]));
}

#[test]
fn the_settings_file_has_it_too_and_a_flag_wins() {
    let folder = tempfile::tempdir().unwrap();
    gguf(TIED, |_, _| ()).write(&folder.path().join("m.gguf"));
    let settings = |text: &str| std::fs::write(folder.path().join("config.toml"), text).unwrap();
    settings("quant = \"iq4_nl\"\n");
    let args = ["-m", "m.gguf", "--device", "auto", "-v", "--raw", "-p", "ABC", "-n", "1"];
    let told = stderr(folder.path(), &args);
    assert!(told.contains("info: weights packed as iq4_nl in "), "{told}");
    let told = stderr(folder.path(), &[&args[..], &["--quant", "q8_0"]].concat());
    assert!(told.contains("info: weights packed as q8_0 in "), "{told}");
    settings("quant = \"q5_0\"\n");
    let mut command = taper();
    let (code, error) = failed(command.env("TAPER_CONFIG_DIR", folder.path()).args(["-p", "x"]));
    assert!(code == 2 && error.contains("invalid value 'q5_0' for '--quant <TYPE>'"), "{error}");
}

#[test]
fn of_a_quantized_model_it_says_that_it_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-m", "synth:smollm2-135m:q4_0", "--quant", "nf4", "--estimate-memory"];
    let told = stderr(folder.path(), &args);
    assert_eq!(told, "--quant nf4 changes nothing: synth:smollm2-135m:q4_0 is quantized already\n");
    assert_eq!(stderr(folder.path(), &[&args[..], &["-q"]].concat()), "");
}

#[test]
fn the_estimate_is_of_the_quantized_sizes() {
    let weights = |model: &str, quant: &str| -> u64 {
        let args = ["-m", model, "--device", "auto", "--quant", quant, "--estimate-memory", "-o", "json"];
        let json: serde_json::Value = serde_json::from_str(&succeeded(taper().args(args))).unwrap();
        assert_eq!(json["backend"], "cpu");
        json["weights_bytes"].as_u64().unwrap()
    };
    let f16 = "synth:smollm2-135m:f16";
    assert_eq!(weights(f16, "q8_0"), weights("synth:smollm2-135m:q8_0", "none"));
    // The head has 8 bits: 4 more than the synthetic model's own for each of its numbers.
    let head = 49152 * 576 / 2;
    assert_eq!(weights(f16, "q4_0"), weights("synth:smollm2-135m:q4_0", "none") + head);
    assert_eq!(weights(f16, "learned"), weights(f16, "q4_0"));
}

#[test]
fn rows_that_do_not_fill_groups_are_refused_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { hidden: 48, ..config() };
    let model = tiny::Tiny::plain(config.clone(), 1);
    let gguf = tiny::with_vocabulary(tiny::with_sizes(GgufBuilder::new(), &config), config.vocab);
    model.with_tensors(gguf).write(&folder.path().join("m.gguf"));
    let mut command = taper();
    let (code, error) = failed(command.current_dir(folder.path()).args(["-m", "m.gguf", "--quant", "q4_0", "-p", "x"]));
    assert_eq!(code, 3);
    assert!(error.contains("48 columns of tensor `blk.0.attn_k.weight` do not fill groups of 32"), "{error}");
    assert!(error.contains("m.gguf") && error.contains("run the model without --quant"), "{error}");
}

#[test]
fn models_show_measures_what_packing_costs() {
    let folder = tempfile::tempdir().unwrap();
    gguf(TIED, |_, _| ()).write(&folder.path().join("m.gguf"));
    let show = |args: &[&str]| {
        let mut command = taper();
        succeeded(command.current_dir(folder.path()).args(["models", "show", "./m.gguf"]).args(args))
    };
    assert!(!show(&[]).contains("packed for computing"));
    let text = show(&["--loss"]);
    assert!(text.contains("\npacked for computing\n  F16: +") && text.contains(" % bytes, no error"), "{text}");
    let text = show(&["--loss", "--quant", "q4_0"]);
    assert!(text.contains("\npacked for computing\n  F16 as Q4_0: -6"), "{text}");
    assert!(text.contains("\n  F16 as Q8_0: -"), "the head: {text}");
    let json: serde_json::Value = serde_json::from_str(&show(&["--loss", "--quant", "learned", "--json"])).unwrap();
    let (blocks, head) = (&json["loss"][1], &json["loss"][0]);
    assert_eq!((&head["type"], &head["becomes"], &head["tensors"]), (&"F16".into(), &"Q8_0".into(), &1.into()));
    assert_eq!((&blocks["becomes"], &blocks["tensors"]), (&"IQ4_NL".into(), &14.into()));
    // Numbers are spread evenly: fitted levels are even too, a fifteenth of the range apart.
    let error = blocks["relative_rms_error"].as_f64().unwrap();
    assert!((0.04..0.08).contains(&error), "{error}");
}
