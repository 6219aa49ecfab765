//! Teacher-forced passes: the logits of a given text, for perplexity. No sampling, no second loop over the model: the same
//! batches go through the same backend.

use super::Engine;
use crate::backend::{Batch, Out, Row, Seq, Token, Want};
use crate::error::{Error, Result};
use crate::kv::blocks::Table;

impl Engine {
    /// Pushes `tokens` through as one sequence and hands over (position, logits) for each position from `from` on, in order.
    ///
    /// # Errors
    /// When the text is longer than the context, requests are running, or a step fails. An error of `each` ends the pass.
    pub fn score(
        &mut self,
        tokens: &[u32],
        from: usize,
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if self.has_unfinished() {
            return Err(Error::runtime("a text cannot be scored while requests are running"));
        }
        self.land();
        let mut table = Table::default();
        if tokens.len() > self.limits().context || !self.scheduler.blocks.grow(&mut table, tokens.len()) {
            let (n, context) = (tokens.len(), self.limits().context);
            return Err(Error::memory(format!("the text has {n} tokens; the context holds {context}"))
                .help("give a larger --ctx-size"));
        }
        let result = self.score_pages(tokens, from, &table, &mut each);
        self.scheduler.blocks.release(table);
        result
    }

    fn score_pages(
        &mut self,
        tokens: &[u32],
        from: usize,
        table: &Table,
        each: &mut impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let vocab = self.backend.config().vocab;
        for (start, chunk) in (0..).step_by(self.limits().chunk).zip(tokens.chunks(self.limits().chunk)) {
            let rows: Vec<Row> =
                chunk.iter().zip(start as u32..).map(|(id, pos)| Row { token: Token::Id(*id), pos }).collect();
            let wanted = from.max(start)..start + chunk.len();
            let out: Vec<Out<'_>> =
                wanted.clone().map(|pos| Out { row: (pos - start) as u32, want: Want::Logits }).collect();
            let seq = Seq {
                slot: u32::MAX, // no request's
                rows: 0..chunk.len() as u32,
                kv_len: (start + chunk.len()) as u32,
                pages: 0..table.pages().len() as u32,
            };
            self.backend.submit(&Batch { rows: &rows, seqs: &[seq], pages: table.pages(), out: &out })?;
            let step = self.backend.collect()?;
            for (pos, logits) in wanted.zip(step.logits.chunks_exact(vocab)) {
                each(pos, logits)?;
            }
        }
        Ok(())
    }
}
