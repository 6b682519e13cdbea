//! Command-line arguments, in groups that commands share and that are tables of the
//! configuration file. `resolve` turns them into settings; it is the only place that fills in
//! defaults.

use std::{ffi::OsString, fmt, path::PathBuf, str::FromStr};

use adapruner::{
    outputs::{Format, OutputSettings},
    settings::{
        CalibrationSettings, CompensationSettings, EvalSettings, RunSettings, ScoreSettings,
        TextSettings,
    },
};
use adapruner_checkpoint::{ModelConfig, atomic::Files, gguf::GgufType, hf::StoreType};
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{DTypeChoice, DeviceChoice};
use adapruner_prune::{
    ActivationMetric, Allocation, Form, Importance, KvMode, Layout, PlanOptions, Reduction, Ridge,
};
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    combine::combine,
    failure::advised,
    typed::{Count, Named, Proportion, Real},
};

/// Where models run.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Running")]
pub struct RunArgs {
    /// Where the model runs: cpu, cuda or metal [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Named<DeviceChoice>>,
    /// Weight type at run time: auto (f32 on the CPU, bf16 elsewhere), f32 or bf16 [default:
    /// auto]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Named<DTypeChoice>>,
    /// Precision of matrix multiplication, in PyTorch's words: highest (f32; with bf16 weights,
    /// activations are rounded to bf16 if the processor multiplies bf16 faster) or high (16-bit
    /// integers with a scale for each row: more precise than TF32, faster on processors with
    /// VNNI) [default: highest]
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

    /// Fills in the defaults and creates the thread pool of this process. The calling thread is
    /// its first member, so work need not wait for others to wake.
    pub fn resolve(&self) -> Result<RunSettings> {
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
        let matmul_precision = self.matmul_precision.map_or_else(Default::default, |p| p.0);
        matmul_precision.set();
        Ok(RunSettings {
            device: self.device.map_or_else(Default::default, |d| d.0),
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

    /// The statistics file: an input if it exists, otherwise an output.
    pub fn statistics(&self, files: Files) -> Files {
        match &self.stats {
            Some(path) if path.symlink_metadata().is_ok() => files.read("--stats", path),
            Some(path) => files.file("--stats", path, false),
            None => files,
        }
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

/// The default importance.
pub const IMPORTANCE: Importance = Importance::Activation(ActivationMetric::Wanda);

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

/// `A,B`: the first A and last B layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends(pub usize, pub usize);

impl FromStr for Ends {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected A,B (first A and last B layers), found {text:?}");
        let (first, last) = text.split_once(',').ok_or_else(refused)?;
        let number = |part: &str| part.trim().parse().map_err(|_| refused());
        Ok(Self(number(first)?, number(last)?))
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.0, self.1)
    }
}

/// What is removed.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Plan")]
pub struct PlanArgs {
    /// Share of all parameters to remove, embedding included: 0.2, or 20%, removes a fifth
    #[arg(long, value_name = "RATIO", allow_negative_numbers = true)]
    pub ratio: Option<Proportion>,
    /// Number of parameters to keep, instead of --ratio: 100M, 1.2B or 90000000 [prune]
    #[arg(long, value_name = "PARAMETERS", conflicts_with = "ratio")]
    pub target_params: Option<Count>,
    /// per-layer (widths differ between layers) or uniform (one width for all layers: an
    /// ordinary model of its architecture) [default: per-layer]
    #[arg(long, value_name = "LAYOUT")]
    pub layout: Option<Named<Layout>>,
    /// Do not cut the first A and last B layers [default: 0,0; prune: an eighth and a sixteenth
    /// of the layers, if the others are enough to reach the ratio]
    #[arg(long, value_name = "A,B")]
    pub protect: Option<Named<Ends>>,
    /// Share of the removed parameters that comes from attention, 0 to 1, or "free" to cut
    /// heads and channels by the same ratio [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub attention_share: Option<Named<Share>>,
    /// Round feed-forward widths to multiples of N: 32 for quantised GGUF rows, 256 for
    /// K-quants [default: 1]
    #[arg(long, value_name = "N")]
    pub multiple_of: Option<usize>,
    /// Attention units to remove: groups (whole key-value groups) or query-heads (one query
    /// head of every group) [default: groups]
    #[arg(long, value_name = "MODE")]
    pub kv_mode: Option<Named<KvMode>>,
    /// Remove the whole attention sublayer of these layers
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    pub drop_attention: Option<Vec<usize>>,
    /// How to spread the cut over layers: local (the same ratio in every layer),
    /// curve:linear=X,quadratic=Y (ratios follow a curve over depth), global (one ranking over
    /// all layers) or global:NORMALISATION (none, mean, max, sum, rank, or standard, as in
    /// FLAP) [default: local]
    #[arg(long, value_name = "HOW")]
    pub allocation: Option<Named<Allocation>>,
    /// Cut sensitive layers less: cut each layer alone, measure the loss on calibration
    /// samples, and cut in proportion to the loss increase to the power of -P [P: 1 if no
    /// number is given]
    #[arg(
        long,
        value_name = "P",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1"
    )]
    pub sensitivity: Option<Real>,
}

combine!(PlanArgs {
    ratio,
    target_params,
    layout,
    protect,
    attention_share,
    multiple_of,
    kv_mode,
    drop_attention,
    allocation,
    sensitivity,
});

/// A share of what is removed, or none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub Option<f64>);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "free" {
            return Ok(Self(None));
        }
        let refused = |_| format!("expected a number from 0 to 1 or \"free\", found {text:?}");
        Ok(Self(Some(text.parse().map_err(refused)?)))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(share) => share.fmt(f),
            None => f.write_str("free"),
        }
    }
}

impl PlanArgs {
    /// The exponent of the layers' sensitivities, checked against the other options.
    pub fn sensitivity(&self, plan: &PlanOptions) -> Result<Option<f64>> {
        let Some(Real(power)) = self.sensitivity else { return Ok(None) };
        if !(power >= 0.0 && power.is_finite()) {
            return Err(advised(
                format!("sensitivity: expected a number of at least 0, found {power}"),
                "0 cuts all layers alike, 1 is the default",
            ));
        }
        let spreads = match (plan.layout, plan.allocation) {
            (Layout::PerLayer, Allocation::Local | Allocation::Curve(_)) => return Ok(Some(power)),
            (Layout::Uniform, _) => "the layout uniform".to_owned(),
            (Layout::PerLayer, Allocation::Global(_)) => {
                format!("the allocation {}", plan.allocation)
            }
        };
        Err(advised(
            format!("sensitivity: does not apply to {spreads}"),
            "leave one of the two out",
        ))
    }

    /// The same arguments with `--target-params` replaced by the ratio that leaves so many
    /// parameters of a model of `config`.
    ///
    /// # Errors
    /// Both are given, or the target is not below the model's parameters.
    pub fn settled(&self, config: &ModelConfig) -> Result<Self> {
        let Some(Count(target)) = self.target_params else { return Ok(self.clone()) };
        let before = config.parameters();
        if self.ratio.is_some() {
            return Err(advised(
                "target-params: given together with a ratio",
                "give one of --ratio and --target-params",
            ));
        }
        if target == 0 || target >= before {
            return Err(advised(
                format!(
                    "target-params: expected from 1 to below the model's {before} parameters, \
                     found {target}"
                ),
                "inspect shows how many parameters a model has",
            ));
        }
        let ratio = (before - target) as f64 / before as f64;
        Ok(Self { ratio: Some(Proportion(ratio)), target_params: None, ..self.clone() })
    }

    /// Fills in the defaults.
    pub fn resolve(&self) -> Result<PlanOptions> {
        let Some(Proportion(ratio)) = self.ratio else {
            return Err(advised(
                "ratio: missing",
                "give the share of all parameters to remove, --ratio 0.2 (prune: or the number to \
                 keep, --target-params 100M)",
            ));
        };
        let default = PlanOptions::new(ratio);
        Ok(PlanOptions {
            ratio,
            layout: self.layout.map_or(default.layout, |l| l.0),
            protect: self.protect.map_or(default.protect, |p| (p.0.0, p.0.1)),
            attention_share: self.attention_share.map_or(default.attention_share, |s| s.0.0),
            multiple_of: self.multiple_of.unwrap_or(default.multiple_of),
            kv_mode: self.kv_mode.map_or(default.kv_mode, |m| m.0),
            drop_attention: self.drop_attention.clone().unwrap_or(default.drop_attention),
            allocation: self.allocation.map_or(default.allocation, |a| a.0),
            layer_weights: default.layer_weights,
        })
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

/// What is written.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub out: Option<PathBuf>,
    /// Formats to write: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or both
    /// [default: hf]
    #[arg(long, value_name = "FORMATS", value_delimiter = ',')]
    pub format: Option<Vec<Named<Format>>>,
    /// Type of the safetensors weights: keep (the model's type, f16 if it is quantised), f32,
    /// f16 or bf16 [default: keep]
    #[arg(long, value_name = "TYPE")]
    pub save_dtype: Option<Named<StoreType>>,
    /// Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a K-quant for
    /// all matrices (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l, …) [default:
    /// the model's float type, f16 if it is quantised]
    #[arg(long, value_name = "TYPE")]
    pub gguf_type: Option<Named<GgufType>>,
    /// Replace an existing output of this program
    #[arg(long)]
    pub force: Option<bool>,
}

combine!(OutputArgs { out, format, save_dtype, gguf_type, force });

impl OutputArgs {
    /// What is written.
    pub fn files(&self, files: Files) -> Files {
        self.out
            .iter()
            .fold(files, |files, out| files.folder("--out", out, self.force.unwrap_or(false)))
    }

    /// Fills in the defaults; `None` if no folder is given.
    pub fn resolve(&self) -> Option<OutputSettings> {
        let mut formats = Vec::new();
        for Named(format) in self.format.as_deref().unwrap_or(&[Named(Format::Hf)]) {
            if !formats.contains(format) {
                formats.push(*format);
            }
        }
        Some(OutputSettings {
            out: self.out.clone()?,
            formats,
            save_dtype: self.save_dtype.map_or_else(Default::default, |t| t.0),
            gguf_type: self.gguf_type.map(|t| t.0),
            force: self.force.unwrap_or(false),
        })
    }
}
