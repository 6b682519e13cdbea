//! A plan that is given, and what a dry run shows of one.

use std::path::Path;

use adapruner::{footprint::Footprint, manifest::read_plan, outputs::Stored};
use adapruner_checkpoint::Checkpoint;
use adapruner_prune::{PlanTable, PrunePlan, apply, without_tokens};
use anyhow::{Context, Result};
use serde::Serialize;

use super::ApplyCommand;
use crate::printer::table;

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
}

/// Prints a plan and the size of its model.
pub(super) fn show(
    args: &ApplyCommand,
    (original, checkpoint): (&Checkpoint, &Checkpoint),
    (given, plan): (Option<Tokens>, Option<PrunePlan>),
    stored: &Stored,
) -> Result<()> {
    let pruned = match &plan {
        Some(plan) => apply(checkpoint, plan)?,
        None => checkpoint.clone(),
    };
    let sizes = Sizes {
        plan: whole(given, plan, original)?.table(&original.config)?,
        footprint: Footprint::of(original, &pruned, stored, None)?,
    };
    args.common.printer().result(&sizes, |Sizes { plan, footprint }| {
        format!("{plan}\n{}", table(&[("size", footprint.to_string())]))
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
