//! Our side, in process.

use std::time::Instant;

use adapruner_checkpoint::{Checkpoint, Digest, ModelConfig};
use adapruner_eval::{ChunkedWindows, flops};
use adapruner_kernels::{MatmulPrecision, f32_peak};
use adapruner_model::{
    Decoder, GradientObserver, PassCuts, Placement, ProjectionGrad, Residency, observe_gradients,
};
use adapruner_prune::{
    CollectOptions, Evidence, Importance, PlanOptions, PrunePlan, Reduction, StatsBank, Terms,
    apply, collect, plan, score,
};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Result as CandleResult};

use super::{Args, Arithmetic, Dtype, Pass, Run, cut, process::minor_faults, train::Batches};

/// First and last layers that a trial spares.
const PROTECTED: (usize, usize) = (4, 2);

/// What the chosen passes need, and no more.
pub struct Ours {
    config: ModelConfig,
    threads: usize,
    /// The model itself, where a pass runs it.
    dense: Option<Decoder>,
    windows: Vec<Vec<u32>>,
    samples: Vec<Vec<u32>>,
    batch: usize,
    /// Where trials are run.
    trial: Option<Trial>,
    batches: Batches,
}

/// What the trials of a search share.
struct Trial {
    /// Its tensors held in memory.
    dense: Checkpoint,
    /// Holds packed forms of what trials leave whole.
    beside: Decoder,
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
        let windows = cut(ids, args.window, args.trial_windows)?;
        let windows = ChunkedWindows::new(decoder, &windows, args.batch, PROTECTED.0, &|_, _| {})?;
        // Both sides are to cut the same channels, of which some are nearly tied.
        let bank = MatmulPrecision::Highest.during(|| statistics(decoder, samples))?;
        let options = options(args);
        let plan = first_order(dense, &bank, &options)?;
        Ok(Self {
            bank,
            windows,
            options,
            widths: plan.layers.iter().map(|layer| layer.ffn.len()).collect(),
            beside: Decoder::load(dense, decoder.placement(), decoder.residency())?,
            dense: dense.clone(),
        })
    }

    /// Scores, plans, slices and evaluates; tokens and mean loss of the windows.
    fn run(&self) -> Result<(usize, f64)> {
        let Self { dense, beside, bank, windows, options, .. } = self;
        let plan = first_order(dense, bank, options)?;
        let decoder = beside.load_beside(&apply(dense, &plan)?)?;
        let unchanged = plan.unchanged(&dense.config);
        let (mut sum, mut count) = (0.0, 0);
        for chunk in 0..windows.len() {
            let predicted = windows.tokens(chunk);
            let losses = windows.nll(&decoder, unchanged, chunk..chunk + 1)?;
            sum += losses.iter().sum::<f64>() * predicted as f64;
            count += predicted;
        }
        Ok((windows.windows() * windows.window(), sum / count as f64))
    }
}

/// What the plans of trials have in common.
fn options(args: &Args) -> PlanOptions {
    PlanOptions { protect: PROTECTED, ..PlanOptions::new(args.ratio) }
}

/// LLM-Pruner's element-wise first order over all samples, as a plan.
fn first_order(dense: &Checkpoint, bank: &StatsBank, options: &PlanOptions) -> Result<PrunePlan> {
    let config = &dense.config;
    let evidence = Evidence { config, bank: Some(bank), samples: None, checkpoint: None, seed: 0 };
    let scores = score(Importance::ParamFirst, Reduction::Sum, &evidence)?;
    Ok(plan(&scores, config, dense.digest()?, options)?)
}

/// Feed-forward widths of a trial's model, first layer first. The cut is the same in
/// all layers that are not spared, but for a channel of the remainder, which goes by
/// the scores: random ones here.
pub fn widths(args: &Args, dense: &Checkpoint) -> Result<Vec<usize>> {
    let config = &dense.config;
    let evidence = Evidence { config, bank: None, samples: None, checkpoint: None, seed: 0 };
    let scores = score(Importance::Random, Reduction::Sum, &evidence)?;
    let plan = plan(&scores, config, dense.digest()?, &options(args))?;
    Ok(plan.layers.iter().map(|layer| layer.ffn.len()).collect())
}

/// Looks at nothing.
struct Nothing;

impl GradientObserver for Nothing {
    fn projection(&self, _: &ProjectionGrad<'_>) -> CandleResult<()> {
        Ok(())
    }

    fn block_done(&self, _: usize, _: usize) -> CandleResult<()> {
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
        let checkpoint = Checkpoint::open(&args.model)?.resident();
        // Both read the same tensors in memory; what is let go of here goes.
        let dense = Decoder::load(&checkpoint, &placement, Residency::Resident)?;
        let samples = cut(ids, args.sample_tokens, args.samples)?;
        let trial = match args.passes.contains(&Pass::Trial) {
            true => Some(Trial::prepare(args, ids, &checkpoint, &dense, &samples)?),
            false => None,
        };
        let whole = [Pass::Perplexity, Pass::Gradients, Pass::Bank, Pass::Train];
        Ok(Self {
            config: checkpoint.config,
            threads: args.threads,
            dense: args.passes.iter().any(|pass| whole.contains(pass)).then_some(dense),
            windows: cut(ids, args.window, args.windows)?,
            samples,
            batch: args.batch,
            trial,
            batches: Batches::new(args, ids)?,
        })
    }

    /// Feed-forward widths of a trial's model, first layer first.
    pub fn widths(&self) -> &[usize] {
        self.trial.as_ref().map_or(&[], |trial| trial.widths.as_slice())
    }

    fn dense(&self) -> Result<&Decoder> {
        self.dense.as_ref().context("no pass that runs the model itself was chosen")
    }

    /// Floating-point operations of a pass, of those that are counted.
    fn operations(&self, pass: Pass) -> Option<f64> {
        let size = |of: &[Vec<u32>]| (of.len(), of.first().map_or(0, Vec::len));
        let (count, length) = size(&self.samples);
        match pass {
            Pass::Perplexity => {
                let (count, length) = size(&self.windows);
                Some(flops::forward(&self.config, count, length, 0))
            }
            Pass::Gradients => Some(flops::observed(&self.config, count, length, false)),
            Pass::Bank => Some(flops::observed(&self.config, count, length, true)),
            Pass::Trial | Pass::Train | Pass::Search => None,
        }
    }

    /// Runs one pass.
    pub fn run(&self, pass: Pass) -> Result<Run> {
        let tokens = |of: &[Vec<u32>]| of.iter().map(Vec::len).sum::<usize>();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let arithmetic = self
            .operations(pass)
            .map(|operations| Arithmetic { operations, peak: f32_peak(self.threads) });
        let before = minor_faults();
        let start = Instant::now();
        let (tokens, nll) = match pass {
            Pass::Perplexity => (tokens(&self.windows), self.perplexity()?),
            Pass::Gradients => {
                let (decoder, samples) = (self.dense()?, &self.samples);
                let cuts = PassCuts::whole(usize::MAX);
                let losses = observe_gradients(decoder, samples, &cuts, &Nothing, &|_, _| {})?;
                (tokens(samples), mean(&losses))
            }
            Pass::Bank => {
                let bank = statistics(self.dense()?, &self.samples)?;
                (tokens(&self.samples), mean(&bank.header().losses))
            }
            Pass::Trial => self.trial.as_ref().context("no trial was prepared")?.run()?,
            Pass::Train => self.batches.run(self.dense()?)?,
            Pass::Search => bail!("search: expected a pass of this process, found one of another"),
        };
        let seconds = start.elapsed().as_secs_f64();
        let faults = before.zip(minor_faults()).map(|(before, after)| after - before);
        Ok(Run { seconds, tokens, nll, faults, arithmetic })
    }

    fn perplexity(&self) -> Result<f64> {
        let decoder = self.dense()?;
        let (mut sum, mut count) = (0.0, 0);
        for windows in self.windows.chunks(self.batch) {
            let nll = decoder.nll(&decoder.tokens(windows)?)?;
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
        cuts: PassCuts::whole(usize::MAX),
        model_digest: Digest::of_bytes(b""),
        calibration_digest: Digest::of_bytes(b""),
        seed: 0,
    };
    Ok(collect(decoder, samples, &options, &|_, _| {})?)
}
