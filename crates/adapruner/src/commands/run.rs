//! `run`: the whole of AdaPruner from one file.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use adapruner::{
    advice::advised,
    compare_models::{Comparison, markdown},
    compensation,
    manifest::ModelRecord,
    pipeline, recover,
    settings::TextSettings,
    whole::{Fingerprint, Finished, Pipeline, RunRecord, Stage, StageName, recorded},
};
use adapruner_checkpoint::{Checkpoint, atomic::StagedFile, text::TokenSet};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::{
    config_file::ConfigFile,
    interrupt::{self, PARENT},
    pipeline_args::template,
    printer::{Printer, bytes, table},
    recover_args::RecoverArgs,
    terminal::say,
};

/// Search, prune, recover, evaluate and report, from one configuration file.
///
/// Each stage is a command of this program with the same file, run after the
/// other; what is done is not done again, what was interrupted goes on. --init
/// writes a configuration for a model, with every line explained.
///
/// Example: adapruner run pruning.toml --init MODEL
///
/// Example: adapruner run pruning.toml
#[derive(Debug, Args)]
pub struct RunCommand {
    /// Configuration file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Write a configuration for this model, run nothing
    #[arg(long, value_name = "MODEL")]
    init: Option<PathBuf>,
    /// Replace the configuration if it exists
    #[arg(long, requires = "init")]
    force: bool,
    /// Show the commands, run nothing
    #[arg(long, conflicts_with = "init")]
    dry_run: bool,
    /// Go on though training data or a text that is fitted or calibrated on share
    /// passages with a test text
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
    /// Stages that were done before.
    skipped: Vec<String>,
}

/// Runs the command.
pub fn run(args: &RunCommand) -> Result<()> {
    let printer = Printer::new(args.json);
    if let Some(model) = &args.init {
        return init(args, model, printer);
    }
    let file = ConfigFile::read(Some(&args.config))?;
    let mut pipeline = file.pipeline.resolve(&args.config, &file)?;
    pipeline.allow_overlap |= args.allow_overlap;
    let stages = pipeline.commands();
    if args.dry_run {
        let lines: Vec<String> = stages.iter().map(command_line).collect();
        return printer.result(&lines, |lines| lines.join("\n"));
    }
    let checkpoint = Checkpoint::open(&pipeline.model)?;
    let model = ModelRecord::of(&checkpoint)?;
    let path = pipeline.out.join("run.json");
    let tables = serde_json::to_value(&file)?;
    let mut record = match RunRecord::read(&path)? {
        Some(earlier) => RunRecord { config: tables.clone(), model: model.clone(), ..earlier },
        None => RunRecord::new(model.clone(), tables.clone()),
    };
    if !all_done(&record, &stages, &tables)? {
        check_tests(&checkpoint, &pipeline, &file)?;
    }
    drop(checkpoint);
    std::fs::create_dir_all(&pipeline.out)
        .with_context(|| format!("{}: cannot make the folder", pipeline.out.display()))?;
    let (mut before, mut skipped) = (None, Vec::new());
    for stage in &stages {
        let fingerprint = Fingerprint::of(stage, &model.digest, &tables, before.as_ref())?;
        if record.done(stage, &fingerprint).is_some() {
            skipped.push(stage.name.to_string());
        } else {
            let finished = execute(stage, fingerprint)?;
            record.finish(stage.name, finished);
            record.write(&path)?;
        }
        before = Some(fingerprint);
    }
    let report = Report { out: &pipeline.out, record: &record, skipped };
    printer.result(&report, text)
}

/// Whether nothing is left to be run.
fn all_done(record: &RunRecord, stages: &[Stage], tables: &serde_json::Value) -> Result<bool> {
    let mut before = None;
    for stage in stages {
        let fingerprint = Fingerprint::of(stage, &record.model.digest, tables, before.as_ref())?;
        if record.done(stage, &fingerprint).is_none() {
            return Ok(false);
        }
        before = Some(fingerprint);
    }
    Ok(true)
}

/// Refuses test texts that share passages with what a later stage learns from,
/// before the first stage has run for hours.
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
        if let Some(fit) = file.compensation.resolve(&file.calibration, &file.eval)? {
            check("the text that is fitted on,", &compensation::tokens(checkpoint, &fit)?)?;
        }
        // A search checks its pool itself, which it draws in its own way.
        let calibration = file.calibration.resolve(&file.eval);
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
        recover::check_tests(&tests, &data, file.recover.allow_overlap)?;
    }
    Ok(())
}

/// A command as one would type it.
fn command_line(stage: &Stage) -> String {
    format!("adapruner {}", recorded(&stage.arguments).join(" "))
}

/// Runs a stage in a process of its own, which ends when this one does.
fn execute(stage: &Stage, fingerprint: Fingerprint) -> Result<Finished> {
    let stop = interrupt::graceful();
    let start = Instant::now();
    say(&command_line(stage));
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(program)
        .args(&stage.arguments)
        .env(PARENT, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{}: cannot start", stage.name))?;
    let mut stdout = child.stdout.take().context("a stage without an output")?;
    let reader = thread::spawn(move || {
        let mut said = String::new();
        stdout.read_to_string(&mut said).map(|_| said)
    });
    let status = loop {
        if stop.load(Ordering::Relaxed) {
            drop(child.stdin.take());
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
            "what was done before it stays; mend the cause and run the same command again",
        ));
    }
    let said = match reader.join() {
        Ok(said) => said.with_context(|| format!("{}: cannot read its result", stage.name))?,
        Err(_) => bail!("{}: its result was not read", stage.name),
    };
    Ok(Finished {
        stage: stage.name.to_string(),
        command: recorded(&stage.arguments),
        fingerprint,
        seconds: start.elapsed().as_secs_f64(),
        result: serde_json::from_str(&said)
            .with_context(|| format!("{}: its result is no JSON", stage.name))?,
    })
}

/// Writes a configuration for a model.
fn init(args: &RunCommand, model: &Path, printer: Printer) -> Result<()> {
    let checkpoint = Checkpoint::open(model)?;
    let staged = StagedFile::new(&args.config, args.force, &[&checkpoint.origin])?;
    let text = template(model, &checkpoint.config);
    std::fs::write(staged.path(), &text)
        .with_context(|| format!("{}: cannot write", args.config.display()))?;
    staged.commit()?;
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
