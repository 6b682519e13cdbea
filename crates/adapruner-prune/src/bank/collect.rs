//! Collects a [`StatsBank`] in one pass over the calibration samples: forward and backward, or
//! forward alone for activation sums.
//!
//! The terms of a sample come from its own gradients alone, so it does not matter which samples
//! run together. Groups and kept blocks change no bit at all; micro-batches change none with
//! our own kernels. The gemm crate (products of up to four rows, of fewer than 16 columns, and
//! processors without AVX2) may round differently beside other rows. The terms of the whole
//! set, `Σ |w·ḡ|` and `Σ |w·ḡ − ½·w²·F̄|`, need `Σ_s w·g_s` and `Σ_s (w·g_s)²` of every element
//! over all samples before the absolute value: two f32 numbers a weight, added sample by sample
//! in the order of the list, whatever the micro-batches and groups. They are reduced and
//! dropped when the last sample was seen. Within one group that is two numbers for every weight
//! of one block; with several groups all blocks are under way at once, so it is two for every
//! weight of all blocks (8 bytes a weight). That is why [`super::memory`] keeps the inputs of
//! fewer blocks before it makes several groups of samples whose set terms are collected.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use adapruner_checkpoint::{Digest, LayerWidths, arch::family::FeedForwardKind, names::Projection};
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{
    Decoder, GradientObserver, InputObserver, PassCuts, ProjectionGrad, ProjectionInput,
    observe_gradients, observe_inputs,
};
use candle_core::{DType, Result as CandleResult, Storage, Tensor, WithDType, bail};

use super::{BANK_VERSION, BankArrays, BankHeader, StatsBank, Terms, fused, inputs, portable};
use crate::{
    error::{Error, Result},
    layout::VectorLayout,
};

/// What is collected, and from what.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// Which per-sample terms.
    pub terms: Terms,
    /// Whether the terms of the whole set of samples are collected as well
    /// (needs [`Terms::Full`]).
    pub batch: bool,
    /// What runs and is kept together; the bank does not depend on groups and kept
    /// blocks.
    pub cuts: PassCuts,
    /// Digest of the model.
    pub model_digest: Digest,
    /// Digest of the calibration samples.
    pub calibration_digest: Digest,
    /// Seed the samples were drawn with.
    pub seed: u64,
}

/// Collects the activation sums of every column, and the Taylor terms of every structural
/// vector unless only [`Terms::Activations`] are requested, for every sample.
///
/// One forward and one backward pass for each group of samples, or a forward pass alone; the
/// activation sums are the same to the bit. `progress` receives (steps done, all steps).
/// [`super::memory`] says what it takes in memory.
///
/// # Errors
/// No samples, contradicting options, or those of [`observe_gradients`] and
/// [`observe_inputs`].
pub fn collect(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    options: &CollectOptions,
    progress: &dyn Fn(usize, usize),
) -> Result<StatsBank> {
    let config = decoder.config();
    let collector = Collector::new(
        (&config.layers, config.head_dim, config.family().feed_forward()),
        samples.len(),
        options.terms,
        options.batch,
    )?
    .of_experts(config.expert_count());
    let cuts = &options.cuts;
    let losses = match options.terms {
        Terms::Activations => observe_inputs(decoder, samples, cuts, &collector, progress),
        Terms::Coarse | Terms::Full => {
            observe_gradients(decoder, samples, cuts, &collector, progress)
        }
    }?;
    let header = BankHeader {
        version: BANK_VERSION,
        model_digest: options.model_digest,
        calibration_digest: options.calibration_digest,
        seed: options.seed,
        sample_tokens: samples.iter().map(Vec::len).collect(),
        losses,
        hidden_size: config.hidden_size,
        head_dim: config.head_dim,
        layers: config.layers.clone(),
        feed_forward: config.family().feed_forward(),
        terms: options.terms,
        batch: options.batch,
        dtype: Some(decoder.placement().dtype.as_str().to_owned()),
        matmul_precision: Some(MatmulPrecision::current().to_string()),
    };
    StatsBank::new(header, collector.into_arrays())
}

/// Takes what a pass shows and keeps the sums.
pub(super) struct Collector {
    layout: VectorLayout,
    columns: VectorLayout,
    /// Experts of a feed-forward, 1 where it is none of experts.
    experts: usize,
    samples: usize,
    terms: Terms,
    batch: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arrays: BankArrays,
    /// Element sums of projections whose samples come in several micro-batches.
    pending: BTreeMap<(usize, Projection, Option<usize>), Pending>,
}

#[derive(Default)]
struct Pending {
    seen: usize,
    strips: Vec<fused::StripElements>,
    tensors: portable::Elements,
}

impl Collector {
    /// A collector for layers of these widths and heads of this width.
    pub(super) fn new(
        (layers, head_dim, kind): (&[LayerWidths], usize, FeedForwardKind),
        samples: usize,
        terms: Terms,
        batch: bool,
    ) -> Result<Self> {
        if samples == 0 {
            return Err(Error::Bank("expected at least 1 sample, found none".into()));
        }
        if batch && terms < Terms::Full {
            return Err(Error::Bank(
                "the terms of the whole set need weight gradients, which these terms do without"
                    .into(),
            ));
        }
        let sizes = VectorLayout::new(layers, head_dim, kind)
            .and_then(|layout| Some((samples.checked_mul(layout.len())?, layout)));
        let columns = VectorLayout::columns(layers, head_dim);
        let (Some((all, layout)), Some(columns)) = (sizes, columns) else {
            return Err(Error::Bank("the model's widths are too large".into()));
        };
        let (signed, full) = match terms {
            Terms::Activations => (0, 0),
            Terms::Coarse => (all, 0),
            Terms::Full => (all, all),
        };
        let set = if batch { layout.len() } else { 0 };
        let [input_sum, input_square] = [(); 2].map(|()| vec![0.0; samples * columns.len()]);
        let [column_abs, column_square] = [(); 2].map(|()| vec![0.0; columns.len()]);
        let arrays = BankArrays {
            signed: vec![0.0; signed],
            element: vec![0.0; full],
            fisher: vec![0.0; full],
            batch_first: vec![0.0; set],
            batch_mix: vec![0.0; set],
            input_sum,
            input_square,
            column_abs,
            column_square,
        };
        let state = Mutex::new(State { arrays, pending: BTreeMap::new() });
        Ok(Self { layout, columns, experts: 1, samples, terms, batch, state })
    }

    /// The same for feed-forwards of so many experts.
    pub(super) fn of_experts(self, experts: usize) -> Self {
        Self { experts, ..self }
    }

    pub(super) fn into_arrays(self) -> BankArrays {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).arrays
    }

    /// Which vectors of the bank `grad` is about, its shapes checked.
    fn vectors(&self, grad: &ProjectionGrad<'_>) -> CandleResult<Range<usize>> {
        let ProjectionGrad { layer, projection, expert, .. } = *grad;
        let (outputs, inputs) = grad.weight.dims2()?;
        let rows = grad.input.dim(0)?;
        let vectors = if projection.prunes_columns() { inputs } else { outputs };
        let range = self.range(&self.layout, layer, projection, expert);
        let Some(range) = range.filter(|range| {
            range.len() == vectors
                && grad.samples.end <= self.samples
                && fits(grad.rows, grad.samples.len(), rows, expert.is_some())
                && grad.input.dims() == [rows, inputs]
                && grad.grad_output.dims() == [rows, outputs]
        }) else {
            bail!(
                "layer {layer}, {projection}: gradient of samples {:?} has input {:?}, weight \
                 {:?}, output {:?}, which do not fit the model",
                grad.samples,
                grad.input.shape(),
                grad.weight.shape(),
                grad.grad_output.shape()
            );
        };
        Ok(range)
    }

    /// Where the vectors or columns of a projection stand, of a mixture those of one expert.
    fn range(
        &self,
        of: &VectorLayout,
        layer: usize,
        projection: Projection,
        expert: Option<usize>,
    ) -> Option<Range<usize>> {
        let whole = (layer < of.layers()).then(|| of.range(layer, projection))?;
        let Some(expert) = expert else { return Some(whole) };
        let width = whole.len() / self.experts.max(1);
        let start = whole.start + expert * width;
        (expert < self.experts).then(|| start..start + width)
    }

    /// Keeps what the columns of a projection read, and once the sizes of its weights.
    fn inputs(&self, seen: &ProjectionInput<'_>) -> CandleResult<()> {
        let ProjectionInput { layer, projection, expert, .. } = *seen;
        let (_, width) = seen.weight.dims2()?;
        let rows = seen.input.dim(0)?;
        let range = self.range(&self.columns, layer, projection, expert);
        let Some(range) = range.filter(|range| {
            range.len() == width
                && seen.samples.end <= self.samples
                && fits(seen.rows, seen.samples.len(), rows, expert.is_some())
                && seen.input.dims() == [rows, width]
        }) else {
            bail!(
                "layer {layer}, {projection}: what samples {:?} gave has input {:?}, weight {:?}, \
                 which do not fit the model",
                seen.samples,
                seen.input.shape(),
                seen.weight.shape()
            );
        };
        let sums = inputs::sample_sums(seen.input, seen.rows)?;
        let sizes = (seen.samples.start == 0).then(|| inputs::weight_sizes(seen.weight));
        let sizes = sizes.transpose()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let arrays = &mut state.arrays;
        let put = |to: &mut [f32], from: Vec<f64>| {
            to.iter_mut().zip(from).for_each(|(to, value)| *to = value as f32);
        };
        for (sample, [sum, square]) in seen.samples.clone().zip(sums) {
            let start = sample * self.columns.len() + range.start;
            put(&mut arrays.input_sum[start..], sum);
            put(&mut arrays.input_square[start..], square);
        }
        if let Some([abs, square]) = sizes {
            put(&mut arrays.column_abs[range.start..], abs);
            put(&mut arrays.column_square[range.start..], square);
        }
        Ok(())
    }

    fn coarse(&self, grad: &ProjectionGrad<'_>, range: Range<usize>) -> CandleResult<()> {
        let sums = portable::coarse_sums(grad)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (sample, sums) in grad.samples.clone().zip(sums) {
            let start = sample * self.layout.len() + range.start;
            for (to, value) in state.arrays.signed[start..].iter_mut().zip(sums) {
                *to = value as f32;
            }
        }
        Ok(())
    }

    fn full(&self, grad: &ProjectionGrad<'_>, range: Range<usize>) -> CandleResult<()> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { arrays, pending } = &mut *guard;
        let key = (grad.layer, grad.projection, grad.expert);
        let mut kept = pending.remove(&key).unwrap_or_default();
        kept.seen += grad.samples.len();
        let last = kept.seen == self.samples;
        let whole = grad.samples.len() == self.samples;
        let mut sink = Sink {
            arrays,
            vectors: self.layout.len(),
            start: range.start,
            first_sample: grad.samples.start,
            scale: 1.0 / self.samples as f64,
        };
        if on_cpu(grad) {
            let set = match (self.batch, whole) {
                (false, _) => fused::SetTerms::None,
                (true, true) => fused::SetTerms::Whole,
                (true, false) => fused::SetTerms::Part { strips: &mut kept.strips, last },
            };
            for strip in fused_sums(grad, set)? {
                let width = strip.vectors.len();
                for (at, sums) in strip.sums.iter().enumerate() {
                    sink.put(at / width, strip.vectors.start + at % width, *sums);
                }
                for (at, set) in strip.set.iter().flatten().enumerate() {
                    sink.put_set(strip.vectors.start + at, *set);
                }
            }
        } else {
            let set = self.batch.then_some(&mut kept.tensors);
            let samples = portable::vector_sums(grad, set)?;
            for (sample, [signed, element, fisher]) in samples.iter().enumerate() {
                for (at, &s) in signed.iter().enumerate() {
                    sink.put(sample, at, [s, element[at], fisher[at]]);
                }
            }
            if last && self.batch {
                let tensors = std::mem::take(&mut kept.tensors);
                let columns = grad.projection.prunes_columns();
                if let Some([first, mix]) = portable::set_terms(tensors, columns)? {
                    for (at, (first, mix)) in first.into_iter().zip(mix).enumerate() {
                        sink.put_set(at, [first, mix]);
                    }
                }
            }
        }
        if !last {
            pending.insert(key, kept);
        }
        Ok(())
    }
}

impl GradientObserver for Collector {
    fn projection(&self, grad: &ProjectionGrad<'_>) -> CandleResult<()> {
        let range = self.vectors(grad)?;
        if grad.projection.prunes_columns() {
            self.inputs(&ProjectionInput {
                layer: grad.layer,
                projection: grad.projection,
                expert: grad.expert,
                input: grad.input,
                weight: grad.weight,
                samples: grad.samples.clone(),
                rows: grad.rows,
            })?;
        }
        match self.terms {
            Terms::Activations => Ok(()),
            Terms::Coarse => self.coarse(grad, range),
            Terms::Full => self.full(grad, range),
        }
    }

    fn block_done(&self, layer: usize, samples: usize) -> CandleResult<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let short = |((of, _, _), pending): &(&(usize, Projection, _), &Pending)| {
            *of == layer && (pending.seen != samples || samples == self.samples)
        };
        match state.pending.iter().find(short) {
            None => Ok(()),
            Some(((_, projection, _), pending)) => bail!(
                "layer {layer}, {projection}: gradients of {} samples were seen, expected \
                 {samples}",
                pending.seen
            ),
        }
    }
}

impl InputObserver for Collector {
    fn input(&self, input: &ProjectionInput<'_>) -> CandleResult<()> {
        self.inputs(input)
    }
}

/// Where the sums of one projection and micro-batch go.
struct Sink<'a> {
    arrays: &'a mut BankArrays,
    /// `U`.
    vectors: usize,
    /// First vector of the projection.
    start: usize,
    /// First sample of the micro-batch.
    first_sample: usize,
    /// One over the number of all samples.
    scale: f64,
}

impl Sink<'_> {
    fn put(&mut self, sample: usize, vector: usize, [signed, element, fisher]: [f64; 3]) {
        let at = (self.first_sample + sample) * self.vectors + self.start + vector;
        self.arrays.signed[at] = signed as f32;
        self.arrays.element[at] = element as f32;
        self.arrays.fisher[at] = fisher as f32;
    }

    fn put_set(&mut self, vector: usize, [first, mix]: [f64; 2]) {
        self.arrays.batch_first[self.start + vector] = (first * self.scale) as f32;
        self.arrays.batch_mix[self.start + vector] = (mix * self.scale) as f32;
    }
}

/// Whether these are the rows of so many samples, of so many rows in all; behind those of an
/// expert there may be others.
fn fits(rows: &[Range<usize>], samples: usize, all: usize, of_expert: bool) -> bool {
    let ordered = rows.windows(2).all(|pair| pair[0].end == pair[1].start);
    let within = rows.iter().all(|rows| rows.start <= rows.end && rows.end <= all);
    let whole = of_expert || rows.last().map_or(0, |last| last.end) == all;
    rows.len() == samples && ordered && within && whole
}

/// Whether the fused CPU path takes these tensors.
fn on_cpu(grad: &ProjectionGrad<'_>) -> bool {
    grad.weight.device().is_cpu()
        && grad.input.dtype() == DType::F32
        && grad.grad_output.dtype() == DType::F32
        && [DType::F32, DType::BF16, DType::F16].contains(&grad.weight.dtype())
}

/// Runs the fused path on the tensors' own storage.
fn fused_sums(
    grad: &ProjectionGrad<'_>,
    set: fused::SetTerms<'_>,
) -> CandleResult<Vec<fused::StripSums>> {
    let (outputs, inputs) = grad.weight.dims2()?;
    let rows = grad.input.dim(0)?;
    let [weight, input, grad_output] =
        [grad.weight, grad.input, grad.grad_output].map(Tensor::contiguous);
    let (weight, input, grad_output) = (weight?, input?, grad_output?);
    let [of_weight, of_input, of_grad] =
        [&weight, &input, &grad_output].map(Tensor::storage_and_layout);
    let start = of_weight.1.start_offset();
    let (size, dtype) = (outputs * inputs, weight.dtype());
    let weight = if dtype == DType::F32 {
        fused::Weight::F32(slice(&of_weight.0, start, size)?)
    } else if dtype == DType::BF16 {
        fused::Weight::Bf16(slice(&of_weight.0, start, size)?)
    } else {
        fused::Weight::F16(slice(&of_weight.0, start, size)?)
    };
    let operands = fused::Operands {
        samples: grad.rows,
        outputs,
        inputs,
        input: slice(&of_input.0, of_input.1.start_offset(), rows * inputs)?,
        grad_output: slice(&of_grad.0, of_grad.1.start_offset(), rows * outputs)?,
        weight,
        columns: grad.projection.prunes_columns(),
    };
    Ok(fused::vector_sums(&operands, set))
}

/// Part of a tensor's storage, which must be on the CPU and of type `T`.
pub(super) fn slice<T: WithDType>(
    storage: &Storage,
    start: usize,
    len: usize,
) -> CandleResult<&[T]> {
    match storage {
        Storage::Cpu(values) => Ok(&values.as_slice::<T>()?[start..start + len]),
        Storage::Cuda(_) | Storage::Metal(_) => bail!("expected a tensor on the CPU"),
    }
}
