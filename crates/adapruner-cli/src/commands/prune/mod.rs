//! `prune`: score, plan, apply and write in one go.

mod prepared;
mod report;

use std::path::PathBuf;

use adapruner::{
    allocate::AllocationRecord,
    caution::Caution,
    footprint::Footprint,
    held_out,
    kv_cache::{CacheRecord, CacheTarget},
    manifest::{BeforeAfter, Manifest},
    masks::LearnedRecord,
    memory,
    outputs::{self, OutputSettings, Stored},
    passed::PassedRecord,
    pipeline::{self, Planned},
    progress::Progress,
    settings::{PruneSettings, Recipe, RunSettings},
    speed::Machine,
    target::{SizeTarget, Target},
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
    budget_args::{BudgetArgs, SpeedArgs},
    combine::Combine,
    depth_args::DepthArgs,
    expert_args::ExpertArgs,
    failure::advised,
    mask_args::MaskArgs,
    output_args::OutputArgs,
    plan_args::PlanArgs,
    recipe::{Given, RecipeArgs},
    terminal::warn,
    typed::{Named, Real, Shares, Size},
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
/// Example: adapruner prune MODEL --target-kv-cache 50% --calibration texts.jsonl --out SMALLER
///
/// Example: adapruner prune MODEL --target-speedup 1.3 --calibration texts.jsonl --out SMALLER
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
    budget: BudgetArgs,
    #[command(flatten)]
    speed: SpeedArgs,
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
    speed: SpeedArgs,
    output: Option<OutputSettings>,
    /// How the model is written, or would be.
    stored: Stored,
    /// What of the model is asked for; nothing before there is a model.
    asked: Asked,
}

/// Budgets that depend on the model.
#[derive(Default)]
struct Asked {
    /// What decides the ratio.
    target: Option<Target>,
    /// The share of the cache that may stay.
    kv_cache: Option<CacheTarget>,
}

impl Typed {
    /// Whether widths stay as they are, where tokens, layers or experts go and `ratio` of what is
    /// left then.
    fn widths_stay(&self, ratio: Option<f64>) -> bool {
        let others = self.vocabulary.vocab.is_some()
            || self.given.depth.drop_layers.is_some()
            || self.given.experts.drop_experts.is_some()
            || self.given.budget.target_kv_cache.is_some();
        others && (0.0..=reduced::LEAST).contains(&ratio.unwrap_or(0.0))
    }

    /// Whether what is removed depends on the model.
    fn has_target(&self) -> bool {
        self.given.plan.has_target() || self.given.budget.target_speedup.is_some()
    }

    /// What of a model is asked for; its speed is calibrated for that.
    fn ask(
        &self,
        original: &Checkpoint,
        (placement, session, bars): (&Placement, &Session, &Bars),
    ) -> Result<Asked> {
        let Given { plan, budget, .. } = &self.given;
        let layout = plan.layout.map(|Named(layout)| layout);
        let told: (&_, &dyn Progress) = (&session.writer, bars);
        let target = match plan.target_size {
            Some(Size(bytes)) => {
                Some(Target::Size(SizeTarget { bytes, stored: self.stored.clone() }))
            }
            None => budget
                .speed(&self.speed, original, placement, told)?
                .map(|of| Target::Speed(Box::new(of))),
        };
        Ok(Asked { target, kv_cache: budget.cache(&original.config, &self.speed, layout)? })
    }

    /// What is to be removed of a model for its target; 0 where it meets it already.
    fn ratio_for(&self, target: &Target, model: &Checkpoint) -> Result<f64> {
        // The ratio is what is looked for; scores and losses are not known yet.
        let plan = PlanArgs { ratio: Some(Shares::One(0.5)), ..self.given.plan.clone() };
        let (scores, mut options) = (Scores::equal(&model.config), plan.resolve()?);
        if let Some(cache) = &self.asked.kv_cache {
            let layers: Vec<usize> = (0..model.config.layers.len()).collect();
            (options, _) = cache.choose_in_order(model, (&scores, &options), &layers)?;
        }
        let plan = target.plan(model, &scores, &options)?;
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
            budget: self.budget.over(&file.budget),
            depth: self.depth.over(&file.depth),
            experts: self.experts.over(&file.experts),
            calibration: calibration.over(&file.calibration),
            importance: self.importance.over(&file.importance),
            masks: self.masks.over(&file.masks),
            compensation: self.compensation.over(&file.compensation),
            block: stored.block(),
        };
        let speed = self.speed.over(&file.speed);
        given.refuse_several_targets()?;
        Ok(Typed {
            given,
            speed,
            asked: Asked::default(),
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
        let cached = given.budget.target_kv_cache.is_some();
        let fits = widths || depth.is_some() || cached;
        let parts = given.depth.is_measured() || given.experts.is_measured() || cached;
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
            target: typed.asked.target.clone().filter(|_| widths),
            kv_cache: typed.asked.kv_cache,
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
        let widths = typed.has_target() || !typed.widths_stay(ratio);
        let Typed { mut given, recipe, eval, vocabulary, speed, .. } = typed;
        given.fill(recipe, &eval, (None, widths))?;
        let files = vocabulary.files(eval.files(self.common.files()));
        let files = given.calibration.statistics(given.calibration.files(files));
        let files = speed.files(given.compensation.files(given.masks.files(files)));
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
    typed.given.budget.check(&args.budget, &args.speed)?;
    let bars = session.bars();
    let run = typed.run.resolve()?;
    let page = args.report.as_ref().map(|path| session.writer.file(path)).transpose()?;
    // What is wrong with the options is said before a model is fetched.
    if !typed.has_target() {
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
    let Cut { plan: widths, learned, statistics, sensitivities, allocation, options, kv_cache } =
        match settings.cuts() {
            false => Cut::default(),
            true => Cut::of(reduced.model(), calibration.as_ref(), &settings, &samples, work)?,
        };
    settings.plan = options.unwrap_or(settings.plan);
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
    let context = settings.kv_cache.map(|of| of.context);
    let footprint = Footprint::of(&original, &pruned, &typed.stored, context)?;
    cautions.extend(settings.kv_cache.and_then(|of| of.missed(&pruned.config)));
    let timed = (&placement, &bars as &dyn Progress, args.dry_run);
    let speed = match &target {
        Some(Target::Speed(of)) => Some(of.record((&original, &pruned), timed)?),
        Some(Target::Size(of)) => {
            cautions.extend(footprint.missed(of));
            None
        }
        None => None,
    };
    let here = Machine::here(&placement);
    cautions.extend(speed.iter().flat_map(|of| of.cautions(&here)));
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
            manifest.kv_cache = kv_cache.clone();
            manifest.speed = speed.clone();
            manifest.footprint = Some(footprint.clone());
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
        kv_cache,
        speed,
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
    /// The options with what goes for the key-value cache.
    options: Option<PlanOptions>,
    kv_cache: Option<CacheRecord>,
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
        let Planned { plan, scores, statistics, sensitivities, allocation, options, kv_cache } =
            planned;
        let run = (placement, session, bars);
        let (plan, learned) = samples.learn(checkpoint, (plan, &scores), run)?;
        let (plan, options) = (Some(plan), Some(options));
        Ok(Self { plan, learned, statistics, sensitivities, allocation, options, kv_cache })
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
