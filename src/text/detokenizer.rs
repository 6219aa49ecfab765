//! Bytes of tokens to text, as they come.
//!
//! A token may end in the middle of a character (an emoji is often three tokens), so a streaming display has to hold
//! back what is incomplete. Only that is held back: at most three bytes, and never anything that could be shown.

/// Turns a stream of bytes into text.
#[derive(Debug, Default, Clone)]
pub struct Detokenizer {
    /// The beginning of a character whose other bytes have not come yet.
    pending: Vec<u8>,
}

impl Detokenizer {
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that is complete once `bytes` are added. Bytes that can never become a character are shown as U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend(bytes);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if done + invalid.len() == self.pending.len() && may_continue(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
        text
    }

    /// Whether a character is waiting for its other bytes.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is left when no more bytes will come: nothing, or U+FFFD for a character that was never finished.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Whether `bytes` are the beginning of a longer character, rather than wrong.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The text of any bytes in any pieces is that of all of them at once, and nothing complete is held back.
        #[test]
        fn pieces_change_nothing(pieces in prop::collection::vec(
            prop_oneof![prop::collection::vec(any::<u8>(), 0..6), "\\PC{0,3}".prop_map(String::into_bytes)], 0..20,
        )) {
            let mut d = Detokenizer::new();
            let mut text = String::new();
            for piece in &pieces {
                text += &d.push(piece);
                prop_assert!(d.pending.len() < 4 && (d.pending.is_empty() || may_continue(&d.pending)));
                prop_assert_eq!(d.is_pending(), !d.pending.is_empty());
            }
            text += &d.finish();
            let all = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&all));
        }
    }

    #[test]
    fn only_an_unfinished_character_is_held_back() {
        let mut d = Detokenizer::new();
        assert_eq!(d.push(b"caf\xc3"), "caf");
        assert_eq!(d.push(b"\xa9 \xf0\x9f"), "é ");
        assert_eq!(d.push(b"\x98"), "");
        assert_eq!(d.push(b"\x80!"), "😀!");
        assert_eq!(d.finish(), "");
    }

    #[test]
    fn wrong_bytes_are_shown_at_once() {
        let mut d = Detokenizer::new();
        assert_eq!(d.push(b"a\xff"), "a\u{fffd}");
        assert_eq!(d.push(b"\xe2\x82"), "");
        assert_eq!(d.push(b"b"), "\u{fffd}b");
        assert_eq!(d.push(b"\xc3"), "");
        assert_eq!(d.finish(), "\u{fffd}");
        assert_eq!(d.finish(), "");
        assert_eq!(d.push(b"\xa9"), "\u{fffd}");
    }

    #[test]
    fn any_cut_gives_the_same_text() {
        let text = "aé中😀\u{fffd}z\0".as_bytes();
        for cut in 0..=text.len() {
            let mut d = Detokenizer::new();
            let parts = d.push(&text[..cut]) + &d.push(&text[cut..]) + &d.finish();
            assert_eq!(parts.as_bytes(), text);
        }
    }
}
