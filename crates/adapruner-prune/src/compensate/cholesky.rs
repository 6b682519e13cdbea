//! Cholesky factors of symmetric matrices, in f64.
//!
//! Matrices are dense rows. Rows are worked on in parallel, each number by one
//! thread and in one order, so results do not depend on the number of threads.

use rayon::prelude::*;

/// Columns that are factored before the rows below them take part.
const BLOCK: usize = 64;
/// Right sides that are solved together, while a row of the factor is in cache.
pub(super) const TOGETHER: usize = 8;
/// Partial sums of a dot product.
const LANES: usize = 16;

/// `L` with `L·Lᵀ = A`; only its lower triangle is used.
pub(super) struct Cholesky {
    size: usize,
    factor: Vec<f64>,
}

impl Cholesky {
    /// Factors a symmetric matrix, of which the lower triangle is read. `None`
    /// where it is not positive definite.
    ///
    /// # Shapes
    /// `[size, size]`.
    pub(super) fn new(mut matrix: Vec<f64>, size: usize) -> Option<Self> {
        if size == 0 {
            return Some(Self { size, factor: matrix });
        }
        for start in (0..size).step_by(BLOCK) {
            let end = (start + BLOCK).min(size);
            let (done, below) = matrix.split_at_mut(end * size);
            for row in start..end {
                let (above, this) = done.split_at_mut(row * size);
                let this = &mut this[..size];
                eliminate(this, above, size, start..row);
                let pivot = this[row] - dot(&this[..row], &this[..row]);
                // Not so for NaN either.
                let positive = pivot > 0.0 && pivot.is_finite();
                if !positive {
                    return None;
                }
                this[row] = pivot.sqrt();
            }
            let done = &*done;
            below.par_chunks_mut(size).for_each(|row| eliminate(row, done, size, start..end));
        }
        Some(Self { size, factor: matrix })
    }

    /// Solves `A·x = b` in place for every row `b`.
    ///
    /// # Shapes
    /// `[.., size]`.
    pub(super) fn solve(&self, right: &mut [f64]) {
        let (size, factor) = (self.size, &self.factor);
        right.par_chunks_mut(TOGETHER * size.max(1)).for_each(|some| {
            for row in 0..size {
                let l = &factor[row * size..];
                for b in some.chunks_mut(size) {
                    b[row] = (b[row] - dot(&l[..row], &b[..row])) / l[row];
                }
            }
            for row in (0..size).rev() {
                let l = &factor[row * size..];
                for b in some.chunks_mut(size) {
                    b[row] /= l[row];
                    let value = b[row];
                    b[..row].iter_mut().zip(l).for_each(|(b, l)| *b -= value * l);
                }
            }
        });
    }
}

/// Entries `columns` of a row of the factor, by the factor's rows `above`.
fn eliminate(row: &mut [f64], above: &[f64], size: usize, columns: std::ops::Range<usize>) {
    for column in columns {
        let l = &above[column * size..];
        row[column] = (row[column] - dot(&row[..column], &l[..column])) / l[column];
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `M·Mᵀ` of a matrix without structure, `size` wide.
    fn gram(size: usize, rank: usize) -> Vec<f64> {
        let m: Vec<f64> = (0..size * rank).map(|at| ((at * at + 7 * at) as f64).sin()).collect();
        let row = |at: usize| &m[at * rank..(at + 1) * rank];
        (0..size * size).map(|at| dot(row(at / size), row(at % size))).collect()
    }

    #[test]
    fn solutions_solve() {
        for size in [1, 2, 63, 64, 65, 150] {
            let matrix = gram(size, 2 * size + 3);
            let x: Vec<f64> = (0..2 * size).map(|at| (at as f64).cos()).collect();
            let times = |x: &[f64]| -> Vec<f64> {
                x.chunks(size)
                    .flat_map(|x| matrix.chunks(size).map(|row| dot(row, x)).collect::<Vec<_>>())
                    .collect()
            };
            let mut found = times(&x);
            Cholesky::new(matrix.clone(), size).unwrap().solve(&mut found);
            let most = found.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            // f64 rounding times a condition number of some hundreds.
            assert!(most < 1e-9, "{size}: {most}");
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        assert!(Cholesky::new(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![0.0; 4], 2).is_none());
        assert!(Cholesky::new(vec![f64::NAN; 4], 2).is_none());
        assert!(Cholesky::new(Vec::new(), 0).is_some());
    }
}
