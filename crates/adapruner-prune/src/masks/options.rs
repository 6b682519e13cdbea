//! Options of mask learning.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::error::{Error, Result};

/// Kinds of unit whose gates are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatedUnit {
    /// Feed-forward channels of the layers that the plan cuts there.
    Ffn,
    /// Key-value groups of the layers that lose some, but not all, in the plan.
    KvGroups,
    /// Attention sublayers of the layers that the plan cuts, as far as it keeps their
    /// heads whole or drops them all.
    Sublayers,
}

/// What the hard mask is projected on at every step. The number of units of each kind,
/// so the number of parameters, is the plan's either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskBudget {
    /// Every layer keeps as many units as in the plan.
    #[default]
    PerLayer,
    /// All gated layers are ranked together; each keeps at least one unit, and widths
    /// stay multiples of the plan's.
    Free,
}

/// What a mask is learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskLoss {
    /// Negative log-likelihood of the text.
    #[default]
    Text,
    /// Cross-entropy to the dense model's [`TOP_LOGITS`] most likely tokens.
    Logits,
    /// The outputs of the blocks against the dense model's
    /// ([`HiddenMatch`](adapruner_model::train::HiddenMatch)).
    Hidden,
}

/// Most likely tokens of a position that are taken from the dense model.
pub const TOP_LOGITS: usize = 64;

/// Options of mask learning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskOptions {
    /// Steps of the optimiser.
    pub steps: u64,
    /// Whose gates are learned.
    pub units: BTreeSet<GatedUnit>,
    /// What the hard mask is projected on.
    pub budget: MaskBudget,
    /// What is learned from.
    pub loss: MaskLoss,
    /// Sequences of a step.
    pub batch: usize,
    /// Learning rate of the first step.
    pub rate: f64,
    /// Learning rate that half a cosine leads down to.
    pub rate_end: f64,
    /// Standard deviation of a layer's scores before the first step.
    pub spread: f64,
    /// Steps from one measurement on held-out samples to the next; the last step is
    /// always followed by one.
    pub measure_every: u64,
    /// Measurements without a lower loss that end the learning; `None` for any number.
    pub patience: Option<u64>,
    /// Seed of the order of the samples.
    pub seed: u64,
}

impl MaskOptions {
    /// Refuses invalid options for a number of samples, of which `held_out` are held out.
    ///
    /// # Errors
    /// The first option that is out of range; too few samples.
    pub fn check(&self, samples: usize, held_out: usize) -> Result<()> {
        for (option, count) in [
            ("learn-masks", self.steps),
            ("mask-batch", self.batch as u64),
            ("mask-every", self.measure_every),
            ("mask-patience", self.patience.unwrap_or(1)),
            ("learn-units", self.units.len() as u64),
            ("mask-held-out", held_out as u64),
        ] {
            if count == 0 {
                return refuse(option, "expected at least 1, found 0".into(), None);
            }
        }
        for (option, number) in [
            ("mask-rate", self.rate),
            ("mask-rate-end", self.rate_end),
            ("mask-spread", self.spread),
        ] {
            if !(number > 0.0 && number.is_finite()) {
                return refuse(option, format!("expected a number above 0, found {number}"), None);
            }
        }
        if self.rate_end > self.rate {
            let message =
                format!("expected at most the first rate, {}, found {}", self.rate, self.rate_end);
            return refuse("mask-rate-end", message, None);
        }
        if samples < self.batch.saturating_add(held_out) {
            let message = format!(
                "a step takes {} samples and {held_out} are held out, so at least {} are needed, \
                 found {samples}",
                self.batch,
                self.batch.saturating_add(held_out)
            );
            let hint = "more --mask-samples, or a smaller --mask-batch or --mask-held-out";
            return refuse("mask-samples", message, Some(hint));
        }
        Ok(())
    }
}

pub(super) fn refuse<T>(
    option: &'static str,
    message: String,
    hint: Option<&'static str>,
) -> Result<T> {
    Err(Error::Option { option, message, hint: hint.map(Into::into) })
}

adapruner_choice::choice!(GatedUnit, "unit", {
    Ffn => "ffn",
    KvGroups => "kv-groups",
    Sublayers => "sublayers",
});

adapruner_choice::choice!(MaskBudget, "budget", {
    PerLayer => "per-layer",
    Free => "free",
});

adapruner_choice::choice!(MaskLoss, "loss", {
    Text => "text",
    Logits => "logits",
    Hidden => "hidden",
});
