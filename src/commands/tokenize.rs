//! `taper tokenize`: standard input, byte for byte, as token ids.

use super::{Session, input};
use crate::cli::TokenizeArgs;
use crate::error::Result;
use crate::terminal::render::Answer;
use crate::text::Specials;

pub(super) fn run(args: &TokenizeArgs, session: &Session) -> Result<()> {
    let model = session.open()?;
    let bytes = input::stdin()?;
    let ids = if args.no_special {
        model.tokenizer.encode_bytes(&bytes, Specials::Plain)?
    } else {
        model.tokenizer.encode_prompt_bytes(&bytes)?
    };
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    Answer::new().line(&format!("[{}]", ids.join(", ")))
}
