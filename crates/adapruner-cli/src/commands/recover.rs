//! `recover`: fine-tunes a pruned model to recover quality.

use std::iter;

use adapruner::{
    manifest::{Manifest, RecoveryRecord},
    memory, outputs,
    recover::{self, RecoverSettings, Recovered, Work},
};
use adapruner_checkpoint::{
    Checkpoint, Error as FileError,
    atomic::{Files, StagedDir},
    output::OutputFile,
};
use adapruner_recover::{memory::MemoryEstimate, peft, train::Ended};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session, required};
use crate::{
    args::RunArgs,
    bars::Bars,
    combine::Combine,
    failure::advised,
    interrupt,
    output_args::OutputArgs,
    printer::{bytes, grouped, table},
    recover_args::RecoverArgs,
};

/// Fine-tune a pruned model on instructions, conversations or text.
///
/// With --method lora, --out gets the adapter in PEFT's format (adapter/), and with --format
/// also the merged model; with --method full, the model. The same command resumes a stopped or
/// killed training from its last saved state.
///
/// Example: adapruner recover SMALLER --data alpaca.json --out RECOVERED --format hf,gguf
#[derive(Debug, Args)]
pub struct RecoverCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    recover: RecoverArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Folder of the adapter in the output.
const ADAPTER: &str = "adapter";

#[derive(Serialize)]
struct Report {
    recovery: RecoveryRecord,
    memory_estimate: MemoryEstimate,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Manifest>,
    peak_memory_bytes: Option<u64>,
}

impl RecoverCommand {
    fn settings(&self) -> Result<RecoverSettings> {
        let file = self.common.file()?;
        let args = self.recover.over(&file.recover);
        let typed = self.output.over(&file.output);
        let mut output = required(typed.resolve())?;
        let run = self.run.over(&file.run).resolve()?;
        let lora = args.method.is_none_or(|m| m.0 == Default::default());
        if lora && typed.format.is_none() {
            output.stored.formats.clear();
        }
        args.resolve(run, output)
    }
}

impl Perform for RecoverCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let file = self.common.file()?;
        let output = self.output.over(&file.output);
        let files =
            self.recover.over(&file.recover).files(self.common.files(), output.out.as_deref());
        Ok(output.files(files))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &RecoverCommand, session: &Session) -> Result<()> {
    let settings = args.settings()?;
    let bars = session.bars();
    let checkpoint = args.common.open(session)?;
    outputs::check_fits(&settings.output.stored, &checkpoint.config, outputs::Planned::default())?;
    if settings.output.stored.formats.is_empty()
        && let Some(fused) = fused(&checkpoint)
    {
        return Err(advised(
            format!("format: an adapter alone cannot be written: transformers holds {fused}"),
            "write the merged model: --format hf",
        ));
    }
    // Known before any work whether it can be written; begun again at the end,
    // so that a training that is killed leaves no hidden folder.
    drop(session.writer.folder(&settings.output.out)?);
    let data = recover::data(&checkpoint, &settings)?;
    let teacher = settings.teacher.as_ref();
    let teacher = teacher.map(|path| session.open("--teacher", path)).transpose()?;
    let placement = settings.run.placement(iter::once(&checkpoint).chain(&teacher))?;
    let work = Work::open(session.writer.state(&settings.work)?)?;
    let stop = interrupt::graceful();
    let told = (&placement, stop);
    let recovered =
        recover::train(&checkpoint, &data, teacher.as_ref(), &settings, &work, told, &bars)?;
    interrupt::at_once();
    let Some(recovered) = recovered else { interrupt::exit() };
    let Recovered { record, memory: estimate, .. } = &recovered;
    let ended = record.outcome.ended;
    let mut report = Report {
        recovery: record.clone(),
        memory_estimate: *estimate,
        manifest: None,
        peak_memory_bytes: None,
    };
    if ended != Ended::Interrupted {
        let staged = session.writer.folder(&settings.output.out)?;
        report.manifest = Some(write(&checkpoint, recovered, &settings, (&work, staged), &bars)?);
        if !settings.keep_work {
            work.remove();
        }
    }
    report.peak_memory_bytes = memory::peak();
    args.common.printer().result(&report, |report| text(report, &settings))?;
    if ended == Ended::Interrupted {
        interrupt::exit();
    }
    Ok(())
}

/// The matrices that adapters would be beside and that transformers holds as one, in words.
fn fused(checkpoint: &Checkpoint) -> Option<String> {
    let family = checkpoint.config.family();
    let fused: Vec<&str> = family.fused.iter().map(|fused| fused.name.hf).collect();
    let one = || format!("{} of {} as one matrix each", fused.join(" and "), family.title);
    (!fused.is_empty()).then(one)
}

fn write(
    checkpoint: &Checkpoint,
    recovered: Recovered,
    settings: &RecoverSettings,
    (work, staged): (&Work, StagedDir),
    bars: &Bars,
) -> Result<Manifest> {
    let mut manifest = Manifest::new("recover", settings, checkpoint)?;
    let mut notes = Vec::new();
    let fused = recovered.adapter.as_ref().and_then(|_| fused(checkpoint));
    if let Some(fused) = fused {
        notes.push(format!(
            "the adapter is merged into the model and not written: transformers holds {fused}"
        ));
    } else if let Some(adapter) = &recovered.adapter {
        let folder = staged.path().join(ADAPTER);
        std::fs::create_dir(&folder).map_err(FileError::io(&folder, "create"))?;
        // Found from any folder; a hub id stays one.
        let base = checkpoint.origin.canonicalize().unwrap_or_else(|_| checkpoint.origin.clone());
        let base = base.to_string_lossy();
        for mut file in peft::write(adapter, &checkpoint.config, &base, &folder)? {
            file.name = format!("{ADAPTER}/{}", file.name);
            manifest.files.push(file);
        }
    }
    let log = staged.path().join(recover::OUTPUT_LOG);
    std::fs::copy(work.log(), &log).map_err(FileError::io(&log, "write"))?;
    manifest.files.push(OutputFile::of(&log)?);
    manifest.warnings = recover::warnings(&recovered.record, work)?;
    manifest.warnings.extend(notes);
    manifest.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    manifest.recovery = Some(recovered.record);
    Ok(outputs::finish(staged, &recovered.model, &settings.output, manifest, bars)?)
}

fn text(report: &Report, settings: &RecoverSettings) -> String {
    let RecoveryRecord { data, teacher, learned_parameters, outcome } = &report.recovery;
    let counts = &data.counts;
    let position = &outcome.position;
    let mut rows = vec![
        (
            "data",
            format!(
                "{}: {} sequences, {} tokens, {} learned; {} for validation",
                data.name,
                grouped(counts.sequences as u64),
                grouped(counts.tokens as u64),
                grouped(counts.learned as u64),
                grouped(counts.validation_sequences as u64)
            ),
        ),
        (
            "left out",
            format!(
                "{} without an answer, {} with nothing left to learn; {} cut, {} tokens of theirs",
                counts.empty, counts.nothing_to_learn, counts.cut, counts.tokens_cut
            ),
        ),
        ("learned", format!("{} parameters", grouped(*learned_parameters))),
    ];
    if let Some(teacher) = teacher {
        let path = teacher.path.display();
        let hidden = settings.train.distillation.and_then(|d| d.hidden);
        let how = match hidden {
            Some(weight) => {
                format!("ran in every step, block outputs matched with weight {weight}")
            }
            None => "top logits cached before training".to_owned(),
        };
        rows.push(("teacher", format!("{path}: {how}")));
    }
    rows.push((
        "steps",
        format!(
            "{} of {}, {} tokens in {:.0} s ({})",
            position.step,
            outcome.planned_steps,
            grouped(position.tokens),
            position.seconds,
            match outcome.ended {
                Ended::Finished => "finished",
                Ended::EarlyStopped => "stopped early",
                Ended::TimeUp => "time is up",
                Ended::Interrupted => "interrupted; the same command resumes",
            }
        ),
    ));
    if let Some(best) = position.best {
        let before = outcome.validation_before.map(|loss| format!("{loss:.4} → "));
        let before = before.unwrap_or_default();
        rows.push((
            "validation",
            format!("{before}{:.4} nats per token after step {}", best.loss, best.step),
        ));
    }
    if let Some(manifest) = &report.manifest {
        for file in &manifest.files {
            rows.push(("written", format!("{} ({})", file.name, bytes(file.bytes))));
        }
        for warning in &manifest.warnings {
            rows.push(("warning", warning.clone()));
        }
    }
    rows.push(("memory estimate", bytes(report.memory_estimate.total())));
    if let Some(peak) = report.peak_memory_bytes {
        rows.push(("peak memory", bytes(peak)));
    }
    table(&rows)
}
