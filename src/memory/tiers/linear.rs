//! What little linear algebra landmarks need.

/// The lower triangle L of A = L·Lᵀ, in place, for a symmetric positive definite A, (n, n) row-major. A pivot that
/// rounding has made too small is raised, which adds a little to the diagonal of A.
pub(super) fn cholesky(a: &mut [f64], n: usize) {
    for i in 0..n {
        let (above, rest) = a.split_at_mut(i * n);
        let row = &mut rest[..n];
        for j in 0..i {
            let other = &above[j * n..][..n];
            let sum: f64 = row[..j].iter().zip(&other[..j]).map(|(x, y)| x * y).sum();
            row[j] = (row[j] - sum) / other[j];
        }
        let sum: f64 = row[..i].iter().map(|x| x * x).sum();
        row[i] = (row[i] - sum).max(1e-6).sqrt();
        row[i + 1..].fill(0.0);
    }
}

/// x = L⁻¹b in place.
pub(super) fn solve_lower(l: &[f64], x: &mut [f64]) {
    let n = x.len();
    for i in 0..n {
        let row = &l[i * n..][..n];
        let sum: f64 = row[..i].iter().zip(&*x).map(|(l, x)| l * x).sum();
        x[i] = (x[i] - sum) / row[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solution_solves() {
        let a = [4.0, 2.0, -2.0, 2.0, 10.0, 5.0, -2.0, 5.0, 9.0];
        let mut l = a;
        cholesky(&mut l, 3);
        for i in 0..3 {
            for j in 0..3 {
                let product: f64 = (0..3).map(|k| l[3 * i + k] * l[3 * j + k]).sum();
                assert!((product - a[3 * i + j]).abs() < 1e-12);
            }
        }
        let mut x = [8.0, -3.0, 1.0];
        solve_lower(&l, &mut x);
        for (i, b) in [8.0, -3.0, 1.0].into_iter().enumerate() {
            let product: f64 = (0..3).map(|k| l[3 * i + k] * x[k]).sum();
            assert!((product - b).abs() < 1e-12);
        }
    }
}
