//! Arguments that `search` and `compare` share, and the settings they make.

use std::path::{Path, PathBuf};

use adapruner::{
    outputs::Format,
    search::{
        Arm, EarlyStop, Extent, Quantity, STUDY, SearchRecord, SearchSettings, SearchSpace, Varied,
        space::SpaceFor,
    },
    settings::EvalSettings,
};
use adapruner_checkpoint::{Checkpoint, atomic::Files, gguf::GgufType};
use adapruner_kernels::MatmulPrecision;
use adapruner_prune::PlanOptions;
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    args::{CalibrationArgs, EvalArgs, RunArgs, memory_bytes},
    budget_args::SpeedArgs,
    combine::Combine,
    combine::combine,
    config_file::ConfigFile,
    failure::advised,
    plan_args::PlanArgs,
    typed::{Named, Real, Shares},
};

/// How to search.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Search")]
pub struct SearchArgs {
    /// Folder of the study; an existing study is resumed
    #[arg(long, value_name = "DIR")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub study: Option<PathBuf>,
    /// Keep the trials in Redis, redis://HOST:PORT, to share them between machines; each
    /// machine has its own --study folder. Start the server with --appendonly yes, and it may
    /// be restarted at any time; with --appendfsync always it may also be killed
    #[arg(long, value_name = "URL")]
    pub storage: Option<String>,
    /// Search space: full (samples, metric and where to cut the model) or paper (samples and
    /// metric) [default: full]
    #[arg(long, value_name = "SPACE")]
    pub space: Option<Named<Extent>>,
    /// Several objectives to minimise, loss,params, loss,bytes, loss,latency or more of them (latency as a
    /// cost model predicts it that is calibrated once for the study): the share to
    /// remove is searched too (--ratio 0.1..0.5), and the result is a front, one model for every
    /// size
    #[arg(long, value_name = "OBJECTIVES", value_delimiter = ',')]
    pub objectives: Option<Vec<Named<Quantity>>>,
    /// Format whose bytes are an objective: hf or gguf [default: hf; gguf with --gguf-type]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Named<Format>>,
    /// GGUF type whose bytes are an objective, as in export
    #[arg(long, value_name = "TYPE")]
    pub gguf_type: Option<Named<GgufType>>,
    /// Number of trials: complete, stopped early or infeasible, including those of earlier runs
    /// and of other workers [default: 150]
    #[arg(long, value_name = "N")]
    pub trials: Option<u64>,
    /// Start no new trial after this many minutes
    #[arg(long, value_name = "MINUTES")]
    pub max_minutes: Option<Real>,
    /// Stop after this many trials without improvement
    #[arg(long, value_name = "N")]
    pub patience: Option<u64>,
    /// Early stopping of trials: wilcoxon (worse than the best trial, chunk by chunk), median,
    /// halving or off [default: wilcoxon]
    #[arg(long, value_name = "RULE")]
    pub early_stop: Option<Named<EarlyStop>>,
    /// Windows per chunk of the search-evaluation text [default: 1]
    #[arg(long, value_name = "WINDOWS")]
    pub chunk: Option<usize>,
    /// Test text for the best trial, never seen by the search; repeatable
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub test: Option<Vec<PathBuf>>,
    /// Windows of each test text, spread evenly [default: 128]
    #[arg(long, value_name = "N")]
    pub test_windows: Option<usize>,
    /// Number of local worker processes [default: 1]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Memory limit in GiB: the pool's samples run in groups that fit, and a search that needs
    /// more is refused before it begins [default: the machine's free memory]
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    pub memory: Option<Real>,
    /// If the folder holds a different search, move that to STUDY.1 (or the next free number)
    /// and begin a new one, reusing its statistics if they match
    #[arg(long)]
    pub anew: Option<bool>,
    /// Accept texts that share passages with each other
    #[arg(long)]
    pub allow_overlap: Option<bool>,
}

combine!(SearchArgs {
    study,
    storage,
    space,
    objectives,
    format,
    gguf_type,
    trials,
    max_minutes,
    patience,
    early_stop,
    chunk,
    test,
    test_windows,
    workers,
    memory,
    anew,
    allow_overlap,
});

/// The precision of a search, and of what is measured with its trials, where none is given: that
/// of the study in the folder. A new one has the high precision, which finds what the highest does
/// (docs/measurements/search.md) in less time.
pub fn precision(study: Option<&Path>) -> MatmulPrecision {
    study.and_then(SearchRecord::precision_in).unwrap_or(MatmulPrecision::High)
}

/// The paper's number of trials.
const TRIALS: u64 = 150;
/// Samples of the pool.
const POOL: usize = 128;
/// Windows of the search-evaluation text.
const WINDOWS: usize = 32;
/// Windows of a chunk.
const CHUNK: usize = 1;
/// Windows of a test text.
const TEST_WINDOWS: usize = 128;

/// The groups of arguments that every search takes.
#[derive(Debug, Args)]
pub struct SearchGroups {
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    speed: SpeedArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    eval: EvalArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Work on studies that another process prepared, and exit when it does
    #[arg(long, hide = true)]
    pub worker: bool,
}

/// A search as it will run.
pub struct Resolved {
    /// What all arms share.
    pub settings: SearchSettings,
    /// The search space.
    pub extent: Extent,
    /// Trials of each arm.
    pub trials: u64,
    /// Seed of everything.
    pub seed: u64,
}

impl SearchGroups {
    /// What is read and written.
    ///
    /// # Errors
    /// None that the command line can hold.
    pub fn files(&self, files: Files, file: &ConfigFile) -> Result<Files> {
        let search = self.search.over(&file.search);
        let files = self.calibration.over(&file.calibration).files(files);
        let files = self.eval.over(&file.eval).files(files);
        let tests = search.test.iter().flatten();
        let files = tests.fold(files, |files, test| files.read("--test", test));
        let files = self.speed.over(&file.speed).files(files);
        let study = search.study.iter();
        Ok(study.fold(files, |files, study| files.state("--study", study, &STUDY)))
    }

    /// Settings from the command line and the configuration file; also creates the thread pool.
    ///
    /// # Errors
    /// What is missing, or out of range.
    pub fn resolve(&self, file: &ConfigFile) -> Result<Resolved> {
        let search = self.search.over(&file.search);
        let calibration = self.calibration.over(&file.calibration);
        let eval = self.eval.over(&file.eval);
        let plan = self.plan.over(&file.plan);
        if plan.sensitivity.is_some() {
            return Err(advised(
                "sensitivity: a search spreads the cut over the layers by its own dimensions",
                "leave it out; --show-space lists the dimensions",
            ));
        }
        search.refuse_speed(&self.speed)?;
        let speed = self.speed.over(&file.speed);
        let front = search.front(&plan, &file.output, &speed)?;
        let plan = match &front {
            Some(front) => PlanArgs { ratio: Some(Shares::One(front.ratios.1)), ..plan.clone() },
            None => plan,
        };
        let plan = plan.resolve()?;
        let workers = positive("workers", search.workers.unwrap_or(1))?;
        for (option, number) in [("max-minutes", search.max_minutes), ("memory", search.memory)] {
            let Some(Real(number)) = number else { continue };
            anyhow::ensure!(
                number > 0.0 && number.is_finite(),
                "{option}: a number above 0 expected, {number} found"
            );
        }
        let mut run = self.run.over(&file.run);
        if workers > 1 && run.threads.is_none() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            run.threads = Some((cores / workers).max(1));
        }
        let default = PlanOptions::new(plan.ratio);
        for (typed, option, dimension) in [
            (plan.drop_attention != default.drop_attention, "drop-attention", "drop-attention"),
            (plan.protect != default.protect, "protect", "protect-first and protect-last"),
            (plan.attention_share != default.attention_share, "attention-share", "attention-share"),
            (plan.allocation != default.allocation, "allocation", "allocation"),
        ] {
            if typed {
                anyhow::bail!(
                    "{option}: the search decides it; fix it as {dimension} in the table space of \
                     --config"
                );
            }
        }
        if calibration.stats.is_some() {
            return Err(advised(
                "stats: a search keeps its statistics in the study's folder",
                "leave --stats out",
            ));
        }
        let pool =
            CalibrationArgs { samples: calibration.samples.or(Some(POOL)), ..calibration.clone() };
        let settings = SearchSettings {
            folder: search.study.clone().ok_or_else(|| {
                advised("study: missing", "name a folder for the study: --study DIR")
            })?,
            storage: search.storage.clone(),
            pool: pool.resolve(&eval)?.ok_or_else(|| {
                advised("calibration: missing", "name a text for the pool: --calibration FILE")
            })?,
            eval: eval
                .resolve()
                .map(|eval| EvalSettings { limit: eval.limit.or(Some(WINDOWS)), ..eval })
                .ok_or_else(|| {
                    advised(
                        "text: missing",
                        "name a text to evaluate trials on: --text wikitext2:validation",
                    )
                })?,
            chunk: positive("chunk", search.chunk.unwrap_or(CHUNK))?,
            tests: search
                .test
                .iter()
                .flatten()
                .map(|text| eval.text_settings(text.clone()))
                .collect(),
            test_windows: positive("test-windows", search.test_windows.unwrap_or(TEST_WINDOWS))?,
            plan,
            space: file.space.clone(),
            early_stop: match (&front, search.early_stop) {
                (Some(_), _) => EarlyStop::Off,
                (None, rule) => rule.map_or_else(Default::default, |rule| rule.0),
            },
            front,
            minutes: search.max_minutes.map(|minutes| minutes.0),
            patience: search.patience,
            workers,
            memory: memory_bytes(search.memory.or(calibration.memory))?,
            allow_overlap: search.allow_overlap.unwrap_or(false),
            anew: search.anew.unwrap_or(false),
            run: run.resolve_at(precision(search.study.as_deref()))?,
        };
        Ok(Resolved {
            settings,
            extent: search.space.map_or_else(Default::default, |space| space.0),
            trials: positive("trials", search.trials.unwrap_or(TRIALS))?,
            seed: calibration.seed(),
        })
    }
}

/// The part of [`SearchGroups::resolve`] on which a space depends; every option may be missing.
///
/// # Errors
/// Values that a dimension cannot take.
pub fn space_alone(
    checkpoint: &Checkpoint,
    groups: &SearchGroups,
    file: &ConfigFile,
    (varied, seed): (Varied, Option<u64>),
) -> Result<SearchSpace> {
    let search = groups.search.over(&file.search);
    let calibration = groups.calibration.over(&file.calibration);
    let plan = groups.plan.over(&file.plan);
    let speed = groups.speed.over(&file.speed);
    let at = SpaceFor {
        layers: checkpoint.config.layers.len(),
        pool: calibration.samples.unwrap_or(POOL),
        layout: plan.layout.map_or_else(Default::default, |layout| layout.0),
        seed: seed.unwrap_or_else(|| calibration.seed()),
        ratio: search.front(&plan, &file.output, &speed)?.map(|front| front.ratios),
    };
    let extent = search.space.map_or_else(Default::default, |space| space.0);
    Ok(SearchSpace::new(extent, varied, &file.space, &at)?)
}

fn positive<N: Default + PartialEq>(option: &str, value: N) -> Result<N> {
    anyhow::ensure!(value != N::default(), "{option}: at least 1 expected, 0 found");
    Ok(value)
}

/// The space of an arm on a model.
///
/// # Errors
/// Values that a dimension cannot take.
pub fn space_of(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    arm: &Arm,
) -> Result<SearchSpace> {
    let at = SpaceFor {
        layers: checkpoint.config.layers.len(),
        pool: settings.pool.samples,
        layout: settings.plan.layout,
        seed: arm.seed,
        ratio: settings.front.as_ref().map(|front| front.ratios),
    };
    if at.ratio.is_some() && arm.varied == Varied::Baseline {
        return Err(advised(
            "objectives: the baseline is one setting at one ratio",
            "leave --objectives out, or --search baseline",
        ));
    }
    Ok(SearchSpace::new(arm.extent, arm.varied, &settings.space, &at)?)
}

/// The line that was typed, as a shell takes it, without the password of a
/// `--storage` URL.
pub fn command_line() -> String {
    shell_line(std::env::args().skip(1))
}

fn shell_line(words: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    let quoted = |word: String| {
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let words = words.map(without_password).map(quoted);
    std::iter::once("adapruner".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// `redis://user:password@host` as `redis://user@host`.
fn without_password(word: String) -> String {
    let Some((before, after)) = word.split_once("redis://") else { return word };
    match after.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{before}redis://{user}@{host}")
        }
        None => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> String {
        shell_line(words.iter().map(ToString::to_string))
    }

    #[test]
    fn lines_can_be_typed_again() {
        assert_eq!(line(&["search", "a b", "it's", ""]), r"adapruner search 'a b' 'it'\''s' ''");
    }

    #[test]
    fn passwords_are_left_out() {
        for (typed, kept) in [
            ("redis://u:s3cret@host:1/0", "redis://u@host:1/0"),
            ("--storage=redis://:s3@cret@host", "--storage=redis://@host"),
            ("redis://host:6379", "redis://host:6379"),
        ] {
            assert_eq!(line(&[typed]), format!("adapruner {kept}"));
        }
    }
}
