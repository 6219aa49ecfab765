//! Text on its way to the model and back: a conversation becomes a prompt by the model's chat template, the prompt
//! becomes token ids, and the ids that the model answers with become text again.
//!
//! ```text
//! Conversation ─ ChatTemplate ─ Tokenizer → ids      id → Tokenizer::token_bytes ─ Detokenizer → text
//! ```
//!
//! One rule runs through all of it: what a person types is text. Only the template (and a raw prompt that the user
//! hands over as such) may write control tokens.

mod bpe;
mod bytelevel;
mod conversation;
mod detokenizer;
mod jinja;
mod load_folder;
mod load_gguf;
mod pipeline;
mod pretokenizer;
mod sentencepiece;
mod specials;
mod template;
mod tokenizer;
mod vocabulary;

pub use conversation::{Conversation, Message, Role};
pub use detokenizer::Detokenizer;
pub use pretokenizer::known_names as known_pretokenizers;
pub use template::ChatTemplate;
pub use tokenizer::{Specials, Tokenizer};
