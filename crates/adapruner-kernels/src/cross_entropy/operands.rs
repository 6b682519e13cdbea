//! The passes over rows and vocabulary, block by block and chunk by chunk.
//!
//! Axes: `R` rows, `H` hidden, `V` vocabulary.

use std::ops::Range;

use rayon::prelude::*;

use super::Targets;
use crate::{
    buffer::{Weight, build},
    exp::{cap, dot, exponentials, largest, multiply_by_slopes},
    gemm::{multiply, multiply_add},
    packed::{Activations, Arithmetic, Entering, Laid, Source, multiply_words},
    view::View,
};

/// Rows of a block, at most.
const BLOCK_ROWS: usize = 512;
/// Words of a chunk of the vocabulary.
const CHUNK: usize = 256;
/// Parts of the vocabulary that run side by side, for more cores than blocks.
const PARTS: usize = 4;

/// The operands of a loss, and what runs over them.
pub(super) struct Operands<'a> {
    x: &'a [f32],
    weight: Weight<'a>,
    targets: &'a Targets,
    /// Which rows of the targets those of `x` are.
    rows: Range<usize>,
    vocabulary: usize,
    hidden: usize,
}

/// See [`Operands::laid_out`].
type LaidOut<'a> = Option<(&'a Activations, Source<'a>)>;

/// What a forward pass leaves, row by row.
pub(super) struct Forward {
    pub(super) losses: Vec<f32>,
    pub(super) logsumexp: Vec<f64>,
    /// `[R, H]`; empty unless needed.
    pub(super) unit: Vec<f32>,
}

/// Running sums of some rows over a part of the vocabulary.
struct Partial {
    /// Largest logit so far.
    top: Vec<f32>,
    /// `Σ e^(logit − top)`.
    sum: Vec<f64>,
    /// `Σ w · logit` of the targets that were seen.
    picked: Vec<f64>,
    /// `Σ e^(logit − top) · W`, `[R, H]`; empty until the first chunk.
    unit: Vec<f32>,
}

impl Partial {
    /// Takes a new largest logit of a row into account.
    fn raise(&mut self, row: usize, top: f32, hidden: usize) {
        if top <= self.top[row] {
            return;
        }
        let factor = (f64::from(self.top[row]) - f64::from(top)).exp();
        self.top[row] = top;
        self.sum[row] *= factor;
        if let Some(unit) = self.unit.get_mut(row * hidden..(row + 1) * hidden) {
            unit.iter_mut().for_each(|v| *v *= factor as f32);
        }
    }
}

impl<'a> Operands<'a> {
    pub(super) fn new(
        x: &'a [f32],
        weight: Weight<'a>,
        targets: &'a Targets,
        rows: Range<usize>,
        (vocabulary, hidden): (usize, usize),
    ) -> Self {
        Self { x, weight, targets, rows, vocabulary, hidden }
    }

    /// Rows of a block, all almost equal.
    fn block(&self) -> usize {
        let rows = self.rows.len();
        rows.div_ceil(rows.div_ceil(BLOCK_ROWS).max(1)).max(1)
    }

    /// The rows of `x`, which are these from `start` on.
    fn part(&self, x: &'a [f32], start: usize) -> Self {
        let start = self.rows.start + start;
        Self { x, rows: start..start + x.len() / self.hidden, ..*self }
    }

    /// The targets of one of the rows.
    fn target(&self, row: usize) -> impl Iterator<Item = (usize, f32)> {
        let (ids, weights) = self.targets.row(self.rows.start + row);
        ids.iter().map(|&id| id as usize).zip(weights.iter().copied())
    }

    /// `Σ_k w` of one of the rows.
    fn mass(&self, row: usize) -> f64 {
        self.target(row).map(|(_, weight)| f64::from(weight)).sum()
    }

    /// `1/τ`.
    fn scale(&self) -> f32 {
        (1.0 / self.targets.temperature) as f32
    }

    /// The capped and scaled logits from the products.
    fn bend(&self, logits: &mut [f32]) {
        let scale = self.scale();
        if let Some(of) = self.targets.cap {
            cap(logits, of);
            logits.iter_mut().for_each(|z| *z *= scale);
        }
    }

    /// What [`multiply_by_slopes`] reads of capped logits, and the cap of these.
    fn bent(&self, logits: &[f32]) -> Option<(Vec<f32>, f32)> {
        self.targets.cap.map(|of| (logits.to_vec(), of * self.scale()))
    }

    /// The slope of the logit of a word whose vector is `word`, in one of the rows.
    fn slope(&self, row: usize, word: &[f32]) -> f32 {
        self.targets.cap.map_or(1.0, |of| {
            let z = dot(&self.x[row * self.hidden..(row + 1) * self.hidden], word);
            let bent = (z / f64::from(of)).tanh();
            (1.0 - bent * bent) as f32
        })
    }

    /// Factor of the products, before a cap.
    fn product_scale(&self) -> f32 {
        if self.targets.cap.is_some() { 1.0 } else { self.scale() }
    }

    /// Chunks of one of the parts of the vocabulary.
    fn chunks(&self, part: usize) -> impl Iterator<Item = Range<usize>> {
        let vocabulary = self.vocabulary;
        let chunks = vocabulary.div_ceil(CHUNK);
        (chunks * part / PARTS..chunks * (part + 1) / PARTS)
            .map(move |at| at * CHUNK..(at * CHUNK + CHUNK).min(vocabulary))
    }

    pub(super) fn forward(
        &self,
        tracked: bool,
        weight_tracked: bool,
        packed: Option<&'a Laid>,
    ) -> Forward {
        let step = self.block();
        let blocks: Vec<Forward> = self
            .x
            .par_chunks(step * self.hidden)
            .enumerate()
            .map(|(at, x)| {
                let block = self.part(x, at * step);
                // The weight's gradient makes the logits again, to the same bits.
                let laid_out = if weight_tracked { None } else { block.laid_out(tracked, packed) };
                let operands = laid_out.as_ref().map(|(x, weight)| (x, *weight));
                let parts = (0..PARTS)
                    .into_par_iter()
                    .map(|part| block.forward_part(part, tracked, operands));
                block.finish(parts.collect(), tracked)
            })
            .collect();
        let mut all = Forward { losses: Vec::new(), logsumexp: Vec::new(), unit: Vec::new() };
        for block in blocks {
            all.losses.extend(block.losses);
            all.logsumexp.extend(block.logsumexp);
            all.unit.extend(block.unit);
        }
        all
    }

    /// The operands of the logits, the rows packed once for all chunks, where our own kernels
    /// take them. Where `x` is tracked, it is not rounded to bf16.
    fn laid_out(
        &self,
        tracked: bool,
        packed: Option<&'a Laid>,
    ) -> Option<(Activations, Source<'a>)> {
        let (outputs, inputs) = (self.vocabulary, self.hidden);
        if inputs == 0 {
            return None;
        }
        // However few rows: one alone has the bits that it has among others.
        let rows = usize::MAX;
        let arithmetic = match self.weight {
            Weight::F32(_) | Weight::Bf16(_) => {
                let entering = if tracked { Entering::Gradients } else { Entering::Activations };
                Arithmetic::of(self.weight.dtype(), rows, entering)?
            }
            Weight::F16(_) => return None,
        };
        let source = packed.and_then(|packed| packed.source(arithmetic));
        let source = match (source, self.weight) {
            (Some(source), _) => source,
            (None, Weight::F32(values)) => Source::F32(View::dense(values, outputs, inputs).t()),
            (None, Weight::Bf16(values)) => Source::Bf16(View::dense(values, outputs, inputs).t()),
            (None, Weight::F16(_)) => return None,
        };
        Some((Activations::new(arithmetic, self.x, inputs), source))
    }

    /// The weight's rows of some words, as f32.
    fn words<'s>(&self, words: &Range<usize>, scratch: &'s mut Vec<f32>) -> View<'s>
    where
        'a: 's,
    {
        let all = words.start * self.hidden..words.end * self.hidden;
        View::dense(self.weight.part(all, scratch), words.len(), self.hidden)
    }

    /// Logits of these rows for a chunk of the vocabulary.
    fn logits(&self, weight: View<'_>, words: usize) -> Vec<f32> {
        let rows = self.rows.len();
        let x = View::dense(self.x, rows, self.hidden);
        // SAFETY: the product writes everything.
        let mut logits =
            unsafe { build(rows * words, |to| multiply(x, weight.t(), self.product_scale(), to)) };
        self.bend(&mut logits);
        logits
    }

    /// Takes the logits of some words into the sums, and leaves `e^(logit − top)`.
    fn take(&self, logits: &mut [f32], words: &Range<usize>, out: &mut Partial) {
        for (row, logits) in logits.chunks_exact_mut(words.len()).enumerate() {
            for (target, weight) in self.target(row).filter(|(id, _)| words.contains(id)) {
                out.picked[row] += f64::from(weight) * f64::from(logits[target - words.start]);
            }
            out.raise(row, largest(logits), self.hidden);
            out.sum[row] += exponentials(logits, out.top[row]);
        }
    }

    /// Runs over one part of the vocabulary.
    fn forward_part(&self, part: usize, tracked: bool, laid_out: LaidOut<'_>) -> Partial {
        let (rows, hidden) = (self.rows.len(), self.hidden);
        let mut out = Partial {
            top: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
            picked: vec![0.0; rows],
            unit: Vec::new(),
        };
        let mut scratch = Vec::new();
        for words in self.chunks(part) {
            let mut logits = match laid_out {
                Some((x, weight)) => self.logits_laid_out(x, weight, words.clone()),
                None => self.logits(self.words(&words, &mut scratch), words.len()),
            };
            let bent = if tracked { self.bent(&logits) } else { None };
            self.take(&mut logits, &words, &mut out);
            if let Some((bent, of)) = bent {
                multiply_by_slopes(&mut logits, &bent, of);
            }
            if tracked {
                let p = View::dense(&logits, rows, words.len());
                let weight = self.words(&words, &mut scratch);
                if out.unit.is_empty() {
                    // SAFETY: the product writes everything.
                    out.unit = unsafe { build(rows * hidden, |to| multiply(p, weight, 1.0, to)) };
                } else {
                    multiply_add(p, weight, &mut out.unit);
                }
            }
        }
        out
    }

    /// [`Self::logits`] from packed rows.
    fn logits_laid_out(
        &self,
        x: &Activations,
        weight: Source<'_>,
        words: Range<usize>,
    ) -> Vec<f32> {
        let len = self.rows.len() * words.len();
        // SAFETY: the product writes everything.
        let mut logits = unsafe { build(len, |to| multiply_words(x, weight, words, to)) };
        if self.product_scale() != 1.0 {
            logits.iter_mut().for_each(|z| *z *= self.scale());
        }
        self.bend(&mut logits);
        logits
    }

    /// Puts the parts together, in order.
    fn finish(&self, parts: Vec<Partial>, tracked: bool) -> Forward {
        let (rows, hidden) = (self.rows.len(), self.hidden);
        let mut all = Partial {
            top: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
            picked: vec![0.0; rows],
            unit: vec![0.0; if tracked { rows * hidden } else { 0 }],
        };
        for part in parts {
            for row in 0..rows {
                if part.sum[row] == 0.0 {
                    continue;
                }
                all.raise(row, part.top[row], hidden);
                let factor = (f64::from(part.top[row]) - f64::from(all.top[row])).exp();
                all.sum[row] += part.sum[row] * factor;
                all.picked[row] += part.picked[row];
                if tracked {
                    let of_row = row * hidden..(row + 1) * hidden;
                    let from = &part.unit[of_row.clone()];
                    let pairs = all.unit[of_row].iter_mut().zip(from);
                    pairs.for_each(|(to, v)| *to += *v * factor as f32);
                }
            }
        }
        let mut scratch = Vec::new();
        for (row, unit) in all.unit.chunks_exact_mut(hidden).enumerate() {
            let factor = (self.mass(row) / self.targets.temperature / all.sum[row]) as f32;
            unit.iter_mut().for_each(|v| *v *= factor);
            for (target, weight) in self.target(row) {
                let word = self.weight.part(target * hidden..(target + 1) * hidden, &mut scratch);
                let share = weight * self.scale() * self.slope(row, word);
                unit.iter_mut().zip(word).for_each(|(v, w)| *v -= share * w);
            }
        }
        let logsumexp: Vec<f64> =
            all.top.iter().zip(&all.sum).map(|(&top, sum)| f64::from(top) + sum.ln()).collect();
        let losses = logsumexp
            .iter()
            .zip(&all.picked)
            .enumerate()
            .map(|(row, (all, picked))| (self.mass(row) * all - picked) as f32)
            .collect();
        Forward { losses, logsumexp, unit: all.unit }
    }

    /// `Σ_r g/τ · (Σ_k w · p − w[id])ᵀ · x`, chunk by chunk of the vocabulary.
    pub(super) fn grad_weight(&self, logsumexp: &[f64], upstream: &[f32]) -> Vec<f32> {
        let hidden = self.hidden;
        let mut out = vec![0.0; self.vocabulary * hidden];
        out.par_chunks_mut(CHUNK * hidden).enumerate().for_each(|(at, out)| {
            let words = at * CHUNK..at * CHUNK + out.len() / hidden;
            let mut scratch = Vec::new();
            let weight = self.words(&words, &mut scratch);
            for start in (0..self.rows.len()).step_by(BLOCK_ROWS) {
                let rows = start..(start + BLOCK_ROWS).min(self.rows.len());
                let x = &self.x[start * hidden..rows.end * hidden];
                let part = self.part(x, start);
                let mut p = part.logits(weight, words.len());
                let bent = part.bent(&p);
                for (row, p) in rows.clone().zip(p.chunks_exact_mut(words.len())) {
                    exponentials(p, logsumexp[row] as f32);
                    let mass = self.mass(row) as f32;
                    p.iter_mut().for_each(|p| *p *= mass);
                    for (target, weight) in self.target(row).filter(|(id, _)| words.contains(id)) {
                        p[target - words.start] -= weight;
                    }
                    let factor = upstream[row] * self.scale();
                    p.iter_mut().for_each(|p| *p *= factor);
                }
                if let Some((bent, of)) = bent {
                    multiply_by_slopes(&mut p, &bent, of);
                }
                let p = View::dense(&p, rows.len(), words.len());
                multiply_add(p.t(), View::dense(x, rows.len(), hidden), out);
            }
        });
        out
    }
}
