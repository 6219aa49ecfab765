//! Model files: GGUF and safetensors, read through bounded views of a mapping.
//!
//! Both readers end in the same thing: a list of [`TensorInfo`] (name, type, shape, where its bytes are), which
//! [`weights`] turns into numbers. Nothing here trusts a size that a file claims.

pub mod dequantize;
pub mod gguf;
pub mod loss;
pub mod mapping;
pub mod packed;
pub mod quantize;
pub mod random;
pub mod repack;
pub mod safetensors;
pub mod weights;

use std::ops::Range;

macro_rules! dtypes {
    ($($variant:ident = $id:literal, $name:literal, $block:literal, $bytes:literal;)*) => {
        /// How a tensor's numbers are stored: the types of GGUF that taper reads. Safetensors uses the first and the
        /// floating-point ones of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType { $($variant),* }

        impl DType {
            /// Every type, in the order of their GGUF ids.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The type that a GGUF file writes as `id`.
            pub fn from_gguf_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* _ => None }
            }

            /// The number that GGUF files write for this type.
            pub fn gguf_id(self) -> u32 {
                match self { $(Self::$variant => $id),* }
            }

            /// The name that llama.cpp prints.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Elements a block: quantized types store whole blocks along a row.
            pub fn block_len(self) -> usize {
                match self { $(Self::$variant => $block),* }
            }

            /// Bytes a block.
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes),* }
            }
        }
    };
}

// ids and block layouts: ggml's ggml_type enumeration and block structures.
dtypes! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 36;
    Q2K = 10, "Q2_K", 256, 84;
    Q3K = 11, "Q3_K", 256, 110;
    Q4K = 12, "Q4_K", 256, 144;
    Q5K = 13, "Q5_K", 256, 176;
    Q6K = 14, "Q6_K", 256, 210;
    Q8K = 15, "Q8_K", 256, 292;
    IQ4NL = 20, "IQ4_NL", 32, 18;
    IQ4XS = 23, "IQ4_XS", 256, 136;
    BF16 = 30, "BF16", 1, 2;
}

impl DType {
    /// The names of all types, for the error that a file with another one gets.
    pub fn supported() -> String {
        Self::ALL.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")
    }

    /// Bytes of `elements` numbers in whole blocks; `None` when they do not fill blocks or the product wraps.
    pub fn bytes_of(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One tensor of a file: what it is called, how it is stored, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: DType,
    /// Row-major, outermost dimension first: a matrix is (rows, columns), its rows contiguous.
    pub shape: Vec<usize>,
    /// Where its bytes are in the file; checked to lie inside it.
    pub bytes: Range<usize>,
}

impl TensorInfo {
    /// How many numbers it holds. Checked not to wrap when the file was read.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
