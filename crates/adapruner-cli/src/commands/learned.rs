//! What `prune` and `apply` do with a plan: learn masks, slice, compensate.

use std::sync::atomic::AtomicBool;

use adapruner::{
    compensation::{self, CompensationRecord},
    masks::{self, LearnedRecord, MaskSamples},
    pipeline,
    settings::{CompensationSettings, MaskSettings},
};
use adapruner_checkpoint::{Checkpoint, ModelConfig, text::TokenSet};
use adapruner_model::Placement;
use adapruner_prune::{PrunePlan, Scores, apply, refuse_experts, without_layers};
use anyhow::Result;

use super::Session;
use crate::{bars::Bars, failure::advised, interrupt};

/// Refuses learned masks and compensation, if requested, for a model of experts.
///
/// # Errors
/// The first that is requested for one.
pub(super) fn refuse_of_experts(config: &ModelConfig, masks: bool, fit: bool) -> Result<()> {
    if masks {
        refuse_experts(config, "learn-masks", "learning masks")?;
    }
    if fit {
        refuse_experts(config, "compensate", "compensation")?;
    }
    Ok(())
}

/// Samples for learned masks and for compensation, if requested.
pub(super) struct Samples<'a> {
    /// Those of learned masks.
    pub(super) masks: Option<(MaskSamples, &'a MaskSettings)>,
    /// Those of a compensation.
    pub(super) fit: Option<(TokenSet, &'a CompensationSettings)>,
}

impl<'a> Samples<'a> {
    /// Draws them.
    ///
    /// # Errors
    /// A model that these are not done to, texts that cannot be read or are too short.
    pub(super) fn draw(
        checkpoint: &Checkpoint,
        masks: Option<&'a MaskSettings>,
        fit: Option<&'a CompensationSettings>,
    ) -> Result<Self> {
        refuse_of_experts(&checkpoint.config, masks.is_some(), fit.is_some())?;
        let masks = masks.map(|of| Ok::<_, anyhow::Error>((masks::samples(checkpoint, of)?, of)));
        let masks = masks.transpose()?;
        let fit = fit.map(|of| Ok::<_, anyhow::Error>((compensation::tokens(checkpoint, of)?, of)));
        Ok(Self { fit: fit.transpose()?, masks })
    }

    /// All of them.
    pub(super) fn chosen_on(&self) -> impl Iterator<Item = &TokenSet> {
        let masks = self.masks.iter().flat_map(|(of, _)| [&of.train, &of.held_out]);
        masks.chain(self.fit.iter().map(|(samples, _)| samples))
    }

    /// Refuses a text to measure on that shares passages with any of them.
    ///
    /// # Errors
    /// Shared passages, unless they are allowed.
    pub(super) fn check_overlap(&self, measured: &TokenSet, allowed: bool) -> Result<()> {
        if let Some((MaskSamples { train, held_out }, _)) = &self.masks {
            for samples in [train, held_out] {
                let role = ("the text that masks are learned on,", samples);
                pipeline::check_overlap(measured, role, allowed)?;
            }
        }
        if let Some((samples, _)) = &self.fit {
            let role = ("the text that is fitted on,", samples);
            pipeline::check_overlap(measured, role, allowed)?;
        }
        Ok(())
    }

    /// The plan with learned units, if requested. An interrupt saves the state, if there is a
    /// folder for it, and ends the program.
    ///
    /// # Errors
    /// See [`masks::learn`].
    pub(super) fn learn(
        &self,
        checkpoint: &Checkpoint,
        (plan, scores): (PrunePlan, &Scores),
        (placement, session, bars): (&Placement, &Session, &Bars),
    ) -> Result<(PrunePlan, Option<LearnedRecord>)> {
        let Some((samples, settings)) = &self.masks else { return Ok((plan, None)) };
        if let Some((shallow, rest)) = without_layers(checkpoint, &plan)? {
            // Within the layers that stay.
            let Some(rest) = rest else {
                return Err(advised(
                    "learn-masks: the plan removes whole layers alone, which leaves no masks to \
                     learn",
                    "leave --learn-masks out",
                ));
            };
            let kept = plan.kept_layers();
            let layers = kept.iter().map(|&layer| scores.layers[layer].clone()).collect();
            let run = (placement, session, bars);
            let (rest, learned) = self.learn(&shallow, (rest, &Scores { layers }), run)?;
            let asked = Some(plan.requested_ratio);
            let (config, digest) = (&checkpoint.config, plan.model_digest);
            return Ok((rest.after_layers(config, digest, &kept, asked), learned));
        }
        let state = match &settings.state {
            Some(path) => Some(masks::lock(session.writer.state(path)?)?),
            None => None,
        };
        let never = AtomicBool::new(false);
        let stop = if state.is_some() { interrupt::graceful() } else { &never };
        let run = (placement, state.as_ref(), stop);
        let learned = masks::learn(checkpoint, (&plan, scores), samples, settings, run, bars)?;
        interrupt::at_once();
        let Some((plan, record)) = learned else { interrupt::exit() };
        Ok((plan, Some(record)))
    }

    /// The pruned model, compensated if requested and if it lowers the loss on held-out
    /// samples.
    ///
    /// # Errors
    /// A plan for another model, damaged weights, no memory.
    pub(super) fn apply(
        &self,
        checkpoint: &Checkpoint,
        plan: &PrunePlan,
        (placement, bars): (&Placement, &Bars),
    ) -> Result<(Checkpoint, Option<CompensationRecord>)> {
        let Some((samples, fit)) = &self.fit else { return Ok((apply(checkpoint, plan)?, None)) };
        let (fitted, record) =
            compensation::compensate(checkpoint, plan, samples, fit, placement, bars)?;
        Ok((fitted, Some(record)))
    }
}
