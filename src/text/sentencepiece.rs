//! SentencePiece's BPE, as in Llama 1 and 2, TinyLlama and Mistral: spaces become U+2581, and of all neighbours that
//! make a token together the pair with the best score is merged, the leftmost first, until none is left.
//!
//! Why our own: a merge's rank is here the score of its *result*, so two different pairs can have the same rank, and
//! then the leftmost goes first. The `tokenizers` crate has one rank a pair, knows only UTF-8, and would first need all
//! pairs derived from the vocabulary.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use super::vocabulary::{Kind, Vocabulary, byte_token};
use crate::error::{Error, Result};

/// No neighbour.
const NONE: usize = usize::MAX;
/// What a space is written as in the vocabulary: U+2581.
const SPACE: &[u8] = "\u{2581}".as_bytes();

#[derive(Debug)]
pub(super) struct SentencePiece {
    /// The tokens that text can be merged into, with their scores.
    pieces: HashMap<Box<[u8]>, (u32, f32)>,
    /// Bytes of the longest of them.
    longest: usize,
    /// What to write for a byte of a character that has no token.
    bytes: Vec<u32>,
    /// Whether text gets a space in front, so that a first word is the same token as any other.
    space_prefix: bool,
}

/// A stretch of the text, linked to its neighbours. One that was merged into its left neighbour has length 0.
struct Symbol {
    start: usize,
    len: usize,
    left: usize,
    right: usize,
}

/// Two neighbours that would make a token. The greatest is merged first.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both together when this pair was found; if they have other lengths now, it is out of date.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    /// `scores`: one a token.
    ///
    /// # Errors
    /// When there are not as many scores as tokens, one is not a number, or a byte could not be written.
    pub fn new(vocabulary: &Vocabulary, scores: &[f32], space_prefix: bool) -> Result<Self> {
        if scores.len() != vocabulary.len() {
            let (scores, tokens) = (scores.len(), vocabulary.len());
            return Err(Error::model(format!("the vocabulary has {tokens} tokens, but {scores} scores")));
        }
        let mut pieces: HashMap<Box<[u8]>, (u32, f32)> = HashMap::new();
        let mut bytes = vec![vocabulary.unknown; 256];
        for ((id, token), &score) in vocabulary.iter().zip(scores) {
            if score.is_nan() {
                return Err(Error::model(format!("the score of token {id} is not a number")));
            }
            match token.kind {
                // Text is never merged into a control token: that is for the template alone to write.
                Kind::Control | Kind::Unknown => {}
                Kind::Byte => bytes[byte_token(&token.text).unwrap_or_default() as usize] = Some(id),
                Kind::Normal | Kind::UserDefined | Kind::Unused => {
                    // Adding zero turns -0.0 into 0.0, which total_cmp would tell apart.
                    pieces.insert(token.text.as_bytes().into(), (id, score + 0.0));
                }
            }
        }
        let bytes = bytes.into_iter().enumerate().map(|(byte, id)| {
            id.ok_or_else(|| Error::model(format!("the vocabulary has neither <0x{byte:02X}> nor an unknown token")))
        });
        let bytes = bytes.collect::<Result<_>>()?;
        let longest = pieces.keys().map(|text| text.len()).max().unwrap_or_default();
        Ok(Self { pieces, longest, bytes, space_prefix })
    }

    /// Appends the tokens of `text`, which need not be UTF-8. It is the beginning of a prompt or comes after a special
    /// token; both get the space in front.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        let text = self.escape(text);
        let symbols = self.merge(&text);
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while let Some(symbol) = symbols.get(at) {
            let bytes = &text[symbol.start..symbol.start + symbol.len];
            match self.pieces.get(bytes) {
                Some((id, _)) => out.push(*id),
                None => out.extend(bytes.iter().map(|&b| self.bytes[b as usize])),
            }
            at = symbol.right;
        }
    }

    /// `text` as the vocabulary writes it.
    fn escape(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + text.len() / 2);
        if self.space_prefix {
            out.extend(SPACE);
        }
        for &byte in text {
            match byte {
                b' ' => out.extend(SPACE),
                _ => out.push(byte),
            }
        }
        out
    }

    /// Merges the characters of `text` for as long as two neighbours make a token. O(n log n).
    fn merge(&self, text: &[u8]) -> Vec<Symbol> {
        let mut symbols = characters(text);
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            queue.extend(self.pair(text, &symbols, right - 1, right));
        }
        while let Some(Pair { left, right, len, .. }) = queue.pop() {
            let right_len = symbols[right].len;
            if symbols[left].len == 0 || right_len == 0 || symbols[left].len + right_len != len {
                continue; // one of the two was merged since
            }
            let after = symbols[right].right;
            symbols[right].len = 0;
            symbols[left].len = len;
            symbols[left].right = after;
            if let Some(after) = symbols.get_mut(after) {
                after.left = left;
            }
            let before = symbols[left].left;
            queue.extend(self.pair(text, &symbols, before, left));
            queue.extend(self.pair(text, &symbols, left, after));
        }
        symbols
    }

    /// The pair of two neighbours, if they make a token.
    fn pair(&self, text: &[u8], symbols: &[Symbol], left: usize, right: usize) -> Option<Pair> {
        let (start, len) = (symbols.get(left)?.start, symbols.get(left)?.len + symbols.get(right)?.len);
        if len > self.longest {
            return None;
        }
        let (_, score) = *self.pieces.get(&text[start..start + len])?;
        Some(Pair { score, left, right, len })
    }
}

/// Cuts at the characters' first bytes, each of which says how many follow. What is not UTF-8 is cut the same way.
fn characters(text: &[u8]) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(text.len());
    let mut start = 0;
    while start < text.len() {
        let len = match text[start] {
            0xF0.. => 4,
            0xE0.. => 3,
            0xC0.. => 2,
            _ => 1,
        };
        let len = len.min(text.len() - start);
        let n = symbols.len();
        symbols.push(Symbol { start, len, left: n.wrapping_sub(1), right: n + 1 }); // of the first, left is NONE
        start += len;
    }
    if let Some(last) = symbols.last_mut() {
        last.right = NONE;
    }
    symbols
}
