//! Where a model is cut, by what each cut costs: `--allocation measured`.
//!
//! From the whole model on, one step after the other is taken: a slice of a layer's feed-forward
//! channels (the least important ones left by the static scores), its attention sublayer, or the
//! whole layer. Each time it is the step with the least
//!
//! `(loss after − loss before) / parameters it removes`
//!
//! on some calibration samples, until the budget is met. What a step costs seldom falls when
//! others are taken, so only the cheapest is measured again before it is taken (lazy greedy,
//! Minoux 1978). Deterministic; about three passes of the samples through half the model for
//! each step.
//!
//! What is chosen are widths over depth, attention sublayers and layers; which channels stay is
//! left to scores and learned masks.
//!
//! Losses are nats per predicted token.

use adapruner_checkpoint::{Checkpoint, text::TokenSet};
use adapruner_eval::{Stepwise, Trial};
use adapruner_model::{Decoder, Placement};
use adapruner_prune::{LayerPlan, PlanOptions, PrunePlan, Scores, apply, channel_order};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    pipeline::{self, TokensRecord},
    progress::Progress,
};

/// Steps that take all channels of a layer.
const SLICES: usize = 4;

/// What a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// A slice of a layer's feed-forward channels.
    Channels,
    /// A layer's attention sublayer.
    Attention,
    /// What is left of a layer.
    Layer,
}

/// A step that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The layer.
    pub layer: usize,
    /// What went.
    pub taken: Taken,
    /// Parameters that went.
    pub parameters: u64,
    /// The loss after it.
    pub loss: f64,
}

/// How a cut was allocated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocationRecord {
    /// The samples that losses were measured on.
    pub samples: TokensRecord,
    /// The loss before any step.
    pub loss: f64,
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

/// A step that may be taken next.
struct Candidate {
    layer: usize,
    taken: Taken,
    kept: LayerPlan,
    parameters: u64,
    /// What the loss gains by it for each parameter, as it was measured last; minus infinity
    /// before.
    price: f64,
}

/// What may be taken of a layer next: its channels in slices, least important first, its
/// attention, all of it.
fn next(kept: &LayerPlan, taken: Taken, (order, slice): (&[usize], usize)) -> Option<LayerPlan> {
    match taken {
        Taken::Channels => {
            let left = kept.ffn.len().checked_sub(slice).filter(|left| *left > 0)?;
            // Least important first, so the last ones stay.
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
    /// What of each layer is left.
    kept: Vec<LayerPlan>,
    /// Parameters that are left.
    parameters: u64,
    /// Channels of each layer, least important first, and how many of them are a slice.
    channels: Vec<(Vec<usize>, usize)>,
    candidates: Vec<Candidate>,
    /// The cheapest step as it was measured on the model as it is now, if that was not taken.
    held: Option<(usize, Taken, Trial)>,
    steps: Vec<Step>,
}

impl Allocator<'_> {
    /// What may be taken of a layer next, with its price as far as it is known.
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

    /// A layer of the dense model cut to `kept`.
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

    /// Takes the cheapest step that removes less than `most` parameters, or measures one
    /// anew; whether there was any.
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
        // What may follow in this layer; its other steps take less than before.
        let old: Vec<Candidate> = self.candidates.extract_if(.., |of| of.layer == layer).collect();
        old.iter().for_each(|of| self.open(layer, of.taken, of.price));
        self.open(layer, taken, price);
        Ok(true)
    }

    /// `options` with what was taken.
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

/// Allocates a cut: `options` with the attention sublayers and layers that go and with the
/// weights of the others, which spend the same budget where the steps spent it; layers that
/// are protected stay whole.
///
/// # Errors
/// No samples, or such of unequal length; a loss that is not finite; damaged weights; no memory.
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
        // A step may not take more than half of itself too much.
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
