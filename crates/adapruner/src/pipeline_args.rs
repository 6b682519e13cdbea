//! The table `pipeline` of the configuration file, and the file that `run
//! --init` writes.

use std::path::{Path, PathBuf};

use adapruner::{
    advice::advised,
    whole::{Pipeline, StageName},
};
use adapruner_checkpoint::ModelConfig;
use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::args::Named;

/// What `run` runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PipelineArgs {
    /// The dense model.
    pub model: Option<PathBuf>,
    /// Folder of everything that is made.
    pub out: Option<PathBuf>,
    /// Stages; all of them where none is named.
    pub stages: Option<Vec<Named<StageName>>>,
    /// Texts to measure on, that no earlier stage sees.
    pub tests: Vec<String>,
}

impl PipelineArgs {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// No model, no folder, stages that do not fit each other.
    pub fn resolve(&self, config: &Path) -> Result<Pipeline> {
        let missing = |what: &str| {
            advised(
                format!("{}: pipeline.{what}: missing", config.display()),
                "adapruner run CONFIG --init MODEL writes a whole file",
            )
        };
        let stages = self.stages.as_ref();
        let pipeline = Pipeline {
            config: config.to_path_buf(),
            model: self.model.clone().ok_or_else(|| missing("model"))?,
            out: self.out.clone().ok_or_else(|| missing("out"))?,
            stages: stages
                .map_or_else(|| StageName::ALL.to_vec(), |s| s.iter().map(|s| s.0).collect()),
            tests: self.tests.clone(),
        };
        pipeline.check()?;
        Ok(pipeline)
    }
}

/// A commented configuration for a model.
pub fn template(model: &Path, config: &ModelConfig) -> String {
    let layers = config.layers.len();
    include_str!("run_template.toml")
        .replace("@MODEL@", &toml::Value::String(model.display().to_string()).to_string())
        .replace("@PARAMETERS@", &format!("{:.0}", config.parameters() as f64 / 1e6))
        .replace("@LAYERS@", &layers.to_string())
        .replace("@CUTOFF@", &config.max_position_embeddings.min(256).to_string())
}
