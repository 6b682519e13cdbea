//! Our side, in process.

use std::time::Instant;

use adapruner_checkpoint::{Checkpoint, Digest};
use adapruner_model::{
    Decoder, GradientObserver, Placement, ProjectionGrad, Residency, observe_gradients,
};
use adapruner_prune::bank::{CollectOptions, Terms, collect};
use anyhow::Result;
use candle_core::{DType, Result as CandleResult};

use super::{Args, Pass, Run};

/// A loaded model and what it runs on.
pub struct Ours {
    decoder: Decoder,
    windows: Vec<Vec<u32>>,
    samples: Vec<Vec<u32>>,
    batch: usize,
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
    /// Reads the weights as f32.
    pub fn load(args: &Args, windows: Vec<Vec<u32>>, samples: Vec<Vec<u32>>) -> Result<Self> {
        let checkpoint = Checkpoint::open(&args.model)?;
        let decoder = Decoder::load(&checkpoint, &Placement::cpu(), Residency::Resident)?;
        Ok(Self { decoder, windows, samples, batch: args.batch })
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
                let options = CollectOptions {
                    terms: Terms::Full,
                    batch: true,
                    batch_tokens: usize::MAX,
                    model_digest: Digest::of_bytes(b""),
                    calibration_digest: Digest::of_bytes(b""),
                    seed: 0,
                };
                let bank = collect(&self.decoder, &self.samples, &options, &|_, _| {})?;
                (tokens(&self.samples), mean(&bank.header().losses))
            }
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

/// Largest resident set of this process in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
