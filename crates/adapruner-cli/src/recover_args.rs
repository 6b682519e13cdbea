//! Arguments of `recover`, also a table of the configuration file.

use std::path::{Path, PathBuf};

use adapruner::{
    outputs::OutputSettings,
    recover::{Method, RecoverSettings},
    settings::{RunSettings, TextSettings},
};
use adapruner_checkpoint::{atomic::Files, names::Projection};
use adapruner_model::train::{adamw::AdamW, schedule::Decay};
use adapruner_recover::{
    data::{DataOptions, Validation, batches::BatchSize},
    lora::{LoraOptions, Target},
    train::FOLDER,
    train::options::{Distillation, TrainOptions},
};
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    args::EvalArgs,
    combine::combine,
    failure::advised,
    typed::{Named, Real},
};

/// `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MethodChoice {
    /// Low-rank updates.
    #[default]
    Lora,
    /// All parameters.
    Full,
}

adapruner_choice::choice!(MethodChoice, "method", {
    Lora => "lora",
    Full => "full",
});

/// How to train a model.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Training")]
pub struct RecoverArgs {
    /// Training data: JSON or JSONL records with "instruction", "input" and "output" (Alpaca),
    /// with "messages" (conversations, rendered by the model's chat template with 26 July 2024
    /// as the current date) or with a text field; or a text or named set, as for eval
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub data: Option<PathBuf>,
    /// Field or column that holds the text of a record [default: text]
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,
    /// Folder to search for named sets before the hub
    #[arg(long, value_name = "DIR", env = "ADAPRUNER_DATA")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub data_dir: Option<PathBuf>,
    /// Test text of the model: data that share passages with it are refused; repeatable
    #[arg(long, value_name = "FILE|SET")]
    pub test: Option<Vec<String>>,
    /// Accept data that share passages with a test text
    #[arg(long)]
    pub allow_overlap: Option<bool>,
    /// Maximum tokens per sequence; longer ones are truncated and counted in the output
    /// [default: 256]
    #[arg(long, value_name = "TOKENS")]
    pub cutoff: Option<usize>,
    /// Compute the loss on prompts too
    #[arg(long)]
    pub train_on_prompt: Option<bool>,
    /// Validation set: a share of the records (0.05) or a number (200) [default: 0.05]
    #[arg(long, value_name = "SHARE|N")]
    pub validation: Option<Named<Validation>>,
    /// lora (low-rank updates beside frozen weights) or full (all parameters)
    /// [default: lora]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<Named<MethodChoice>>,
    /// LoRA rank R [default: 8]
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// LoRA alpha: updates are scaled by ALPHA / R [default: 16]
    #[arg(long, value_name = "ALPHA")]
    pub alpha: Option<Real>,
    /// LoRA dropout [default: 0.05]
    #[arg(long, value_name = "SHARE")]
    pub dropout: Option<Real>,
    /// Projections with an adapter: q, k, v, o, gate, up, down [default: all; in mixtures of
    /// experts those of attention]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub targets: Option<Vec<Named<Target>>>,
    /// Scale updates by ALPHA / √R (rsLoRA)
    #[arg(long)]
    pub rslora: Option<bool>,
    /// Sequences per step [default: 64]
    #[arg(long, value_name = "N", conflicts_with = "batch_tokens")]
    pub batch_size: Option<usize>,
    /// Tokens per step, instead of --batch-size
    #[arg(long, value_name = "N")]
    pub batch_tokens: Option<usize>,
    /// Tokens per micro-batch; a step sums the gradients of its micro-batches [default: 1024]
    #[arg(long, value_name = "N")]
    pub micro_tokens: Option<usize>,
    /// Peak learning rate [default: 1e-4; 1e-5 for full]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<Real>,
    /// Learning-rate decay: linear, cosine or constant [default: linear]
    #[arg(long, value_name = "SCHEDULE")]
    pub schedule: Option<Named<Decay>>,
    /// Warm-up steps from a rate of 0, at most half of the training [default: 10]
    #[arg(long, value_name = "N")]
    pub warmup: Option<u64>,
    /// Weight decay (AdamW) [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub weight_decay: Option<Real>,
    /// Maximum gradient norm; larger gradients are scaled down [default: 1]
    #[arg(long, value_name = "NORM")]
    pub max_norm: Option<Real>,
    /// Epochs [default: 2, or as many as --max-steps needs]
    #[arg(long, value_name = "N")]
    pub epochs: Option<u64>,
    /// Maximum number of steps
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// Maximum minutes, including those before a stop
    #[arg(long, value_name = "N")]
    pub max_minutes: Option<Real>,
    /// Gradient checkpointing: recompute each block in the backward pass; slower, less memory
    #[arg(long)]
    pub checkpointing: Option<bool>,
    /// Steps between validations [default: 50]
    #[arg(long, value_name = "N")]
    pub validate_every: Option<u64>,
    /// Stop after N validations without a lower loss; the best parameters are kept in any case
    #[arg(long, value_name = "N")]
    pub patience: Option<u64>,
    /// Steps between saved states [default: 50]
    #[arg(long, value_name = "N")]
    pub save_every: Option<u64>,
    /// Maximum minutes between saved states [default: 5]
    #[arg(long, value_name = "N")]
    pub save_minutes: Option<Real>,
    /// Seed of split, order, dropout and initial adapter [default: 42]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Teacher for distillation: the model before pruning
    #[arg(long, value_name = "MODEL")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub teacher: Option<PathBuf>,
    /// Distillation temperature [default: 1]
    #[arg(long, value_name = "T")]
    pub temperature: Option<Real>,
    /// Weight of the teacher in the loss [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub mix: Option<Real>,
    /// Number of the teacher's top logits used at each position [default: 16]
    #[arg(long, value_name = "K")]
    pub top_logits: Option<usize>,
    /// Weight of matching the outputs of all blocks to the teacher's: the mean over blocks and
    /// tokens of |h - t|²/|t|². The teacher then runs in every step
    #[arg(long, value_name = "WEIGHT")]
    pub match_hidden: Option<Real>,
    /// Folder for the state, log and cached teacher logits; a stopped training resumes from it
    /// [default: --out with .work appended]
    #[arg(long, value_name = "DIR")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub work: Option<PathBuf>,
    /// Keep that folder after the output is written
    #[arg(long)]
    pub keep_work: Option<bool>,
    /// Memory limit in GiB: a training that needs more is refused before it begins [default:
    /// the machine's free memory]
    #[arg(long, value_name = "GIB")]
    pub memory: Option<Real>,
}

combine!(RecoverArgs {
    data,
    field,
    data_dir,
    test,
    allow_overlap,
    cutoff,
    train_on_prompt,
    validation,
    method,
    rank,
    alpha,
    dropout,
    targets,
    rslora,
    batch_size,
    batch_tokens,
    micro_tokens,
    learning_rate,
    schedule,
    warmup,
    weight_decay,
    max_norm,
    epochs,
    max_steps,
    max_minutes,
    checkpointing,
    validate_every,
    patience,
    save_every,
    save_minutes,
    seed,
    teacher,
    temperature,
    mix,
    top_logits,
    match_hidden,
    work,
    keep_work,
    memory,
});

/// LLM-Pruner's cutoff, in tokens.
const CUTOFF: usize = 256;
/// LLM-Pruner's rank, alpha, dropout.
const LORA: (usize, f64, f64) = (8, 16.0, 0.05);
/// LLM-Pruner's batch size and epochs.
const BATCH: (usize, u64) = (64, 2);
/// LLM-Pruner's learning rate, and one that suits full fine-tuning.
const RATES: (f64, f64) = (1e-4, 1e-5);

/// The work folder of an output.
fn work_beside(out: &Path) -> PathBuf {
    let mut work = out.as_os_str().to_owned();
    work.push(".work");
    work.into()
}

fn number(given: Option<Real>, default: f64) -> f64 {
    given.map_or(default, |real| real.0)
}

impl RecoverArgs {
    /// The files it reads and writes besides the output folder `out`.
    pub fn files(&self, files: Files, out: Option<&Path>) -> Files {
        let files = self.data.iter().fold(files, |files, data| files.read("--data", data));
        let tests = self.test.iter().flatten();
        let files = tests.fold(files, |files, test| files.read("--test", test));
        let teacher = self.teacher.iter();
        let files = teacher.fold(files, |files, teacher| files.read("--teacher", teacher));
        let files =
            self.data_dir.iter().fold(files, |files, folder| files.search("--data-dir", folder));
        match self.work.clone().or_else(|| out.map(work_beside)) {
            Some(work) => files.state("--work", work, &FOLDER),
            None => files,
        }
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// Missing or contradictory options.
    pub fn resolve(&self, run: RunSettings, output: OutputSettings) -> Result<RecoverSettings> {
        let Some(text) = self.data.clone() else {
            return Err(advised("data: missing", "name the training data: --data FILE"));
        };
        let method = self.method.map_or_else(Default::default, |m| m.0);
        let seed = self.seed();
        let eval = EvalArgs { data_dir: self.data_dir.clone(), ..EvalArgs::default() };
        Ok(RecoverSettings {
            run,
            data: TextSettings { text, field: self.field.clone(), data_dir: self.data_dir.clone() },
            records: self.records(),
            tests: eval.tests(self.test.iter().flatten()),
            allow_overlap: self.allow_overlap.unwrap_or(false),
            method: match method {
                MethodChoice::Lora => Method::Lora(self.lora()),
                MethodChoice::Full => Method::Full,
            },
            train: self.train(method, seed)?,
            teacher: self.teacher.clone(),
            work: self.work.clone().unwrap_or_else(|| work_beside(&output.out)),
            keep_work: self.keep_work.unwrap_or(false),
            memory: self.memory.map(|gib| (gib.0 * f64::from(1 << 30)) as u64),
            output,
        })
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or(42)
    }

    /// How records become sequences.
    pub fn records(&self) -> DataOptions {
        DataOptions {
            cutoff: self.cutoff.unwrap_or(CUTOFF),
            train_on_prompt: self.train_on_prompt.unwrap_or(false),
            validation: self.validation.map_or(Validation::Share(0.05), |v| v.0),
            seed: self.seed(),
        }
    }

    fn lora(&self) -> LoraOptions {
        let targets = match &self.targets {
            Some(targets) => targets.iter().map(|t| t.0).collect(),
            None => Projection::ALL.map(Target).to_vec(),
        };
        LoraOptions {
            rank: self.rank.unwrap_or(LORA.0),
            alpha: number(self.alpha, LORA.1),
            dropout: number(self.dropout, LORA.2),
            targets,
            rslora: self.rslora.unwrap_or(false),
        }
    }

    fn train(&self, method: MethodChoice, seed: u64) -> Result<TrainOptions> {
        let rate = match method {
            MethodChoice::Lora => RATES.0,
            MethodChoice::Full => RATES.1,
        };
        let distilled = [
            self.temperature.is_some(),
            self.mix.is_some(),
            self.top_logits.is_some(),
            self.match_hidden.is_some(),
        ];
        if self.teacher.is_none() && distilled.contains(&true) {
            return Err(advised(
                "teacher: missing, but --temperature, --mix, --top-logits or --match-hidden is \
                 given",
                "name the model to learn from: --teacher MODEL",
            ));
        }
        let minutes = |real: Real| real.0 * 60.0;
        let options = TrainOptions {
            batch: match self.batch_tokens {
                Some(tokens) => BatchSize::Tokens(tokens),
                None => BatchSize::Sequences(self.batch_size.unwrap_or(BATCH.0)),
            },
            micro_tokens: self.micro_tokens.unwrap_or(1024),
            rate: number(self.learning_rate, rate),
            decay: self.schedule.map_or_else(Default::default, |s| s.0),
            warmup: self.warmup.unwrap_or(10),
            optimizer: AdamW { weight_decay: number(self.weight_decay, 0.0), ..AdamW::default() },
            max_norm: Some(number(self.max_norm, 1.0)),
            epochs: match (self.epochs, self.max_steps) {
                (None, None) => Some(BATCH.1),
                (epochs, _) => epochs,
            },
            max_steps: self.max_steps,
            max_seconds: self.max_minutes.map(minutes),
            checkpointing: self.checkpointing.unwrap_or(false),
            validate_every: self.validate_every.unwrap_or(50),
            patience: self.patience,
            save_every: self.save_every.unwrap_or(50),
            save_seconds: self.save_minutes.map_or(300.0, minutes),
            distillation: self.teacher.as_ref().map(|_| Distillation {
                temperature: number(self.temperature, 1.0),
                mix: number(self.mix, 0.5),
                top: self.top_logits.unwrap_or(16),
                hidden: self.match_hidden.map(|weight| weight.0),
            }),
            seed,
        };
        options.check()?;
        Ok(options)
    }
}
