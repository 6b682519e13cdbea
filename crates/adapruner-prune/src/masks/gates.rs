//! [`Gates`]: the units whose scores are learned, with the relation of scores, masks, gradients
//! and plans.
//!
//! Units are ranked in lists: the channels or key-value groups of a layer, or the attention
//! sublayers of all layers. A unit is one or more factors on the inputs of a sublayer's last
//! matrix; its gradient is the sum of theirs.
//!
//! Axes: `F` feed-forward width, `K` key-value heads, `D` head width.

use adapruner_checkpoint::{
    LayerWidths, ModelConfig,
    names::{
        Projection,
        Sublayer::{Attention, FeedForward},
    },
};
use adapruner_model::{
    Masks,
    train::{MaskGradients, adamw::Parameter},
};
use candle_core::{Device, Result as CandleResult, Tensor};

use super::{
    options::{GatedUnit, MaskBudget, MaskOptions, refuse},
    project,
};
use crate::{
    cost::Costs,
    error::{Error, Result},
    plan::{LayerPlan, Layout, PrunePlan},
    scores::Scores,
};

/// How far the scores of kept and of removed units are apart before the first step, at
/// the least, so that the first mask is the plan whatever ties.
const GAP: f32 = 1e-4;

/// The units of one list, in the order of their scores.
#[derive(Debug, Clone)]
enum Units {
    /// The channels of a layer.
    Channels { layer: usize },
    /// The key-value groups of a layer, `width` heads' outputs each.
    Groups { layer: usize, width: usize },
    /// The attention sublayers of some layers, and how wide what their heads give is.
    Sublayers { layers: Vec<(usize, usize)> },
}

/// Units that are ranked by learned scores.
#[derive(Debug, Clone)]
struct List {
    units: Units,
    /// Which stay in the plan.
    planned: Vec<bool>,
    scores: Parameter,
}

/// Which units of each list stay.
pub(super) type Kept = Vec<Vec<bool>>;

/// All lists of a learning.
#[derive(Debug, Clone)]
pub(super) struct Gates {
    lists: Vec<List>,
    budget: MaskBudget,
    /// What free widths of the feed-forward are multiples of.
    multiple_of: usize,
}

impl Gates {
    /// The gates of the units that a plan cuts, their scores such that the first mask is
    /// the plan.
    ///
    /// # Errors
    /// Kinds of unit that the plan does not cut, a budget that gates cannot hold, scores
    /// of another model or that are not finite.
    pub(super) fn new(
        config: &ModelConfig,
        plan: &PrunePlan,
        scores: &Scores,
        options: &MaskOptions,
    ) -> Result<Self> {
        plan.validate(config)?;
        scores.check(config)?;
        let mut lists = Vec::new();
        for &unit in &options.units {
            let found = match unit {
                GatedUnit::Ffn => channels(config, plan, scores),
                GatedUnit::KvGroups => groups(config, plan, scores),
                GatedUnit::Sublayers => sublayers(config, plan, scores)?,
            };
            if found.is_empty() {
                return refuse("learn-units", nothing_to_learn(unit), None);
            }
            lists.extend(found);
        }
        let spread = options.spread;
        let lists = lists.into_iter().map(|(units, planned, scores)| {
            let values = start(&scores, &planned, spread);
            let scores = Parameter::new(vec![values.len()], values, false);
            List { units, planned, scores }
        });
        let (budget, multiple_of) = (options.budget, plan.multiple_of);
        let gates = Self { lists: lists.collect(), budget, multiple_of };
        gates.check_budget(plan)?;
        Ok(gates)
    }

    /// Refuses a budget that free lists cannot hold.
    fn check_budget(&self, plan: &PrunePlan) -> Result<()> {
        match (self.budget, plan.layout) {
            (MaskBudget::PerLayer, _) => return Ok(()),
            (MaskBudget::Free, Layout::PerLayer) => {}
            (MaskBudget::Free, Layout::Uniform) => {
                let message = "free makes layers differ in width, but the layout is uniform";
                return refuse(
                    "mask-budget",
                    message.into(),
                    Some("use --mask-budget per-layer, or the per-layer layout"),
                );
            }
        }
        let multiple = self.multiple_of;
        let mut widths = None;
        for list in &self.lists {
            let kept = count(&list.planned);
            let message = match &list.units {
                Units::Channels { layer } if !kept.is_multiple_of(multiple) => format!(
                    "widths are multiples of {multiple}, but layer {layer} keeps {kept} channels: \
                     no exchange between layers keeps the number of parameters"
                ),
                Units::Groups { layer, width } if *widths.get_or_insert(*width) != *width => {
                    format!(
                        "the key-value groups of layer {layer} are of another size: no exchange \
                         between layers keeps the number of parameters"
                    )
                }
                Units::Channels { .. } | Units::Groups { .. } | Units::Sublayers { .. } => continue,
            };
            return refuse("mask-budget", message, Some("use --mask-budget per-layer"));
        }
        Ok(())
    }

    /// The first layer with a gate.
    pub(super) fn first_layer(&self) -> usize {
        let first = |list: &List| match &list.units {
            Units::Channels { layer } | Units::Groups { layer, .. } => *layer,
            Units::Sublayers { layers } => layers.first().map_or(0, |&(layer, _)| layer),
        };
        self.lists.iter().map(first).min().unwrap_or(0)
    }

    /// The scores of every list, with the optimiser's moments.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.lists.iter().map(|list| &list.scores)
    }

    /// [`Self::parameters`], to be moved.
    pub(super) fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.lists.iter_mut().map(|list| &mut list.scores)
    }

    /// What every list is called, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.lists.iter().map(|list| match &list.units {
            Units::Channels { layer } => format!("ffn.{layer}"),
            Units::Groups { layer, .. } => format!("kv-groups.{layer}"),
            Units::Sublayers { .. } => "sublayers".to_owned(),
        })
    }

    /// The units of the plan.
    pub(super) fn planned(&self) -> Kept {
        self.lists.iter().map(|list| list.planned.clone()).collect()
    }

    /// The best units of the present scores, exactly as many as the plan has.
    pub(super) fn kept(&self) -> Kept {
        match self.budget {
            MaskBudget::PerLayer => {
                let best = |list: &List| project::best(&list.scores.values, count(&list.planned));
                self.lists.iter().map(best).collect()
            }
            MaskBudget::Free => {
                let mut kept: Kept = vec![Vec::new(); self.lists.len()];
                for kind in [GatedUnit::Ffn, GatedUnit::KvGroups, GatedUnit::Sublayers] {
                    let of_kind = |list: &List| list.units.kind() == kind;
                    let places: Vec<usize> =
                        (0..self.lists.len()).filter(|&at| of_kind(&self.lists[at])).collect();
                    let lists: Vec<&List> = places.iter().map(|&at| &self.lists[at]).collect();
                    let scores: Vec<&[f32]> =
                        lists.iter().map(|list| &list.scores.values[..]).collect();
                    let total = lists.iter().map(|list| count(&list.planned)).sum();
                    let found = match kind {
                        GatedUnit::Ffn => project::free(&scores, total, self.multiple_of),
                        GatedUnit::KvGroups => project::free(&scores, total, 1),
                        // One list, that may lose all but what the plan keeps.
                        GatedUnit::Sublayers => {
                            scores.iter().map(|scores| project::best(scores, total)).collect()
                        }
                    };
                    places.iter().zip(found).for_each(|(&at, found)| kept[at] = found);
                }
                kept
            }
        }
    }

    /// Units that stay in one of both and not in the other, halved: how many were
    /// exchanged.
    pub(super) fn exchanged(&self, kept: &Kept) -> usize {
        let pairs =
            self.lists.iter().zip(kept).flat_map(|(list, kept)| list.planned.iter().zip(kept));
        pairs.filter(|(planned, kept)| planned != kept).count() / 2
    }

    /// The factors of what the last matrices read.
    pub(super) fn masks(&self, kept: &Kept) -> CandleResult<Masks> {
        let mut masks = Masks::new();
        for (list, kept) in self.lists.iter().zip(kept) {
            let factor = |kept: &bool| if *kept { 1.0_f32 } else { 0.0 };
            let repeated = |kept: &[bool], width: usize| {
                let factors = kept.iter().flat_map(|kept| vec![factor(kept); width]);
                Tensor::from_iter(factors, &Device::Cpu)
            };
            match &list.units {
                Units::Channels { layer } => {
                    masks.insert((*layer, FeedForward.output()), repeated(kept, 1)?);
                }
                Units::Groups { layer, width } => {
                    masks.insert((*layer, Attention.output()), repeated(kept, *width)?);
                }
                Units::Sublayers { layers } => {
                    for (&(layer, width), kept) in layers.iter().zip(kept) {
                        let mask = repeated(std::slice::from_ref(kept), width)?;
                        masks.insert((layer, Attention.output()), mask);
                    }
                }
            }
        }
        Ok(masks)
    }

    /// The gradient of every list's scores from that of all factors.
    ///
    /// # Errors
    /// Factors without a gradient.
    pub(super) fn gradients(&self, factors: &MaskGradients) -> Result<Vec<Vec<f32>>> {
        let of = |layer: usize, projection: Projection| {
            factors.get(&(layer, projection)).ok_or_else(|| {
                let name = format!("mask of layer {layer}, {projection}");
                Error::Model(adapruner_model::Error::NoGradient(name))
            })
        };
        let summed = |factors: &[f64], width: usize| -> Vec<f32> {
            factors.chunks(width.max(1)).map(|unit| unit.iter().sum::<f64>() as f32).collect()
        };
        let list = |list: &List| match &list.units {
            Units::Channels { layer } => Ok(summed(of(*layer, FeedForward.output())?, 1)),
            Units::Groups { layer, width } => Ok(summed(of(*layer, Attention.output())?, *width)),
            Units::Sublayers { layers } => {
                let sum = |&(layer, _): &(usize, usize)| {
                    Ok(of(layer, Attention.output())?.iter().sum::<f64>() as f32)
                };
                layers.iter().map(sum).collect()
            }
        };
        self.lists.iter().map(list).collect()
    }

    /// `plan` with these units in place of its own.
    ///
    /// # Errors
    /// A number of parameters that is not the plan's.
    pub(super) fn plan(
        &self,
        config: &ModelConfig,
        plan: &PrunePlan,
        kept: &Kept,
    ) -> Result<PrunePlan> {
        let mut layers = plan.layers.clone();
        for (list, kept) in self.lists.iter().zip(kept) {
            let indices = || (0..kept.len()).filter(|&at| kept[at]).collect::<Vec<usize>>();
            match &list.units {
                Units::Channels { layer } => layers[*layer].ffn = indices(),
                Units::Groups { layer, .. } => {
                    let group = config.layers[*layer].group_size();
                    let heads = |&k: &usize| k * group..(k + 1) * group;
                    layers[*layer].kv_heads = indices();
                    layers[*layer].query_heads = indices().iter().flat_map(heads).collect();
                }
                Units::Sublayers { layers: of } => {
                    for (&(layer, _), kept) in of.iter().zip(kept) {
                        let whole = LayerPlan::whole(&config.layers[layer]);
                        let (query, key) = match kept {
                            true => (whole.query_heads, whole.kv_heads),
                            false => (Vec::new(), Vec::new()),
                        };
                        (layers[layer].query_heads, layers[layer].kv_heads) = (query, key);
                    }
                }
            }
        }
        let learned = PrunePlan {
            requested_ratio: plan.requested_ratio,
            requested_attention_share: plan.requested_attention_share,
            layout: plan.layout,
            multiple_of: plan.multiple_of,
            ..PrunePlan::keeping(config, plan.model_digest, layers)
        };
        learned.validate(config)?;
        if learned.parameters_after != plan.parameters_after {
            return Err(Error::Plan(format!(
                "learned masks keep {} parameters, the plan they began with {}",
                learned.parameters_after, plan.parameters_after
            )));
        }
        Ok(learned)
    }
}

impl Units {
    fn kind(&self) -> GatedUnit {
        match self {
            Self::Channels { .. } => GatedUnit::Ffn,
            Self::Groups { .. } => GatedUnit::KvGroups,
            Self::Sublayers { .. } => GatedUnit::Sublayers,
        }
    }
}

pub(super) fn count(kept: &[bool]) -> usize {
    kept.iter().filter(|kept| **kept).count()
}

fn nothing_to_learn(unit: GatedUnit) -> String {
    match unit {
        GatedUnit::Ffn => "ffn: the plan removes no feed-forward channels".into(),
        GatedUnit::KvGroups => {
            "kv-groups: the plan removes no key-value groups from a layer that keeps others".into()
        }
        GatedUnit::Sublayers => "sublayers: the plan drops no attention sublayer".into(),
    }
}

/// Units, which of them stay in the plan, and their static scores.
type Found = (Units, Vec<bool>, Vec<f64>);

fn flags(count: usize, kept: &[usize]) -> Vec<bool> {
    let mut flags = vec![false; count];
    kept.iter().for_each(|&at| flags[at] = true);
    flags
}

fn layers<'a>(
    config: &'a ModelConfig,
    plan: &'a PrunePlan,
) -> impl Iterator<Item = (usize, &'a LayerWidths, &'a LayerPlan)> {
    let pairs = config.layers.iter().zip(&plan.layers).enumerate();
    pairs.map(|(layer, (widths, kept))| (layer, widths, kept))
}

fn channels(config: &ModelConfig, plan: &PrunePlan, scores: &Scores) -> Vec<Found> {
    let cut = layers(config, plan).filter(|(_, widths, kept)| kept.ffn.len() < widths.ffn);
    let found = cut.map(|(layer, widths, kept)| {
        let scores = scores.layers[layer].ffn.clone();
        (Units::Channels { layer }, flags(widths.ffn, &kept.ffn), scores)
    });
    found.collect()
}

/// Whether a layer keeps the groups that it keeps whole.
fn whole_groups(widths: &LayerWidths, kept: &LayerPlan) -> bool {
    kept.query_heads.len() == kept.kv_heads.len() * widths.group_size()
}

fn groups(config: &ModelConfig, plan: &PrunePlan, scores: &Scores) -> Vec<Found> {
    let cut = layers(config, plan).filter(|(_, widths, kept)| {
        (1..widths.kv_heads).contains(&kept.kv_heads.len()) && whole_groups(widths, kept)
    });
    let found = cut.map(|(layer, widths, kept)| {
        let units = Units::Groups { layer, width: widths.group_size() * config.head_dim };
        let scores = scores.layers[layer].kv_groups.clone();
        (units, flags(widths.kv_heads, &kept.kv_heads), scores)
    });
    found.collect()
}

fn sublayers(config: &ModelConfig, plan: &PrunePlan, scores: &Scores) -> Result<Vec<Found>> {
    let whole = |widths: &LayerWidths, kept: &LayerPlan| {
        kept.kv_heads.len() == widths.kv_heads && whole_groups(widths, kept)
    };
    let cut: Vec<_> = layers(config, plan)
        .filter(|(_, widths, kept)| {
            let gone = kept.kv_heads.is_empty();
            let changed = gone || kept.ffn.len() < widths.ffn;
            widths.has_attention() && changed && (gone || whole(widths, kept))
        })
        .collect();
    if cut.iter().all(|(_, _, kept)| !kept.kv_heads.is_empty()) {
        return Ok(Vec::new());
    }
    if config.has_bias(Attention.output()) {
        let message = "sublayers: the attention of this model has biases, which a gate would keep";
        return refuse("learn-units", message.into(), Some("leave sublayers out"));
    }
    let costs = Costs::new(config);
    let cost = |widths: &LayerWidths| costs.attention_sublayer(widths);
    let first = cut.first().map_or(0, |(_, widths, _)| cost(widths));
    if let Some((layer, widths, _)) = cut.iter().find(|(_, widths, _)| cost(widths) != first) {
        let message = format!(
            "sublayers: the attention of layer {layer} has {} parameters, that of another layer \
             {first}: their exchange would not keep the number of parameters",
            cost(widths)
        );
        return refuse("learn-units", message, Some("leave sublayers out"));
    }
    let of = |(layer, widths, _): &(usize, &LayerWidths, &LayerPlan)| {
        (*layer, widths.query_heads * config.head_dim)
    };
    let units = Units::Sublayers { layers: cut.iter().map(of).collect() };
    let planned = cut.iter().map(|(_, _, kept)| !kept.kv_heads.is_empty()).collect();
    let scores = cut.iter().map(|(layer, _, _)| scores.layers[*layer].kv_groups.iter().sum());
    Ok(vec![(units, planned, scores.collect())])
}

/// Scores before the first step: the static ones with mean 0 and a standard deviation of
/// `spread`, moved so that 0 lies in the middle between kept and removed units. Where the
/// plan does not keep the best by these scores, its units get the larger ones among them,
/// in their own order.
fn start(scores: &[f64], planned: &[bool], spread: f64) -> Vec<f32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let sorted: Vec<f64> = order.iter().map(|&at| scores[at]).collect();
    // Stable: within both parts the order stays.
    order.sort_by_key(|&at| !planned[at]);
    let keep = count(planned);
    let length = scores.len().max(1) as f64;
    let mean = scores.iter().sum::<f64>() / length;
    let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / length;
    let factor = if variance > 0.0 { spread / variance.sqrt() } else { 0.0 };
    let middle = match (keep.checked_sub(1).and_then(|at| sorted.get(at)), sorted.get(keep)) {
        (Some(least), Some(most)) => (least + most) / 2.0,
        (Some(end), None) | (None, Some(end)) => *end,
        (None, None) => 0.0,
    };
    let mut start = vec![0.0; scores.len()];
    for (rank, (&at, score)) in order.iter().zip(&sorted).enumerate() {
        let value = ((score - middle) * factor) as f32;
        start[at] = if rank < keep { value.max(GAP) } else { value.min(-GAP) };
    }
    start
}
