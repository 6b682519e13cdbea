//! Speed of this program beside PyTorch's, in tokens per second.
//!
//! Both sides run in turns, in one run on one machine, on the same weights and
//! token ids: what else the machine does meets both. Only the ratio of the
//! medians means something; the numbers themselves belong to the machine. On a
//! machine with other work, threads that wait for each other at barriers lose
//! most, which are PyTorch's: there, only `--threads 1` is fair.
//!
//! | pass | ours | PyTorch's (`reference/bench.py`) |
//! |---|---|---|
//! | `ppl` | losses of windows of text | the same |
//! | `grad` | `observe_gradients`, nothing done with what is observed | forward and backward of the mean loss, gradients of all weights |
//! | `bank` | all Taylor terms of every sample and of the set | gradients sample by sample, and the sum of their squares: what the second order takes, and less than what the bank holds |
//! | `trial` | a trial of a search, all of its windows run: scores (from the bank, which all trials share and which is not timed), plan, slicing, evaluation | a trial of the naive loop: gradients of the samples, scores, slicing of a copy, evaluation; the same widths |
//! | `train` | steps of LoRA by `recover`, adapter made and state saved included | steps of PEFT with torch's AdamW, adapter made included |
//! | `search` | all of `adapruner search`, a process of its own ([`search`]) | as many trials of the naive loop, each with samples that it draws itself |
//!
//! What is reported of each pass but the last, medians over its runs:
//!
//! | column | what it is |
//! |---|---|
//! | tokens/s | tokens over wall-clock seconds, with the least and the most |
//! | GFLOP/s, of the peak | of ours, matrix products by count (`adapruner_eval::flops`: `ppl` forward; `grad` forward, each block again, gradients of inputs; `bank` those of weights too), and their share of what the f32 units can do ([`f32_peak`](adapruner_kernels::f32_peak), its clock measured just before each run) |
//! | page faults | minor ones of the whole process for 1 000 tokens, where the system tells: memory that is handed back and asked for again costs one for every page |
//!
//! Our side holds what the chosen passes need and no more, so that the peak memory
//! of `--passes trial` is that of a search.

mod ours;
mod process;
mod report;
mod search;
mod torch;
mod train;

use std::{io::Write as _, path::PathBuf};

use adapruner_kernels::MatmulPrecision;
use anyhow::{Context, Result, bail, ensure};

pub use self::report::spread;
use self::{
    ours::Ours,
    report::Found,
    torch::{Inputs, Torch},
};

/// How far the mean losses of both sides may be apart, relative, in f32.
const LOSS_TOLERANCE: f64 = 1e-4;
/// The same in bf16, where each side rounds in places of its own.
const BF16_LOSS_TOLERANCE: f64 = 1e-2;

/// What is measured, and with what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face folder or GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// JSON array of the token ids of a text (`reference/perplexity.py --save-ids`);
    /// `search` takes --text instead.
    #[arg(long)]
    ids: Option<PathBuf>,
    /// Python with what `reference/requirements.txt` names.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Measured runs of every pass, after one that is not.
    #[arg(long, default_value_t = 7)]
    repeats: usize,
    /// Threads of both sides.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of a window of the perplexity pass.
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// Windows of a perplexity pass.
    #[arg(long, default_value_t = 32)]
    windows: usize,
    /// Windows that run together.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Samples of a gradient pass.
    #[arg(long, default_value_t = 10)]
    samples: usize,
    /// Tokens of a sample.
    #[arg(long, default_value_t = 64)]
    sample_tokens: usize,
    /// Windows of a trial's evaluation.
    #[arg(long, default_value_t = 64)]
    trial_windows: usize,
    /// Share of all parameters that a trial removes.
    #[arg(long, default_value_t = 0.2)]
    ratio: f64,
    /// Sequences of a training step, taken from the text.
    #[arg(long, default_value_t = 8)]
    sequences: usize,
    /// Tokens of each.
    #[arg(long, default_value_t = 256)]
    sequence_tokens: usize,
    /// Steps of a training.
    #[arg(long, default_value_t = 2)]
    steps: usize,
    /// Type of the weights on both sides.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// How exactly our side makes products: highest, high or medium.
    #[arg(long, default_value_t = MatmulPrecision::Highest)]
    matmul_precision: MatmulPrecision,
    /// What is measured; peak memory is that of all of them together. `search` is
    /// measured by itself.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Pass::SHORT)]
    passes: Vec<Pass>,
    /// Runs our side alone.
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    search: search::SearchArgs,
}

/// Type of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

impl Dtype {
    /// As `reference/bench.py` names it.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    fn loss_tolerance(self) -> f64 {
        match self {
            Self::F32 => LOSS_TOLERANCE,
            Self::Bf16 => BF16_LOSS_TOLERANCE,
        }
    }
}

/// A pass that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Pass {
    #[value(name = "ppl")]
    Perplexity,
    #[value(name = "grad")]
    Gradients,
    Bank,
    Trial,
    Train,
    Search,
}

impl Pass {
    /// The passes that take seconds and are run again and again.
    const SHORT: [Self; 5] =
        [Self::Perplexity, Self::Gradients, Self::Bank, Self::Trial, Self::Train];

    fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "ppl",
            Self::Gradients => "grad",
            Self::Bank => "bank",
            Self::Trial => "trial",
            Self::Train => "train",
            Self::Search => "search",
        }
    }

    /// The pass of PyTorch's it is held against.
    fn rival(self) -> &'static str {
        match self {
            Self::Perplexity => "ppl",
            Self::Gradients => "grad",
            Self::Bank => "fisher",
            Self::Trial | Self::Search => "trial",
            Self::Train => "train",
        }
    }
}

/// One run of a pass.
#[derive(Debug, Clone, Copy)]
struct Run {
    seconds: f64,
    tokens: usize,
    /// Mean loss in nats per predicted token.
    nll: f64,
    /// Minor page faults of the whole process, where the system tells.
    faults: Option<u64>,
    /// Of passes whose operations are counted.
    arithmetic: Option<Arithmetic>,
}

/// What a run computed, and what it could have.
#[derive(Debug, Clone, Copy)]
struct Arithmetic {
    /// Floating-point operations of its matrix products.
    operations: f64,
    /// Operations a second that the f32 units could make just before.
    peak: f64,
}

/// Measures and prints a Markdown table, then JSON.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.repeats > 0 && args.threads > 0 && args.batch > 0, "counts must not be 0");
    if args.passes.contains(&Pass::Search) {
        ensure!(args.passes == [Pass::Search], "passes: search is measured by itself");
        return search::run(args, &args.search);
    }
    let path = args.ids.as_deref().context("ids: missing: give the token ids of a text")?;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot read the ids", path.display()))?;
    let ids: Vec<u32> = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected an array of ids", path.display()))?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .use_current_thread()
        .build_global()?;
    args.matmul_precision.set();
    let ours = Ours::load(args, &ids)?;
    let inputs = Inputs { ids: path, calibration: None, widths: ours.widths() };
    let mut torch = if args.alone { None } else { Some(Torch::start(args, &inputs)?) };

    let mut found = Found::new();
    for round in 0..=args.repeats {
        for &pass in &args.passes {
            let mine = ours.run(pass)?;
            let theirs = torch.as_mut().map(|torch| torch.run(pass.rival())).transpose()?;
            if let Some(theirs) = theirs {
                let apart = (mine.nll - theirs.nll).abs() / theirs.nll.abs();
                if apart.is_nan() || apart > args.dtype.loss_tolerance() {
                    let name = pass.name();
                    bail!("{name}: the loss is {} here and {} in PyTorch", mine.nll, theirs.nll);
                }
            }
            if round > 0 {
                found.entry((pass, "ours")).or_default().push(mine);
                let runs = found.entry((pass, "torch")).or_default();
                runs.extend(theirs);
            }
        }
        let mut err = std::io::stderr().lock();
        writeln!(err, "round {round} of {}", args.repeats)?;
    }
    let torch = torch.map(Torch::finish).transpose()?;
    let report = report::of(args, &found, torch);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n\n{}", report::table(&report), serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// The first `count` windows of `length` ids.
fn cut(ids: &[u32], length: usize, count: usize) -> Result<Vec<Vec<u32>>> {
    ensure!(length > 1, "windows need at least 2 tokens");
    let windows: Vec<_> = ids.chunks_exact(length).take(count).map(<[u32]>::to_vec).collect();
    ensure!(!windows.is_empty(), "{} ids do not fill one window of {length}", ids.len());
    Ok(windows)
}
