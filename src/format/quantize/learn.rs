//! A codebook fitted to a matrix: weighted k-means (Lloyd, 1982) over its numbers in units of their group's scale.
//!
//! What is to be small is Σ (x − scale · level)² over groups. For given scales and codes its least is at the means of
//! x / scale, weighted by scale²; for given levels, at the scales and codes that [`Levels`] finds. The two take turns,
//! from several starts, on a sample of the groups; the best codebook wins, and [`IQ4_CODEBOOK`] is one of them. Half of its numbers are not
//! above 0 and half are not below, as in those that are not learned: the GPU's kernels look the halves up apart.

use half::f16;

use super::NF4;
use super::blocks::{Levels, Numbers, UNIFORM};
use crate::format::dequantize::{Codebook, IQ4_CODEBOOK};
use crate::format::packed::GROUP;

/// Groups in a sample, spread evenly over the rows.
const SAMPLE: usize = 1 << 10;
/// Turns from each start.
const ROUNDS: usize = 8;

/// Some of a matrix's groups: whole rows, evenly spread. What is not finite is left to those who quantize it.
pub fn sample(rows: usize, columns: usize, row: impl Fn(usize, &mut [f32])) -> Vec<Numbers> {
    let taken = (SAMPLE * GROUP).div_ceil(columns.max(1)).min(rows);
    let mut numbers = vec![0.0; columns];
    let mut sample = Vec::with_capacity(taken * columns / GROUP);
    for i in 0..taken {
        row(i * rows / taken, &mut numbers);
        sample.extend(numbers.as_chunks().0.iter().filter(|group| group.iter().all(|x| x.is_finite())));
    }
    sample
}

/// The codebook with the least squared error on some groups.
pub fn fit(groups: &[Numbers]) -> Codebook {
    let mut best = (error(groups, &IQ4_CODEBOOK), IQ4_CODEBOOK);
    let even = std::array::from_fn(|i| (UNIFORM[i] as f32 * 127.0 / 8.0) as i8);
    for start in [IQ4_CODEBOOK, NF4, even] {
        let learned = learned(groups, start);
        let error = error(groups, &learned);
        if error < best.0 {
            best = (error, learned);
        }
    }
    best.1
}

/// Σ (x − scale · level)².
pub fn error(groups: &[Numbers], codebook: &Codebook) -> f64 {
    let levels = Levels::new(codebook);
    let of_group = |x: &Numbers| -> f64 {
        let scale = f16::from_f32(levels.scale(x).unwrap_or(0.0)).to_f32();
        let level = |code: u8| scale * f32::from(codebook[usize::from(code)]);
        x.iter().zip(levels.codes(x, scale)).map(|(x, code)| f64::from(x - level(code)).powi(2)).sum()
    };
    groups.iter().map(of_group).sum()
}

/// Where k-means comes from a start.
fn learned(groups: &[Numbers], start: Codebook) -> Codebook {
    let mut codebook = start;
    let mut scales: Vec<f32> = Vec::new();
    for _ in 0..ROUNDS {
        let levels = Levels::new(&codebook);
        if scales.is_empty() {
            scales.extend(groups.iter().map(|x| levels.scale(x).unwrap_or(0.0)));
        }
        let (mut with, mut square) = ([0.0f64; 16], [0.0f64; 16]);
        for (x, scale) in groups.iter().zip(&mut scales) {
            *scale = levels.improved(x, *scale);
            for (x, code) in x.iter().zip(levels.codes(x, *scale)) {
                with[usize::from(code)] += f64::from(x * *scale);
                square[usize::from(code)] += f64::from(*scale * *scale);
            }
        }
        let mean = |i: usize| if square[i] > 0.0 { with[i] / square[i] } else { f64::from(codebook[i]) };
        let mut means: [f64; 16] = std::array::from_fn(mean);
        means.sort_unstable_by(f64::total_cmp);
        let furthest = means.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
        for scale in &mut scales {
            *scale *= (furthest / 127.0) as f32;
        }
        codebook = rounded(&means.map(|mean| mean / furthest * 127.0));
    }
    codebook
}

/// Levels as bytes, no two alike, the first eight not above 0 and the others not below.
fn rounded(means: &[f64; 16]) -> Codebook {
    let mut levels = means.map(|mean| mean.round() as i32);
    for (i, level) in (0..8).zip(&mut levels) {
        *level = (*level).min(i - 7);
    }
    for level in &mut levels[8..] {
        *level = (*level).max(0);
    }
    for i in 1..16 {
        levels[i] = levels[i].max(levels[i - 1] + 1);
    }
    // What was pushed above the end goes down again.
    for (i, level) in (0..).zip(&mut levels) {
        *level = (*level).min(112 + i);
    }
    debug_assert!(levels[7] <= 0 && levels[8] >= 0);
    levels.map(|level| level as i8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::quantize::tests::groups;

    #[test]
    fn it_is_better_than_the_fixed_ones_where_numbers_are_not_spread_as_they_suppose() {
        let even: Vec<Numbers> = groups(1000).iter().map(|x| x.map(|x| (x * 40.0).sin())).collect();
        let learned = fit(&even);
        assert!(learned.is_sorted_by(|a, b| a < b), "{learned:?}");
        for fixed in [IQ4_CODEBOOK, NF4] {
            assert!(error(&even, &learned) < 0.8 * error(&even, &fixed), "{fixed:?}");
        }
    }

    #[test]
    fn it_finds_the_levels_that_numbers_lie_on() {
        let levels: Codebook = [-127, -101, -85, -64, -50, -35, -20, -11, 3, 13, 22, 38, 50, 72, 89, 110];
        let group = |g: usize| std::array::from_fn(|i| (g + 1) as f32 * f32::from(levels[(g + i * 5) % 16]));
        assert_eq!(fit(&(0..300).map(group).collect::<Vec<_>>()), levels);
    }

    #[test]
    fn its_halves_keep_to_one_sign_each_whatever_the_numbers() {
        let none_below: Vec<Numbers> = groups(300).iter().map(|x| x.map(f32::abs)).collect();
        let none_above = none_below.iter().map(|x| x.map(|x| -x)).collect();
        // One of them is far below, so that scales are negative nowhere and levels would go where the others are.
        let one_below: Vec<Numbers> = none_below
            .iter()
            .map(|x| {
                let mut x = *x;
                x[0] = x.iter().fold(0.0, |most: f32, x| most.max(*x)) * -1.3;
                x
            })
            .collect();
        for groups in [groups(300), none_below, none_above, one_below, vec![[5.0; GROUP]; 9]] {
            let learned = fit(&groups);
            assert!(learned.is_sorted_by(|a, b| a < b), "{learned:?}");
            assert!(learned[7] <= 0 && learned[8] >= 0, "{learned:?}");
        }
    }

    #[test]
    fn it_is_never_worse_than_the_fixed_ones_whatever_the_numbers() {
        let on_iq4_nl = (0..100).map(|g| std::array::from_fn(|i| f32::from(IQ4_CODEBOOK[(g * i) % 16]))).collect();
        let one_each = (0..100).map(|g| std::array::from_fn(|i| if i == g % 32 { 1.0 } else { 0.0 })).collect();
        for groups in [on_iq4_nl, one_each, vec![[0.0; GROUP]; 5], vec![[1e-30; GROUP]; 5], Vec::new()] {
            assert!(error(&groups, &fit(&groups)) <= error(&groups, &IQ4_CODEBOOK));
        }
    }

    #[test]
    fn a_sample_is_spread_over_the_rows_and_leaves_out_what_is_no_number() {
        let row = |r: usize, out: &mut [f32]| out.fill(if r == 0 { f32::NAN } else { r as f32 });
        let sample = sample(100_000, 64, row);
        assert_eq!(sample.len(), SAMPLE - 2);
        assert_eq!((sample[0][0], sample[SAMPLE - 3][31]), (195.0, 99_804.0));
    }
}
