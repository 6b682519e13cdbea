//! Draws trials at random into a journal, to be looked at with Optuna's tools
//! (`reference/check_journal.py`, optuna-dashboard).
//!
//! Usage: journal FILE|redis://HOST:PORT STUDY TRIALS
//!
//! Queued trials come first; prints the numbers of its trials. Of every seven one
//! is stopped early, of every eleven one fails.

use std::io::Write;

use adapruner_study::journal::fixed_param;
use adapruner_study::{
    Choice, Direction, Distribution, JournalStorage, ParamValue, Storage, TrialState,
};
use rand::RngExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [journal, study, trials] = &arguments[..] else {
        return Err("usage: journal FILE|redis://HOST:PORT STUDY TRIALS".into());
    };
    let storage = open(journal)?;
    let study = storage.open_study(study, &[Direction::Minimize])?;
    for _ in 0..trials.parse()? {
        let number = match storage.claim_waiting(study)? {
            Some(number) => number,
            None => storage.create_trial(study)?,
        };
        writeln!(std::io::stdout(), "{number}")?;
        let trial = storage.trials(study)?.swap_remove(number as usize);
        let value = |name: &str, distribution: Distribution| {
            let value = fixed_param(&trial, name, &distribution);
            let value = value.unwrap_or_else(|| draw(&distribution));
            storage.set_param(study, number, name, &distribution, &value)?;
            Ok::<_, adapruner_study::Error>(value)
        };
        let x = value("x", Distribution::Float { low: -1.0, high: 2.0, step: None, log: false })?;
        let choices = ["l1", "l2"].map(|name| Choice::Text(name.into())).into();
        let norm = value("norm", Distribution::Categorical { choices })?;
        let layers = value("layers", Distribution::int(1, 8))?;
        let samples = value("samples", Distribution::Subset { pool: 20, least: 2, most: 6 })?;
        let (
            ParamValue::Float(x),
            ParamValue::Category(norm),
            ParamValue::Int(layers),
            ParamValue::Subset(samples),
        ) = (x, norm, layers, samples)
        else {
            return Err("values of another kind".into());
        };
        let loss = x * x
            + 0.1 * norm as f64
            + 0.05 * layers as f64
            + samples.iter().sum::<usize>() as f64 / 60.0;
        let pruned = number % 7 == 3;
        let at = |step: u64| loss + 0.5_f64.powi(step as i32);
        let last = if pruned { 2 } else { 5 };
        for step in 0..=last {
            let nan = number == 1 && step == 0;
            storage.report(study, number, step, if nan { f64::NAN } else { at(step) })?;
        }
        storage.heartbeat(study, number)?;
        let (state, value) = if number % 11 == 5 {
            (TrialState::Failed, None)
        } else if pruned {
            (TrialState::Pruned, Some(at(last)))
        } else {
            (TrialState::Complete, Some(loss))
        };
        storage.finish(study, number, state, value)?;
    }
    Ok(())
}

#[cfg(feature = "redis")]
fn open(journal: &str) -> adapruner_study::Result<Box<dyn Storage>> {
    use adapruner_study::journal::RedisBackend;

    if journal.starts_with("redis") {
        return Ok(Box::new(JournalStorage::open(RedisBackend::open(journal, "")?)?));
    }
    Ok(Box::new(JournalStorage::file(journal)?))
}

#[cfg(not(feature = "redis"))]
fn open(journal: &str) -> adapruner_study::Result<Box<dyn Storage>> {
    Ok(Box::new(JournalStorage::file(journal)?))
}

fn draw(distribution: &Distribution) -> ParamValue {
    let mut random = rand::rng();
    match distribution {
        Distribution::Float { low, high, .. } => {
            ParamValue::Float(random.random_range(*low..=*high))
        }
        Distribution::Int { low, high, .. } => ParamValue::Int(random.random_range(*low..=*high)),
        Distribution::Categorical { choices } => {
            ParamValue::Category(random.random_range(0..choices.len()))
        }
        Distribution::Subset { pool, least, most } => {
            let n = random.random_range(*least..=*most);
            let mut items = rand::seq::index::sample(&mut random, *pool, n).into_vec();
            items.sort_unstable();
            ParamValue::Subset(items)
        }
    }
}
