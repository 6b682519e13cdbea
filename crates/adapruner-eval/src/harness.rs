//! Results in the layout of lm-evaluation-harness's `results.json`, so that
//! scripts made for it read them.

use serde_json::{Map, Value, json};

use crate::{
    tasks::wikitext,
    zero_shot::{RollingResult, TaskResult},
};

/// A figure, or the harness's `"N/A"`.
fn or_none(value: Option<f64>) -> Value {
    value.map_or_else(|| "N/A".into(), Value::from)
}

/// The keys `results`, `versions`, `n-shot`, `higher_is_better` and
/// `n-samples`, each by task.
pub fn layout(tasks: &[TaskResult], rolling: Option<&RollingResult>) -> Map<String, Value> {
    let [mut results, mut versions, mut shots, mut higher, mut samples] =
        std::array::from_fn(|_| Map::new());
    let mut add = |name: &str, figures, version: f64, better: Map<_, _>, all: usize, asked| {
        results.insert(name.into(), Value::Object(figures));
        versions.insert(name.into(), version.into());
        shots.insert(name.into(), 0.into());
        higher.insert(name.into(), Value::Object(better));
        samples.insert(name.into(), json!({ "original": all, "effective": asked }));
    };
    for result in tasks {
        let (mut figures, mut better) = (Map::new(), Map::new());
        figures.insert("name".into(), result.task.as_str().into());
        figures.insert("alias".into(), result.task.as_str().into());
        figures.insert("sample_len".into(), result.answers.len().into());
        for (metric, estimate) in &result.metrics {
            figures.insert(format!("{metric},none"), estimate.value.into());
            figures.insert(format!("{metric}_stderr,none"), or_none(estimate.stderr));
            better.insert(metric.to_string(), true.into());
        }
        add(&result.task, figures, result.version, better, result.all, result.answers.len());
    }
    if let Some(result) = rolling {
        let (mut figures, mut better) = (Map::new(), Map::new());
        let asked = result.log_likelihoods.len();
        figures.insert("name".into(), wikitext::NAME.into());
        figures.insert("alias".into(), wikitext::NAME.into());
        figures.insert("sample_len".into(), asked.into());
        for (name, value) in [
            ("word_perplexity", result.word_perplexity()),
            ("byte_perplexity", result.byte_perplexity()),
            ("bits_per_byte", result.bits_per_byte()),
        ] {
            figures.insert(format!("{name},none"), value.into());
            figures.insert(format!("{name}_stderr,none"), or_none(None));
            better.insert(name.into(), false.into());
        }
        add(wikitext::NAME, figures, wikitext::VERSION, better, result.all, asked);
    }
    [
        ("results", results),
        ("versions", versions),
        ("n-shot", shots),
        ("higher_is_better", higher),
        ("n-samples", samples),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), Value::Object(value)))
    .collect()
}
