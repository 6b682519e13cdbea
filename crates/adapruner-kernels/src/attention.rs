//! Causal grouped-query attention without a kept `T × S` matrix (after Dao,
//! arXiv 2205.14135).
//!
//! Queries run block by block, each against the keys it may see. A block's scores take a few
//! hundred kilobytes, and only the `logsumexp` of each row is kept. The backward pass
//! recomputes the scores: with `P = e^(Q·Kᵀ − lse)` and `δ = Σ dO · O` of a row, `dV = Pᵀ·dO`,
//! `dS = P · (dO·Vᵀ − δ)`, `dQ = dS·K`, `dK = dSᵀ·Q`.
//!
//! The query heads that share a key-value head are the rows of one product, so
//! keys and values are not repeated. With a window, a block of queries reads only the
//! keys that one of them sees. A cap bends scores to `c · tanh(s/c)`, whose slope
//! `1 − tanh²(s/c)` multiplies `dS`.
//!
//! Axes: `B` sequences, `T` queries, `S` keys, `N` query heads, `K` key-value
//! heads, `D` head width, `G = N/K`; `P` rows of a block, `G` for each query.

use std::{mem::MaybeUninit, ops::Range, sync::OnceLock};

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::{
    buffer::{Held, Unwritten, build, build_rows, fused, slice, written},
    composition,
    exp::{cap, dot, exponentials, largest, multiply_by_slopes},
    gemm::{multiply, multiply_add},
    view::View,
};

/// Rows of a block, `G` for each query.
const BLOCK_ROWS: usize = 128;
/// Scores of a block, at most, as long as it has more than one query.
const BLOCK_SCORES: usize = 512 * 1024;

/// How queries and keys become scores: their products times a factor, of the keys that a
/// query sees.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scores {
    /// Factor of the products; `1/√D` where none is named.
    pub scale: Option<f64>,
    /// Keys that a query sees, its own the last of them; all up to its own where there is
    /// no window.
    pub window: Option<usize>,
    /// `c`: scores are bent to `c · tanh(s/c)`, where there is one.
    pub cap: Option<f64>,
}

impl Scores {
    /// The factor for heads of width `D`.
    pub fn scale_of(&self, head_dim: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (head_dim as f64).sqrt())
    }
}

/// Causal grouped-query attention; the last query is aligned with the last key.
///
/// # Shapes
/// q `[B, T, N, D]`, k and v `[B, S, K, D]` with `S ≥ T` → `[B, T, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
    attend_to(q, k, v, scores, None)
}

/// [`attention`] of sequences whose rows follow each other; each sees its own.
///
/// # Shapes
/// q `[1, R, N, D]`, k and v `[1, R, K, D]`, lengths that add up to `R` →
/// `[1, R, N, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn packed_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scores: Scores,
    lengths: &[usize],
) -> Result<Tensor> {
    attend_to(q, k, v, scores, Some(lengths))
}

fn attend_to(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scores: Scores,
    lengths: Option<&[usize]>,
) -> Result<Tensor> {
    let sizes = Sizes::of(q.shape(), k.shape(), scores)?;
    if let Some(lengths) = lengths {
        check_lengths(sizes, lengths)?;
    }
    if v.shape() != k.shape() {
        bail!("attention: keys {:?} and values {:?} differ", k.shape(), v.shape());
    }
    if !fused(&[q, k, v]) || q.elem_count() == 0 {
        return match lengths {
            None => composition::attention(q, k, v, scores),
            Some(lengths) => composition::packed_attention(q, k, v, scores, lengths),
        };
    }
    let op = Attention { sizes, lengths: lengths.map(<[_]>::to_vec), logsumexp: OnceLock::new() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// Refuses lengths of sequences that are not the rows.
pub(crate) fn check_lengths(sizes: Sizes, lengths: &[usize]) -> Result<()> {
    let rows = lengths.iter().sum::<usize>();
    if sizes.b != 1 || sizes.t != rows || sizes.s != rows || lengths.contains(&0) {
        bail!("attention: sequences of {lengths:?} tokens do not fit {} rows", sizes.b * sizes.t);
    }
    Ok(())
}

struct Attention {
    sizes: Sizes,
    /// Of packed sequences.
    lengths: Option<Vec<usize>>,
    /// Of the scaled scores, `[B, T, N]`; known once forward has run.
    logsumexp: OnceLock<Vec<f32>>,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (slice(q, q_layout)?, slice(k, k_layout)?, slice(v, v_layout)?);
        let (y, logsumexp) = forward(q, k, v, self.sizes, self.lengths.as_deref());
        self.logsumexp.get_or_init(|| logsumexp);
        Ok((CpuStorage::F32(y), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(logsumexp) = self.logsumexp.get() else {
            bail!("attention: backward before forward")
        };
        let grad = grad.contiguous()?;
        let [of_q, of_k, of_v, of_y, of_grad] = [q, k, v, y, &grad].map(Held::new);
        let saved = Saved {
            q: of_q.slice()?,
            k: of_k.slice()?,
            v: of_v.slice()?,
            y: of_y.slice()?,
            logsumexp,
            grad: of_grad.slice()?,
        };
        let [grad_q, grad_k, grad_v] = backward(&saved, self.sizes, self.lengths.as_deref());
        let to = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
        Ok((Some(to(grad_q, q)?), Some(to(grad_k, k)?), Some(to(grad_v, v)?)))
    }
}

/// The axes, and how scores are made.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    b: usize,
    t: usize,
    s: usize,
    n: usize,
    k: usize,
    d: usize,
    /// Factor of the scores.
    scale: f32,
    /// Keys that a query sees at most.
    window: usize,
    /// What scores are bent to.
    cap: Option<f32>,
}

impl Sizes {
    pub(crate) fn of(q: &Shape, kv: &Shape, scores: Scores) -> Result<Self> {
        let (b, t, n, d) = q.dims4()?;
        let (kv_b, s, k, kv_d) = kv.dims4()?;
        if b != kv_b || d != kv_d || s < t || k == 0 || n % k != 0 {
            bail!("attention: queries {q:?} do not fit keys {kv:?}");
        }
        if scores.window == Some(0) {
            bail!("attention: a window of at least 1 token expected, found 0");
        }
        let window = scores.window.unwrap_or(usize::MAX);
        let cap = scores.cap.map(|cap| cap as f32);
        Ok(Self { b, t, s, n, k, d, scale: scores.scale_of(d) as f32, window, cap })
    }

    /// `T`.
    pub(crate) fn tokens(&self) -> usize {
        self.t
    }

    /// `G`.
    fn group(&self) -> usize {
        self.n / self.k
    }

    /// Queries of a block.
    fn block(&self) -> usize {
        let by_scores = BLOCK_SCORES / (self.group() * self.s);
        let most = (BLOCK_ROWS / self.group()).min(by_scores).max(1);
        self.t.div_ceil(self.t.div_ceil(most))
    }

    /// The keys that query `t` sees.
    fn seen(&self, t: usize) -> Range<usize> {
        let end = t + 1 + self.s - self.t;
        end.saturating_sub(self.window)..end
    }

    /// The keys that some query of a block sees.
    fn seen_by(&self, queries: &Range<usize>) -> Range<usize> {
        self.seen(queries.start).start..self.seen(queries.end - 1).end
    }

    /// The queries of head group `head` as they lie in `[T, N, D]`, `[P, D]` one
    /// after the other, times `scale`.
    fn gather(&self, from: &[f32], head: usize, queries: Range<usize>, scale: f32) -> Vec<f32> {
        let width = self.group() * self.d;
        let mut out = Vec::with_capacity(queries.len() * width);
        for t in queries {
            let start = (t * self.n + head * self.group()) * self.d;
            out.extend(from[start..start + width].iter().map(|value| value * scale));
        }
        out
    }

    /// Some keys or values of one head in `[S, K, D]`, `[seen, D]`.
    fn of_head<'a>(&self, from: &'a [f32], head: usize, seen: &Range<usize>) -> View<'a> {
        let width = self.k * self.d;
        View::new(&from[seen.start * width + head * self.d..], seen.len(), self.d, width)
    }
}

/// One of the sequences: its rows among all queries and all keys.
struct Sequence {
    queries: Range<usize>,
    keys: Range<usize>,
    /// With one sequence.
    sizes: Sizes,
}

impl Sequence {
    fn all(sizes: Sizes, lengths: Option<&[usize]>) -> Vec<Self> {
        let of = |(t, s)| Sizes { b: 1, t, s, ..sizes };
        let lengths: Vec<Sizes> = match lengths {
            None => vec![of((sizes.t, sizes.s)); sizes.b],
            Some(lengths) => lengths.iter().map(|&t| of((t, t))).collect(),
        };
        let starts = lengths.iter().scan((0, 0), |(queries, keys), sizes| {
            let start = (*queries, *keys);
            (*queries, *keys) = (*queries + sizes.t, *keys + sizes.s);
            Some(start)
        });
        let sequence = |((queries, keys), &sizes): ((usize, usize), &Sizes)| Self {
            queries: queries..queries + sizes.t,
            keys: keys..keys + sizes.s,
            sizes,
        };
        starts.zip(&lengths).map(sequence).collect()
    }
}

/// The elements of some rows.
fn part(values: &[f32], rows: Range<usize>, width: usize) -> &[f32] {
    &values[rows.start * width..rows.end * width]
}

/// Consecutive parts of some lengths.
fn split<T>(mut values: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    let cut = |length| {
        let (part, rest) = std::mem::take(&mut values).split_at_mut(length);
        values = rest;
        part
    };
    lengths.map(cut).collect()
}

/// The attended values `[B, T, N, D]` and `logsumexp` `[B, T, N]`; with `lengths`,
/// of packed sequences.
pub(crate) fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sizes: Sizes,
    lengths: Option<&[usize]>,
) -> (Vec<f32>, Vec<f32>) {
    let Sizes { b, t, n, k: heads, d, .. } = sizes;
    let sequences = Sequence::all(sizes, lengths);
    let mut logsumexp = vec![0.0; b * t * n];
    // SAFETY: `attend` writes its head of its queries, and the blocks of all
    // sequences are all queries.
    let y = unsafe {
        build(b * t * n * d, |y| {
            let y = split(y, sequences.iter().map(|of| of.queries.len() * n * d));
            let logsumexp = split(&mut logsumexp, sequences.iter().map(|of| of.queries.len() * n));
            let all = sequences.par_iter().zip(y).zip(logsumexp);
            all.for_each(|((Sequence { queries, keys, sizes }, y), logsumexp)| {
                let (sizes, step) = (*sizes, sizes.block());
                let q = part(q, queries.clone(), n * d);
                let [k, v] = [k, v].map(|of| part(of, keys.clone(), heads * d));
                let blocks = y.par_chunks_mut(step * n * d).zip(logsumexp.par_chunks_mut(step * n));
                blocks.enumerate().for_each(|(block, (y, logsumexp))| {
                    let queries = block * step..(block * step + step).min(sizes.t);
                    for head in 0..heads {
                        attend(sizes, [q, k, v], queries.clone(), head, y, logsumexp);
                    }
                });
            });
        })
    };
    (y, logsumexp)
}

/// Attends one block of queries of one sequence to one key-value head; writes
/// its heads in all rows of `y` and `logsumexp`.
fn attend(
    sizes: Sizes,
    [q, k, v]: [&[f32]; 3],
    queries: Range<usize>,
    head: usize,
    y: &mut Unwritten,
    logsumexp: &mut [f32],
) {
    let (group, d, n) = (sizes.group(), sizes.d, sizes.n);
    let rows = queries.len() * group;
    let seen = sizes.seen_by(&queries);
    let q = sizes.gather(q, head, queries.clone(), sizes.scale);
    let keys = sizes.of_head(k, head, &seen);
    // SAFETY: the product writes everything.
    let mut scores = unsafe {
        build(rows * seen.len(), |to| multiply(View::dense(&q, rows, d), keys.t(), 1.0, to))
    };
    let mut sums = Vec::with_capacity(rows);
    for (row, scores) in scores.chunks_exact_mut(seen.len()).enumerate() {
        let scores = only_seen(scores, &seen, sizes.seen(queries.start + row / group));
        if let Some(of) = sizes.cap {
            cap(scores, of);
        }
        let top = largest(scores);
        let sum = exponentials(scores, top);
        let at = row / group * n + head * group + row % group;
        logsumexp[at] = (f64::from(top) + sum.ln()) as f32;
        sums.push((1.0 / sum) as f32);
    }
    let values = sizes.of_head(v, head, &seen);
    // SAFETY: the product writes everything.
    let attended = unsafe {
        build(rows * d, |to| multiply(View::dense(&scores, rows, seen.len()), values, 1.0, to))
    };
    for (row, (from, factor)) in attended.chunks_exact(d).zip(sums).enumerate() {
        let at = (row / group * n + head * group + row % group) * d;
        for (to, value) in y[at..at + d].iter_mut().zip(from) {
            to.write(value * factor);
        }
    }
}

/// The part of a row over keys `of` that its query sees; the others are 0 from now on.
fn only_seen<'a>(row: &'a mut [f32], of: &Range<usize>, seen: Range<usize>) -> &'a mut [f32] {
    let (before, rest) = row.split_at_mut(seen.start - of.start);
    let (row, after) = rest.split_at_mut(seen.len());
    before.fill(0.0);
    after.fill(0.0);
    row
}

/// What backward starts from.
pub(crate) struct Saved<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) y: &'a [f32],
    pub(crate) logsumexp: &'a [f32],
    pub(crate) grad: &'a [f32],
}

/// Gradients of q `[B, T, N, D]`, k and v `[B, S, K, D]`; with `lengths`, of packed
/// sequences.
pub(crate) fn backward(
    saved: &Saved<'_>,
    sizes: Sizes,
    lengths: Option<&[usize]>,
) -> [Vec<f32>; 3] {
    let Sizes { b, t, s, n, k: heads, d, .. } = sizes;
    let width = sizes.group() * d;
    let sequences = Sequence::all(sizes, lengths);
    // One task a head of a sequence.
    let tasks: Vec<(&Sequence, usize)> = sequences
        .iter()
        .flat_map(|sequence| (0..heads).map(move |head| (sequence, head)))
        .collect();
    let of_keys = || tasks.iter().map(|(of, _)| of.keys.len() * d);
    let mut grad_k = Vec::new();
    let mut grad_v = Vec::new();
    // SAFETY: each task writes its whole part of all three.
    let grad_q = unsafe {
        build(b * t * n * d, |grad_q| {
            grad_k = build(b * s * heads * d, |grad_k| {
                grad_v = build(b * s * heads * d, |grad_v| {
                    let grad_q =
                        split(grad_q, tasks.iter().map(|(of, _)| of.queries.len() * width));
                    let (grad_k, grad_v) = (split(grad_k, of_keys()), split(grad_v, of_keys()));
                    let all = tasks.par_iter().zip(grad_q).zip(grad_k).zip(grad_v);
                    all.for_each(|((((of, head), grad_q), grad_k), grad_v)| {
                        let queries = |values, width| part(values, of.queries.clone(), width);
                        let keys = |values| part(values, of.keys.clone(), heads * d);
                        let saved = Saved {
                            q: queries(saved.q, n * d),
                            k: keys(saved.k),
                            v: keys(saved.v),
                            y: queries(saved.y, n * d),
                            logsumexp: queries(saved.logsumexp, n),
                            grad: queries(saved.grad, n * d),
                        };
                        backward_head(&saved, of.sizes, *head, grad_q, grad_k, grad_v);
                    });
                });
            });
        })
    };
    // Head by head, so that one task writes each; transposed back here.
    let (queries, keys) = (|of: &Sequence| of.queries.clone(), |of: &Sequence| of.keys.clone());
    [
        tokens_first(&grad_q, sequences.iter().map(queries), heads, width),
        tokens_first(&grad_k, sequences.iter().map(keys), heads, d),
        tokens_first(&grad_v, sequences.iter().map(keys), heads, d),
    ]
}

/// `[K, T, width]` of every sequence as `[T, K, width]`.
fn tokens_first(
    values: &[f32],
    sequences: impl Iterator<Item = Range<usize>>,
    heads: usize,
    width: usize,
) -> Vec<f32> {
    let sequences: Vec<Range<usize>> = sequences.collect();
    // The sequence of every row.
    let of_rows: Vec<usize> = sequences
        .iter()
        .enumerate()
        .flat_map(|(at, rows)| std::iter::repeat_n(at, rows.len()))
        .collect();
    let fill = |rows: Range<usize>, out: &mut Unwritten| {
        for (row, out) in rows.zip(out.chunks_exact_mut(heads * width)) {
            let of = &sequences[of_rows[row]];
            for (head, out) in out.chunks_exact_mut(width).enumerate() {
                let at = of.start * heads + head * of.len() + (row - of.start);
                for (out, value) in out.iter_mut().zip(&values[at * width..(at + 1) * width]) {
                    out.write(*value);
                }
            }
        }
    };
    // SAFETY: `fill` writes all heads of all its rows.
    unsafe { build_rows(of_rows.len(), heads * width, fill) }
}

/// Backward of one key-value head of one sequence. Blocks run from the last,
/// which sees all keys unless there is a window, so that the others add to what is
/// written.
fn backward_head(
    saved: &Saved<'_>,
    sizes: Sizes,
    head: usize,
    grad_q: &mut Unwritten,
    grad_k: &mut Unwritten,
    grad_v: &mut Unwritten,
) {
    let Sizes { t, n, d, scale, .. } = sizes;
    let group = sizes.group();
    let step = sizes.block();
    let every_key = 0..sizes.s;
    let mut begun = false;
    for start in (0..t).step_by(step).rev() {
        let queries = start..(start + step).min(t);
        let rows = queries.len() * group;
        let seen = sizes.seen_by(&queries);
        let (keys, values) =
            (sizes.of_head(saved.k, head, &seen), sizes.of_head(saved.v, head, &seen));
        let q = sizes.gather(saved.q, head, queries.clone(), scale);
        let y = sizes.gather(saved.y, head, queries.clone(), 1.0);
        let grad = sizes.gather(saved.grad, head, queries.clone(), 1.0);
        let (q_view, grad_view) = (View::dense(&q, rows, d), View::dense(&grad, rows, d));
        let width = seen.len();
        // SAFETY: the products write everything.
        let (mut p, mut ds) = unsafe {
            (
                build(rows * width, |to| multiply(q_view, keys.t(), 1.0, to)),
                build(rows * width, |to| multiply(grad_view, values.t(), 1.0, to)),
            )
        };
        let both = p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width));
        for (row, (p, ds)) in both.enumerate() {
            let query = queries.start + row / group;
            let logsumexp = saved.logsumexp[query * n + head * group + row % group];
            let delta = dot(&y[row * d..(row + 1) * d], &grad[row * d..(row + 1) * d]) as f32;
            let p = only_seen(p, &seen, sizes.seen(query));
            let bent = sizes.cap.map(|of| {
                cap(p, of);
                (p.to_vec(), of)
            });
            exponentials(p, logsumexp);
            let ds = only_seen(ds, &seen, sizes.seen(query));
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = *p * (*ds - delta);
            }
            if let Some((bent, of)) = bent {
                multiply_by_slopes(ds, &bent, of);
            }
        }
        let (p, ds) = (View::dense(&p, rows, width), View::dense(&ds, rows, width));
        let of_queries = queries.start * group * d..queries.end * group * d;
        multiply(ds, keys, scale, &mut grad_q[of_queries]);
        if !begun && seen == every_key {
            multiply(p.t(), grad_view, 1.0, grad_v);
            multiply(ds.t(), q_view, 1.0, grad_k);
        } else {
            if !begun {
                grad_k.fill(MaybeUninit::new(0.0));
                grad_v.fill(MaybeUninit::new(0.0));
            }
            let part = seen.start * d..seen.end * d;
            // SAFETY: the last block, or the zeros before it, have written all.
            let (grad_k, grad_v) =
                unsafe { (written(&mut grad_k[part.clone()]), written(&mut grad_v[part])) };
            multiply_add(p.t(), grad_view, grad_v);
            multiply_add(ds.t(), q_view, grad_k);
        }
        begun = true;
    }
}
