//! What was asked of a plan and not reached.

use std::fmt;

use adapruner_checkpoint::{LayerWidths, ModelConfig};
use serde::Serialize;

use super::{KvMode, Layout, PlanOptions, PrunePlan, experts, options::Dropped};
use crate::cost::Costs;

/// How far off a ratio is said: a tenth of a point.
const RATIO: f64 = 0.001;
/// How far off a share is said: a point.
const SHARE: f64 = 0.01;

/// A request that a plan does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// The option.
    pub option: &'static str,
    /// Asked for and reached.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.message)
    }
}

impl PrunePlan {
    /// Share of the removed parameters that comes from attention, of a model of this
    /// configuration; 0 where nothing is removed.
    pub fn attention_share(&self, config: &ModelConfig) -> f64 {
        // Of fewer experts the routers are smaller.
        let costs = Costs::new(config);
        let after = Costs::new(&experts::counted(config, &self.layers));
        let (mut attention, mut all) = (0_u64, 0_u64);
        for (whole, kept) in config.layers.iter().zip(&self.layers) {
            let kept = kept.widths();
            attention +=
                costs.attention_sublayer(whole).saturating_sub(after.attention_sublayer(&kept));
            all += costs.layer(whole).saturating_sub(after.layer(&kept));
        }
        if all == 0 { 0.0 } else { attention as f64 / all as f64 }
    }

    /// The requests of `options` that this plan, made by them, does not meet.
    pub fn unmet(&self, config: &ModelConfig, options: &PlanOptions) -> Vec<Unmet> {
        let found = [
            self.unmet_ratio(options),
            self.unmet_share(config, options),
            self.unmet_multiple(config, options),
            self.unmet_protect(config, options),
        ];
        found.into_iter().flatten().collect()
    }

    fn unmet_ratio(&self, options: &PlanOptions) -> Option<Unmet> {
        let (asked, reached) = (options.ratio, self.reached_ratio);
        ((asked - reached).abs() > RATIO).then(|| Unmet {
            option: "ratio",
            message: format!(
                "{asked} asked, {reached:.4} reached: the widths that these options allow are no \
                 closer"
            ),
            hint: match (options.layout, options.multiple_of) {
                (Layout::PerLayer, 1) => "ask for a ratio that whole units make".into(),
                (Layout::PerLayer, _) => "a smaller multiple-of comes closer".into(),
                (Layout::Uniform, 1) => "the per-layer layout comes closer".into(),
                (Layout::Uniform, _) => {
                    "the per-layer layout or a smaller multiple-of comes closer".into()
                }
            },
        })
    }

    fn unmet_share(&self, config: &ModelConfig, options: &PlanOptions) -> Option<Unmet> {
        let asked = options.attention_share?;
        let reached = self.attention_share(config);
        // Sublayers that are dropped by name count, whatever the share.
        let by_name = !(options.drop_attention.is_empty()
            && options.drop_layers.is_empty()
            && options.drop_groups.is_empty())
            && reached > asked;
        if by_name || (asked - reached).abs() <= SHARE {
            return None;
        }
        let layers = config.layers.len();
        let cut = config.layers.iter().enumerate().filter(|&(layer, widths)| {
            widths.has_attention()
                && !options.protects(layer, layers)
                && options.dropped(layer) == Dropped::Nothing
        });
        let cut: Vec<&LayerWidths> = cut.map(|(_, widths)| widths).collect();
        let gives = |mode: KvMode| {
            cut.iter().any(|widths| match mode {
                KvMode::Groups => widths.kv_heads > 1,
                KvMode::QueryHeads => widths.group_size() > 1,
            })
        };
        let other = match options.kv_mode {
            KvMode::Groups => KvMode::QueryHeads,
            KvMode::QueryHeads => KvMode::Groups,
        };
        let why = if cut.is_empty() {
            "no layer that is not spared has heads to remove".to_owned()
        } else if !gives(options.kv_mode) {
            match options.kv_mode {
                KvMode::Groups => "with 1 key-value head a layer nothing can be removed in \
                                   kv-mode groups"
                    .to_owned(),
                KvMode::QueryHeads => "with 1 query head for each key-value head nothing can be \
                                       removed in kv-mode query-heads"
                    .to_owned(),
            }
        } else if reached < asked {
            "heads are removed whole, at least one of each layer stays, and the feed-forward \
             channels make up for the rest"
                .to_owned()
        } else {
            "the feed-forward channels cannot give what is left".to_owned()
        };
        let mut ways = Vec::new();
        if gives(other) {
            ways.push(format!("kv-mode {other}"));
        }
        if reached < asked && options.layout == Layout::PerLayer && !cut.is_empty() {
            ways.push("drop-attention LAYERS, which removes whole sublayers".to_owned());
        }
        ways.push(format!("attention-share {reached:.2}"));
        Some(Unmet {
            option: "attention-share",
            message: format!("{asked} asked, {reached:.3} reached: {why}"),
            hint: ways.join(", or "),
        })
    }

    fn unmet_multiple(&self, config: &ModelConfig, options: &PlanOptions) -> Option<Unmet> {
        let multiple = options.multiple_of;
        let odd = |kept: usize| !kept.is_multiple_of(multiple.max(1));
        // Those of each expert, where there are any.
        let experts = experts::counted(config, &self.layers).expert_count();
        let widths = self.layers.iter().map(|kept| kept.ffn.len() / experts).enumerate();
        let odd: Vec<(usize, usize)> = widths.filter(|&(_, kept)| odd(kept)).collect();
        let (first, width) = *odd.first()?;
        let changed =
            odd.iter().any(|&(layer, kept)| config.expert_width(&config.layers[layer]) != kept);
        Some(Unmet {
            option: "multiple-of",
            message: format!(
                "{multiple} asked, but {} of {} layers have another feed-forward width: layer \
                 {first} has {width}{}",
                odd.len(),
                self.layers.len(),
                if changed {
                    ""
                } else {
                    ", as the model has it; only widths that change are rounded"
                }
            ),
            hint: "quantised rows of such widths are stored as F16; fewer protected layers, a \
                   larger ratio or a divisor of the width help"
                .into(),
        })
    }

    fn unmet_protect(&self, config: &ModelConfig, options: &PlanOptions) -> Option<Unmet> {
        let layers = config.layers.len();
        let changed = (0..layers).find(|&layer| {
            options.protects(layer, layers)
                && self.layers.get(layer).map(|kept| kept.widths())
                    != config.layers.get(layer).copied()
        })?;
        let (first, last) = options.protect;
        Some(Unmet {
            option: "protect",
            message: format!("{first},{last} asked, but layer {changed} is cut"),
            hint: "the plan was made by other options".into(),
        })
    }
}
