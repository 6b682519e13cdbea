//! A target size: the smallest cut whose file fits.
//!
//! The size of a file follows from a plan alone ([`Stored::bytes`]), so no weight is read.

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_prune::{Error as PruneError, PlanOptions, PrunePlan, Scores, apply, plan};
use serde::Serialize;

use crate::{
    advice::advised,
    error::{Context, Error, Result},
    outputs::Stored,
};

/// Resolution of the bisection over ratios.
const STEP: f64 = 1e-4;

/// Maximum size of a model as it is written.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// In bytes.
    pub bytes: u64,
    /// Format and type of the written model.
    pub stored: Stored,
}

impl Target {
    /// Whether a model fits without a cut.
    ///
    /// # Errors
    /// A model that cannot be written in this format.
    pub fn holds(&self, model: &Checkpoint) -> Result<bool> {
        Ok(self.stored.bytes(model)? <= self.bytes)
    }

    /// The plan that removes least among those that fit, found by bisection over the ratio.
    /// `None` if the model fits without a cut.
    ///
    /// # Errors
    /// A size that no plan with these options reaches (the message names the smallest one that
    /// is reached); errors of [`plan`].
    pub fn plan(
        &self,
        model: &Checkpoint,
        scores: &Scores,
        options: &PlanOptions,
    ) -> Result<Option<PrunePlan>> {
        if self.holds(model)? {
            return Ok(None);
        }
        let digest = model.digest()?;
        let made = |ratio| self.made(model, (scores, digest), options, ratio);
        let (most, reached) = match made(1.0 - STEP) {
            Ok(found) => (1.0 - STEP, found),
            Err(Error::Prune(PruneError::Unreachable { largest, .. })) if largest > 0.0 => {
                (largest, made(largest)?)
            }
            Err(error) => return Err(error),
        };
        let (mut best, bytes) = reached;
        if bytes > self.bytes {
            return Err(advised(
                format!(
                    "target-size: {} bytes asked, these options reach {bytes} at the least, \
                     without {:.1} % of the parameters",
                    self.bytes,
                    100.0 * most
                ),
                "a smaller type (--gguf-type q4_k_m), a smaller vocabulary (--vocab), fewer layers \
                 (--drop-layers) or fewer protected layers make it smaller still",
            ));
        }
        let (mut least, mut most) = (0.0, most);
        while most - least > STEP {
            let middle = f64::midpoint(least, most);
            match made(middle) {
                Ok((plan, bytes)) if bytes <= self.bytes => (best, most) = (plan, middle),
                // Removes less than one step of width does.
                Ok(_) => least = middle,
                Err(Error::Prune(PruneError::Unreachable { .. })) => least = middle,
                Err(error) => return Err(error),
            }
        }
        Ok(Some(best))
    }

    /// The plan for a ratio and the size of the model that it makes.
    fn made(
        &self,
        model: &Checkpoint,
        (scores, digest): (&Scores, Digest),
        options: &PlanOptions,
        ratio: f64,
    ) -> Result<(PrunePlan, u64)> {
        let options = PlanOptions { ratio, ..options.clone() };
        let plan = plan(scores, &model.config, digest, &options)?;
        let bytes = self.stored.bytes(&apply(model, &plan)?);
        Ok((plan, bytes.context("target-size")?))
    }
}
