//! From scores to a plan.
//!
//! Dropped layers, attention sublayers and key-value groups go first, then heads as far as the attention share
//! says, never more than the budget; the feed-forward channels absorb the exact
//! remainder, so the reached ratio is the requested one to within half a step of
//! width (one channel or `multiple_of`, in every layer at once if uniform).

use adapruner_checkpoint::{Digest, ModelConfig};

use super::{
    LayerPlan, PrunePlan,
    allocate::{self, Budget},
    ladder::Ladder,
    options::{Allocation, Dropped, KvMode, Layout, PlanOptions},
};
use crate::{
    cost::Costs,
    error::{Error, Result},
    scores::Scores,
};

/// Decides which units a model keeps.
///
/// # Errors
/// Options that are out of range, contradict each other or cannot be met
/// ([`Error::Unreachable`] says what can); scores that belong to another model or
/// are not finite.
pub fn plan(
    scores: &Scores,
    config: &ModelConfig,
    model_digest: Digest,
    options: &PlanOptions,
) -> Result<PrunePlan> {
    options.check(config)?;
    scores.check(config)?;
    let planner = Planner::new(scores, config, options);
    let target = planner.target(options.ratio);
    let cut = planner.cut(target);
    let tolerance = planner.tolerance();
    if planner.dropped - target > tolerance {
        return Err(Error::Option {
            option: match (options.drop_layers.is_empty(), options.drop_attention.is_empty()) {
                (false, _) => "drop-layers",
                (true, false) => "drop-attention",
                (true, true) => "drop-groups",
            },
            message: format!(
                "{} are {} of the parameters, more than the ratio {}",
                planner.what_is_dropped(),
                share(planner.dropped, planner.before),
                options.ratio
            ),
            hint: Some("drop fewer of them or raise the ratio".into()),
        });
    }
    // Too little, or where units are coarse too much.
    if (target - cut.removed).abs() > tolerance {
        return Err(planner.unreachable());
    }
    Ok(planner.finish(&cut, model_digest))
}

/// The plan that removes what the options name (layers, attention sublayers, key-value groups)
/// and nothing else, whatever ratio that makes; `None` where they name nothing.
///
/// # Errors
/// As [`plan`], the ratio apart.
pub fn plan_dropped(
    scores: &Scores,
    config: &ModelConfig,
    model_digest: Digest,
    options: &PlanOptions,
) -> Result<Option<PrunePlan>> {
    options.check_units(config)?;
    scores.check(config)?;
    let planner = Planner::new(scores, config, options);
    if planner.dropped == 0 {
        return Ok(None);
    }
    let cut = Cut { steps: vec![0; planner.ladders.len()], removed: planner.dropped };
    let made = planner.finish(&cut, model_digest);
    let requested_ratio = made.reached_ratio;
    Ok(Some(PrunePlan { requested_ratio, requested_attention_share: None, ..made }))
}

/// The steps that ladders take, and what that removes.
struct Cut {
    steps: Vec<usize>,
    removed: i64,
}

struct Planner<'a> {
    scores: &'a Scores,
    config: &'a ModelConfig,
    options: &'a PlanOptions,
    /// Parameters of the model.
    before: i64,
    /// Parameters of dropped layers, attention sublayers and groups.
    dropped: i64,
    /// Those of them that are attention's.
    dropped_attention: i64,
    /// Heads of every layer, then channels of every layer.
    ladders: Vec<Ladder>,
}

impl<'a> Planner<'a> {
    fn new(scores: &'a Scores, config: &'a ModelConfig, options: &'a PlanOptions) -> Self {
        let costs = Costs::new(config);
        let layers = config.layers.len();
        let each = || config.layers.iter().zip(&scores.layers).enumerate();
        let heads = each().map(|(layer, (widths, scores))| match options.dropped(layer) {
            Dropped::Nothing if !options.protects(layer, layers) && widths.has_attention() => {
                let heads = Ladder::heads(widths, scores, options.kv_mode, &costs);
                heads.after(options.groups_dropped(layer))
            }
            Dropped::Nothing | Dropped::Attention | Dropped::Layer => Ladder::none(),
        });
        let (experts, multiple_of) = (config.expert_count(), options.multiple_of);
        let channels = each().map(|(layer, (widths, scores))| match options.dropped(layer) {
            Dropped::Nothing | Dropped::Attention if !options.protects(layer, layers) => {
                Ladder::channels(widths, experts, scores, multiple_of, &costs)
            }
            Dropped::Nothing | Dropped::Attention | Dropped::Layer => Ladder::none(),
        });
        let ladders: Vec<Ladder> = heads.chain(channels).collect();
        let groups: u64 = ladders.iter().map(Ladder::dropped_parameters).sum();
        let (mut dropped, mut dropped_attention) = (groups as i64, groups as i64);
        for (layer, widths) in config.layers.iter().enumerate() {
            let (whole, attention) = match options.dropped(layer) {
                Dropped::Nothing => (0, 0),
                Dropped::Attention => {
                    (costs.attention_sublayer(widths), costs.attention_sublayer(widths))
                }
                Dropped::Layer => (costs.layer(widths), costs.attention_sublayer(widths)),
            };
            dropped += whole as i64;
            dropped_attention += attention as i64;
        }
        Self {
            scores,
            config,
            options,
            before: config.parameters() as i64,
            dropped,
            dropped_attention,
            ladders,
        }
    }

    fn layers(&self) -> usize {
        self.config.layers.len()
    }

    /// What goes whole, in words.
    fn what_is_dropped(&self) -> String {
        let count =
            |what| (0..self.layers()).filter(|&layer| self.options.dropped(layer) == what).count();
        let groups: usize = (0..self.layers()).map(|of| self.options.groups_dropped(of)).sum();
        match (count(Dropped::Layer), count(Dropped::Attention)) {
            (0, 0) => format!("{groups} key-value groups"),
            (0, sublayers) => format!("the attention sublayers of {sublayers} layers"),
            (layers, 0) => format!("{layers} layers"),
            (layers, sublayers) => {
                format!("{layers} layers and the attention sublayers of {sublayers} others")
            }
        }
    }

    /// Parameters to remove for a ratio.
    fn target(&self, ratio: f64) -> i64 {
        (ratio * self.before as f64).round() as i64
    }

    /// How far from the target a plan may end: 0.1 points, or the largest step of
    /// width if that is more.
    fn tolerance(&self) -> i64 {
        self.step(&self.ladders[self.layers()..]).max(self.before / 1000)
    }

    /// Parameters of the largest step that these ladders can take: of one of them,
    /// or of all at once if they stay alike.
    fn step(&self, ladders: &[Ladder]) -> i64 {
        let largest = |ladder: &Ladder| {
            (0..ladder.steps()).map(|s| ladder.cost(s + 1) - ladder.cost(s)).max().unwrap_or(0)
        };
        let steps = ladders.iter().map(largest);
        let step = match self.options.layout {
            Layout::PerLayer => steps.max().unwrap_or(0),
            Layout::Uniform => steps.sum(),
        };
        step as i64
    }

    /// Chooses steps that remove about `target` parameters.
    fn cut(&self, target: i64) -> Cut {
        let left = target - self.dropped;
        let (heads, channels) = self.ladders.split_at(self.layers());
        let spread = |ladders: &[Ladder], target: i64, limit: i64| {
            let budget = Budget { target, limit };
            match (self.options.layout, self.options.allocation) {
                (Layout::Uniform, _) => allocate::uniform(ladders, budget),
                (Layout::PerLayer, Allocation::Local | Allocation::Curve(_)) => {
                    let layers = self.layers();
                    let weights: Vec<f64> = (0..ladders.len())
                        .map(|at| self.options.weight(at % layers, layers))
                        .collect();
                    allocate::weighted(ladders, budget, &weights)
                }
                (Layout::PerLayer, Allocation::Global(normalisation)) => {
                    allocate::global(ladders, budget, normalisation)
                }
            }
        };
        let from_heads = match (self.options.attention_share, self.options.allocation) {
            (Some(share), _) => {
                // Layers that go whole may leave less than the share asks for.
                let asked = (share * target as f64).round() as i64 - self.dropped_attention;
                Some(asked.clamp(0, left.max(0)))
            }
            (None, Allocation::Local | Allocation::Curve(_)) => {
                let of = |ladders: &[Ladder]| {
                    ladders
                        .iter()
                        .filter(|l| l.steps() > 0)
                        .map(|l| l.parameters() as f64)
                        .sum::<f64>()
                };
                let (heads, channels) = (of(heads), of(channels));
                let share = if heads > 0.0 { heads / (heads + channels) } else { 0.0 };
                Some((share * left.max(0) as f64).round() as i64)
            }
            (None, Allocation::Global(_)) => None,
        };
        let steps = match from_heads {
            Some(from_heads) => {
                let mut steps = spread(heads, from_heads, left);
                let capacity: u64 = channels.iter().map(Ladder::capacity).sum();
                let least = left - capacity as i64;
                if from_heads > 0 && removed(heads, &steps) < least {
                    // The channels cannot give what is left: heads are rounded up,
                    // and give all that is missing where no share is asked for.
                    let step = self.step(heads);
                    let most = match self.options.attention_share {
                        Some(_) => from_heads + step,
                        None => i64::MAX,
                    };
                    steps = spread(heads, (least + step / 2).min(most), left);
                }
                let left = left - removed(heads, &steps);
                steps.extend(spread(channels, left, left));
                steps
            }
            None => spread(&self.ladders, left, left),
        };
        Cut { removed: self.dropped + removed(&self.ladders, &steps), steps }
    }

    fn finish(&self, cut: &Cut, model_digest: Digest) -> PrunePlan {
        let keep = |count: usize, at: usize| {
            let mut kept = vec![true; count];
            self.ladders[at].removed(cut.steps[at]).for_each(|unit| kept[unit] = false);
            (0..count).filter(|&unit| kept[unit]).collect::<Vec<usize>>()
        };
        let layers = self.config.layers.iter().enumerate().map(|(layer, widths)| {
            let dropped = self.options.dropped(layer);
            if dropped == Dropped::Layer {
                return LayerPlan::NOTHING;
            }
            let ffn = keep(widths.ffn, self.layers() + layer);
            if dropped == Dropped::Attention || !widths.has_attention() {
                return LayerPlan { query_heads: Vec::new(), kv_heads: Vec::new(), ffn };
            }
            let group = widths.group_size();
            let (query_heads, kv_heads) = match self.options.kv_mode {
                KvMode::Groups => {
                    let kv_heads = keep(widths.kv_heads, layer);
                    let of = |&k: &usize| k * group..(k + 1) * group;
                    (kv_heads.iter().flat_map(of).collect(), kv_heads)
                }
                KvMode::QueryHeads => {
                    (keep(widths.query_heads, layer), (0..widths.kv_heads).collect())
                }
            };
            LayerPlan { query_heads, kv_heads, ffn }
        });
        let options = self.options;
        PrunePlan {
            requested_ratio: options.ratio,
            requested_attention_share: options.attention_share,
            layout: options.layout,
            multiple_of: options.multiple_of,
            ..PrunePlan::keeping(self.config, model_digest, layers.collect())
        }
    }

    /// Whether a plan for this ratio is within tolerance.
    fn reaches(&self, ratio: f64) -> bool {
        let target = self.target(ratio);
        (self.cut(target).removed - target).abs() <= self.tolerance()
    }

    /// A ratio below `limit` that can be reached and beyond which bisection finds
    /// no other, rounded down to 0.01 points.
    fn largest(&self, limit: f64) -> f64 {
        const GRID: i64 = 10_000;
        let mut high = (limit * GRID as f64).ceil() as i64;
        let mut low = (self.dropped * GRID / self.before).min(high - 1);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if self.reaches(middle as f64 / GRID as f64) { low = middle } else { high = middle }
        }
        low as f64 / GRID as f64
    }

    fn unreachable(&self) -> Error {
        let options = self.options;
        let largest = self.largest(options.ratio);
        let mut offers = Vec::new();
        let mut offer = |what: &str, changed: PlanOptions| {
            if changed.check(self.config).is_err() {
                return;
            }
            // How far a cut can go hardly depends on its spread, and this one is
            // quick.
            let changed =
                PlanOptions { allocation: Allocation::Local, layer_weights: None, ..changed };
            let reach = Planner::new(self.scores, self.config, &changed).largest(1.0);
            if reach > largest {
                offers.push(format!("{what} (up to {reach})"));
            }
        };
        if options.protect != (0, 0) {
            offer("fewer protected layers", PlanOptions { protect: (0, 0), ..options.clone() });
        }
        if options.attention_share != Some(1.0) {
            offer(
                "a larger attention share",
                PlanOptions { attention_share: Some(1.0), ..options.clone() },
            );
        }
        if options.multiple_of > 1 {
            offer("a smaller multiple-of", PlanOptions { multiple_of: 1, ..options.clone() });
        }
        let kv_mode = match options.kv_mode {
            KvMode::Groups => KvMode::QueryHeads,
            KvMode::QueryHeads => KvMode::Groups,
        };
        offer(&format!("kv-mode {kv_mode}"), PlanOptions { kv_mode, ..options.clone() });
        if options.layout == Layout::PerLayer {
            let layers = 0..self.layers();
            let drop_attention = layers
                .filter(|&layer| {
                    !options.protects(layer, self.layers())
                        && options.dropped(layer) != Dropped::Layer
                        && self.config.layers[layer].has_attention()
                })
                .collect();
            offer(
                "more dropped attention sublayers",
                PlanOptions { drop_attention, ..options.clone() },
            );
        }
        let hint = if offers.is_empty() {
            "ask for a smaller ratio".to_owned()
        } else {
            format!("a smaller ratio, or {}", offers.join(", or "))
        };
        Error::Unreachable { ratio: options.ratio, largest, hint }
    }
}

/// Parameters that ladders lose.
fn removed(ladders: &[Ladder], steps: &[usize]) -> i64 {
    ladders.iter().zip(steps).map(|(ladder, &s)| ladder.cost(s) as i64).sum()
}

fn share(part: i64, whole: i64) -> f64 {
    part as f64 / whole as f64
}
