//! The table `pipeline` of the configuration file, and the file that `run
//! --init` writes.

use std::path::{Path, PathBuf};

use adapruner::{
    outputs::Format,
    whole::{Pipeline, StageName},
};
use adapruner_checkpoint::ModelConfig;
use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{config_file::ConfigFile, failure::advised, typed::Named};

/// What `run` runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PipelineArgs {
    /// The dense model.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub model: Option<PathBuf>,
    /// Folder of all outputs.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub out: Option<PathBuf>,
    /// Stages; all of them by default.
    pub stages: Option<Vec<Named<StageName>>>,
    /// Test texts, which no earlier stage may see.
    pub tests: Vec<String>,
    /// Accept that earlier stages see passages of these texts.
    pub allow_overlap: bool,
    /// Tasks to evaluate.
    pub tasks: Vec<String>,
    /// Windows of each text and questions of each task; all by default.
    pub limit: Option<usize>,
}

impl PipelineArgs {
    /// Fills in the defaults, from the file's other tables if they have the value.
    ///
    /// # Errors
    /// No model, no folder, stages that do not fit each other.
    pub fn resolve(&self, config: &Path, file: &ConfigFile) -> Result<Pipeline> {
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
            allow_overlap: self.allow_overlap,
            tasks: self.tasks.clone(),
            limit: self.limit,
            window: file.eval.window,
            data_dir: file.eval.data_dir.clone(),
            run: file.run.arguments(),
            // Adapters alone are no model that a later stage could open.
            formats: file.output.format.as_deref().map_or_else(
                || Format::Hf.to_string(),
                |formats| {
                    let names: Vec<String> = formats.iter().map(|f| f.0.to_string()).collect();
                    names.join(",")
                },
            ),
        };
        pipeline.check()?;
        let several = file.search.objectives.as_ref().is_some_and(|of| of.len() > 1);
        if several && pipeline.stages.contains(&StageName::Search) {
            return Err(advised(
                format!(
                    "{}: search.objectives: a run prunes by the best trial, and several \
                     objectives have none",
                    config.display()
                ),
                "search alone (adapruner search --objectives …), then apply --study DIR \
                 --target-params N and recover the result",
            ));
        }
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
        .replace("@CUTOFF@", &config.longest().min(256).to_string())
}
