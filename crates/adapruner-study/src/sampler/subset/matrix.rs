//! Linear algebra for the surrogate.

/// The lower triangle L of a symmetric positive definite matrix L Lᵀ.
#[derive(Debug, Clone)]
pub(super) struct Cholesky {
    rows: Vec<Vec<f64>>,
}

impl Cholesky {
    /// Factors the matrix of size `n` whose elements on and below the diagonal
    /// `element` gives by row and column.
    pub(super) fn new(n: usize, element: impl Fn(usize, usize) -> f64) -> Self {
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(n);
        for i in 0..n {
            let mut row = Vec::with_capacity(i + 1);
            for j in 0..=i {
                let above = if j == i { &row } else { &rows[j] };
                let rest = element(i, j) - dot(&row[..j], &above[..j]);
                // Never 0 or less but by rounding: the diagonal has a ridge.
                row.push(if j == i { rest.max(f64::EPSILON).sqrt() } else { rest / rows[j][j] });
            }
            rows.push(row);
        }
        Self { rows }
    }

    /// Rows of the matrix.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.rows.len()
    }

    /// The x of L Lᵀ x = `right`.
    pub(super) fn solve(&self, right: Vec<f64>) -> Vec<f64> {
        self.solve_upper(self.solve_lower(right))
    }

    /// The x of L x = `right`.
    pub(super) fn solve_lower(&self, mut right: Vec<f64>) -> Vec<f64> {
        for (i, row) in self.rows.iter().enumerate() {
            right[i] = (right[i] - dot(&row[..i], &right[..i])) / row[i];
        }
        right
    }

    /// The x of Lᵀ x = `right`.
    pub(super) fn solve_upper(&self, mut right: Vec<f64>) -> Vec<f64> {
        for (i, row) in self.rows.iter().enumerate().rev() {
            right[i] /= row[i];
            let (before, x) = right.split_at_mut(i);
            before.iter_mut().zip(row).for_each(|(r, l)| *r -= l * x[0]);
        }
        right
    }
}

/// Σ aᵢ bᵢ, in four sums that run side by side.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_fours, a_rest) = a.as_chunks::<4>();
    let (b_fours, b_rest) = b.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (a, b) in a_fours.iter().zip(b_fours) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_what_it_factored() {
        let matrix = |i: usize, j: usize| {
            let shared = (0..6).map(|k| ((i * k) as f64).cos() * ((j * k) as f64).cos());
            shared.sum::<f64>() + if i == j { 0.5 } else { 0.0 }
        };
        let factor = Cholesky::new(9, matrix);
        let x: Vec<f64> = (0..9).map(|i| f64::from(i).sin()).collect();
        let row = |i: usize| (0..9).map(|j| matrix(i, j)).collect::<Vec<f64>>();
        let right = (0..9).map(|i| dot(&row(i), &x)).collect();
        let solved = factor.solve(right);
        // A condition number below 100.
        assert!(x.iter().zip(solved).all(|(x, s)| (x - s).abs() < 1e-12));
    }

    #[test]
    fn solves_the_upper_triangle() {
        let factor = Cholesky::new(2, |i, j| [[4.0, 2.0], [2.0, 5.0]][i][j]);
        // L = [[2, 0], [1, 2]]
        assert_eq!(factor.solve_upper(vec![4.0, 2.0]), [1.5, 1.0]);
    }
}
