//! Conformance suites for samplers and pruners (feature `testing`). Every check panics on a
//! violation.

pub mod pruner;
pub mod sampler;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::trial::{Trial, TrialState};

/// A trial of one objective with nothing but a number and an outcome.
pub fn trial(number: u64, state: TrialState, value: Option<f64>) -> Trial {
    Trial {
        number,
        state,
        values: value.into_iter().collect(),
        params: BTreeMap::new(),
        intermediate: BTreeMap::new(),
        user_attrs: BTreeMap::new(),
        system_attrs: BTreeMap::new(),
        started_ms: None,
        ended_ms: None,
    }
}

/// A history as samplers and pruners see it.
pub fn shared(trials: &[Trial]) -> Vec<Arc<Trial>> {
    trials.iter().cloned().map(Arc::new).collect()
}

/// Numbers in [0, 1) that are the same in every run: the golden ratio's
/// multiples.
fn spread(i: u64) -> f64 {
    (i as f64 * 0.618_033_988_749_895).fract()
}
