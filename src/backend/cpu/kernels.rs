//! The kernels of one instruction set, and the choice among them at run time.
#![allow(unsafe_op_in_unsafe_fn, reason = "each kernel here is one call of its generic body, under the same contract")]
#![expect(unsafe_code, reason = "kernels are unsafe to call")]

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::ops::Range;

use super::attention::{self, Chunk, Query};
use super::matmul::{self, Job};
use super::pages::{self, Pages};
use super::rows::{self, Groups, Lane, Rest};
use super::simd::{Scalar, Simd};
use crate::backend::PageId;
use crate::error::{Error, Result};

/// An instruction set that there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with the dot product instructions.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
}

impl Isa {
    /// From the slowest to the fastest.
    pub const ALL: &[Self] = &[
        Self::Scalar,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        #[cfg(target_arch = "aarch64")]
        Self::Dotprod,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => "dotprod",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => Self::Neon.is_available() && is_aarch64_feature_detected!("dotprod"),
        }
    }

    /// The fastest that this processor has, unless `TAPER_CPU` names another.
    ///
    /// # Errors
    /// As [`Isa::choose`].
    pub fn from_env() -> Result<Self> {
        Self::choose(std::env::var("TAPER_CPU").ok().as_deref().filter(|name| !name.is_empty()))
    }

    /// The fastest that this processor has, or the one that `forced` names.
    ///
    /// # Errors
    /// When there is none of that name, or this processor lacks it.
    pub fn choose(forced: Option<&str>) -> Result<Self> {
        let available = || Self::ALL.iter().copied().filter(|isa| isa.is_available());
        let Some(name) = forced else { return Ok(available().next_back().unwrap_or(Self::Scalar)) };
        available().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<&str> = available().map(Self::name).collect();
            Error::usage(format!("TAPER_CPU is `{name}`; this processor can do {}", names.join(", ")))
                .help("unset TAPER_CPU to take the fastest")
        })
    }
}

/// Compiles the kernels for an instruction set.
macro_rules! wrapped {
    ($module:ident, $set:ty, $isa:expr $(, $features:literal)?) => {
        mod $module {
            use super::*;

            type Set = $set;

            $(#[target_feature(enable = $features)])?
            unsafe fn matmul(job: &Job) {
                matmul::run::<Set>(job);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn norm(x: *const f32, weight: *const f32, eps: f32, n: usize, out: *mut f32) {
                rows::norm::<Set>(x, weight, eps, n, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn quantize(x: *const f32, groups: Groups, lane: Lane) {
                rows::quantize::<Set>(x, groups, lane);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn quantize_with_rest(x: *const f32, groups: usize, lane: Lane, rest: Rest) {
                rows::quantize_with_rest::<Set>(x, groups, lane, rest);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn swiglu(gate: *mut f32, up: *const f32, n: usize) {
                rows::swiglu::<Set>(gate, up, n);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rotate(x: *mut f32, cos: *const f32, sin: *const f32, n: usize) {
                rows::rotate::<Set>(x, cos, sin, n);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn attend(queries: &[Query], chunk: Chunk, pages: &Pages, table: &[PageId], scratch: *mut f32) {
                attention::chunk::<Set>(queries, chunk, pages, table, scratch);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn join(partials: *const f32, chunks: usize, stride: usize, head_dim: usize, out: *mut f32) {
                attention::join::<Set>(partials, chunks, stride, head_dim, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn write_kv(
                pages: &Pages,
                page: PageId,
                offset: usize,
                dims: Range<usize>,
                key: *const f32,
                value: *const f32,
            ) {
                pages::write::<Set>(pages, page, offset, dims, key, value);
            }

            pub(super) const KERNELS: Kernels = Kernels {
                isa: $isa,
                max_panel: Set::MAX_PANEL,
                matmul,
                norm,
                quantize,
                quantize_with_rest,
                swiglu,
                rotate,
                attend,
                join,
                write_kv,
            };
        }
    };
}

/// The kernels of one instruction set; their contracts are those of the functions in [`matmul`], [`rows`],
/// [`attention`] and [`pages`].
#[derive(Clone, Copy)]
pub struct Kernels {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests name it"))]
    pub isa: Isa,
    /// Rows of the widest panel.
    pub max_panel: usize,
    pub matmul: unsafe fn(&Job),
    pub norm: unsafe fn(*const f32, *const f32, f32, usize, *mut f32),
    pub quantize: unsafe fn(*const f32, Groups, Lane),
    pub quantize_with_rest: unsafe fn(*const f32, usize, Lane, Rest),
    pub swiglu: unsafe fn(*mut f32, *const f32, usize),
    pub rotate: unsafe fn(*mut f32, *const f32, *const f32, usize),
    pub attend: unsafe fn(&[Query], Chunk, &Pages, &[PageId], *mut f32),
    pub join: unsafe fn(*const f32, usize, usize, usize, *mut f32),
    pub write_kv: unsafe fn(&Pages, PageId, usize, Range<usize>, *const f32, *const f32),
}

wrapped!(scalar, Scalar, Isa::Scalar);
#[cfg(target_arch = "x86_64")]
wrapped!(avx2, super::super::avx2::Avx2, Isa::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
wrapped!(
    avx512,
    super::super::avx512::Avx512,
    Isa::Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni"
);
#[cfg(target_arch = "aarch64")]
wrapped!(neon, super::super::neon::Neon<false>, Isa::Neon, "neon");
#[cfg(target_arch = "aarch64")]
wrapped!(dotprod, super::super::neon::Neon<true>, Isa::Dotprod, "neon,dotprod");

impl Kernels {
    /// The kernels of an instruction set that this processor has.
    ///
    /// # Errors
    /// When it has not.
    pub fn of(isa: Isa) -> Result<&'static Self> {
        if !isa.is_available() {
            return Err(Error::runtime(format!("this processor has no {}", isa.name())));
        }
        Ok(match isa {
            Isa::Scalar => &scalar::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => &dotprod::KERNELS,
        })
    }
}
