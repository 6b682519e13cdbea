//! The product of two matrices, by the kernels of the linear map.

use candle_core::{Device, Result, Tensor, bail};

use crate::{
    buffer::{Held, build},
    gemm::par_multiply,
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

/// A matrix, and which way it is held.
struct Operand {
    /// Row by row.
    rows: Tensor,
    /// Whether the operand is the transpose.
    turned: bool,
}

impl Operand {
    fn new(t: &Tensor) -> Result<Self> {
        let turned = !t.is_contiguous() && t.t()?.is_contiguous();
        let rows = if turned { t.t()? } else { t.contiguous()? };
        Ok(Self { rows, turned })
    }

    fn view<'a>(&self, values: &'a [f32]) -> Result<View<'a>> {
        let (rows, cols) = self.rows.dims2()?;
        let view = View::dense(values, rows, cols);
        Ok(if self.turned { view.t() } else { view })
    }
}
