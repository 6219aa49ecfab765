//! What a thread does about attention: its keys and values to their pages, its share of the queries over them.

use std::ops::Range;

use super::{Shared, Worker};
use crate::backend::cpu::attention::{CHUNK, Chunk, QUERIES, Query};
use crate::backend::cpu::{pages, plain};
use crate::backend::{PAGE, Seq};
use crate::format::packed::TILE;

impl Worker<'_> {
    /// Keys and values of the step's rows to their pages: this thread's columns; or, where a scale is of a whole head,
    /// whose columns may be those of two threads, this thread's share of the heads.
    pub(super) fn write_pages(&self, layer: usize) {
        let Shared { model, cache, step, .. } = self.shared;
        let (dim, kv_heads) = (model.config.head_dim, model.config.kv_heads);
        let scaled = pages::is_scaled(cache.kv_type);
        if scaled {
            self.thread.meet();
        }
        let columns = self.columns(&self.layer(layer).k);
        let heads = self.thread.share(step.rows() * kv_heads);
        for seq in &step.seqs {
            for t in seq.rows.start as usize..seq.rows.end as usize {
                if scaled {
                    for head in (0..kv_heads).filter(|head| heads.contains(&(t * kv_heads + head))) {
                        self.write(layer, seq, t, head, 0..dim);
                    }
                } else {
                    for column in columns.clone().step_by(TILE) {
                        let first = column % dim;
                        self.write(layer, seq, t, column / dim, first..first + TILE);
                    }
                }
            }
        }
    }

    /// Some numbers of a row's key and value of one head to their page.
    fn write(&self, layer: usize, seq: &Seq, t: usize, head: usize, dims: Range<usize>) {
        let Shared { model, buffers, cache, step, kernels, .. } = self.shared;
        let pos = step.positions[t] as usize;
        let page = step.table(seq)[pos / PAGE];
        let at = t * model.config.kv_dim() + head * model.config.head_dim + dims.start;
        let (key, value) = (buffers.key.at(at), buffers.value.at(at));
        // SAFETY: the position is this row's own, pages that are written belong to one sequence, and these numbers of
        // it are this thread's: keys and values have the same number of tiles, which are shared out alike.
        unsafe { (kernels.write_kv)(&cache.head(layer, head), page, pos % PAGE, dims, key, value) };
    }

    /// The positions that a row sees.
    fn seen(&self, t: usize) -> Range<usize> {
        let end = self.shared.step.positions[t] as usize + 1;
        end.saturating_sub(self.shared.model.config.window.unwrap_or(usize::MAX))..end
    }

    /// Whether the next piece of work is this thread's: all threads count them alike, and take them in turn.
    fn has_turn(&self, item: &mut usize) -> bool {
        *item += 1;
        *item % self.thread.count == self.thread.index
    }

    /// Attention written plainly: rows and heads are shared out.
    pub(super) fn attend_plainly(&self, layer: usize) {
        let Shared { model, buffers, cache, step, .. } = self.shared;
        let (heads, dim) = (model.config.heads, model.config.head_dim);
        let (own, mut item) = (self.own(), 0);
        for seq in &step.seqs {
            for t in seq.rows.start as usize..seq.rows.end as usize {
                for head in 0..heads {
                    if !self.has_turn(&mut item) {
                        continue;
                    }
                    let pages = cache.head(layer, head / (heads / model.config.kv_heads));
                    let (at, seen) = ((t * heads + head) * dim, self.seen(t));
                    // SAFETY: queries and pages were written before the last meeting; scores and row are this
                    // thread's, the place of the result is this piece's.
                    unsafe {
                        let (query, out) = (buffers.query.slice(at, dim), buffers.attended.slice_mut(at, dim));
                        let (scores, row) = (own.scores.slice_mut(0, seen.len()), own.row.slice_mut(0, dim));
                        plain::attend(query, seen, &pages, step.table(seq), scores, row, out);
                    }
                }
            }
        }
    }

    /// A row's query of one head.
    fn query(&self, t: usize, head: usize, partial: *mut f32) -> Query {
        let Shared { model, buffers, .. } = self.shared;
        let Range { start: first, end } = self.seen(t);
        let numbers = buffers.query.at(t * model.config.q_dim() + head * model.config.head_dim);
        Query { numbers, first, end, partial }
    }

    fn chunk(&self, layer: usize, kv_head: usize, seq: &Seq, queries: &[Query], chunk: Chunk) {
        let Shared { cache, step, kernels, .. } = self.shared;
        let pages = cache.head(layer, kv_head);
        // SAFETY: queries and pages were written before the last meeting; partials and scores are this thread's.
        unsafe { (kernels.attend)(queries, chunk, &pages, step.table(seq), self.own().scores.at(0)) };
    }

    /// Where a chunk's keys begin.
    fn keys(&self, layer: usize, kv_head: usize, seq: &Seq, chunk: usize) -> *const u8 {
        let Shared { cache, step, .. } = self.shared;
        cache.head(layer, kv_head).keys(step.table(seq)[chunk * CHUNK / PAGE])
    }

    /// Joins the partials of a row's head, whose first is that of chunk 0.
    fn join(&self, t: usize, head: usize, query: &Query) {
        let Shared { model, buffers, kernels, .. } = self.shared;
        let chunks = chunks(query);
        let out = buffers.attended.at(t * model.config.q_dim() + head * model.config.head_dim);
        let first = query.partial.wrapping_add(chunks.start * buffers.partial);
        // SAFETY: the partials are finished; the place of the result is this call's.
        unsafe { (kernels.join)(first, chunks.len(), buffers.partial, model.config.head_dim, out) };
    }

    /// Attention of few rows: heads and chunks of the context are shared out.
    pub(super) fn attend_few(&self, layer: usize) {
        let Shared { model, buffers, step, .. } = self.shared;
        let (heads, kv_heads) = (model.config.heads, model.config.kv_heads);
        let group = heads / kv_heads;
        let place = |t: usize, head: usize| buffers.partials.at((t * heads + head) * buffers.chunks * buffers.partial);
        let pieces = step.seqs.iter().flat_map(|seq| {
            (seq.rows.start as usize..seq.rows.end as usize).flat_map(move |t| {
                let chunks = chunks(&self.query(t, 0, place(t, 0)));
                chunks.flat_map(move |chunk| (0..kv_heads).map(move |kv_head| (seq, t, chunk, kv_head)))
            })
        });
        let mut own = pieces.skip(self.thread.index).step_by(self.thread.count).peekable();
        while let Some((seq, t, chunk, kv_head)) = own.next() {
            let next = match own.peek() {
                Some((seq, _, chunk, kv_head)) => self.keys(layer, *kv_head, seq, *chunk),
                None => self.layer(layer).o.tile(self.thread.index, 0),
            };
            let first = kv_head * group;
            for some in (first..first + group).step_by(QUERIES) {
                let count = QUERIES.min(first + group - some);
                let mut queries = [self.query(t, first, place(t, first)); QUERIES];
                for (query, head) in queries.iter_mut().zip(some..some + count) {
                    let partial = place(t, head).wrapping_add(chunk * buffers.partial);
                    *query = self.query(t, head, partial);
                }
                self.chunk(layer, kv_head, seq, &queries[..count], Chunk { number: chunk, next });
            }
        }
        self.thread.meet();
        for item in self.thread.share(step.rows() * heads) {
            let (t, head) = (item / heads, item % heads);
            self.join(t, head, &self.query(t, head, place(t, head)));
        }
    }

    /// Attention of many rows: blocks of neighbouring rows of a head are shared out.
    pub(super) fn attend_many(&self, layer: usize) {
        let Shared { model, buffers, step, .. } = self.shared;
        let group = model.config.heads / model.config.kv_heads;
        let place = |i: usize| self.own().partials.at(i * buffers.chunks * buffers.partial);
        let mut item = 0;
        for seq in &step.seqs {
            let (start, end) = (seq.rows.start as usize, seq.rows.end as usize);
            for kv_head in 0..model.config.kv_heads {
                for first in (start..end).step_by(QUERIES) {
                    if !self.has_turn(&mut item) {
                        continue;
                    }
                    let rows = first..end.min(first + QUERIES);
                    for head in kv_head * group..(kv_head + 1) * group {
                        let mut queries = [self.query(first, head, place(0)); QUERIES];
                        for (i, t) in rows.clone().enumerate() {
                            queries[i] = self.query(t, head, place(i));
                        }
                        let queries = &mut queries[..rows.len()];
                        // Later rows see more: the first one's first chunk to the last one's last.
                        let (from, last) = (chunks(&queries[0]).start, chunks(&queries[queries.len() - 1]).end - 1);
                        for chunk in from..=last {
                            for (i, query) in queries.iter_mut().enumerate() {
                                query.partial = place(i).wrapping_add(chunk * buffers.partial);
                            }
                            let next = self.keys(layer, kv_head, seq, (chunk + 1).min(last));
                            self.chunk(layer, kv_head, seq, queries, Chunk { number: chunk, next });
                        }
                        for (i, t) in rows.clone().enumerate() {
                            self.join(t, head, &self.query(t, head, place(i)));
                        }
                    }
                }
            }
        }
    }
}

/// The chunks that a query sees.
fn chunks(query: &Query) -> Range<usize> {
    query.first / CHUNK..query.end.div_ceil(CHUNK)
}
