//! Our side, in process.

use std::time::Instant;

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_eval::ChunkedWindows;
use adapruner_model::{
    Decoder, GradientObserver, Placement, ProjectionGrad, Residency, observe_gradients,
};
use adapruner_prune::{
    CollectOptions, Evidence, Importance, PlanOptions, PrunePlan, Reduction, StatsBank, Terms,
    apply, collect, plan, score,
};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Result as CandleResult};

use super::{Args, Dtype, Pass, Run, cut, train::Lessons};

/// First and last layers that a trial spares.
const PROTECTED: (usize, usize) = (4, 2);

/// A loaded model and what it runs on.
pub struct Ours {
    dense: Checkpoint,
    placement: Placement,
    decoder: Decoder,
    windows: Vec<Vec<u32>>,
    samples: Vec<Vec<u32>>,
    batch: usize,
    /// Where trials are run.
    trial: Option<Trial>,
    lessons: Lessons,
}

/// What the trials of a search share.
struct Trial {
    bank: StatsBank,
    windows: ChunkedWindows,
    options: PlanOptions,
    /// Feed-forward widths of the pruned model.
    widths: Vec<usize>,
}

impl Trial {
    fn prepare(
        args: &Args,
        ids: &[u32],
        dense: &Checkpoint,
        decoder: &Decoder,
        samples: &[Vec<u32>],
    ) -> Result<Self> {
        let bank = statistics(decoder, samples)?;
        let options = PlanOptions { protect: PROTECTED, ..PlanOptions::new(args.ratio) };
        let widths = planned(dense, &bank, &options)?.layers.iter().map(|l| l.ffn.len()).collect();
        let windows = cut(ids, args.window, args.trial_windows)?;
        let windows = ChunkedWindows::new(decoder, &windows, args.batch, PROTECTED.0, &|_, _| {})?;
        Ok(Self { bank, windows, options, widths })
    }

    /// Scores, plans, slices and evaluates; tokens and mean loss of the windows.
    fn run(&self, dense: &Checkpoint, placement: &Placement) -> Result<(usize, f64)> {
        let Self { bank, windows, options, .. } = self;
        let plan = planned(dense, bank, options)?;
        let decoder = Decoder::load(&apply(dense, &plan)?, placement, Residency::Resident)?;
        let unchanged = plan.unchanged(&dense.config);
        let (mut sum, mut count) = (0.0, 0);
        for chunk in 0..windows.len() {
            let predicted = windows.tokens(chunk);
            sum += windows.nll(&decoder, unchanged, chunk)? * predicted as f64;
            count += predicted;
        }
        Ok((windows.windows() * windows.window(), sum / count as f64))
    }
}

/// Looks at nothing.
struct Nothing;

impl GradientObserver for Nothing {
    fn projection(&self, _: &ProjectionGrad<'_>) -> CandleResult<()> {
        Ok(())
    }

    fn block_done(&self, _: usize) -> CandleResult<()> {
        Ok(())
    }
}

impl Ours {
    /// Reads the weights, and prepares what a search does once.
    pub fn load(args: &Args, ids: &[u32]) -> Result<Self> {
        let dtype = match args.dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
        };
        let placement = Placement { device: Device::Cpu, dtype };
        let dense = Checkpoint::open(&args.model)?.resident();
        let decoder = Decoder::load(&dense, &placement, Residency::Resident)?;
        let samples = cut(ids, args.sample_tokens, args.samples)?;
        let trial = match args.passes.contains(&Pass::Trial) {
            true => Some(Trial::prepare(args, ids, &dense, &decoder, &samples)?),
            false => None,
        };
        Ok(Self {
            placement,
            windows: cut(ids, args.window, args.windows)?,
            samples,
            batch: args.batch,
            trial,
            lessons: Lessons::new(args, ids)?,
            decoder,
            dense,
        })
    }

    /// Feed-forward widths of a trial's model, first layer first.
    pub fn widths(&self) -> &[usize] {
        self.trial.as_ref().map_or(&[], |trial| trial.widths.as_slice())
    }

    /// Runs one pass.
    pub fn run(&self, pass: Pass) -> Result<Run> {
        let tokens = |of: &[Vec<u32>]| of.iter().map(Vec::len).sum::<usize>();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let start = Instant::now();
        let (tokens, nll) = match pass {
            Pass::Perplexity => (tokens(&self.windows), self.perplexity()?),
            Pass::Gradients => {
                let losses = observe_gradients(
                    &self.decoder,
                    &self.samples,
                    usize::MAX,
                    &Nothing,
                    &|_, _| {},
                )?;
                (tokens(&self.samples), mean(&losses))
            }
            Pass::Bank => {
                let bank = statistics(&self.decoder, &self.samples)?;
                (tokens(&self.samples), mean(&bank.header().losses))
            }
            Pass::Trial => {
                let trial = self.trial.as_ref().context("no trial was prepared")?;
                trial.run(&self.dense, &self.placement)?
            }
            Pass::Train => self.lessons.run(&self.decoder)?,
        };
        Ok(Run { seconds: start.elapsed().as_secs_f64(), tokens, nll })
    }

    fn perplexity(&self) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0);
        for windows in self.windows.chunks(self.batch) {
            let nll = self.decoder.nll(&self.decoder.tokens(windows)?)?;
            count += nll.elem_count();
            sum += nll.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        }
        Ok(sum / count as f64)
    }
}

/// All terms of some samples.
fn statistics(decoder: &Decoder, samples: &[Vec<u32>]) -> Result<StatsBank> {
    let options = CollectOptions {
        terms: Terms::Full,
        batch: true,
        batch_tokens: usize::MAX,
        model_digest: Digest::of_bytes(b""),
        calibration_digest: Digest::of_bytes(b""),
        seed: 0,
    };
    Ok(collect(decoder, samples, &options, &|_, _| {})?)
}

/// LLM-Pruner's element-wise first order over all samples, as a plan.
fn planned(dense: &Checkpoint, bank: &StatsBank, options: &PlanOptions) -> Result<PrunePlan> {
    let config = &dense.config;
    let evidence = Evidence { config, bank: Some(bank), samples: None, checkpoint: None, seed: 0 };
    let scores = score(Importance::ParamFirst, Reduction::Sum, &evidence)?;
    Ok(plan(&scores, config, dense.digest()?, options)?)
}

/// Largest resident set of this process in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
