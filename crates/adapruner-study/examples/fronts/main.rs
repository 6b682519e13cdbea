//! Hypervolumes that the samplers reach on problems of two objectives: medians and ranges
//! over seeds after 50, 100 and 200 trials.
//!
//! ```text
//! cargo run --release -p adapruner-study --example fronts -- \
//!     [--python PATH] [--seeds N] [--only PROBLEM]
//! ```
//!
//! With `--python`, the interpreter at PATH, which must have Optuna 5, runs Optuna's samplers
//! on the same problems (`reference/fronts.py`). There are ten seeds, from 0 on, unless
//! `--seeds` says otherwise.

use std::f64::consts::PI;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use adapruner_study::front::hypervolume_of;
use adapruner_study::sampler::Params;
use adapruner_study::sampler::subset::SubsetStrategy;
use adapruner_study::{
    Direction, MemoryStorage, Outcome, ParamValue, RandomSampler, Sampler, Space, Study, TpeSampler,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

type Failure = Box<dyn std::error::Error>;
type Values = Box<dyn Fn(&Params) -> Vec<f64>>;

const AFTER: [usize; 3] = [50, 100, 200];
const BOTH: [Direction; 2] = [Direction::Minimize; 2];
const DIMENSIONS: usize = 10;

/// Two objectives to minimise, and the worst values that count.
struct Problem {
    space: Space,
    reference: [f64; 2],
    values: Values,
    /// Whether Optuna can run it.
    numbers_alone: bool,
}

/// ZDT1 to ZDT3 (Zitzler, Deb and Thiele, Evolutionary Computation 8(2), 2000).
fn zdt(shape: fn(f64, f64) -> f64) -> Problem {
    let add = |builder: adapruner_study::space::SpaceBuilder, at: usize| {
        builder.float(&format!("x{at}"), 0.0, 1.0)
    };
    let space = (0..DIMENSIONS).fold(Space::builder(), add).build().expect("bounds in order");
    let values = move |params: &Params| {
        let number = |at: usize| params[&format!("x{at}")].1.as_float().unwrap_or(f64::NAN);
        let rest = (1..DIMENSIONS).map(number).sum::<f64>();
        let (f, g) = (number(0), 1.0 + 9.0 * rest / (DIMENSIONS - 1) as f64);
        vec![f, g * shape(f, g)]
    };
    Problem { space, reference: [1.1, 11.0], values: Box::new(values), numbers_alone: true }
}

/// What a search for plans looks like: the more is removed (`ratio`), the larger the loss;
/// it is smaller with good items (8 of 64) and near the best share, and both matter
/// more where more is removed.
fn plans(instance: u64) -> Problem {
    let mut rng = ChaCha8Rng::seed_from_u64(instance);
    let mut uniform = move || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut normal = || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        radius * (2.0 * PI * uniform()).cos()
    };
    let worth: Vec<f64> = (0..64).map(|_| 0.1 * normal()).collect();
    let best = 0.5 + 0.1 * normal();
    let space = Space::builder().float("ratio", 0.1, 0.6).float("share", 0.0, 1.0);
    let space = space.categorical("metric", ["a", "b", "c", "d"]).subset("set", 64, 8);
    let values = move |params: &Params| {
        let number = |name: &str| params[name].1.as_float().unwrap_or(f64::NAN);
        let (ratio, share) = (number("ratio"), number("share"));
        let metric = params["metric"].1.as_category().unwrap_or(0) as f64;
        let set: &[usize] = match &params["set"].1 {
            ParamValue::Subset(set) => set,
            ParamValue::Float(_) | ParamValue::Int(_) | ParamValue::Category(_) => &[],
        };
        let items: f64 = set.iter().map(|item| worth[*item]).sum();
        let flaw = 0.2 * metric + 2.0 * (share - best).powi(2) + 2.0 - items;
        vec![ratio * ratio * 4.0 * flaw, 1.0 - ratio]
    };
    let values = Box::new(values);
    let space = space.build().expect("a set within the pool");
    Problem { space, reference: [3.0, 1.0], values, numbers_alone: false }
}

fn problem(name: &str, instance: u64) -> Problem {
    match name {
        "zdt1" => zdt(|f, g| 1.0 - (f / g).sqrt()),
        "zdt2" => zdt(|f, g| 1.0 - (f / g).powi(2)),
        "zdt3" => zdt(|f, g| 1.0 - (f / g).sqrt() - f / g * (10.0 * PI * f).sin()),
        _ => plans(instance),
    }
}

/// Hypervolumes after [`AFTER`] trials.
fn run(problem: &Problem, sampler: impl Sampler + 'static) -> Result<[f64; 3], Failure> {
    let study = Study::open_multi(Arc::new(MemoryStorage::new()), "f", &BOTH, sampler)?;
    let mut volumes = [0.0; 3];
    for trial in 1..=AFTER[2] {
        let (active, params) = study.ask_in(&problem.space)?;
        study.tell(active.number(), Outcome::Values((problem.values)(&params)))?;
        if let Some(at) = AFTER.iter().position(|after| *after == trial) {
            volumes[at] = hypervolume_of(&study.trials()?, &BOTH, &problem.reference);
        }
    }
    Ok(volumes)
}

fn row(name: &str, of: &str, seeds: &[[f64; 3]]) -> String {
    let cell = |at: usize| {
        let mut volumes: Vec<f64> = seeds.iter().map(|volumes| volumes[at]).collect();
        volumes.sort_by(f64::total_cmp);
        let last = volumes.len() - 1;
        let median = (volumes[last / 2] + volumes[last.div_ceil(2)]) / 2.0;
        format!("{:<26}", format!("{median:.3} ({:.3}–{:.3})", volumes[0], volumes[last]))
    };
    format!("{name:<8}{of:<24}{}", (0..3).map(cell).collect::<String>())
}

fn every_seed(
    seeds: u64,
    one: impl Fn(u64) -> Result<[f64; 3], Failure>,
) -> Result<Vec<[f64; 3]>, Failure> {
    (0..seeds).map(one).collect()
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let (mut python, mut seeds, mut only) = (None, 10, None);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--python" => python = Some(value),
            "--seeds" => seeds = value.parse()?,
            "--only" => only = Some(value),
            other => {
                let known = "--python, --seeds or --only";
                return Err(format!("expected {known}, found {other}").into());
            }
        }
    }
    let mut out = std::io::stdout().lock();
    let after = AFTER.map(|n| format!("{:<26}", format!("after {n}")));
    writeln!(out, "{:<8}{:<24}{}", "problem", "sampler", after.concat())?;
    for name in ["zdt1", "zdt2", "zdt3", "plans"] {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let of = |seed| problem(name, seed);
        let random = every_seed(seeds, |seed| run(&of(seed), RandomSampler::new(seed)))?;
        writeln!(out, "{}", row(name, "random", &random))?;
        let tpe = every_seed(seeds, |seed| run(&of(seed), TpeSampler::new(seed)))?;
        writeln!(out, "{}", row(name, "tpe", &tpe))?;
        for (label, joint) in [("tpe, one by one", false), ("tpe, jointly", true)] {
            let sampler = |seed| TpeSampler::new(seed).with_multivariate(joint);
            let volumes = every_seed(seeds, |seed| run(&of(seed), sampler(seed)))?;
            writeln!(out, "{}", row(name, label, &volumes))?;
        }
        if !of(0).numbers_alone {
            for (label, strategy) in
                [("odds", SubsetStrategy::Odds), ("linear", SubsetStrategy::Linear)]
            {
                let sampler = |seed| TpeSampler::new(seed).with_subsets(strategy);
                let volumes = every_seed(seeds, |seed| run(&of(seed), sampler(seed)))?;
                writeln!(out, "{}", row(name, &format!("tpe, {label}"), &volumes))?;
            }
        } else if let Some(python) = &python {
            for sampler in ["tpe", "multivariate", "nsga2"] {
                let volumes = optuna(Path::new(python), name, sampler, seeds)?;
                writeln!(out, "{}", row(name, &format!("optuna, {sampler}"), &volumes))?;
            }
        }
    }
    Ok(())
}

/// What a sampler of Optuna reaches with the same seeds: one line of three numbers for each.
fn optuna(
    python: &Path,
    problem: &str,
    sampler: &str,
    seeds: u64,
) -> Result<Vec<[f64; 3]>, Failure> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/fronts.py");
    let mut command = Command::new(python);
    let output = command.arg(script).args([problem, sampler, &seeds.to_string()]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let line = |line: &str| -> Result<[f64; 3], Failure> {
        let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        numbers?.try_into().map_err(|n| format!("expected three numbers, found {n:?}").into())
    };
    String::from_utf8(output.stdout)?.lines().map(line).collect()
}
