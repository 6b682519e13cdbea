//! [`Ladder`]: the order in which one layer gives up its units of one kind, and
//! the steps it can take.

use adapruner_checkpoint::LayerWidths;

use super::options::KvMode;
use crate::{cost::Costs, scores::LayerScores};

/// Units of one layer and kind, the least important first.
#[derive(Debug, Clone, Default)]
pub(super) struct Ladder {
    /// All units, in the order of their removal; those beyond the last step stay.
    pub order: Vec<usize>,
    /// Score of each unit in `order`.
    pub scores: Vec<f64>,
    /// How many units are gone after each step; starts with 0.
    pub bounds: Vec<usize>,
    /// Parameters of one unit.
    pub unit_cost: u64,
    /// Whether its removal may never exceed a budget (heads are too large to be
    /// rounded to the nearest).
    pub strict: bool,
    /// Units that go whatever steps are taken; they are not in `order`.
    pub dropped: Vec<usize>,
}

impl Ladder {
    /// A layer that gives up nothing.
    pub fn none() -> Self {
        Self { bounds: vec![0], ..Self::default() }
    }

    /// The heads of a layer: at least one group stays, with at least one query
    /// head.
    pub fn heads(widths: &LayerWidths, scores: &LayerScores, mode: KvMode, costs: &Costs) -> Self {
        let group = widths.group_size();
        match mode {
            KvMode::Groups => {
                let order = ascending(&scores.kv_groups, 0..widths.kv_heads);
                Self {
                    scores: order.iter().map(|&k| scores.kv_groups[k]).collect(),
                    bounds: (0..widths.kv_heads.max(1)).collect(),
                    order,
                    unit_cost: costs.kv_head + group as u64 * costs.query_head,
                    strict: true,
                    dropped: Vec::new(),
                }
            }
            KvMode::QueryHeads => {
                let by_group: Vec<_> = (0..widths.kv_heads)
                    .map(|k| ascending(&scores.query_heads, k * group..(k + 1) * group))
                    .collect();
                let order: Vec<usize> =
                    (0..group).flat_map(|round| by_group.iter().map(move |g| g[round])).collect();
                Self {
                    scores: order.iter().map(|&h| scores.query_heads[h]).collect(),
                    bounds: (0..group.max(1)).map(|round| round * widths.kv_heads).collect(),
                    order,
                    unit_cost: costs.query_head,
                    strict: true,
                    dropped: Vec::new(),
                }
            }
        }
    }

    /// The channels of a layer; the width stays as it is or becomes a multiple of
    /// `multiple_of`, at least one of it. Of several experts each gives up as many: its least
    /// important ones, in one step with those of the others.
    pub fn channels(
        widths: &LayerWidths,
        experts: usize,
        scores: &LayerScores,
        multiple_of: usize,
        costs: &Costs,
    ) -> Self {
        let width = widths.ffn / experts.max(1);
        let order = channel_order(&scores.ffn, experts);
        let multiples = (1..=width.saturating_sub(1) / multiple_of).rev();
        let mut bounds = vec![0];
        bounds.extend(multiples.map(|k| (width - k * multiple_of) * experts));
        Self {
            scores: order.iter().map(|&j| scores.ffn[j]).collect(),
            bounds,
            order,
            unit_cost: costs.ffn_channel,
            strict: false,
            dropped: Vec::new(),
        }
    }

    /// The ladder without its first steps: the units of these go whatever is decided.
    #[must_use]
    pub fn after(mut self, steps: usize) -> Self {
        let steps = steps.min(self.steps());
        let gone = self.bounds[steps];
        self.bounds = self.bounds[steps..].iter().map(|bound| bound - gone).collect();
        self.scores.drain(..gone);
        self.dropped.extend(self.order.drain(..gone));
        self
    }

    /// Parameters of the units that go whatever is decided.
    pub fn dropped_parameters(&self) -> u64 {
        self.dropped.len() as u64 * self.unit_cost
    }

    /// Number of steps it can take.
    pub fn steps(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Parameters that are gone after `steps` steps.
    pub fn cost(&self, steps: usize) -> u64 {
        self.bounds[steps] as u64 * self.unit_cost
    }

    /// Parameters that all steps remove.
    pub fn capacity(&self) -> u64 {
        self.cost(self.steps())
    }

    /// Parameters of all its units if it gives up any, those included that must
    /// stay.
    pub fn parameters(&self) -> u64 {
        self.order.len() as u64 * self.unit_cost
    }

    /// Units that are gone after `steps` steps.
    pub fn removed(&self, steps: usize) -> impl Iterator<Item = usize> + '_ {
        self.dropped.iter().chain(&self.order[..self.bounds[steps]]).copied()
    }
}

/// The channels of a layer in the order in which they go, of these scores: ascending ones, equal
/// ones by index; of several experts one of each in turn, so that every so many are as many of
/// each.
pub fn channel_order(scores: &[f64], experts: usize) -> Vec<usize> {
    let width = scores.len() / experts.max(1);
    let by_expert: Vec<_> =
        (0..experts).map(|e| ascending(scores, e * width..(e + 1) * width)).collect();
    (0..width).flat_map(|round| by_expert.iter().map(move |of| of[round])).collect()
}

/// `units` by ascending score, equal ones by index.
fn ascending(scores: &[f64], units: std::ops::Range<usize>) -> Vec<usize> {
    let mut order: Vec<usize> = units.collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
    order
}
