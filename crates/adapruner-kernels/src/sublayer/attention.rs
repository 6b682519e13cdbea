//! The attention sublayer: `x + W_o · attention(q, k, v)` with `q`, `k` and `v` linear
//! in the norm of `x`, `q` and `k` turned by their positions.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `N` query heads, `K` key-value
//! heads, `D` head width, `R` rows.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

use super::{Affine, Running, add, fused_norm, matrix};
use crate::{
    attention,
    buffer::{Held, Sheets, fused, slice, written},
    composition::rows,
    norm, packed_attention, rope, threads,
};

/// The weights of an attention sublayer, and the positions it is run at.
#[derive(Clone)]
pub struct SelfAttention {
    /// Weight of the norm before it, `[H]`.
    pub norm: Tensor,
    /// Of the norm.
    pub eps: f64,
    /// `D`.
    pub head_dim: usize,
    /// `[N·D, H]`.
    pub q: Affine,
    /// `[K·D, H]`.
    pub k: Affine,
    /// `[K·D, H]`.
    pub v: Affine,
    /// `[H, N·D]`.
    pub o: Affine,
    /// Lengths of the sequences whose rows follow each other in `[1, T, H]`, for
    /// packed ones.
    pub lengths: Option<Arc<[usize]>>,
    /// Cosines of the positions, `[T, D/2]`.
    pub cos: Tensor,
    /// Sines of the positions, `[T, D/2]`.
    pub sin: Tensor,
}

impl SelfAttention {
    /// The sublayer added to its input; tokens see themselves and those before
    /// them.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, H]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or a tap's own.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let maps = [&self.q, &self.k, &self.v, &self.o];
        let tables = fused_norm(&self.cos) && fused_norm(&self.sin);
        let weights = maps.iter().all(|map| map.fused()) && fused_norm(&self.norm) && tables;
        if !weights || !fused(&[x]) || x.elem_count() == 0 {
            return self.composed(x);
        }
        let (b, t, hidden) = x.dims3()?;
        let (of_q, of_k) = (self.q.outputs(hidden)?, self.k.outputs(hidden)?);
        let d = self.head_dim;
        let table = [t, d / 2];
        if self.norm.dims() != [hidden]
            || self.v.outputs(hidden)? != of_k
            || self.o.outputs(of_q)? != hidden
            || of_q == 0
            || d == 0
            || [of_q % d, of_k % d, d % 2] != [0; 3]
            || self.cos.dims() != table
            || self.sin.dims() != table
        {
            bail!("attention: the weights do not fit each other or input {:?}", x.shape());
        }
        let sizes = attention::Sizes::of(
            &Shape::from((b, t, of_q / d, d)),
            &Shape::from((b, t, of_k / d, d)),
        )?;
        if let Some(lengths) = &self.lengths {
            attention::check_lengths(sizes, lengths)?;
        }
        let heads = (of_q / d, of_k / d);
        let saved = x.track_op().then(OnceLock::new);
        x.contiguous()?.apply_op1(Fused { weights: self.clone(), sizes, heads, saved })
    }

    /// Operation by operation.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let h = norm::rms_norm(x, &self.norm, self.eps)?;
        let heads = |map: &Affine| map.apply(&h)?.reshape((b, t, (), self.head_dim));
        let q = rope(&heads(&self.q)?, &self.cos, &self.sin)?;
        let k = rope(&heads(&self.k)?, &self.cos, &self.sin)?;
        let v = heads(&self.v)?;
        let y = match &self.lengths {
            None => attention(&q, &k, &v)?,
            Some(lengths) => packed_attention(&q, &k, &v, lengths)?,
        };
        x + self.o.apply(&y.reshape((b, t, ()))?)?
    }
}

struct Fused {
    weights: SelfAttention,
    sizes: attention::Sizes,
    /// `N` and `K`.
    heads: (usize, usize),
    /// What backward needs, where there will be one.
    saved: Option<OnceLock<Saved>>,
}

struct Saved {
    /// The normed input, `[R, H]`.
    h: Tensor,
    /// Turned queries, `[B, T, N, D]`.
    q: Vec<f32>,
    /// Turned keys, `[B, T, K, D]`.
    k: Vec<f32>,
    /// Values, `[B, T, K, D]`.
    v: Vec<f32>,
    /// Attended values, `[R, N·D]`.
    y: Tensor,
    /// Of the scores, `[B, T, N]`.
    logsumexp: Vec<f32>,
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let SelfAttention { norm, eps, head_dim, q, k, v, o, lengths, cos, sin } = &self.weights;
        let x: &[f32] = slice(x, layout)?;
        let hidden = norm.elem_count();
        let rows = x.len() / hidden;
        let [q, k, v, o] = [q, k, v, o].map(|map| map.running(rows));
        let (q, k, v, o) = (q?, k?, v?, o?);
        let (norm, cos, sin) = (Held::new(norm), Held::new(cos), Held::new(sin));
        let tables = rope::Tables { cos: cos.slice()?, sin: sin.slice()?, half: head_dim / 2 };
        let norm: &[f32] = norm.slice()?;
        let (of_q, of_k) = self.heads;
        let widths = [of_q, of_k, of_k].map(|heads| heads * head_dim);

        let step = Running::rows_of_a_block(&[&q, &k, &v]);
        let mut all = Sheets::new(rows, [hidden, widths[0], widths[1], widths[2]]);
        threads::blocks(all.blocks(step), |at, [h, to_q, to_k, to_v]| {
            let first = at * step;
            norm::write(&x[first * hidden..][..h.len()], norm, *eps, h);
            // SAFETY: written above.
            let h = unsafe { written(h) };
            let mut plain = Sheets::new(h.len() / hidden, [widths[0], widths[1]]);
            for [plain_q, plain_k] in plain.blocks(rows) {
                let maps = [&q, &k, &v];
                let [q, k, _] = Running::write(maps, h, first, [plain_q, plain_k, &mut *to_v])?;
                tables.write(q, first, of_q, false, to_q);
                tables.write(k, first, of_k, false, to_k);
            }
            Ok(())
        })?;
        // SAFETY: all blocks were run.
        let [h, q, k, v] = unsafe { all.written() };
        let (attended, logsumexp) = attention::forward(&q, &k, &v, self.sizes, lengths.as_deref());

        let step = Running::rows_of_a_block(&[&o]);
        let (mut y, width) = (Sheets::new(rows, [hidden]), widths[0]);
        threads::blocks(y.blocks(step), |at, [y]| {
            let first = at * step;
            let rows = y.len() / hidden;
            let y = y.write_copy_of_slice(&x[first * hidden..][..rows * hidden]);
            o.add(&attended[first * width..][..rows * width], first, y)
        })?;
        // SAFETY: all blocks were run.
        let [y] = unsafe { y.written() };
        if let Some(saved) = &self.saved {
            let (h, y) = (matrix(h, hidden)?, matrix(attended, width)?);
            saved.get_or_init(|| Saved { h, q, k, v, y, logsumexp });
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(saved) = self.saved.as_ref().and_then(OnceLock::get) else {
            bail!("attention: backward of an input that was not tracked")
        };
        let Saved { h, q, k, v, y, logsumexp } = saved;
        let SelfAttention { norm, eps, head_dim, lengths, cos, sin, .. } = &self.weights;
        let grad = rows(grad)?;
        let grad_y = self.weights.o.backward(y, &grad, None)?;
        let of_y = Held::new(y);
        let start = attention::Saved { q, k, v, y: of_y.slice()?, logsumexp, grad: &grad_y };
        let [grad_q, grad_k, grad_v] = attention::backward(&start, self.sizes, lengths.as_deref());
        drop(grad_y);
        let (of_q, of_k) = self.heads;
        let grad_q = matrix(rope::turn(&grad_q, cos, sin, of_q, true)?, of_q * head_dim)?;
        let grad_k = matrix(rope::turn(&grad_k, cos, sin, of_k, true)?, of_k * head_dim)?;
        let grad_v = matrix(grad_v, of_k * head_dim)?;
        let grad_h = self.weights.v.backward(h, &grad_v, None)?;
        let grad_h = self.weights.k.backward(h, &grad_k, Some(grad_h))?;
        let grad_h = self.weights.q.backward(h, &grad_q, Some(grad_h))?;
        let (of_x, of_norm, of_grad) = (Held::new(x), Held::new(norm), Held::new(&grad));
        let mut grad_x = norm::grad_input(of_x.slice()?, of_norm.slice()?, &grad_h, *eps);
        add(&mut grad_x, of_grad.slice()?);
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), &Device::Cpu)?))
    }
}
