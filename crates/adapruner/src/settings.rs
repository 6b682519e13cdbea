//! Resolved, validated settings of a stage, as written into the manifest.

use std::{fmt, path::PathBuf};

use adapruner_checkpoint::{Checkpoint, text::TextOptions};
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{DTypeChoice, DeviceChoice, Error as ModelError, Placement};
use adapruner_prune::{Form, Importance, PlanOptions, Reduction, masks::MaskOptions};
use serde::Serialize;

use crate::{
    depth::DepthSettings,
    experts::ExpertSettings,
    kv_cache::{CacheBy, CacheTarget},
    outputs::{OutputSettings, Stored},
    target::Target,
    vocabulary::VocabularySettings,
};

/// Where and in which number type models run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RunSettings {
    /// The device.
    #[serde(serialize_with = "display")]
    pub device: DeviceChoice,
    /// Type of the weights while a model runs.
    #[serde(serialize_with = "display")]
    pub dtype: DTypeChoice,
    /// Precision of f32 matrix multiplication.
    #[serde(serialize_with = "display")]
    pub matmul_precision: MatmulPrecision,
    /// Threads; `None` for one per core.
    pub threads: Option<usize>,
}

impl RunSettings {
    /// Where and in which type `models` run together.
    ///
    /// # Errors
    /// A device that was not compiled in or is not there.
    pub fn placement<'a>(
        &self,
        models: impl IntoIterator<Item = &'a Checkpoint>,
    ) -> Result<Placement, ModelError> {
        Placement::resolve(self.device, self.dtype, models)
    }

    /// How a result is measured: where it is written in f32, `auto` is f32, so that matrices
    /// which were computed anew count as they are written.
    pub fn of_written(self, stored: &Stored) -> Self {
        let dtype = match self.dtype {
            DTypeChoice::Auto if stored.all_f32() => DTypeChoice::F32,
            given @ (DTypeChoice::Auto | DTypeChoice::F32 | DTypeChoice::Bf16) => given,
        };
        Self { dtype, ..self }
    }
}

fn display<T: fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A text and how it is read.
#[derive(Debug, Clone, Serialize)]
pub struct TextSettings {
    /// A file or a named set.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub text: PathBuf,
    /// Field or column of the text, where records have several.
    pub field: Option<String>,
    /// Folder in which named sets are looked for.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub data_dir: Option<PathBuf>,
}

impl TextSettings {
    /// As the reader takes them.
    pub fn options(&self) -> TextOptions {
        TextOptions { field: self.field.clone(), data_dir: self.data_dir.clone(), split: None }
    }
}

/// A text to measure a model on.
#[derive(Debug, Clone, Serialize)]
pub struct EvalSettings {
    /// The text.
    #[serde(flatten)]
    pub text: TextSettings,
    /// `T`, tokens of a window.
    pub window: usize,
    /// Number of first windows to measure; `None` for all.
    pub limit: Option<usize>,
    /// Tokens that run together; `None` to choose from memory.
    pub batch_tokens: Option<usize>,
}

/// The calibration set.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrationSettings {
    /// The text it is drawn from.
    #[serde(flatten)]
    pub text: TextSettings,
    /// Number of samples.
    pub samples: usize,
    /// Tokens of a sample.
    pub sample_tokens: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens that run together; `None` to choose from memory.
    pub batch_tokens: Option<usize>,
    /// Memory limit in bytes for collecting statistics; `None` for the machine's free memory.
    pub memory: Option<u64>,
}

/// How the remaining weights compensate for the removed ones.
#[derive(Debug, Clone, Serialize)]
pub struct CompensationSettings {
    /// The samples that are fitted on.
    #[serde(flatten)]
    pub samples: CalibrationSettings,
    /// What is fitted, and how.
    pub form: Form,
}

/// How the units that stay are learned.
#[derive(Debug, Clone, Serialize)]
pub struct MaskSettings {
    /// The samples, including the held-out ones.
    #[serde(flatten)]
    pub samples: CalibrationSettings,
    /// How many of them are held out.
    pub held_out: usize,
    /// Options of learning.
    pub options: MaskOptions,
    /// Folder of its state.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub state: Option<PathBuf>,
}

/// How units are scored.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ScoreSettings {
    /// The measure.
    pub importance: Importance,
    /// How the vectors of a unit become one number.
    pub reduction: Reduction,
}

/// The recipe for options of `prune` that are not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The best measured result within minutes.
    #[default]
    Default,
    /// The best result from one forward pass, without gradients.
    Fast,
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Fast => "fast",
        })
    }
}

/// What a recipe chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// The recipe.
    pub recipe: Recipe,
    /// The options it filled in, as they can be typed.
    pub options: Vec<String>,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.recipe)?;
        if !self.options.is_empty() {
            write!(f, ": {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

/// Everything that `prune` does.
#[derive(Debug, Clone, Serialize)]
pub struct PruneSettings {
    /// What the recipe filled in; the settings below include it.
    pub recipe: Chosen,
    /// Where models run.
    pub run: RunSettings,
    /// The calibration set, for importances that need one.
    pub calibration: Option<CalibrationSettings>,
    /// Statistics file: read if it exists, otherwise written.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub statistics: Option<PathBuf>,
    /// How units are scored.
    pub score: ScoreSettings,
    /// Seed of the random control.
    pub seed: u64,
    /// What is removed.
    pub plan: PlanOptions,
    /// Maximum bytes or minimum speedup of the result, if that decides the ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The share of the key-value cache that may stay, if not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<CacheTarget>,
    /// On how many samples losses are measured to spread the cut over layers by, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<usize>,
    /// Exponent of layer sensitivities, if they are used.
    pub sensitivity: Option<f64>,
    /// Learned masks, if any.
    pub masks: Option<MaskSettings>,
    /// Compensation, if any.
    pub compensation: Option<CompensationSettings>,
    /// A text to measure on before and after.
    pub eval: Option<EvalSettings>,
    /// Whether that text may share passages with the calibration set.
    pub allow_overlap: bool,
    /// Which tokens stay, unless all do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularySettings>,
    /// Which layers are removed whole, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<DepthSettings>,
    /// How many experts are removed whole, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertSettings>,
    /// What is written.
    pub output: Option<OutputSettings>,
}

impl PruneSettings {
    /// Whether whole tokens, layers or experts go.
    pub fn reduces(&self) -> bool {
        self.vocabulary.is_some() || self.depth.is_some() || self.experts.is_some()
    }

    /// Whether units are cut: by a ratio, or for the key-value cache.
    pub fn cuts(&self) -> bool {
        self.plan.ratio != 0.0 || self.kv_cache.is_some()
    }

    /// Whether samples are needed to choose the layers, experts or attention sublayers that go.
    pub fn measures_parts(&self) -> bool {
        self.kv_cache.is_some_and(|of| of.by == CacheBy::Loss)
            || self.depth.as_ref().is_some_and(DepthSettings::is_measured)
            || self.experts.as_ref().is_some_and(ExpertSettings::is_measured)
    }
}

/// Sequences to sample from a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SampleSettings {
    /// Number of sequences.
    pub samples: usize,
    /// Tokens of a sequence.
    pub sample_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Seed of the draws.
    pub seed: u64,
}
