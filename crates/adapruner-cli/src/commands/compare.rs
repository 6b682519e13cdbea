//! `compare`: several search strategies side by side.

use adapruner::{
    progress::Progress,
    search::{
        Arm, Ended, Search, SearchSettings, Tests,
        compare::{ArmSpec, Row, Run, table as rows_of},
        pool, prepare,
    },
};
use adapruner_checkpoint::atomic::Files;
use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session};
use crate::{
    failure::advised,
    interrupt,
    search_args::{Resolved, SearchGroups, command_line, space_of},
    typed::Named,
    workers::Workers,
};

/// Compare search strategies with equal budgets and several seeds.
///
/// All strategies share one bank of statistics. The table gives the median and the range of the
/// best losses over seeds, perplexities on test texts, and for each pair whether the ranges
/// show a difference (at least three seeds each, no overlap) and after how many trials one
/// median reached the other's final median. Finished searches are not repeated.
///
/// Example: adapruner compare MODEL --ratio 0.2 --calibration c4.jsonl --text wikitext2:validation --test wikitext2 --arms joint,random@300,data,metric,baseline --seeds 3 --study STUDY
#[derive(Debug, Args)]
pub struct CompareCommand {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    groups: SearchGroups,
    /// Strategies: joint (TPE over everything), random, data, metric, baseline (median of ten
    /// draws); ARM@TRIALS and ARM@TRIALSxSEEDS override the budget of one
    #[arg(
        long,
        value_name = "ARMS",
        value_delimiter = ',',
        default_value = "joint,random,data,metric,baseline"
    )]
    arms: Vec<Named<ArmSpec>>,
    /// Number of seeds for each strategy
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    rows: Vec<Row>,
    runs: Vec<Run>,
    study_folder: String,
    settings: &'a SearchSettings,
}

impl Perform for CompareCommand {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        self.groups.files(self.common.files(), &self.common.file()?)
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &CompareCommand, session: &Session) -> Result<()> {
    ensure!(args.seeds > 0, "seeds: at least 1 expected, 0 found");
    let file = args.common.file()?;
    let Resolved { settings, extent, trials, seed } = args.groups.resolve(&file)?;
    if settings.front.is_some() {
        return Err(advised(
            "objectives: compare ranks arms by their best loss at one ratio",
            "leave --objectives out, or use search",
        ));
    }
    let checkpoint = args.common.open(session)?;
    let arms: Vec<Arm> = args
        .arms
        .iter()
        .flat_map(|spec| spec.0.arms(extent, trials, seed..seed + args.seeds))
        .collect();
    let spaces =
        arms.iter().map(|arm| space_of(&checkpoint, &settings, arm)).collect::<Result<Vec<_>>>()?;
    let leading = spaces.iter().map(|space| space.most_protected()).max().unwrap_or(0);
    let bars = session.bars();
    let texts = prepare::texts(&checkpoint, &settings)?;
    let told: (&_, &dyn Progress) = (&session.writer, &bars);
    let prepared = prepare::prepare(&checkpoint, &settings, &texts, leading, told)?;
    let (folder, record, objective) = prepared;
    let (stop, leave) = (interrupt::graceful(), || interrupt::exit());
    let workers = Workers::start(if args.groups.worker { 0 } else { settings.workers - 1 })?;
    let mut searches = Vec::new();
    for (arm, space) in arms.iter().zip(spaces) {
        let search = Search {
            objective: &objective,
            folder: &folder,
            record: &record,
            settings: &settings,
            arm,
            space,
        };
        let study = search.open()?;
        tracing::info!("{}", study.name());
        let ended =
            search.run(&study, stop, &leave, if args.groups.worker { &() } else { &bars })?;
        if ended == Ended::Interrupted {
            workers.join()?;
            interrupt::exit();
        }
        searches.push((search, study));
    }
    workers.join()?;
    interrupt::at_once();
    if args.groups.worker {
        return Ok(());
    }
    let tests = Tests::new(&texts.tests);
    let samples = pool::read(&folder, &record)?;
    let mut runs = Vec::new();
    for (search, study) in &searches {
        let result = search.sum_up(study, &tests, &samples, &command_line(), &bars)?;
        runs.push(Run::new(search.arm, &study.trials()?, &result));
    }
    let report = Report {
        rows: rows_of(&runs),
        runs,
        study_folder: settings.folder.display().to_string(),
        settings: &settings,
    };
    let path = folder.result(&format!("compare-{extent}"));
    folder.write_json(&path, &report)?;
    args.common.printer().result(&report, |report| text(report))
}

fn text(report: &Report<'_>) -> String {
    let mut out = String::from(
        "best loss in nats per predicted token: median (smallest to largest) over seeds\n",
    );
    for row in &report.rows {
        out.push_str(&format!(
            "{}: {:.4} ({:.4} to {:.4}), {}, {} trials",
            row.arm,
            row.median,
            row.least,
            row.largest,
            if row.seeds == 1 { "1 seed".to_owned() } else { format!("{} seeds", row.seeds) },
            row.trials
        ));
        for (mark, loss) in &row.after {
            out.push_str(&format!("; after {mark} {loss:.4}"));
        }
        out.push('\n');
        for test in &row.tests {
            out.push_str(&format!(
                "  perplexity {:.3} → {:.3} ({:.3} to {:.3}; {}, {} windows of {} tokens)\n",
                test.dense,
                test.median,
                test.least,
                test.largest,
                test.text.text,
                test.text.windows,
                test.text.window
            ));
        }
        for ((other, reached), (_, shown)) in row.reached.iter().zip(&row.against) {
            let reached = reached.map_or_else(
                || "the median never reached its final median".to_owned(),
                |trials| format!("the median reached its final median after {trials} trials"),
            );
            out.push_str(&format!("  against {other}: {shown}; {reached}\n"));
        }
    }
    out
}
