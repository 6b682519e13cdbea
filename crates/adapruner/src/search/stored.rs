//! The studies of a folder.

use std::sync::Arc;

use adapruner_study::{
    RandomSampler, Study, Trial,
    front::{hypervolume, reference_point},
    of_objective,
};

use super::{
    folder::StudyFolder,
    front,
    front::{FrontPoint, Points, Quantity, reach},
    outcome::{BestTrial, ranked, standing_for},
    record::SearchRecord,
    run::{ARM, OBJECTIVES, SPACE},
    settings::Arm,
    space::SearchSpace,
};
use crate::{
    advice::advised,
    error::{Context, Result, bail, ensure},
};

/// A study that is in the journal.
pub struct StoredStudy {
    /// Its name.
    pub name: String,
    /// What it was.
    pub arm: Arm,
    /// Its space.
    pub space: SearchSpace,
    /// Its objectives: the loss, or several.
    pub objectives: Vec<Quantity>,
    /// Parameters of the model that was searched.
    before: u64,
    /// Predicted seconds of a pass of it, where they are an objective.
    dense_seconds: Option<f64>,
    /// Its trials by number.
    pub trials: Vec<Arc<Trial>>,
}

impl StoredStudy {
    /// All studies of a folder (or of Redis at `storage`) that a search of this
    /// program made.
    ///
    /// # Errors
    /// A journal that cannot be read, attributes that are damaged.
    pub fn all(folder: &StudyFolder, storage: Option<&str>) -> Result<Vec<Self>> {
        let storage = folder.storage(storage)?;
        let record = SearchRecord::read(&folder.record())?;
        let (before, dense_seconds) = (record.model.parameters, record.dense_seconds());
        let mut found = Vec::new();
        for name in storage.study_names()? {
            // Nothing is asked of this sampler.
            let sampler = RandomSampler::new(0);
            let directions = storage.directions(&name)?;
            let study = Study::open_multi(storage.clone(), &name, &directions, sampler)?;
            let attrs = study.user_attrs()?;
            let (Some(arm), Some(space)) = (attrs.get(ARM), attrs.get(SPACE)) else { continue };
            let damaged = || format!("study {name}: its attributes are damaged");
            let objectives = match attrs.get(OBJECTIVES) {
                Some(several) => serde_json::from_value(several.clone()).with_context(damaged)?,
                None => vec![Quantity::Loss],
            };
            ensure!(
                front::directions(objectives.len()) == directions,
                "study {name}: expected {} objectives to minimise, found {directions:?}",
                objectives.len()
            );
            found.push(Self {
                arm: serde_json::from_value(arm.clone()).with_context(damaged)?,
                space: serde_json::from_value(space.clone()).with_context(damaged)?,
                trials: study.trials()?,
                objectives,
                before,
                dense_seconds,
                name,
            });
        }
        Ok(found)
    }

    /// The study of this name; without a name, the one with the best trial, baselines left out
    /// where there are others; of several objectives the one whose front has the largest
    /// hypervolume.
    ///
    /// # Errors
    /// None of that name, or none with a complete trial.
    pub fn pick(mut studies: Vec<Self>, name: Option<&str>) -> Result<Self> {
        let names: Vec<&str> = studies.iter().map(|study| study.name.as_str()).collect();
        let at = match name {
            Some(name) => match names.iter().position(|known| *known == name) {
                Some(at) => at,
                None => bail!("study {name}: does not exist, there are {}", names.join(", ")),
            },
            None if studies.iter().any(Self::is_front) => {
                let volumes = volumes(&studies);
                let best = (0..studies.len()).max_by(|a, b| volumes[*a].total_cmp(&volumes[*b]));
                best.context("no study has a complete trial")?
            }
            None => {
                let ranked = studies.iter().enumerate().filter_map(|(at, study)| {
                    let loss = study.best().ok()?.loss;
                    Some((study.space.baseline, loss, at))
                });
                let best = ranked.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
                best.context("no study has a complete trial")?.2
            }
        };
        Ok(studies.swap_remove(at))
    }

    /// Whether it has several objectives, and so a front and no best trial.
    pub fn is_front(&self) -> bool {
        self.objectives.len() > 1
    }

    /// The points of its front, the largest model first.
    ///
    /// # Errors
    /// Trials that are damaged.
    pub fn front(&self) -> Result<Vec<FrontPoint>> {
        self.points().of(&self.trials)
    }

    /// A trial as a point, of the front or not.
    ///
    /// # Errors
    /// None of that number, or one that was never measured.
    pub fn point(&self, number: u64) -> Result<FrontPoint> {
        self.trial(number)?;
        let trial = self.trials.iter().find(|trial| trial.number == number);
        self.points().point(trial.with_context(|| format!("no trial {number}"))?)
    }

    fn points(&self) -> Points<'_> {
        let (study, space, objectives) = (self.name.as_str(), &self.space, &*self.objectives);
        let (before, dense_seconds) = (self.before, self.dense_seconds);
        Points { study, space, objectives, before, dense_seconds }
    }

    /// Its trials with the loss as their only value.
    pub fn losses(&self) -> Vec<Arc<Trial>> {
        let loss = self.objectives.iter().position(|of| *of == Quantity::Loss);
        match loss {
            Some(at) if self.is_front() => of_objective(&self.trials, at),
            Some(_) | None => self.trials.clone(),
        }
    }

    /// Refuses what needs one best trial.
    ///
    /// # Errors
    /// A study of several objectives; says what it reaches.
    pub fn has_a_best(&self) -> Result<()> {
        if !self.is_front() {
            return Ok(());
        }
        Err(advised(
            format!(
                "study {}: it has several objectives, so a front and no best trial; {}",
                self.name,
                reach(&self.front()?)
            ),
            "choose a point of it: apply --study DIR with --target-params 110M, --ratio 0.2, \
             --target-size 80MB, --target-speedup 1.3 or --trial NUMBER",
        ))
    }

    /// The trial that represents it.
    ///
    /// # Errors
    /// No complete trial; several objectives.
    pub fn best(&self) -> Result<BestTrial> {
        self.has_a_best()?;
        standing_for(&self.name, &self.trials, &self.space)
    }

    /// The best `count` trials, the best first; fewer where fewer are complete.
    ///
    /// # Errors
    /// No complete trial; several objectives.
    pub fn best_of(&self, count: usize) -> Result<Vec<BestTrial>> {
        self.has_a_best()?;
        let ranked = ranked(&self.trials).into_iter().take(count);
        let best = ranked.map(|(loss, trial)| {
            let configuration = self.space.configuration(&trial.params)?;
            Ok(BestTrial { number: trial.number, loss, configuration })
        });
        let best = best.collect::<Result<Vec<_>>>()?;
        ensure!(!best.is_empty(), "study {}: no trial is complete", self.name);
        Ok(best)
    }

    /// The trial of this number.
    ///
    /// # Errors
    /// None of that number, or one that was never measured.
    pub fn trial(&self, number: u64) -> Result<BestTrial> {
        let trial = self.trials.iter().find(|trial| trial.number == number);
        let trial = trial.with_context(|| {
            format!("study {}: no trial {number}, there are {}", self.name, self.trials.len())
        })?;
        let at = self.objectives.iter().position(|of| *of == Quantity::Loss);
        let loss = at
            .and_then(|at| trial.values.get(at).copied())
            .with_context(|| format!("study {}: trial {number} has no loss", self.name))?;
        Ok(BestTrial { number, loss, configuration: self.space.configuration(&trial.params)? })
    }
}

/// The hypervolume of the loss and the parameters of each front, against one reference point.
fn volumes(studies: &[StoredStudy]) -> Vec<f64> {
    let points = |study: &StoredStudy| -> Vec<Vec<f64>> {
        let front = study.front().unwrap_or_default();
        front.iter().map(|point| vec![point.loss, point.parameters as f64]).collect()
    };
    let all: Vec<Vec<Vec<f64>>> = studies.iter().map(points).collect();
    let reference = reference_point(&all.concat());
    all.iter().map(|points| hypervolume(points, &reference)).collect()
}
