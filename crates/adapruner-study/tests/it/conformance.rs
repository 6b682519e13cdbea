//! Every sampler and pruner against the suites of `testing`.

use adapruner_study::pruner::{
    HyperbandPruner, NopPruner, PercentilePruner, SuccessiveHalvingPruner, WilcoxonPruner,
};
use adapruner_study::sampler::subset::SubsetStrategy;
use adapruner_study::testing::{pruner, sampler};
use adapruner_study::{RandomSampler, TpeSampler};

#[test]
fn random_sampler() {
    sampler::all(RandomSampler::new);
}

#[test]
fn tpe_sampler() {
    sampler::all(TpeSampler::new);
}

#[test]
fn tpe_sampler_with_every_strategy() {
    for strategy in [
        SubsetStrategy::Odds,
        SubsetStrategy::Linear,
        SubsetStrategy::OddsThenLinear { after: 100 },
    ] {
        sampler::all(|seed| TpeSampler::new(seed).with_subsets(strategy));
    }
}

#[test]
fn tpe_sampler_with_other_settings() {
    sampler::all(|seed| {
        TpeSampler::new(seed).with_startup(0).with_candidates(1).with_constant_liar(false)
    });
}

#[test]
fn pruners() {
    pruner::all(&NopPruner);
    pruner::all(&PercentilePruner::median());
    pruner::all(&PercentilePruner {
        startup_trials: 0,
        interval_steps: 0,
        ..PercentilePruner::new(10.0)
    });
    pruner::all(&WilcoxonPruner::default());
    for min_resource in [None, Some(0), Some(3), Some(u64::MAX)] {
        pruner::all(&SuccessiveHalvingPruner { min_resource, ..Default::default() });
    }
    for max_resource in [None, Some(0), Some(20), Some(u64::MAX)] {
        pruner::all(&HyperbandPruner { max_resource, ..Default::default() });
    }
    let extreme = HyperbandPruner { min_resource: 0, reduction_factor: 0, ..Default::default() };
    pruner::all(&extreme);
}
