//! Arguments of expert pruning, also a table of the configuration file.

use adapruner::experts::{ExpertSettings, Removal};
use adapruner_prune::ExpertMetric;
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{combine::combine, failure::advised, typed::Named};

/// Which experts of a mixture are removed whole.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Experts")]
pub struct ExpertArgs {
    /// Remove whole experts of every layer of a mixture of experts: so many, or a share of them
    /// (50%, rounded down). Each layer chooses its own; the routers follow, and each token takes as
    /// many experts as before. They count towards --ratio; without --ratio the other experts stay
    /// unchanged. All formats support the result
    #[arg(long, value_name = "N|PERCENT", allow_negative_numbers = true)]
    pub drop_experts: Option<Named<Removal>>,
    /// Metric that experts are chosen by: reap (the mean of router weight times size of the output
    /// over the tokens that take an expert), reap-sum (their sum), frequency (how many tokens take
    /// an expert), taylor (first-order change of the loss without it, by gradients),
    /// reconstruction (sets of experts by how much the layer's output changes without them, as in
    /// "Not All Experts are Equal") or random (the control) [default: reap-sum]
    #[arg(long, value_name = "METRIC")]
    pub drop_experts_by: Option<Named<ExpertMetric>>,
}

combine!(ExpertArgs { drop_experts, drop_experts_by });

impl ExpertArgs {
    /// Whether experts are to be chosen by samples.
    pub fn is_measured(&self) -> bool {
        self.resolve(0).is_ok_and(|settings| settings.is_some_and(|of| of.is_measured()))
    }

    /// Fills in the default; `None` where all experts stay. `seed` is that of the random metric.
    ///
    /// # Errors
    /// A metric where nothing is chosen by it.
    pub fn resolve(&self, seed: u64) -> Result<Option<ExpertSettings>> {
        let settings = self.drop_experts.map(|Named(removed)| ExpertSettings {
            removed,
            metric: self.drop_experts_by.map_or_else(Default::default, |Named(metric)| metric),
            seed,
        });
        if self.drop_experts_by.is_some() && settings.is_none() {
            return Err(advised(
                "drop-experts-by: given, but no experts are chosen by it",
                "say how many experts to remove: --drop-experts 50%",
            ));
        }
        Ok(settings)
    }
}
