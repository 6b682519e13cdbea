//! How well losses predict what pruned models can do: correlates losses on texts with
//! accuracies on tasks over models of a study.
//!
//! Trials are chosen over the whole spread of the search's losses, each is
//! pruned to one or several ratios, and every model is measured on the
//! search-evaluation text, on test texts and on tasks. Losses are in nats per
//! predicted token (log-perplexities), accuracies shares of questions.
//!
//! | module | content |
//! |---|---|
//! | [`choose`] | which trials, at which ratios |
//! | [`measure`] | their models, measured one by one and kept |
//! | [`judge`] | correlations, and what they say |
//! | `shown` | all of it as a section of the report |

pub mod choose;
pub mod judge;
pub mod measure;
mod shown;

use std::path::{Path, PathBuf};

use adapruner_eval::zero_shot::Selection;
use serde::{Deserialize, Serialize};

pub use choose::{Wanted, spread, wanted};
pub use judge::{Pair, Verdict, Within};
pub use measure::{Correlate, Figures, Finished, Outcome, Point, Work};

use crate::{
    error::{Context, Result},
    pipeline::TokensRecord,
    search::StudyFolder,
    settings::{RunSettings, TextSettings},
    zero_shot::TaskSettings,
};

/// Version of the form of points.
pub const CORRELATE_VERSION: u32 = 1;
/// Version of the form of correlations; version 1 had intervals by a bootstrap of
/// models, whatever trial they were of.
pub const JUDGED_VERSION: u32 = 2;

/// Settings of `correlate`.
#[derive(Debug, Clone, Serialize)]
pub struct CorrelateSettings {
    /// Where models run.
    pub run: RunSettings,
    /// The study's folder.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub folder: PathBuf,
    /// Which study of it; `None` for the one with the best trial.
    pub study: Option<String>,
    /// The study's search-evaluation text.
    pub text: TextSettings,
    /// Trials that are chosen.
    pub trials: usize,
    /// Ratios that each is pruned to; none for the study's own.
    pub ratios: Vec<f64>,
    /// Texts to measure on besides.
    pub tests: Vec<TextSettings>,
    /// Windows of each of them, spread over it.
    pub test_windows: usize,
    /// The tasks.
    pub tasks: TaskSettings,
    /// Resamples of the intervals, and random permutations.
    pub resamples: usize,
    /// Their seed.
    pub seed: u64,
}

/// Correlations of losses and accuracies: `results/correlate/NAME.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Correlations {
    /// [`JUDGED_VERSION`].
    pub version: u32,
    /// Version of the program.
    pub adapruner: String,
    /// Name of the study.
    pub study: String,
    /// The search-evaluation text.
    pub evaluation: TokensRecord,
    /// The other texts.
    pub tests: Vec<TokensRecord>,
    /// Which questions of each task.
    pub selection: Selection,
    /// The dense model; it is not part of the correlations.
    pub dense: Point,
    /// The pruned models.
    pub points: Vec<Point>,
    /// Every loss against every accuracy.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// Verdicts in words.
    pub sentences: Vec<String>,
    /// Resamples of the intervals, and random permutations.
    pub resamples: usize,
    /// Their seed.
    pub seed: u64,
    /// The command line.
    pub command: String,
}

impl Correlations {
    /// Reads what was found. Correlations of version 1 are computed again from
    /// their points.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another version.
    pub fn read(path: &Path) -> Result<Self> {
        let mut found: serde_json::Value = StudyFolder::read_json(path)?;
        let version = found["version"].as_u64().unwrap_or(0);
        let older = version == 1;
        crate::error::ensure!(
            older || version == u64::from(JUDGED_VERSION),
            "{}: version: expected {JUDGED_VERSION}, found {version}",
            path.display()
        );
        if let Some(fields) = found.as_object_mut().filter(|_| older) {
            fields.remove("pairs");
        }
        let mut found: Self =
            serde_json::from_value(found).with_context(|| path.display().to_string())?;
        if older {
            found.version = JUDGED_VERSION;
            found.pairs = judge::pairs(&found.points, found.resamples, found.seed);
            found.sentences = judge::sentences(&found.pairs);
        }
        Ok(found)
    }
}
