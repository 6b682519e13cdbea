//! `apply`: applies an existing plan or the result of a search.

mod budget;
mod of_study;
mod planned;

use std::path::PathBuf;

use adapruner::{
    footprint::Footprint,
    kv_cache::{CacheRecord, CacheTarget},
    manifest::{LearnedTrial, Manifest, StudyRecord},
    masks::{self, LearnedRecord},
    outputs::{self, OutputSettings},
    pipeline,
    settings::{CompensationSettings, MaskSettings, RunSettings},
    target::Target,
};
use adapruner_checkpoint::{
    Checkpoint,
    atomic::{Files, StagedDir},
};
use adapruner_model::Placement;
use adapruner_prune::{PrunePlan, Scores};
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use self::{
    budget::Budgets,
    of_study::of_study,
    planned::{Shown, Tokens, show, whole},
};
use super::{CommonArgs, Perform, Session, learned::Samples, required};
use crate::{
    args::{CalibrationArgs, CompensationArgs, EvalArgs, RunArgs},
    bars::Bars,
    budget_args::{BudgetArgs, SpeedArgs},
    combine::Combine,
    config_file::ConfigFile,
    failure::advised,
    mask_args::MaskArgs,
    output_args::OutputArgs,
    printer::table,
    terminal::warn,
    typed::{Count, Proportion, Real, Size},
};

/// Apply a plan, or the best trial of a study.
///
/// A plan is a manifest.json of `prune`, or the `full_plan` of `prune --dry-run --json`, and
/// fits only the model it was made for. A study may be of another model of the family:
/// statistics of the same samples are then collected on this one, and settings that could not
/// be transferred are reported. --ratio applies a study's trial at another ratio than the
/// search; of a study of several objectives (search --objectives) it takes the nearest point of
/// the front, as do --target-params, --target-size and --target-speedup. --target-kv-cache cuts
/// the attention of a trial as far as needed, or takes a point that fits. --learn-masks learns by gradient which
/// units stay, within the widths of the plan. --compensate refits the remaining weights on a text.
///
/// Example: adapruner apply MODEL --study STUDY --out SMALLER
///
/// Example: adapruner apply MODEL --study STUDY --format gguf --gguf-type q8_0 --dry-run
///
/// Example: adapruner apply MODEL --study FRONT --target-params 110M --out SMALLER
///
/// Example: adapruner apply MODEL --study FRONT --target-speedup 1.3 --out SMALLER
///
/// Example: adapruner apply MODEL --study STUDY --learn-masks 60 --learn-top 3 --mask-text texts.jsonl --out SMALLER
#[derive(Debug, Args)]
pub struct ApplyCommand {
    #[command(flatten)]
    common: CommonArgs,
    /// Plan, or a manifest that contains one
    #[arg(long, value_name = "FILE", required_unless_present = "study", conflicts_with = "study")]
    plan: Option<PathBuf>,
    /// Folder of a study
    #[arg(long, value_name = "DIR")]
    study: Option<PathBuf>,
    /// Name of the study in the folder [default: the one with the best trial]
    #[arg(long, value_name = "NAME", requires = "study")]
    study_name: Option<String>,
    /// Redis URL of the trials, as given to search
    #[arg(long, value_name = "URL", requires = "study")]
    storage: Option<String>,
    /// Number of the trial [default: the best one]
    #[arg(long, value_name = "NUMBER", requires = "study", conflicts_with = "learn_top")]
    trial: Option<u64>,
    /// Share of all parameters to remove [default: the study's]; of several objectives: take the
    /// nearest point of the front that removes at least so much
    #[arg(long, requires = "study", allow_negative_numbers = true)]
    ratio: Option<Proportion>,
    /// Number of parameters to keep, instead of --ratio: 100M, 1.2B or 90000000; of several
    /// objectives: take the nearest point of the front that has no more
    #[arg(long, value_name = "PARAMETERS", requires = "study", conflicts_with = "ratio")]
    target_params: Option<Count>,
    /// Maximum bytes of the written model, 80MB, 1.5GiB or a number, for a study of several
    /// objectives: take the nearest point of the front that fits
    #[arg(
        long,
        value_name = "SIZE",
        requires = "study",
        conflicts_with_all = ["ratio", "target_params", "trial"]
    )]
    target_size: Option<Size>,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    speed: SpeedArgs,
    #[command(flatten)]
    masks: MaskArgs,
    #[command(flatten)]
    compensation: CompensationArgs,
    /// Seed of the samples for masks and compensation [default: 42]
    #[arg(long, value_name = "N", help_heading = "Compensation")]
    seed: Option<u64>,
    /// Folder to search for named sets before the hub
    #[arg(long, value_name = "DIR", env = "ADAPRUNER_DATA", help_heading = "Compensation")]
    data_dir: Option<PathBuf>,
    /// Test text of the model: texts for masks and compensation that share passages with it are
    /// refused; repeatable
    #[arg(long, value_name = "FILE|SET", help_heading = "Compensation")]
    test: Vec<String>,
    /// Accept texts for masks and compensation that share passages with a test text
    #[arg(long, help_heading = "Compensation")]
    allow_overlap: bool,
    #[command(flatten)]
    output: OutputArgs,
    /// Print the plan and the size, write nothing: no masks are learned and nothing is compensated
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    #[command(flatten)]
    run: RunArgs,
    /// Memory limit in GiB for masks and compensation; a run that needs more is refused
    /// [default: the machine's free memory]
    #[arg(long, value_name = "GIB", allow_negative_numbers = true, help_heading = "Running")]
    memory: Option<Real>,
}

#[derive(Serialize)]
struct Settings<'a> {
    plan: &'a Option<PathBuf>,
    study: &'a Option<PathBuf>,
    masks: &'a Option<MaskSettings>,
    compensation: &'a Option<CompensationSettings>,
    output: &'a OutputSettings,
    run: &'a RunSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_cache: &'a Option<CacheTarget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: &'a Option<Target>,
}

/// A plan and the study it comes from.
struct Made {
    /// None if only tokens are removed.
    plan: Option<PrunePlan>,
    /// The scores behind it, if known.
    scores: Option<Scores>,
    study: Option<StudyRecord>,
    /// How the key-value cache was cut, where a share of it was asked for.
    kv_cache: Option<CacheRecord>,
}

impl ApplyCommand {
    fn samples(
        &self,
        file: &ConfigFile,
    ) -> Result<(Option<MaskSettings>, Option<CompensationSettings>)> {
        let typed =
            CalibrationArgs { seed: self.seed, memory: self.memory, ..CalibrationArgs::default() };
        let calibration = typed.over(&file.calibration);
        let typed = EvalArgs { data_dir: self.data_dir.clone(), ..EvalArgs::default() };
        let eval = typed.over(&file.eval);
        let masks = self.masks.over(&file.masks).resolve(&calibration, &eval)?;
        let fit = self.compensation.over(&file.compensation).resolve(&calibration, &eval)?;
        Ok((masks, fit))
    }
}

impl Perform for ApplyCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let file = self.common.file()?;
        let files = self.common.files();
        let files = self.plan.iter().fold(files, |files, path| files.read("--plan", path));
        let files = self.study.iter().fold(files, |files, path| files.read("--study", path));
        let files = self.masks.over(&file.masks).files(files);
        let files = self.compensation.over(&file.compensation).files(files);
        let files = self.speed.over(&file.speed).files(files);
        let files = file.calibration.files(files);
        let files = self.test.iter().fold(files, |files, test| files.read("--test", test));
        let folder = self.data_dir.as_ref().or(file.eval.data_dir.as_ref());
        let files = folder.into_iter().fold(files, |files, path| files.search("--data-dir", path));
        Ok(if self.dry_run { files } else { self.output.over(&file.output).files(files) })
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &ApplyCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    let written = args.output.over(&file.output);
    let stored = written.stored();
    let output = if args.dry_run { None } else { Some(required(written.resolve())?) };
    let run = args.run.over(&file.run).resolve()?;
    let (masks, compensation) = args.samples(&file)?;
    let bars = session.bars();
    let original = args.common.open(session)?;
    outputs::check_fits(&stored, &original.config, outputs::Planned::default())?;
    let mut asked = Budgets::typed(args, &file)?;
    let given = args.plan.as_deref().map(|path| Tokens::read(path, &original)).transpose()?;
    // All that follows is done to the model with the tokens that stay.
    let checkpoint = given.as_ref().map_or_else(|| original.clone(), |of| of.model.clone());
    let layers = given.as_ref().is_none_or(|of| of.layers.is_some());
    if !layers && (masks.is_some() || compensation.is_some()) {
        return Err(advised(
            "plan: it removes only tokens, so there are no masks to learn and nothing to compensate",
            "leave --learn-masks and --compensate out",
        ));
    }
    let begin = |output: OutputSettings| -> Result<(StagedDir, OutputSettings)> {
        Ok((session.writer.folder(&output.out)?, output))
    };
    let staged = output.map(begin).transpose()?;
    let samples = Samples::draw(&checkpoint, masks.as_ref(), compensation.as_ref())?;
    if samples.masks.is_some() || samples.fit.is_some() {
        let typed = EvalArgs { data_dir: args.data_dir.clone(), ..EvalArgs::default() };
        let tests = typed.over(&file.eval).tests(args.test.iter());
        for test in pipeline::test_tokens(&checkpoint, &tests)? {
            samples.check_overlap(&test, args.allow_overlap)?;
        }
    }
    let placement = run.placement([&checkpoint])?;
    let (made, from) = match (&args.plan, &args.study) {
        (Some(path), _) => {
            args.masks.over(&file.masks).refuse_top()?;
            Budgets::refuse_of_a_plan(args)?;
            let plan = given.as_ref().and_then(|of| of.layers.clone());
            (vec![Made { plan, scores: None, study: None, kv_cache: None }], path)
        }
        (None, Some(path)) => {
            let top = args.masks.over(&file.masks).top()?;
            let run = (&placement, session, &bars);
            (of_study(args, (path, top), (&checkpoint, &stored), &mut asked, run)?, path)
        }
        (None, None) => anyhow::bail!("plan: missing"),
    };
    let fits = |plan: &&PrunePlan| plan.validate(&checkpoint.config).is_ok();
    for plan in made.iter().filter_map(|made| made.plan.as_ref()).filter(fits) {
        let pruned = plan.pruned_config(&checkpoint.config);
        outputs::check_fits(&stored, &pruned, outputs::Planned::default())?;
    }
    let named = || from.display().to_string();
    let Some((staged, output)) = staged else {
        let made = made.into_iter().next();
        let (plan, kv_cache) = made.map_or((None, None), |made| (made.plan, made.kv_cache));
        let shown = Shown { stored: &stored, asked: &asked, kv_cache };
        let run = (&placement, &bars);
        return show(args, (&original, &checkpoint), (given, plan), shown, run).with_context(named);
    };
    let run_in = (&placement, session, &bars);
    let (Learned { plan, learned, study, kv_cache }, tried) =
        learn(made, &checkpoint, &samples, run_in).with_context(named)?;
    let (pruned, fitted) = match &plan {
        Some(plan) => samples.apply(&checkpoint, plan, (&placement, &bars)).with_context(named)?,
        None => (checkpoint.clone(), None),
    };
    let plan = whole(given, plan, &original)?;
    let settings = Settings {
        plan: &args.plan,
        study: &args.study,
        masks: &masks,
        compensation: &compensation,
        output: &output,
        run: &run,
        kv_cache: &asked.kv_cache,
        target: &asked.target,
    };
    let mut manifest = Manifest::new("apply", &settings, &original)?;
    manifest.parameters = pruned.config.parameters();
    let plan_table = plan.table(&original.config)?;
    manifest.plan = Some(plan);
    manifest.warnings = study.iter().flat_map(|study| study.notes.clone()).collect();
    manifest.warnings.extend(learned.iter().flat_map(|learned| learned.warnings()));
    manifest.warnings.extend(fitted.iter().flat_map(|fitted| fitted.warnings()));
    let footprint = Footprint::of(&original, &pruned, &stored, asked.context())?;
    let speed = asked.speed((&original, &pruned), (&placement, &bars, false))?;
    let cautions = asked.cautions(&pruned.config, &footprint, speed.as_ref(), &placement);
    cautions.iter().for_each(warn);
    manifest.warnings.extend(cautions.iter().map(ToString::to_string));
    (manifest.footprint, manifest.speed, manifest.kv_cache) = (Some(footprint), speed, kv_cache);
    manifest.masks = learned;
    manifest.learned_trials = tried;
    manifest.compensation = fitted;
    manifest.study = study;
    let manifest = outputs::finish(staged, &pruned, &output, manifest, &bars)?;
    args.common.printer().result(&manifest, |manifest| {
        let mut rows = budget::rows(manifest);
        rows.extend(super::export::rows(manifest));
        format!("{plan_table}\n{}", table(&rows))
    })
}

/// A plan whose units were learned, if that was asked for.
struct Learned {
    plan: Option<PrunePlan>,
    learned: Option<LearnedRecord>,
    study: Option<StudyRecord>,
    kv_cache: Option<CacheRecord>,
}

/// Learns the units of plans, where that is asked for; of several the one with the least loss
/// on the held-out samples, and what became of all of them.
fn learn(
    made: Vec<Made>,
    checkpoint: &Checkpoint,
    samples: &Samples<'_>,
    (placement, session, bars): (&Placement, &Session, &Bars),
) -> Result<(Learned, Vec<LearnedTrial>)> {
    let several = made.len() > 1;
    let (mut best, mut tried): (Option<Learned>, _) = (None, Vec::new());
    for Made { plan, scores, study, kv_cache } in made {
        let (plan, learned) = match (plan, &samples.masks) {
            (plan, None) => (plan, None),
            (None, Some(_)) => (None, None),
            (Some(plan), Some((of, masks))) => {
                plan.validate(&checkpoint.config)?;
                let scores = match scores {
                    Some(scores) => scores,
                    None => masks::scores(checkpoint, of, masks, placement, bars)?,
                };
                let run = (placement, session, bars);
                let (plan, learned) = samples.learn(checkpoint, (plan, &scores), run)?;
                (Some(plan), learned)
            }
        };
        if let (true, Some(study), Some(learned)) = (several, &study, &learned) {
            tried.push(LearnedTrial {
                trial: study.trial,
                loss: study.loss,
                held_out_before: learned.outcome.held_out_before,
                held_out_after: learned.outcome.held_out_after,
            });
        }
        let found = Learned { plan, learned, study, kv_cache };
        let loss = |of: &Learned| of.learned.as_ref().map(|of| of.outcome.held_out_after);
        // Of equal ones the better trial stays.
        if best.as_ref().is_none_or(|best| loss(&found) < loss(best)) {
            best = Some(found);
        }
    }
    Ok((best.context("plan: missing")?, tried))
}
