//! `search`: finds the samples, metric and cut with the lowest loss.

use adapruner::{
    memory,
    progress::Progress,
    search::{
        Arm, Ended, FrontResult, SamplerChoice, Search, SearchResult, SearchSettings, SearchSpace,
        Tests, Varied, outcome::TestResult, pool, prepare,
    },
};
use adapruner_checkpoint::atomic::Files;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session};
use crate::{
    interrupt,
    printer::{bytes, grouped, table},
    search_args::{Resolved, SearchGroups, command_line, space_alone, space_of},
    typed::Named,
    workers::Workers,
};

/// Find the calibration samples, metric and cut with the lowest loss.
///
/// Statistics of the whole pool (--samples, here 128 by default) are collected once. Each trial
/// scores, plans, slices and measures one configuration on the search-evaluation text (--limit
/// windows spread over --text, 32 by default), chunk by chunk, and stops early if it is
/// hopeless. An existing study is resumed; several commands may work on it at once. `apply
/// --study` prunes by the best trial. With --objectives the share to remove is searched too, and
/// one search serves every size: `apply --study STUDY --target-params N` takes the nearest point.
///
/// Example: adapruner search MODEL --ratio 0.2 --calibration c4.jsonl --text wikitext2:validation --test wikitext2 --study STUDY
///
/// Example: adapruner search MODEL --objectives loss,params --ratio 0.1..0.5 --calibration c4.jsonl --text wikitext2:validation --study FRONT
#[derive(Debug, Args)]
pub struct SearchCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    groups: SearchGroups,
    /// Dimensions to search: joint (all), data (only the samples), metric (all but the samples)
    /// or baseline (random samples, LLM-Pruner's setting)
    #[arg(long = "search", value_name = "PART", default_value = "joint")]
    varied: Named<Varied>,
    /// Sampler of configurations: tpe or random
    #[arg(long, value_name = "SAMPLER", default_value = "tpe")]
    sampler: Named<SamplerChoice>,
    /// Seed of the sampler [default: --seed]
    #[arg(long, value_name = "N")]
    sampler_seed: Option<u64>,
    /// Print the search space with the reasons for its ranges, and search nothing
    #[arg(long)]
    show_space: bool,
}

#[derive(Serialize)]
struct FrontReport<'a> {
    #[serde(flatten)]
    result: &'a FrontResult,
    study_folder: String,
    ended: Ended,
    settings: &'a SearchSettings,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    result: &'a SearchResult,
    study_folder: String,
    ended: Ended,
    settings: &'a SearchSettings,
}

impl Perform for SearchCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        let file = self.common.file()?;
        if self.show_space {
            return Ok(self.common.files());
        }
        self.groups.files(self.common.files(), &file)
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &SearchCommand, session: &Session) -> Result<()> {
    let file = args.common.file()?;
    if args.show_space {
        let varied = (args.varied.0, args.sampler_seed);
        let space = space_alone(&args.common.open(session)?, &args.groups, &file, varied)?;
        return show(&args.common, &space);
    }
    let Resolved { settings, extent, trials, seed } = args.groups.resolve(&file)?;
    let arm = Arm {
        extent,
        varied: args.varied.0,
        sampler: args.sampler.0,
        seed: args.sampler_seed.unwrap_or(seed),
        trials,
    };
    let checkpoint = args.common.open(session)?;
    let space = space_of(&checkpoint, &settings, &arm)?;
    let bars = session.bars();
    let texts = prepare::texts(&checkpoint, &settings)?;
    let leading = space.most_protected();
    let told: (&_, &dyn Progress) = (&session.writer, &bars);
    let prepared = prepare::prepare(&checkpoint, &settings, &texts, leading, told)?;
    let (folder, record, objective) = prepared;
    let search = Search {
        objective: &objective,
        folder: &folder,
        record: &record,
        settings: &settings,
        arm: &arm,
        space,
    };
    let study = search.open()?;
    // Until here there was nothing to bring to an end.
    let (stop, leave) = (interrupt::graceful(), || interrupt::exit());
    if args.groups.worker {
        search.run(&study, stop, &leave, &())?;
        return Ok(());
    }
    let workers = Workers::start(settings.workers - 1)?;
    let ended = search.run(&study, stop, &leave, &bars);
    workers.join()?;
    interrupt::at_once();
    let ended = ended?;
    let interrupted = ended == Ended::Interrupted;
    if interrupted && study.front()?.is_empty() {
        // Nothing to sum up; the same command goes on.
        interrupt::exit();
    }
    if let Some(result) = search.sum_up_front(&study, &command_line())? {
        let study_folder = settings.folder.display().to_string();
        let report = FrontReport { result: &result, study_folder, ended, settings: &settings };
        args.common.printer().result(&report, front_text)?;
        if interrupted {
            interrupt::exit();
        }
        return Ok(());
    }
    let tests = Tests::new(if interrupted { &[] } else { &texts.tests });
    let samples = pool::read(&folder, &record)?;
    let result = search.sum_up(&study, &tests, &samples, &command_line(), &bars)?;
    let report = Report {
        result: &result,
        study_folder: settings.folder.display().to_string(),
        ended,
        settings: &settings,
    };
    args.common.printer().result(&report, |report| text(report))?;
    if interrupted {
        interrupt::exit();
    }
    Ok(())
}

#[derive(Serialize)]
struct DimensionRow {
    dimension: &'static str,
    searched: bool,
    values: String,
    about: &'static str,
}

/// Prints the space and its reasons.
fn show(common: &CommonArgs, space: &SearchSpace) -> Result<()> {
    let mut rows: Vec<DimensionRow> = space
        .dimensions
        .iter()
        .map(|(dimension, domain)| DimensionRow {
            dimension: dimension.name(),
            searched: space.searched().any(|searched| searched == *dimension),
            values: domain.to_string(),
            about: dimension.about(),
        })
        .collect();
    rows.extend(space.ratio.map(|(least, most)| DimensionRow {
        dimension: "ratio",
        searched: true,
        values: format!("{least} to {most}"),
        about: "share of all parameters to remove: of several objectives every size is searched",
    }));
    common.printer().result(&rows, |rows| {
        let rows =
            rows.iter().map(|row| (row.dimension, format!("{}  ({})", row.values, row.about)));
        table(&rows.collect::<Vec<_>>())
    })
}

fn front_text(report: &FrontReport<'_>) -> String {
    let FrontResult { study, complete, infeasible, failed, evaluation, .. } = report.result;
    let result = report.result;
    let ended = report.ended;
    let rows = [
        ("study", format!("{study} in {}", report.study_folder)),
        (
            "trials",
            format!("{complete} complete, {infeasible} infeasible, {failed} failed ({ended})"),
        ),
        (
            "dense",
            format!(
                "{} parameters, {:.4} nats per predicted token on {} windows of {} tokens of {}",
                grouped(result.dense_parameters),
                result.dense_loss,
                evaluation.windows,
                evaluation.window,
                evaluation.text
            ),
        ),
        ("cost", format!("{:.0} s, {} tokens", result.cost.seconds, grouped(result.cost.tokens))),
        ("next", format!("apply --study {} --target-params N", report.study_folder)),
    ];
    let mut out = table(&rows);
    if let (Some(speed), Some(seconds)) = (result.speed, result.dense_seconds) {
        let said = format!("{speed}, {seconds:.3e} s a pass of the dense model, by a cost model");
        out.push_str(&table(&[("latency", said)]));
    }
    out.push_str(&format!("\n{:>6} {:>15} {:>9} {:>9}", "trial", "parameters", "removed", "loss"));
    let sized = result.front.iter().any(|point| point.bytes.is_some());
    let timed = result.front.iter().any(|point| point.speedup.is_some());
    out.push_str(if sized { "       size" } else { "" });
    out.push_str(if timed { "  speedup\n" } else { "\n" });
    for point in &result.front {
        let size = point.bytes.map_or_else(String::new, |size| format!(" {:>10}", bytes(size)));
        let speedup = point.speedup.map_or_else(String::new, |of| format!(" {of:>8.2}"));
        out.push_str(&format!(
            "{:>6} {:>15} {:>7.1} % {:>9.4}{size}{speedup}\n",
            point.trial,
            grouped(point.parameters),
            100.0 * point.removed,
            point.loss
        ));
    }
    out
}

fn text(report: &Report<'_>) -> String {
    let SearchResult { best, plan, costs, evaluation, .. } = report.result;
    let mut rows = vec![
        ("study", format!("{} in {}", report.result.study, report.study_folder)),
        (
            "trials",
            format!(
                "{} complete, {} stopped early, {} infeasible, {} failed ({})",
                report.result.complete,
                report.result.stopped_early,
                report.result.infeasible,
                report.result.failed,
                report.ended
            ),
        ),
        (
            "best",
            format!(
                "trial {}: {:.4} nats per predicted token on {} windows of {} tokens of {} (dense \
                 {:.4})",
                best.number,
                best.loss,
                evaluation.windows,
                evaluation.window,
                evaluation.text,
                report.result.dense_loss
            ),
        ),
        (
            "removed",
            format!(
                "{:.3} % of {} parameters",
                100.0 * plan.reached_ratio,
                grouped(plan.parameters_before)
            ),
        ),
    ];
    rows.extend(best.configuration.rows());
    for test in &report.result.tests {
        rows.push(("perplexity", test_row(test)));
    }
    let total = costs.total();
    rows.push((
        "cost",
        format!(
            "{:.0} s, {} tokens, {:.1} PFLOP; the naive loop {:.1} PFLOP ({:.1} times)",
            total.seconds,
            grouped(total.tokens),
            total.flops / 1e15,
            costs.naive.flops / 1e15,
            costs.naive.flops / total.flops
        ),
    ));
    for (phase, cost) in costs.phases() {
        rows.push((
            phase,
            format!(
                "{:.1} s, {:.0} % of the time",
                cost.seconds,
                100.0 * cost.seconds / total.seconds
            ),
        ));
    }
    if let Some(peak) = memory::peak() {
        rows.push(("peak memory", bytes(peak)));
    }
    for warning in &report.result.warnings {
        rows.push(("warning", warning.clone()));
    }
    table(&rows)
}

/// Perplexity and bits per byte on a test text.
pub fn test_row(test: &TestResult) -> String {
    let bits = match (test.dense_bits_per_byte, test.pruned_bits_per_byte) {
        (Some(dense), Some(pruned)) => format!("; {dense:.4} → {pruned:.4} bits per byte"),
        (Some(_) | None, _) => String::new(),
    };
    format!(
        "{:.3} → {:.3} ({}, {} windows of {} tokens){bits}",
        test.dense, test.pruned, test.text.text, test.text.windows, test.text.window
    )
}
