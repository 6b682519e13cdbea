//! The attention sublayer: `W_o · (m · attention(q, k, v))`, added to `x`, with `q`, `k` and
//! `v` linear in the norm of `x`, or in `x` where there is none before it, `q` and `k` normed
//! and rotated by their positions if the model does so, and `m` the mask of what the heads
//! give, 1 where there is none.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `N` query heads, `K` key-value
//! heads, `D` head width, `R` rows.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

use super::{
    Affine, Norm, Residual, Running, RunningNorm, add, by_map, fused_vector, matrix, rows_of,
    running, scale_columns, write_norm, write_norm_gradient,
};
use crate::{
    Scores, attention,
    buffer::{Held, Sheets, Unwritten, fused, room, slice, written},
    composition::rows,
    map::Way,
    packed_attention, rope, threads,
};

/// Cosines and sines of the positions, `[T, R/2]` each; `R` is `D`, or the part of a head that
/// is turned.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl Rotation {
    fn held(rotation: Option<&Self>) -> Option<[Held<'_>; 2]> {
        rotation.map(|Self { cos, sin }| [cos, sin].map(Held::new))
    }
}

/// The weights of an attention sublayer, and the positions it is run at.
#[derive(Clone)]
pub struct SelfAttention {
    /// Norm before it, `[H]`, where there is one.
    pub norm: Option<Norm>,
    /// `D`.
    pub head_dim: usize,
    /// Norm of the queries before rotation: of each head, `[D]`, or of all heads together,
    /// `[N·D]`.
    pub q_norm: Option<Norm>,
    /// That of the keys, `[D]` or `[K·D]`.
    pub k_norm: Option<Norm>,
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
    /// Turns queries and keys by their positions, where the layer does so.
    pub rotation: Option<Rotation>,
    /// How queries and keys become scores.
    pub scores: Scores,
    /// How it is added to its input.
    pub residual: Residual,
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
        let turned = |of: &Rotation| fused_vector(&of.cos) && fused_vector(&of.sin);
        let tables = self.rotation.as_ref().is_none_or(turned);
        let norms = self.norms().into_iter().flatten().all(Norm::fused);
        let weights = maps.iter().all(|map| map.fused()) && norms && tables;
        let others_masked = maps[..3].iter().any(|map| map.mask.is_some());
        if !weights || others_masked || !fused(&[x]) || x.elem_count() == 0 {
            return self.composed(x);
        }
        let (b, t, hidden) = x.dims3()?;
        let (of_q, of_k) = (self.q.outputs(hidden)?, self.k.outputs(hidden)?);
        let d = self.head_dim;
        let turns = |of: &Rotation| rope::fits(&of.cos, &of.sin, t, d);
        let of_rows = |norm: &Norm| norm.fits(hidden);
        if ![&self.norm, &self.residual.norm].into_iter().flatten().all(of_rows)
            || self.v.outputs(hidden)? != of_k
            || self.o.outputs(of_q)? != hidden
            || of_q == 0
            || d == 0
            || [of_q % d, of_k % d] != [0; 2]
            || !self.rotation.as_ref().is_none_or(turns)
        {
            bail!("attention: the weights do not fit each other or input {:?}", x.shape());
        }
        for (norm, width) in [(&self.q_norm, of_q), (&self.k_norm, of_k)] {
            norm.as_ref().map_or(Ok(()), |norm| norm.check(width))?;
        }
        let sizes = attention::Sizes::of(
            &Shape::from((b, t, of_q / d, d)),
            &Shape::from((b, t, of_k / d, d)),
            self.scores,
        )?;
        if let Some(lengths) = &self.lengths {
            attention::check_lengths(sizes, lengths)?;
        }
        let heads = (of_q / d, of_k / d);
        let saved = x.track_op().then(OnceLock::new);
        x.contiguous()?.apply_op1(Fused { weights: self.clone(), sizes, heads, saved })
    }

    fn norms(&self) -> [Option<&Norm>; 4] {
        [&self.norm, &self.q_norm, &self.k_norm, &self.residual.norm].map(Option::as_ref)
    }

    /// Queries, keys and values of `x`, normed and rotated.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, N, D]`, `[B, T, K, D]`, `[B, T, K, D]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn heads(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (b, t, _) = x.dims3()?;
        let h = match &self.norm {
            Some(norm) => &norm.apply(x)?,
            None => x,
        };
        let split = |y: Tensor| y.reshape((b, t, (), self.head_dim));
        let turned = |map: &Affine, norm: &Option<Norm>| {
            let y = map.apply(h)?;
            let y = split(match norm {
                Some(norm) => norm.apply(&y)?,
                None => y,
            })?;
            match &self.rotation {
                Some(Rotation { cos, sin }) => rope(&y, cos, sin),
                None => Ok(y),
            }
        };
        let (q, k) = (turned(&self.q, &self.q_norm)?, turned(&self.k, &self.k_norm)?);
        Ok([q, k, split(self.v.apply(h)?)?])
    }

    /// Attention over [`SelfAttention::heads`].
    ///
    /// # Shapes
    /// `[B, T, N, D]`, `[B, T, K, D]`, `[B, T, K, D]` → `[B, T, N, D]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn attend(&self, [q, k, v]: &[Tensor; 3]) -> Result<Tensor> {
        match &self.lengths {
            None => attention(q, k, v, self.scores),
            Some(lengths) => packed_attention(q, k, v, self.scores, lengths),
        }
    }

    /// The sublayer's output, of what was attended, added to its input `x`.
    ///
    /// # Shapes
    /// `[B, T, H]`, `[B, T, N, D]` → `[B, T, H]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn finish(&self, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        self.residual.add(x, &self.o.apply(&attended.reshape((b, t, ()))?)?)
    }

    /// Operation by operation.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        self.finish(x, &self.attend(&self.heads(x)?)?)
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
    /// Queries before their norm, `[R, N·D]`, where there is one.
    plain_q: Vec<f32>,
    /// Keys before their norm, `[R, K·D]`, where there is one.
    plain_k: Vec<f32>,
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
    /// Output of the last map, `[R, H]`, where it is not added as it is.
    z: Vec<f32>,
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
        let SelfAttention {
            norm,
            head_dim,
            q_norm,
            k_norm,
            q,
            k,
            v,
            o,
            lengths,
            rotation,
            residual,
            ..
        } = &self.weights;
        let x: &[f32] = slice(x, layout)?;
        let of_mask = o.mask.as_ref().map(Held::new);
        let hidden = layout.dims()[layout.dims().len() - 1];
        let rows = x.len() / hidden;
        let [q, k, v, o] = [q, k, v, o].map(|map| map.running(Way::Forward, rows));
        let (q, k, v, o) = (q?, k?, v?, o?);
        let norms = [norm, q_norm, k_norm, &residual.norm].map(|norm| Norm::held(norm.as_ref()));
        let [norm, q_norm, k_norm, after] = norms.each_ref().map(running);
        let (norm, q_norm, k_norm, after) = (norm?, q_norm?, k_norm?, after?);
        let rotation = Rotation::held(rotation.as_ref());
        let tables = tables(&rotation, (self.sizes.tokens(), *head_dim))?;
        let (of_q, of_k) = self.heads;
        let widths = [of_q, of_k, of_k].map(|heads| heads * head_dim);
        let plain = |norm: Option<_>, width| if norm.is_some() { width } else { 0 };
        let of_plain = [plain(q_norm, widths[0]), plain(k_norm, widths[1])];

        let blocks = Running::blocks(&[&q, &k, &v]);
        let [of_plain_q, of_plain_k] = of_plain;
        let sheets = [hidden, widths[0], widths[1], widths[2], of_plain_q, of_plain_k];
        let mut all = Sheets::new(rows, sheets);
        threads::blocks(all.blocks(blocks), |at, [h, to_q, to_k, to_v, kept_q, kept_k]| {
            let first = blocks.range(at).start;
            write_norm(norm, &x[first * hidden..][..h.len()], h);
            // SAFETY: written above.
            let h = unsafe { written(h) };
            let (mut plain_q, mut plain_k) = (Vec::new(), Vec::new());
            let [kept_q, kept_k] = [
                (q_norm, kept_q, &mut plain_q, to_q.len()),
                (k_norm, kept_k, &mut plain_k, to_k.len()),
            ]
            .map(|(norm, kept, plain, len)| match norm {
                Some(_) => kept,
                None => room(plain, len),
            });
            let [q, k, _] = Running::write([&q, &k, &v], h, first, [kept_q, kept_k, to_v])?;
            turn_normed(&tables, q_norm, q, first, of_q, to_q);
            turn_normed(&tables, k_norm, k, first, of_k, to_k);
            Ok(())
        })?;
        // SAFETY: all blocks were run.
        let [h, q, k, v, plain_q, plain_k] = unsafe { all.written() };
        let (attended, logsumexp) = attention::forward(&q, &k, &v, self.sizes, lengths.as_deref());
        let masked = of_mask.as_ref().map(|mask| masked(&attended, mask)).transpose()?;
        let read = masked.as_ref().unwrap_or(&attended);

        let blocks = Running::blocks(&[&o]);
        let of_z = if residual.plain() { 0 } else { hidden };
        let (mut both, width) = (Sheets::new(rows, [hidden, of_z]), widths[0]);
        threads::blocks(both.blocks(blocks), |at, [y, z]| {
            let rows = blocks.range(at);
            let (x, read) = (rows_of(x, rows.clone(), hidden), rows_of(read, rows.clone(), width));
            if residual.plain() {
                return o.add(read, rows.start, y.write_copy_of_slice(x));
            }
            let [z] = Running::write([&o], read, rows.start, [z])?;
            residual.write(after, x, z, y);
            Ok(())
        })?;
        // SAFETY: all blocks were run.
        let [y, z] = unsafe { both.written() };
        if let Some(saved) = &self.saved {
            let (h, y) = (matrix(h, hidden)?, matrix(attended, width)?);
            saved.get_or_init(|| Saved { h, plain_q, plain_k, q, k, v, y, logsumexp, z });
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(saved) = self.saved.as_ref().and_then(OnceLock::get) else {
            bail!("attention: backward of an input that was not tracked")
        };
        let Saved { h, plain_q, plain_k, q, k, v, y, logsumexp, z } = saved;
        let SelfAttention { norm, head_dim, q_norm, k_norm, lengths, rotation, residual, .. } =
            &self.weights;
        let [q_map, k_map, v_map, o_map] = self.maps();
        // Of what enters the sublayer beside it, and of what the last map gives.
        let grad = rows(grad)?;
        let grad_z = residual.pull(Some(z), &grad)?;
        let all = grad.dim(0)?;
        let (hidden, (heads_q, heads_k)) = (h.dim(1)?, self.heads);
        let (of_q, of_k) = (heads_q * head_dim, heads_k * head_dim);
        let [of_x, of_grad, of_grad_z, of_h, of_y] = [x, &grad, &grad_z, h, y].map(Held::new);
        let (x_values, dy): (&[f32], &[f32]) = (of_x.slice()?, of_grad.slice()?);
        let dz: &[f32] = of_grad_z.slice()?;
        let (h_values, y_values): (&[f32], &[f32]) = (of_h.slice()?, of_y.slice()?);
        let norms = [norm, q_norm, k_norm].map(|norm| Norm::held(norm.as_ref()));
        let [norm, q_norm, k_norm] = norms.each_ref().map(running);
        let (norm, q_norm, k_norm) = (norm?, q_norm?, k_norm?);
        let rotation = Rotation::held(rotation.as_ref());
        let tables = tables(&rotation, (self.sizes.tokens(), *head_dim))?;

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
            let [read, dz] = [(read_values, of_q), (dz, hidden)]
                .map(|(values, width)| rows_of(values, range.clone(), width));
            Ok([o.pull(read, dz, range.start, to)?.1])
        })?;
        // SAFETY: all blocks were run.
        let [grad_read] = unsafe { made.written() };
        let [of_o] = by_map(parts);
        o_map.show(read, &grad_z, of_o)?;
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
            let (of_query, of_key) = (part(&grad_q, of_q), part(&grad_k, of_k));
            let plain = [(plain_q, q_norm, of_q), (plain_k, k_norm, of_k)]
                .map(|(plain, norm, width)| part(plain, if norm.is_some() { width } else { 0 }));
            turn_back(&tables, q_norm, plain[0], of_query, first, heads_q, to_q);
            turn_back(&tables, k_norm, plain[1], of_key, first, heads_k, to_k);
            // SAFETY: written above.
            let (grad_q, grad_k) = unsafe { (written(to_q), written(to_k)) };
            let mut normed = Vec::new();
            let to_h = room(&mut normed, to_x.len());
            let (grad_h, of_v) = v.pull(h, part(&grad_v, of_k), first, to_h)?;
            let of_k = k.pull_onto(h, grad_k, first, grad_h)?;
            let of_q = q.pull_onto(h, grad_q, first, grad_h)?;
            write_norm_gradient(norm, part(x_values, hidden), grad_h, to_x);
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

/// The tables of a rotation.
fn tables<'a>(
    rotation: &'a Option<[Held<'_>; 2]>,
    (tokens, head_dim): (usize, usize),
) -> Result<Option<rope::Tables<'a>>> {
    let Some([cos, sin]) = rotation else { return Ok(None) };
    let (cos, sin): (&[f32], &[f32]) = (cos.slice()?, sin.slice()?);
    Ok(Some(rope::Tables { cos, sin, half: cos.len() / tokens.max(1), head_dim }))
}

/// Rotates rows of `n` heads by their positions, if the model does so, forward or backward.
fn turn(
    tables: &Option<rope::Tables<'_>>,
    x: &[f32],
    first: usize,
    n: usize,
    back: bool,
    to: &mut Unwritten,
) {
    match tables {
        Some(tables) => tables.write(x, first, n, back, to),
        None => {
            to.write_copy_of_slice(x);
        }
    }
}

/// Norms heads and turns them, into `to`, all of which is written.
fn turn_normed(
    tables: &Option<rope::Tables<'_>>,
    norm: RunningNorm<'_>,
    plain: &[f32],
    first: usize,
    n: usize,
    to: &mut Unwritten,
) {
    if norm.is_none() {
        return turn(tables, plain, first, n, false, to);
    }
    let mut normed = Vec::new();
    let normed = room(&mut normed, plain.len());
    write_norm(norm, plain, normed);
    // SAFETY: written above.
    turn(tables, unsafe { written(normed) }, first, n, false, to);
}

/// The gradient of `plain` from that of what [`turn_normed`] made of it.
fn turn_back(
    tables: &Option<rope::Tables<'_>>,
    norm: RunningNorm<'_>,
    plain: &[f32],
    grad: &[f32],
    first: usize,
    n: usize,
    to: &mut Unwritten,
) {
    if norm.is_none() {
        return turn(tables, grad, first, n, true, to);
    }
    let mut turned = Vec::new();
    let turned = room(&mut turned, grad.len());
    turn(tables, grad, first, n, true, turned);
    // SAFETY: written above.
    write_norm_gradient(norm, plain, unsafe { written(turned) }, to);
}

/// Rows with each of their columns times its factor.
fn masked(values: &[f32], mask: &Held<'_>) -> Result<Vec<f32>> {
    let mut values = values.to_vec();
    scale_columns(&mut values, mask.slice()?);
    Ok(values)
}
