//! The studies of a folder as a page (see `adapruner-report`).

use std::collections::BTreeMap;

use adapruner_prune::PlanTable;
use adapruner_report::{
    ArmRow, Best, CostRow, Front, Importance, LayerRow, Measured, ModelFacts, Page,
    Run as RunOfPage, Sample, SizePoint, State, TestMedian, TrialPoint, TrialsToMatch, Value,
    Width,
};
use adapruner_study::{Choice, Distribution, ParamValue, Trial, TrialState};

use super::{
    Arm, FrontResult, SearchRecord, SearchResult, StoredStudy, StudyFolder,
    compare::{Run, table},
    correlate::Correlations,
    objective::Cost,
    run::DIRECTION,
};
use crate::{
    VERSION,
    compare_models::facts as text,
    error::{Context, Result},
};

/// The page of a folder. `created` is the moment it is made, ISO 8601.
///
/// # Errors
/// A folder without studies, or one that is damaged.
pub fn page(folder: &StudyFolder, storage: Option<&str>, created: String) -> Result<Page> {
    let record = SearchRecord::read(&folder.record())?;
    let studies = StoredStudy::all(folder, storage)?;
    let mut results = BTreeMap::new();
    let mut runs = Vec::new();
    for study in &studies {
        let path = folder.result(&study.name);
        if path.exists() && !study.is_front() {
            let result = SearchResult::read(&path)?;
            runs.push(Run::new(&study.arm, &study.trials, &result));
            results.insert(study.name.clone(), result);
        }
    }
    let mut page = Page {
        title: format!("adapruner search: {}", model_name(&record)),
        version: VERSION.to_owned(),
        created,
        model: ModelFacts {
            path: record.model.path.display().to_string(),
            digest: record.model.digest.to_string(),
            parameters: record.model.parameters,
            parameters_after: None,
            ratio: record.ratio,
            layout: record.layout.to_string(),
        },
        texts: vec![
            text("calibration pool", &record.pool),
            text("search evaluation", &record.evaluation),
        ],
        runs: studies.iter().map(|study| run_of(&study.arm, &study.losses())).collect(),
        comparison: if runs.len() > 1 { comparison(&runs) } else { Vec::new() },
        ..Page::default()
    };
    let names: Vec<String> = studies.iter().map(|study| study.name.clone()).collect();
    let picked =
        StoredStudy::pick(studies, None).with_context(|| folder.root().display().to_string())?;
    page.importances = importances(&picked);
    if picked.is_front() {
        page.front = Some(front(&picked, &record)?);
        let path = folder.result(&picked.name);
        if path.exists() {
            page.command = FrontResult::read(&path)?.command;
        }
        return Ok(page);
    }
    let best = picked.best()?;
    page.best = Some(Best {
        run: label(&picked.arm),
        number: best.number,
        loss: best.loss,
        perplexity: best.loss.exp(),
        values: best
            .configuration
            .rows()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    });
    page.correlation = correlations(folder, &picked.name, &names)?;
    match results.remove(&picked.name) {
        Some(result) => add_result(&mut page, result),
        None => page.warnings.push(format!(
            "{} was not summed up yet: samples, widths, tests and costs are missing; the line that \
             began the search, run again, ends it",
            picked.name
        )),
    }
    Ok(page)
}

/// The correlations of the study that is shown, else of the first that has some.
fn correlations(
    folder: &StudyFolder,
    shown: &str,
    studies: &[String],
) -> Result<Option<adapruner_report::Correlations>> {
    let names = std::iter::once(shown).chain(studies.iter().map(String::as_str));
    let path = names.map(|name| folder.correlations(name)).find(|path| path.exists());
    path.map(|path| Ok(Correlations::read(&path)?.shown())).transpose()
}

/// The last part of the model's path.
fn model_name(record: &SearchRecord) -> String {
    let path = &record.model.path;
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into())
}

/// Facts from the summary of a search.
fn add_result(page: &mut Page, result: SearchResult) {
    page.texts.extend(result.tests.iter().map(|test| text("test", &test.text)));
    page.measured = result
        .tests
        .iter()
        .map(|test| Measured {
            text: test.text.text.clone(),
            windows: test.text.windows,
            window: test.text.window,
            dense: test.dense,
            pruned: test.pruned,
            dense_bits_per_byte: test.dense_bits_per_byte,
            pruned_bits_per_byte: test.pruned_bits_per_byte,
        })
        .collect();
    page.model.parameters_after = Some(result.plan.parameters_after);
    page.layers = layers(&result.plan);
    let cost = |phase: &str, cost: Cost| CostRow {
        phase: phase.to_owned(),
        seconds: cost.seconds,
        tokens: cost.tokens,
        flops: cost.flops,
    };
    page.costs =
        result.costs.phases().into_iter().map(|(phase, spent)| cost(phase, spent)).collect();
    page.naive = Some(cost("naive loop", result.costs.naive));
    page.peak_memory_bytes = result.costs.peak_memory_bytes;
    page.samples = result
        .samples
        .into_iter()
        .map(|sample| Sample {
            index: sample.sample.index,
            source: sample.sample.source,
            text: sample.sample.text,
            loss: sample.loss,
            influence: sample.influence,
            deviation: sample.deviation,
            chosen: sample.chosen,
        })
        .collect();
    page.warnings = result.warnings;
    page.command = result.command;
}

/// The widths of every layer, before and after.
pub fn layers(plan: &PlanTable) -> Vec<LayerRow> {
    let rows = plan.rows.iter().map(|row| LayerRow {
        layer: row.layer,
        query_heads: Width { before: row.before.query_heads, kept: row.after.query_heads },
        kv_heads: Width { before: row.before.kv_heads, kept: row.after.kv_heads },
        ffn: Width { before: row.before.ffn, kept: row.after.ffn },
    });
    rows.collect()
}

fn label(arm: &Arm) -> String {
    format!("{}, seed {}", arm.label(), arm.seed)
}

fn run_of(arm: &Arm, trials: &[std::sync::Arc<Trial>]) -> RunOfPage {
    // Seconds at work: a search that was interrupted has gaps.
    let mut seconds = 0.0;
    let mut points = Vec::with_capacity(trials.len());
    for trial in trials {
        if let (Some(started), Some(ended)) = (trial.started_ms, trial.ended_ms) {
            seconds += (ended - started).max(0) as f64 / 1000.0;
        }
        points.push(TrialPoint {
            number: trial.number,
            state: match trial.state {
                TrialState::Complete => State::Complete,
                TrialState::Pruned if trial.is_infeasible() => State::Infeasible,
                TrialState::Pruned => State::Pruned,
                TrialState::Failed => State::Failed,
                TrialState::Running | TrialState::Waiting => State::Running,
            },
            value: trial.value(),
            seconds,
            values: trial.params.iter().filter_map(|(name, param)| value(name, param)).collect(),
        });
    }
    RunOfPage { label: label(arm), group: arm.label(), trials: points }
}

/// A parameter as the page shows it; of a subset its size.
fn value(name: &str, param: &(Distribution, ParamValue)) -> Option<(String, Value)> {
    let value = match param {
        (_, ParamValue::Float(value)) => Value::Number(*value),
        (_, ParamValue::Int(value)) => Value::Number(*value as f64),
        (_, ParamValue::Subset(items)) => Value::Number(items.len() as f64),
        (Distribution::Categorical { choices }, ParamValue::Category(at)) => {
            match choices.get(*at)? {
                Choice::Text(name) => Value::Text(name.clone()),
                Choice::None => Value::Text("none".into()),
                Choice::Bool(value) => Value::Text(value.to_string()),
                Choice::Int(value) => Value::Number(*value as f64),
                Choice::Float(value) => Value::Number(*value),
            }
        }
        (_, ParamValue::Category(_)) => return None,
    };
    Some((name.to_owned(), value))
}

/// All complete trials by size, and which are of the front.
fn front(study: &StoredStudy, record: &SearchRecord) -> Result<Front> {
    let of_front = study.front()?;
    let complete = study.trials.iter();
    let complete =
        complete.filter(|trial| trial.state == TrialState::Complete && !trial.is_infeasible());
    let mut points = complete
        .map(|trial| {
            let point = study.point(trial.number)?;
            Ok(SizePoint {
                trial: point.trial,
                parameters: point.parameters,
                loss: point.loss,
                bytes: point.bytes,
                on_front: of_front.iter().any(|of| of.trial == point.trial),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    points.sort_by_key(|point| std::cmp::Reverse(point.parameters));
    let losses = record.prepared.iter().flat_map(|prepared| &prepared.dense_losses);
    // Chunks are alike, but perhaps the last.
    let dense_loss = losses.clone().sum::<f64>() / losses.count().max(1) as f64;
    let ratios = record.front.as_ref().map_or((0.0, record.ratio), |front| front.ratios);
    Ok(Front {
        objectives: study.objectives.iter().map(|of| of.heading().to_owned()).collect(),
        ratios,
        parameters: record.model.parameters,
        dense_loss,
        points,
    })
}

fn importances(study: &StoredStudy) -> Vec<Importance> {
    // Too few trials say nothing.
    adapruner_study::importance::importances(&study.losses(), DIRECTION)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, share)| Importance { name, share })
        .collect()
}

fn comparison(runs: &[Run]) -> Vec<ArmRow> {
    table(runs)
        .into_iter()
        .map(|row| ArmRow {
            arm: row.arm,
            seeds: row.seeds,
            trials: row.trials,
            median: row.median,
            low: row.least,
            high: row.largest,
            tests: row
                .tests
                .into_iter()
                .map(|test| TestMedian { text: test.text.text, perplexity: test.median })
                .collect(),
            trials_to_match: row
                .reached
                .into_iter()
                .zip(row.against)
                .map(|((other, trials), (_, shown))| TrialsToMatch {
                    other,
                    trials,
                    shown: shown.to_string(),
                })
                .collect(),
        })
        .collect()
}
