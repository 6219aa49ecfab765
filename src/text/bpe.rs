//! Building the `tokenizers` crate's BPE from a vocabulary and merges that may be damaged.
//!
//! The crate trusts its input (a merge longer than every token makes it panic), so merges are checked here first.

use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};

use super::vocabulary::{Kind, Vocabulary};
use crate::error::{Error, Result};

/// A pair of tokens that become one; earlier pairs in a list are merged first.
pub(super) type Merge = (String, String);

/// Builds the model that `configure` describes further. Control tokens are kept out of it, so that no plain text can
/// be merged into one; `keep` names the token that stands for the unknown, which must stay.
///
/// # Errors
/// When a merge names a token that is not there.
pub(super) fn build(
    vocabulary: &Vocabulary,
    merges: Vec<Merge>,
    keep: Option<&str>,
    configure: impl FnOnce(BpeBuilder) -> BpeBuilder,
) -> Result<BPE> {
    let is_plain = |id: u32| !matches!(vocabulary.kind(id), Some(Kind::Control | Kind::Unknown));
    let ids: Vocab = vocabulary
        .iter()
        .filter(|(id, token)| is_plain(*id) || keep == Some(&*token.text))
        .map(|(id, token)| (token.text.to_string(), id))
        .collect();
    let mut checked = Vec::with_capacity(merges.len());
    for (nth, (left, right)) in merges.into_iter().enumerate() {
        let merged = format!("{left}{right}");
        let parts = [&left, &right, &merged];
        if parts.iter().all(|part| ids.contains_key(*part)) {
            checked.push((left, right));
        } else if let Some(absent) = parts.iter().find(|part| vocabulary.id_of(part).is_none()) {
            return Err(Error::model(format!(
                "merge {nth} of the tokenizer, `{left}` + `{right}`, names `{absent}`, which is not in the vocabulary"
            )));
        }
    }
    configure(BPE::builder().vocab_and_merges(ids, checked))
        .build()
        .map_err(|e| Error::model(format!("the tokenizer's merges cannot be used: {e}")))
}

/// Splits a merge written as `left right`. The first character may be a space itself: SentencePiece-like vocabularies
/// do not escape it everywhere.
///
/// # Errors
/// When there are not two parts.
pub(super) fn parse_merge(line: &str) -> Result<Merge> {
    let second = line.chars().next().map_or(0, char::len_utf8);
    match line[second..].split_once(' ') {
        Some((left, right)) if !right.is_empty() => Ok((format!("{}{left}", &line[..second]), right.to_owned())),
        _ => Err(Error::model(format!("a merge of the tokenizer is `{line}`, not two tokens with a space between"))),
    }
}
