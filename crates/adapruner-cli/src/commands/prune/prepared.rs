//! What `prune` does before widths are cut: options checked, texts drawn, whole tokens, layers
//! and experts removed.

use adapruner::{
    caution::Caution,
    outputs::{self, OutputSettings, Stored},
    pipeline,
    settings::{PruneSettings, RunSettings},
    target::Target,
};
use adapruner_checkpoint::{Checkpoint, atomic::StagedDir, text::TokenSet};
use adapruner_model::Placement;
use adapruner_prune::{Layout, PlanOptions};
use anyhow::Result;

use super::{
    super::{
        Session,
        learned::refuse_of_experts,
        reduced::{self, Reduced},
    },
    PruneCommand, Typed,
};
use crate::{bars::Bars, recipe::Given, typed::Shares};

/// What is decided before widths are cut.
pub(super) struct Prepared<'a> {
    pub(super) settings: PruneSettings,
    /// The ratio that is asked of the original; none where a size is, or whole tokens, layers
    /// and experts alone.
    pub(super) asked: Option<f64>,
    pub(super) target: Option<Target>,
    /// The model less whole tokens, layers and experts.
    pub(super) reduced: Reduced<'a>,
    pub(super) calibration: Option<TokenSet>,
    /// The text to measure on, in tokens of the original and in those that stay.
    pub(super) eval: Option<(TokenSet, TokenSet)>,
    pub(super) cautions: Vec<Caution>,
    pub(super) staged: Option<(StagedDir, OutputSettings)>,
}

impl<'a> Prepared<'a> {
    /// Checks all options, draws the texts, removes whole tokens, layers and experts.
    pub(super) fn new(
        args: &PruneCommand,
        typed: &mut Typed,
        (original, run): (&'a Checkpoint, &RunSettings),
        (placement, session, bars): (&Placement, &Session, &Bars),
    ) -> Result<Self> {
        let Given { masks, compensation, .. } = &typed.given;
        let learns = masks.learn_masks.is_some_and(|steps| steps > 0);
        refuse_of_experts(&original.config, learns, compensation.compensate.is_some())?;
        typed.given.plan = typed.given.plan.settled(&original.config)?;
        typed.asked = typed.ask(original, (placement, session, bars))?;
        let target = typed.asked.target.clone();
        if let Some(target) = &target {
            let ratio = typed.ratio_for(target, original)?;
            if ratio == 0.0 {
                return Err(target.met_already(original)?.into());
            }
            typed.given.plan.ratio = Some(Shares::One(ratio));
        }
        let (first, _) = args.settings(typed, run, None, None)?;
        check_fits(&first, &typed.stored, original)?;
        if let Some(experts) = &first.experts {
            experts.check(&original.config)?;
        }
        let mut reduced = Reduced::of_tokens(original, first.vocabulary.as_ref(), bars)?;
        let asked = first.plan.ratio;
        let left = |reduced: &Reduced<'_>, typed: &Typed| match &target {
            Some(target) => typed.ratio_for(target, reduced.model()).map(Some),
            None => Ok(reduced.left(asked)),
        };
        let still = left(&reduced, typed)?;
        let (mut settings, mut short) =
            args.settings(typed, run, Some(reduced.trimmed()), still)?;
        let staged = match &settings.output {
            Some(output) if !args.dry_run => {
                Some((session.writer.folder(&output.out)?, output.clone()))
            }
            Some(_) | None => None,
        };
        let eval = match &settings.eval {
            Some(of) if !args.dry_run => {
                let tokens = pipeline::eval_tokens(reduced.trimmed(), of)?;
                let whole = match reduced.vocabulary {
                    Some(_) => pipeline::eval_tokens(original, of)?,
                    None => tokens.clone(),
                };
                Some((whole, tokens))
            }
            Some(_) | None => None,
        };
        let mut cautions: Vec<Caution> = Vec::new();
        if let Some(chosen) = &reduced.vocabulary {
            let whole = eval.as_ref().map(|(whole, _)| whole);
            cautions.extend(reduced::cautions(original, chosen, whole, &settings)?);
        }
        let mut calibration = pipeline::calibration(reduced.trimmed(), &settings)?;
        if let (Some((_, eval)), Some(calibration)) = (&eval, &calibration) {
            let role = ("the calibration set", calibration);
            pipeline::check_overlap(eval, role, settings.allow_overlap)?;
        }
        if let Some(depth) = &settings.depth {
            reduced.drop_layers(depth, calibration.as_ref(), placement, bars)?;
            // Named by their places in the model as it was.
            let attention = typed.given.plan.drop_attention.take();
            typed.given.plan.drop_attention = attention.map(|layers| reduced.places(&layers));
        }
        if let Some(experts) = &settings.experts {
            let samples = calibration.as_ref().zip(settings.calibration.as_ref());
            reduced.drop_experts(experts, samples, placement, bars)?;
        }
        if settings.depth.is_some() || settings.experts.is_some() {
            let still = left(&reduced, typed)?;
            (settings, short) = args.settings(typed, run, Some(reduced.model()), still)?;
            calibration = pipeline::calibration(reduced.model(), &settings)?;
        }
        cautions.extend(short);
        // Of a size, what is reached is what was asked for.
        let asked = (asked > 0.0 && target.is_none()).then_some(asked);
        Ok(Self { settings, asked, target, reduced, calibration, eval, cautions, staged })
    }
}

/// Refuses formats that cannot hold what is planned, before any work.
fn check_fits(settings: &PruneSettings, stored: &Stored, original: &Checkpoint) -> Result<()> {
    let PlanOptions { layout, attention_share, drop_attention, ratio, .. } = &settings.plan;
    let cached = settings.kv_cache.is_some();
    let heads = *attention_share != Some(0.0) || !drop_attention.is_empty();
    let planned = outputs::Planned {
        per_layer: *layout == Layout::PerLayer && settings.cuts(),
        heads: (*ratio > 0.0 && heads) || cached,
    };
    Ok(outputs::check_fits(stored, &original.config, planned)?)
}
