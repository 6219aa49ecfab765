//! How far the backend in use is from the reference on a text.

use super::Session;
use crate::backend::choose::Device;
use crate::cli::ModelArgs;
use crate::cli::compute::ComputeArgs;
use crate::error::Result;
use crate::stats::divergence::{Divergence, log_probabilities};
use crate::taper::Taper;

/// The beginning of the Declaration of Independence: for those who bring no text.
pub(super) const TEXT: &[u8] = include_bytes!("divergence.txt");

/// The reference with the same weights, and what it said of the window being compared.
pub(super) struct Reference {
    taper: Taper,
    /// (scored positions, vocab): natural logarithms of probabilities.
    logs: Vec<f32>,
    divergence: Divergence,
}

impl Reference {
    /// Loads the model of `session` once more, for windows of so many tokens.
    pub(super) fn load(session: &Session, window: usize, chunk: usize) -> Result<Self> {
        let args = ModelArgs { device: Device::Reference, compute: ComputeArgs::default(), ..session.args.clone() };
        let session = Session { args, interrupt: session.interrupt.clone(), ..*session };
        let taper = session.load_to_measure(window, chunk)?;
        Ok(Self { taper, logs: Vec::new(), divergence: Divergence::default() })
    }

    /// Scores a window from position `from` on, to be compared with.
    pub(super) fn score(&mut self, tokens: &[u32], from: usize) -> Result<()> {
        self.logs.clear();
        let logs = &mut self.logs;
        self.taper.engine().score(tokens, from, |_, logits| {
            logs.extend(log_probabilities(logits)?);
            Ok(())
        })
    }

    /// Compares with the logits of the `i`th scored position.
    pub(super) fn compare(&mut self, i: usize, logits: &[f32]) -> Result<()> {
        let expected = &self.logs[i * logits.len()..][..logits.len()];
        self.divergence.add(expected, logits)
    }

    pub(super) fn divergence(self) -> Divergence {
        self.divergence
    }
}

/// The second half of [`TEXT`], in one window.
pub(super) fn of_text(taper: &mut Taper, reference: &mut Reference) -> Result<()> {
    let tokens = taper.tokenizer().encode_prompt_bytes(TEXT)?;
    let from = tokens.len() / 2;
    reference.score(&tokens, from)?;
    taper.engine().score(&tokens, from, |pos, logits| reference.compare(pos - from, logits))
}
