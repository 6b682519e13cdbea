//! The product of two matrices, by the kernels of the linear map.

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};

use crate::{
    buffer::{Held, build, rewritten},
    gemm::{multiply, par_multiply},
    view::View,
};

/// `a · b` in f32; no gradients. Either may be the transpose of a matrix that is
/// held row by row, others are copied.
///
/// # Shapes
/// f32 `[M, K]`, `[K, N]` → f32 `[M, N]`.
///
/// # Errors
/// Shapes that do not fit, or tensors that are not f32 or not on the CPU.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((rows, inner), (found, cols)) = (a.dims2()?, b.dims2()?);
    if inner != found {
        bail!("matmul: {:?} does not fit {:?}", a.shape(), b.shape());
    }
    let (a, b) = (Operand::new(a)?, Operand::new(b)?);
    let (of_a, of_b) = (Held::new(&a.rows), Held::new(&b.rows));
    let (left, right) = (a.view(of_a.slice()?)?, b.view(of_b.slice()?)?);
    // SAFETY: the product writes everything.
    let values = unsafe { build(rows * cols, |to| par_multiply(left, right, to, cols)) };
    Tensor::from_vec(values, (rows, cols), &Device::Cpu)
}

/// Some columns of a row-major matrix.
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    /// The matrix, row by row.
    pub values: &'a [f32],
    /// Columns of the matrix.
    pub width: usize,
    /// Which of them.
    pub range: Range<usize>,
}

impl<'a> Columns<'a> {
    fn view(&self) -> View<'a> {
        let rows = self.values.len() / self.width.max(1);
        View::dense(self.values, rows, self.width).part(0..rows, self.range.clone())
    }
}

/// `aᵀ · b` in f32 on this thread, such as a tile of a weight's gradient from the output's
/// gradient and the input.
///
/// # Shapes
/// `[R, M]`, `[R, N]` → `[M, N]`, all of which is written.
///
/// # Panics
/// Columns that do not exist, other numbers of rows, or a target of another size.
pub fn transposed_product(a: &Columns<'_>, b: &Columns<'_>, to: &mut [f32]) {
    assert_eq!(to.len(), a.range.len() * b.range.len(), "elements of a product");
    // SAFETY: the product writes numbers.
    let to = unsafe { rewritten(to) };
    multiply(a.view().t(), b.view(), 1.0, to);
}

/// A matrix, and which way it is held.
struct Operand {
    /// Row by row.
    rows: Tensor,
    /// Whether the operand is the transpose.
    transposed: bool,
}

impl Operand {
    fn new(t: &Tensor) -> Result<Self> {
        let transposed = !t.is_contiguous() && t.t()?.is_contiguous();
        let rows = if transposed { t.t()? } else { t.contiguous()? };
        Ok(Self { rows, transposed })
    }

    fn view<'a>(&self, values: &'a [f32]) -> Result<View<'a>> {
        let (rows, cols) = self.rows.dims2()?;
        let view = View::dense(values, rows, cols);
        Ok(if self.transposed { view.t() } else { view })
    }
}
