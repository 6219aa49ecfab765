//! The loop itself: plan, submit, collect, turn tokens into events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::scheduler::{Scheduler, Sequence, Share};
use super::{Done, Event, Finish, Request, RequestId};
use crate::backend::{Backend, Batch, Limits, Out, Row, Seq, Token, Want};
use crate::error::{Error, Result};
use crate::kv::blocks::Blocks;
use crate::sample::Draw;
use crate::text::Tokenizer;

/// A model with its queue of requests.
pub struct Engine {
    pub(super) backend: Box<dyn Backend>,
    tokenizer: Arc<Tokenizer>,
    pub(super) scheduler: Scheduler,
    limits: Limits,
    next_id: u64,
    /// The shares of steps that were submitted and not yet collected, oldest first.
    flights: VecDeque<Vec<Share>>,
}

impl Engine {
    /// `limits` are those of the backend's memory plan.
    pub fn new(backend: Box<dyn Backend>, tokenizer: Arc<Tokenizer>, limits: Limits) -> Self {
        let scheduler = Scheduler::new(limits.pages, limits.chunk, limits.sequences);
        Self { backend, tokenizer, scheduler, limits, next_id: 0, flights: VecDeque::new() }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// An empty prompt, or one that leaves no room for an answer in the context: it is refused, never cut.
    pub fn add_request(&mut self, request: Request) -> Result<RequestId> {
        request.sampling.check()?;
        let vocab = self.backend.config().vocab;
        if let Some((id, _)) = request.sampling.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(Error::usage(format!("a logit bias is for token {id}; the model has {vocab} tokens")));
        }
        if request.prompt.is_empty() {
            return Err(Error::usage("the prompt is empty").help("give some text with -p, or on standard input"));
        }
        if request.prompt.len() >= self.limits.context {
            return Err(Error::memory(format!(
                "the prompt has {} tokens; the context holds {} and the answer needs at least one",
                request.prompt.len(),
                self.limits.context
            ))
            .help("shorten it, or give a larger --ctx-size"));
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.scheduler.add(Sequence::new(id, request));
        Ok(id)
    }

    pub fn has_unfinished(&self) -> bool {
        !self.scheduler.is_empty()
    }

    /// Tells what came of the oldest step, a request's events in their order. Where the backend can run ahead, the steps behind it are
    /// submitted first; what they sample for a request that has ended by then is dropped.
    ///
    /// # Errors
    /// When the backend fails; the requests are then still queued, and [`Engine::abort`] ends them.
    pub fn step(&mut self) -> Result<Vec<(RequestId, Event)>> {
        while self.flights.len() < self.backend.in_flight() {
            let shares = self.plan();
            if shares.is_empty() {
                break;
            }
            self.submit(&shares)?;
            self.flights.push_back(shares);
        }
        let Some(shares) = self.flights.pop_front() else { return Ok(Vec::new()) };
        let tokens = self.backend.collect()?.tokens.to_vec();
        self.take(&shares, &tokens)
    }

    /// Ends a request now. What it had is given out, then [`Event::Done`].
    pub fn abort(&mut self, id: RequestId, finish: Finish) -> Vec<Event> {
        self.scheduler.remove(id).map_or_else(Vec::new, |sequence| finished(sequence, finish))
    }

    /// Empties the prefix cache, so that the next prompt is computed from its first token; for measurements. With
    /// requests under way it does nothing.
    pub fn forget_prefixes(&mut self) {
        if !self.has_unfinished() {
            self.scheduler.blocks = Blocks::new(self.limits.pages);
        }
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The backend itself, for what is no generation: perplexity, measurements.
    pub fn backend(&mut self) -> &mut dyn Backend {
        self.land();
        &mut *self.backend
    }

    /// Drops what steps give that are still in flight once nobody waits for it. A backend that fails here fails in the next step too.
    pub(super) fn land(&mut self) {
        while !self.has_unfinished() && self.flights.pop_front().is_some() {
            let _ = self.backend.collect();
        }
    }

    /// The next step, or the one behind those in flight; empty where there is none.
    fn plan(&mut self) -> Vec<Share> {
        let Some(last) = self.flights.back() else { return self.scheduler.plan() };
        let (context, backend) = (self.limits.context, &self.backend);
        self.scheduler.plan_ahead(last, |s, tokens| {
            let answer = tokens + 1 - s.request.prompt.len();
            let is_enough = s.request.max_tokens.is_some_and(|most| answer >= most);
            let looks_back = s.request.sampling.looks_back() && !backend.looks_back(&s.request.sampling);
            is_enough || tokens + 1 >= context || looks_back
        })
    }

    /// Submits the shares as one batch: one token for each share that samples.
    fn submit(&mut self, shares: &[Share]) -> Result<()> {
        let now = Instant::now();
        let (mut rows, mut seqs, mut pages, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for share in shares {
            if let Some(s) = self.scheduler.get(share.id) {
                s.started.get_or_insert(now);
            }
        }
        for share in shares {
            let Some(s) = self.scheduler.running.iter().find(|s| s.id == share.id) else { continue };
            let (first_row, first_page) = (rows.len() as u32, pages.len() as u32);
            let token = |pos: usize| s.tokens.get(pos).map_or(Token::Previous, |id| Token::Id(*id));
            rows.extend(share.tokens.clone().map(|pos| Row { token: token(pos), pos: pos as u32 }));
            pages.extend_from_slice(s.table.pages());
            seqs.push(Seq {
                slot: s.id.0 as u32,
                rows: first_row..rows.len() as u32,
                kv_len: share.tokens.end as u32,
                pages: first_page..pages.len() as u32,
            });
            if share.samples {
                let index = share.tokens.end - s.request.prompt.len();
                let early = s.request.ignore_end || index < s.request.min_tokens;
                let draw = Draw {
                    sampling: &s.request.sampling,
                    history: &s.tokens,
                    ahead: share.tokens.end.saturating_sub(s.tokens.len()),
                    index: index as u64,
                    banned: if early { self.tokenizer.end_tokens() } else { &[] },
                };
                out.push(Out { row: rows.len() as u32 - 1, want: Want::Sample(draw) });
            }
        }
        self.backend.submit(&Batch { rows: &rows, seqs: &seqs, pages: &pages, out: &out })
    }

    /// Books a collected step: pages, tokens, events, ends.
    fn take(&mut self, shares: &[Share], tokens: &[u32]) -> Result<Vec<(RequestId, Event)>> {
        let mut tokens = tokens.iter();
        let mut events = Vec::new();
        let mut ended = Vec::new();
        for share in shares {
            self.scheduler.computed(share);
            let sequence = self.scheduler.get(share.id);
            if !share.samples {
                let said = sequence.map(|s| (s.id, Event::Prompt { computed: s.computed, total: s.tokens.len() }));
                events.extend(said);
                continue;
            }
            let Some(&token) = tokens.next() else {
                return Err(Error::runtime("the backend sampled fewer tokens than were asked for"));
            };
            let Some(sequence) = sequence else { continue };
            sequence.first_token.get_or_insert_with(Instant::now);
            let mut new = Vec::new();
            if let Some(finish) = accept(sequence, token, &self.tokenizer, self.limits.context, &mut new) {
                ended.push((sequence.id, finish));
            }
            events.extend(new.into_iter().map(|e| (sequence.id, e)));
        }
        for (id, finish) in ended {
            events.extend(self.abort(id, finish).into_iter().map(|e| (id, e)));
        }
        Ok(events)
    }
}

/// Gives a sequence its sampled token; says why it ends with it, if it does.
fn accept(
    sequence: &mut Sequence,
    token: u32,
    tokenizer: &Tokenizer,
    context: usize,
    events: &mut Vec<Event>,
) -> Option<Finish> {
    if sequence.request.max_tokens == Some(0) {
        return Some(Finish::Length);
    }
    if tokenizer.end_tokens().contains(&token) {
        return Some(Finish::Stop);
    }
    sequence.tokens.push(token);
    sequence.generated += 1;
    let stops = sequence.generated > sequence.request.min_tokens;
    if sequence.output.push(token, tokenizer.token_bytes(token), stops, events) {
        return Some(Finish::Stop);
    }
    let enough = sequence.request.max_tokens.is_some_and(|most| sequence.generated >= most);
    (enough || sequence.tokens.len() >= context).then_some(Finish::Length)
}

/// The last events of a sequence that was taken out.
fn finished(mut sequence: Sequence, finish: Finish) -> Vec<Event> {
    let mut events = Vec::new();
    sequence.output.finish(&mut events);
    let now = Instant::now();
    let seconds = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
        (Some(from), Some(to)) => to.duration_since(from).as_secs_f64(),
        _ => 0.0,
    };
    events.push(Event::Done(Done {
        finish,
        prompt_tokens: sequence.request.prompt.len(),
        cached_tokens: sequence.cached,
        generated_tokens: sequence.generated,
        prompt_seconds: seconds(sequence.started, sequence.first_token.or(Some(now))),
        generation_seconds: seconds(sequence.first_token, Some(now)),
        seed: sequence.request.sampling.seed,
    }));
    events
}
