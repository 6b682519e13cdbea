//! All of a search against the naive loop, on the same windows and samples.
//!
//! Ours is `adapruner search` as a user runs it, with early stopping: a process of its
//! own, timed from its start to its end. The naive loop is that of `reference/bench.py`:
//! every trial draws its samples from the same pool, makes their gradients, slices and
//! runs all windows; half of its trials are run before our search, the rest after it.
//! Starting PyTorch and loading its model are not counted. Where fewer naive trials are
//! run than the search has, their median stands for the others, and the report says so.
//!
//! Both sides measure the same windows: those that a search spreads over the text, whose
//! ids the naive loop is given. That they are the same is checked by digest, the pool
//! likewise. Losses are in nats per predicted token.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use adapruner_checkpoint::{
    Checkpoint, Digest,
    text::{TextOptions, TokenSet, read},
};
use adapruner_study::{Direction, JournalStorage, Storage, TrialState};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Args, Run, ours,
    report::spread,
    torch::{Inputs, Torch},
};

/// Samples of the pool, as `search` has by default.
const POOL: usize = 128;

/// What the pass `search` takes beside the others' settings.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The pass search")]
pub struct SearchArgs {
    /// The program `adapruner`.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Text that samples are drawn from, file or named set.
    #[arg(long)]
    calibration: Option<String>,
    /// Text that trials are measured on (--trial-windows windows spread over it), file
    /// or named set.
    #[arg(long)]
    text: Option<String>,
    /// Folder of the named sets.
    #[arg(long, env = "ADAPRUNER_DATA")]
    data_dir: Option<PathBuf>,
    /// Trials of both sides.
    #[arg(long, default_value_t = 150)]
    trials: usize,
    /// Trials of the naive loop that are run; the time of the others is extrapolated.
    #[arg(long, default_value_t = 150)]
    naive_trials: usize,
    /// Seed of the pool and of our search; the naive loop's trials have seeds of their own.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// What both sides work on.
struct Material {
    windows: TokenSet,
    pool: TokenSet,
    /// Feed-forward widths of a naive trial's model.
    widths: Vec<usize>,
}

impl Material {
    fn read(args: &Args, search: &SearchArgs) -> Result<Self> {
        let checkpoint = Checkpoint::open(&args.model)?;
        let options = TextOptions { data_dir: search.data_dir.clone(), ..TextOptions::default() };
        let text = read(given("text", &search.text)?, &options)?;
        let calibration = read(given("calibration", &search.calibration)?, &options)?;
        let tokenizer = &checkpoint.tokenizer;
        Ok(Self {
            windows: TokenSet::spread(&text, tokenizer, args.window, args.trial_windows)?,
            pool: TokenSet::samples(
                &calibration,
                tokenizer,
                POOL,
                args.sample_tokens,
                search.seed,
            )?,
            widths: ours::widths(args, &checkpoint)?,
        })
    }
}

/// An option that this pass cannot do without.
fn given<'a, T>(option: &str, value: &'a Option<T>) -> Result<&'a T> {
    value.as_ref().with_context(|| format!("{option}: missing, the pass search needs it"))
}

/// Runs both sides; prints a Markdown table, then JSON.
pub fn run(args: &Args, search: &SearchArgs) -> Result<()> {
    ensure!(search.trials > 0, "trials: at least 1 expected, found 0");
    ensure!(
        args.alone || search.naive_trials > 0,
        "naive-trials: at least 1 expected, found 0; --alone runs our side alone"
    );
    let folder = tempfile::tempdir()?;
    let material = Material::read(args, search)?;
    let (ids, pool) = (folder.path().join("ids.json"), folder.path().join("pool.json"));
    fs::write(&ids, serde_json::to_string(&material.windows.windows.concat())?)?;
    fs::write(&pool, serde_json::to_string(&material.pool.windows)?)?;
    let inputs = Inputs { ids: &ids, calibration: Some(&pool), widths: &material.widths };
    let mut torch = if args.alone { None } else { Some(Torch::start(args, &inputs)?) };

    let run = search.naive_trials.min(search.trials);
    let mut naive = Vec::with_capacity(run);
    naive_trials(&mut torch, 0..run / 2, &mut naive)?;
    let ours = searched(args, search, &material, &folder.path().join("study"))?;
    naive_trials(&mut torch, run / 2..run, &mut naive)?;
    let setting = torch.map(Torch::finish).transpose()?;

    let theirs = spread(naive.iter().map(|trial| trial.seconds)).map(|[_, median, _]| {
        let measured: f64 = naive.iter().map(|trial| trial.seconds).sum();
        json!({
            "seconds": measured + median * (search.trials - naive.len()) as f64,
            "extrapolated": naive.len() < search.trials,
            "trials_run": naive.len(),
            "median_trial_seconds": median,
            "trial_seconds": naive.iter().map(|trial| trial.seconds).collect::<Vec<_>>(),
            "losses": naive.iter().map(|trial| trial.nll).collect::<Vec<_>>(),
            "best_loss": naive.iter().map(|trial| trial.nll).min_by(f64::total_cmp),
            "setting": setting,
        })
    });
    let of = |side: &Value| side["seconds"].as_f64();
    let ratio = theirs.as_ref().and_then(of).zip(of(&ours)).map(|(theirs, ours)| theirs / ours);
    let report = json!({
        "threads": args.threads,
        "dtype": args.dtype.name(),
        "ratio": args.ratio,
        "trials": search.trials,
        "windows": material.windows.windows.len(),
        "window": args.window,
        "text": material.windows.name,
        "calibration": material.pool.name,
        "pool": POOL,
        "seed": search.seed,
        "sample_tokens": args.sample_tokens,
        "naive_samples": args.samples,
        "ours": ours,
        "torch": theirs,
        "times_faster": ratio,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n\n{}", table(&report), serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// Runs the naive trials that draw by these seeds.
fn naive_trials(
    torch: &mut Option<Torch>,
    seeds: std::ops::Range<usize>,
    found: &mut Vec<Run>,
) -> Result<()> {
    let Some(torch) = torch else { return Ok(()) };
    for seed in seeds {
        let trial = torch.run(&format!("trial {seed}"))?;
        let mut err = std::io::stderr().lock();
        writeln!(err, "naive trial {seed}: {:.1} s, loss {:.4}", trial.seconds, trial.nll)?;
        found.push(trial);
    }
    Ok(())
}

/// Runs `adapruner search` with a study in `folder`, and returns what it took and found.
fn searched(args: &Args, search: &SearchArgs, material: &Material, folder: &Path) -> Result<Value> {
    let program = given("program", &search.program)?;
    let mut command = Command::new(program);
    command.arg("search").arg(&args.model).arg("--json").arg("--study").arg(folder);
    command.args(["--text", given("text", &search.text)?]);
    command.args(["--calibration", given("calibration", &search.calibration)?]);
    if let Some(data) = &search.data_dir {
        command.arg("--data-dir").arg(data);
    }
    command.args(["--ratio", &args.ratio.to_string(), "--dtype", args.dtype.name()]);
    command.args(["--matmul-precision", &args.matmul_precision.to_string()]);
    for (flag, value) in [
        ("--trials", search.trials),
        ("--limit", args.trial_windows),
        ("--window", args.window),
        ("--samples", POOL),
        ("--sample-tokens", args.sample_tokens),
        ("--threads", args.threads),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    command.arg("--seed").arg(search.seed.to_string());
    let start = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{}: cannot start", program.display()))?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(output.status.success(), "{}: {}", program.display(), output.status);
    let result: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}: expected JSON", program.display()))?;
    let record = folder.join("search.json");
    let record: Value = serde_json::from_slice(&fs::read(&record)?)
        .with_context(|| record.display().to_string())?;
    same("evaluation windows", &record["evaluation"], &material.windows.digest)?;
    same("pool", &record["pool"], &material.pool.digest)?;
    let costs = &result["costs"];
    let part = |cost: &Value, name: &str| {
        cost["seconds"].as_f64().with_context(|| format!("no seconds of the {name}: {cost}"))
    };
    let trials = ["score", "plan", "slice", "evaluate"];
    let trials = trials
        .iter()
        .map(|name| Ok((*name, part(&costs["trials"][name], name)?)))
        .collect::<Result<Vec<_>>>()?;
    let in_trials: f64 = trials.iter().map(|(_, seconds)| seconds).sum();
    let by_phase = trials.into_iter().map(|(name, seconds)| (name.to_owned(), json!(seconds)));
    let bank = part(&record["bank"], "bank")?;
    let attention = part(&record["prepared"]["attention"], "attention order")?;
    let dense = part(&record["prepared"]["dense"], "dense losses")?;
    Ok(json!({
        "seconds": seconds,
        "parts": {
            "bank": bank,
            "attention order": attention,
            "dense losses": dense,
            "trials": in_trials,
            "rest": seconds - bank - attention - dense - in_trials,
        },
        "of_trials": by_phase.collect::<serde_json::Map<_, _>>(),
        "complete": result["complete"],
        "stopped_early": result["stopped_early"],
        "failed": result["failed"],
        "dense_loss": result["dense_loss"],
        "best_loss": result["best"]["loss"],
        "best_trial": result["best"]["number"],
        "losses": complete_losses(&folder.join("journal.log"))?,
        "peak_memory": costs["peak_memory_bytes"],
    }))
}

/// Holds the digest of what the search worked on against ours.
fn same(what: &str, found: &Value, expected: &Digest) -> Result<()> {
    let (found, expected) = (found["tokens_digest"].as_str(), expected.to_string());
    ensure!(
        found == Some(expected.as_str()),
        "{what}: expected tokens of digest {expected}, the search had {}",
        found.unwrap_or("none")
    );
    Ok(())
}

/// Number and loss of every complete trial of a journal's only study.
fn complete_losses(journal: &Path) -> Result<Vec<(u64, f64)>> {
    let storage = JournalStorage::file(journal)?;
    let names = storage.study_names()?;
    let [name] = names.as_slice() else {
        anyhow::bail!("{}: expected one study, found {names:?}", journal.display());
    };
    let trials = storage.trials(storage.open_study(name, &[Direction::Minimize])?)?;
    let complete = trials.iter().filter(|trial| trial.state == TrialState::Complete);
    Ok(complete.filter_map(|trial| Some((trial.number, trial.value()?))).collect())
}

/// Both sides, a row for each figure.
fn table(report: &Value) -> String {
    let (ours, torch) = (&report["ours"], &report["torch"]);
    let number = |value: &Value, digits: usize| {
        value.as_f64().map_or_else(|| "—".to_owned(), |number| format!("{number:.digits$}"))
    };
    let gigabytes = |value: &Value| {
        value.as_f64().map_or_else(|| "—".to_owned(), |bytes| format!("{:.2} GB", bytes / 1e9))
    };
    let trials = &report["trials"];
    let naive = match torch["extrapolated"].as_bool() {
        None => "—".to_owned(),
        Some(false) => trials.to_string(),
        Some(true) => format!(
            "{trials}: {} run, the time of the others extrapolated from their median ({} s)",
            torch["trials_run"],
            number(&torch["median_trial_seconds"], 1)
        ),
    };
    let mut out = String::from("| | adapruner search | naive loop |\n|---|---|---|");
    let mut row = |name: &str, ours: String, theirs: String| {
        // Writing into a String cannot fail.
        let _ = write!(out, "\n| {name} | {ours} | {theirs} |");
    };
    let counts = format!(
        "{} complete, {} stopped early, {} failed",
        ours["complete"], ours["stopped_early"], ours["failed"]
    );
    row("trials", counts, naive);
    row("seconds in all", number(&ours["seconds"], 1), number(&torch["seconds"], 1));
    for (name, seconds) in ours["parts"].as_object().into_iter().flatten() {
        row(&format!("of these, {name}"), number(seconds, 1), String::new());
    }
    let best = |side: &Value| number(&side["best_loss"], 4);
    row("best loss, nats/token", best(ours), best(torch));
    let memory = gigabytes(&torch["setting"]["peak_memory"]);
    row("peak memory", gigabytes(&ours["peak_memory"]), memory);
    row("times faster", number(&report["times_faster"], 2), String::new());
    out
}
