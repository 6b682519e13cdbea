//! Draws trials at random into a journal, to be looked at with Optuna's tools
//! (`reference/check_journal.py`, optuna-dashboard).
//!
//! Usage: journal FILE|redis://HOST:PORT STUDY TRIALS
//!
//! Queued trials come first; prints the numbers of its trials.

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
    let study = storage.open_study(study, Direction::Minimize)?;
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
        let samples = value("samples", Distribution::Subset { pool: 20, least: 2, most: 6 })?;
        let (ParamValue::Float(x), ParamValue::Category(norm), ParamValue::Subset(samples)) =
            (x, norm, samples)
        else {
            return Err("values of another kind".into());
        };
        let loss = x * x + 0.1 * norm as f64 + samples.iter().sum::<usize>() as f64 / 60.0;
        storage.report(study, number, 0, if number == 1 { f64::NAN } else { loss })?;
        storage.heartbeat(study, number)?;
        storage.finish(study, number, TrialState::Complete, Some(loss))?;
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
