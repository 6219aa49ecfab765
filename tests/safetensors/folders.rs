//! Which files a Hugging Face folder's model consists of.

use std::path::Path;

use safetensors::tensor::Dtype;
use taper::error::Result;
use taper::format::weights::Weights;

use super::written;

const INDEX: &str = "model.safetensors.index.json";

fn shard(name: &str) -> Vec<u8> {
    written(&[(name, Dtype::F32, &[1], 1.5f32.to_le_bytes().to_vec())])
}

/// The weights of a folder with these files.
fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Result<Weights>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let weights = Weights::from_safetensors(dir.path(), 1, 1);
    (dir, weights)
}

fn index(map: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> = map.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    serde_json::to_vec(&serde_json::json!({ "metadata": { "total_size": 8 }, "weight_map": map })).unwrap()
}

#[test]
fn a_single_file() {
    let (dir, weights) = folder(&[("model.safetensors", &shard("model.norm.weight"))]);
    let weights = weights.unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["output_norm.weight"]);
    assert_eq!(weights.path(), dir.path().join("model.safetensors"));
}

#[test]
fn shards_make_one_model() {
    let map = index(&[("model.norm.weight", "one.safetensors"), ("lm_head.weight", "two.safetensors")]);
    let (one, two) = (shard("model.norm.weight"), shard("lm_head.weight"));
    let (dir, weights) = folder(&[(INDEX, &map), ("one.safetensors", &one), ("two.safetensors", &two)]);
    let weights = weights.unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["output.weight", "output_norm.weight"]);
    assert_eq!(weights.f32("output.weight", &[1]).unwrap(), [1.5]);
    assert_eq!(weights.path(), dir.path().join(INDEX));
    assert_eq!(weights.source_bytes(), 8);
}

#[test]
fn a_folder_without_a_model() {
    let (_dir, weights) = folder(&[("config.json", b"{}")]);
    assert_eq!(
        weights.unwrap_err().what(),
        "the folder has neither model.safetensors nor model.safetensors.index.json"
    );
}

#[test]
fn shard_names_that_lead_elsewhere() {
    let outside = tempfile::tempdir().unwrap();
    let absolute = outside.path().join("a.safetensors").to_str().unwrap().to_owned();
    std::fs::write(&absolute, shard("lm_head.weight")).unwrap();
    let names = ["../a.safetensors", "sub/a.safetensors", "..", ".", "", "a\\b", "C:a", "./a", "a/", "a\0b", &absolute];
    for name in names {
        let (dir, weights) = folder(&[(INDEX, &index(&[("lm_head.weight", name)]))]);
        let error = weights.unwrap_err().to_string();
        let place = dir.path().join(INDEX);
        let what =
            format!("the index names the shard {name:?}, which is not a plain file name\n  in {}", place.display());
        assert!(error.starts_with(&what), "{error}");
    }
}

#[test]
fn shards_that_are_absent_or_incomplete() {
    let map = index(&[("model.norm.weight", "one.safetensors"), ("lm_head.weight", "one.safetensors")]);
    let (dir, weights) = folder(&[(INDEX, &map)]);
    let error = weights.unwrap_err().to_string();
    assert!(error.starts_with("cannot open the model file: No such file"), "{error}");
    assert!(error.contains(dir.path().join("one.safetensors").to_str().unwrap()), "{error}");

    let (_dir, weights) = folder(&[(INDEX, &map), ("one.safetensors", &shard("lm_head.weight"))]);
    assert_eq!(weights.unwrap_err().what(), "tensor `output_norm.weight` is missing");
}

#[test]
fn a_tensor_in_two_shards() {
    let map = index(&[("lm_head.weight", "one.safetensors"), ("other", "two.safetensors")]);
    let one = shard("lm_head.weight");
    let (dir, weights) = folder(&[(INDEX, &map), ("one.safetensors", &one), ("two.safetensors", &one)]);
    let error = weights.unwrap_err().to_string();
    assert!(error.starts_with("tensor `lm_head.weight` is there twice"), "{error}");
    assert!(error.contains(dir.path().join("two.safetensors").to_str().unwrap()), "{error}");
}

#[test]
fn an_index_that_is_damaged() {
    for json in ["", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, "\u{feff}{}"] {
        let (_dir, weights) = folder(&[(INDEX, json.as_bytes())]);
        let error = weights.unwrap_err();
        assert!(error.what().starts_with("the index is not valid: "), "{json}: {error}");
    }
    let (_dir, weights) = folder(&[(INDEX, &vec![b' '; (16 << 20) + 1])]);
    assert_eq!(weights.unwrap_err().what(), "the index has 16777217 bytes; 16777216 are the most taper reads");
}

#[test]
fn an_index_of_nothing_has_no_tensors() {
    let (_dir, weights) = folder(&[(INDEX, &index(&[]))]);
    assert_eq!(weights.unwrap().names().count(), 0);
}

#[test]
fn a_directory_in_the_place_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    let error = Weights::from_safetensors(Path::new(dir.path()), 1, 1).unwrap_err();
    assert_eq!(error.what(), "expected a model file, found a directory");
}
