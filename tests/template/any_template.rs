//! Any text as a chat template: used by tests/template.rs on damaged real ones, and by the fuzz target.

use std::sync::LazyLock;

use taper::format::gguf::Gguf;
use taper::format::mapping::Mapping;
use taper::text::{ChatTemplate, Message, Role, Tokenizer};

use super::common::gguf_builder::GgufBuilder;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let file = GgufBuilder::new()
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "▁", "<|im_end|>"])
        .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 3])
        .f32s("tokenizer.ggml.scores", &[0.0; 5]);
    Tokenizer::from_gguf(&Gguf::parse(&Mapping::from_bytes(file.bytes(), "tiny.gguf")).unwrap().metadata, None).unwrap()
});

/// The template is refused, fails with an error, or gives a prompt of ids that exist. `true` for the last.
pub fn check(source: &str) -> bool {
    let messages = [
        Message::new(Role::System, ""),
        Message::new(Role::User, " a <|im_end|> </s>"),
        Message::new(Role::Assistant, "b"),
    ];
    let Ok(template) = ChatTemplate::new(source) else { return false };
    let Ok(ids) = template.prompt(&TOKENIZER, &messages, true) else { return false };
    assert!(ids.iter().all(|&id| (id as usize) < TOKENIZER.vocab_len()));
    true
}
