//! What `prune` removes before widths are cut: whole tokens, layers and experts. What they leave
//! of the ratio, the plan of all of it, what to be wary of.

use adapruner::{
    caution::Caution,
    depth::{self, DepthRecord, DepthSettings},
    experts::{self, ExpertRecord, ExpertSettings},
    pipeline,
    progress::Progress,
    room::{Room, room},
    settings::{CalibrationSettings, PruneSettings},
    vocabulary::{self, VocabularyRecord, VocabularySettings},
};
use adapruner_checkpoint::{Checkpoint, text::TokenSet};
use adapruner_model::Placement;
use adapruner_prune::PrunePlan;
use anyhow::Result;

use crate::failure::advised;

/// Shares of all parameters up to this are none.
pub(super) const LEAST: f64 = 0.001;

/// A model less whole tokens, layers and experts, in this order.
pub(super) struct Reduced<'a> {
    original: &'a Checkpoint,
    /// Which tokens stay, where not all do.
    pub(super) vocabulary: Option<vocabulary::Chosen>,
    /// Which layers stay, where not all do.
    depth: Option<depth::Chosen>,
    /// Which experts stay, where not all do.
    experts: Option<experts::Chosen>,
}

/// How what went was chosen.
pub(super) struct Records {
    pub(super) vocabulary: Option<VocabularyRecord>,
    pub(super) depth: Option<DepthRecord>,
    pub(super) experts: Option<ExpertRecord>,
}

impl<'a> Reduced<'a> {
    /// A model less the tokens that go.
    ///
    /// # Errors
    /// Those of [`vocabulary::choose`].
    pub(super) fn of_tokens(
        original: &'a Checkpoint,
        settings: Option<&VocabularySettings>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let chosen = settings.map(|of| vocabulary::choose(original, of, progress));
        Ok(Self { original, vocabulary: chosen.transpose()?, depth: None, experts: None })
    }

    /// Removes layers, too.
    ///
    /// # Errors
    /// Those of [`depth::choose`].
    pub(super) fn drop_layers(
        &mut self,
        settings: &DepthSettings,
        samples: Option<&TokenSet>,
        placement: &Placement,
        progress: &dyn Progress,
    ) -> Result<()> {
        let chosen = depth::choose(self.trimmed(), settings, samples, placement, progress)?;
        self.depth = Some(chosen);
        Ok(())
    }

    /// Removes experts of the layers that stay, too.
    ///
    /// # Errors
    /// Those of [`experts::choose`].
    pub(super) fn drop_experts(
        &mut self,
        settings: &ExpertSettings,
        samples: Option<(&TokenSet, &CalibrationSettings)>,
        placement: &Placement,
        progress: &dyn Progress,
    ) -> Result<()> {
        let chosen = experts::choose(self.shallow(), settings, samples, placement, progress)?;
        self.experts = Some(chosen);
        Ok(())
    }

    /// The model with the tokens that stay and all its layers.
    pub(super) fn trimmed(&self) -> &Checkpoint {
        self.vocabulary.as_ref().map_or(self.original, |chosen| &chosen.model)
    }

    /// The model with the tokens and layers that stay and all experts of these.
    fn shallow(&self) -> &Checkpoint {
        self.depth.as_ref().map_or_else(|| self.trimmed(), |chosen| &chosen.model)
    }

    /// The model with the tokens, layers and experts that stay.
    pub(super) fn model(&self) -> &Checkpoint {
        self.experts.as_ref().map_or_else(|| self.shallow(), |chosen| &chosen.model)
    }

    /// Layers of [`Reduced::trimmed`] by their places among those that stay; those that went
    /// are left out.
    pub(super) fn places(&self, layers: &[usize]) -> Vec<usize> {
        let Some(depth) = &self.depth else { return layers.to_vec() };
        layers.iter().filter_map(|layer| depth.kept.binary_search(layer).ok()).collect()
    }

    /// What went whole, in words.
    fn went(&self) -> Vec<&'static str> {
        let parts = [
            ("tokens", self.vocabulary.is_some()),
            ("layers", self.depth.is_some()),
            ("experts", self.experts.is_some()),
        ];
        parts.into_iter().filter_map(|(part, went)| went.then_some(part)).collect()
    }

    /// The ratio that is left to remove of the model, so that all of it together is `ratio`
    /// of the original; none where nothing went.
    pub(super) fn left(&self, ratio: f64) -> Option<f64> {
        let of = |checkpoint: &Checkpoint| checkpoint.config.parameters();
        let (before, now) = (of(self.original), of(self.model()));
        let gone = before.saturating_sub(now) as f64;
        (!self.went().is_empty()).then(|| (ratio * before as f64 - gone) / now as f64)
    }

    /// A plan for [`Reduced::model`], if any, as one for [`Reduced::trimmed`].
    pub(super) fn with_parts(
        &self,
        plan: Option<PrunePlan>,
        asked: Option<f64>,
    ) -> Result<Option<PrunePlan>> {
        let (shallow, trimmed) = (self.shallow(), self.trimmed());
        let plan = match (&self.experts, plan) {
            (None, plan) => plan,
            (Some(experts), plan) => {
                let (config, digest) = (&shallow.config, shallow.digest()?);
                Some(match plan {
                    Some(plan) => plan.after_experts(config, digest, &experts.kept, asked),
                    None => PrunePlan::of_experts(config, digest, &experts.kept),
                })
            }
        };
        let Some(depth) = &self.depth else { return Ok(plan) };
        let (config, digest) = (&trimmed.config, trimmed.digest()?);
        Ok(Some(match plan {
            Some(plan) => plan.after_layers(config, digest, &depth.kept, asked),
            None => PrunePlan::of_layers(config, digest, &depth.kept),
        }))
    }

    /// A plan for [`Reduced::trimmed`], if any, as one for the original.
    ///
    /// # Errors
    /// Where nothing is removed.
    pub(super) fn with_tokens(
        &self,
        plan: Option<PrunePlan>,
        asked: Option<f64>,
    ) -> Result<PrunePlan> {
        let (config, digest) = (&self.original.config, self.original.digest()?);
        Ok(match (plan, self.vocabulary.as_ref().map(|chosen| chosen.plan.clone())) {
            (Some(plan), None) => plan,
            (Some(plan), Some(of)) => plan.after_vocabulary(config, digest, of, asked),
            (None, Some(of)) => PrunePlan::of_vocabulary(config, digest, of),
            (None, None) => anyhow::bail!("ratio: nothing is removed"),
        })
    }

    /// How tokens, layers and experts were chosen.
    pub(super) fn records(&self) -> Records {
        Records {
            vocabulary: self.vocabulary.as_ref().map(|chosen| chosen.record.clone()),
            depth: self.depth.as_ref().map(|chosen| chosen.record.clone()),
            experts: self.experts.as_ref().map(|chosen| chosen.record.clone()),
        }
    }

    /// Says where what went is alone more than what was to go.
    pub(super) fn beyond(&self, plan: &PrunePlan, asked: Option<f64>) -> Option<Caution> {
        let went = self.went();
        let asked = asked.filter(|asked| plan.reached_ratio > asked + LEAST)?;
        let (last, others) = went.split_last()?;
        let all = match others {
            [] => (*last).to_owned(),
            others => format!("{} and {last}", others.join(", ")),
        };
        Some(Caution {
            message: format!(
                "ratio: {asked} asked, {:.4} reached: the {all} that go are more than that, and \
                 the widths stay as they are",
                plan.reached_ratio
            ),
            hint: format!("remove fewer {all}, or ask for a larger ratio"),
        })
    }
}

/// What to be wary of in a vocabulary: texts of another kind than those that it was chosen by.
///
/// # Errors
/// A text to measure on that is one of these, unless that is allowed.
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
