//! Arguments of the depth, which the configuration file has as a table too.

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
    /// Remove whole layers: N of them, the cheapest ones, or those that are named (20,22 or
    /// 20-23; 20-20 for one). What this removes counts towards --ratio; without --ratio the
    /// other layers stay as they are. All formats hold the result, since layers stay alike
    #[arg(long, value_name = "N|LAYERS")]
    pub drop_layers: Option<Named<Layers>>,
    /// What layers are chosen by: loss (one after the other, each time the one without which
    /// the loss of calibration samples grows least; takes about as many passes as the model has
    /// layers) or influence (those that turn the stream least, as ShortGPT does; one pass)
    /// [default: loss; with --fast: influence]
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
