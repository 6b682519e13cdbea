//! The studies of a folder.

use std::sync::Arc;

use adapruner_study::{RandomSampler, Study, Trial};
use anyhow::{Context, Result, bail, ensure};

use super::{
    folder::StudyFolder,
    outcome::{BestTrial, ranked, standing_for},
    run::{ARM, DIRECTION, SPACE},
    settings::Arm,
    space::SearchSpace,
};

/// A study that is in the journal.
pub struct StoredStudy {
    /// Its name.
    pub name: String,
    /// What it was.
    pub arm: Arm,
    /// Its space.
    pub space: SearchSpace,
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
        let mut found = Vec::new();
        for name in storage.study_names()? {
            // Nothing is asked of this sampler.
            let sampler = RandomSampler::new(0);
            let study = Study::open(storage.clone(), &name, DIRECTION, sampler)?;
            let attrs = study.user_attrs()?;
            let (Some(arm), Some(space)) = (attrs.get(ARM), attrs.get(SPACE)) else { continue };
            let damaged = || format!("study {name}: its attributes are damaged");
            found.push(Self {
                arm: serde_json::from_value(arm.clone()).with_context(damaged)?,
                space: serde_json::from_value(space.clone()).with_context(damaged)?,
                trials: study.trials()?,
                name,
            });
        }
        Ok(found)
    }

    /// The study of this name; without a name, the one with the best trial,
    /// baselines left out where there are others.
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

    /// The trial that represents it.
    ///
    /// # Errors
    /// No complete trial.
    pub fn best(&self) -> Result<BestTrial> {
        standing_for(&self.name, &self.trials, &self.space)
    }

    /// The best `count` trials, the best first; fewer where fewer are complete.
    ///
    /// # Errors
    /// No complete trial.
    pub fn best_of(&self, count: usize) -> Result<Vec<BestTrial>> {
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
        let loss = trial
            .value()
            .with_context(|| format!("study {}: trial {number} has no loss", self.name))?;
        Ok(BestTrial { number, loss, configuration: self.space.configuration(&trial.params)? })
    }
}
