//! `search.json`: the inputs of a search, so that a resumed search is the same.

use std::{collections::BTreeMap, path::Path};

use adapruner_checkpoint::Digest;
use adapruner_kernels::MatmulPrecision;
use adapruner_prune::{KvMode, Layout, PlanOptions};
use serde::{Deserialize, Serialize};

use super::{
    folder::StudyFolder,
    front::{FrontRecord, Quantity},
    objective::Cost,
};
use crate::{
    error::{Result, bail, ensure},
    manifest::ModelRecord,
    pipeline::TokensRecord,
    speed::Calibration,
};

/// Version of the format of `search.json`.
pub const RECORD_VERSION: u32 = 1;

/// What all studies of a folder share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Version of the program.
    pub adapruner: String,
    /// The model.
    pub model: ModelRecord,
    /// Layers of the model.
    pub layers: usize,
    /// The calibration pool.
    pub pool: TokensRecord,
    /// Seed that the pool was drawn with.
    pub pool_seed: u64,
    /// The search-evaluation text.
    pub evaluation: TokensRecord,
    /// Windows of a chunk.
    pub chunk: usize,
    /// Type of the weights while models run.
    pub dtype: String,
    /// Precision of f32 matrix multiplication; studies that are older than the choice have the
    /// highest precision.
    #[serde(default = "highest")]
    pub matmul_precision: String,
    /// Share of all parameters to remove.
    pub ratio: f64,
    /// Several objectives; then the ratio is the largest that is searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front: Option<FrontRecord>,
    /// Whether layers may differ.
    pub layout: Layout,
    /// What changed feed-forward widths are multiples of.
    pub multiple_of: usize,
    /// How heads are removed.
    pub kv_mode: KvMode,
    /// Digest of `pool.jsonl`; studies of before version 0.2 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_file: Option<Digest>,
    /// What predicts the seconds of trials, where latency is an objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Cost of the bank; `None` while it is being collected.
    pub bank: Option<Cost>,
    /// What was measured before the first trial; `None` while that is under way.
    pub prepared: Option<Prepared>,
}

/// Name of the matrix multiplication precision.
const PRECISION: &str = "matmul-precision";
/// Name of the objectives.
const OBJECTIVES: &str = "list of objectives";
/// Name of how a model is written whose bytes are an objective.
const WRITTEN: &str = "written file";
/// Name of the pass whose seconds are an objective.
const TIMED: &str = "timed pass";

fn highest() -> String {
    MatmulPrecision::Highest.to_string()
}

/// What was measured once, before the first trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// Layers in the order in which their attention sublayers are best removed,
    /// each with what the loss on samples of the pool gains when it goes after
    /// those before it, in nats per predicted token.
    pub removable_attention: Vec<(usize, f64)>,
    /// Loss of the dense model on each chunk, in nats per predicted token.
    pub dense_losses: Vec<f64>,
    /// Cost of finding that order.
    pub attention: Cost,
    /// Cost of the dense model's losses and of the leading layers' activations.
    pub dense: Cost,
}

impl SearchRecord {
    /// Precision of products of the study in a folder; none where no study can be read.
    pub fn precision_in(folder: &Path) -> Option<MatmulPrecision> {
        let folder = StudyFolder::open(folder).ok()?;
        Self::read(&folder.record()).ok()?.matmul_precision.parse().ok()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another version.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let name = path.display();
        let Version { version } = StudyFolder::read_json(path)?;
        ensure!(
            version == RECORD_VERSION,
            "{name}: expected version {RECORD_VERSION}, found version {version}"
        );
        let record: Self = StudyFolder::read_json(path)?;
        if let Some(prepared) = &record.prepared {
            let (losses, windows) = (prepared.dense_losses.len(), record.evaluation.windows);
            let chunks = windows.div_ceil(record.chunk.max(1));
            ensure!(
                losses == chunks,
                "{name}: expected the dense model's losses on {chunks} chunks, found {losses}"
            );
            let layers = prepared.removable_attention.iter().map(|(layer, _)| *layer);
            if let Some(layer) = layers.filter(|layer| *layer >= record.layers).max() {
                bail!("{name}: attention of layer {layer}, of {} layers", record.layers);
            }
        }
        Ok(record)
    }

    /// The part that must agree between all workers of a study: digests and settings, without
    /// paths and measurements.
    pub fn identity(&self) -> BTreeMap<&'static str, String> {
        let digest = |digest: &Digest| digest.to_string();
        let mut identity = BTreeMap::from([
            ("model digest", digest(&self.model.digest)),
            ("pool digest", digest(&self.pool.tokens_digest)),
            ("pool seed", self.pool_seed.to_string()),
            ("evaluation text digest", digest(&self.evaluation.tokens_digest)),
            ("chunk", self.chunk.to_string()),
            ("dtype", self.dtype.clone()),
            ("ratio", self.ratio.to_string()),
            ("layout", self.layout.to_string()),
            ("multiple-of", self.multiple_of.to_string()),
            ("kv-mode", self.kv_mode.to_string()),
        ]);
        if let Some(front) = &self.front {
            let (least, most) = front.ratios;
            identity.insert("ratio", format!("{least}..{most}"));
            let names: Vec<&str> = front.objectives.iter().map(|of| of.name()).collect();
            identity.insert(OBJECTIVES, names.join(","));
            identity.extend(front.written.clone().map(|written| (WRITTEN, written)));
            identity.extend(front.speed.map(|speed| (TIMED, speed.to_string())));
        }
        // Studies that are older than the choice say nothing of it.
        if self.matmul_precision != highest() {
            identity.insert(PRECISION, self.matmul_precision.clone());
        }
        identity
    }

    /// The first difference between this record and another for the same folder.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let [then, now] = [self, now].map(|record| {
            let mut identity = record.identity();
            identity.entry(PRECISION).or_insert_with(highest);
            identity.entry(OBJECTIVES).or_insert_with(|| Quantity::Loss.to_string());
            identity.entry(WRITTEN).or_insert_with(|| "not measured".to_owned());
            identity.entry(TIMED).or_insert_with(|| "none".to_owned());
            identity
        });
        let pairs = then.into_iter().zip(now.into_values());
        let differing = pairs.filter(|((_, then), now)| then != now);
        differing.map(|((what, then), now)| Difference { what, then, now }).collect()
    }

    /// Whether the statistics of another record can be reused: same model, samples and method.
    pub fn shares_statistics(&self, other: &Self) -> bool {
        let of = |record: &Self| {
            (
                record.model.digest,
                record.pool.tokens_digest,
                record.pool_seed,
                record.dtype.clone(),
                record.matmul_precision.clone(),
            )
        };
        of(self) == of(other)
    }

    /// Predicted seconds of a pass of the dense model, where they are an objective.
    pub fn dense_seconds(&self) -> Option<f64> {
        self.calibration.as_ref().map(Calibration::dense_seconds)
    }

    /// Plan options that all trials share.
    pub fn plan_options(&self) -> PlanOptions {
        PlanOptions {
            layout: self.layout,
            multiple_of: self.multiple_of,
            kv_mode: self.kv_mode,
            ..PlanOptions::new(self.ratio)
        }
    }
}

impl Prepared {
    /// Layers in the order in which their attention sublayers are best removed.
    pub fn cheapest(&self) -> Vec<usize> {
        self.removable_attention.iter().map(|(layer, _)| *layer).collect()
    }
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub what: &'static str,
    /// As the study has it.
    pub then: String,
    /// As requested now.
    pub now: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} was {}, now {}", self.what, self.then, self.now)
    }
}
