//! The attention sublayer: `x + W_o · (m · attention(q, k, v))` with `q`, `k` and `v`
//! linear in the norm of `x`, `q` and `k` turned by their positions, and `m` the mask of
//! what the heads give, 1 where there is none.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `N` query heads, `K` key-value
//! heads, `D` head width, `R` rows.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

use super::{Affine, Running, add, by_map, fused_vector, matrix, rows_of, scale_columns};
use crate::{
    attention,
    buffer::{Held, Sheets, fused, room, slice, written},
    composition::rows,
    map::Way,
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
    /// `[H, N·D]`; its mask is that of what the heads give.
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
        let tables = fused_vector(&self.cos) && fused_vector(&self.sin);
        let weights = maps.iter().all(|map| map.fused()) && fused_vector(&self.norm) && tables;
        let others_masked = maps[..3].iter().any(|map| map.mask.is_some());
        if !weights || others_masked || !fused(&[x]) || x.elem_count() == 0 {
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
    /// Attended values, before the mask, `[R, N·D]`.
    y: Tensor,
    /// Of the scores, `[B, T, N]`.
    logsumexp: Vec<f32>,
}

impl Fused {
    /// Query, key, value and output.
    fn maps(&self) -> [&Affine; 4] {
        let SelfAttention { q, k, v, o, .. } = &self.weights;
        [q, k, v, o]
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let SelfAttention { norm, eps, head_dim, q, k, v, o, lengths, cos, sin } = &self.weights;
        let x: &[f32] = slice(x, layout)?;
        let of_mask = o.mask.as_ref().map(Held::new);
        let hidden = norm.elem_count();
        let rows = x.len() / hidden;
        let [q, k, v, o] = [q, k, v, o].map(|map| map.running(Way::Forward, rows));
        let (q, k, v, o) = (q?, k?, v?, o?);
        let (norm, cos, sin) = (Held::new(norm), Held::new(cos), Held::new(sin));
        let tables = rope::Tables { cos: cos.slice()?, sin: sin.slice()?, half: head_dim / 2 };
        let norm: &[f32] = norm.slice()?;
        let (of_q, of_k) = self.heads;
        let widths = [of_q, of_k, of_k].map(|heads| heads * head_dim);

        let blocks = Running::blocks(&[&q, &k, &v]);
        let mut all = Sheets::new(rows, [hidden, widths[0], widths[1], widths[2]]);
        threads::blocks(all.blocks(blocks), |at, [h, to_q, to_k, to_v]| {
            let first = blocks.range(at).start;
            norm::write(&x[first * hidden..][..h.len()], norm, *eps, h);
            // SAFETY: written above.
            let h = unsafe { written(h) };
            let (mut plain_q, mut plain_k) = (Vec::new(), Vec::new());
            let plain = [room(&mut plain_q, to_q.len()), room(&mut plain_k, to_k.len()), to_v];
            let [q, k, _] = Running::write([&q, &k, &v], h, first, plain)?;
            tables.write(q, first, of_q, false, to_q);
            tables.write(k, first, of_k, false, to_k);
            Ok(())
        })?;
        // SAFETY: all blocks were run.
        let [h, q, k, v] = unsafe { all.written() };
        let (attended, logsumexp) = attention::forward(&q, &k, &v, self.sizes, lengths.as_deref());
        let masked = of_mask.as_ref().map(|mask| masked(&attended, mask)).transpose()?;
        let read = masked.as_ref().unwrap_or(&attended);

        let blocks = Running::blocks(&[&o]);
        let (mut y, width) = (Sheets::new(rows, [hidden]), widths[0]);
        threads::blocks(y.blocks(blocks), |at, [y]| {
            let rows = blocks.range(at);
            let y = y.write_copy_of_slice(rows_of(x, rows.clone(), hidden));
            o.add(rows_of(read, rows.clone(), width), rows.start, y)
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
        let [q_map, k_map, v_map, o_map] = self.maps();
        let grad = rows(grad)?;
        let all = grad.dim(0)?;
        let (hidden, (heads_q, heads_k)) = (norm.elem_count(), self.heads);
        let (of_q, of_k) = (heads_q * head_dim, heads_k * head_dim);
        let [of_x, of_norm, of_grad] = [x, norm, &grad].map(Held::new);
        let [of_h, of_y, of_cos, of_sin] = [h, y, cos, sin].map(Held::new);
        let (x_values, dy): (&[f32], &[f32]) = (of_x.slice()?, of_grad.slice()?);
        let (h_values, y_values): (&[f32], &[f32]) = (of_h.slice()?, of_y.slice()?);
        let norm: &[f32] = of_norm.slice()?;
        let tables =
            rope::Tables { cos: of_cos.slice()?, sin: of_sin.slice()?, half: head_dim / 2 };

        let of_mask = o_map.mask.as_ref().map(Held::new);
        let masked_y = of_mask.as_ref().map(|mask| masked(y_values, mask)).transpose()?;
        let masked_y = masked_y.map(|y| matrix(y, of_q)).transpose()?;
        // What the last map read.
        let read = masked_y.as_ref().unwrap_or(y);
        let of_read = Held::new(read);
        let read_values: &[f32] = of_read.slice()?;

        let o = o_map.running(Way::Back, all)?;
        let blocks = Running::blocks(&[&o]);
        let mut made = Sheets::new(all, [of_q]);
        let parts = threads::blocks(made.blocks(blocks), |at, [to]| {
            let range = blocks.range(at);
            let [read, dy] = [(read_values, of_q), (dy, hidden)]
                .map(|(values, width)| rows_of(values, range.clone(), width));
            Ok([o.pull(read, dy, range.start, to)?.1])
        })?;
        // SAFETY: all blocks were run.
        let [grad_read] = unsafe { made.written() };
        let [of_o] = by_map(parts);
        o_map.show(read, &grad, of_o)?;
        let grad_y = match &of_mask {
            None => grad_read,
            Some(mask) => {
                let grad_y = masked(&grad_read, mask)?;
                if let Some(tap) = &o_map.tap {
                    tap.mask(y, &matrix(grad_read, of_q)?)?;
                }
                grad_y
            }
        };
        let start = attention::Saved { q, k, v, y: y_values, logsumexp, grad: &grad_y };
        let [grad_q, grad_k, grad_v] = attention::backward(&start, self.sizes, lengths.as_deref());
        drop(grad_y);

        let [q, k, v] = [q_map, k_map, v_map].map(|map| map.running(Way::Back, all));
        let (q, k, v) = (q?, k?, v?);
        let blocks = Running::blocks(&[&q, &k, &v]);
        let mut made = Sheets::new(all, [of_q, of_k, hidden]);
        let parts = threads::blocks(made.blocks(blocks), |at, [to_q, to_k, to_x]| {
            let range = blocks.range(at);
            let first = range.start;
            let part = |values, width| rows_of(values, range.clone(), width);
            let h = part(h_values, hidden);
            tables.write(part(&grad_q, of_q), first, heads_q, true, to_q);
            tables.write(part(&grad_k, of_k), first, heads_k, true, to_k);
            // SAFETY: written above.
            let (grad_q, grad_k) = unsafe { (written(to_q), written(to_k)) };
            let mut normed = Vec::new();
            let to_h = room(&mut normed, to_x.len());
            let (grad_h, of_v) = v.pull(h, part(&grad_v, of_k), first, to_h)?;
            let of_k = k.pull_onto(h, grad_k, first, grad_h)?;
            let of_q = q.pull_onto(h, grad_q, first, grad_h)?;
            norm::write_grad_input(part(x_values, hidden), norm, grad_h, *eps, to_x);
            // SAFETY: written above.
            add(unsafe { written(to_x) }, part(dy, hidden));
            Ok([of_q, of_k, of_v])
        })?;
        // SAFETY: all blocks were run.
        let [grad_q, grad_k, grad_x] = unsafe { made.written() };
        let [parts_q, parts_k, parts_v] = by_map(parts);
        v_map.show(h, &matrix(grad_v, of_k)?, parts_v)?;
        k_map.show(h, &matrix(grad_k, of_k)?, parts_k)?;
        q_map.show(h, &matrix(grad_q, of_q)?, parts_q)?;
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), &Device::Cpu)?))
    }
}

/// Rows with each of their columns times its factor.
fn masked(values: &[f32], mask: &Held<'_>) -> Result<Vec<f32>> {
    let mut values = values.to_vec();
    scale_columns(&mut values, mask.slice()?);
    Ok(values)
}
