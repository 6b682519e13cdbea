//! Arguments of depth pruning, also a table of the configuration file.

use adapruner::depth::{DepthSettings, LayerMetric, Layers};
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{combine::combine, failure::advised, typed::Named};

/// Which layers are removed whole.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Depth")]
pub struct DepthArgs {
    /// Remove whole layers: the N cheapest, or the given ones (20,22 or 20-23; 20-20 for one).
    /// They count towards --ratio; without --ratio the other layers stay unchanged. All formats
    /// support the result, because the remaining layers stay alike
    #[arg(long, value_name = "N|LAYERS")]
    pub drop_layers: Option<Named<Layers>>,
    /// Metric that layers are chosen by: influence (how little a layer turns the hidden states,
    /// as in ShortGPT; one pass) or loss (one after the other, each time the layer without which
    /// the loss of calibration samples grows least; takes about as many passes as the model has
    /// layers) [default: influence]
    #[arg(long, value_name = "METRIC")]
    pub drop_layers_by: Option<Named<LayerMetric>>,
}

combine!(DepthArgs { drop_layers, drop_layers_by });

impl DepthArgs {
    /// Whether layers are to be chosen by samples.
    pub fn is_measured(&self) -> bool {
        matches!(self.drop_layers, Some(Named(Layers::Count(_))))
    }

    /// Fills in the defaults; `None` where all layers stay.
    ///
    /// # Errors
    /// A metric where nothing is chosen by it.
    pub fn resolve(&self) -> Result<Option<DepthSettings>> {
        let settings = self.drop_layers.as_ref().map(|Named(layers)| DepthSettings {
            layers: layers.clone(),
            metric: self.drop_layers_by.map_or_else(Default::default, |Named(metric)| metric),
        });
        if self.drop_layers_by.is_some() && !self.is_measured() {
            return Err(advised(
                "drop-layers-by: given, but no layers are chosen by it",
                "say how many layers to remove: --drop-layers N",
            ));
        }
        Ok(settings)
    }
}
