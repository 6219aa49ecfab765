//! From a request's tokens to its text: whole characters only, and nothing that may turn out to be a stop string.

use std::collections::VecDeque;

use super::Event;
use crate::text::Detokenizer;

/// Turns tokens into events, holding back those whose text could still become part of a stop string.
#[derive(Debug)]
pub(super) struct Output {
    detokenizer: Detokenizer,
    stop: Vec<String>,
    /// Text not yet given out.
    held: String,
    /// The tokens that made it, with their shares in bytes.
    tokens: VecDeque<(u32, usize)>,
}

impl Output {
    pub(super) fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { detokenizer: Detokenizer::default(), stop, held: String::new(), tokens: VecDeque::new() }
    }

    /// Takes a token's bytes. Returns whether a stop string has come; `stops` says whether one counts yet.
    pub(super) fn push(&mut self, id: u32, bytes: &[u8], stops: bool, events: &mut Vec<Event>) -> bool {
        let text = self.detokenizer.push(bytes);
        self.tokens.push_back((id, text.len()));
        self.held += &text;
        if stops && let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.detokenizer = Detokenizer::default();
            self.release_all(events);
            return true;
        }
        let safe = if stops { self.held.len() - self.longest_beginning() } else { self.held.len() };
        // A token whose last character is still incomplete waits, so that the rest has a token to go out with.
        let waiting = usize::from(self.detokenizer.is_pending());
        self.release(safe, waiting, events);
        false
    }

    /// Gives out all that is left: no further token will come.
    pub(super) fn finish(&mut self, events: &mut Vec<Event>) {
        let tail = self.detokenizer.finish();
        if let Some((_, len)) = self.tokens.back_mut() {
            *len += tail.len();
        }
        self.held += &tail;
        self.release_all(events);
    }

    /// The length of the longest end of the held text that begins a stop string.
    fn longest_beginning(&self) -> usize {
        let begins = |s: &&String, len: usize| s.as_bytes().starts_with(&self.held.as_bytes()[self.held.len() - len..]);
        let longest = |s: &String| (1..=s.len().min(self.held.len())).rev().find(|len| begins(&s, *len));
        self.stop.iter().filter_map(longest).max().unwrap_or(0)
    }

    /// Gives out the tokens that lie wholly in the first `safe` bytes, but for the last `waiting`.
    fn release(&mut self, mut safe: usize, waiting: usize, events: &mut Vec<Event>) {
        while let Some(&(id, len)) = self.tokens.front() {
            if len > safe || self.tokens.len() <= waiting {
                break;
            }
            safe -= len;
            self.tokens.pop_front();
            let rest = self.held.split_off(len);
            events.push(Event::Token { id, text: std::mem::replace(&mut self.held, rest) });
        }
    }

    /// Gives out every token; the text may have been cut before the last ones.
    fn release_all(&mut self, events: &mut Vec<Event>) {
        while let Some((id, len)) = self.tokens.pop_front() {
            let rest = self.held.split_off(len.min(self.held.len()));
            events.push(Event::Token { id, text: std::mem::replace(&mut self.held, rest) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes tokens 0, 1, 2… of these texts; what was given out after each, and whether a stop came.
    fn run(stop: &[&str], tokens: &[&[u8]]) -> (Vec<String>, bool) {
        let mut output = Output::new(&stop.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut events = Vec::new();
        let mut stopped = false;
        for (id, bytes) in tokens.iter().enumerate() {
            stopped = output.push(id as u32, bytes, true, &mut events);
            if stopped {
                break;
            }
        }
        output.finish(&mut events);
        let texts = events.iter().enumerate().map(|(i, e)| match e {
            Event::Token { id, text } => {
                assert_eq!(*id, i as u32, "every token once, in order");
                text.clone()
            }
            other => panic!("output makes no {other:?}"),
        });
        (texts.collect(), stopped)
    }

    #[test]
    fn a_stop_string_across_tokens_never_shows() {
        assert_eq!(run(&["END"], &[b"a E", b"N", b"D b"]), (vec!["a ".into(), String::new(), String::new()], true));
        assert_eq!(run(&["END"], &[b"a E", b"N", b"X"]), (vec!["a E".into(), "N".into(), "X".into()], false));
    }

    #[test]
    fn a_stop_string_from_before_it_counts_is_given_out_and_forgotten() {
        let mut output = Output::new(&["END".into()]);
        let mut events = Vec::new();
        assert!(!output.push(0, b"aEND", false, &mut events));
        assert!(!output.push(1, b"bEN", false, &mut events));
        assert!(!output.push(2, b"D", true, &mut events));
        assert!(output.push(3, b"cEND", true, &mut events));
        let text: String =
            events.iter().map(|e| if let Event::Token { text, .. } = e { text.as_str() } else { "" }).collect();
        assert_eq!(text, "aENDbENDc");
    }

    #[test]
    fn the_first_of_several_stop_strings_counts() {
        assert_eq!(run(&["yz", "x"], &[b"wx", b"yz"]), (vec!["w".into()], true));
        assert_eq!(run(&["aab"], &[b"a", b"a", b"a", b"b"]).0.concat(), "a");
    }

    #[test]
    fn text_is_held_back_only_while_it_could_become_a_stop_string() {
        let mut output = Output::new(&["\n\nUser:".into()]);
        let mut events = Vec::new();
        output.push(0, b"hello", true, &mut events);
        assert_eq!(events.len(), 1);
        output.push(1, b"\n", true, &mut events);
        assert_eq!(events.len(), 1);
        output.push(2, b"more", true, &mut events);
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn a_character_split_over_tokens_comes_whole_and_a_torn_one_is_marked() {
        let smile = "😊".as_bytes();
        assert_eq!(run(&[], &[&smile[..2], &smile[2..]]).0, ["", "😊"]);
        assert_eq!(run(&[], &[b"a", &smile[..2]]).0, ["a", "\u{fffd}"]);
        assert_eq!(run(&[], &[b"a", &smile[..1], &smile[1..2]]).0, ["a", "", "\u{fffd}"]);
    }
}
