//! The sums of [`super::fused`] by tensor operations, for any device and number
//! type; here a sample's weight gradient is held whole for a moment.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use adapruner_model::{ProjectionGrad, wide::sum_in_f64};

/// `Σ w·g_s` and `Σ (w·g_s)²` over the samples so far, `[out, in]` each.
#[derive(Default)]
pub(super) struct Elements(Option<(Tensor, Tensor)>);

/// Sums over the pruned axis: signed, element and Fisher per vector, for each
/// sample of a micro-batch.
pub(super) fn vector_sums(
    grad: &ProjectionGrad<'_>,
    set: Option<&mut Elements>,
) -> Result<Vec<[Vec<f64>; 3]>> {
    let axis = if grad.projection.prunes_columns() { 0 } else { 1 };
    let weight = grad.weight.to_dtype(DType::F32)?;
    let mut out = Vec::with_capacity(grad.samples.len());
    let mut set = set;
    for rows in grad.rows {
        let part =
            |t: &Tensor| t.narrow(0, rows.start, rows.len())?.to_dtype(DType::F32)?.contiguous();
        let gradient = match rows.is_empty() {
            true => weight.zeros_like()?,
            false => part(grad.grad_output)?.t()?.contiguous()?.matmul(&part(grad.input)?)?,
        };
        let product = (&weight * gradient)?;
        let square = product.sqr()?;
        out.push([
            sums(&product, axis)?,
            sums(&product.abs()?, axis)?,
            sums(&(&square * 0.5)?, axis)?,
        ]);
        if let Some(Elements(elements)) = set.as_deref_mut() {
            *elements = Some(match elements.take() {
                None => (product, square),
                Some((first, second)) => ((first + product)?, (second + square)?),
            });
        }
    }
    Ok(out)
}

/// `Σ |Σ_s w·g_s|` and `Σ |Σ_s (w·g_s − ½·(w·g_s)²)|` per vector.
pub(super) fn set_terms(elements: Elements, columns: bool) -> Result<Option<[Vec<f64>; 2]>> {
    let axis = if columns { 0 } else { 1 };
    let Some((first, square)) = elements.0 else { return Ok(None) };
    let mix = (&first - (square * 0.5)?)?.abs()?;
    Ok(Some([sums(&first.abs()?, axis)?, sums(&mix, axis)?]))
}

/// The signed sums alone, for each sample of a micro-batch: over a row they are
/// `Σ_t dy·(W·x)`, over a column `Σ_t x·(Wᵀ·dy)`, so no weight gradient is made.
///
/// This takes one matrix product for the whole micro-batch, as large as the
/// weight gradients' own, but no pass over `out × in` products per sample.
pub(super) fn coarse_sums(grad: &ProjectionGrad<'_>) -> Result<Vec<Vec<f64>>> {
    let weight = grad.weight.to_dtype(DType::F32)?;
    let input = grad.input.to_dtype(DType::F32)?.contiguous()?;
    let grad_output = grad.grad_output.to_dtype(DType::F32)?.contiguous()?;
    let product = if grad.projection.prunes_columns() {
        (input * product(&grad_output, &weight)?)?
    } else {
        (product(&input, &weight.t()?)? * grad_output)?
    };
    let of = |rows: &Range<usize>| match rows.is_empty() {
        true => Ok(vec![0.0; product.dim(1)?]),
        false => sums(&product.narrow(0, rows.start, rows.len())?, 0),
    };
    grad.rows.iter().map(of).collect()
}

/// `a · b`; on the CPU with the same bits in a row whatever rows are beside it.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { adapruner_kernels::matmul(a, b) } else { a.matmul(b) }
}

/// Sums along an axis.
fn sums(values: &Tensor, axis: usize) -> Result<Vec<f64>> {
    sum_in_f64(values, axis)?.to_vec1()
}
