//! Texts into a memory: cut, embedded and kept a few passages at a time, so that whatever interrupts it costs no more than those.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use sha2::{Digest, Sha256};

use super::Memory;
use super::chunk::{self, Size, Syntax};
use super::embed::Embedder;
use super::hex;
use super::store::{Passage, Source};
use crate::error::{Error, Result};

/// Passages that are embedded and kept together: about a quarter of a second's on two cores.
pub(super) const BATCH: usize = 8;

/// Tokens that a passage may be bounded by at least: what is shorter than a sentence says nothing by itself.
const LEAST: usize = 20;

/// The byte order mark.
const MARK: char = '\u{FEFF}';

/// Bytes that are tokenized at once: a token takes a hundred times as much while it is being made.
const STRETCH: usize = 256 << 10;

/// What became of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Passages of the source.
    pub passages: usize,
    /// The records that were kept now; the others were there.
    pub kept: Vec<i64>,
    /// It was stopped before the last of them.
    pub stopped: bool,
}

impl Memory {
    /// Has sources that are added from now on cut into passages of up to so many tokens.
    ///
    /// # Errors
    /// When the embedder would not read all of such a passage, or hardly anything would be one.
    pub fn set_chunk_tokens(&mut self, tokens: usize) -> Result<()> {
        check_chunk_tokens(&self.embedder, tokens)?;
        if self.store.chunk_tokens()? != tokens {
            self.store.set_chunk_tokens(tokens)?;
        }
        Ok(())
    }

    /// Adds a source: what is kept of this version already is not added again, and versions before it go once it is whole.
    /// `step` hears after every few passages how many bytes of the text are done, and may stop it there.
    ///
    /// # Errors
    /// When it cannot be embedded or kept. What was kept before stays, and adding it again goes on there.
    pub fn add(&mut self, name: &str, text: &str, mut step: impl FnMut(usize) -> ControlFlow<()>) -> Result<Added> {
        let ranges = passages(&self.embedder, text, Syntax::of(name), Size::of(self.store.chunk_tokens()?))?;
        let hash = Sha256::digest(text);
        let known = match self.store.source(name, &hash)? {
            Some(source) if source.done == ranges.len() => {
                return Ok(Added { passages: ranges.len(), kept: Vec::new(), stopped: false });
            }
            _ => self.store.texts_of(name)?,
        };
        let mut source = self.store.begin(name, &hash, ranges.len())?;
        let others = self.cut_otherwise(&source, &ranges)?;
        if !others.is_empty() {
            self.store.remove(&others)?;
            source = self.store.begin(name, &hash, ranges.len())?;
        }
        let mut added = Added { passages: ranges.len(), kept: Vec::new(), stopped: false };
        for batch in ranges.get(source.done..).unwrap_or_default().chunks(BATCH) {
            let texts: Vec<&str> = batch.iter().map(|range| &text[range.clone()]).collect();
            let vectors = self.vectors(&texts, &known)?;
            let passages: Vec<Passage> = (batch.iter().zip(&texts).zip(&vectors))
                .map(|((range, text), vector)| Passage { begins: range.start, ends: range.end, text, vector })
                .collect();
            added.kept.extend(self.store.append(&mut source, &passages)?);
            let done = batch.last().map_or(text.len(), |range| range.end);
            if step(done).is_break() && source.done < ranges.len() {
                added.stopped = true;
                break;
            }
        }
        Ok(added)
    }

    /// The records of a source that was stopped, if they were cut at other places than these.
    fn cut_otherwise(&self, source: &Source, ranges: &[Range<usize>]) -> Result<Vec<i64>> {
        if source.done == 0 {
            return Ok(Vec::new());
        }
        let kept = self.store.records_of(source.id)?;
        let fits = kept.iter().all(|record| ranges.contains(&(record.begins..record.ends)));
        Ok(if fits { Vec::new() } else { kept.iter().map(|record| record.id).collect() })
    }

    /// Keeps a text that is one record however long it is, under a name that ends with its hash: the same text is kept once.
    ///
    /// # Errors
    /// As [`Memory::add`].
    pub fn keep_whole(&mut self, kind: &str, text: &str) -> Result<Added> {
        let (name, hash) = (named(kind, text), Sha256::digest(text));
        let mut source = self.store.begin(&name, &hash, 1)?;
        if source.done == 1 {
            return Ok(Added { passages: 1, kept: Vec::new(), stopped: false });
        }
        let vector = self.embedder.embed_one(text)?;
        let whole = Passage { begins: 0, ends: text.len(), text, vector: &vector };
        Ok(Added { passages: 1, kept: self.store.append(&mut source, &[whole])?, stopped: false })
    }

    /// Vectors of texts, taken from records of the same text where there are some.
    fn vectors(&self, texts: &[&str], known: &HashMap<Vec<u8>, i64>) -> Result<Vec<Vec<f32>>> {
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut reader = self.store.reader()?;
        for (text, vector) in texts.iter().zip(&mut vectors) {
            if let Some(id) = known.get(Sha256::digest(text).as_slice()) {
                reader.vector(*id, vector)?;
            }
        }
        let new: Vec<usize> = (0..texts.len()).filter(|at| vectors[*at].is_empty()).collect();
        let made = self.embedder.embed(&new.iter().map(|at| texts[*at]).collect::<Vec<_>>())?;
        for (at, vector) in new.into_iter().zip(made) {
            vectors[at] = vector;
        }
        Ok(vectors)
    }
}

/// A name for a text that has none: its kind, and the beginning of its hash.
pub fn named(kind: &str, text: &str) -> String {
    format!("{kind}:{}", hex(&Sha256::digest(text)[..6]))
}

/// # Errors
/// When the embedder would not read all of a passage of so many tokens, or hardly anything would be one.
pub fn check_chunk_tokens(embedder: &Embedder, tokens: usize) -> Result<()> {
    let most = embedder.max_tokens();
    if (LEAST..=most).contains(&tokens) {
        return Ok(());
    }
    let what = format!("passages of up to {tokens} tokens: {} takes {LEAST} to {most}", embedder.name());
    Err(Error::usage(what).help(format!("take --chunk-tokens {}", tokens.clamp(LEAST, most))))
}

/// Where a text is cut. The mark of UTF-8 that some editors begin a file with is no part of it.
///
/// # Errors
/// When it cannot be tokenized.
pub fn passages(embedder: &Embedder, text: &str, syntax: Syntax, size: Size) -> Result<Vec<Range<usize>>> {
    let size = Size { tokens: size.tokens.min(embedder.max_tokens()), ..size };
    let first = if text.starts_with(MARK) { MARK.len_utf8() } else { 0 };
    let (mut tokens, mut at) = (Vec::new(), first);
    while at < text.len() {
        let end = stretch(text, at);
        tokens.extend(embedder.token_starts(&text[at..end])?.into_iter().map(|start| (at - first + start) as u32));
        at = end;
    }
    let ranges = chunk::chunk(&text[first..], &tokens, size, syntax);
    Ok(ranges.into_iter().map(|range| range.start + first..range.end + first).collect())
}

/// The end of a stretch of text from `at` on: behind a line break if there is one.
fn stretch(text: &str, at: usize) -> usize {
    if text.len() - at <= STRETCH {
        return text.len();
    }
    let limit = (at..=at + STRETCH).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    text[at..limit].rfind('\n').map_or(limit, |newline| at + newline + 1)
}
