//! Any bytes as a vocabulary and a text: used by tests/tokenizer.rs on random bytes, and by the fuzz target.

use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::text::{Detokenizer, Specials, Tokenizer, known_pretokenizers};

use super::common::gguf_builder::GgufBuilder;

/// The file that `bytes` stand for, and the text to tokenize: a byte of settings, then lines. A line is a token (its
/// kind, its score, its text) until an empty one; then come merges until an empty one; the rest is the text.
fn interpret(bytes: &[u8]) -> (GgufBuilder, &[u8]) {
    let (&settings, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut lines = || {
        let mut block = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if line.is_empty() {
                break;
            }
            block.push(line);
        }
        block
    };
    let (tokens, merges) = (lines(), lines());
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    let kinds: Vec<i32> = tokens.iter().map(|line| i32::from(line[0] % 8)).collect();
    let scores: Vec<f32> = tokens.iter().map(|line| line.get(1).map_or(f32::NAN, |&b| f32::from(b as i8))).collect();
    let texts: Vec<String> = tokens.iter().map(|line| text(line.get(2..).unwrap_or_default())).collect();
    let pre = known_pretokenizers().nth(usize::from(settings >> 1) % 40).unwrap_or("none");
    let file = GgufBuilder::new()
        .str("tokenizer.ggml.model", if settings & 1 == 0 { "gpt2" } else { "llama" })
        .str("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .f32s("tokenizer.ggml.scores", &scores)
        .strings("tokenizer.ggml.merges", &merges.into_iter().map(text).collect::<Vec<_>>())
        .bool("tokenizer.ggml.add_eos_token", settings & 64 != 0)
        .bool("tokenizer.ggml.add_space_prefix", settings & 128 != 0);
    (file, rest)
}

/// The vocabulary is refused, or every text can be tokenized with it: into ids that exist, and never into control tokens
/// when the text is plain. `true` when it was not refused.
pub fn check(bytes: &[u8]) -> bool {
    let (file, text) = interpret(bytes);
    let gguf = Gguf::parse(&Mapping::from_bytes(file.bytes(), "any.gguf")).unwrap();
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf.metadata, None) else { return false };
    let unknown = tokenizer.id_of("<unk>").or(Some(0));
    for id in tokenizer.encode_bytes(text, Specials::Plain).unwrap() {
        assert!((id as usize) < tokenizer.vocab_len());
        assert!(!tokenizer.is_control(id) || Some(id) == unknown, "control token {id} from plain text");
    }
    let mut stream = Detokenizer::new();
    for id in tokenizer.encode_prompt(&String::from_utf8_lossy(text)).unwrap() {
        assert!((id as usize) < tokenizer.vocab_len());
        stream.push(tokenizer.token_bytes(id));
    }
    stream.finish();
    true
}
