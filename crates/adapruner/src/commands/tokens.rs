//! Vocabulary trimming in `prune`: the ratio that remains for layers, the joint plan, warnings.

use adapruner::{
    caution::Caution,
    pipeline,
    room::{Room, room},
    settings::{CalibrationSettings, PruneSettings},
    vocabulary::{self, VocabularyRecord},
};
use adapruner_checkpoint::{Checkpoint, text::TokenSet};
use adapruner_prune::PrunePlan;
use anyhow::Result;

use crate::failure::advised;

/// A share of all parameters up to this counts as zero.
pub(super) const LEAST: f64 = 0.001;

/// The ratio to remove from the trimmed model, so that both cuts together remove `ratio` of the
/// original.
pub(super) fn left(original: &Checkpoint, trimmed: &Checkpoint, ratio: f64) -> f64 {
    let (before, now) = (original.config.parameters(), trimmed.config.parameters());
    (ratio * before as f64 - before.saturating_sub(now) as f64) / now as f64
}

/// The plan for the original model, of tokens and layers.
pub(super) fn composed(
    original: &Checkpoint,
    plan: Option<PrunePlan>,
    chosen: Option<&vocabulary::Chosen>,
    ratio: f64,
) -> Result<(PrunePlan, Option<VocabularyRecord>)> {
    let (config, digest) = (&original.config, original.digest()?);
    let record = chosen.map(|chosen| chosen.record.clone());
    let plan = match (plan, chosen.map(|chosen| chosen.plan.clone())) {
        (Some(plan), None) => plan,
        (Some(plan), Some(of)) => plan.after_vocabulary(config, digest, of, ratio),
        (None, Some(of)) => PrunePlan::of_vocabulary(config, digest, of),
        (None, None) => anyhow::bail!("ratio: nothing is removed"),
    };
    Ok((plan, record))
}

/// Warns if the tokens alone exceed the requested ratio.
pub(super) fn beyond(plan: &PrunePlan, asked: f64) -> Option<Caution> {
    (asked > 0.0 && plan.reached_ratio > asked + LEAST).then(|| Caution {
        message: format!(
            "ratio: {asked} asked, {:.4} reached: the tokens that go are more than that, and the \
             layers stay as they are",
            plan.reached_ratio
        ),
        hint: "keep more tokens with --vocab, or ask for a larger ratio".into(),
    })
}

/// Warnings about a vocabulary: texts of another kind than those it was chosen by.
///
/// # Errors
/// An evaluation text that is also one of these, unless that is allowed.
pub(super) fn cautions(
    original: &Checkpoint,
    chosen: &vocabulary::Chosen,
    whole: Option<&TokenSet>,
    settings: &PruneSettings,
) -> Result<Vec<Caution>> {
    let counted = |digest| chosen.record.texts.iter().find(|text| text.digest == digest);
    let mut cautions = Vec::new();
    if let Some(eval) = whole {
        if let Some(text) = counted(eval.text_digest).filter(|_| !settings.allow_overlap) {
            return Err(advised(
                format!("{}: the vocabulary is chosen by it ({})", eval.name, text.text),
                "measure on another text, or give --allow-overlap",
            ));
        }
        cautions.extend(chosen.foreign(&eval.name, &eval.windows));
    }
    if let Some(of) = &settings.calibration {
        // The text has fewer tokens in the whole vocabulary, and so fewer samples.
        let Room { samples, tokens } = room(original, &of.text, of.sample_tokens, of.samples)?;
        if samples > 0 && tokens > 1 {
            let of = CalibrationSettings { samples, sample_tokens: tokens, ..of.clone() };
            let drawn = pipeline::calibration_tokens(original, &of)?;
            if counted(drawn.text_digest).is_none() {
                cautions.extend(chosen.foreign(&drawn.name, &drawn.windows));
            }
        }
    }
    Ok(cautions)
}
