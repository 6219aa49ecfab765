//! Rows pushed through a backend, one sequence of them.

use taper::Result;
use taper::backend::{Backend, Batch, Out, PageId, Row, Seq, Token, Want};

/// The logits of the last of `ids`, which come behind `done` tokens that were fed before; in one step. `pages` are the sequence's own.
pub fn last_logits<'b>(backend: &'b mut dyn Backend, ids: &[u32], done: usize, pages: &[PageId]) -> Result<&'b [f32]> {
    let rows: Vec<Row> = ids.iter().zip(done as u32..).map(|(id, pos)| Row { token: Token::Id(*id), pos }).collect();
    let n = rows.len() as u32;
    let seq = Seq { slot: 0, rows: 0..n, kv_len: done as u32 + n, pages: 0..pages.len() as u32 };
    let out = [Out { row: n - 1, want: Want::Logits }];
    backend.submit(&Batch { rows: &rows, seqs: &[seq], pages, out: &out })?;
    Ok(backend.collect()?.logits)
}
