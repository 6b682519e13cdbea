//! `manifest.json`: the inputs and contents of an output, enough to reproduce it.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{
    Checkpoint, Digest, input,
    mapped::MappedFile,
    output::OutputFile,
    sealed::{self, Seal},
};
use adapruner_prune::{BankHeader, PrunePlan};
use adapruner_recover::{data::Counts, train::Outcome};
use serde::{Deserialize, Serialize};

use crate::{
    VERSION,
    allocate::AllocationRecord,
    compensation::CompensationRecord,
    depth::DepthRecord,
    error::{Context, Result},
    experts::ExpertRecord,
    footprint::{Footprint, stored_bytes},
    kv_cache::CacheRecord,
    masks::LearnedRecord,
    passed::PassedRecord,
    pipeline::{Evaluation, TokensRecord},
    search::Configuration,
    speed::SpeedRecord,
    vocabulary::VocabularyRecord,
};

/// File name of the manifest in an output folder.
pub const FILE_NAME: &str = "manifest.json";

/// A model that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Where it was opened.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub path: PathBuf,
    /// Digest of its content.
    pub digest: Digest,
    /// Number of parameters (a tied head counted once).
    pub parameters: u64,
}

impl ModelRecord {
    /// The record of an opened model.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self {
            path: checkpoint.origin.clone(),
            digest: checkpoint.digest()?,
            parameters: checkpoint.config.parameters(),
        })
    }
}

/// The statistics that importances were computed from.
#[derive(Debug, Clone, Serialize)]
pub struct StatisticsRecord {
    /// The calibration samples.
    pub calibration: TokensRecord,
    /// Seed they were drawn with.
    pub seed: u64,
    /// Mean loss of the samples, in nats per predicted token.
    pub mean_loss: f64,
}

impl StatisticsRecord {
    /// Of a bank that was collected on `calibration`.
    pub fn of(header: &BankHeader, calibration: TokensRecord) -> Self {
        let mean_loss = header.losses.iter().sum::<f64>() / header.losses.len() as f64;
        Self { calibration, seed: header.seed, mean_loss }
    }
}

/// Perplexity before and after.
#[derive(Debug, Clone, Serialize)]
pub struct BeforeAfter {
    /// Of the dense model.
    pub before: Evaluation,
    /// Of the pruned model.
    pub after: Evaluation,
}

/// The trial from which a plan was made.
#[derive(Debug, Clone, Serialize)]
pub struct StudyRecord {
    /// Name of the study.
    pub study: String,
    /// Number of the trial.
    pub trial: u64,
    /// Its loss on the search-evaluation text, in nats per predicted token.
    pub loss: f64,
    /// Digest of the search's model.
    pub model_digest: Digest,
    /// The calibration pool.
    pub pool: TokensRecord,
    /// The search-evaluation text.
    pub evaluation: TokensRecord,
    /// The trial's configuration.
    pub configuration: Configuration,
    /// Of several objectives, the point of the front that was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<PointRecord>,
    /// Settings that could not be transferred.
    pub notes: Vec<String>,
}

/// A point of a front, and what it was taken for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointRecord {
    /// What was asked for.
    pub asked: String,
    /// Parameters of its model in the search.
    pub parameters: u64,
    /// Share of all parameters that it removed.
    pub removed: f64,
    /// Bytes of its file in the search, where they were an objective.
    pub bytes: Option<u64>,
}

/// Masks that were learned for a trial of a study.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LearnedTrial {
    /// The trial.
    pub trial: u64,
    /// Its loss in the search.
    pub loss: f64,
    /// The loss of its plan on the held-out samples.
    pub held_out_before: f64,
    /// The loss with the learned masks.
    pub held_out_after: f64,
}

/// Training data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataRecord {
    /// The file's or set's name.
    pub name: String,
    /// Digest of token ids, masks and split.
    pub digest: Digest,
    /// Counts of records by outcome.
    pub counts: Counts,
}

/// A training.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveryRecord {
    /// The training data.
    pub data: DataRecord,
    /// The teacher, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<ModelRecord>,
    /// Number of trained parameters.
    pub learned_parameters: u64,
    /// Its outcome.
    pub outcome: Outcome,
}

/// An adapter that was read.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterRecord {
    /// Its folder.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub path: PathBuf,
    /// Digest of its tensors' file.
    pub digest: Digest,
    /// Its number of parameters.
    pub parameters: u64,
}

/// The inputs and contents of an output.
#[derive(Debug, Clone, Serialize)]
pub struct Manifest {
    /// Version of the program.
    pub adapruner: &'static str,
    /// The subcommand.
    pub command: &'static str,
    /// Its resolved settings.
    pub settings: serde_json::Value,
    /// The model that was read.
    pub model: ModelRecord,
    /// Bytes of its tensors as they are stored.
    pub model_bytes: u64,
    /// Parameters of the model that was written; of a larger model those of its language model.
    pub parameters: u64,
    /// What the model has beside its language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<PassedRecord>,
    /// The statistics behind importances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<StatisticsRecord>,
    /// Which units were kept, by their indices in the model that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PrunePlan>,
    /// How the kept tokens were chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyRecord>,
    /// How the layers that are removed whole were chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<DepthRecord>,
    /// The experts before and after, where some were removed whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertRecord>,
    /// Loss increase from cutting a layer alone, in nats per predicted token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivities: Option<Vec<Option<f64>>>,
    /// How the cut was spread over layers, where that was measured step by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<AllocationRecord>,
    /// How the key-value cache was cut to its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<CacheRecord>,
    /// The speed that was asked for, with what it was predicted by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedRecord>,
    /// What the model takes, where it was pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub footprint: Option<Footprint>,
    /// The learned masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masks: Option<LearnedRecord>,
    /// Results of learning masks for several trials; this model is the one with the lowest loss
    /// after it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learned_trials: Vec<LearnedTrial>,
    /// The compensation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compensation: Option<CompensationRecord>,
    /// The study that the plan comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study: Option<StudyRecord>,
    /// Perplexity before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<BeforeAfter>,
    /// The same on held-out calibration samples, if no evaluation text was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<BeforeAfter>,
    /// The training after pruning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryRecord>,
    /// The adapter that was merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterRecord>,
    /// The files beside this one.
    pub files: Vec<OutputFile>,
    /// Warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Manifest {
    /// A manifest of `command` on `checkpoint` with `settings`, before anything is written.
    ///
    /// # Errors
    /// Where the model's files cannot be read.
    pub fn new(
        command: &'static str,
        settings: &impl Serialize,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        Ok(Self {
            adapruner: VERSION,
            command,
            settings: serde_json::to_value(settings)?,
            model: ModelRecord::of(checkpoint)?,
            model_bytes: stored_bytes(checkpoint),
            parameters: checkpoint.config.parameters(),
            passed: PassedRecord::of(checkpoint),
            statistics: None,
            plan: None,
            vocabulary: None,
            depth: None,
            experts: None,
            sensitivities: None,
            allocation: None,
            kv_cache: None,
            speed: None,
            footprint: None,
            masks: None,
            learned_trials: Vec::new(),
            compensation: None,
            study: None,
            evaluation: None,
            held_out: None,
            recovery: None,
            adapter: None,
            files: Vec::new(),
            warnings: Vec::new(),
        })
    }
}

/// The plan in a file: a plan, or a manifest that holds one.
///
/// # Errors
/// Bytes that are neither, or that were changed since they were written.
pub fn read_plan(path: &Path) -> Result<PrunePlan> {
    plan_of(path, &MappedFile::open_capped(path, input::PLAN)?)
}

/// [`read_plan`] of a file's bytes; `path` is for messages.
///
/// # Errors
/// Those of [`read_plan`].
pub fn plan_of(path: &Path, bytes: &[u8]) -> Result<PrunePlan> {
    if sealed::check(bytes) != Seal::None {
        // A manifest; a plan alone has no seal.
        sealed::from_json::<serde::de::IgnoredAny>(path, bytes)?;
    }
    let held = serde_json::from_slice::<Holder>(bytes).ok().and_then(|holder| holder.plan);
    let plan = match held {
        Some(plan) => PrunePlan::from_json(plan.get().as_bytes()),
        None => PrunePlan::from_json(bytes),
    };
    plan.with_context(|| path.display().to_string())
}

#[derive(serde::Deserialize)]
struct Holder {
    plan: Option<Box<serde_json::value::RawValue>>,
}
