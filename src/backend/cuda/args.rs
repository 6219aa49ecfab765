//! What kernels take, laid out as `kernels/cuda` declares it. Addresses are the GPU's.
#![expect(unsafe_code, reason = "structs are read as bytes")]

use super::gpu::Address;

/// Structs without padding, for which all bits are initialized.
///
/// # Safety
/// `repr(C)`, and no byte of them is padding.
pub unsafe trait Plain: Copy {}

/// Numbers or structs as bytes.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the slice's own memory, all of it initialized.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Numbers as bytes to be written; any bits are a number.
pub fn bytes_of_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: the slice's own memory, borrowed mutably.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: a number, or `repr(C)` with fields whose sizes are multiples of their neighbours' alignment.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(
    f32,
    u32,
    u64,
    Matrix,
    Activations,
    Linear,
    Logits,
    Qkv,
    TwoQkv,
    Gated,
    Quantize,
    Begin,
    Choose,
    Finish,
    Hash,
    Swiglu,
    Keep,
    Attend,
    Decode
);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Matrix {
    pub planes: Address,
    pub rows: i32,
    pub k: i32,
    pub codebook: [u8; 16],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Activations {
    pub codes: Address,
    pub rests: Address,
    pub scales: Address,
    pub numbers: Address,
    pub factors: Address,
    pub k: i64,
}

/// A row that a kernel's blocks quantize.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Row {
    pub numbers: Address,
    /// Of the norm that it is still to go through; 0 for none.
    pub weight: Address,
    pub k: i64,
    pub eps: f32,
    /// 1 / k
    pub inverse: f32,
}

/// What a matrix is multiplied with: a row that is quantized on the way, or rows that are.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Input {
    pub row: Row,
    pub ready: Activations,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Linear {
    pub matrix: Matrix,
    pub x: Input,
    pub stream: Address,
    pub rows: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Logits {
    pub matrix: Matrix,
    pub x: Input,
    pub out: Address,
    pub best: Address,
    /// 0 where all tokens may come.
    pub draws: Address,
    pub rows: i32,
    pub pad: i32,
}

/// What a [`Part`] gives: `Kind` of `gemv.cu`.
pub const NONE: i64 = 3;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Part {
    pub matrix: Matrix,
    /// 0 for none.
    pub bias: Address,
    /// Its number among Q, K and V, or [`NONE`].
    pub kind: i64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Cache {
    pub bytes: Address,
    pub page: i64,
    pub layer: i64,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub is_half: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Qkv {
    pub parts: [Part; 3],
    pub x: Input,
    pub cache: Cache,
    pub query: Address,
    pub angles: Address,
    pub places: Address,
    pub rows: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Gated {
    pub gate: Matrix,
    pub up: Matrix,
    pub x: Input,
    pub to: Activations,
    pub rows: i32,
    pub pad: i32,
}

/// Products of gate and up matrices, which are joined and 0 again.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Swiglu {
    pub gate: Address,
    pub up: Address,
    pub to: Activations,
    pub is_of_few: i32,
    pub pad: i32,
}

/// The parts of two formats: the first `split` blocks have those of the one.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct TwoQkv {
    pub first: Qkv,
    pub second: Qkv,
    pub split: i64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Quantize {
    /// The first of the rows.
    pub row: Row,
    /// 0 for all rows in order.
    pub which: Address,
    pub to: Activations,
    pub keeps_numbers: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Begin {
    pub embedding: Matrix,
    pub tokens: Address,
    pub chosen: Address,
    /// 0 where the GPU has them already.
    pub words: Address,
    pub to_words: Address,
    /// 0 for a step by itself.
    pub ended: Address,
    pub begun: Address,
    pub stream: Address,
    pub stride: i64,
    pub count: u32,
    pub gap: u32,
    pub more: u32,
    pub pad: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Choose {
    pub logits: Address,
    pub draws: Address,
    /// 0 where none are changed.
    pub changes: Address,
    pub chosen: Address,
    pub some: Address,
    pub counters: Address,
    pub best: Address,
    pub vocab: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Finish {
    pub best: Address,
    pub chosen: Address,
    /// 0 for a step by itself.
    pub ended: Address,
    pub begun: Address,
    /// 0 where nobody asks for it.
    pub hash: Address,
    pub out: Address,
    pub rows: u32,
    pub stride: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Hash {
    pub logits: Address,
    pub to: Address,
    pub count: i64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Keep {
    pub numbers: Address,
    pub cache: Address,
    pub page: i64,
    pub layer: i64,
    pub places: Address,
    pub kv_heads: i32,
    pub head_dim: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Decode {
    pub query: Address,
    pub cache: Address,
    pub page: i64,
    pub layer: i64,
    pub tables: Address,
    pub table: Address,
    pub positions: Address,
    pub known: Address,
    pub partials: Address,
    pub out: Address,
    pub scale: f32,
    pub heads: i32,
    pub kv_heads: i32,
    pub window: i32,
    pub chunks: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Attend {
    pub query: Address,
    pub cache: Address,
    pub page: i64,
    pub layer: i64,
    pub tables: Address,
    pub table: Address,
    pub positions: Address,
    pub partials: Address,
    pub out: Address,
    pub scale: f32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub window: i32,
    pub chunks: i32,
    /// [`kept`](super::pages::kept)
    pub kept: i32,
    pub pad: i32,
}
