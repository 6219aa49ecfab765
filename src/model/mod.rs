//! The Llama family: its sizes ([`config`]), its rotary embedding ([`rope`]), and the one forward pass ([`llama`]).

pub mod config;
pub mod llama;

pub mod open;
pub mod rope;
pub mod synth;
pub mod tensors;
