//! `run`: all of AdaPruner from one configuration file.

use std::{
    ffi::OsString,
    fmt,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use adapruner::{
    compare_models::{Comparison, markdown},
    compensation,
    manifest::ModelRecord,
    masks::{self, MaskSamples},
    pipeline, recover,
    settings::TextSettings,
    whole::{
        self, Finished, Inputs, Pipeline, RECORD, RUN, RUN_LOCK, RunRecord, Stage, StageName,
        StageState, Table, recorded,
    },
};
use adapruner_checkpoint::{Checkpoint, Digest, atomic::Files, text::TokenSet};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{Cli, Perform, Session};
use crate::{
    children,
    config_file::ConfigFile,
    failure::advised,
    interrupt::{self, PARENT},
    pipeline_args::template,
    printer::{Printer, bytes, table},
    recover_args::RecoverArgs,
    terminal::say,
    workers::{STAGE_LOCK, ask_to_end, wait_for},
};

/// Search, prune, recover, evaluate and report, from one configuration file.
///
/// Runs one command of this program per stage, with the same file. Finished stages are not
/// repeated, and interrupted ones resume. --init writes a configuration for a model, with every
/// line explained.
///
/// Example: adapruner run pruning.toml --init MODEL
///
/// Example: adapruner run pruning.toml
#[derive(Debug, Args)]
pub struct RunCommand {
    /// Configuration file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Write a configuration for this model and run nothing
    #[arg(long, value_name = "MODEL")]
    init: Option<PathBuf>,
    /// Replace the configuration if it exists
    #[arg(long, requires = "init")]
    force: bool,
    /// Print the commands, which of their stages are done, and why others run again; run nothing
    #[arg(long, conflicts_with = "init")]
    dry_run: bool,
    /// Accept training data, calibration text or compensation text that shares passages with a
    /// test text
    #[arg(long, conflicts_with = "init")]
    allow_overlap: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    #[serde(flatten)]
    record: &'a RunRecord,
    /// Stages that an earlier run finished.
    skipped: Vec<String>,
}

impl Perform for RunCommand {
    fn json(&self) -> bool {
        self.json
    }

    fn files(&self) -> Result<Files> {
        if let Some(model) = &self.init {
            let files = Files::new().read("--init", model);
            return Ok(files.file("CONFIG", &self.config, self.force));
        }
        let file = ConfigFile::read(Some(&self.config))?;
        let pipeline = file.pipeline.resolve(&self.config, &file)?;
        let files = Files::new().read("CONFIG", &self.config).read("model", &pipeline.model);
        let tests = pipeline.tests.iter();
        let files = tests.fold(files, |files, test| files.read("tests", test));
        Ok(files.state("out", &pipeline.out, &RUN))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &RunCommand, session: &Session) -> Result<()> {
    let printer = Printer::new(args.json);
    if let Some(model) = &args.init {
        return init(args, model, (session, printer));
    }
    let file = ConfigFile::read(Some(&args.config))?;
    let mut pipeline = file.pipeline.resolve(&args.config, &file)?;
    pipeline.allow_overlap |= args.allow_overlap;
    let stages = pipeline.commands();
    let path = pipeline.out.join(RECORD);
    let earlier = RunRecord::read(&path)?;
    let tables = file.tables()?;
    if args.dry_run {
        let states = match &earlier {
            // Nothing is opened, or fetched, of which nothing can be done.
            None => vec![StageState::Open; stages.len()],
            Some(record) => {
                let digest = session.open("model", &pipeline.model)?.digest()?;
                let inputs = inputs(&stages, &digest, &tables)?;
                let all = stages.iter().zip(&inputs);
                all.map(|(stage, inputs)| record.state(stage, inputs)).collect::<Result<_, _>>()?
            }
        };
        let planned: Vec<_> = stages.iter().zip(states).map(Planned::of).collect();
        return printer.result(&planned, |planned| {
            planned.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        });
    }
    let checkpoint = session.open("model", &pipeline.model)?;
    let model = ModelRecord::of(&checkpoint)?;
    let config = serde_json::to_value(&file)?;
    let inputs = inputs(&stages, &model.digest, &tables)?;
    let mut record = match earlier {
        Some(earlier) => RunRecord { config, model, ..earlier },
        None => RunRecord::new(model, config),
    };
    let mut open = Vec::new();
    for (stage, inputs) in stages.iter().zip(&inputs) {
        open.extend((record.state(stage, inputs)? != StageState::Done).then_some(stage));
    }
    if !open.is_empty() {
        check_tests(&checkpoint, &pipeline, &file)?;
    }
    drop(checkpoint);
    let folder = session.writer.state(&pipeline.out)?;
    // What cannot be written is known before hours of work.
    open.into_iter().try_for_each(claim)?;
    // Of a run that was killed, the stage may still be about to end.
    let _alone = wait_for(&pipeline.out.join(RUN_LOCK), "another run")?;
    let stage_lock = pipeline.out.join(whole::STAGE_LOCK);
    drop(wait_for(&stage_lock, "the stage of an earlier run")?);
    let mut skipped = Vec::new();
    for (stage, inputs) in stages.iter().zip(inputs) {
        let state = record.state(stage, &inputs)?;
        if state == StageState::Done {
            skipped.push(stage.name.to_string());
        } else {
            if let StageState::Stale(why) = state {
                tracing::info!("{} runs again: {why}", stage.name);
            }
            let finished = execute(stage, inputs, (&stage_lock, session))?;
            record.finish(stage.name, finished);
            record.write(&folder)?;
        }
    }
    let report = Report { out: &pipeline.out, record: &record, skipped };
    printer.result(&report, text)
}

/// What decides each stage's result.
///
/// # Errors
/// A file that is named and cannot be read.
fn inputs(stages: &[Stage], model: &Digest, tables: &[(Table, Value)]) -> Result<Vec<Inputs>> {
    let mut all: Vec<Inputs> = Vec::new();
    for stage in stages {
        let before = all.last().map(Inputs::fingerprint).transpose()?;
        all.push(Inputs::of(stage, model, tables, before)?);
    }
    Ok(all)
}

/// A stage of a dry run.
#[derive(Serialize)]
struct Planned {
    stage: String,
    #[serde(flatten)]
    state: StageState,
    command: String,
}

impl Planned {
    fn of((stage, state): (&Stage, StageState)) -> Self {
        Self { stage: stage.name.to_string(), state, command: command_line(stage) }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "# {}: {}\n{}", self.stage, self.state, self.command)
    }
}

/// Checks what a stage reads and writes as the stage itself will.
///
/// # Errors
/// Overlaps, outputs that may not be replaced.
fn claim(stage: &Stage) -> Result<()> {
    let program = std::iter::once(OsString::from("adapruner"));
    let words = program.chain(stage.arguments.iter().cloned());
    let cli = Cli::read(words).with_context(|| format!("{}: its command", stage.name))?;
    let files = cli.command.as_perform().files()?;
    files.claim().with_context(|| stage.name.to_string())?;
    Ok(())
}

/// Refuses test texts that share passages with the data of a later stage, before the first
/// stage has run for hours.
fn check_tests(checkpoint: &Checkpoint, pipeline: &Pipeline, file: &ConfigFile) -> Result<()> {
    if pipeline.allow_overlap || pipeline.tests.is_empty() {
        return Ok(());
    }
    let has = |stage| pipeline.stages.contains(&stage);
    let tests = pipeline::test_tokens(checkpoint, &file.eval.tests(pipeline.tests.iter()))?;
    let check = |role: &str, samples: &TokenSet| {
        tests.iter().try_for_each(|test| pipeline::check_overlap(test, (role, samples), false))
    };
    if has(StageName::Prune) {
        if let Some(masks) = file.masks.resolve(&file.calibration, &file.eval)? {
            let MaskSamples { train, held_out } = masks::samples(checkpoint, &masks)?;
            check("the text that masks are learned on,", &train)?;
            check("the text that masks are learned on,", &held_out)?;
        }
        if let Some(fit) = file.compensation.resolve(&file.calibration, &file.eval)? {
            check("the text that is fitted on,", &compensation::tokens(checkpoint, &fit)?)?;
        }
        // A search checks its pool itself, which it draws in its own way.
        let calibration = file.calibration.resolve(&file.eval)?;
        if let Some(calibration) = calibration.filter(|_| !has(StageName::Search)) {
            let samples = pipeline::calibration_tokens(checkpoint, &calibration)?;
            check("the calibration set", &samples)?;
        }
    }
    if let (true, Some(data)) = (has(StageName::Recover), &file.recover.data) {
        let RecoverArgs { field, data_dir, .. } = &file.recover;
        let data =
            TextSettings { text: data.clone(), field: field.clone(), data_dir: data_dir.clone() };
        let data = recover::read_data(checkpoint, &data, &file.recover.records())?;
        recover::check_tests(&tests, &data, file.recover.allow_overlap.unwrap_or(false))?;
    }
    Ok(())
}

/// A command as it can be typed.
fn command_line(stage: &Stage) -> String {
    format!("adapruner {}", recorded(&stage.arguments).join(" "))
}

/// Runs a stage in a process of its own, which ends when this one does.
fn execute(stage: &Stage, inputs: Inputs, (lock, session): (&Path, &Session)) -> Result<Finished> {
    let stop = interrupt::graceful();
    let start = Instant::now();
    say(&command_line(stage));
    let mut child = children::this_program()?
        .args(&stage.arguments)
        .args((!session.verify).then_some("--no-verify"))
        .args(["--progress", session.progress.name()])
        .env(PARENT, "1")
        .env(STAGE_LOCK, lock)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{}: cannot start", stage.name))?;
    let mut stdout = child.stdout.take().context("a stage without an output")?;
    let reader = thread::spawn(move || {
        let mut said = String::new();
        stdout.read_to_string(&mut said).map(|_| said)
    });
    let mut asked = false;
    let status = loop {
        if stop.load(Ordering::Relaxed) && !asked {
            ask_to_end(&mut child);
            asked = true;
        }
        match child.try_wait().with_context(|| format!("{}: cannot wait", stage.name))? {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(100)),
        }
    };
    if stop.load(Ordering::Relaxed) {
        interrupt::exit();
    }
    interrupt::at_once();
    if !status.success() {
        return Err(advised(
            format!("{}: the stage failed ({status})", stage.name),
            "what was done before it stays; fix the cause and run the same command again",
        ));
    }
    let said = match reader.join() {
        Ok(said) => said.with_context(|| format!("{}: cannot read its result", stage.name))?,
        Err(_) => bail!("{}: its result was not read", stage.name),
    };
    Ok(Finished {
        stage: stage.name.to_string(),
        command: recorded(&stage.arguments),
        fingerprint: inputs.fingerprint()?,
        inputs: Some(inputs),
        seconds: start.elapsed().as_secs_f64(),
        result: serde_json::from_str(&said)
            .with_context(|| format!("{}: its result is no JSON", stage.name))?,
    })
}

/// Writes a configuration for a model.
fn init(args: &RunCommand, model: &Path, (session, printer): (&Session, Printer)) -> Result<()> {
    let checkpoint = session.open("--init", model)?;
    let text = template(model, &checkpoint.config);
    session.writer.file(&args.config)?.write(text.as_bytes())?;
    printer.result(&args.config.display().to_string(), |path| {
        table(&[
            ("written", format!("{path} ({})", bytes(text.len() as u64))),
            ("next", format!("look at the texts it names, then: adapruner run {path}")),
        ])
    })
}

fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    for finished in &report.record.stages {
        let again = if report.skipped.contains(&finished.stage) { ", done before" } else { "" };
        out.push_str(&format!("{:<10}{:>8.0} s{again}\n", finished.stage, finished.seconds));
    }
    let measured = report.record.stages.iter().find(|f| f.stage == "evaluate");
    if let Some(comparison) =
        measured.and_then(|f| serde_json::from_value::<Comparison>(f.result.clone()).ok())
    {
        out.push_str(&format!("\n{}", markdown(&comparison)));
    }
    out + &format!("\neverything is in {}\n", report.out.display())
}
