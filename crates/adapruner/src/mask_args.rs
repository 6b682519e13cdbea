//! Arguments of learned masks, which the configuration file has as a table too.

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

/// How masks are learned.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Learned masks")]
pub struct MaskArgs {
    /// Learn which units stay, in so many steps: every unit has a score, the best by score
    /// run, exactly as many as the plan keeps, and gradients through a hard mask move the
    /// scores. The plan is where it begins; the step is chosen on samples that are held
    /// out, the plan among them. 0 for none [default: 0; prune: 60, unless --fast is given]
    #[arg(long, value_name = "STEPS")]
    pub learn_masks: Option<u64>,
    /// Units whose masks are learned: ffn (channels), kv-groups (groups, in layers that
    /// lose some), sublayers (which attention sublayers are dropped) [default: ffn]
    #[arg(long, value_name = "UNITS", value_delimiter = ',')]
    pub learn_units: Option<Vec<Named<GatedUnit>>>,
    /// per-layer (every layer keeps as many units as planned) or free (layers exchange
    /// units within the same total) [default: per-layer]
    #[arg(long, value_name = "BUDGET")]
    pub mask_budget: Option<Named<MaskBudget>>,
    /// What is learned from: text (its likelihood), logits (the dense model's 64 most
    /// likely tokens at every position) or hidden (the dense model's block outputs; it
    /// then runs along) [default: text]
    #[arg(long, value_name = "LOSS")]
    pub mask_loss: Option<Named<MaskLoss>>,
    /// Text to learn masks on, as for --text [default: the calibration text]
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub mask_text: Option<PathBuf>,
    /// Number of samples, those that are held out included [default: 512]
    #[arg(long, value_name = "N")]
    pub mask_samples: Option<usize>,
    /// Tokens of such a sample [default: 128]
    #[arg(long, value_name = "TOKENS")]
    pub mask_tokens: Option<usize>,
    /// Samples that are held out to choose the step [default: a sixteenth, at least 8]
    #[arg(long, value_name = "N")]
    pub mask_held_out: Option<usize>,
    /// Samples of a step [default: 8]
    #[arg(long, value_name = "N")]
    pub mask_batch: Option<usize>,
    /// Learning rate of the first step (Adam) [default: 0.05]
    #[arg(long, value_name = "RATE")]
    pub mask_rate: Option<Real>,
    /// Learning rate that half a cosine leads down to [default: a tenth of --mask-rate]
    #[arg(long, value_name = "RATE")]
    pub mask_rate_end: Option<Real>,
    /// Standard deviation of the scores of a layer before the first step: the smaller, the
    /// more units change [default: 1]
    #[arg(long, value_name = "SPREAD")]
    pub mask_spread: Option<Real>,
    /// Steps from one measurement on held-out samples to the next [default: 20]
    #[arg(long, value_name = "STEPS")]
    pub mask_every: Option<u64>,
    /// Stop after N measurements without a lower loss [default: 3]
    #[arg(long, value_name = "N")]
    pub mask_patience: Option<u64>,
    /// Learn masks for the K best trials of the study, and keep the trial whose masks have the
    /// least loss on the held-out samples [apply --study; default: 1]
    #[arg(long, value_name = "K")]
    pub learn_top: Option<usize>,
    /// Folder in which the state is kept at every measurement; after a stop the same
    /// command goes on from it, with the same result
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

    /// Fills in the defaults; `None` where none are to be learned.
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
