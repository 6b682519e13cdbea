//! `correlate`: how well losses predict the accuracy of pruned models.

use std::path::PathBuf;

use adapruner::{
    VERSION, pipeline,
    pipeline::TokensRecord,
    search::{
        STUDY, SearchRecord, StoredStudy, StudyFolder,
        correlate::{
            Correlate, CorrelateSettings, Correlations, JUDGED_VERSION, Outcome, Within, Work,
            judge, spread, wanted,
        },
        pool,
        prepare::{self, Texts},
    },
    settings::TextSettings,
    zero_shot::{Questions, TaskSettings},
};
use adapruner_checkpoint::{atomic::Files, text::TokenSet};
use adapruner_eval::{
    correlation::{Correlation, FEWEST},
    zero_shot::Selection,
};
use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{Perform, Session};
use crate::{
    args::RunArgs,
    failure::advised,
    printer::{Printer, columns, grouped},
    search_args::{command_line, precision},
    terminal::say,
    typed::Proportion,
};

/// Correlate perplexity with task accuracy over a study's trials.
///
/// Chooses trials over the whole range of a study's losses, always including the best one and
/// the first (the hand setting), and prunes them to each of --ratios. Measures every model on
/// the study's search-evaluation text (--text), on test texts and on tasks. Correlates every
/// loss with every accuracy, over all models and within each ratio of at least five models:
/// Spearman and Pearson with 95 % intervals and a verdict. Models of one trial at several
/// ratios depend on each other, so they are resampled together and count as one; with fewer
/// than ten trials there is no verdict, only the p of a permutation test. A loss is a poor
/// guide if the lower bound of |Spearman| is below 0.5. If it separates ratios but not models
/// of one ratio, or if accuracies differ by no more than their standard errors, the command
/// says that instead. The dense model is measured too, but is not part of the correlations.
///
/// Results are saved in the study's folder as soon as a model is measured, so the same command
/// resumes and measures nothing twice. `report` shows them.
///
/// Example: adapruner correlate STUDY --text wikitext2:validation --test wikitext2:test --test ptb:test --tasks piqa,arc_easy --limit 200 --trials 8 --ratios 0.1,0.2,0.3,0.4,0.5
#[derive(Debug, Args)]
pub struct CorrelateCommand {
    /// Folder of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// The study's model [default: its path during the search]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Name of the study in the folder [default: the one with the best trial]
    #[arg(long, value_name = "NAME")]
    study_name: Option<String>,
    /// Redis URL of the trials, as given to search
    #[arg(long, value_name = "URL")]
    storage: Option<String>,
    /// Number of trials to choose
    #[arg(long, value_name = "N", default_value_t = 20)]
    trials: usize,
    /// Ratios to prune each of them to, which gives trials × ratios models [default: the
    /// study's own]
    #[arg(long, value_name = "RATIOS", value_delimiter = ',')]
    ratios: Vec<Proportion>,
    /// The study's search-evaluation text, as given to search
    #[arg(long, value_name = "FILE|SET")]
    text: PathBuf,
    /// Test text, in windows of the same length; repeatable
    #[arg(long, value_name = "FILE|SET")]
    test: Vec<PathBuf>,
    /// Windows of each test text, spread evenly
    #[arg(long, value_name = "N", default_value_t = 64)]
    test_windows: usize,
    /// Accept test texts that share passages with the study's pool or --text
    #[arg(long)]
    allow_overlap: bool,
    /// Tasks to evaluate, as for eval
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Custom task, defined in a TOML file; repeatable
    #[arg(long, value_name = "FILE")]
    task_file: Vec<PathBuf>,
    /// Take only the first N questions of each task [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Field or column that holds the text of a record [default: text]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Folder to search for task data and named sets
    #[arg(long, value_name = "DIR", env = "ADAPRUNER_DATA")]
    data_dir: Option<PathBuf>,
    /// Tokens per batch of tasks [default: chosen by free memory]
    #[arg(long, value_name = "N")]
    batch_tokens: Option<usize>,
    /// Number of resamples for intervals, and of random permutations
    #[arg(long, value_name = "N", default_value_t = 2000)]
    resamples: usize,
    /// Seed of resamples and permutations
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Only list the models to measure and the cost
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl CorrelateCommand {
    /// Fills in the defaults.
    fn resolve(&self) -> Result<CorrelateSettings> {
        if self.tasks.is_empty() && self.task_file.is_empty() {
            return Err(advised("tasks: none given", "give some: --tasks piqa,arc_easy"));
        }
        if self.tasks.iter().any(|task| task == "wikitext") {
            return Err(advised(
                "task wikitext: it has no accuracy",
                "give it as a text: --test wikitext2",
            ));
        }
        for (option, number) in [
            ("limit", self.limit.unwrap_or(1)),
            ("test-windows", self.test_windows),
            ("resamples", self.resamples),
        ] {
            ensure!(number > 0, "{option}: at least 1 expected, 0 found");
        }
        let mut ratios: Vec<f64> = self.ratios.iter().map(|ratio| ratio.0).collect();
        for ratio in &ratios {
            let within = *ratio > 0.0 && *ratio < 1.0;
            ensure!(within, "ratios: numbers between 0 and 1 expected, {ratio} found");
        }
        ratios.sort_by(f64::total_cmp);
        ratios.dedup();
        let text = |text: &PathBuf| TextSettings {
            text: text.clone(),
            field: self.field.clone(),
            data_dir: self.data_dir.clone(),
        };
        Ok(CorrelateSettings {
            run: self.run.resolve_at(precision(Some(&self.study)))?,
            folder: self.study.clone(),
            study: self.study_name.clone(),
            text: text(&self.text),
            trials: self.trials,
            ratios,
            tests: self.test.iter().map(text).collect(),
            test_windows: self.test_windows,
            tasks: TaskSettings {
                tasks: self.tasks.clone(),
                task_files: self.task_file.clone(),
                data_dir: self.data_dir.clone(),
                selection: self.limit.map_or(Selection::All, Selection::First),
                batch_tokens: self.batch_tokens,
            },
            resamples: self.resamples,
            seed: self.seed,
        })
    }
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    found: &'a Correlations,
    settings: &'a CorrelateSettings,
}

/// What would be measured.
#[derive(Serialize)]
struct Plan {
    study: String,
    trials: Vec<(u64, f64)>,
    ratios: Vec<f64>,
    work: Work,
}

impl Perform for CorrelateCommand {
    fn json(&self) -> bool {
        self.json
    }

    fn files(&self) -> Result<Files> {
        let files = Files::new().state("STUDY", &self.study, &STUDY);
        let files = self.model.iter().fold(files, |files, path| files.read("--model", path));
        let files = files.read("--text", &self.text);
        let files = self.test.iter().fold(files, |files, text| files.read("--test", text));
        let tasks = self.task_file.iter();
        let files = tasks.fold(files, |files, task| files.read("--task-file", task));
        let folders = self.data_dir.iter();
        Ok(folders.fold(files, |files, folder| files.search("--data-dir", folder)))
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &CorrelateCommand, session: &Session) -> Result<()> {
    let settings = args.resolve()?;
    StudyFolder::open(&settings.folder)?;
    let folder = StudyFolder::create(session.writer.state(&settings.folder)?)?;
    let record = SearchRecord::read(&folder.record())?;
    let studies = StoredStudy::all(&folder, args.storage.as_deref())?;
    let study = StoredStudy::pick(studies, settings.study.as_deref())?;
    study.has_a_best()?;
    let trials = spread(&study, settings.trials)?;
    let own = [record.ratio];
    let ratios = if settings.ratios.is_empty() { &own[..] } else { &settings.ratios };
    let wanted = wanted(&trials, ratios);
    let questions = Questions::read(&settings.tasks)?;
    let model = args.model.as_ref().unwrap_or(&record.model.path);
    let checkpoint = session.open("--model", model)?;
    let placement = settings.run.placement([&checkpoint])?;
    let spread = |text: &TextSettings, windows| -> Result<TokenSet> {
        Ok(pipeline::spread_tokens(&checkpoint, text, record.evaluation.window, windows)?)
    };
    let eval = spread(&settings.text, record.evaluation.windows)?;
    let tests = settings.tests.iter().map(|text| spread(text, settings.test_windows));
    let pool = pool::tokens(&folder, &record)?;
    let texts = Texts { pool, eval, tests: tests.collect::<Result<Vec<_>>>()? };
    texts.check_tests(args.allow_overlap)?;
    let bars = session.bars();
    let leading = study.space.most_protected();
    let objective =
        prepare::stored(&checkpoint, (&folder, &record), &texts.eval, &placement, leading, &bars)?;
    let correlate = Correlate {
        objective: &objective,
        folder: &folder,
        record: &record,
        study: &study.name,
        tests: &texts.tests,
        questions: &questions,
        tasks: &settings.tasks,
    };
    let plan = Plan {
        study: study.name.clone(),
        trials: trials.iter().map(|trial| (trial.number, trial.loss)).collect(),
        ratios: ratios.to_vec(),
        work: correlate.work(&wanted)?,
    };
    let printer = Printer::new(args.json);
    if args.dry_run {
        return printer.result(&plan, announced);
    }
    say(&announced(&plan));
    let finished = correlate.run(&wanted, &plan.work, &bars)?;
    let pairs = judge::pairs(&finished.points, settings.resamples, settings.seed);
    let found = Correlations {
        version: JUDGED_VERSION,
        adapruner: VERSION.to_owned(),
        study: study.name.clone(),
        evaluation: record.evaluation.clone(),
        tests: texts.tests.iter().map(TokensRecord::of).collect(),
        selection: settings.tasks.selection,
        dense: finished.dense,
        points: finished.points,
        sentences: judge::sentences(&pairs),
        pairs,
        resamples: settings.resamples,
        seed: settings.seed,
        command: command_line(),
    };
    folder.write_json(&folder.correlations(&study.name), &found)?;
    printer.result(&Report { found: &found, settings: &settings }, |report| text(report.found))
}

/// What will be measured and what it takes.
fn announced(plan: &Plan) -> String {
    let Work { parts, open, all, tokens, seconds } = &plan.work;
    let trials: Vec<String> =
        plan.trials.iter().map(|(number, loss)| format!("{number} ({loss:.3})")).collect();
    let ratios: Vec<String> = plan.ratios.iter().map(ToString::to_string).collect();
    let parts: Vec<String> =
        parts.iter().map(|(name, tokens)| format!("{name} {}", grouped(*tokens))).collect();
    let minutes = seconds / 60.0;
    format!(
        "{}: trials (loss in the search) {}; ratios {}\n{open} of {all} models to measure (the \
         dense one among them), {} tokens in all: each {}\nabout {}\n",
        plan.study,
        trials.join(", "),
        ratios.join(", "),
        grouped(*tokens),
        parts.join(", "),
        if minutes < 120.0 {
            format!("{minutes:.0} min")
        } else {
            format!("{:.1} h", minutes / 60.0)
        },
    )
}

fn text(found: &Correlations) -> String {
    let cell = |found: &Correlation| match (found.value, found.interval) {
        (Some(value), Some((low, high))) => format!("{value:+.2} [{low:+.2}, {high:+.2}]"),
        (Some(value), None) => {
            let p = found.p.map_or_else(String::new, |p| format!(" (p {p:.3})"));
            format!("{value:+.2}{p}")
        }
        (None, _) => "none".to_owned(),
    };
    let row = |(first, second): (String, String), within: &Within, verdict: String| {
        let ceiling = within.ceiling().map_or_else(|| "none".to_owned(), |c| format!("{c:.2}"));
        let (spearman, pearson) = (cell(&within.spearman), cell(&within.pearson));
        let (points, trials) = (within.points.to_string(), within.trials.to_string());
        vec![first, second, points, trials, spearman, pearson, ceiling, verdict]
    };
    let heads = ["loss", "accuracy", "models", "trials", "Spearman", "Pearson", "ceiling", "guide"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for pair in &found.pairs {
        let names = (pair.predictor.clone(), pair.outcome.clone());
        rows.push(row(names, &pair.overall, pair.verdict.to_string()));
        for within in &pair.within {
            let ratio = within.ratio.map_or_else(String::new, |r| format!("  at ratio {r}"));
            rows.push(row((String::new(), ratio), within, String::new()));
        }
    }
    let mut out = models(found);
    out.push('\n');
    out.push_str(&columns(&rows));
    out.push_str(&format!(
        "95 % intervals by Fisher's transformation (Spearman: Bonett and Wright's variance), with as \
         many models as there are trials; where a trial has several ratios no narrower than those of \
         {} resamples of trials (seed {}); none below {FEWEST} trials; p: permutation test of no \
         association; ceiling: the largest correlation that the accuracies' standard errors leave \
         room for\n\n",
        found.resamples, found.seed
    ));
    for sentence in &found.sentences {
        out.push_str(&format!("{sentence}\n"));
    }
    out
}

/// Every model with its figures.
fn models(found: &Correlations) -> String {
    let outcomes = judge::outcomes(std::slice::from_ref(&found.dense));
    let mut heads = vec!["model".to_owned(), "ratio".to_owned(), found.evaluation.text.clone()];
    heads.extend(found.tests.iter().map(|text| text.text.clone()));
    heads.extend(outcomes.iter().cloned());
    let mut rows = vec![heads];
    for point in std::iter::once(&found.dense).chain(&found.points) {
        let name = point.trial.map_or_else(|| "dense".to_owned(), |n| format!("trial {n}"));
        let mut row = vec![name, point.ratio.to_string()];
        match &point.outcome {
            Outcome::Measured(figures) => {
                row.extend(figures.losses.iter().map(|text| format!("{:.3}", text.loss)));
                row.extend(outcomes.iter().map(|outcome| {
                    judge::accuracy(figures, outcome).map_or_else(String::new, |(value, stderr)| {
                        format!("{value:.3} ± {stderr:.3}")
                    })
                }));
            }
            Outcome::Skipped { reason } => row.push(format!("skipped: {reason}")),
        }
        rows.push(row);
    }
    columns(&rows)
}
