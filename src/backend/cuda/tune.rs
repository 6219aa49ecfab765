//! Which way of sharing multiprocessors is the fastest for a model is tried when it is loaded: no rule that was thought of says it (H100, a
//! step of TinyLlama 386 us side by side and 417 alone, of Llama-3.1-8B 1,845 and 1,819).

use std::time::Duration;

use super::tuned::Tuned;
use super::{AHEAD, Cuda, Sharing};
use crate::backend::outcome::Outcome;
use crate::backend::{Backend, Batch, Out, Row, Seq, Token, Want};
use crate::error::Result;
use crate::sample::{Draw, Sampling};

/// For how long steps go on at a time, how many they are, and how often both ways have their turn.
const TIME: Duration = Duration::from_millis(12);
const FEWEST: u32 = 4;
const MOST: u32 = 16;
const ROUNDS: usize = 3;
/// What is not faster by more than this is within what the clock and the machine do.
const MARGIN: f64 = 0.995;

impl Cuda {
    /// Takes the fastest way to share multiprocessors among kernels with one row, as `tuned` knows it or by trying. No sequence is there yet:
    /// the first page is written.
    pub fn tune(&mut self, tuned: &Tuned) {
        let kv_type = self.options.kv_type;
        // Kernels that do not overlap share nothing.
        if !self.gpu.overlaps() || self.model.layers.iter().all(|layer| layer.down.format.is_float()) {
            return;
        }
        if let Some(sharing) = tuned.known(&self.model, kv_type) {
            return self.share(sharing);
        }
        match self.faster_way() {
            Ok(sharing) => {
                tuned.remember(&self.model, kv_type, sharing);
                self.share(sharing);
            }
            // A token may have no logits that are numbers where others have. If it is the GPU that fails, the next step says so.
            Err(e) => {
                tracing::debug!("how kernels share the GPU is not tried: {}", e.what());
                // Whatever comes of it: steps under way have their places until they end.
                let _ = self.gpu.wait();
                self.flights.drop_all();
                self.share(Sharing::Beside);
            }
        }
        self.outcome = Outcome::default();
    }

    fn faster_way(&mut self) -> Result<Sharing> {
        let mut times = [(Sharing::Beside, Duration::MAX), (Sharing::Alone, Duration::MAX)];
        for _ in 0..ROUNDS {
            for (sharing, best) in &mut times {
                self.share(*sharing);
                *best = self.time_of_a_step()?.min(*best);
            }
        }
        let [beside, alone] = times.map(|(_, time)| time.as_secs_f64() * 1e6);
        let sharing = if alone < MARGIN * beside { Sharing::Alone } else { Sharing::Beside };
        tracing::info!("a step takes {beside:.0} us with kernels side by side, {alone:.0} us with each alone");
        Ok(sharing)
    }

    /// Takes a way to share multiprocessors.
    pub fn share(&mut self, sharing: Sharing) {
        self.sharing = sharing;
    }

    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// The time from one step to the next, of some that follow each other.
    fn time_of_a_step(&mut self) -> Result<Duration> {
        // The first two load kernels and are recorded.
        self.follow(4)?;
        let one = self.follow(FEWEST)?;
        let count = (TIME.as_nanos() / one.as_nanos().max(1)) as u32;
        self.follow(count.clamp(FEWEST, MOST))
    }

    /// Runs so many steps of one token each, none waiting for the host.
    fn follow(&mut self, steps: u32) -> Result<Duration> {
        let sampling = Sampling::greedy();
        let draw = Draw { sampling: &sampling, history: &[], ahead: 0, index: 0, banned: &[] };
        let (row, out) = (Row { token: Token::Id(0), pos: 0 }, Out { row: 0, want: Want::Sample(draw) });
        let seq = Seq { slot: 0, rows: 0..1, kv_len: 1, pages: 0..1 };
        let batch = Batch { rows: &[row], seqs: &[seq], pages: &[0], out: &[out] };
        self.flights.take_times();
        for step in 0..steps as usize {
            self.submit(&batch)?;
            if step >= AHEAD - 1 {
                self.collect()?;
            }
        }
        for _ in 0..steps.min(AHEAD as u32 - 1) {
            self.collect()?;
        }
        let (busy, idle) = self.flights.take_times();
        Ok((busy + idle) / steps)
    }
}
