//! A plan that is given, and what a dry run shows of one.

use std::path::Path;

use adapruner::{
    footprint::Footprint, kv_cache::CacheRecord, manifest::read_plan, outputs::Stored,
    speed::SpeedRecord,
};
use adapruner_checkpoint::Checkpoint;
use adapruner_model::Placement;
use adapruner_prune::{PlanTable, PrunePlan, apply, without_tokens};
use anyhow::{Context, Result};
use serde::Serialize;

use super::{ApplyCommand, budget::Budgets};
use crate::{bars::Bars, printer::table, terminal::warn};

/// A given plan, with the model after its tokens are removed.
pub(super) struct Tokens {
    plan: PrunePlan,
    /// The model with the kept tokens.
    pub(super) model: Checkpoint,
    /// The part of the plan for that model's layers, if any.
    pub(super) layers: Option<PrunePlan>,
}

impl Tokens {
    /// Reads a plan.
    pub(super) fn read(path: &Path, original: &Checkpoint) -> Result<Self> {
        let plan = read_plan(path)?;
        let found = without_tokens(original, &plan).with_context(|| path.display().to_string())?;
        Ok(match found {
            Some((model, layers)) => Self { plan, model, layers },
            None => Self { layers: Some(plan.clone()), model: original.clone(), plan },
        })
    }

    /// The plan of the original model, with what became of its layers.
    pub(super) fn with(
        self,
        original: &Checkpoint,
        layers: Option<PrunePlan>,
    ) -> Result<PrunePlan> {
        let Self { plan, .. } = self;
        Ok(match (plan.vocabulary.clone(), layers) {
            (Some(vocabulary), Some(layers)) => {
                let (config, digest) = (&original.config, original.digest()?);
                let ratio = Some(plan.requested_ratio);
                layers.after_vocabulary(config, digest, vocabulary, ratio)
            }
            (None, Some(layers)) => layers,
            (_, None) => plan,
        })
    }
}

/// What would be written.
#[derive(Serialize)]
struct Sizes {
    plan: PlanTable,
    footprint: Footprint,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_cache: Option<CacheRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<SpeedRecord>,
}

/// What is shown beside a plan.
pub(super) struct Shown<'a> {
    /// How the model would be written.
    pub(super) stored: &'a Stored,
    /// What was asked for.
    pub(super) asked: &'a Budgets,
    /// How the key-value cache was cut.
    pub(super) kv_cache: Option<CacheRecord>,
}

/// Prints a plan, the size of its model and its predicted speed.
pub(super) fn show(
    args: &ApplyCommand,
    (original, checkpoint): (&Checkpoint, &Checkpoint),
    (given, plan): (Option<Tokens>, Option<PrunePlan>),
    Shown { stored, asked, kv_cache }: Shown<'_>,
    (placement, bars): (&Placement, &Bars),
) -> Result<()> {
    let pruned = match &plan {
        Some(plan) => apply(checkpoint, plan)?,
        None => checkpoint.clone(),
    };
    let footprint = Footprint::of(original, &pruned, stored, asked.context())?;
    let speed = asked.speed((original, &pruned), (placement, bars, true))?;
    let cautions = asked.cautions(&pruned.config, &footprint, speed.as_ref(), placement);
    cautions.iter().for_each(warn);
    let plan = whole(given, plan, original)?.table(&original.config)?;
    let sizes = Sizes { plan, footprint, kv_cache, speed };
    args.common.printer().result(&sizes, |Sizes { plan, footprint, kv_cache, speed }| {
        let mut rows = vec![("size", footprint.to_string())];
        rows.extend(kv_cache.as_ref().map(|of| ("key-value cache", of.to_string())));
        rows.extend(speed.as_ref().map(|of| ("speedup", of.to_string())));
        format!("{plan}\n{}", table(&rows))
    })
}

/// The plan of the original model.
pub(super) fn whole(
    given: Option<Tokens>,
    plan: Option<PrunePlan>,
    original: &Checkpoint,
) -> Result<PrunePlan> {
    match (given, plan) {
        (Some(of), plan) => of.with(original, plan),
        (None, Some(plan)) => Ok(plan),
        (None, None) => anyhow::bail!("plan: missing"),
    }
}
