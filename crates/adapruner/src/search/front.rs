//! Several objectives: one search for every size.
//!
//! With `--objectives loss,params` the share that is removed is a dimension of the space, and a
//! trial has a value for each objective, all of them minimised. The result is the front: the
//! trials that no other beats in one objective without losing in another. Trials are measured
//! whole, because no part of a trial says whether it is of the front.
//!
//! Latency is predicted by a cost model that is calibrated once for the study and kept in
//! `search.json`: it is never timed in a trial, so trials stay deterministic, and all workers and
//! resumed searches have the same numbers.

use std::{path::PathBuf, sync::Arc};

use adapruner_checkpoint::ModelConfig;
use adapruner_prune::{PrunePlan, apply};
use adapruner_study::{Direction, Study, Trial, TrialState, front_of};
use serde::{Deserialize, Serialize};

use super::{
    configuration::Configuration,
    folder::StudyFolder,
    objective::{Cost, Objective, TrialCost},
    run::{COST, Search},
    space::SearchSpace,
};
use crate::{
    VERSION,
    advice::advised,
    error::{Context, Result},
    outputs::Stored,
    pipeline::TokensRecord,
    speed::{SpeedOf, Timed},
};

/// Trial attribute: parameters of its model.
pub(super) const PARAMETERS: &str = "parameters";
/// Trial attribute: bytes of its model's file, where they are an objective.
pub(super) const BYTES: &str = "bytes";
/// Trial attribute: predicted seconds of a pass of its model, where they are an objective.
pub(super) const SECONDS: &str = "seconds";

/// What a search minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Loss on the search-evaluation text, in nats per predicted token.
    Loss,
    /// Parameters that are left.
    Params,
    /// Bytes of the file that is written.
    Bytes,
    /// Seconds of a pass, as the study's calibration predicts them.
    Latency,
}

adapruner_choice::choice!(Quantity, "objective", {
    Loss => "loss",
    Params => "params",
    Bytes => "bytes",
    Latency => "latency",
});

impl Quantity {
    /// Its name in tables.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Params => "parameters",
            Self::Bytes => "bytes",
            Self::Latency => "latency",
        }
    }
}

/// Settings of a search of several objectives.
#[derive(Debug, Clone, Serialize)]
pub struct FrontSettings {
    /// The objectives, two to four, the loss among them.
    pub objectives: Vec<Quantity>,
    /// Smallest and largest share of all parameters to remove.
    pub ratios: (f64, f64),
    /// How a model is written, for its bytes.
    pub stored: Stored,
    /// What predicts its seconds, where latency is an objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedSettings>,
}

/// Which seconds are an objective.
#[derive(Debug, Clone, Serialize)]
pub struct SpeedSettings {
    /// The pass.
    pub timed: Timed,
    /// Tokens of its context; `None` for the default.
    pub context: Option<usize>,
    /// File of the calibration: read if it exists, otherwise written.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub calibration: Option<PathBuf>,
}

/// What `search.json` says of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontRecord {
    /// The objectives.
    pub objectives: Vec<Quantity>,
    /// Smallest and largest share of all parameters to remove.
    pub ratios: (f64, f64),
    /// How a model is written, where bytes are an objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<String>,
    /// The pass whose seconds are an objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedOf>,
}

impl FrontSettings {
    /// For `search.json`, of a search of a model of `config`.
    ///
    /// # Errors
    /// A context that the model does not run.
    pub fn record(&self, config: &ModelConfig) -> Result<FrontRecord> {
        let counts = self.objectives.contains(&Quantity::Bytes);
        let speed = self.speed.as_ref().map(|of| SpeedOf::of(config, of.timed, of.context));
        Ok(FrontRecord {
            objectives: self.objectives.clone(),
            ratios: self.ratios,
            written: counts.then(|| written(&self.stored)),
            speed: speed.transpose()?,
        })
    }

    /// The values of a trial, in the order of the objectives.
    pub(super) fn values(
        &self,
        objective: &Objective,
        plan: &PrunePlan,
        loss: f64,
    ) -> Result<(Sizes, Vec<f64>)> {
        let config = plan.pruned_config(&objective.dense.config);
        let parameters = config.parameters();
        let bytes = match self.objectives.contains(&Quantity::Bytes) {
            true => Some(self.stored.bytes(&apply(&objective.dense, plan)?)?),
            false => None,
        };
        let seconds = objective.calibration.as_ref().map(|of| of.seconds(&config));
        let sizes = Sizes { parameters, bytes, seconds };
        let lacks = |what: Quantity| format!("{what}: not known of this trial");
        let value = |quantity: &Quantity| -> Result<f64> {
            Ok(match quantity {
                Quantity::Loss => loss,
                Quantity::Params => parameters as f64,
                Quantity::Bytes => bytes.with_context(|| lacks(*quantity))? as f64,
                Quantity::Latency => seconds.with_context(|| lacks(*quantity))?,
            })
        };
        let values = self.objectives.iter().map(value).collect::<Result<_>>()?;
        Ok((sizes, values))
    }
}

/// How large a trial's model is, and how fast it is predicted to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sizes {
    pub(super) parameters: u64,
    pub(super) bytes: Option<u64>,
    pub(super) seconds: Option<f64>,
}

/// A format with its type, as text.
fn written(stored: &Stored) -> String {
    let format = stored.format();
    match stored.gguf_type.filter(|_| format == crate::outputs::Format::Gguf) {
        Some(kind) => format!("{format} {kind}"),
        None => format.to_string(),
    }
}

/// One direction for each objective.
pub(super) fn directions(objectives: usize) -> Vec<Direction> {
    vec![super::run::DIRECTION; objectives.max(1)]
}

/// A point of a front: a trial and its measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontPoint {
    /// Number of the trial.
    pub trial: u64,
    /// Loss on the search-evaluation text, in nats per predicted token.
    pub loss: f64,
    /// Parameters that are left.
    pub parameters: u64,
    /// Share of all parameters that was removed.
    pub removed: f64,
    /// Bytes of the file, where they were an objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Predicted seconds of a pass, where they were an objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Those of the dense model divided by these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speedup: Option<f64>,
    /// The trial's configuration.
    pub configuration: Configuration,
}

/// What the points of a study are read with.
pub(super) struct Points<'a> {
    /// Name of the study.
    pub(super) study: &'a str,
    /// Its space.
    pub(super) space: &'a SearchSpace,
    /// Its objectives.
    pub(super) objectives: &'a [Quantity],
    /// Parameters of the model that was searched.
    pub(super) before: u64,
    /// Predicted seconds of a pass of it, where they are an objective.
    pub(super) dense_seconds: Option<f64>,
}

impl Points<'_> {
    /// The front, the largest model first.
    pub(super) fn of(&self, trials: &[Arc<Trial>]) -> Result<Vec<FrontPoint>> {
        let front = front_of(trials, &directions(self.objectives.len()));
        let mut points: Vec<FrontPoint> =
            front.into_iter().map(|trial| self.point(trial)).collect::<Result<_>>()?;
        // Of trials that are equal in all objectives the first stands for all.
        points.sort_by(|a, b| b.parameters.cmp(&a.parameters).then(a.loss.total_cmp(&b.loss)));
        points.dedup_by(|later, first| {
            (later.parameters, later.loss, later.bytes, later.seconds)
                == (first.parameters, first.loss, first.bytes, first.seconds)
        });
        Ok(points)
    }

    /// A trial as a point.
    pub(super) fn point(&self, trial: &Trial) -> Result<FrontPoint> {
        let lacks =
            |what: &str| format!("study {}: trial {} has no {what}", self.study, trial.number);
        let at = self.objectives.iter().position(|quantity| *quantity == Quantity::Loss);
        let loss = at.and_then(|at| trial.values.get(at).copied());
        let size = |key: &str| trial.user_attrs.get(key).and_then(serde_json::Value::as_u64);
        let parameters = size(PARAMETERS).with_context(|| lacks(PARAMETERS))?;
        let seconds = trial.user_attrs.get(SECONDS).and_then(serde_json::Value::as_f64);
        Ok(FrontPoint {
            trial: trial.number,
            loss: loss.with_context(|| lacks("loss"))?,
            parameters,
            removed: 1.0 - parameters as f64 / self.before.max(1) as f64,
            bytes: size(BYTES),
            seconds,
            speedup: self.dense_seconds.zip(seconds).map(|(dense, seconds)| dense / seconds),
            configuration: self.space.configuration(&trial.params)?,
        })
    }
}

/// The point with the least loss of those that remove at least the share `removed`: the nearest
/// that fits. `asked` is how that was put.
///
/// # Errors
/// No point removes so much; says what can be reached.
pub fn nearest<'a>(
    study: &str,
    points: &'a [FrontPoint],
    removed: f64,
    asked: &str,
) -> Result<&'a FrontPoint> {
    // A plan meets its ratio to within a unit, and a target may be typed with few digits.
    let fits = points.iter().filter(|point| point.removed >= removed - 1e-9);
    fits.min_by(|a, b| a.loss.total_cmp(&b.loss)).ok_or_else(|| {
        advised(
            format!("study {study}: no point of the front fits {asked}; {}", reach(points)),
            "ask for a larger model, or search a range that goes further (--ratio 0.1..0.6)",
        )
    })
}

/// What a front reaches, from its largest model to its smallest.
pub fn reach(points: &[FrontPoint]) -> String {
    let one = |point: &FrontPoint| {
        let (parameters, removed) = (point.parameters, 100.0 * point.removed);
        let faster =
            point.speedup.map_or_else(String::new, |of| format!(", {of:.2} times as fast"));
        format!("{parameters} parameters ({removed:.1} % removed, loss {:.4}{faster})", point.loss)
    };
    match (points.first(), points.last()) {
        (Some(first), Some(last)) if points.len() > 1 => {
            format!("its {} points reach from {} to {}", points.len(), one(first), one(last))
        }
        (Some(only), _) => format!("its one point has {}", one(only)),
        (None, _) => "no trial is complete".to_owned(),
    }
}

/// The result of a search of several objectives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FrontResult {
    /// Version of the program.
    pub adapruner: String,
    /// Name of the study.
    pub study: String,
    /// The objectives.
    pub objectives: Vec<Quantity>,
    /// Smallest and largest share of all parameters that was searched.
    pub ratios: (f64, f64),
    /// Trials that are complete.
    pub complete: u64,
    /// Trials that are infeasible.
    pub infeasible: u64,
    /// Trials that failed.
    pub failed: u64,
    /// The search-evaluation text.
    pub evaluation: TokensRecord,
    /// Loss of the dense model on it, in nats per predicted token.
    pub dense_loss: f64,
    /// Parameters of the dense model.
    pub dense_parameters: u64,
    /// The pass whose seconds are an objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedOf>,
    /// Predicted seconds of that pass of the dense model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_seconds: Option<f64>,
    /// The front, the largest model first.
    pub front: Vec<FrontPoint>,
    /// All trials together.
    pub cost: Cost,
    /// The command line.
    pub command: String,
}

impl FrontResult {
    /// Reads a result.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        StudyFolder::read_json(path)
    }
}

impl Search<'_> {
    /// Summarises a search of several objectives, and writes the summary into the study's
    /// folder; `None` for one objective.
    ///
    /// # Errors
    /// No complete trial; a full disk.
    pub fn sum_up_front(&self, study: &Study, command: &str) -> Result<Option<FrontResult>> {
        let Some(front) = &self.settings.front else { return Ok(None) };
        let trials = study.trials()?;
        let points = Points {
            study: study.name(),
            space: &self.space,
            objectives: &front.objectives,
            before: self.objective.dense.config.parameters(),
            dense_seconds: self.record.dense_seconds(),
        };
        let found = points.of(&trials)?;
        crate::error::ensure!(
            !found.is_empty(),
            "study {}: no trial is complete, of {}",
            study.name(),
            trials.len()
        );
        let mut cost = Cost::default();
        for trial in &trials {
            let Some(of) = trial.user_attrs.get(COST) else { continue };
            let of: TrialCost = serde_json::from_value(of.clone())
                .with_context(|| format!("trial {}: cost", trial.number))?;
            cost += of.total();
        }
        let count = |state| trials.iter().filter(|trial| trial.state == state).count() as u64;
        let infeasible = trials.iter().filter(|trial| trial.is_infeasible()).count() as u64;
        let result = FrontResult {
            adapruner: VERSION.to_owned(),
            study: study.name().to_owned(),
            objectives: front.objectives.clone(),
            ratios: front.ratios,
            complete: count(TrialState::Complete),
            infeasible,
            failed: count(TrialState::Failed),
            evaluation: self.record.evaluation.clone(),
            dense_loss: self.objective.dense_loss(),
            dense_parameters: points.before,
            speed: self.record.calibration.as_ref().map(|of| of.speed),
            dense_seconds: points.dense_seconds,
            front: found,
            cost,
            command: command.to_owned(),
        };
        self.folder.write_json(&self.folder.result(study.name()), &result)?;
        Ok(Some(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<FrontPoint> {
        let configuration: Configuration = serde_json::from_value(serde_json::json!({
            "samples": [0], "baseline": false, "alpha1": 0.0, "beta_coarse": 0.0,
            "beta_fine": 0.0, "normalisation": "mean", "grouping": "sum", "protect": [0, 0],
            "attention_share": null, "drop_attention": 0, "allocation": "local"
        }))
        .unwrap();
        let point = |(trial, parameters, loss): (u64, u64, f64)| FrontPoint {
            trial,
            loss,
            parameters,
            removed: 1.0 - parameters as f64 / 1000.0,
            bytes: None,
            seconds: None,
            speedup: None,
            configuration: configuration.clone(),
        };
        [(4, 900, 3.0), (1, 750, 3.2), (7, 500, 4.0)].map(point).into()
    }

    #[test]
    fn the_nearest_point_that_fits_is_taken() {
        let points = points();
        let trial = |removed| nearest("s", &points, removed, "it").unwrap().trial;
        assert_eq!([0.0, 0.1, 0.11, 0.25, 0.26, 0.5].map(trial), [4, 4, 1, 1, 7, 7]);
        let error = nearest("s", &points, 0.6, "400 parameters").unwrap_err().to_string();
        assert!(error.contains("no point of the front fits 400 parameters"), "{error}");
        assert!(error.contains("from 900 parameters") && error.contains("to 500"), "{error}");
    }
}
