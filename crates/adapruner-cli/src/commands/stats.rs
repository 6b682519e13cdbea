//! `stats`: collects the statistics of a calibration set.

use std::path::PathBuf;

use adapruner::{
    VERSION, memory, pipeline,
    pipeline::TokensRecord,
    settings::{CalibrationSettings, RunSettings},
};
use adapruner_checkpoint::{Digest, atomic::Files};
use adapruner_prune::{Footprint, Terms};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{CommonArgs, Perform, Session};
use crate::{
    args::{CalibrationArgs, EvalArgs, RunArgs},
    combine::Combine,
    failure::advised,
    printer::{bytes, grouped, table},
    typed::Real,
};

/// Collect the statistics of a calibration set into a file.
///
/// Collects Taylor terms and the activation sums of pruned columns in one forward and one
/// backward pass, block by block, with the samples in groups that fit --memory; the result does
/// not depend on the groups. `prune --stats FILE` then scores in milliseconds. --terms
/// activations needs only a forward pass and is enough for `prune --importance wanda` and
/// `flap`.
///
/// Example: adapruner stats MODEL --calibration texts.jsonl --samples 128 --stats bank.safetensors
#[derive(Debug, Args)]
pub struct StatsCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Per-sample terms: activations (only a forward pass, for wanda and flap), coarse (also
    /// vector sums) or full (also element and Fisher sums)
    #[arg(long, value_enum, default_value_t = TermsChoice::Full)]
    terms: TermsChoice,
    /// Leave out the whole-set terms, which param_first and param_mix need
    #[arg(long)]
    no_batch: bool,
    /// Memory limit in GiB: samples run in groups that fit, and a run that cannot fit is
    /// refused [default: the machine's free memory]
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    memory: Option<Real>,
    /// Tokens per batch [default: chosen by free memory]
    #[arg(long, value_name = "N")]
    batch_tokens: Option<usize>,
    /// Folder to search for named sets before the hub
    #[arg(long, value_name = "DIR", env = "ADAPRUNER_DATA")]
    data_dir: Option<PathBuf>,
    /// Replace the statistics file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TermsChoice {
    Activations,
    Coarse,
    Full,
}

#[derive(Serialize)]
struct Report {
    /// Estimated memory of the collection, part by part.
    memory_estimate: Footprint,
    /// Bytes of it at most.
    memory_estimate_bytes: u64,

    stats: String,
    stats_bytes: u64,
    model: String,
    model_digest: Digest,
    calibration: TokensRecord,
    seed: u64,
    terms: Terms,
    batch: bool,
    vectors: usize,
    mean_loss: f64,
    seconds: f64,
    tokens_per_second: f64,
    peak_memory_bytes: Option<u64>,
    settings: CalibrationSettings,
    run: RunSettings,
    version: &'static str,
}

impl Perform for StatsCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let file = self.common.file()?;
        let calibration = self.calibration.over(&file.calibration);
        let files = calibration.files(self.common.files());
        let folder = self.data_dir.as_ref().or(file.eval.data_dir.as_ref());
        let files = folder.into_iter().fold(files, |files, path| files.search("--data-dir", path));
        let stats = calibration.stats.iter();
        Ok(stats.fold(files, |files, stats| files.file("--stats", stats, self.force)))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &StatsCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let run = args.run.over(&file.run).resolve()?;
    let typed = CalibrationArgs { memory: args.memory, ..args.calibration.clone() };
    let calibration = typed.over(&file.calibration);
    let typed = EvalArgs {
        batch_tokens: args.batch_tokens,
        data_dir: args.data_dir.clone(),
        ..EvalArgs::default()
    };
    let settings = calibration.resolve(&typed.over(&file.eval))?.ok_or_else(|| {
        advised("calibration: missing", "name a calibration text: --calibration FILE")
    })?;
    let Some(path) = calibration.stats else {
        return Err(advised("stats: missing", "name a file to write: --stats FILE"));
    };
    let checkpoint = args.common.open(session)?;
    let placement = run.placement([&checkpoint])?;
    let tokens = pipeline::calibration_tokens(&checkpoint, &settings)?;
    let terms = match args.terms {
        TermsChoice::Activations => (Terms::Activations, false),
        TermsChoice::Coarse => (Terms::Coarse, false),
        TermsChoice::Full => (Terms::Full, !args.no_batch),
    };
    let start = std::time::Instant::now();
    let (bank, cut) = pipeline::collect_statistics(
        &checkpoint,
        &tokens,
        &settings,
        terms,
        &placement,
        &session.bars(),
    )?;
    let seconds = start.elapsed().as_secs_f64();
    pipeline::write_statistics(&bank, session.writer.file(&path)?)?;
    let header = bank.header();
    let report = Report {
        memory_estimate: cut.footprint,
        memory_estimate_bytes: cut.footprint.total(),
        stats_bytes: std::fs::metadata(&path).map_or(0, |m| m.len()),
        stats: path.display().to_string(),
        model: args.common.model.display().to_string(),
        model_digest: header.model_digest,
        calibration: TokensRecord::of(&tokens),
        seed: header.seed,
        terms: header.terms,
        batch: header.batch,
        vectors: bank.layout().len(),
        mean_loss: header.losses.iter().sum::<f64>() / header.losses.len() as f64,
        seconds,
        tokens_per_second: header.tokens() as f64 / seconds,
        peak_memory_bytes: memory::peak(),
        settings,
        run,
        version: VERSION,
    };
    args.common.printer().result(&report, text)
}

fn text(r: &Report) -> String {
    let (samples, tokens) = (r.calibration.windows, r.calibration.window);
    table(&[
        ("model", r.model.clone()),
        ("calibration", format!("{samples} samples of {tokens} tokens of {}", r.calibration.text)),
        ("mean loss", format!("{:.5} nats per predicted token", r.mean_loss)),
        ("vectors", format!("{} rows and columns", grouped(r.vectors as u64))),
        ("speed", format!("{:.0} tokens/s ({:.1} s)", r.tokens_per_second, r.seconds)),
        ("memory estimate", bytes(r.memory_estimate_bytes)),
        ("peak memory", r.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), bytes)),
        ("written", format!("{} ({})", r.stats, bytes(r.stats_bytes))),
    ])
}
