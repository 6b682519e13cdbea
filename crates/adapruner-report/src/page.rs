//! The contents of a page: plain data, read from JSON or built directly.
//!
//! JSON has no NaN and no infinities: serde_json writes them as `null`, and a
//! `null` is read back as NaN here. Lists and facts that a file lacks are
//! empty; the page leaves their sections out.

use serde::{Deserialize, Serialize};

/// Everything that one page shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The headline.
    pub title: String,
    /// The program's version.
    pub version: String,
    /// The shell command that reproduces it.
    pub command: String,
    /// When the page was made (ISO 8601).
    pub created: String,
    /// The model that was pruned.
    pub model: ModelFacts,
    /// The texts that were used, each with what it was used for.
    #[serde(default)]
    pub texts: Vec<TextFacts>,
    /// The searches, with all their trials.
    #[serde(default)]
    pub runs: Vec<Run>,
    /// How much each parameter explains of the loss.
    #[serde(default)]
    pub importances: Vec<Importance>,
    /// The best trial of all runs.
    #[serde(default)]
    pub best: Option<Best>,
    /// Perplexities on the test texts, before and after pruning.
    #[serde(default)]
    pub measured: Vec<Measured>,
    /// The searches side by side.
    #[serde(default)]
    pub comparison: Vec<ArmRow>,
    /// The resulting models side by side.
    #[serde(default)]
    pub models: Option<Models>,
    /// Correlations of losses and accuracies.
    #[serde(default)]
    pub correlation: Option<Correlations>,
    /// The training after pruning.
    #[serde(default)]
    pub recovery: Option<Recovery>,
    /// The calibration pool.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// The widths of every layer.
    #[serde(default)]
    pub layers: Vec<LayerRow>,
    /// Warnings.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What each phase cost.
    #[serde(default)]
    pub costs: Vec<CostRow>,
    /// What the naive loop (a backward pass in every trial, every evaluation
    /// in full) would have cost.
    #[serde(default)]
    pub naive: Option<CostRow>,
    /// Peak memory in bytes.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
}

/// The model that was pruned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Where it was read from.
    pub path: String,
    /// The digest of its weights.
    pub digest: String,
    /// Parameters before pruning.
    pub parameters: u64,
    /// Parameters after pruning, if a pruned model was made.
    #[serde(default)]
    pub parameters_after: Option<u64>,
    /// Share of all parameters that was to be removed, 0 to 1.
    #[serde(with = "nullable")]
    pub ratio: f64,
    /// `per-layer` or `uniform`.
    pub layout: String,
}

/// One text and what it was used for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextFacts {
    /// `calibration pool`, `search evaluation` or `test`.
    pub role: String,
    /// Its name.
    pub name: String,
    /// How many windows of it were used.
    pub windows: usize,
    /// Tokens in a window.
    pub window: usize,
    /// The digest of its tokens.
    pub tokens_digest: String,
}

/// One search: a sampler with a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its name, as `tpe joint, seed 1`.
    pub label: String,
    /// What runs with other seeds share: `joint`, `random`, `data only`, …
    pub group: String,
    /// Its trials.
    pub trials: Vec<TrialPoint>,
}

/// One trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialPoint {
    /// Its number within the run.
    pub number: u64,
    /// How it ended.
    pub state: State,
    /// Loss on the search-evaluation text, in nats per predicted token; of a
    /// pruned trial that of the chunks it got to.
    pub value: Option<f64>,
    /// Seconds from the run's beginning to the trial's end.
    #[serde(with = "nullable")]
    pub seconds: f64,
    /// Its parameters by name.
    #[serde(default)]
    pub values: Vec<(String, Value)>,
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Evaluated in full.
    Complete,
    /// Stopped early because it was hopeless.
    Pruned,
    /// Its configuration cannot be had: a budget or a minimum forbids it.
    Infeasible,
    /// Ended by an error.
    Failed,
    /// Not ended yet.
    Running,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A float or an integer.
    Number(#[serde(with = "nullable")] f64),
    /// One of several named choices.
    Text(String),
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// How much one parameter explains of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Importance {
    /// The parameter.
    pub name: String,
    /// Its share, 0 to 1.
    #[serde(with = "nullable")]
    pub share: f64,
}

/// The best trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The label of its run.
    pub run: String,
    /// Its number within the run.
    pub number: u64,
    /// Its loss on the search-evaluation text, in nats per predicted token.
    #[serde(with = "nullable")]
    pub loss: f64,
    /// The same as a perplexity.
    #[serde(with = "nullable")]
    pub perplexity: f64,
    /// Its parameters, by name, as they are to be read.
    pub values: Vec<(String, String)>,
}

/// Perplexity on one test text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The text.
    pub text: String,
    /// How many windows of it.
    pub windows: usize,
    /// Tokens in a window.
    pub window: usize,
    /// Perplexity of the model as it was.
    #[serde(with = "nullable")]
    pub dense: f64,
    /// Perplexity of the pruned model.
    #[serde(with = "nullable")]
    pub pruned: f64,
    /// Bits per byte of the model as it was; none where it was not measured.
    #[serde(default)]
    pub dense_bits_per_byte: Option<f64>,
    /// Bits per byte of the pruned model; none where it was not measured.
    #[serde(default)]
    pub pruned_bits_per_byte: Option<f64>,
}

/// One kind of search, over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmRow {
    /// Its name.
    pub arm: String,
    /// With how many seeds it ran.
    pub seeds: usize,
    /// Trials of each seed.
    pub trials: usize,
    /// Median over the seeds of each seed's best loss, in nats per predicted
    /// token.
    #[serde(with = "nullable")]
    pub median: f64,
    /// The least of them.
    #[serde(with = "nullable")]
    pub low: f64,
    /// The largest of them.
    #[serde(with = "nullable")]
    pub high: f64,
    /// What the best trials come to on the test texts.
    #[serde(default)]
    pub tests: Vec<TestMedian>,
    /// It against each other search.
    #[serde(default)]
    pub trials_to_match: Vec<TrialsToMatch>,
}

/// Perplexity on one test text, in the median over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestMedian {
    /// The text.
    pub text: String,
    /// Median perplexity of the seeds' best trials.
    #[serde(with = "nullable")]
    pub perplexity: f64,
}

/// A search against another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialsToMatch {
    /// The other search.
    pub other: String,
    /// Trials until the median over seeds reached the other's final median; none
    /// if it never did.
    pub trials: Option<u64>,
    /// What the ranges over seeds show of the two, plainly.
    #[serde(default)]
    pub shown: String,
}

/// Models side by side, each compared with the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Models {
    /// Their names.
    pub names: Vec<String>,
    /// The last model beside the first, one figure a tile: the header of the page.
    #[serde(default)]
    pub verdict: Vec<Tile>,
    /// Size against quality; none where no quality was measured.
    #[serde(default)]
    pub trade: Option<Trade>,
    /// Rows of figures: what it is, then a cell for each model.
    pub figures: Vec<Vec<String>>,
    /// Headings of the differences.
    pub difference_headings: Vec<String>,
    /// Differences from the first model, a row for each figure and model.
    pub differences: Vec<Vec<String>>,
    /// What the reader must know of them.
    pub notes: Vec<String>,
}

/// A figure that the reader came for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// What it is of.
    pub above: String,
    /// The figure.
    pub number: String,
    /// How it was measured, or what it comes to.
    pub below: String,
}

/// What models take against how good they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trade {
    /// What the quality is, with its text; lower is better.
    pub quality: String,
    /// The models, in the order of their names.
    pub points: Vec<TradePoint>,
}

/// A model of a [`Trade`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TradePoint {
    /// Its name.
    pub name: String,
    /// Bytes of its tensors as they are stored.
    #[serde(with = "nullable")]
    pub bytes: f64,
    /// Its quality; lower is better.
    #[serde(with = "nullable")]
    pub quality: f64,
}

/// Correlations of losses and accuracies of pruned models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Correlations {
    /// What they say, plainly.
    pub sentences: Vec<String>,
    /// The models.
    pub points: Vec<CorrelationPoint>,
    /// Every loss against every accuracy.
    pub rows: Vec<CorrelationRow>,
    /// Resamples of the intervals of clusters.
    pub resamples: usize,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CorrelationPoint {
    /// Share of all parameters that was removed, 0 to 1; none of the model as it
    /// was.
    pub ratio: Option<f64>,
    /// Losses by name, in nats per predicted token.
    pub losses: Vec<(String, f64)>,
    /// Accuracies by name, 0 to 1.
    pub accuracies: Vec<(String, f64)>,
}

/// A loss against an accuracy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CorrelationRow {
    /// The loss.
    pub loss: String,
    /// The accuracy.
    pub accuracy: String,
    /// Of the models of one ratio alone; none of all.
    pub ratio: Option<f64>,
    /// Models.
    pub points: usize,
    /// Trials that they come from; models of one trial depend on each other.
    #[serde(default)]
    pub trials: usize,
    /// Correlation of ranks.
    pub spearman: Estimate,
    /// Linear correlation.
    pub pearson: Estimate,
    /// The largest correlation that the accuracies' errors leave room for.
    pub ceiling: Option<f64>,
    /// What it says, as `good` or `poor`; empty within a ratio.
    pub verdict: String,
}

/// A coefficient and its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The coefficient, where it is defined.
    pub value: Option<f64>,
    /// Lower and upper end of the 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Two-sided p of a permutation test of no association.
    #[serde(default)]
    pub p: Option<f64>,
}

/// A training after pruning. Losses are nats per learned token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Folder of what it made.
    pub path: String,
    /// What was learned, as `LoRA of rank 8`.
    pub method: String,
    /// Numbers that were learned.
    pub learned_parameters: u64,
    /// The data's name.
    pub data: String,
    /// Digest of its tokens, of what of them is learned and of the split.
    pub data_digest: String,
    /// Sequences that were trained on.
    pub sequences: usize,
    /// Tokens of theirs that are learned.
    pub learned_tokens: u64,
    /// Sequences kept for validation.
    pub validation_sequences: usize,
    /// Tokens of theirs that count.
    pub validation_tokens: u64,
    /// The model that was learned from besides.
    #[serde(default)]
    pub teacher: Option<String>,
    /// How it ended.
    pub ended: String,
    /// Tokens that were run.
    pub tokens: u64,
    /// Wall-clock seconds.
    #[serde(with = "nullable")]
    pub seconds: f64,
    /// The step whose parameters were kept.
    pub kept_step: u64,
    /// Validation loss before the first step.
    #[serde(default)]
    pub validation_before: Option<f64>,
    /// The best validation.
    #[serde(default)]
    pub best: Option<BestValidation>,
    /// Every step.
    #[serde(default)]
    pub steps: Vec<TrainingStep>,
}

/// The best validation of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BestValidation {
    /// After which step; 0 is before the first.
    pub step: u64,
    /// Its loss.
    #[serde(with = "nullable")]
    pub loss: f64,
}

/// One step of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingStep {
    /// Counted from 1.
    pub step: u64,
    /// The whole loss of its sequences.
    #[serde(with = "nullable")]
    pub loss: f64,
    /// Of it the teacher's probabilities, with their weight.
    #[serde(default)]
    pub teacher_loss: Option<f64>,
    /// Of it the teacher's hidden states, with their weight.
    #[serde(default)]
    pub hidden_loss: Option<f64>,
    /// Validation loss after it, where it was measured.
    #[serde(default)]
    pub validation_loss: Option<f64>,
    /// Learning rate.
    #[serde(with = "nullable")]
    pub learning_rate: f64,
}

/// One sample of the calibration pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its index in the pool.
    pub index: usize,
    /// Where it comes from.
    pub source: String,
    /// What it says.
    pub text: String,
    /// The dense model's loss on it, in nats per predicted token.
    #[serde(with = "nullable")]
    pub loss: f64,
    /// What choosing it does to a trial's loss, in nats; negative is good.
    #[serde(default)]
    pub influence: Option<f64>,
    /// The standard deviation of the influence, in nats.
    #[serde(default)]
    pub deviation: Option<f64>,
    /// Whether the best trial uses it.
    pub chosen: bool,
}

/// The widths of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRow {
    /// Its index, from 0.
    pub layer: usize,
    /// Query heads.
    pub query_heads: Width,
    /// Key-value heads; none kept means that attention was dropped.
    pub kv_heads: Width,
    /// Feed-forward channels.
    pub ffn: Width,
}

/// How wide something was and is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Width {
    /// Before pruning.
    pub before: usize,
    /// After it.
    pub kept: usize,
}

/// What one phase cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostRow {
    /// Its name.
    pub phase: String,
    /// Wall-clock seconds.
    #[serde(with = "nullable")]
    pub seconds: f64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Floating-point operations.
    #[serde(with = "nullable")]
    pub flops: f64,
}

/// Floats that may be absent from JSON: `null` is NaN.
mod nullable {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(*value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
    }
}
