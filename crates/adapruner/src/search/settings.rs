//! Settings of a search.

use std::path::PathBuf;

use adapruner_prune::PlanOptions;
use serde::{Deserialize, Serialize};

use super::{
    front::FrontSettings,
    space::{Extent, GivenSpace, Varied},
};
use crate::settings::{CalibrationSettings, EvalSettings, RunSettings, TextSettings};

/// Sampler of configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerChoice {
    /// Multivariate TPE, subsets by inclusion odds and a linear surrogate.
    #[default]
    Tpe,
    /// Random search: its control.
    Random,
}

/// Early stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EarlyStop {
    /// Once its chunks are worse than the best trial's by the signed-rank test.
    #[default]
    Wilcoxon,
    /// Once its mean is worse than the median of the others' at the same chunk.
    Median,
    /// Asynchronous successive halving over chunks.
    Halving,
    /// Never.
    Off,
}

adapruner_choice::choice!(SamplerChoice, "sampler", { Tpe => "tpe", Random => "random" });
adapruner_choice::choice!(EarlyStop, "early stopping", {
    Wilcoxon => "wilcoxon",
    Median => "median",
    Halving => "halving",
    Off => "off",
});

/// One search strategy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The search space.
    pub extent: Extent,
    /// Which part of it varies.
    pub varied: Varied,
    /// Sampler.
    pub sampler: SamplerChoice,
    /// Its seed.
    pub seed: u64,
    /// Number of trials, complete or stopped early.
    pub trials: u64,
}

impl Arm {
    /// Its name without the seed.
    pub fn label(&self) -> String {
        match self.varied {
            Varied::Baseline => "baseline".to_owned(),
            Varied::Joint | Varied::Data | Varied::Metric => {
                format!("{}-{}-{}", self.extent, self.varied, self.sampler)
            }
        }
    }

    /// The name of its study.
    pub fn study(&self) -> String {
        format!("{}-{}", self.label(), self.seed)
    }

    /// The sampler; random for the baseline, for which nothing can be learnt.
    pub fn sampler(&self) -> SamplerChoice {
        match self.varied {
            Varied::Baseline => SamplerChoice::Random,
            Varied::Joint | Varied::Data | Varied::Metric => self.sampler,
        }
    }
}

/// What all arms of a folder share, and when to stop.
#[derive(Debug, Clone, Serialize)]
pub struct SearchSettings {
    /// Where models run.
    pub run: RunSettings,
    /// The study's folder.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub folder: PathBuf,
    /// Redis that holds the trials instead; may contain a password.
    #[serde(skip)]
    pub storage: Option<String>,
    /// The calibration pool.
    pub pool: CalibrationSettings,
    /// The search-evaluation text; `limit` windows spread over it.
    pub eval: EvalSettings,
    /// Windows of a chunk.
    pub chunk: usize,
    /// Test texts.
    pub tests: Vec<TextSettings>,
    /// Windows of each of them, spread over it.
    pub test_windows: usize,
    /// What every plan has in common.
    pub plan: PlanOptions,
    /// What a configuration file says of the space.
    pub space: GivenSpace,
    /// Early stopping.
    pub early_stop: EarlyStop,
    /// Several objectives, if that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front: Option<FrontSettings>,
    /// Minutes after which no trial is started.
    pub minutes: Option<f64>,
    /// Trials without a new best one after which the search ends.
    pub patience: Option<u64>,
    /// Local processes.
    pub workers: usize,
    /// Memory limit in bytes; `None` for the machine's free memory.
    pub memory: Option<u64>,
    /// Whether texts may share passages.
    pub allow_overlap: bool,
    /// Whether another search in the folder is moved aside.
    pub anew: bool,
}
