//! Regret of the samplers on known functions and on choosing a subset: medians
//! and quartiles over seeds after 50, 100, 150 and 300 trials.
//!
//! ```text
//! cargo run --release -p adapruner-study --example benchmark -- \
//!     [--python PATH] [--noise S] [--seeds N] [--only PROBLEM]
//! ```
//!
//! With `--python`, the interpreter at PATH, which must have Optuna 5, runs the
//! functions too (`benchmark.py`). With `--noise`, subset values have normal
//! noise of that deviation. There are 20 seeds, from 0 on, unless `--seeds` says
//! otherwise.

mod problems;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use adapruner_study::sampler::subset::SubsetStrategy;
use adapruner_study::{
    Direction, MemoryStorage, Outcome, RandomSampler, Sampler, Study, TpeSampler,
};
use problems::Problem;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A problem by its number.
type Instance = fn(u64) -> Problem;
type Failure = Box<dyn std::error::Error>;

const AFTER: [usize; 4] = [50, 100, 150, 300];

/// Regrets after [`AFTER`] trials.
fn run(
    problem: &Problem,
    sampler: impl Sampler + 'static,
    noise: f64,
    seed: u64,
) -> Result<[f64; 4], Failure> {
    let study = Study::open(Arc::new(MemoryStorage::new()), "b", Direction::Minimize, sampler)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed + 1000);
    let mut regrets = [0.0; 4];
    // The true value of the trial that looked best.
    let (mut seen, mut best) = (f64::INFINITY, f64::INFINITY);
    for trial in 1..=AFTER[3] {
        let (active, params) = study.ask_in(&problem.space)?;
        let value = (problem.value)(&params);
        // A sum of twelve uniform numbers is normal enough.
        let sum: f64 = (0..12).map(|_| rng.next_u64() as f64 / u64::MAX as f64).sum();
        let told = value + noise * (sum - 6.0);
        study.tell(active.number(), Outcome::Complete(told))?;
        if told < seen {
            (seen, best) = (told, value);
        }
        if let Some(at) = AFTER.iter().position(|after| *after == trial) {
            regrets[at] = best - problem.least;
        }
    }
    Ok(regrets)
}

/// Lower quartile, median and upper quartile.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|q| {
        let place = q * (values.len() - 1) as f64;
        let (below, share) = (place.floor() as usize, place.fract());
        values[below] + share * (values[(below + 1).min(values.len() - 1)] - values[below])
    })
}

fn row(name: &str, of: &str, seeds: &[[f64; 4]]) -> String {
    let cell = |at: usize| {
        let [low, median, high] = quartiles(seeds.iter().map(|regrets| regrets[at]).collect());
        format!("{:<24}", format!("{median:.3} ({low:.3}–{high:.3})"))
    };
    format!("{name:<14}{of:<18}{}", (0..4).map(cell).collect::<String>())
}

fn published(problem: &Problem) -> Option<String> {
    let cells = problem.published?.map(|median| format!("{median:<24}"));
    Some(format!("{:<14}{:<18}{}", problem.name, "published", cells.concat()))
}

fn every_seed(
    seeds: u64,
    one: impl Fn(u64) -> Result<[f64; 4], Failure> + Sync,
) -> Result<Vec<[f64; 4]>, Failure> {
    (0..seeds).map(one).collect()
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let (mut python, mut noise, mut seeds, mut only) = (None, 0.0, 20, None);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--python" => python = Some(value),
            "--noise" => noise = value.parse()?,
            "--seeds" => seeds = value.parse()?,
            "--only" => only = Some(value),
            other => {
                let known = "--python, --noise, --seeds or --only";
                return Err(format!("expected {known}, found {other}").into());
            }
        }
    }
    let mut out = std::io::stdout().lock();
    let after = AFTER.map(|n| format!("{:<24}", format!("after {n}")));
    writeln!(out, "{:<14}{:<18}{}", "problem", "sampler", after.concat())?;
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    for problem in problems::functions().into_iter().filter(|problem| wanted(problem.name)) {
        let tpe = every_seed(seeds, |seed| run(&problem, TpeSampler::new(seed), 0.0, seed))?;
        let random = every_seed(seeds, |seed| run(&problem, RandomSampler::new(seed), 0.0, seed))?;
        writeln!(out, "{}", row(problem.name, "random", &random))?;
        writeln!(out, "{}", row(problem.name, "tpe", &tpe))?;
        if let Some(published) = published(&problem) {
            writeln!(out, "{published}")?;
        }
        if let Some(python) = &python {
            let optuna = optuna(Path::new(python), problem.name, seeds)?;
            writeln!(out, "{}", row(problem.name, "optuna, same run", &optuna))?;
        }
    }
    let strategies = [
        ("odds", SubsetStrategy::Odds),
        ("linear", SubsetStrategy::Linear),
        ("odds then linear", SubsetStrategy::default()),
    ];
    let of_sets: [(&str, Instance); 2] =
        [("subset", problems::subset), ("coupled", problems::coupled)];
    for (name, problem) in of_sets.into_iter().filter(|(name, _)| wanted(name)) {
        let random = every_seed(seeds, |s| run(&problem(s), RandomSampler::new(s), noise, s))?;
        writeln!(out, "{}", row(name, "random", &random))?;
        for (strategy_name, strategy) in strategies {
            let of = |s| run(&problem(s), TpeSampler::new(s).with_subsets(strategy), noise, s);
            writeln!(out, "{}", row(name, strategy_name, &every_seed(seeds, of)?))?;
        }
        if let Some(published) = published(&problem(0)) {
            writeln!(out, "{published}")?;
        }
    }
    Ok(())
}

/// What Optuna reaches with the same seeds: one line of four numbers for each.
fn optuna(python: &Path, problem: &str, seeds: u64) -> Result<Vec<[f64; 4]>, Failure> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/benchmark/benchmark.py");
    let output = Command::new(python).arg(script).arg(problem).arg(seeds.to_string()).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let line = |line: &str| -> Result<[f64; 4], Failure> {
        let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        numbers?.try_into().map_err(|n| format!("expected four numbers, found {n:?}").into())
    };
    String::from_utf8(output.stdout)?.lines().map(line).collect()
}
