//! Arguments of learned masks, also a table of the configuration file.

use std::path::PathBuf;

use adapruner::{
    masks::FOLDER,
    settings::{CalibrationSettings, MaskSettings},
};
use adapruner_checkpoint::atomic::Files;
use adapruner_prune::masks::{GatedUnit, MaskBudget, MaskLoss, MaskOptions};
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    args::{CalibrationArgs, EvalArgs},
    combine::combine,
    failure::advised,
    typed::{Named, Real},
};

/// How to learn masks.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Learned masks")]
pub struct MaskArgs {
    /// Learn by gradient which units stay, in this many steps: every unit has a score, the
    /// highest scores pass a hard mask that keeps exactly as many units as the plan, and
    /// gradients through it update the scores. Learning starts from the plan; held-out samples
    /// choose the step, and the plan itself is a candidate. 0 for none [default: 0; prune: 60,
    /// unless --fast is given]
    #[arg(long, value_name = "STEPS")]
    pub learn_masks: Option<u64>,
    /// Units to learn masks for: ffn (channels), kv-groups (groups, in layers that lose some),
    /// sublayers (which attention sublayers are dropped) [default: ffn]
    #[arg(long, value_name = "UNITS", value_delimiter = ',')]
    pub learn_units: Option<Vec<Named<GatedUnit>>>,
    /// Budget of units: per-layer (every layer keeps as many units as planned) or free (layers
    /// exchange units within the same total) [default: per-layer]
    #[arg(long, value_name = "BUDGET")]
    pub mask_budget: Option<Named<MaskBudget>>,
    /// Loss: text (cross-entropy), logits (the dense model's top 64 at every position) or
    /// hidden (the dense model's block outputs; the dense model then runs beside the masked
    /// one) [default: text]
    #[arg(long, value_name = "LOSS")]
    pub mask_loss: Option<Named<MaskLoss>>,
    /// Text to learn masks on, as for --text [default: the calibration text]
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub mask_text: Option<PathBuf>,
    /// Number of samples, including the held-out ones [default: 512]
    #[arg(long, value_name = "N")]
    pub mask_samples: Option<usize>,
    /// Tokens per such sample [default: 128]
    #[arg(long, value_name = "TOKENS")]
    pub mask_tokens: Option<usize>,
    /// Held-out samples that choose the step [default: a sixteenth, at least 8]
    #[arg(long, value_name = "N")]
    pub mask_held_out: Option<usize>,
    /// Samples per step [default: 8]
    #[arg(long, value_name = "N")]
    pub mask_batch: Option<usize>,
    /// Learning rate of the first step (Adam) [default: 0.05]
    #[arg(long, value_name = "RATE")]
    pub mask_rate: Option<Real>,
    /// Final learning rate of the cosine schedule [default: a tenth of --mask-rate]
    #[arg(long, value_name = "RATE")]
    pub mask_rate_end: Option<Real>,
    /// Initial standard deviation of a layer's scores: the smaller, the more units change
    /// [default: 1]
    #[arg(long, value_name = "SPREAD")]
    pub mask_spread: Option<Real>,
    /// Steps between measurements on the held-out samples [default: 20]
    #[arg(long, value_name = "STEPS")]
    pub mask_every: Option<u64>,
    /// Stop after N measurements without a lower loss [default: 3]
    #[arg(long, value_name = "N")]
    pub mask_patience: Option<u64>,
    /// Learn masks for the K best trials of the study, and keep the trial whose masks have the
    /// lowest loss on the held-out samples [apply --study; default: 1]
    #[arg(long, value_name = "K")]
    pub learn_top: Option<usize>,
    /// Folder for the state, saved at every measurement; after a stop the same command resumes
    /// from it, with the same result
    #[arg(long, value_name = "DIR")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub masks_state: Option<PathBuf>,
}

combine!(MaskArgs {
    learn_masks,
    learn_units,
    mask_budget,
    mask_loss,
    mask_text,
    mask_samples,
    mask_tokens,
    mask_held_out,
    mask_batch,
    mask_rate,
    mask_rate_end,
    mask_spread,
    mask_every,
    mask_patience,
    learn_top,
    masks_state,
});

/// Samples and their tokens.
pub const SAMPLES: (usize, usize) = (512, 128);
/// Share of the samples that is held out, as one in so many, and the least.
const HELD_OUT: (usize, usize) = (16, 8);
/// Samples of a step.
const BATCH: usize = 8;
/// First learning rate, and what it falls by.
const RATE: (f64, f64) = (0.05, 10.0);
/// Steps between measurements, and measurements without a gain.
const MEASURE: (u64, u64) = (20, 3);

impl MaskArgs {
    /// Refuses to learn for several trials where there are none.
    ///
    /// # Errors
    /// Then.
    pub fn refuse_top(&self) -> Result<()> {
        match self.learn_top {
            None => Ok(()),
            Some(_) => Err(advised(
                "learn-top: given, but there are no trials of a study to choose from",
                "leave it out, or apply a study: adapruner apply MODEL --study DIR",
            )),
        }
    }

    /// For how many of a study's trials masks are learned.
    ///
    /// # Errors
    /// None, or several without masks or with a state, which is of one learning.
    pub fn top(&self) -> Result<usize> {
        let Some(top) = self.learn_top else { return Ok(1) };
        let refused = if top == 0 {
            "expected at least 1 trial, found 0"
        } else if self.learn_masks.unwrap_or(0) == 0 {
            "given, but no masks are learned"
        } else if top > 1 && self.masks_state.is_some() {
            "the state of --masks-state is that of one trial"
        } else {
            return Ok(top);
        };
        Err(advised(
            format!("learn-top: {refused}"),
            "give --learn-masks STEPS --learn-top K, without --masks-state",
        ))
    }

    /// What is read and written.
    pub fn files(&self, files: Files) -> Files {
        let texts = self.mask_text.iter();
        let files = texts.fold(files, |files, text| files.read("--mask-text", text));
        let states = self.masks_state.iter();
        states.fold(files, |files, state| files.state("--masks-state", state, &FOLDER))
    }

    /// Fills in the defaults; `None` if no masks are to be learned.
    ///
    /// # Errors
    /// No text.
    pub fn resolve(
        &self,
        calibration: &CalibrationArgs,
        eval: &EvalArgs,
    ) -> Result<Option<MaskSettings>> {
        let steps = self.learn_masks.unwrap_or(0);
        if steps == 0 {
            return Ok(None);
        }
        let text = CalibrationArgs {
            calibration: self.mask_text.clone().or_else(|| calibration.calibration.clone()),
            samples: Some(self.mask_samples.unwrap_or(SAMPLES.0)),
            sample_tokens: Some(self.mask_tokens.unwrap_or(SAMPLES.1)),
            ..calibration.clone()
        };
        let Some(samples): Option<CalibrationSettings> = text.resolve(eval)? else {
            return Err(advised(
                "mask-text: missing, and there is no calibration text either",
                "name a text to learn on: --mask-text FILE",
            ));
        };
        let number = |given: Option<Real>, default: f64| given.map_or(default, |real| real.0);
        let rate = number(self.mask_rate, RATE.0);
        let units = self.learn_units.as_deref().unwrap_or(&[Named(GatedUnit::Ffn)]);
        let options = MaskOptions {
            steps,
            units: units.iter().map(|unit| unit.0).collect(),
            budget: self.mask_budget.map_or_else(Default::default, |b| b.0),
            loss: self.mask_loss.map_or_else(Default::default, |l| l.0),
            batch: self.mask_batch.unwrap_or(BATCH),
            rate,
            rate_end: number(self.mask_rate_end, rate / RATE.1),
            spread: number(self.mask_spread, 1.0),
            measure_every: self.mask_every.unwrap_or(MEASURE.0),
            patience: Some(self.mask_patience.unwrap_or(MEASURE.1)),
            seed: samples.seed,
        };
        let held_out = (samples.samples / HELD_OUT.0).max(HELD_OUT.1);
        Ok(Some(MaskSettings {
            held_out: self.mask_held_out.unwrap_or(held_out),
            samples,
            options,
            state: self.masks_state.clone(),
        }))
    }
}
