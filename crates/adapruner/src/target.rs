//! A target of what the user pays for, bytes or time: the smallest cut that meets it.
//!
//! The size of a file and the predicted speed follow from a plan alone ([`Stored::bytes`],
//! [`Calibration::speedup`](crate::speed::Calibration::speedup)), so no weight is read.

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_prune::{
    Error as PruneError, PlanOptions, PrunePlan, Scores, apply, plan, plan_dropped,
};
use serde::Serialize;

use crate::{
    advice::advised,
    error::{Context, Error, Result},
    outputs::Stored,
    speed::{SpeedOf, SpeedTarget},
};

/// Resolution of the bisection over ratios.
const STEP: f64 = 1e-4;

/// What a model is to meet as it is written.
#[derive(Debug, Clone)]
pub enum Target {
    /// Maximum bytes.
    Size(SizeTarget),
    /// Minimum speedup.
    Speed(Box<SpeedTarget>),
}

/// Maximum size of a model as it is written.
#[derive(Debug, Clone, Serialize)]
pub struct SizeTarget {
    /// In bytes.
    pub bytes: u64,
    /// Format and type of the written model.
    pub stored: Stored,
}

/// As the settings of a manifest say it; what a speed is predicted by has its own place there.
impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Speed {
            speedup: f64,
            #[serde(flatten)]
            of: SpeedOf,
        }
        match self {
            Self::Size(target) => target.serialize(serializer),
            Self::Speed(target) => {
                let of = target.calibration.speed;
                Speed { speedup: target.speedup, of }.serialize(serializer)
            }
        }
    }
}

/// How far a model has come; more is better.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reached {
    Bytes(u64),
    Speedup(f64),
}

impl Target {
    /// What a plan for a model reaches; without a plan the model itself.
    fn reached(&self, model: &Checkpoint, plan: Option<&PrunePlan>) -> Result<Reached> {
        Ok(match self {
            Self::Size(target) => Reached::Bytes(match plan {
                Some(plan) => target.stored.bytes(&apply(model, plan)?).context("target-size")?,
                None => target.stored.bytes(model)?,
            }),
            Self::Speed(target) => Reached::Speedup(match plan {
                Some(plan) => target.calibration.speedup(&plan.pruned_config(&model.config)),
                None => target.calibration.speedup(&model.config),
            }),
        })
    }

    fn is_met_by(&self, reached: Reached) -> bool {
        match (self, reached) {
            (Self::Size(target), Reached::Bytes(bytes)) => bytes <= target.bytes,
            (Self::Speed(target), Reached::Speedup(speedup)) => speedup >= target.speedup,
            (Self::Size(_), Reached::Speedup(_)) | (Self::Speed(_), Reached::Bytes(_)) => false,
        }
    }

    /// Whether a model meets it without a cut.
    ///
    /// # Errors
    /// A model that cannot be written in this format.
    pub fn holds(&self, model: &Checkpoint) -> Result<bool> {
        Ok(self.is_met_by(self.reached(model, None)?))
    }

    /// Nothing is to be removed for it.
    ///
    /// # Errors
    /// A model that cannot be written in this format.
    pub fn met_already(&self, model: &Checkpoint) -> Result<Error> {
        Ok(match self {
            Self::Size(SizeTarget { bytes, stored }) => advised(
                format!(
                    "target-size: {bytes} bytes asked, and the model takes {} as it would be written",
                    stored.bytes(model)?
                ),
                "ask for less, or write it as it is with `adapruner export`",
            ),
            Self::Speed(target) => advised(
                format!(
                    "target-speedup: {} asked, which the model has without a cut",
                    target.speedup
                ),
                "ask for more",
            ),
        })
    }

    /// The plan that removes least among those that meet it, found by bisection over the ratio;
    /// what the options drop by name goes in any case. `None` if the model meets it without a cut.
    ///
    /// # Errors
    /// A target that no plan with these options reaches (the message says what is reached);
    /// errors of [`plan()`].
    pub fn plan(
        &self,
        model: &Checkpoint,
        scores: &Scores,
        options: &PlanOptions,
    ) -> Result<Option<PrunePlan>> {
        let digest = model.digest()?;
        let named = plan_dropped(scores, &model.config, digest, options)?;
        if self.is_met_by(self.reached(model, named.as_ref())?) {
            return Ok(named);
        }
        let made = |ratio| self.made(model, (scores, digest), options, ratio);
        let (most, found) = match made(1.0 - STEP) {
            Ok(found) => (1.0 - STEP, found),
            Err(Error::Prune(PruneError::Unreachable { largest, .. })) if largest > 0.0 => {
                (largest, made(largest)?)
            }
            Err(error) => return Err(error),
        };
        let (mut best, reached) = found;
        if !self.is_met_by(reached) {
            return Err(self.unreachable(reached, most));
        }
        let mut least = named.map_or(0.0, |named| named.reached_ratio);
        let mut most = most;
        while most - least > STEP {
            let middle = f64::midpoint(least, most);
            match made(middle) {
                Ok((plan, reached)) if self.is_met_by(reached) => (best, most) = (plan, middle),
                // Removes less than one step of width does.
                Ok(_) => least = middle,
                Err(Error::Prune(PruneError::Unreachable { .. })) => least = middle,
                Err(error) => return Err(error),
            }
        }
        Ok(Some(best))
    }

    fn unreachable(&self, reached: Reached, most: f64) -> Error {
        let without = format!("without {:.1} % of the parameters", 100.0 * most);
        match (self, reached) {
            (Self::Size(SizeTarget { bytes, .. }), Reached::Bytes(reached)) => advised(
                format!(
                    "target-size: {bytes} bytes asked, these options reach {reached} at the \
                     least, {without}"
                ),
                "a smaller type (--gguf-type q4_k_m), a smaller vocabulary (--vocab), fewer layers \
                 (--drop-layers) or fewer protected layers make it smaller still",
            ),
            (Self::Speed(target), Reached::Speedup(reached)) => {
                let SpeedTarget { speedup, calibration } = &**target;
                advised(
                    format!(
                        "target-speedup: {speedup} asked for {}, these options reach {reached:.2} \
                         at the most, {without}",
                        calibration.speed
                    ),
                    "fewer layers (--drop-layers N), attention too (--attention-share free), a \
                     smaller vocabulary (--vocab) or fewer protected layers (--protect 0,0) make it \
                     faster still",
                )
            }
            (Self::Size(_), Reached::Speedup(_)) | (Self::Speed(_), Reached::Bytes(_)) => {
                Error::refused("target: measured in another unit (a bug: please report it)")
            }
        }
    }

    /// The plan for a ratio and what it reaches.
    fn made(
        &self,
        model: &Checkpoint,
        (scores, digest): (&Scores, Digest),
        options: &PlanOptions,
        ratio: f64,
    ) -> Result<(PrunePlan, Reached)> {
        let options = PlanOptions { ratio, ..options.clone() };
        let plan = plan(scores, &model.config, digest, &options)?;
        let reached = self.reached(model, Some(&plan))?;
        Ok((plan, reached))
    }
}
