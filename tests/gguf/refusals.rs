//! Every kind of broken file, and the message that it is refused with.

use super::gguf_builder::{GgufBuilder, array, string, value_type as ty};
use super::{parse, sound};
use taper::format::DType;
use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;

/// The message that these bytes are refused with.
fn refusal(bytes: impl Into<Vec<u8>>) -> String {
    Gguf::parse(&Mapping::from_bytes(bytes.into(), "test.gguf")).unwrap_err().to_string()
}

mod header {
    use super::*;

    #[test]
    fn files_shorter_than_a_header() {
        let bytes = sound().bytes();
        let parts = [(0, "magic number", 4), (4, "version", 4), (8, "tensor count", 8), (16, "metadata count", 8)];
        for len in 0..24 {
            let (at, what, need) = *parts.iter().rev().find(|p| p.0 <= len).unwrap();
            let left = len - at;
            assert_eq!(
                refusal(&bytes[..len]),
                format!("the file ends inside the {what}: {need} bytes needed at offset {at}, {left} left")
            );
        }
    }

    #[test]
    fn every_cut_of_the_header_is_refused() {
        let file = sound();
        let bytes = file.bytes();
        for len in 0..file.header().len() {
            let message = refusal(&bytes[..len]);
            assert!(
                message.starts_with("the file ends inside") || message.contains("which cannot fit in the"),
                "cut at {len}: {message}"
            );
        }
        for len in file.header().len()..bytes.len() {
            assert!(refusal(&bytes[..len]).contains("lies outside the file"), "cut at {len}");
        }
        parse(bytes);
    }

    #[test]
    fn another_magic_number() {
        let bytes = sound().magic(*b"PK\x03\x04").bytes();
        assert_eq!(refusal(bytes), r#"not a GGUF file: it starts with "PK\\x03\\x04" instead of "GGUF""#);
    }

    #[test]
    fn versions_other_than_2_and_3() {
        for version in [0, 1, 99, 3 << 24] {
            assert_eq!(
                refusal(sound().version(version).bytes()),
                format!("GGUF version {version} is not supported (taper reads versions 2 and 3)")
            );
        }
    }

    #[test]
    fn counts_beyond_the_file() {
        for count in [1 << 31, 1 << 63, u64::MAX] {
            let left = sound().bytes().len() - 24;
            assert_eq!(
                refusal(sound().claim_values(count).bytes()),
                format!("the metadata claims {count} entries, which cannot fit in the {left} bytes left")
            );
            let file = GgufBuilder::new().u32("a", 1).claim_tensors(count);
            let left = file.bytes().len() - file.header().len();
            assert_eq!(
                refusal(file.bytes()),
                format!("the tensor list claims {count} entries, which cannot fit in the {left} bytes left")
            );
        }
    }

    #[test]
    fn one_count_too_many() {
        assert!(
            refusal(GgufBuilder::new().u32("a", 1).claim_values(2).header()).contains("the metadata claims 2 entries")
        );
        let file = GgufBuilder::new().raw_tensor("t", &[1], 0, 0).claim_tensors(2);
        assert!(refusal(file.header()).contains("the tensor list claims 2 entries"));
    }
}

mod values {
    use super::*;

    #[test]
    fn strings_longer_than_the_file() {
        for len in [100, 1 << 31, 1 << 63, u64::MAX] {
            let value = [&len.to_le_bytes()[..], b"short"].concat();
            assert_eq!(
                refusal(GgufBuilder::new().raw_value("name", ty::STR, &value).header()),
                format!("the file ends inside metadata `name`: {len} bytes needed at offset 48, 5 left")
            );
            let key = [&GgufBuilder::new().claim_values(1).header()[..], &len.to_le_bytes(), &[0; 13]].concat();
            assert_eq!(
                refusal(key),
                format!("the file ends inside metadata key 0: {len} bytes needed at offset 32, 13 left")
            );
        }
    }

    #[test]
    fn arrays_longer_than_the_file() {
        let cases = [(ty::U8, 1 << 63), (ty::F32, 1 << 62), (ty::F64, (1 << 61) + 1), (ty::STR, 3), (ty::ARRAY, 2)];
        for (elem, count) in cases {
            let file = GgufBuilder::new().raw_value("list", ty::ARRAY, &array(elem, count, &[0; 20]));
            assert_eq!(
                refusal(file.header()),
                format!("metadata `list` claims {count} entries, which cannot fit in the 20 bytes left")
            );
        }
    }

    #[test]
    fn arrays_nested_65_deep() {
        let nested = (0..65).fold(array(ty::U8, 0, &[]), |inner, _| array(ty::ARRAY, 1, &inner));
        let file = GgufBuilder::new().raw_value("deep", ty::ARRAY, &nested);
        assert_eq!(refusal(file.bytes()), "metadata `deep` nests arrays more than 4 deep");
    }

    #[test]
    fn text_that_is_not_utf8() {
        let value = string(b"\xff\xfe");
        assert_eq!(
            refusal(GgufBuilder::new().raw_value("name", ty::STR, &value).bytes()),
            "metadata `name` is not valid UTF-8"
        );
        let list = array(ty::STR, 2, &[string(b"good"), value].concat());
        assert_eq!(
            refusal(GgufBuilder::new().raw_value("list", ty::ARRAY, &list).bytes()),
            "metadata `list` is not valid UTF-8"
        );
        let key = GgufBuilder::new().raw_entry(b"\xc3", ty::U8, &[0]);
        assert_eq!(refusal(key.bytes()), "metadata key 0 is not valid UTF-8");
    }

    #[test]
    fn bools_other_than_0_and_1() {
        let message = "metadata `flag` holds a bool that is neither 0 nor 1";
        assert_eq!(refusal(GgufBuilder::new().raw_value("flag", ty::BOOL, &[2]).bytes()), message);
        let list = array(ty::BOOL, 2, &[1, 255]);
        assert_eq!(refusal(GgufBuilder::new().raw_value("flag", ty::ARRAY, &list).bytes()), message);
    }

    #[test]
    fn unknown_value_types() {
        for id in [13, u32::MAX] {
            let message = format!("metadata `odd` has the unknown value type {id}");
            assert_eq!(refusal(GgufBuilder::new().raw_value("odd", id, &[0; 8]).bytes()), message);
            let list = array(id, 0, &[]);
            assert_eq!(refusal(GgufBuilder::new().raw_value("odd", ty::ARRAY, &list).bytes()), message);
        }
    }

    #[test]
    fn keys_that_appear_twice() {
        let file = GgufBuilder::new().u32("a", 1).u32("b", 1).str("a", "x");
        assert_eq!(refusal(file.bytes()), "metadata `a` appears twice");
    }

    #[test]
    fn alignments_that_cannot_be() {
        let set = |id, value: &[u8]| GgufBuilder::new().raw_value("general.alignment", id, value).bytes();
        let message = |n: &str| format!("general.alignment is {n}; it must be a power of two from 1 to 65536");
        for n in [0u32, 3, 1 << 17, 1 << 31] {
            assert_eq!(refusal(set(ty::U32, &n.to_le_bytes())), message(&n.to_string()));
        }
        assert_eq!(refusal(set(ty::I32, &(-32i32).to_le_bytes())), message("-32"));
        assert_eq!(refusal(set(ty::U64, &(1u64 << 32).to_le_bytes())), message("4294967296"));
        assert_eq!(refusal(set(ty::STR, &string(b"32"))), message("not an integer"));
    }
}

mod tensors {
    use super::*;

    const F32: u32 = 0;

    fn one(dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
        GgufBuilder::new().raw_tensor("t", dims, type_id, offset).raw_data(&[0; 64]).bytes()
    }

    #[test]
    fn no_dimension_or_more_than_four() {
        for n in [0, 5] {
            let message = format!("tensor `t` has {n} dimensions (1 to 4 are possible)");
            // A second entry, so that a tensor without dimensions is not refused for its brevity.
            let file = GgufBuilder::new().raw_tensor("t", &vec![1; n], F32, 0).raw_tensor("other", &[1], F32, 32);
            assert_eq!(refusal(file.raw_data(&[0; 64]).bytes()), message);
        }
    }

    #[test]
    fn shapes_that_cannot_be() {
        for dims in
            [&[0][..], &[4, 0, 4], &[1 << 42, 1 << 42], &[1 << 32, 1 << 32], &[u64::MAX, 2], &[1 << 62, 1, 1, 1]]
        {
            let message = format!("tensor `t` has the impossible shape {dims:?}");
            assert_eq!(refusal(one(dims, F32, 0)), message);
        }
    }

    #[test]
    fn tensors_larger_than_the_file() {
        let outside = |bytes: u64, offset: u64| {
            format!("tensor `t` lies outside the file: {bytes} bytes at offset {offset} of the data, which has 64")
        };
        assert_eq!(refusal(one(&[1 << 42], F32, 0)), outside(1 << 44, 0));
        assert_eq!(refusal(one(&[17], F32, 0)), outside(68, 0));
        assert_eq!(refusal(one(&[9], F32, 32)), outside(36, 32));
        assert_eq!(refusal(one(&[1], F32, 64)), outside(4, 64));
        assert_eq!(refusal(one(&[1], F32, 1 << 63)), outside(4, 1 << 63));
        assert_eq!(refusal(one(&[16], F32, 0u64.wrapping_sub(32))), outside(64, 0u64.wrapping_sub(32)));
        parse(one(&[16], F32, 0));
        parse(one(&[8], F32, 32));
    }

    #[test]
    fn a_file_that_ends_before_its_data() {
        let file = GgufBuilder::new().raw_tensor("t", &[1], F32, 0);
        assert!(refusal(file.header()).ends_with("4 bytes at offset 0 of the data, which has 0"));
    }

    #[test]
    fn offsets_that_are_not_aligned() {
        assert_eq!(
            refusal(one(&[1], F32, 8)),
            "tensor `t` starts at offset 8, which is not a multiple of the alignment 32"
        );
    }

    #[test]
    fn tensors_that_overlap() {
        let file = |second| {
            let file = GgufBuilder::new().raw_tensor("late", &[4], F32, second).raw_tensor("early", &[9], F32, 0);
            file.raw_data(&[0; 96]).bytes()
        };
        assert_eq!(refusal(file(32)), "tensors `early` and `late` overlap");
        assert_eq!(refusal(file(0)), "tensors `late` and `early` overlap");
        parse(file(64));
    }

    #[test]
    fn names_that_appear_twice() {
        let file = GgufBuilder::new().tensor_f32("t", &[1], &[1.0]).tensor_f32("t", &[1], &[1.0]);
        assert_eq!(refusal(file.bytes()), "tensor `t` appears twice");
    }

    #[test]
    fn types_that_taper_does_not_read() {
        // 4 and 5 were removed from the format, 16 is IQ2_XXS.
        for id in [4, 5, 16, 31, 1000, u32::MAX] {
            let message = refusal(one(&[256], id, 0));
            assert!(
                message.starts_with(&format!("tensor `t` has the unsupported type {id} (supported: F32, F16, Q4_0,"))
            );
            assert!(message.ends_with("IQ4_NL, IQ4_XS, BF16)"), "{message}");
        }
    }

    #[test]
    fn rows_that_do_not_fill_blocks() {
        assert_eq!(
            refusal(one(&[16, 2], DType::Q8_0.gguf_id(), 0)),
            "tensor `t`: rows of 16 numbers do not fill blocks of 32 (Q8_0)"
        );
    }
}
