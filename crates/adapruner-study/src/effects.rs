//! What each item of a subset adds to the objective.
//!
//! The posterior of the linear surrogate that chooses subsets (see
//! [`linear`](crate::sampler::subset::linear)): a Bayesian linear regression over the complete
//! and pruned trials, with the numbers and choices that all of them have as further terms, so
//! that their effect is not attributed to items. As there, bad outliers are clipped, and pruned
//! trials count as no better than the median.

use std::sync::Arc;

use crate::distribution::{Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::sampler::subset::Trade;
use crate::sampler::subset::linear::{LinearModel, Products};
use crate::sampler::tpe::Layout;
use crate::sampler::{common_space, counts};
use crate::trial::{Direction, Trial};

/// Upper bound on trials times items, so that damaged records cannot make it allocate more.
const MOST_CELLS: usize = 1 << 27;

/// What an item adds to the value of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemEffect {
    /// By how much the value is larger with the item than with the average item
    /// of the pool in its place: the posterior mean, in units of the objective.
    /// Small where little is known: the prior's mean is 0.
    pub mean: f64,
    /// Standard deviation of that.
    pub deviation: f64,
    /// In how many of the trials the item was chosen.
    pub chosen: usize,
}

/// The effect of each item of the pool of subset parameter `name`, over the
/// complete and pruned trials that have it; where the pool has changed, over
/// those with the pool of the newest of them.
///
/// # Errors
///
/// [`Error::Space`] if no trial has such a subset parameter, their values do
/// not differ (there is nothing to tell items apart by then), or there are far too
/// many of them.
pub fn item_effects(
    trials: &[Arc<Trial>],
    direction: Direction,
    name: &str,
) -> Result<Vec<ItemEffect>> {
    let fault = |message: String| Error::Space { name: name.into(), message };
    let subset = |trial: &Trial| match trial.params.get(name) {
        Some((of @ Distribution::Subset { pool, .. }, ParamValue::Subset(items)))
            if of.validate(name).is_ok() && of.contains(&ParamValue::Subset(items.clone())) =>
        {
            Some((*pool, items.len()))
        }
        Some(_) | None => None,
    };
    let finished = || trials.iter().filter(|trial| counts(trial));
    let newest = finished().rev().find_map(|trial| subset(trial));
    let (pool, _) = newest.ok_or_else(|| {
        let found = finished().count();
        fault(format!("expected a subset parameter in finished trials, found none in {found}"))
    })?;
    let of_pool = finished().filter(|trial| subset(trial).is_some_and(|(of, _)| of == pool));
    let having: Vec<Arc<Trial>> = of_pool.cloned().collect();
    let sizes = || having.iter().filter_map(|trial| subset(trial)).map(|(_, n)| n);
    let (least, most) = (sizes().min().unwrap_or(pool), sizes().max().unwrap_or(pool));
    let mut space = common_space(&having);
    space.insert(name.into(), Distribution::Subset { pool, least, most });
    let space: Vec<(&str, &Distribution)> =
        space.iter().map(|(name, of)| (name.as_str(), of)).collect();
    let layout = Layout::new(&space);
    let observations: Vec<_> =
        having.iter().filter_map(|trial| Some((trial.as_ref(), layout.observe(trial)?))).collect();
    if observations.len().saturating_mul(pool) > MOST_CELLS {
        let found = observations.len();
        return Err(fault(format!(
            "expected at most {MOST_CELLS} inclusions, found {found} trials of {pool} items"
        )));
    }
    let trade = Trade::one(&direction);
    let model =
        LinearModel::new(&trade, &layout.pools(), &layout.axes, &observations, Products::None);
    let deviation = model.deviation();
    if !(deviation.is_finite() && deviation > 0.0) {
        let found = observations.len();
        return Err(fault(format!(
            "expected trials of different values, found {found} that do not differ"
        )));
    }
    let is_subset = |of: &Distribution| matches!(of, Distribution::Subset { .. });
    let before = space.iter().take_while(|(other, _)| *other != name);
    let index = before.filter(|(_, of)| is_subset(of)).count();
    let mut chosen = vec![0; pool];
    for (_, observation) in &observations {
        observation.subsets[index].iter().for_each(|item| chosen[*item] += 1);
    }
    let sign = match direction {
        Direction::Minimize => 1.0,
        Direction::Maximize => -1.0,
    };
    let effect = |((mean, deviation), chosen)| ItemEffect { mean: sign * mean, deviation, chosen };
    Ok(model.effects(index).into_iter().zip(chosen).map(effect).collect())
}
