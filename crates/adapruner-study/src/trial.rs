//! One evaluation: its parameters, what it reported, and its outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::distribution::{Distribution, ParamValue};

/// Whether small or large values are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Small ones.
    Minimize,
    /// Large ones.
    Maximize,
}

/// State of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialState {
    /// Being evaluated.
    Running,
    /// Evaluated, with a value.
    Complete,
    /// Stopped early.
    Pruned,
    /// Ended without a value.
    Failed,
    /// Queued, to be evaluated next.
    Waiting,
}

impl TrialState {
    /// Whether it can change no more.
    pub fn is_finished(self) -> bool {
        match self {
            Self::Complete | Self::Pruned | Self::Failed => true,
            Self::Running | Self::Waiting => false,
        }
    }
}

/// One evaluation of an objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Number within its study, from 0, in the order of creation.
    pub number: u64,
    /// Its state.
    pub state: TrialState,
    /// The value of each objective, in the study's order, once complete (perhaps once
    /// pruned); empty where there is none.
    pub values: Vec<f64>,
    /// Parameters by name.
    pub params: BTreeMap<String, (Distribution, ParamValue)>,
    /// Reported values by step; NaN where it was reported.
    pub intermediate: BTreeMap<u64, f64>,
    /// Attributes set by the user of the study.
    pub user_attrs: BTreeMap<String, serde_json::Value>,
    /// Attributes set by samplers, pruners and storages.
    pub system_attrs: BTreeMap<String, serde_json::Value>,
    /// When it began, in milliseconds since 1970 (UTC).
    pub started_ms: Option<i64>,
    /// When it ended, in milliseconds since 1970 (UTC).
    pub ended_ms: Option<i64>,
}

/// System attribute: how much each constraint is violated, as Optuna keeps it; a
/// list, or `constraints:NAME` for each.
pub(crate) const CONSTRAINTS: &str = "constraints";

impl Trial {
    /// The value, if there is one objective; None where there is none yet, or there are
    /// several.
    pub fn value(&self) -> Option<f64> {
        match self.values[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// By how much it violates its constraints: the sum of what is positive, as
    /// Optuna computes it.
    pub fn violation(&self) -> f64 {
        let listed = self.system_attrs.get(CONSTRAINTS).and_then(|list| list.as_array());
        let named = self.system_attrs.iter().filter(|(key, _)| {
            key.strip_prefix(CONSTRAINTS).is_some_and(|rest| rest.starts_with(':'))
        });
        let all = listed.into_iter().flatten().chain(named.map(|(_, value)| value));
        all.filter_map(|value| value.as_f64()).filter(|value| *value > 0.0).sum()
    }

    /// Whether it is finished and violates a constraint.
    pub fn is_infeasible(&self) -> bool {
        self.state.is_finished() && self.violation() > 0.0
    }
}

/// The trials as those of objective number `at` alone, for what knows one objective, such
/// as importances.
pub fn of_objective(trials: &[Arc<Trial>], at: usize) -> Vec<Arc<Trial>> {
    let alone = |trial: &Arc<Trial>| {
        let mut trial = Trial::clone(trial);
        trial.values = trial.values.get(at).copied().into_iter().collect();
        Arc::new(trial)
    };
    trials.iter().map(alone).collect()
}
