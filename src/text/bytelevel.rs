//! GPT-2's byte-level BPE: text is cut into words, the bytes of each word are spelled with printable characters, and
//! the spelled word is merged into tokens.
//!
//! The merging is the `tokenizers` crate's. Cutting and spelling are done here, because the rules for text that is
//! not UTF-8 have to be llama.cpp's: a model must see the same tokens whichever of the two programs runs it.

use tokenizers::Model as _;
use tokenizers::models::bpe::BPE;

use super::bpe;
use super::pretokenizer::PreTokenizer;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

/// Tokenizes by byte-level BPE. Special tokens must have been taken out of the text before.
#[derive(Debug)]
pub(super) struct ByteLevel {
    bpe: BPE,
    words: PreTokenizer,
}

impl ByteLevel {
    /// # Errors
    /// When a merge names a token that is not there.
    pub fn new(vocabulary: &Vocabulary, merges: Vec<bpe::Merge>, words: PreTokenizer) -> Result<Self> {
        let bpe = bpe::build(vocabulary, merges, None, |b| b.ignore_merges(words.ignore_merges()))?;
        Ok(Self { bpe, words })
    }

    /// Appends the tokens of `bytes`. What is not UTF-8 is repaired as [`repair`] says. A byte that the vocabulary
    /// cannot spell is left out, as llama.cpp does (SmolLM2's has no token for six of ASCII's control characters).
    pub fn encode(&self, bytes: &[u8], out: &mut Vec<u32>) -> Result<()> {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return self.encode_words(text, bytes, out);
        }
        let (text, bytes) = repair(bytes);
        self.encode_words(&text, &bytes, out)
    }

    /// Cuts `text` into words and tokenizes the same ranges of `bytes`.
    fn encode_words(&self, text: &str, bytes: &[u8], out: &mut Vec<u32>) -> Result<()> {
        for word in self.words.split(text)? {
            let tokens = self.bpe.tokenize(&spell(&bytes[word]));
            let tokens = tokens.map_err(|e| Error::runtime(format!("cannot tokenize the text: {e}")))?;
            out.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// The character that spells `byte`: itself where it is printable in Latin-1, else the next one from U+0100 on.
fn spelled(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0..=0x20 => shifted(u32::from(byte)),
        0x7F..=0xA0 => shifted(u32::from(byte) - 0x7F + 33),
        0xAD => shifted(67),
    }
}

/// The `n`th character from U+0100 on.
fn shifted(n: u32) -> char {
    char::from_u32(0x100 + n).unwrap_or(char::REPLACEMENT_CHARACTER) // n < 68
}

/// The byte that `c` spells, if it spells one.
fn byte_of(c: char) -> Option<u8> {
    let n = match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(n).ok()
}

fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| spelled(b)).collect()
}

/// The bytes that a token's text spells. Characters that spell none stand for themselves: some vocabularies hold
/// added tokens as ordinary ones.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// Text for what is not UTF-8, by llama.cpp's rules: a byte that starts no sequence becomes U+FFFD; an overlong
/// sequence is the character it encodes; a surrogate keeps its three bytes.
///
/// Surrogates cannot be in a `str`, so two things come back, equal in length: a text in which a private-use character
/// (of the same Unicode class to every pre-tokenizer: neither letter, number nor space) stands in their place, to be
/// cut into words, and the bytes to be spelled.
fn repair(bytes: &[u8]) -> (String, Vec<u8>) {
    const STAND_IN: char = '\u{E000}';
    let (mut text, mut raw) = (String::new(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let (len, code) = lenient_char(&bytes[at..]).unwrap_or((1, 0xFFFD));
        if (0xD800..0xE000).contains(&code) {
            text.push(STAND_IN);
            raw.extend(&bytes[at..at + len]);
        } else {
            let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            text.push(c);
            raw.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        at += len;
    }
    (text, raw)
}

/// The length and code point of the sequence at the start of `bytes`; only the form of its bytes is checked.
fn lenient_char(bytes: &[u8]) -> Option<(usize, u32)> {
    let first = *bytes.first()?;
    let (len, bits) = match first {
        0..=0x7F => (1, first),
        0xC0..=0xDF => (2, first & 0x1F),
        0xE0..=0xEF => (3, first & 0x0F),
        0xF0..=0xF7 => (4, first & 0x07),
        _ => return None,
    };
    let rest = bytes.get(1..len)?;
    rest.iter()
        .try_fold(u32::from(bits), |code, &b| (b & 0xC0 == 0x80).then(|| code << 6 | u32::from(b & 0x3F)))
        .map(|c| (len, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_spelling_of_its_own() {
        let text = spell(&(0..=255).collect::<Vec<u8>>());
        assert_eq!(decode(&text), (0..=255).collect::<Vec<u8>>());
        assert!(text.chars().all(|c| !c.is_whitespace() && !c.is_control()));
        // From GPT-2's published table.
        assert_eq!(spell(b" \n\t\0\x7f\xa0\xad\xff"), "\u{120}\u{10a}\u{109}\u{100}\u{121}\u{142}\u{143}\u{ff}");
    }

    #[test]
    fn characters_that_spell_no_byte_stand_for_themselves() {
        assert_eq!(decode("\u{120}a中<é"), b" a\xe4\xb8\xad<\xe9");
    }

    #[test]
    fn repaired_text_and_bytes_stay_parallel() {
        let (text, bytes) = repair(b"a\xff\xed\xa0\x80\xc1\x81\xe2\x82 \xf7\xbf\xbf\xbf");
        assert_eq!(text, "a\u{fffd}\u{e000}A\u{fffd}\u{fffd} \u{fffd}");
        assert_eq!(bytes, b"a\xef\xbf\xbd\xed\xa0\x80A\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd");
        assert_eq!(text.len(), bytes.len());
    }
}
