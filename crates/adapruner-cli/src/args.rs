//! Command-line arguments, in groups that commands share and that are tables of the
//! configuration file. `resolve` turns them into settings; it is the only place that fills in
//! defaults.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use adapruner::{
    pruning::IMPORTANCE,
    settings::{
        CalibrationSettings, CompensationSettings, EvalSettings, RunSettings, ScoreSettings,
        TextSettings,
    },
};
use adapruner_checkpoint::atomic::Files;
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{DTypeChoice, DeviceChoice};
use adapruner_prune::{Form, Importance, Reduction, Ridge};
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    combine::combine,
    failure::advised,
    typed::{Named, Real},
};

/// Where models run.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Running")]
pub struct RunArgs {
    /// Where the model runs: cpu, cuda or metal [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Named<DeviceChoice>>,
    /// Weight type at run time: auto (on the CPU bf16 where all matrices are stored so, f32
    /// otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Named<DTypeChoice>>,
    /// Precision of matrix multiplication, in PyTorch's words: highest (with the error of f32),
    /// high (about 16 bits of every number: more precise than TF32) or medium (bf16 where that is
    /// faster); `adapruner doctor` says what the processor makes them of [default: highest; search and
    /// compare: high, or that of the study]
    #[arg(long, value_name = "PRECISION")]
    pub matmul_precision: Option<Named<MatmulPrecision>>,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

combine!(RunArgs { device, dtype, matmul_precision, threads });

impl RunArgs {
    /// The options that were given, as command-line arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let Self { device, dtype, matmul_precision, threads } = self;
        let given = [
            ("--device", device.as_ref().map(|value| value.0.to_string())),
            ("--dtype", dtype.as_ref().map(|value| value.0.to_string())),
            ("--matmul-precision", matmul_precision.as_ref().map(|value| value.0.to_string())),
            ("--threads", threads.map(|value| value.to_string())),
        ];
        let given =
            given.into_iter().filter_map(|(name, value)| Some([name.into(), value?.into()]));
        given.flatten().collect()
    }

    /// [`RunArgs::resolve_at`] with the precision that is the default of most commands.
    ///
    /// # Errors
    /// Those of [`RunArgs::resolve_at`].
    pub fn resolve(&self) -> Result<RunSettings> {
        self.resolve_at(MatmulPrecision::default())
    }

    /// Fills in the defaults, `precision` among them, and creates the thread pool of this process.
    /// The calling thread is its first member, so work need not wait for others to wake.
    ///
    /// # Errors
    /// No threads, a device that is not there.
    pub fn resolve_at(&self, precision: MatmulPrecision) -> Result<RunSettings> {
        if self.threads == Some(0) {
            return Err(advised(
                "threads: at least 1 expected, 0 found",
                "leave --threads out for one per core",
            ));
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.unwrap_or_default())
            .use_current_thread()
            .build_global()?;
        let matmul_precision = self.matmul_precision.map_or(precision, |p| p.0);
        matmul_precision.set();
        let device = self.device.map_or_else(DeviceChoice::default, |d| d.0);
        // A device that is not there is said before a model is fetched.
        device.open()?;
        Ok(RunSettings {
            device,
            dtype: self.dtype.map_or_else(Default::default, |d| d.0),
            matmul_precision,
            threads: self.threads,
        })
    }
}

/// Text to measure on.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Text to measure on")]
pub struct EvalArgs {
    /// Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or
    /// token ids (*.json), or a named set: wikitext2, ptb, c4 (":test" and
    /// ":validation" choose the split)
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub text: Option<PathBuf>,
    /// Tokens per window; windows do not overlap, and an incomplete last one is dropped
    /// [default: 128]
    #[arg(long, value_name = "TOKENS")]
    pub window: Option<usize>,
    /// Measure only the first N windows
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Field or column that holds the text of a record [default: text]
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,
    /// Folder to search for named sets before the hub
    #[arg(long, value_name = "DIR", env = "ADAPRUNER_DATA")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub data_dir: Option<PathBuf>,
    /// Tokens per batch [default: chosen by free memory]
    #[arg(long, value_name = "N")]
    pub batch_tokens: Option<usize>,
}

combine!(EvalArgs { text, window, limit, field, data_dir, batch_tokens });

/// The literature's window length, in tokens.
const WINDOW: usize = 128;

impl EvalArgs {
    /// What is read.
    pub fn files(&self, files: Files) -> Files {
        let files = self.text.iter().fold(files, |files, text| files.read("--text", text));
        self.data_dir.iter().fold(files, |files, folder| files.search("--data-dir", folder))
    }

    /// Fills in the defaults; `None` if no text is given.
    pub fn resolve(&self) -> Option<EvalSettings> {
        Some(EvalSettings {
            text: self.text_settings(self.text.clone()?),
            window: self.window.unwrap_or(WINDOW),
            limit: self.limit,
            batch_tokens: self.batch_tokens,
        })
    }

    /// Texts to measure on, whole.
    pub fn tests<'a>(&self, texts: impl Iterator<Item = &'a String>) -> Vec<EvalSettings> {
        let of =
            |text: &String| Self { text: Some(text.clone().into()), limit: None, ..self.clone() };
        texts.filter_map(|text| of(text).resolve()).collect()
    }

    /// How `text` is read.
    pub fn text_settings(&self, text: PathBuf) -> TextSettings {
        TextSettings { text, field: self.field.clone(), data_dir: self.data_dir.clone() }
    }
}

/// A file that results are kept in from one command to the next: an input if it exists, otherwise
/// an output.
pub fn kept(files: Files, role: &'static str, path: Option<&Path>) -> Files {
    match path {
        Some(path) if path.symlink_metadata().is_ok() => files.read(role, path),
        Some(path) => files.file(role, path, false),
        None => files,
    }
}

/// The calibration set.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Calibration")]
pub struct CalibrationArgs {
    /// Text to draw calibration samples from, in the forms of --text; token ids (*.json) are
    /// used unchanged
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub calibration: Option<PathBuf>,
    /// Number of calibration samples [default: 128, or as many as the text has; stats: 10]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Tokens per calibration sample [default: 64; prune: 128]
    #[arg(long, value_name = "TOKENS")]
    pub sample_tokens: Option<usize>,
    /// Seed of every random choice [default: 42]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Field or column that holds the text of a calibration record [default: text]
    #[arg(long, value_name = "NAME")]
    pub calibration_field: Option<String>,
    /// Statistics file: read if it exists and matches, otherwise written
    #[arg(long, value_name = "FILE")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub stats: Option<PathBuf>,
    /// Memory limit in GiB; commands that collect statistics have their own option for it.
    #[arg(skip)]
    pub memory: Option<Real>,
}

combine!(CalibrationArgs {
    calibration,
    samples,
    sample_tokens,
    seed,
    calibration_field,
    stats,
    memory,
});

/// GiB as bytes.
///
/// # Errors
/// A number that is not above 0.
pub fn memory_bytes(gib: Option<Real>) -> Result<Option<u64>> {
    let Some(Real(gib)) = gib else { return Ok(None) };
    if !(gib > 0.0 && gib.is_finite()) {
        return Err(advised(
            format!("memory: a number above 0 expected, {gib} found"),
            "--memory 8 means 8 GiB",
        ));
    }
    Ok(Some((gib * f64::from(1 << 30)) as u64))
}

/// LLM-Pruner's calibration set.
const SAMPLES: (usize, usize) = (10, 64);
/// Seed where none is given.
const SEED: u64 = 42;

impl CalibrationArgs {
    /// The files it reads, except statistics.
    pub fn files(&self, files: Files) -> Files {
        let texts = self.calibration.iter();
        texts.fold(files, |files, text| files.read("--calibration", text))
    }

    /// The statistics file.
    pub fn statistics(&self, files: Files) -> Files {
        kept(files, "--stats", self.stats.as_deref())
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(SEED)
    }

    /// Fills in the defaults; `None` if no text is given.
    ///
    /// # Errors
    /// A memory that is not above 0.
    pub fn resolve(&self, eval: &EvalArgs) -> Result<Option<CalibrationSettings>> {
        let memory = memory_bytes(self.memory)?;
        let Some(calibration) = self.calibration.clone() else { return Ok(None) };
        let text = eval.text_settings(calibration);
        Ok(Some(CalibrationSettings {
            text: TextSettings { field: self.calibration_field.clone(), ..text },
            samples: self.samples.unwrap_or(SAMPLES.0),
            sample_tokens: self.sample_tokens.unwrap_or(SAMPLES.1),
            seed: self.seed(),
            batch_tokens: eval.batch_tokens,
            memory,
        }))
    }
}

/// How units are scored.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Importance")]
pub struct ImportanceArgs {
    /// Importance measure [default: wanda]. With weights w, gradient g_s of sample s, ḡ and F̄
    /// the means over samples of g_s and g_s², Σ over a row or column: LLM-Pruner's param_first
    /// Σ|w·ḡ|, vectorize |Σ w·ḡ|, param_second Σ w²·F̄ and param_mix Σ|w·ḡ − ½·w²·F̄|;
    /// sample_first, the mean over samples of Σ|w·g_s|; from a forward pass alone, over the
    /// columns of the output and down projections with input x: wanda Σ|w|·‖x‖ and flap Σ
    /// w²·Var(x); the controls magnitude_l1, magnitude_l2 and random; or
    /// adapruner:alpha1=0.5,beta_coarse=1,beta_fine=1,normalisation=mean, the blend alpha1·C +
    /// (1 − alpha1)·F of C = |Σ w·ḡ − beta_coarse·Σ ½·w²·F̄| and F = mean over samples of
    /// Σ|w·g_s| + beta_fine·Σ ½·w²·F̄, each normalised within its layer. fine=set computes F
    /// from the mean gradient instead, Σ|w·ḡ| + beta_fine·Σ ½·w²·F̄, and fine=mixed Σ|w·ḡ −
    /// ½·w²·F̄|, as LLM-Pruner does for the whole calibration set. activation=0.3,metric=wanda
    /// (or flap) gives an activation metric a weight of 0.3 in the blend
    #[arg(long, value_name = "MEASURE")]
    pub importance: Option<Named<Importance>>,
    /// How to reduce the rows and columns of a unit to one score: sum, mean, max or prod
    /// [default: sum]
    #[arg(long, value_name = "HOW")]
    pub grouping: Option<Named<Reduction>>,
}

combine!(ImportanceArgs { importance, grouping });

impl ImportanceArgs {
    /// Fills in the defaults.
    pub fn resolve(&self) -> ScoreSettings {
        ScoreSettings {
            importance: self.importance.map_or(IMPORTANCE, |i| i.0),
            reduction: self.grouping.map_or_else(Default::default, |r| r.0),
        }
    }
}

/// `--compensate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compensate {
    /// Weights fitted anew.
    Fit,
    /// Biases added.
    Bias,
}

adapruner_choice::choice!(Compensate, "form", {
    Fit => "fit",
    Bias => "bias",
});

/// How the remaining weights compensate for the removed ones.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Compensation")]
pub struct CompensationArgs {
    /// Compensate in closed form for the removed units, as far as it lowers the loss on
    /// held-out samples: fit (refit the matrices that read them by least squares; shapes stay)
    /// or bias (add the mean of their contribution as a bias; needs few samples; the model gets
    /// biases, zeros on its other projections) [fit if no form is given]
    #[arg(
        long,
        value_name = "FORM",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "fit"
    )]
    pub compensate: Option<Named<Compensate>>,
    /// Text to fit on, as for --text [default: the calibration text]
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub compensate_text: Option<PathBuf>,
    /// Number of samples to fit on; their tokens should be many times the channels that a layer
    /// keeps [default: 128]
    #[arg(long, value_name = "N")]
    pub compensate_samples: Option<usize>,
    /// Tokens per such sample [default: 128]
    #[arg(long, value_name = "TOKENS")]
    pub compensate_tokens: Option<usize>,
    /// Ridge of each fit towards the sliced weights, relative to the mean square of their
    /// inputs: a number, or auto for the power of ten that is best on held-out samples
    /// [default: auto]
    #[arg(long, value_name = "SHARE")]
    pub compensate_ridge: Option<Ridge>,
}

combine!(CompensationArgs {
    compensate,
    compensate_text,
    compensate_samples,
    compensate_tokens,
    compensate_ridge,
});

/// Samples, and tokens per sample. A fit needs many times more tokens than it has features,
/// otherwise it fits noise: 5 tokens a feature did slight harm, 18 helped
/// (docs/measurements/quality.md).
const FIT: (usize, usize) = (128, 128);

impl CompensationArgs {
    /// What is read.
    pub fn files(&self, files: Files) -> Files {
        let texts = self.compensate_text.iter();
        texts.fold(files, |files, text| files.read("--compensate-text", text))
    }

    /// Fills in the defaults; `None` without `--compensate`.
    pub fn resolve(
        &self,
        calibration: &CalibrationArgs,
        eval: &EvalArgs,
    ) -> Result<Option<CompensationSettings>> {
        let Some(Named(compensate)) = self.compensate else { return Ok(None) };
        let text = CalibrationArgs {
            calibration: self.compensate_text.clone().or_else(|| calibration.calibration.clone()),
            samples: Some(self.compensate_samples.unwrap_or(FIT.0)),
            sample_tokens: Some(self.compensate_tokens.unwrap_or(FIT.1)),
            ..calibration.clone()
        };
        let Some(samples) = text.resolve(eval)? else {
            return Err(advised(
                "compensate-text: missing, and there is no calibration text either",
                "name a text to fit on: --compensate-text FILE",
            ));
        };
        let form = match (compensate, self.compensate_ridge) {
            (Compensate::Fit, ridge) => Form::Weight { ridge: ridge.unwrap_or(Ridge::HeldOut) },
            (Compensate::Bias, None) => Form::Bias,
            (Compensate::Bias, Some(_)) => {
                return Err(advised(
                    "compensate-ridge: given, but a bias has none",
                    "leave it out, or give --compensate=fit",
                ));
            }
        };
        Ok(Some(CompensationSettings { samples, form }))
    }
}
