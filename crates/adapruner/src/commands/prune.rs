//! `prune`: score, plan, apply and write in one go.

use std::f64::consts::LN_2;

use adapruner::{
    allocate::AllocationRecord,
    caution::{Caution, Pruned, collapse},
    depth::{DepthRecord, DepthSettings},
    footprint::Footprint,
    held_out,
    manifest::{BeforeAfter, Manifest, StatisticsRecord},
    masks::LearnedRecord,
    memory,
    outputs::{self, OutputSettings, Stored},
    pipeline::{self, Planned, TokensRecord},
    progress::Progress,
    settings::{Chosen, PruneSettings, Recipe, RunSettings},
    target::Target,
    vocabulary::VocabularyRecord,
};
use adapruner_checkpoint::{Checkpoint, atomic::Files, text::TokenSet};
use adapruner_eval::BitsPerByte;
use adapruner_model::Placement;
use adapruner_prune::{BankHeader, Layout, PlanOptions, PlanTable, PrunePlan, Scores};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{
    CommonArgs, Perform, Session,
    learned::{Samples, refuse_of_experts},
    reduced::{self, Reduced},
};
use crate::{
    args::{CalibrationArgs, CompensationArgs, EvalArgs, ImportanceArgs, RunArgs},
    bars::Bars,
    combine::Combine,
    depth_args::DepthArgs,
    failure::advised,
    mask_args::MaskArgs,
    output_args::OutputArgs,
    plan_args::PlanArgs,
    printer::{bytes, table},
    recipe::{Given, RecipeArgs},
    terminal::warn,
    typed::{Proportion, Real, Size},
    vocabulary_args::VocabularyArgs,
};

/// Remove a share of a model's parameters and write what remains.
///
/// Whole feed-forward channels and attention heads are scored on a calibration
/// set, the least important ones are removed, and the rest is an ordinary dense
/// model; whole layers go with --drop-layers, tokens with --vocab. Which channels stay is then learned by gradient, unless --fast is given.
/// Options that are not given are filled in with what measured best; the result says
/// which. Perplexity is measured before and after, on --text or else on calibration
/// samples that nothing was chosen by.
///
/// Example: adapruner prune MODEL --ratio 0.2 --calibration texts.jsonl --out SMALLER
///
/// Example: adapruner prune MODEL --ratio 0.2 --calibration texts.jsonl --fast --out SMALLER
///
/// Example: adapruner prune MODEL --drop-layers 4 --ratio 0.2 --calibration texts.jsonl --out SMALLER
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

#[derive(Serialize)]
struct Report {
    /// What was chosen where nothing was said.
    recipe: Chosen,
    plan: PlanTable,
    /// The whole plan, in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    full_plan: Option<PrunePlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vocabulary: Option<VocabularyRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<DepthRecord>,
    /// What the model takes, or would.
    footprint: Footprint,
    #[serde(skip_serializing_if = "Option::is_none")]
    masks: Option<LearnedRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Manifest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation: Option<BeforeAfter>,
    /// The same on held-out calibration samples, where no text to measure on was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<BeforeAfter>,
    /// What a reader should know, also without a manifest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    peak_memory_bytes: Option<u64>,
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
    /// Whether widths stay as they are, where tokens or layers go and `ratio` of what is left
    /// then.
    fn widths_stay(&self, ratio: Option<f64>) -> bool {
        let others = self.vocabulary.vocab.is_some() || self.given.depth.drop_layers.is_some();
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
        let plan = PlanArgs { ratio: Some(Proportion(0.5)), ..self.given.plan.clone() };
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
        let calibration = CalibrationArgs { memory: self.memory, ..self.calibration.clone() };
        let given = Given {
            plan: self.plan.over(&file.plan),
            depth: self.depth.over(&file.depth),
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
    /// still to be removed of a model whose tokens or layers went.
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
        let asked = given.plan.ratio.map(|Proportion(ratio)| ratio);
        // Of what is left, less than nothing is nothing; asked for, it is an error.
        let left = left.map(|ratio| if ratio < 0.0 { 0.0 } else { ratio });
        let ratio = if asked.is_some_and(|ratio| ratio < 0.0) { asked } else { left.or(asked) };
        let widths = !typed.widths_stay(ratio);
        given.plan.ratio = if widths { ratio.map(Proportion) } else { Some(Proportion(0.0)) };
        if typed.widths_stay(asked) {
            given.refuse_without_widths()?;
        }
        let (recipe, caution) = given.fill(typed.recipe, eval, (model, widths))?;
        let Given { plan: arguments, depth, calibration, importance, masks, compensation, .. } =
            &given;
        let (plan, depth) = (arguments.resolve()?, depth.resolve()?);
        let fits = widths || depth.is_some();
        let samples = widths || depth.as_ref().is_some_and(DepthSettings::is_measured);
        let settings = PruneSettings {
            recipe,
            run: *run,
            calibration: calibration.resolve(eval)?.filter(|_| samples),
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
        let ratio = typed.given.plan.ratio.map(|Proportion(ratio)| ratio);
        let widths = typed.given.plan.has_target() || !typed.widths_stay(ratio);
        let Typed { mut given, recipe, eval, vocabulary, .. } = typed;
        given.fill(recipe, &eval, (None, widths))?;
        let files = vocabulary.files(eval.files(self.common.files()));
        let files = given.calibration.statistics(given.calibration.files(files));
        let files = given.compensation.files(given.masks.files(files));
        let output = self.output.over(&self.common.file()?.output);
        Ok(if self.dry_run { files } else { output.files(files) })
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &PruneCommand, session: &Session) -> Result<()> {
    let mut typed = args.typed()?;
    let bars = session.bars();
    let run = typed.run.resolve()?;
    // What is wrong with the options is said before a model is fetched.
    if !typed.given.plan.has_target() {
        args.settings(&typed, &run, None, None)?;
    }
    let placement = run.placement()?;
    let original = args.common.open(session)?;
    let Given { masks, compensation, .. } = &typed.given;
    let learns = masks.learn_masks.is_some_and(|steps| steps > 0);
    refuse_of_experts(&original.config, learns, compensation.compensate.is_some())?;
    typed.given.plan = typed.given.plan.settled(&original.config)?;
    let target = typed.target();
    if let Some(target) = &target {
        let ratio = typed.ratio_for(target, &original)?;
        if ratio == 0.0 {
            return Err(fits_already(target, &original)?);
        }
        typed.given.plan.ratio = Some(Proportion(ratio));
    }
    let (first, _) = args.settings(&typed, &run, None, None)?;
    if let Some(output) = &first.output {
        let PlanOptions { layout, attention_share, drop_attention, ratio, .. } = &first.plan;
        let planned = outputs::Planned {
            per_layer: *layout == Layout::PerLayer && *ratio > 0.0,
            heads: *ratio > 0.0 && (*attention_share != Some(0.0) || !drop_attention.is_empty()),
        };
        outputs::check_fits(output, &original.config, planned)?;
    }
    let mut reduced = Reduced::of_tokens(&original, first.vocabulary.as_ref(), &bars)?;
    let asked = first.plan.ratio;
    let left = |reduced: &Reduced<'_>, typed: &Typed| match &target {
        Some(target) => typed.ratio_for(target, reduced.model()).map(Some),
        None => Ok(reduced.left(asked)),
    };
    let still = left(&reduced, &typed)?;
    let (mut settings, mut short) = args.settings(&typed, &run, Some(reduced.trimmed()), still)?;
    let staged = match &settings.output {
        Some(output) if !args.dry_run => {
            Some((session.writer.folder(&output.out)?, output.clone()))
        }
        Some(_) | None => None,
    };
    let eval = match &settings.eval {
        Some(eval) if !args.dry_run => Some(pipeline::eval_tokens(reduced.trimmed(), eval)?),
        Some(_) | None => None,
    };
    let whole = match (&reduced.vocabulary, &settings.eval) {
        (Some(_), Some(of)) if eval.is_some() => Some(pipeline::eval_tokens(&original, of)?),
        (Some(_) | None, _) => eval.clone(),
    };
    let mut cautions: Vec<Caution> = Vec::new();
    if let Some(chosen) = &reduced.vocabulary {
        cautions.extend(reduced::cautions(&original, chosen, whole.as_ref(), &settings)?);
    }
    let mut calibration = pipeline::calibration(reduced.trimmed(), &settings)?;
    if let (Some(eval), Some(calibration)) = (&eval, &calibration) {
        let role = ("the calibration set", calibration);
        pipeline::check_overlap(eval, role, settings.allow_overlap)?;
    }
    if let Some(depth) = &settings.depth {
        reduced.drop_layers(depth, calibration.as_ref(), &placement, &bars)?;
        // Named by their places in the model as it was.
        let attention = typed.given.plan.drop_attention.take();
        typed.given.plan.drop_attention = attention.map(|layers| reduced.places(&layers));
        let still = left(&reduced, &typed)?;
        (settings, short) = args.settings(&typed, &run, Some(reduced.model()), still)?;
        calibration = pipeline::calibration(reduced.model(), &settings)?;
    }
    cautions.extend(short);
    let fit = settings.compensation.as_ref().filter(|_| !args.dry_run);
    let samples = Samples::draw(reduced.model(), settings.masks.as_ref(), fit)?;
    if let Some(eval) = &eval {
        samples.check_overlap(eval, settings.allow_overlap)?;
    }
    // Of the model with the tokens and layers that stay.
    let Cut { plan: widths, learned, statistics, sensitivities, allocation } =
        match settings.plan.ratio {
            0.0 => Cut::default(),
            _ => {
                let run = (&placement, session, &bars);
                Cut::of(reduced.model(), calibration.as_ref(), &settings, &samples, run)?
            }
        };
    // Of a size, what is reached is what was asked for.
    let asked = (asked > 0.0 && target.is_none()).then_some(asked);
    let cut = reduced.with_layers(widths.clone(), asked)?;
    let (pruned, fitted) = match &cut {
        Some(plan) => samples.apply(reduced.trimmed(), plan, (&placement, &bars))?,
        None => (reduced.trimmed().clone(), None),
    };
    let measured = (&settings, &placement, &bars);
    let evaluation = match (&whole, &eval) {
        (Some(whole), Some(tokens)) => {
            Some(measure((&original, whole), (&pruned, tokens), measured)?)
        }
        (Some(_) | None, _) => None,
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
    cautions.extend(self::cautions(reduced.model(), widths.as_ref(), &settings, figures));
    let plan = reduced.with_tokens(cut, asked)?;
    cautions.extend(reduced.beyond(&plan, asked));
    let (vocabulary, depth) = reduced.records();
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
        footprint,
        masks: learned,
        manifest,
        evaluation,
        held_out,
        warnings,
        peak_memory_bytes,
    };
    args.common.printer().result(&report, text)
}

/// Nothing is to be removed for a size.
fn fits_already(target: &Target, model: &Checkpoint) -> Result<anyhow::Error> {
    Ok(advised(
        format!(
            "target-size: {} bytes asked, and the model takes {} as it would be written",
            target.bytes,
            target.stored.bytes(model)?
        ),
        "ask for less, or write it as it is with `adapruner export`",
    ))
}

/// How widths were cut.
#[derive(Default)]
struct Cut {
    /// Of the model whose tokens and layers went already; none where widths stay as they are.
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

/// What was asked for and not reached, and whether quality collapsed.
fn cautions(
    checkpoint: &Checkpoint,
    plan: Option<&PrunePlan>,
    settings: &PruneSettings,
    (evaluation, held_out): (Option<&BeforeAfter>, Option<&BeforeAfter>),
) -> Vec<Caution> {
    let config = &checkpoint.config;
    let unmet = plan.map(|plan| plan.unmet(config, &settings.plan)).unwrap_or_default();
    let unmet = unmet.into_iter().map(Caution::from);
    let pruned = Pruned {
        plan: &settings.plan,
        layers: config.layers.len(),
        learned: settings.masks.is_some(),
        compensated: settings.compensation.is_some(),
    };
    let named = |found: &BeforeAfter| found.after.text.clone();
    let of_text = evaluation.map(|found| (found, named(found)));
    let unseen = held_out.map(|found| (found, format!("held-out samples of {}", named(found))));
    let collapsed = of_text.or(unseen).and_then(|(BeforeAfter { before, after }, text)| {
        // By token of the text before, where that has other ones after.
        let per_token = |after: &BitsPerByte, before: &BitsPerByte, tokens: u64| {
            (after.bits_per_byte * LN_2 * before.bytes as f64 / tokens as f64).exp()
        };
        let now = match (&after.loss.bits, &before.loss.bits) {
            (Some(now), Some(then)) if settings.vocabulary.is_some() => {
                per_token(now, then, before.loss.tokens)
            }
            (Some(_) | None, _) => after.loss.perplexity,
        };
        let pruned = plan.is_some().then_some(&pruned);
        collapse((before.loss.perplexity, now), &text, pruned)
    });
    unmet.chain(collapsed).collect()
}

/// Measures the model before and after, each on windows of its own tokens.
fn measure(
    (original, whole): (&Checkpoint, &TokenSet),
    (pruned, tokens): (&Checkpoint, &TokenSet),
    (settings, placement, bars): (&PruneSettings, &Placement, &Bars),
) -> Result<BeforeAfter> {
    let batch = settings.eval.as_ref().and_then(|eval| eval.batch_tokens);
    let measure =
        |model, tokens, stage| pipeline::evaluate(model, tokens, placement, batch, stage, bars);
    Ok(BeforeAfter {
        before: measure(original, whole, "perplexity before")?,
        after: measure(pruned, tokens, "perplexity after")?,
    })
}

fn statistics_record(
    header: Option<&BankHeader>,
    calibration: Option<&TokenSet>,
) -> Option<StatisticsRecord> {
    let header = header?;
    Some(StatisticsRecord {
        calibration: TokensRecord::of(calibration?),
        seed: header.seed,
        mean_loss: header.losses.iter().sum::<f64>() / header.losses.len() as f64,
    })
}

fn text(report: &Report) -> String {
    let mut out = format!("{}\n", report.plan);
    let mut rows = vec![("recipe", report.recipe.to_string())];
    rows.extend(report.vocabulary.as_ref().map(|of| ("vocabulary", of.to_string())));
    rows.extend(report.depth.as_ref().map(|of| ("depth", of.to_string())));
    rows.push(("size", report.footprint.to_string()));
    let measured = [("perplexity", &report.evaluation), ("held out", &report.held_out)];
    for (name, BeforeAfter { before, after }) in
        measured.iter().filter_map(|(name, found)| Some((name, found.as_ref()?)))
    {
        rows.push((
            name,
            format!(
                "{:.3} → {:.3} ({}, {} windows of {} tokens)",
                before.loss.perplexity,
                after.loss.perplexity,
                after.text,
                after.loss.windows,
                after.loss.window
            ),
        ));
        if let (Some(before), Some(after)) = (&before.loss.bits, &after.loss.bits) {
            let (before, after) = (before.bits_per_byte, after.bits_per_byte);
            rows.push(("bits per byte", format!("{before:.4} → {after:.4}")));
        }
        rows.push((
            "speed",
            format!("{:.0} → {:.0} tokens/s", before.tokens_per_second, after.tokens_per_second),
        ));
    }
    // Only what was written is measured.
    if report.manifest.is_some() && report.evaluation.is_none() && report.held_out.is_none() {
        let why = match report.vocabulary {
            Some(_) => "not measured: no --text",
            None => {
                "not measured: no --text, and no calibration samples that nothing was chosen by"
            }
        };
        rows.push(("held out", why.to_owned()));
    }
    rows.extend(report.masks.as_ref().map(|masks| ("learned masks", masks.to_string())));
    if let Some(manifest) = &report.manifest {
        rows.extend(manifest.compensation.as_ref().map(|c| ("compensation", c.to_string())));
        for file in &manifest.files {
            rows.push(("written", format!("{} ({})", file.name, bytes(file.bytes))));
        }
    }
    for warning in &report.warnings {
        rows.push(("warning", warning.clone()));
    }
    if let Some(peak) = report.peak_memory_bytes {
        rows.push(("peak memory", bytes(peak)));
    }
    out.push_str(&table(&rows));
    out
}
