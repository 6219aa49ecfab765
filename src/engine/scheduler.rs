//! Which sequences get how many rows of the next step.
//!
//! Sequences that decode come first, one row each; what is left of the step's rows goes to prompts, in chunks, in the order of
//! their arrival. When pages run out, the sequence that came last gives its own back and starts over later (its tokens are
//! kept; the text stays the same, since draws depend on a token's index alone).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use super::output::Output;
use super::{Request, RequestId};
use crate::kv::blocks::{Blocks, Table};

/// A request on its way.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: RequestId,
    pub(super) request: Request,
    /// Prompt and answer so far.
    pub(super) tokens: Vec<u32>,
    pub(super) table: Table,
    /// Tokens whose keys and values are in the pages.
    pub(super) computed: usize,
    pub(super) output: Output,
    pub(super) generated: usize,
    pub(super) cached: usize,
    pub(super) started: Option<Instant>,
    pub(super) first_token: Option<Instant>,
}

impl Sequence {
    pub(super) fn new(id: RequestId, request: Request) -> Self {
        Self {
            id,
            tokens: request.prompt.clone(),
            table: Table::default(),
            computed: 0,
            output: Output::new(&request.stop),
            generated: 0,
            cached: 0,
            started: None,
            first_token: None,
            request,
        }
    }

    /// Rows still to be pushed through before the next token can be sampled.
    fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

/// A sequence's share of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) id: RequestId,
    /// Which of its tokens are pushed through; those behind the ones that it has are what steps in flight sample.
    pub(super) tokens: Range<usize>,
    /// Whether the last of them is the sequence's last: a token is sampled.
    pub(super) samples: bool,
}

#[derive(Debug)]
pub(super) struct Scheduler {
    waiting: VecDeque<Sequence>,
    pub(super) running: Vec<Sequence>,
    pub(super) blocks: Blocks,
    max_rows: usize,
    max_sequences: usize,
}

impl Scheduler {
    pub(super) fn new(pages: usize, max_rows: usize, max_sequences: usize) -> Self {
        Self { waiting: VecDeque::new(), running: Vec::new(), blocks: Blocks::new(pages), max_rows, max_sequences }
    }

    pub(super) fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// A running sequence.
    pub(super) fn get(&mut self, id: RequestId) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|s| s.id == id)
    }

    /// Plans the next step and grants its pages.
    pub(super) fn plan(&mut self) -> Vec<Share> {
        self.admit();
        let mut shares = Vec::new();
        let mut rows = self.max_rows;
        let mut index = 0;
        while index < self.running.len() {
            // Every sequence after this one may want at least one row, so that prompts do not stall answers.
            let later = self.running[index + 1..].iter().filter(|s| s.pending() == 1).count();
            let sequence = &self.running[index];
            let take = sequence.pending().min(rows.saturating_sub(later)).max(usize::from(sequence.pending() == 1));
            if take == 0 || rows == 0 {
                index += 1;
                continue;
            }
            if !self.grow(index, take) {
                if index + 1 < self.running.len() {
                    self.preempt_last();
                    continue; // with the pages that it gave back
                }
                self.preempt_last();
                break;
            }
            let sequence = &self.running[index];
            let tokens = sequence.computed..sequence.computed + take;
            shares.push(Share { id: sequence.id, samples: tokens.end == sequence.tokens.len(), tokens });
            rows -= take;
            index += 1;
        }
        shares
    }

    /// Plans the step behind one that is not collected yet, and grants its pages: every sequence goes on from the token that it
    /// samples there. Empty where that cannot be known: somebody waits to be taken in, reads a prompt or has gone, a sequence
    /// ends there for certain (`ends`), or a page is missing.
    pub(super) fn plan_ahead(&mut self, last: &[Share], ends: impl Fn(&Sequence, usize) -> bool) -> Vec<Share> {
        let can_admit = !self.waiting.is_empty() && self.running.len() < self.max_sequences;
        if can_admit || last.len() != self.running.len() {
            return Vec::new();
        }
        let mut shares = Vec::with_capacity(last.len());
        for share in last {
            let next = share.tokens.end;
            let Some(sequence) = self.running.iter_mut().find(|s| s.id == share.id) else { return Vec::new() };
            let decodes = share.samples && share.tokens.len() == 1 && !ends(sequence, next);
            if !decodes || !self.blocks.grow(&mut sequence.table, next + 1) {
                return Vec::new();
            }
            shares.push(Share { id: share.id, tokens: next..next + 1, samples: true });
        }
        shares
    }

    /// Takes waiting sequences in while there is room for them.
    fn admit(&mut self) {
        while self.running.len() < self.max_sequences
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            sequence.table = self.blocks.find_prefix(&sequence.tokens);
            sequence.computed = sequence.table.capacity();
            if sequence.generated == 0 {
                sequence.cached = sequence.computed;
            }
            // The whole of what it has must fit now, or it would be preempted in the middle of its prompt.
            let missing = sequence.tokens.len().saturating_sub(sequence.computed).div_ceil(crate::backend::PAGE);
            if missing > self.blocks.available() && !self.running.is_empty() {
                self.blocks.release(std::mem::take(&mut sequence.table));
                self.waiting.push_front(sequence);
                return;
            }
            self.running.push(sequence);
        }
    }

    fn grow(&mut self, index: usize, rows: usize) -> bool {
        let sequence = &mut self.running[index];
        self.blocks.grow(&mut sequence.table, sequence.computed + rows)
    }

    /// Sends the sequence that came last back to wait.
    fn preempt_last(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.blocks.release(std::mem::take(&mut sequence.table));
            sequence.computed = 0;
            self.waiting.push_front(sequence);
        }
    }

    /// Takes a sequence out, running or waiting, and gives its pages back.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        let mut sequence = if let Some(i) = self.running.iter().position(|s| s.id == id) {
            self.running.remove(i)
        } else {
            let i = self.waiting.iter().position(|s| s.id == id)?;
            self.waiting.remove(i)?
        };
        self.blocks.release(std::mem::take(&mut sequence.table));
        Some(sequence)
    }

    /// Notes that a share's rows are computed, and enters the pages that they filled in the prefix cache.
    pub(super) fn computed(&mut self, share: &Share) {
        let Some(sequence) = self.running.iter_mut().find(|s| s.id == share.id) else { return };
        sequence.computed = share.tokens.end;
        self.blocks.enter(&mut sequence.table, &sequence.tokens[..sequence.computed]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::PAGE;

    fn sequence(id: u64, tokens: usize) -> Sequence {
        let prompt = (0..tokens as u32).map(|t| t + 1000 * id as u32).collect();
        Sequence::new(RequestId(id), Request { prompt, ..Request::default() })
    }

    /// Runs the plan as the engine would: computes, and gives each sampling sequence a token.
    fn advance(s: &mut Scheduler) -> Vec<(u64, usize, bool)> {
        let shares = s.plan();
        for share in &shares {
            s.computed(share);
            let sequence = s.get(share.id).unwrap();
            if share.samples {
                sequence.tokens.push(7);
                sequence.generated += 1;
            }
        }
        shares.iter().map(|x| (x.id.0, x.tokens.len(), x.samples)).collect()
    }

    #[test]
    fn prompts_go_in_chunks_and_answers_never_wait_for_them() {
        let mut s = Scheduler::new(64, 8, 4);
        s.add(sequence(1, 5));
        assert_eq!(advance(&mut s), [(1, 5, true)]);
        s.add(sequence(2, 20));
        assert_eq!(advance(&mut s), [(1, 1, true), (2, 7, false)]);
        assert_eq!(advance(&mut s), [(1, 1, true), (2, 7, false)]);
        assert_eq!(advance(&mut s), [(1, 1, true), (2, 6, true)]);
        assert_eq!(advance(&mut s), [(1, 1, true), (2, 1, true)]);
    }

    #[test]
    fn a_long_prompt_leaves_rows_for_those_that_decode_after_it() {
        let mut s = Scheduler::new(64, 8, 4);
        s.add(sequence(1, 30));
        s.add(sequence(2, 2));
        s.plan();
        // As if the second had been admitted earlier and were decoding.
        s.running[1].computed = 1;
        assert_eq!(s.plan().iter().map(|x| x.tokens.len()).collect::<Vec<_>>(), [7, 1]);
    }

    #[test]
    fn when_pages_run_out_the_last_gives_way_and_comes_back() {
        let mut s = Scheduler::new(3, 2 * PAGE, 2);
        s.add(sequence(1, PAGE));
        s.add(sequence(2, PAGE));
        assert_eq!(advance(&mut s), [(1, PAGE, true), (2, PAGE, true)]);
        // Both need a second page; one is left.
        assert_eq!(advance(&mut s), [(1, 1, true)]);
        assert_eq!(s.waiting.len(), 1);
        s.remove(RequestId(1)).unwrap();
        // Its first page is still in the prefix cache, so only the token after it is computed again.
        assert_eq!(advance(&mut s), [(2, 1, true)]);
        assert_eq!(s.running[0].tokens.len(), PAGE + 2);
    }

    #[test]
    fn steps_ahead_are_planned_while_all_sequences_answer() {
        let mut s = Scheduler::new(3, 64, 2);
        s.add(sequence(1, PAGE - 1));
        let prompt = s.plan();
        let never = |_: &Sequence, _: usize| false;
        assert_eq!(s.plan_ahead(&prompt, never), [], "behind a prompt");
        s.computed(&prompt[0]);
        s.running[0].tokens.push(7);
        let first = s.plan();
        let next = |end: usize| [Share { id: RequestId(1), tokens: end - 1..end, samples: true }];
        assert_eq!(first, next(PAGE));
        let second = s.plan_ahead(&first, never);
        assert_eq!(second, next(PAGE + 1));
        assert_eq!(s.running[0].table.pages().len(), 2);
        assert_eq!(s.plan_ahead(&second, never), next(PAGE + 2));
        assert_eq!(s.plan_ahead(&second, |_, n| n == PAGE + 1), [], "behind a certain end");
        s.add(sequence(2, 1));
        assert_eq!(s.plan_ahead(&second, never), [], "while somebody waits");
        s.remove(RequestId(2)).unwrap();
        assert_eq!(s.plan_ahead(&second, never), next(PAGE + 2));
        s.running[0].table = Table::default();
        assert!(s.blocks.grow(&mut Table::default(), PAGE));
        assert_eq!(s.plan_ahead(&second, never), [], "without a page");
        s.remove(RequestId(1)).unwrap();
        assert_eq!(s.plan_ahead(&second, never), [], "for nobody");
    }

    #[test]
    fn removing_gives_all_pages_back() {
        let mut s = Scheduler::new(4, 64, 2);
        s.add(sequence(1, 40));
        s.add(sequence(2, 40));
        advance(&mut s);
        assert!(s.remove(RequestId(1)).is_some());
        assert!(s.remove(RequestId(2)).is_some());
        assert!(s.remove(RequestId(2)).is_none());
        assert_eq!(s.blocks.available(), 4);
        assert!(s.is_empty());
    }
}
