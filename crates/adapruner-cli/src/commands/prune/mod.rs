//! `prune`: score, plan, apply and write in one go.

mod prepared;
mod report;

use std::path::PathBuf;

use adapruner::{
    allocate::AllocationRecord,
    caution::Caution,
    footprint::Footprint,
    held_out,
    manifest::{BeforeAfter, Manifest},
    masks::LearnedRecord,
    memory,
    outputs::{self, OutputSettings, Stored},
    passed::PassedRecord,
    pipeline::{self, Planned},
    progress::Progress,
    settings::{PruneSettings, Recipe, RunSettings},
    target::Target,
};
use adapruner_checkpoint::{Checkpoint, atomic::Files, text::TokenSet};
use adapruner_model::Placement;
use adapruner_prune::{BankHeader, PlanOptions, PrunePlan, Scores};
use anyhow::Result;
use clap::Args;

use self::{
    prepared::Prepared,
    report::{Report, statistics_record, text},
};
use super::{
    CommonArgs, Perform, Session,
    learned::Samples,
    reduced::{self, Records},
};
use crate::{
    args::{CalibrationArgs, CompensationArgs, EvalArgs, ImportanceArgs, RunArgs},
    bars::Bars,
    combine::Combine,
    depth_args::DepthArgs,
    expert_args::ExpertArgs,
    failure::advised,
    mask_args::MaskArgs,
    output_args::OutputArgs,
    plan_args::PlanArgs,
    recipe::{Given, RecipeArgs},
    terminal::warn,
    typed::{Real, Shares, Size},
    vocabulary_args::VocabularyArgs,
};

/// Remove a share of a model's parameters and write what remains.
///
/// Whole feed-forward channels and attention heads are scored on a calibration
/// set, the least important ones are removed, and the rest is an ordinary dense
/// model; whole layers go with --drop-layers, whole experts of a mixture with
/// --drop-experts, tokens with --vocab. Which channels stay
/// is then learned by gradient, unless --fast is given. Options that are not given are
/// filled in with what measured best; the result says which. Perplexity is measured before
/// and after, on --text or else on calibration samples that nothing was chosen by.
///
/// Example: adapruner prune MODEL --ratio 0.2 --calibration texts.jsonl --out SMALLER
///
/// Example: adapruner prune MODEL --ratio 0.2 --calibration texts.jsonl --fast --out SMALLER
///
/// Example: adapruner prune MODEL --drop-layers 4 --ratio 0.2 --calibration texts.jsonl --out SMALLER
///
/// Example: adapruner prune MIXTURE --drop-experts 50% --calibration texts.jsonl --out SMALLER
///
/// Example: adapruner prune MODEL --vocab auto --vocab-text texts.jsonl --out SMALLER
#[derive(Debug, Args)]
pub struct PruneCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    importance: ImportanceArgs,
    #[command(flatten)]
    depth: DepthArgs,
    #[command(flatten)]
    experts: ExpertArgs,
    #[command(flatten)]
    vocabulary: VocabularyArgs,
    #[command(flatten)]
    masks: MaskArgs,
    #[command(flatten)]
    compensation: CompensationArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Print the plan, write nothing
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// Also write a self-contained HTML page: size, quality and speed before and after, and the
    /// widths of every layer; replaced with --force
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run", help_heading = "Output")]
    report: Option<PathBuf>,
    #[command(flatten)]
    eval: EvalArgs,
    /// Measure even on text that shares passages with the calibration set
    #[arg(long, help_heading = "Text to measure on")]
    allow_overlap: bool,
    #[command(flatten)]
    run: RunArgs,
    /// Most memory that collecting statistics or learning masks takes, in GiB: they are
    /// run in parts that fit it, and what does not fit in any way is refused [default: what the
    /// machine has free]
    #[arg(long, value_name = "GIB", allow_negative_numbers = true, help_heading = "Running")]
    memory: Option<Real>,
}

/// Everything that was given.
struct Typed {
    given: Given,
    recipe: Recipe,
    run: RunArgs,
    eval: EvalArgs,
    vocabulary: VocabularyArgs,
    output: Option<OutputSettings>,
    /// How the model is written, or would be.
    stored: Stored,
}

impl Typed {
    /// Whether widths stay as they are, where tokens, layers or experts go and `ratio` of what is
    /// left then.
    fn widths_stay(&self, ratio: Option<f64>) -> bool {
        let others = self.vocabulary.vocab.is_some()
            || self.given.depth.drop_layers.is_some()
            || self.given.experts.drop_experts.is_some();
        others && (0.0..=reduced::LEAST).contains(&ratio.unwrap_or(0.0))
    }

    /// The size that the result must fit, if one is asked for.
    fn target(&self) -> Option<Target> {
        let Size(bytes) = self.given.plan.target_size?;
        Some(Target { bytes, stored: self.stored.clone() })
    }

    /// What is to be removed of a model for its target size; 0 where it fits already.
    fn ratio_for(&self, target: &Target, model: &Checkpoint) -> Result<f64> {
        // The ratio is what is looked for.
        let plan = PlanArgs { ratio: Some(Shares::One(0.5)), ..self.given.plan.clone() };
        let plan = target.plan(model, &Scores::equal(&model.config), &plan.resolve()?)?;
        Ok(plan.map_or(0.0, |plan| plan.reached_ratio))
    }
}

impl PruneCommand {
    fn typed(&self) -> Result<Typed> {
        let file = self.common.file()?;
        let written = self.output.over(&file.output);
        let (stored, output) = (written.stored(), written.resolve());
        if output.is_none() && !self.dry_run {
            return Err(advised(
                "out: missing",
                "name a folder to write: --out DIR; or look at the plan with --dry-run",
            ));
        }
        self.masks.over(&file.masks).refuse_top()?;
        if let Some(Shares::Between(..)) = self.plan.over(&file.plan).ratio {
            // A range is refused in one place.
            self.plan.over(&file.plan).resolve()?;
        }
        let calibration = CalibrationArgs { memory: self.memory, ..self.calibration.clone() };
        let given = Given {
            plan: self.plan.over(&file.plan),
            depth: self.depth.over(&file.depth),
            experts: self.experts.over(&file.experts),
            calibration: calibration.over(&file.calibration),
            importance: self.importance.over(&file.importance),
            masks: self.masks.over(&file.masks),
            compensation: self.compensation.over(&file.compensation),
            block: stored.block(),
        };
        Ok(Typed {
            given,
            recipe: self.recipe.over(&file.recipe).resolve(),
            run: self.run.over(&file.run),
            eval: self.eval.over(&file.eval),
            vocabulary: self.vocabulary.over(&file.vocabulary),
            output,
            stored,
        })
    }

    /// Settings for a model; without one, to see that they can be made. `left` is what is
    /// still to be removed of a model whose tokens, layers or experts went.
    fn settings(
        &self,
        typed: &Typed,
        run: &RunSettings,
        model: Option<&Checkpoint>,
        left: Option<f64>,
    ) -> Result<(PruneSettings, Option<Caution>)> {
        let (mut given, eval) = (typed.given.clone(), &typed.eval);
        // Before a recipe names a text.
        let vocabulary = typed.vocabulary.resolve(&given.calibration, eval)?;
        let asked = given.plan.ratio.and_then(Shares::one);
        // Of what is left, less than nothing is nothing; asked for, it is an error.
        let left = left.map(|ratio| if ratio < 0.0 { 0.0 } else { ratio });
        let ratio = if asked.is_some_and(|ratio| ratio < 0.0) { asked } else { left.or(asked) };
        let widths = !typed.widths_stay(ratio);
        given.plan.ratio = if widths { ratio.map(Shares::One) } else { Some(Shares::One(0.0)) };
        if typed.widths_stay(asked) {
            given.refuse_without_widths()?;
        }
        let (recipe, caution) = given.fill(typed.recipe, eval, (model, widths))?;
        let Given { plan: arguments, calibration, importance, masks, compensation, .. } = &given;
        let (plan, depth) = (arguments.resolve()?, given.depth.resolve()?);
        let experts = given.experts.resolve(calibration.seed())?;
        let fits = widths || depth.is_some();
        let parts = given.depth.is_measured() || given.experts.is_measured();
        let settings = PruneSettings {
            recipe,
            run: *run,
            calibration: calibration.resolve(eval)?.filter(|_| widths || parts),
            statistics: calibration.stats.clone(),
            score: importance.resolve(),
            seed: calibration.seed(),
            measured: arguments.measured()?,
            sensitivity: arguments.sensitivity(&plan)?,
            plan,
            target: typed.target().filter(|_| widths),
            masks: if widths { masks.resolve(calibration, eval)? } else { None },
            compensation: if fits { compensation.resolve(calibration, eval)? } else { None },
            eval: eval.resolve(),
            allow_overlap: self.allow_overlap,
            vocabulary,
            depth,
            experts,
            output: typed.output.clone(),
        };
        Ok((settings, caution))
    }
}

impl Perform for PruneCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let typed = self.typed()?;
        let ratio = typed.given.plan.ratio.and_then(Shares::one);
        let widths = typed.given.plan.has_target() || !typed.widths_stay(ratio);
        let Typed { mut given, recipe, eval, vocabulary, .. } = typed;
        given.fill(recipe, &eval, (None, widths))?;
        let files = vocabulary.files(eval.files(self.common.files()));
        let files = given.calibration.statistics(given.calibration.files(files));
        let files = given.compensation.files(given.masks.files(files));
        let output = self.output.over(&self.common.file()?.output);
        if self.dry_run {
            return Ok(files);
        }
        let (files, force) = (output.files(files), output.force.unwrap_or(false));
        Ok(self.report.iter().fold(files, |files, path| files.file("--report", path, force)))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &PruneCommand, session: &Session) -> Result<()> {
    let mut typed = args.typed()?;
    let bars = session.bars();
    let run = typed.run.resolve()?;
    let page = args.report.as_ref().map(|path| session.writer.file(path)).transpose()?;
    // What is wrong with the options is said before a model is fetched.
    if !typed.given.plan.has_target() {
        args.settings(&typed, &run, None, None)?;
    }
    let original = args.common.open(session)?;
    let placement = run.placement([&original])?;
    let work = (&placement, session, &bars);
    let prepared = Prepared::new(args, &mut typed, (&original, &run), work)?;
    let Prepared { mut settings, asked, target, reduced, calibration, eval, .. } = prepared;
    let (mut cautions, staged) = (prepared.cautions, prepared.staged);
    let fit = settings.compensation.as_ref().filter(|_| !args.dry_run);
    let samples = Samples::draw(reduced.model(), settings.masks.as_ref(), fit)?;
    if let Some((_, eval)) = &eval {
        samples.check_overlap(eval, settings.allow_overlap)?;
    }
    // Of the model with the tokens, layers and experts that stay.
    let Cut { plan: widths, learned, statistics, sensitivities, allocation } =
        match settings.plan.ratio {
            0.0 => Cut::default(),
            _ => Cut::of(reduced.model(), calibration.as_ref(), &settings, &samples, work)?,
        };
    let cut = reduced.with_parts(widths.clone(), asked)?;
    let (pruned, fitted) = match &cut {
        Some(plan) => samples.apply(reduced.trimmed(), plan, (&placement, &bars))?,
        None => (reduced.trimmed().clone(), None),
    };
    let as_written = run.of_written(&typed.stored);
    let measured = (&settings, &as_written, &bars);
    let evaluation = match &eval {
        Some((whole, tokens)) => Some(measure((&original, whole), (&pruned, tokens), measured)?),
        None => None,
    };
    let held_out = match (&settings.calibration, &eval, &reduced.vocabulary) {
        (Some(from), None, None) if !args.dry_run => {
            let seen = calibration.iter().chain(samples.chosen_on()).collect::<Vec<_>>();
            let held_out = held_out::samples(&original, from, &seen)?;
            let of = |tokens| measure((&original, tokens), (&pruned, tokens), measured);
            held_out.as_ref().map(of).transpose()?
        }
        // A vocabulary of its own has other tokens.
        (Some(_) | None, _, _) => None,
    };
    let figures = (evaluation.as_ref(), held_out.as_ref());
    cautions.extend(report::cautions(reduced.model(), widths.as_ref(), &settings, figures));
    let plan = reduced.with_tokens(cut, asked)?;
    cautions.extend(match (asked, &widths) {
        (Some(ratio), Some(_)) => {
            let options = PlanOptions { ratio, ..settings.plan.clone() };
            report::missed_ratio(&plan, &original.config, &options)
        }
        (asked, None) => reduced.beyond(&plan, asked),
        (None, Some(_)) => None,
    });
    let Records { vocabulary, depth, experts } = reduced.records();
    settings.plan.ratio = plan.requested_ratio;
    settings.target.clone_from(&target);
    let footprint = Footprint::of(&original, &pruned, &typed.stored)?;
    cautions.extend(target.as_ref().and_then(|target| footprint.missed(target)));
    let table = plan.table(&original.config)?;
    cautions.iter().for_each(warn);
    let warnings: Vec<String> = cautions
        .iter()
        .map(ToString::to_string)
        .chain(learned.iter().flat_map(|learned| learned.warnings()))
        .chain(fitted.iter().flat_map(|fitted| fitted.warnings()))
        .collect();
    let full_plan = args.dry_run.then(|| plan.clone());
    let manifest = match staged {
        Some((staged, output)) => {
            let mut manifest = Manifest::new("prune", &settings, &original)?;
            manifest.parameters = pruned.config.parameters();
            manifest.statistics = statistics_record(statistics.as_ref(), calibration.as_ref());
            manifest.evaluation = evaluation.clone();
            manifest.held_out = held_out.clone();
            manifest.sensitivities = sensitivities;
            manifest.allocation = allocation;
            manifest.plan = Some(plan);
            manifest.vocabulary = vocabulary.clone();
            manifest.depth = depth.clone();
            manifest.experts = experts.clone();
            manifest.masks = learned.clone();
            manifest.warnings = warnings.clone();
            manifest.compensation = fitted;
            Some(outputs::finish(staged, &pruned, &output, manifest, &bars)?)
        }
        None => None,
    };
    let warnings = manifest.as_ref().map_or(warnings, |manifest| manifest.warnings.clone());
    let peak_memory_bytes = memory::peak();
    let report = Report {
        recipe: settings.recipe,
        plan: table,
        full_plan,
        vocabulary,
        depth,
        passed: PassedRecord::of(&original),
        experts,
        footprint,
        masks: learned,
        manifest,
        evaluation,
        held_out,
        warnings,
        peak_memory_bytes,
    };
    if let Some(staged) = page {
        let page =
            report::page(&report, &original, settings.output.as_ref().map(|of| of.out.as_path()))?;
        staged.write(adapruner_report::render(&page).as_bytes())?;
    }
    args.common.printer().result(&report, text)
}

/// How widths were cut.
#[derive(Default)]
struct Cut {
    /// Of the model whose tokens, layers and experts went already; none where widths stay as they are.
    plan: Option<PrunePlan>,
    learned: Option<LearnedRecord>,
    statistics: Option<BankHeader>,
    sensitivities: Option<Vec<Option<f64>>>,
    allocation: Option<AllocationRecord>,
}

impl Cut {
    /// Decides which units stay, and learns it where that is asked for.
    fn of(
        checkpoint: &Checkpoint,
        calibration: Option<&TokenSet>,
        settings: &PruneSettings,
        samples: &Samples<'_>,
        (placement, session, bars): (&Placement, &Session, &Bars),
    ) -> Result<Self> {
        let told: (&_, &dyn Progress) = (&session.writer, bars);
        let planned = pipeline::prune(checkpoint, calibration, settings, placement, told)?;
        let Planned { plan, scores, statistics, sensitivities, allocation } = planned;
        let run = (placement, session, bars);
        let (plan, learned) = samples.learn(checkpoint, (plan, &scores), run)?;
        Ok(Self { plan: Some(plan), learned, statistics, sensitivities, allocation })
    }
}

/// Measures the model before and after, each on windows of its own tokens.
fn measure(
    (original, whole): (&Checkpoint, &TokenSet),
    (pruned, tokens): (&Checkpoint, &TokenSet),
    (settings, run, bars): (&PruneSettings, &RunSettings, &Bars),
) -> Result<BeforeAfter> {
    let batch = settings.eval.as_ref().and_then(|eval| eval.batch_tokens);
    let measure = |model, tokens, stage| {
        pipeline::evaluate(model, tokens, &run.placement([model])?, batch, stage, bars)
    };
    Ok(BeforeAfter {
        before: measure(original, whole, "perplexity before")?,
        after: measure(pruned, tokens, "perplexity after")?,
    })
}
