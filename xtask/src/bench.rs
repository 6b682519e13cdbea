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

mod ours;
mod torch;
mod train;

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use self::{ours::Ours, torch::Torch};

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
    /// JSON array of the token ids of a text (`reference/perplexity.py --save-ids`).
    #[arg(long)]
    ids: PathBuf,
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
    /// What is measured; peak memory is that of all of them together.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Pass::ALL)]
    passes: Vec<Pass>,
    /// Runs our side alone.
    #[arg(long)]
    alone: bool,
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
}

impl Pass {
    const ALL: [Self; 5] =
        [Self::Perplexity, Self::Gradients, Self::Bank, Self::Trial, Self::Train];

    fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "ppl",
            Self::Gradients => "grad",
            Self::Bank => "bank",
            Self::Trial => "trial",
            Self::Train => "train",
        }
    }

    /// The pass of PyTorch's it is held against.
    fn rival(self) -> &'static str {
        match self {
            Self::Perplexity => "ppl",
            Self::Gradients => "grad",
            Self::Bank => "fisher",
            Self::Trial => "trial",
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
}

/// Measures and prints a Markdown table, then JSON.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.repeats > 0 && args.threads > 0 && args.batch > 0, "counts must not be 0");
    let text = std::fs::read_to_string(&args.ids)
        .with_context(|| format!("{}: cannot read the ids", args.ids.display()))?;
    let ids: Vec<u32> = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected an array of ids", args.ids.display()))?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .use_current_thread()
        .build_global()?;
    let ours = Ours::load(args, &ids)?;
    let mut torch = if args.alone { None } else { Some(Torch::start(args, ours.widths())?) };

    let mut found = BTreeMap::<(Pass, &str), Vec<Run>>::new();
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
    let report = report(args, &found, torch);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n\n{}", table(&report), serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// The first `count` windows of `length` ids.
fn cut(ids: &[u32], length: usize, count: usize) -> Result<Vec<Vec<u32>>> {
    ensure!(length > 1, "windows need at least 2 tokens");
    let windows: Vec<_> = ids.chunks_exact(length).take(count).map(<[u32]>::to_vec).collect();
    ensure!(!windows.is_empty(), "{} ids do not fill one window of {length}", ids.len());
    Ok(windows)
}

/// Smallest, median and largest of what was measured, in tokens per second.
fn spread(runs: &[Run]) -> Option<[f64; 3]> {
    let mut speeds: Vec<f64> = runs.iter().map(|run| run.tokens as f64 / run.seconds).collect();
    speeds.sort_by(f64::total_cmp);
    let (first, last) = (speeds.first()?, speeds.last()?);
    let half = speeds.len() / 2;
    let median =
        if speeds.len() % 2 == 1 { speeds[half] } else { (speeds[half - 1] + speeds[half]) / 2.0 };
    Some([*first, median, *last])
}

fn report(args: &Args, found: &BTreeMap<(Pass, &str), Vec<Run>>, torch: Option<Value>) -> Value {
    let mut passes = serde_json::Map::new();
    for &pass in &args.passes {
        let side = |name| found.get(&(pass, name)).map(Vec::as_slice).unwrap_or_default();
        let of = |runs: &[Run]| {
            spread(runs).map(|[least, median, most]| {
                json!({
                    "tokens_per_second": { "min": least, "median": median, "max": most },
                    "seconds": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
                    "tokens": runs.first().map(|run| run.tokens),
                    "nll": runs.first().map(|run| run.nll),
                })
            })
        };
        let ratio = spread(side("ours")).zip(spread(side("torch"))).map(|(a, b)| a[1] / b[1]);
        let value = json!({ "ours": of(side("ours")), "torch": of(side("torch")), "ratio": ratio });
        passes.insert(pass.name().to_owned(), value);
    }
    json!({
        "threads": args.threads,
        "repeats": args.repeats,
        "window": args.window,
        "batch": args.batch,
        "samples": args.samples,
        "sample_tokens": args.sample_tokens,
        "trial_windows": args.trial_windows,
        "ratio": args.ratio,
        "sequences": args.sequences,
        "sequence_tokens": args.sequence_tokens,
        "steps": args.steps,
        "dtype": args.dtype.name(),
        "peak_memory": ours::peak_memory(),
        "passes": passes,
        "torch": torch,
    })
}

fn table(report: &Value) -> String {
    let mut out = String::from(
        "| pass | ours, tokens/s (min–max) | PyTorch, tokens/s (min–max) | ours / PyTorch |\n\
         |---|---|---|---|",
    );
    for (name, of) in report["passes"].as_object().into_iter().flatten() {
        let side = |side: &str| {
            let speed = |key: &str| of[side]["tokens_per_second"][key].as_f64();
            match (speed("min"), speed("median"), speed("max")) {
                (Some(min), Some(median), Some(max)) => {
                    format!("{median:.0} ({min:.0}–{max:.0})")
                }
                _ => "—".to_owned(),
            }
        };
        let ratio = of["ratio"].as_f64().map_or("—".to_owned(), |ratio| format!("{ratio:.2}"));
        // Writing into a String cannot fail.
        let _ = write!(out, "\n| {name} | {} | {} | {ratio} |", side("ours"), side("torch"));
    }
    out
}
