//! The GGUF reader: what it reads, and that it refuses every kind of broken file with the message that fits.
#![expect(clippy::unwrap_used, reason = "helpers outside #[test] functions unwrap too")]

#[path = "common/gguf_builder.rs"]
mod gguf_builder;
#[path = "gguf/properties.rs"]
mod properties;
#[path = "gguf/read_all.rs"]
mod read_all;
#[path = "gguf/refusals.rs"]
mod refusals;

use std::fs;

use gguf_builder::{GgufBuilder, array, value_type as ty};
use taper::error::Kind;
use taper::format::DType;
use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;

fn parse(bytes: Vec<u8>) -> Gguf {
    Gguf::parse(&Mapping::from_bytes(bytes, "test.gguf")).unwrap()
}

/// A small file with something of everything.
fn sound() -> GgufBuilder {
    GgufBuilder::new()
        .str("general.name", "Zwölf Boxkämpfer")
        .u32("llama.block_count", 30)
        .f32("llama.rope.freq_base", 10000.0)
        .bool("tokenizer.ggml.add_bos_token", true)
        .strings("tokenizer.ggml.tokens", &["<s>", "", "▁the"])
        .f32s("tokenizer.ggml.scores", &[0.0, -1.5, 2.25])
        .i32s("tokenizer.ggml.token_type", &[3, 1, -1])
        .tensor_f32("token_embd.weight", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor_raw("blk.0.attn_q.weight", DType::Q4_0, &[2, 64], &[7; 72])
        .tensor_f32("output_norm.weight", &[2], &[0.5, 0.25])
}

mod reading {
    use super::*;

    #[test]
    fn values_come_back_with_their_types() {
        let gguf = parse(sound().bytes());
        let meta = &gguf.metadata;
        assert_eq!(meta.str("general.name").unwrap(), Some("Zwölf Boxkämpfer"));
        assert_eq!(meta.u32("llama.block_count").unwrap(), Some(30));
        assert_eq!(meta.f32("llama.rope.freq_base").unwrap(), Some(10000.0));
        assert_eq!(meta.f32("llama.block_count").unwrap(), Some(30.0), "integers serve as numbers");
        assert_eq!(meta.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
        assert_eq!(meta.strings("tokenizer.ggml.tokens").unwrap(), Some(vec!["<s>", "", "▁the"]));
        assert_eq!(meta.f32s("tokenizer.ggml.scores").unwrap(), Some(vec![0.0, -1.5, 2.25]));
        assert_eq!(meta.i32s("tokenizer.ggml.token_type").unwrap(), Some(vec![3, 1, -1]));
        assert_eq!(gguf.version, 3);
        assert_eq!(meta.keys()[..2], ["general.name", "llama.block_count"]);
    }

    #[test]
    fn absent_values_are_none() {
        let meta = parse(GgufBuilder::new().bytes()).metadata;
        assert!(!meta.contains("x"));
        assert_eq!(meta.str("x").unwrap(), None);
        assert_eq!(meta.u32("x").unwrap(), None);
        assert_eq!(meta.f32("x").unwrap(), None);
        assert_eq!(meta.bool("x").unwrap(), None);
        assert_eq!(meta.strings("x").unwrap(), None);
        assert_eq!(meta.f32s("x").unwrap(), None);
        assert_eq!(meta.i32s("x").unwrap(), None);
    }

    #[test]
    fn integers_of_every_width_are_read() {
        let file = GgufBuilder::new()
            .raw_value("u8", ty::U8, &[200])
            .raw_value("u16", ty::U16, &60000u16.to_le_bytes())
            .raw_value("u32", ty::U32, &u32::MAX.to_le_bytes())
            .raw_value("u64", ty::U64, &7u64.to_le_bytes())
            .raw_value("i8", ty::I8, &[100])
            .raw_value("i16", ty::I16, &1000i16.to_le_bytes())
            .raw_value("i32", ty::I32, &i32::MAX.to_le_bytes())
            .raw_value("i64", ty::I64, &9i64.to_le_bytes())
            .raw_value("minus", ty::I8, &[0xff])
            .raw_value("large", ty::U64, &(1u64 << 32).to_le_bytes())
            .raw_value("f64", ty::F64, &0.5f64.to_le_bytes());
        let meta = parse(file.bytes()).metadata;
        let expected = [
            ("u8", 200),
            ("u16", 60000),
            ("u32", u32::MAX),
            ("u64", 7),
            ("i8", 100),
            ("i16", 1000),
            ("i32", i32::MAX as u32),
            ("i64", 9),
        ];
        for (key, value) in expected {
            assert_eq!(meta.u32(key).unwrap(), Some(value), "{key}");
        }
        for key in ["minus", "large"] {
            let message = format!("metadata `{key}` is not an integer from 0 to 2^32 - 1");
            assert_eq!(meta.u32(key).unwrap_err().what(), message);
        }
        assert_eq!(meta.f32("minus").unwrap(), Some(-1.0));
        assert_eq!(meta.f32("f64").unwrap(), Some(0.5));
    }

    #[test]
    fn values_of_another_type_are_refused() {
        let meta = parse(sound().raw_value("u32s", ty::ARRAY, &array(ty::U32, 1, &[0xff; 4])).bytes()).metadata;
        let what = |e: Option<taper::error::Error>| e.unwrap().what().to_owned();
        assert_eq!(what(meta.u32("general.name").err()), "metadata `general.name` is not an integer");
        assert_eq!(what(meta.str("llama.block_count").err()), "metadata `llama.block_count` is not a string");
        assert_eq!(what(meta.f32("general.name").err()), "metadata `general.name` is not a number");
        assert_eq!(what(meta.bool("llama.block_count").err()), "metadata `llama.block_count` is not true or false");
        let tokens = "metadata `tokenizer.ggml.tokens` is not";
        assert_eq!(what(meta.f32s("tokenizer.ggml.tokens").err()), format!("{tokens} an array of 32-bit floats"));
        assert_eq!(
            what(meta.i32s("tokenizer.ggml.tokens").err()),
            format!("{tokens} an array of signed 32-bit integers")
        );
        assert_eq!(
            what(meta.strings("tokenizer.ggml.scores").err()),
            "metadata `tokenizer.ggml.scores` is not an array of strings"
        );
        assert_eq!(
            what(meta.i32s("u32s").err()),
            "metadata `u32s` is not an array of signed 32-bit integers",
            "2^32 - 1 does not become -1"
        );
    }

    #[test]
    fn tensors_are_row_major_and_where_they_were_written() {
        let gguf = parse(sound().bytes());
        let [embd, q, norm] = gguf.tensors.as_slice() else { panic!("{:?}", gguf.tensors) };
        assert_eq!((embd.name.as_str(), embd.dtype, &embd.shape[..]), ("token_embd.weight", DType::F32, &[3, 2][..]));
        assert_eq!((q.name.as_str(), q.dtype, &q.shape[..]), ("blk.0.attn_q.weight", DType::Q4_0, &[2, 64][..]));
        assert_eq!(gguf.mapping().slice(&q.bytes), [7; 72]);
        assert_eq!(gguf.mapping().slice(&norm.bytes), [0.5f32.to_le_bytes(), 0.25f32.to_le_bytes()].concat());
    }

    #[test]
    fn version_2_and_other_alignments_are_read() {
        assert_eq!(parse(sound().version(2).bytes()).version, 2);
        for alignment in [1, 64, 65536] {
            let file =
                GgufBuilder::new().alignment(alignment).tensor_f32("a", &[1], &[1.0]).tensor_f32("b", &[1], &[2.0]);
            let gguf = parse(file.bytes());
            assert_eq!(gguf.mapping().slice(&gguf.tensors[1].bytes), 2.0f32.to_le_bytes(), "alignment {alignment}");
        }
    }

    #[test]
    fn every_type_is_known_by_its_number() {
        for &dtype in DType::ALL {
            let bytes = vec![1; dtype.block_bytes() * 2];
            let file = GgufBuilder::new().tensor_raw("t", dtype, &[2, dtype.block_len()], &bytes);
            let gguf = parse(file.bytes());
            assert_eq!(gguf.tensors[0].dtype, dtype);
            assert_eq!(gguf.mapping().slice(&gguf.tensors[0].bytes), bytes);
        }
    }

    #[test]
    fn arrays_may_nest_a_little() {
        let inner = array(ty::U8, 2, &[1, 2]);
        let file = GgufBuilder::new().raw_value("nested", ty::ARRAY, &array(ty::ARRAY, 2, &inner.repeat(2)));
        assert!(parse(file.u32("after", 5).bytes()).metadata.u32("after").unwrap() == Some(5));
    }
}

mod files {
    use super::*;

    #[test]
    fn refusals_name_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        fs::write(&path, "not a model").unwrap();
        let error = Gguf::open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
        assert_eq!(
            error.to_string(),
            format!(
                "not a GGUF file: it starts with \"not \" instead of \"GGUF\"\n  in {}\n  \
                 give a .gguf file, or a folder with config.json and model.safetensors",
                path.display()
            )
        );
        sound().version(1).write(&path);
        assert!(
            Gguf::open(&path).unwrap_err().to_string().ends_with("convert the model again with a current llama.cpp")
        );
        sound().claim_values(1 << 40).write(&path);
        assert!(Gguf::open(&path).unwrap_err().to_string().ends_with("damaged or incomplete: download it again"));
        sound().write(&path);
        assert_eq!(Gguf::open(&path).unwrap().tensors.len(), 3);
    }

    #[test]
    fn an_empty_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(
            Gguf::open(file.path()).unwrap_err().what(),
            "the file ends inside the magic number: 4 bytes needed at offset 0, 0 left"
        );
    }

    #[test]
    fn directories_and_absent_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Gguf::open(dir.path()).unwrap_err().what(), "expected a model file, found a directory");
        let error = Gguf::open(&dir.path().join("absent.gguf")).unwrap_err();
        assert!(error.what().starts_with("cannot open the model file: No such file"), "{error}");
    }

    /// Opening a FIFO would wait for a writer for ever.
    #[cfg(unix)]
    #[test]
    fn fifos_and_devices() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo.gguf");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [fifo.as_path(), "/dev/zero".as_ref()] {
            assert_eq!(Gguf::open(path).unwrap_err().what(), "expected a model file, found not a regular file");
        }
    }
}
