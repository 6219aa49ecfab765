//! The loop itself: plan, submit, collect, turn tokens into events.

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
}

impl Engine {
    /// `limits` are those of the backend's memory plan.
    pub fn new(backend: Box<dyn Backend>, tokenizer: Arc<Tokenizer>, limits: Limits) -> Self {
        let scheduler = Scheduler::new(limits.pages, limits.chunk, limits.sequences);
        Self { backend, tokenizer, scheduler, limits, next_id: 0 }
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

    /// Pushes one batch through the model and tells what came of it, a request's events in their order.
    ///
    /// # Errors
    /// When the backend fails; the requests are then still queued, and [`Engine::abort`] ends them.
    pub fn step(&mut self) -> Result<Vec<(RequestId, Event)>> {
        let shares = self.scheduler.plan();
        if shares.is_empty() {
            return Ok(Vec::new());
        }
        let now = Instant::now();
        for share in &shares {
            self.scheduler.running[share.index].started.get_or_insert(now);
        }
        let tokens = self.run(&shares)?;
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
        &mut *self.backend
    }

    /// Submits the shares as one batch and collects it: one token for each share that samples.
    fn run(&mut self, shares: &[Share]) -> Result<Vec<u32>> {
        let (mut rows, mut seqs, mut pages, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for share in shares {
            let s = &self.scheduler.running[share.index];
            let (first_row, first_page) = (rows.len() as u32, pages.len() as u32);
            let new = s.tokens[share.tokens.clone()].iter().zip(share.tokens.start as u32..);
            rows.extend(new.map(|(id, pos)| Row { token: Token::Id(*id), pos }));
            pages.extend_from_slice(s.table.pages());
            seqs.push(Seq {
                slot: s.id.0 as u32,
                rows: first_row..rows.len() as u32,
                kv_len: share.tokens.end as u32,
                pages: first_page..pages.len() as u32,
            });
            if share.samples {
                let early = s.request.ignore_end || s.generated < s.request.min_tokens;
                let draw = Draw {
                    sampling: &s.request.sampling,
                    history: &s.tokens,
                    index: s.generated as u64,
                    banned: if early { self.tokenizer.end_tokens() } else { &[] },
                };
                out.push(Out { row: rows.len() as u32 - 1, want: Want::Sample(draw) });
            }
        }
        self.backend.submit(&Batch { rows: &rows, seqs: &seqs, pages: &pages, out: &out })?;
        Ok(self.backend.collect()?.tokens.to_vec())
    }

    /// Books a collected step: pages, tokens, events, ends.
    fn take(&mut self, shares: &[Share], tokens: &[u32]) -> Result<Vec<(RequestId, Event)>> {
        let mut tokens = tokens.iter();
        let mut events = Vec::new();
        let mut ended = Vec::new();
        for share in shares {
            self.scheduler.computed(share);
            if !share.samples {
                let s = &self.scheduler.running[share.index];
                events.push((s.id, Event::Prompt { computed: s.computed, total: s.tokens.len() }));
                continue;
            }
            let Some(&token) = tokens.next() else {
                return Err(Error::runtime("the backend sampled fewer tokens than were asked for"));
            };
            let sequence = &mut self.scheduler.running[share.index];
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
