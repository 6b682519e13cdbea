//! Forward and backward of a batch, block by block.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use adapruner_checkpoint::names::{Part, Projection};
use adapruner_kernels::{GradTap, Head, LowRankGrad, column_dots, linear_soft_cross_entropy};
use candle_core::{D, DType, Result as CandleResult, Tensor, Var};

use super::{Batch, Learned, MaskGradients, PassOptions, Term};
use crate::{
    backward::{Ran, gradient_of},
    block::{MapPlace, Pass, Taps},
    decoder::{Decoder, Places, head_part},
    error::{Error, Result},
    rotary::Rotations,
    wide::{in_f64, sum_in_f64},
};

/// Sequences whose rows follow each other.
pub(super) struct Rows {
    lengths: Arc<[usize]>,
    /// u32 `[1, R]`.
    ids: Tensor,
    /// Where each row stands in its sequence.
    places: Vec<u32>,
    rotations: Rotations,
}

impl Rows {
    pub(super) fn new(decoder: &Decoder, sequences: &[Vec<u32>]) -> Result<Self> {
        if let Some(at) = sequences.iter().position(|s| s.len() < 2) {
            return Err(Error::Tokens(format!(
                "sequence {at} has {} tokens, expected at least 2 to predict one",
                sequences[at].len()
            )));
        }
        let lengths: Arc<[usize]> = sequences.iter().map(Vec::len).collect();
        let ids = decoder.tokens(&[sequences.concat()])?;
        let places: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let rotations = decoder.positions_of(places.clone())?;
        Ok(Self { lengths, ids, places, rotations })
    }

    pub(super) fn pass<'a>(&'a self, taps: Option<&'a Taps<'a>>) -> Pass<'a> {
        Pass { lengths: Some(&self.lengths), taps, ..Pass::of(&self.rotations) }
    }

    pub(super) fn embedded(&self, decoder: &Decoder) -> Result<Tensor> {
        decoder.embedded(&self.ids, Places::Each(&self.places))
    }

    /// Rows that predict: all but the last of each sequence.
    pub(super) fn predicting(&self) -> Vec<u32> {
        let ends = self.lengths.iter().scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some((start, *end))
        });
        ends.flat_map(|(start, end)| start as u32..end as u32 - 1).collect()
    }

    /// The sequence of a predicting row.
    fn sequence_of(&self, mut row: usize) -> usize {
        let fits = |length: &usize| {
            let here = row < length - 1;
            row = row.saturating_sub(length - 1);
            here
        };
        self.lengths.iter().position(fits).unwrap_or(0)
    }
}

/// Which gradients a pass is run for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Adapters,
    Masks,
    Parameters,
}

#[derive(Default)]
pub(super) struct Gradients {
    pub(super) adapters: BTreeMap<(usize, Projection), LowRankGrad>,
    pub(super) masks: MaskGradients,
    pub(super) parameters: BTreeMap<String, Tensor>,
}

impl Gradients {
    fn add(&mut self, name: &str, gradient: Tensor) -> Result<()> {
        let sum = match self.parameters.remove(name) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        self.parameters.insert(name.to_owned(), sum);
        Ok(())
    }

    /// Adds `Σ_r input_rj · grad_rj` to the gradient of factor `j` of a mask.
    ///
    /// # Shapes
    /// `[R, in]` both.
    fn add_mask(&mut self, key: (usize, Projection), input: &Tensor, grad: &Tensor) -> Result<()> {
        let (_, width) = input.dims2()?;
        let sums = self.masks.entry(key).or_insert_with(|| vec![0.0; width]);
        if input.device().is_cpu() && [input, grad].iter().all(|t| t.dtype() == DType::F32) {
            return Ok(column_dots(input, grad, sums)?);
        }
        let products = (input.to_dtype(DType::F32)? * grad.to_dtype(DType::F32)?)?;
        let dots = sum_in_f64(&products, 0)?.to_vec1::<f64>()?;
        sums.iter_mut().zip(dots).for_each(|(sum, dot)| *sum += dot);
        Ok(())
    }
}

/// What a tap was given.
enum Given {
    LowRank(LowRankGrad),
    /// Before a mask, and the gradient behind it.
    Mask(Tensor, Tensor),
}

/// Keeps what the taps of one block were given.
type Kept = Arc<Mutex<Vec<(Projection, Given)>>>;

struct Tap {
    projection: Projection,
    kept: Kept,
}

impl Tap {
    fn keep(&self, given: Given) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((self.projection, given));
    }
}

impl GradTap for Tap {
    fn observe(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> CandleResult<()> {
        Ok(())
    }

    fn low_rank(&self, gradients: LowRankGrad) -> CandleResult<()> {
        self.keep(Given::LowRank(gradients));
        Ok(())
    }

    fn mask(&self, input: &Tensor, grad: &Tensor) -> CandleResult<()> {
        self.keep(Given::Mask(input.detach(), grad.detach()));
        Ok(())
    }
}

/// A block that was run for its gradients.
struct Running {
    ran: Ran,
    kept: Kept,
    variables: Vec<(String, Var)>,
}

impl Running {
    fn new(decoder: &Decoder, layer: usize, x: &Tensor, rows: &Rows, of: Wanted) -> Result<Self> {
        let kept = Kept::default();
        let block = decoder.block(layer)?;
        let (ran, variables) = match of {
            Wanted::Adapters | Wanted::Masks => {
                let taps = |place: MapPlace| -> Arc<dyn GradTap> {
                    Arc::new(Tap { projection: place.projection, kept: kept.clone() })
                };
                (Ran::new(layer, &block, x, &rows.pass(Some(&taps)))?, Vec::new())
            }
            Wanted::Parameters => {
                let (block, variables) = block.with_variables(layer)?;
                (Ran::new(layer, &block, x, &rows.pass(None))?, variables)
            }
        };
        Ok(Self { ran, kept, variables })
    }

    /// The gradient of the block's input; all others go to `into`.
    fn pull_back(self, layer: usize, upstream: &Tensor, into: &mut Gradients) -> Result<Tensor> {
        let (upstream, grads) = self.ran.pull_back(upstream)?;
        for (name, variable) in &self.variables {
            into.add(name, gradient_of(&grads, variable, name)?)?;
        }
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        for (projection, given) in kept {
            let key = (layer, projection);
            match given {
                Given::LowRank(gradient) => {
                    into.adapters.insert(key, gradient);
                }
                Given::Mask(input, grad) => into.add_mask(key, &input, &grad)?,
            }
        }
        Ok(upstream)
    }
}

fn check(decoder: &Decoder, batch: &Batch<'_>, predicting: usize) -> Result<()> {
    let vocabulary = decoder.config().vocab_size;
    for (at, Term { k, ids, weights, temperature }) in batch.terms.iter().enumerate() {
        if ids.len() != predicting * k || weights.len() != ids.len() {
            return Err(Error::Batch(format!(
                "term {at} has {} ids and {} weights, expected {k} of each for {predicting} \
                 predicted tokens",
                ids.len(),
                weights.len()
            )));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Tokens(format!(
                "term {at} has token id {id}, but the vocabulary ends at {vocabulary}"
            )));
        }
        if !(*temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::Batch(format!(
                "term {at} has temperature {temperature}, expected a number above 0"
            )));
        }
    }
    let layers = decoder.config().layers.len();
    let matched = batch.hidden.as_ref().and_then(|h| h.layers.iter().find(|&&l| l >= layers));
    match matched {
        Some(layer) => {
            Err(Error::Batch(format!("hidden states of layer {layer}, the model has {layers}")))
        }
        None => Ok(()),
    }
}

/// The terms' sums, and the gradient of the last block's output `[1, R, H]`.
fn last(
    decoder: &Decoder,
    batch: &Batch<'_>,
    rows: &Rows,
    x: &Tensor,
    wanted: Wanted,
    into: &mut Gradients,
) -> Result<(Vec<f64>, Tensor)> {
    let predicting = rows.predicting();
    check(decoder, batch, predicting.len())?;
    let count = predicting.len();
    let device = x.device();
    let variable = Var::from_tensor(x)?;
    let mut ending = decoder.ending()?;
    let outer = match wanted {
        Wanted::Adapters | Wanted::Masks => None,
        Wanted::Parameters => {
            let config = decoder.config();
            let mut outer = vec![
                (config.name(Part::FinalNorm), Var::from_tensor(&ending.norm.weight)?),
                (config.name(head_part(config)), Var::from_tensor(&ending.head.weight)?),
            ];
            ending.norm.weight = outer[0].1.as_tensor().clone();
            ending.head = Head::new(outer[1].1.as_tensor(), ending.head.cap);
            if let Some(bias) = &mut ending.norm.bias {
                let variable = Var::from_tensor(bias)?;
                *bias = variable.as_tensor().clone();
                outer.push((config.name(Part::FinalNormBias), variable));
            }
            Some(outer)
        }
    };
    let x = variable.as_tensor().squeeze(0)?;
    let x = x.index_select(&Tensor::from_vec(predicting, count, device)?, 0)?;
    let x = ending.read(&x)?;
    let mut sums = Vec::with_capacity(batch.terms.len());
    let mut total: Option<Tensor> = None;
    for term in &batch.terms {
        if term.is_empty() {
            sums.push(0.0);
            continue;
        }
        let ids = Tensor::from_slice(&term.ids, (count, term.k), device)?;
        let weights = Tensor::from_slice(&term.weights, (count, term.k), device)?;
        let losses = linear_soft_cross_entropy(&x, &ending.head, &ids, &weights, term.temperature)?;
        let values = in_f64(&losses.detach())?.to_vec1::<f64>()?;
        if let Some(row) = values.iter().position(|loss| !loss.is_finite()) {
            return Err(Error::Loss { sample: rows.sequence_of(row), loss: values[row] });
        }
        sums.push(values.iter().sum());
        let sum = losses.sum_all()?;
        total = Some(match total {
            None => sum,
            Some(total) => (total + sum)?,
        });
    }
    let Some(total) = total else {
        // Nothing is predicted; what is matched may still be learned from.
        for (name, variable) in outer.iter().flatten() {
            into.add(name, variable.zeros_like()?)?;
        }
        return Ok((sums, variable.zeros_like()?));
    };
    let grads = total.backward()?;
    for (name, variable) in outer.iter().flatten() {
        into.add(name, gradient_of(&grads, variable, name)?)?;
    }
    Ok((sums, gradient_of(&grads, &variable, "the last hidden state")?))
}

/// `Σ over rows ‖h − t‖²/‖t‖²` and its gradient.
///
/// # Shapes
/// `h` `[1, R, H]`, `t` `[R, H]` → a number, `[1, R, H]`.
fn apart(h: &Tensor, t: &Tensor) -> Result<(f64, Tensor)> {
    let t = t.to_dtype(DType::F32)?.unsqueeze(0)?;
    let difference = (h.to_dtype(DType::F32)? - &t)?;
    // A target of zeros weighs much, not infinitely.
    let share = (t.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.recip()?;
    let weighed = difference.broadcast_mul(&share)?;
    let squares = (in_f64(&difference)? * in_f64(&weighed)?)?;
    Ok((squares.sum_all()?.to_scalar()?, (weighed.to_dtype(h.dtype())? * 2.0)?))
}

/// Runs a batch.
pub(super) fn run(
    decoder: &Decoder,
    batch: &Batch<'_>,
    options: &PassOptions,
    wanted: Wanted,
) -> Result<Learned<Gradients>> {
    run_onto(decoder, batch, options, wanted, Gradients::default())
}

/// Runs a batch; its gradients are added to those of earlier ones.
pub(super) fn run_onto(
    decoder: &Decoder,
    batch: &Batch<'_>,
    options: &PassOptions,
    wanted: Wanted,
    mut gradients: Gradients,
) -> Result<Learned<Gradients>> {
    let rows = Rows::new(decoder, batch.sequences)?;
    check(decoder, batch, rows.predicting().len())?;
    let layers = decoder.config().layers.len();
    // Backward ends where nothing is left to be learned.
    let first = match wanted {
        Wanted::Parameters => 0,
        Wanted::Adapters => decoder.adapters().keys().next().map_or(layers, |&(layer, _)| layer),
        Wanted::Masks => decoder.masks().keys().next().map_or(layers, |&(layer, _)| layer),
    };
    // What enters every block, and (but for checkpointing) the blocks as they ran.
    let mut states = vec![rows.embedded(decoder)?];
    let mut running = Vec::new();
    for layer in 0..layers {
        let x = &states[layer];
        let y = if options.checkpointing || layer < first {
            decoder.block(layer)?.forward(x, &rows.pass(None), None)?
        } else {
            running.push(Running::new(decoder, layer, x, &rows, wanted)?);
            running.last().map_or_else(|| x.clone(), |ran| ran.ran.output())
        };
        states.push(y);
    }

    let mut hidden = 0.0;
    let mut y = states.swap_remove(layers);
    let (terms, mut upstream) = last(decoder, batch, &rows, &y, wanted, &mut gradients)?;
    for layer in (0..layers).rev() {
        if let Some(matched) = batch.hidden.as_ref().filter(|h| h.layers.contains(&layer)) {
            let target = (matched.target)(layer)?;
            let (_, count, width) = y.dims3()?;
            if target.dims() != [count, width] {
                return Err(Error::Batch(format!(
                    "the target of layer {layer} is {:?}, expected [{count}, {width}]",
                    target.dims()
                )));
            }
            let (loss, gradient) = apart(&y, &target)?;
            hidden += matched.weight * loss;
            upstream = (upstream + (gradient * matched.weight)?)?;
        }
        let x = states.swap_remove(layer);
        if layer >= first {
            let ran = match running.pop() {
                Some(ran) => ran,
                None => Running::new(decoder, layer, &x, &rows, wanted)?,
            };
            upstream = ran.pull_back(layer, &upstream, &mut gradients)?;
        }
        y = x;
    }
    if !hidden.is_finite() {
        return Err(Error::Matching(hidden));
    }
    if wanted == Wanted::Parameters {
        let (config, embedding) = (decoder.config(), decoder.embedding()?);
        let upstream = upstream.flatten_to(1)?;
        let summed = |table: &Tensor, at: &Tensor, upstream: &Tensor| {
            table.zeros_like()?.index_add(at, &upstream.to_dtype(table.dtype())?, 0)
        };
        if let Some(positions) = &embedding.positions {
            let at = decoder.position_rows(Places::Each(&rows.places), rows.places.len())?;
            gradients.add(&config.name(Part::Positions), summed(positions, &at, &upstream)?)?;
        }
        let (at, upstream) = (rows.ids.flatten_all()?, (upstream * config.embedding_scale)?);
        gradients.add(&config.name(Part::Embedding), summed(&embedding.words, &at, &upstream)?)?;
    }
    Ok(Learned { terms, hidden, gradients })
}
