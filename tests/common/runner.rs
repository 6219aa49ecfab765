//! Drives a backend without an engine: sequences with block tables of scattered pages, steps of any shape.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

use taper::backend::{Backend, Batch, Out, PAGE, PageId, Row, Seq, Token, Want};

/// A sequence whose tokens are pushed through piece by piece.
pub struct Running {
    pub slot: u32,
    pub pages: Vec<PageId>,
    pub computed: usize,
}

/// Hands out sequences of a pool, their pages scattered over it.
pub struct Pool {
    free: Vec<PageId>,
    next: u32,
}

impl Pool {
    pub fn new(pages: usize) -> Self {
        // Evens descending, then odds: no table is a run of neighbours.
        let (even, odd): (Vec<PageId>, Vec<PageId>) = (0..pages as PageId).partition(|p| p % 2 == 0);
        Self { free: even.into_iter().chain(odd).collect(), next: 0 }
    }

    pub fn sequence(&mut self, tokens: usize) -> Running {
        let pages = (0..tokens.div_ceil(PAGE)).map(|_| self.free.pop().unwrap()).collect();
        self.next += 1;
        Running { slot: self.next, pages, computed: 0 }
    }
}

/// Builds the step that pushes the tokens of each part through, asking for `want` of each part's last row, and hands it over.
pub fn with_batch<R>(parts: &mut [(&mut Running, &[Token])], want: Want<'_>, go: impl FnOnce(&Batch<'_>) -> R) -> R {
    with_wants(parts, |_| want, go)
}

/// The same, asking for something else of each part.
pub fn with_wants<'a, R>(
    parts: &mut [(&mut Running, &[Token])],
    want: impl Fn(usize) -> Want<'a>,
    go: impl FnOnce(&Batch<'_>) -> R,
) -> R {
    let (mut rows, mut seqs, mut pages, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (part, (running, tokens)) in parts.iter_mut().enumerate() {
        let (first_row, first_page) = (rows.len() as u32, pages.len() as u32);
        rows.extend(tokens.iter().zip(running.computed as u32..).map(|(token, pos)| Row { token: *token, pos }));
        pages.extend_from_slice(&running.pages);
        running.computed += tokens.len();
        seqs.push(Seq {
            slot: running.slot,
            rows: first_row..rows.len() as u32,
            kv_len: running.computed as u32,
            pages: first_page..pages.len() as u32,
        });
        out.push(Out { row: rows.len() as u32 - 1, want: want(part) });
    }
    go(&Batch { rows: &rows, seqs: &seqs, pages: &pages, out: &out })
}

/// One step; the logits of each part's last row.
pub fn step(backend: &mut dyn Backend, parts: &mut [(&mut Running, &[u32])]) -> Vec<Vec<f32>> {
    let vocab = backend.config().vocab;
    let tokens: Vec<Vec<Token>> = parts.iter().map(|(_, ids)| ids.iter().map(|id| Token::Id(*id)).collect()).collect();
    let mut parts: Vec<(&mut Running, &[Token])> =
        parts.iter_mut().zip(&tokens).map(|((running, _), t)| (&mut **running, t.as_slice())).collect();
    with_batch(&mut parts, Want::Logits, |batch| {
        backend.submit(batch).unwrap();
        backend.collect().unwrap().logits.chunks_exact(vocab).map(<[f32]>::to_vec).collect()
    })
}

/// The logits after each piece of `ids`, in chunks of `chunk` rows, alone; of the last row of each chunk.
pub fn in_chunks(backend: &mut dyn Backend, pool: &mut Pool, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut running = pool.sequence(ids.len());
    ids.chunks(chunk).map(|piece| step(backend, &mut [(&mut running, piece)]).remove(0)).last().unwrap()
}
