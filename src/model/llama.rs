//! The forward pass of the Llama family, written once.
//!
//! Formulas: "Llama 2: Open Foundation and Fine-Tuned Chat Models" (2023), section 2.2, and the reference code published
//! with it: pre-normalization with RMSNorm, rotary embedding, grouped-query attention, SwiGLU.

use crate::backend::{Batch, Phases};
use crate::error::Result;

/// Enqueues one step: every row of `batch` through all layers, then the head for the rows asked for.
///
/// # Errors
/// What a phase reports; on devices that run behind the host, failures surface in [`crate::backend::Backend::collect`] instead.
pub fn forward<P: Phases + ?Sized>(backend: &mut P, batch: &Batch<'_>) -> Result<()> {
    let layers = backend.layers();
    backend.begin(batch)?;
    for layer in 0..layers {
        backend.qkv(layer)?;
        backend.attend(layer)?;
        backend.attn_out(layer)?;
        backend.gate_up(layer)?;
        backend.down(layer)?;
    }
    backend.head(batch.out)
}
