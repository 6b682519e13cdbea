//! Allocation of a cut over a model by measured loss: `--allocation measured`.
//!
//! Starting from the dense model, the algorithm takes one step at a time until the budget is met.
//! A step removes a slice of a layer's feed-forward channels (the least important remaining ones
//! by the static scores), its attention sublayer, or the whole layer. Each time it takes the step
//! with the lowest price on some calibration samples:
//!
//! `price = (loss after − loss before) / removed parameters`
//!
//! The price of a step seldom falls when others are taken, so only the cheapest step is measured
//! again before it is taken (lazy greedy, Minoux 1978). The algorithm is deterministic and costs
//! about three passes of the samples through half the model for each step.
//!
//! It chooses widths over depth, attention sublayers and layers. Scores and learned masks then
//! choose the channels.
//!
//! Losses are nats per predicted token.

use adapruner_checkpoint::{Checkpoint, text::TokenSet};
use adapruner_eval::{Stepwise, Trial};
use adapruner_model::{Decoder, Placement};
use adapruner_prune::{LayerPlan, PlanOptions, PrunePlan, Scores, apply, channel_order};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Result, ensure},
    pipeline::{self, TokensRecord},
    progress::Progress,
};

/// Number of slices that a layer's channels are divided into.
const SLICES: usize = 4;

/// What a step removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// A slice of a layer's feed-forward channels.
    Channels,
    /// A layer's attention sublayer.
    Attention,
    /// The rest of a layer.
    Layer,
}

/// A step of the allocation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The layer.
    pub layer: usize,
    /// What it removed.
    pub taken: Taken,
    /// Number of parameters that it removed.
    pub parameters: u64,
    /// The loss after it.
    pub loss: f64,
}

/// Record of an allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocationRecord {
    /// The calibration samples.
    pub samples: TokensRecord,
    /// Loss of the dense model.
    pub loss: f64,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// A possible next step.
struct Candidate {
    layer: usize,
    taken: Taken,
    kept: LayerPlan,
    parameters: u64,
    /// Its last measured price, in nats per parameter; minus infinity before the first.
    price: f64,
}

/// What remains of a layer after the next step of a kind: without a slice of its channels (least
/// important first), without its attention, or nothing. `None` if there is no such step.
fn next(kept: &LayerPlan, taken: Taken, (order, slice): (&[usize], usize)) -> Option<LayerPlan> {
    match taken {
        Taken::Channels => {
            let left = kept.ffn.len().checked_sub(slice).filter(|left| *left > 0)?;
            // The order has the least important first, so the last ones remain.
            let mut ffn = order[order.len() - left..].to_vec();
            ffn.sort_unstable();
            Some(LayerPlan { ffn, ..kept.clone() })
        }
        Taken::Attention if kept.query_heads.is_empty() || kept.ffn.is_empty() => None,
        Taken::Attention => Some(LayerPlan { ffn: kept.ffn.clone(), ..LayerPlan::NOTHING }),
        Taken::Layer if *kept == LayerPlan::NOTHING => None,
        Taken::Layer => Some(LayerPlan::NOTHING),
    }
}

/// A model between two steps.
struct Allocator<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a PlanOptions,
    model: Stepwise,
    /// What remains of each layer.
    kept: Vec<LayerPlan>,
    /// Number of remaining parameters.
    parameters: u64,
    /// Channels of each layer, least important first, and the size of a slice.
    channels: Vec<(Vec<usize>, usize)>,
    candidates: Vec<Candidate>,
    /// The cheapest step measured on the current model, if it has not been taken.
    held: Option<(usize, Taken, Trial)>,
    steps: Vec<Step>,
}

impl Allocator<'_> {
    /// Adds the next step of a kind in a layer to the candidates, with its last known price.
    fn open(&mut self, layer: usize, taken: Taken, price: f64) {
        let (order, slice) = &self.channels[layer];
        let Some(kept) = next(&self.kept[layer], taken, (order, *slice)) else { return };
        let mut all = self.kept.clone();
        all[layer] = kept.clone();
        if all.iter().all(|kept| *kept == LayerPlan::NOTHING) {
            return;
        }
        let widths = all.iter().map(LayerPlan::widths).collect();
        let parameters = self.parameters - self.checkpoint.config.with_layers(widths).parameters();
        self.candidates.push(Candidate { layer, taken, kept, parameters, price });
    }

    /// Measures the model with one layer cut to `kept`.
    fn measure(&self, layer: usize, kept: &LayerPlan) -> Result<Trial> {
        if *kept == LayerPlan::NOTHING {
            return Ok(self.model.measure(layer, None)?);
        }
        let config = &self.checkpoint.config;
        let mut layers: Vec<LayerPlan> = config.layers.iter().map(LayerPlan::whole).collect();
        layers[layer] = kept.clone();
        let plan = PrunePlan::keeping(config, self.checkpoint.digest()?, layers);
        let cut = apply(self.checkpoint, &plan)?;
        Ok(self.model.measure(layer, Some(&cut))?)
    }

    /// Takes the cheapest step that removes fewer than `most` parameters, or measures it again.
    /// Returns whether there is such a step.
    fn advance(&mut self, most: u64) -> Result<bool> {
        let order = |a: &Candidate, b: &Candidate| {
            let prices = a.price.total_cmp(&b.price);
            prices.then(a.layer.cmp(&b.layer)).then(a.parameters.cmp(&b.parameters))
        };
        self.candidates.sort_by(order);
        let fits = |of: &Candidate| of.parameters < most;
        let mut fitting = (0..self.candidates.len()).filter(|&at| fits(&self.candidates[at]));
        let Some(at) = fitting.next() else { return Ok(false) };
        let second = fitting.next().map_or(f64::INFINITY, |at| self.candidates[at].price);
        let Candidate { layer, taken, parameters, .. } = self.candidates[at];
        let trial = match self.held.take() {
            Some((of, what, trial)) if (of, what) == (layer, taken) => trial,
            held => {
                let trial = self.measure(layer, &self.candidates[at].kept)?;
                let price = (trial.loss() - self.model.loss()) / parameters as f64;
                self.candidates[at].price = price;
                if price > second {
                    let cheaper = held.as_ref().is_some_and(|(of, what, _)| {
                        let mut all = self.candidates.iter();
                        let held = all.find(|all| (all.layer, all.taken) == (*of, *what));
                        held.is_some_and(|held| held.price <= price)
                    });
                    self.held = if cheaper { held } else { Some((layer, taken, trial)) };
                    return Ok(true);
                }
                trial
            }
        };
        let Candidate { kept, price, .. } = self.candidates.swap_remove(at);
        self.model.take(trial);
        (self.kept[layer], self.held) = (kept, None);
        self.parameters -= parameters;
        self.steps.push(Step { layer, taken, parameters, loss: self.model.loss() });
        // Renew the steps of this layer, which now remove fewer parameters.
        let old: Vec<Candidate> = self.candidates.extract_if(.., |of| of.layer == layer).collect();
        old.iter().for_each(|of| self.open(layer, of.taken, of.price));
        self.open(layer, taken, price);
        Ok(true)
    }

    /// `options` with the result of the allocation.
    fn options(&self) -> PlanOptions {
        let config = &self.checkpoint.config;
        let layers = self.kept.iter().zip(&config.layers).enumerate();
        let (mut drop_layers, mut drop_attention) = (Vec::new(), Vec::new());
        let mut weights = vec![0.0; config.layers.len()];
        for (layer, (kept, widths)) in layers {
            if *kept == LayerPlan::NOTHING {
                drop_layers.push(layer);
                continue;
            }
            if widths.has_attention() && kept.query_heads.is_empty() {
                drop_attention.push(layer);
            }
            weights[layer] = 1.0 - kept.ffn.len() as f64 / widths.ffn as f64;
        }
        let cut = weights.iter().any(|&weight| weight > 0.0);
        let layer_weights = cut.then_some(weights);
        PlanOptions { drop_layers, drop_attention, layer_weights, ..self.options.clone() }
    }
}

/// Allocates a cut. Returns `options` with the attention sublayers and layers to remove and with
/// layer weights, by which the planner spends the same budget where the steps spent it. Protected
/// layers remain whole.
///
/// # Errors
/// No samples, or samples of unequal length; a loss that is not finite; damaged weights; lack of
/// memory.
pub fn measured(
    checkpoint: &Checkpoint,
    scores: &Scores,
    options: &PlanOptions,
    samples: &TokenSet,
    (placement, progress): (&Placement, &dyn Progress),
) -> Result<(PlanOptions, AllocationRecord)> {
    ensure!(!samples.windows.is_empty(), "allocation: no samples to measure on");
    let (config, layers) = (&checkpoint.config, checkpoint.config.layers.len());
    let dense = Decoder::load(checkpoint, placement, pipeline::residency(checkpoint, placement))?;
    let experts = config.expert_count();
    let channels = scores.layers.iter().map(|of| {
        let slice = (of.ffn.len() / experts / SLICES).next_multiple_of(options.multiple_of);
        (channel_order(&of.ffn, experts), slice.max(1) * experts)
    });
    let mut allocator = Allocator {
        checkpoint,
        options,
        model: Stepwise::new(dense, &samples.windows)?,
        kept: config.layers.iter().map(LayerPlan::whole).collect(),
        parameters: config.parameters(),
        channels: channels.collect(),
        candidates: Vec::new(),
        held: None,
        steps: Vec::new(),
    };
    let loss = allocator.model.loss();
    for layer in (0..layers).filter(|&layer| !options.protects(layer, layers)) {
        for taken in [Taken::Channels, Taken::Attention, Taken::Layer] {
            allocator.open(layer, taken, f64::NEG_INFINITY);
        }
    }
    let whole = config.parameters();
    let goal = (options.ratio * whole as f64) as u64;
    loop {
        let missing = goal.saturating_sub(whole - allocator.parameters);
        progress.at("allocation", goal - missing, goal);
        // At most half of a step may exceed the budget.
        if !allocator.advance(2 * missing)? {
            break;
        }
    }
    let record = AllocationRecord {
        samples: TokensRecord::of(samples),
        loss,
        steps: allocator.steps.clone(),
    };
    Ok((allocator.options(), record))
}
