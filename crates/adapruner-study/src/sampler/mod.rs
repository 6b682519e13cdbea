//! Samplers: what to try next.
//!
//! A sampler has no state. A proposal follows from its settings (including the seed), the
//! number of the draw and the history. So a study that is killed and reopened continues as if
//! nothing had happened, and every worker can have its own sampler.
//!
//! | module | content |
//! |---|---|
//! | [`random`] | [`RandomSampler`]: uniform |
//! | [`tpe`] | [`TpeSampler`]: multivariate TPE, which delegates subsets to: |
//! | [`subset`] | inclusion odds and a Bayesian linear surrogate |

pub(crate) mod axis;
pub mod random;
pub(crate) mod stream;
pub mod subset;
pub mod tpe;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::distribution::{Distribution, ParamValue};
use crate::error::Result;
use crate::trial::{Direction, Trial, TrialState};

pub use random::RandomSampler;
pub use tpe::TpeSampler;

/// Values of parameters, each with its distribution, by name.
pub type Params = BTreeMap<String, (Distribution, ParamValue)>;

/// The trial attribute in which a study keeps what a sampler proposed jointly,
/// until the trial has asked for it.
pub(crate) const PROPOSED: &str = "study:proposed";

/// What a sampler sees of a study.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Of each objective, whether small or large values are good.
    pub directions: &'a [Direction],
    /// All trials of the study but the one to propose for, by number.
    pub trials: &'a [Arc<Trial>],
    /// Which draw this is: the number of the trial, unless trials of dead
    /// workers were given up, whose draws are made again.
    pub draw: u64,
}

/// Proposes values of parameters.
///
/// Implementations are deterministic: equal settings and an equal [`View`] give
/// equal proposals. Failed trials do not count.
/// `testing::sampler` (feature `testing`) checks what is asked of them here.
pub trait Sampler: Send + Sync {
    /// Proposes values of those parameters that are sampled together, before
    /// the trial has asked for any; perhaps of none. They are used where the
    /// trial asks for the same name with the same distribution.
    ///
    /// # Errors
    ///
    /// If the sampler cannot work with the history.
    fn joint(&self, view: &View<'_>) -> Result<Params>;

    /// Proposes a value of one parameter. `distribution` makes sense
    /// ([`Distribution::validate`]) and has more than one value.
    ///
    /// # Errors
    ///
    /// If the sampler cannot work with the history or the distribution.
    fn single(
        &self,
        view: &View<'_>,
        name: &str,
        distribution: &Distribution,
    ) -> Result<ParamValue>;
}

/// The parameters that every finished trial has with one distribution, which
/// has more than one value: those that can be sampled together.
pub fn common_space(trials: &[Arc<Trial>]) -> BTreeMap<String, Distribution> {
    let mut finished = trials.iter().filter(|trial| counts(trial)).rev();
    let Some(newest) = finished.next() else { return BTreeMap::new() };
    let mut common: BTreeMap<&String, &Distribution> =
        newest.params.iter().map(|(name, (distribution, _))| (name, distribution)).collect();
    for trial in finished {
        common.retain(|name, distribution| {
            trial.params.get(*name).is_some_and(|(other, _)| other == *distribution)
        });
    }
    // Distributions may come from a damaged journal.
    common.retain(|name, distribution| {
        distribution.validate(name).is_ok() && distribution.only_value().is_none()
    });
    common.into_iter().map(|(name, distribution)| (name.clone(), distribution.clone())).collect()
}

/// Whether a trial is complete or pruned.
pub(crate) fn counts(trial: &Trial) -> bool {
    matches!(trial.state, TrialState::Complete | TrialState::Pruned)
}

/// The value of a parameter in a trial where a parameter of `distribution`
/// could have it; of a running trial also what was proposed for it.
pub(crate) fn value_in(
    trial: &Trial,
    name: &str,
    distribution: &Distribution,
) -> Option<ParamValue> {
    if let Some((of, value)) = trial.params.get(name) {
        return (distribution.is_comparable(of) && distribution.contains(value))
            .then(|| value.clone());
    }
    if trial.state != TrialState::Running {
        return None;
    }
    let proposed = trial.system_attrs.get(PROPOSED)?.get(name)?;
    let value = match distribution {
        Distribution::Float { .. } => ParamValue::Float(proposed.as_f64()?),
        Distribution::Int { .. } => ParamValue::Int(proposed.as_i64()?),
        Distribution::Categorical { .. } => {
            ParamValue::Category(proposed.as_u64()?.try_into().ok()?)
        }
        Distribution::Subset { .. } => {
            let items = proposed.as_array()?.iter();
            ParamValue::Subset(items.map(|i| i.as_u64()?.try_into().ok()).collect::<Option<_>>()?)
        }
    };
    distribution.contains(&value).then_some(value)
}

/// What [`value_in`] reads again.
pub(crate) fn proposed_attr(params: &Params) -> Value {
    let value = |value: &ParamValue| match value {
        ParamValue::Float(v) => Value::from(*v),
        ParamValue::Int(v) => Value::from(*v),
        ParamValue::Category(v) => Value::from(*v),
        ParamValue::Subset(items) => Value::from(items.clone()),
    };
    Value::Object(params.iter().map(|(name, (_, v))| (name.clone(), value(v))).collect())
}
