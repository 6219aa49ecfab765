//! What an encoder of texts computes with: matrices, layer norm, GELU, and attention that sees both ways.
//!
//! The matrices' kernels are those of the language model (`matmul`): in f32, or weights and activations in int8 by groups
//! of 32. All else is f32. A text's numbers depend on nothing but its own tokens, and are the same on every processor.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels are unsafe as a whole; their contract is at the top of each")]
#![expect(unsafe_code, reason = "vector instructions and raw loads")]

mod dense;

pub use self::dense::{BLOCK, Dense, Precision, Room};
use super::kernels::Isa;
use super::simd::{LANES, Scalar, Simd};
use crate::error::Result;

/// x = x·½(1 + erf(x/√2)): GELU. erf is Abramowitz and Stegun's 7.1.26, within 1.5·10⁻⁷.
#[inline(always)]
unsafe fn gelu<S: Simd>(x: *mut f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let v = S::load(x.add(i));
        let size = S::abs(v);
        let scaled = S::mul(size, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = S::div(S::splat(1.0), S::fma(scaled, S::splat(0.327_591_1), S::splat(1.0)));
        let mut series = S::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
            series = S::fma(series, t, S::splat(c));
        }
        let bell = S::exp(S::sub(S::zero(), S::mul(scaled, scaled)));
        let erf = S::sub(S::splat(1.0), S::mul(S::mul(series, t), bell));
        S::store(x.add(i), S::mul(S::splat(0.5), S::fma(size, erf, v)));
    }
}

/// x = (x − mean) / √(variance + eps) · weight + bias.
#[inline(always)]
unsafe fn layer_norm<S: Simd>(x: *mut f32, weight: *const f32, bias: *const f32, eps: f32, n: usize) {
    let mut sum = S::zero();
    for i in (0..n).step_by(LANES) {
        sum = S::add(sum, S::load(x.add(i)));
    }
    let mean = S::splat(S::sum(sum) / n as f32);
    let mut squares = S::zero();
    for i in (0..n).step_by(LANES) {
        let v = S::sub(S::load(x.add(i)), mean);
        squares = S::fma(v, v, squares);
    }
    let scale = S::splat(1.0 / (S::sum(squares) / n as f32 + eps).sqrt());
    for i in (0..n).step_by(LANES) {
        let v = S::mul(S::sub(S::load(x.add(i)), mean), scale);
        S::store(x.add(i), S::fma(v, S::load(weight.add(i)), S::load(bias.add(i))));
    }
}

/// One head of a text: every token attends to all.
#[derive(Clone, Copy)]
struct Head {
    /// Query, key and value of the first token; those of the next are `stride` numbers further.
    query: *const f32,
    key: *const f32,
    value: *const f32,
    stride: usize,
    tokens: usize,
    /// A multiple of 16.
    dim: usize,
    /// The first token's; the next is `out_stride` further.
    out: *mut f32,
    out_stride: usize,
    /// Room for keys by component, (dim, tokens padded to 16), and for a row of scores.
    scratch: *mut f32,
}

/// Keys that are scored at once: so many sums stand in registers.
const STRIPE: usize = 4;

#[inline(always)]
unsafe fn attend<S: Simd>(head: &Head) {
    let Head { tokens, dim, stride, .. } = *head;
    let padded = tokens.next_multiple_of(LANES);
    let (keys, scores) = (head.scratch, head.scratch.add(dim * padded));
    for token in 0..padded {
        for i in 0..dim {
            *keys.add(i * padded + token) = if token < tokens { *head.key.add(token * stride + i) } else { 0.0 };
        }
    }
    let scale = 1.0 / (dim as f32).sqrt();
    for token in 0..tokens {
        let query = head.query.add(token * stride);
        let mut first = 0;
        while first < padded {
            let blocks = STRIPE.min((padded - first) / LANES);
            let mut sums = [S::zero(); STRIPE];
            for i in 0..dim {
                let q = S::splat(*query.add(i) * scale);
                let line = keys.add(i * padded + first);
                for (block, sum) in sums.iter_mut().enumerate().take(blocks) {
                    *sum = S::fma(q, S::load(line.add(block * LANES)), *sum);
                }
            }
            for (block, sum) in sums.into_iter().enumerate().take(blocks) {
                S::store(scores.add(first + block * LANES), sum);
            }
            first += blocks * LANES;
        }
        // Behind the last token there is nothing to attend to, however small the others' scores are.
        for i in tokens..padded {
            *scores.add(i) = f32::MIN;
        }
        let mut most = S::splat(f32::MIN);
        for i in (0..padded).step_by(LANES) {
            most = S::max(most, S::load(scores.add(i)));
        }
        let most = S::splat(S::largest(most));
        let mut total = S::zero();
        for i in (0..padded).step_by(LANES) {
            let e = S::exp(S::sub(S::load(scores.add(i)), most));
            S::store(scores.add(i), e);
            total = S::add(total, e);
        }
        let inverse = S::splat(1.0 / S::sum(total));
        let out = head.out.add(token * head.out_stride);
        for i in (0..dim).step_by(LANES) {
            let mut sums = [S::zero(); STRIPE];
            for other in 0..tokens {
                let value = S::load(head.value.add(other * stride + i));
                sums[other % STRIPE] = S::fma(S::splat(*scores.add(other)), value, sums[other % STRIPE]);
            }
            let sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
            S::store(out.add(i), S::mul(sum, inverse));
        }
    }
}

/// Compiles the above for an instruction set.
macro_rules! compiled {
    ($module:ident, $set:ty $(, $features:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn gelu(x: *mut f32, n: usize) {
                super::gelu::<$set>(x, n);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn layer_norm(x: *mut f32, weight: *const f32, bias: *const f32, eps: f32, n: usize) {
                super::layer_norm::<$set>(x, weight, bias, eps, n);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn attend(head: &Head) {
                super::attend::<$set>(head);
            }

            pub(super) const OPS: Ops = Ops { gelu, layer_norm, attend };
        }
    };
}

compiled!(scalar, Scalar);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, crate::backend::cpu::avx2::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compiled!(
    avx512,
    crate::backend::cpu::avx512::Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni"
);
#[cfg(target_arch = "aarch64")]
compiled!(neon, crate::backend::cpu::neon::Neon<false>, "neon");
#[cfg(target_arch = "aarch64")]
compiled!(dotprod, crate::backend::cpu::neon::Neon<true>, "neon,dotprod");

/// What is done between the matrices, for one instruction set that this processor has.
#[derive(Clone, Copy)]
pub struct Ops {
    gelu: unsafe fn(*mut f32, usize),
    layer_norm: unsafe fn(*mut f32, *const f32, *const f32, f32, usize),
    attend: unsafe fn(&Head),
}

/// Queries, keys and values of one text, and where what is attended goes.
pub struct Attention<'a> {
    /// (tokens, 3 · heads · dim): queries, keys, values.
    pub qkv: &'a [f32],
    pub heads: usize,
    /// Of a head, a multiple of 16.
    pub dim: usize,
    /// (tokens, heads · dim)
    pub out: &'a mut [f32],
}

impl Ops {
    /// Those of the fastest instruction set, or of the one that `TAPER_CPU` names.
    ///
    /// # Errors
    /// As [`Isa::from_env`].
    pub fn of_processor() -> Result<Self> {
        Ok(Self::of(Isa::from_env()?))
    }

    /// Those of an instruction set, or plain ones where this processor lacks it.
    pub fn of(isa: Isa) -> Self {
        if !isa.is_available() {
            return scalar::OPS;
        }
        match isa {
            Isa::Scalar => scalar::OPS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::OPS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::OPS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::OPS,
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => dotprod::OPS,
        }
    }

    /// GELU of each number; they are a multiple of 16.
    ///
    /// # Panics
    /// When they are not.
    pub fn gelu(self, x: &mut [f32]) {
        assert!(x.len().is_multiple_of(LANES), "{} numbers", x.len());
        // SAFETY: the processor has the instructions (`of`), and the length is right.
        unsafe { (self.gelu)(x.as_mut_ptr(), x.len()) }
    }

    /// Layer norm of each row of `x`, (rows, n); `n` is the weight's length, a multiple of 16.
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn layer_norm(self, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        let n = weight.len();
        assert!(n.is_multiple_of(LANES) && bias.len() == n && x.len().is_multiple_of(n), "rows of another width");
        for row in x.chunks_exact_mut(n) {
            // SAFETY: the processor has the instructions (`of`), and all three are `n` numbers.
            unsafe { (self.layer_norm)(row.as_mut_ptr(), weight.as_ptr(), bias.as_ptr(), eps, n) }
        }
    }

    /// Has every token of a text attend to all of them.
    ///
    /// # Panics
    /// When the lengths do not go together.
    pub fn attend(self, attention: Attention<'_>, scratch: &mut Vec<f32>) {
        let Attention { qkv, heads, dim, out } = attention;
        let hidden = heads * dim;
        let tokens = out.len() / hidden;
        assert!(
            dim.is_multiple_of(LANES) && out.len() == tokens * hidden && qkv.len() == 3 * out.len(),
            "rows of another width"
        );
        scratch.resize((dim + 1) * tokens.next_multiple_of(LANES), 0.0);
        for head in 0..heads {
            let at = |part: usize| qkv[part * hidden + head * dim..].as_ptr();
            let head = Head {
                query: at(0),
                key: at(1),
                value: at(2),
                stride: 3 * hidden,
                tokens,
                dim,
                out: out[head * dim..].as_mut_ptr(),
                out_stride: hidden,
                scratch: scratch.as_mut_ptr(),
            };
            // SAFETY: the processor has the instructions (`of`); rows and columns are inside the slices, as was just checked.
            unsafe { (self.attend)(&head) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn numbers(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| 4.0 * (((seed * 7919 + i) as f32 * 0.618_034).fract() - 0.5)).collect()
    }

    fn sets() -> impl Iterator<Item = Ops> {
        Isa::ALL.iter().copied().filter(|isa| isa.is_available()).map(Ops::of)
    }

    #[test]
    fn gelu_is_the_exact_one_within_a_rounding() {
        // By Python's math.erf.
        let (x, y) = (
            [-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 5.0],
            [-0.00404951, -0.15865525, -0.15426877, 0.0, 0.14967658, 0.841_344_7, 1.954_499_7, 4.999_998_6],
        );
        for ops in sets() {
            let mut got = x.repeat(2);
            ops.gelu(&mut got);
            for (got, expected) in got.iter().zip(y.repeat(2)) {
                assert!((got - expected).abs() < 1e-6, "{got}, not {expected}");
            }
        }
    }

    #[test]
    fn a_normed_row_has_mean_0_and_variance_1_before_weight_and_bias() {
        for ops in sets() {
            let mut x = numbers(1, 96);
            ops.layer_norm(&mut x, &[2.0; 48], &[1.0; 48], 1e-12);
            for row in x.chunks(48) {
                let mean = row.iter().sum::<f32>() / 48.0;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 48.0;
                assert!((mean - 1.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4, "{mean} {variance}");
            }
        }
    }

    #[test]
    fn attention_is_the_softmax_of_all_products() {
        let (heads, dim, tokens) = (2, 32, 21);
        let hidden = heads * dim;
        let qkv = numbers(2, tokens * 3 * hidden);
        let part =
            |token: usize, part: usize, head: usize| &qkv[token * 3 * hidden + part * hidden + head * dim..][..dim];
        let mut results = Vec::new();
        for ops in sets() {
            let mut out = vec![0.0; tokens * hidden];
            ops.attend(Attention { qkv: &qkv, heads, dim, out: &mut out }, &mut Vec::new());
            for (token, head) in (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
                let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                let score = |key| (product(part(token, 0, head), part(key, 1, head)) / (dim as f64).sqrt()).exp();
                let scores: Vec<f64> = (0..tokens).map(score).collect();
                let total: f64 = scores.iter().sum();
                for i in 0..dim {
                    let expected: f64 = (0..tokens).map(|key| scores[key] * f64::from(part(key, 2, head)[i])).sum();
                    let got = f64::from(out[token * hidden + head * dim + i]);
                    assert!((got - expected / total).abs() < 1e-4, "{got}, not {}", expected / total);
                }
            }
            results.push(out);
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "not the same bits everywhere");
    }

    #[test]
    fn scores_far_below_zero_are_weighed_like_others() {
        let (dim, tokens) = (16, 3);
        // Queries and keys point away from each other: all scores are -576, and every token attends to all alike.
        let row = |token: usize| [[12.0; 16], [-12.0; 16], [token as f32; 16]].concat();
        let qkv: Vec<f32> = (0..tokens).flat_map(row).collect();
        for ops in sets() {
            let mut out = vec![0.0; tokens * dim];
            ops.attend(Attention { qkv: &qkv, heads: 1, dim, out: &mut out }, &mut Vec::new());
            assert!(out.iter().all(|x| (x - 1.0).abs() < 1e-6), "{out:?}");
        }
    }
}
