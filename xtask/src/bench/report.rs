//! Runs as JSON, and as a Markdown table.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::{Args, Pass, Run, process};

/// Measured runs by pass and side (`ours` or `torch`).
pub type Found = BTreeMap<(Pass, &'static str), Vec<Run>>;

/// Smallest, median and largest; `None` of nothing.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (first, last) = (values.first()?, values.last()?);
    let half = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
    Some([*first, median, *last])
}

/// The median of what the runs have of something.
fn median(runs: &[Run], value: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    spread(runs.iter().filter_map(value)).map(|[_, median, _]| median)
}

/// Smallest, median and largest speed, in tokens per second.
fn speeds(runs: &[Run]) -> Option<[f64; 3]> {
    spread(runs.iter().map(|run| run.tokens as f64 / run.seconds))
}

fn side(runs: &[Run]) -> Option<Value> {
    let [least, middle, most] = speeds(runs)?;
    let faults = |run: &Run| Some(1e3 * run.faults? as f64 / run.tokens as f64);
    let rate = |run: &Run| Some(run.arithmetic?.operations / run.seconds);
    let share = |run: &Run| Some(rate(run)? / run.arithmetic?.peak);
    Some(json!({
        "tokens_per_second": { "min": least, "median": middle, "max": most },
        "seconds": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
        "tokens": runs.first().map(|run| run.tokens),
        "nll": runs.first().map(|run| run.nll),
        "faults_per_1000_tokens": median(runs, faults),
        "gflop_per_second": median(runs, rate).map(|rate| rate / 1e9),
        "share_of_peak": median(runs, share),
    }))
}

/// All that was measured, and with what.
pub fn of(args: &Args, found: &Found, torch: Option<Value>) -> Value {
    let mut passes = serde_json::Map::new();
    for &pass in &args.passes {
        let runs = |name| found.get(&(pass, name)).map(Vec::as_slice).unwrap_or_default();
        let ratio = speeds(runs("ours")).zip(speeds(runs("torch"))).map(|(a, b)| a[1] / b[1]);
        let value =
            json!({ "ours": side(runs("ours")), "torch": side(runs("torch")), "ratio": ratio });
        passes.insert(pass.name().to_owned(), value);
    }
    json!({
        "threads": args.threads,
        "repeats": args.repeats,
        "window": args.window,
        "batch": args.batch,
        "samples": args.samples,
        "sample_tokens": args.sample_tokens,
        "trial_windows": args.trial_windows,
        "ratio": args.ratio,
        "sequences": args.sequences,
        "sequence_tokens": args.sequence_tokens,
        "steps": args.steps,
        "dtype": args.dtype.name(),
        "matmul_precision": args.matmul_precision.to_string(),
        "peak_memory": process::peak_memory(),
        "passes": passes,
        "torch": torch,
    })
}

/// What is shown where there is nothing to show.
const NOTHING: &str = "—";

/// The passes of a report, a row each.
pub fn table(report: &Value) -> String {
    let mut out = String::from(
        "| pass | ours, tokens/s (min–max) | PyTorch, tokens/s (min–max) | ours / PyTorch | ours, \
         GFLOP/s (of the peak) | page faults / 1 000 tokens, ours | PyTorch |\n\
         |---|---|---|---|---|---|---|",
    );
    let shown = |value: &Value, form: &dyn Fn(f64) -> String| {
        value.as_f64().map_or_else(|| NOTHING.to_owned(), form)
    };
    for (name, of) in report["passes"].as_object().into_iter().flatten() {
        let speed = |side: &str| {
            let speed = |key: &str| of[side]["tokens_per_second"][key].as_f64();
            match (speed("min"), speed("median"), speed("max")) {
                (Some(min), Some(median), Some(max)) => {
                    format!("{median:.0} ({min:.0}–{max:.0})")
                }
                _ => NOTHING.to_owned(),
            }
        };
        let ratio = shown(&of["ratio"], &|ratio| format!("{ratio:.2}"));
        let share = of["ours"]["share_of_peak"].as_f64().unwrap_or(f64::NAN);
        let rate = shown(&of["ours"]["gflop_per_second"], &|rate| {
            format!("{rate:.0} ({:.0} %)", 100.0 * share)
        });
        let faults = |side: &str| {
            shown(&of[side]["faults_per_1000_tokens"], &|faults| format!("{faults:.1}"))
        };
        // Writing into a String cannot fail.
        let _ = write!(
            out,
            "\n| {name} | {} | {} | {ratio} | {rate} | {} | {} |",
            speed("ours"),
            speed("torch"),
            faults("ours"),
            faults("torch")
        );
    }
    out
}
