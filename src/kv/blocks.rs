//! The page allocator and its prefix cache.
//!
//! A sequence owns a [`Table`] of pages. A page that is full is entered under its tokens and the page before it, so the next
//! sequence that starts the same way finds it and computes nothing: a chat's every turn, a shared system prompt. Pages that
//! nobody owns stay findable until they are needed, the longest unused first. Idea: vLLM's automatic prefix caching; here the
//! key holds the tokens themselves, so equal hashes of unequal texts can never be mixed up.

use std::collections::{BTreeMap, HashMap};

use crate::backend::{PAGE, PageId};

/// Names what a page and all pages before it hold; never used twice.
type ContentId = u64;

/// The content before the first page.
const ROOT: ContentId = 0;

/// A full page's content: what came before it, and its own tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    before: ContentId,
    tokens: [u32; PAGE],
}

#[derive(Debug, Clone, Default)]
struct Page {
    owners: u32,
    /// Set while the prefix cache can find the page.
    key: Option<Key>,
    /// When it was last let go; its place among the free ones.
    freed: u64,
}

/// A sequence's pages, in order.
#[derive(Debug, Default)]
pub struct Table {
    pages: Vec<PageId>,
    /// How many of them are entered in the cache (or known to equal an entered one).
    entered: usize,
    /// What those hold.
    content: ContentId,
}

impl Table {
    pub fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Tokens that fit without a further page.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE
    }
}

/// The pool's bookkeeping.
#[derive(Debug)]
pub struct Blocks {
    pages: Vec<Page>,
    /// Pages without owners, by the time they were let go.
    free: BTreeMap<u64, PageId>,
    cache: HashMap<Key, (PageId, ContentId)>,
    clock: u64,
    next_content: ContentId,
}

impl Blocks {
    pub fn new(pages: usize) -> Self {
        let free = (0..pages as u64).map(|i| (i, i as PageId)).collect();
        let pages = (0..pages as u64).map(|freed| Page { freed, ..Page::default() }).collect::<Vec<_>>();
        Self { clock: pages.len() as u64, pages, free, cache: HashMap::new(), next_content: ROOT + 1 }
    }

    /// Pages that can be granted now.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// A table of the cached pages that `tokens` start with; at least one token is left over to be computed. The number of
    /// tokens found is the table's capacity.
    pub fn find_prefix(&mut self, tokens: &[u32]) -> Table {
        let mut table = Table::default();
        let whole = tokens.len().saturating_sub(1) / PAGE;
        for chunk in tokens.as_chunks::<PAGE>().0.iter().take(whole) {
            let key = Key { before: table.content, tokens: *chunk };
            let Some(&(page, content)) = self.cache.get(&key) else { break };
            self.own(page);
            table.pages.push(page);
            table.content = content;
            table.entered += 1;
        }
        table
    }

    /// Grants pages until `table` holds `tokens`; all or none.
    #[must_use]
    pub fn grow(&mut self, table: &mut Table, tokens: usize) -> bool {
        let missing = tokens.div_ceil(PAGE).saturating_sub(table.pages.len());
        if missing > self.free.len() {
            return false;
        }
        for _ in 0..missing {
            let Some((_, &page)) = self.free.first_key_value() else { return false };
            if let Some(key) = self.pages[page as usize].key.take() {
                self.cache.remove(&key);
            }
            self.own(page);
            table.pages.push(page);
        }
        true
    }

    /// Enters the pages of `table` that `tokens` (the sequence so far, its keys and values written) fill.
    pub fn enter(&mut self, table: &mut Table, tokens: &[u32]) {
        let whole = tokens.as_chunks::<PAGE>().0;
        for (chunk, page) in whole.iter().zip(table.pages.iter().copied()).skip(table.entered) {
            let key = Key { before: table.content, tokens: *chunk };
            // If another sequence wrote the same in the meantime, its page stays the findable one.
            let known = self.cache.get(&key).map(|(_, content)| *content);
            table.content = known.unwrap_or_else(|| {
                let content = self.next_content;
                self.next_content += 1;
                self.pages[page as usize].key = Some(key.clone());
                self.cache.insert(key, (page, content));
                content
            });
            table.entered += 1;
        }
    }

    /// Lets a sequence's pages go. The first pages are let go last, since more prompts share them.
    pub fn release(&mut self, table: Table) {
        for page in table.pages.into_iter().rev() {
            let p = &mut self.pages[page as usize];
            p.owners -= 1;
            if p.owners == 0 {
                p.freed = self.clock;
                self.free.insert(self.clock, page);
                self.clock += 1;
            }
        }
    }

    fn own(&mut self, page: PageId) {
        let p = &mut self.pages[page as usize];
        if p.owners == 0 {
            self.free.remove(&p.freed);
        }
        p.owners += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(n: usize, seed: u32) -> Vec<u32> {
        (0..n as u32).map(|i| i * 7 + seed).collect()
    }

    /// A table with the tokens' pages written and entered.
    fn filled(blocks: &mut Blocks, text: &[u32]) -> Table {
        let mut table = blocks.find_prefix(text);
        assert!(blocks.grow(&mut table, text.len()));
        blocks.enter(&mut table, text);
        table
    }

    #[test]
    fn a_prefix_is_found_again_after_release() {
        let mut blocks = Blocks::new(8);
        let text = tokens(3 * PAGE + 5, 0);
        let first = filled(&mut blocks, &text);
        let pages = first.pages().to_vec();
        blocks.release(first);
        let again = blocks.find_prefix(&text);
        assert_eq!(again.pages(), &pages[..3]);
        let other = blocks.find_prefix(&tokens(3 * PAGE, 1));
        assert_eq!(other.capacity(), 0);
    }

    #[test]
    fn one_token_is_always_left_to_compute() {
        let mut blocks = Blocks::new(8);
        let text = tokens(2 * PAGE, 0);
        let table = filled(&mut blocks, &text);
        assert_eq!(blocks.find_prefix(&text).capacity(), PAGE);
        blocks.release(table);
    }

    #[test]
    fn the_same_tokens_after_another_start_are_another_page() {
        let mut blocks = Blocks::new(8);
        let (a, b, tail) = (tokens(PAGE, 0), tokens(PAGE, 1), tokens(PAGE + 1, 2));
        let table = filled(&mut blocks, &[a, tail.clone()].concat());
        assert_eq!(blocks.find_prefix(&[b, tail].concat()).capacity(), 0);
        blocks.release(table);
    }

    #[test]
    fn grow_grants_all_or_nothing() {
        let mut blocks = Blocks::new(2);
        let mut table = Table::default();
        assert!(!blocks.grow(&mut table, 3 * PAGE));
        assert_eq!((table.capacity(), blocks.available()), (0, 2));
        assert!(blocks.grow(&mut table, PAGE + 1));
        assert_eq!((table.capacity(), blocks.available()), (2 * PAGE, 0));
    }

    #[test]
    fn the_longest_unused_page_goes_first_and_heads_stay_longest() {
        let mut blocks = Blocks::new(3);
        let text = tokens(3 * PAGE, 0);
        let table = filled(&mut blocks, &text);
        blocks.release(table);
        let mut other = Table::default();
        assert!(blocks.grow(&mut other, 1));
        // The tail page was given away; the two before it are still known.
        assert_eq!(blocks.find_prefix(&[text, vec![0]].concat()).capacity(), 2 * PAGE);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Start { family: u32, len: usize },
        Extend { which: usize, by: usize },
        Release { which: usize },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u32..3, 1usize..150).prop_map(|(family, len)| Op::Start { family, len }),
            (any::<prop::sample::Index>(), 1usize..70).prop_map(|(w, by)| Op::Extend { which: w.index(64), by }),
            any::<prop::sample::Index>().prop_map(|w| Op::Release { which: w.index(64) }),
        ]
    }

    proptest! {
        /// Against a model of the pool's contents: whatever is done, no page is granted to two sequences whose texts differ
        /// in it, found prefixes really hold the text, and nothing is lost.
        #[test]
        fn pages_never_mix_texts_and_never_leak(ops in prop::collection::vec(op(), 1..80)) {
            const POOL: usize = 12;
            let mut blocks = Blocks::new(POOL);
            let mut held: Vec<[u32; PAGE]> = vec![[u32::MAX; PAGE]; POOL]; // what the device's pages would hold
            let mut live: Vec<(Vec<u32>, Table)> = Vec::new();
            for op in ops {
                match op {
                    Op::Start { family, len } => {
                        let text = tokens(len, family);
                        let mut table = blocks.find_prefix(&text);
                        let found = table.capacity();
                        prop_assert!(found < len);
                        if blocks.grow(&mut table, len) {
                            write(&mut held, &table, &text, found);
                            blocks.enter(&mut table, &text);
                            live.push((text, table));
                        } else {
                            blocks.release(table);
                        }
                    }
                    Op::Extend { which, by } if !live.is_empty() => {
                        let which = which % live.len();
                        let (text, table) = &mut live[which];
                        let old = text.len();
                        if blocks.grow(table, old + by) {
                            text.extend(tokens(by, 90 + which as u32));
                            write(&mut held, table, text, old);
                            blocks.enter(table, text);
                        }
                    }
                    Op::Release { which } if !live.is_empty() => {
                        let (_, table) = live.swap_remove(which % live.len());
                        blocks.release(table);
                    }
                    _ => {}
                }
                for (text, table) in &live {
                    for (i, token) in text.iter().enumerate() {
                        prop_assert_eq!(held[table.pages()[i / PAGE] as usize][i % PAGE], *token);
                    }
                }
            }
            for (_, table) in live.drain(..) {
                blocks.release(table);
            }
            prop_assert_eq!(blocks.available(), POOL);
        }
    }

    fn write(held: &mut [[u32; PAGE]], table: &Table, text: &[u32], from: usize) {
        for (i, token) in text.iter().enumerate().skip(from) {
            held[table.pages()[i / PAGE] as usize][i % PAGE] = *token;
        }
    }
}
