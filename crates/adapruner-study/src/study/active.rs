//! A trial that is being evaluated.

use std::sync::Arc;

use serde_json::Value;

use crate::distribution::{Choice, Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::journal::{FIXED, fixed_param};
use crate::pruner::PrunerView;
use crate::sampler::{Params, View};
use crate::space::Space;
use crate::storage::Change;
use crate::study::Study;
use crate::trial::Trial;

/// A trial that is being evaluated: asks for values, reports, and is told to
/// stop.
#[derive(Debug)]
pub struct ActiveTrial<'s> {
    pub(super) study: &'s Study,
    pub(super) number: u64,
    pub(super) draw: u64,
    /// The other trials as they were when it began.
    pub(super) history: Vec<Arc<Trial>>,
    /// What the sampler proposed together.
    pub(super) joint: Params,
    /// The queued trial whose values it has.
    pub(super) queued: Option<Arc<Trial>>,
    /// What it has asked for.
    pub(super) params: Params,
}

impl ActiveTrial<'_> {
    /// Its number within the study.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it has asked for so far.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// A value of a parameter: the one it got before, of the queue, of the joint
    /// proposal or of one for this parameter alone.
    ///
    /// # Errors
    ///
    /// [`Error::Space`] if the distribution makes no sense, the parameter was
    /// asked for with another one, or the queued value is not of it; and if the
    /// storage cannot be written.
    pub fn suggest(&mut self, name: &str, distribution: &Distribution) -> Result<ParamValue> {
        let (value, change) = self.decide(name, distribution)?;
        if let Some(change) = change {
            let changes = [change];
            self.study.storage.change(self.study.id, self.number, &changes)?;
        }
        Ok(value)
    }

    /// A value as [`ActiveTrial::suggest`] gives it, and what the storage is to be
    /// told of it.
    fn decide(
        &mut self,
        name: &str,
        distribution: &Distribution,
    ) -> Result<(ParamValue, Option<Change>)> {
        let fault = |message: String| Error::Space { name: name.into(), message };
        distribution.validate(name)?;
        if let Some((known, value)) = self.params.get(name) {
            if known != distribution {
                return Err(fault(format!("expected {known:?} again, found {distribution:?}")));
            }
            return Ok((value.clone(), None));
        }
        let joint = self.joint.get(name).filter(|(of, _)| of == distribution);
        let value = if let Some(value) = self.queued(name, distribution)? {
            value
        } else if let Some(value) = distribution.only_value() {
            value
        } else if let Some((_, value)) = joint {
            value.clone()
        } else {
            let view =
                View { directions: &self.study.directions, trials: &self.history, draw: self.draw };
            self.study.sampler.single(&view, name, distribution)?
        };
        self.params.insert(name.into(), (distribution.clone(), value.clone()));
        let (name, distribution) = (name.into(), distribution.clone());
        let change = Change::Param { name, distribution, value: value.clone() };
        Ok((value, Some(change)))
    }

    /// The value that was queued for a parameter.
    fn queued(&self, name: &str, distribution: &Distribution) -> Result<Option<ParamValue>> {
        let Some(trial) = &self.queued else { return Ok(None) };
        let set = trial.params.get(name).map(|(_, value)| format!("{value:?}"));
        let fixed = || Some(trial.system_attrs.get(FIXED)?.get(name)?.to_string());
        let Some(found) = set.or_else(fixed) else { return Ok(None) };
        match fixed_param(trial, name, distribution) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::Space {
                name: name.into(),
                message: format!("expected a queued value of {distribution:?}, found {found}"),
            }),
        }
    }

    /// A number from `low` to `high`.
    ///
    /// # Errors
    ///
    /// As [`ActiveTrial::suggest`].
    pub fn float(&mut self, name: &str, low: f64, high: f64) -> Result<f64> {
        self.float_of(name, &Distribution::float(low, high))
    }

    /// A number of a distribution of numbers, such as [`Distribution::float_log`].
    ///
    /// # Errors
    ///
    /// As [`ActiveTrial::suggest`]; and if the distribution is of another kind.
    pub fn float_of(&mut self, name: &str, distribution: &Distribution) -> Result<f64> {
        let value = self.suggest(name, distribution)?;
        value.as_float().ok_or_else(|| mismatch(name, "a number", &value))
    }

    /// An integer from `low` to `high`.
    ///
    /// # Errors
    ///
    /// As [`ActiveTrial::suggest`].
    pub fn int(&mut self, name: &str, low: i64, high: i64) -> Result<i64> {
        self.int_of(name, &Distribution::int(low, high))
    }

    /// An integer of a distribution of integers, such as [`Distribution::int_log`].
    ///
    /// # Errors
    ///
    /// As [`ActiveTrial::suggest`]; and if the distribution is of another kind.
    pub fn int_of(&mut self, name: &str, distribution: &Distribution) -> Result<i64> {
        let value = self.suggest(name, distribution)?;
        value.as_int().ok_or_else(|| mismatch(name, "an integer", &value))
    }

    /// The index of one of `choices`.
    ///
    /// # Errors
    ///
    /// As [`ActiveTrial::suggest`].
    pub fn categorical<C: Into<Choice>>(
        &mut self,
        name: &str,
        choices: impl IntoIterator<Item = C>,
    ) -> Result<usize> {
        let value = self.suggest(name, &Distribution::categorical(choices))?;
        value.as_category().ok_or_else(|| mismatch(name, "a choice", &value))
    }

    /// `least` to `most` of the items `0..pool`, ascending.
    ///
    /// # Errors
    ///
    /// As [`ActiveTrial::suggest`].
    pub fn subset(
        &mut self,
        name: &str,
        pool: usize,
        least: usize,
        most: usize,
    ) -> Result<Vec<usize>> {
        let value = self.suggest(name, &Distribution::Subset { pool, least, most })?;
        let items = value.as_subset().map(<[usize]>::to_vec);
        items.ok_or_else(|| mismatch(name, "a subset", &value))
    }

    /// Values of all of a space that exist.
    ///
    /// # Errors
    ///
    /// As [`ActiveTrial::suggest`].
    pub fn suggest_space(&mut self, space: &Space) -> Result<Params> {
        let mut changes = Vec::new();
        let params = space.walk(|name, distribution| {
            let (value, change) = self.decide(name, distribution)?;
            changes.extend(change);
            Ok(value)
        })?;
        if !changes.is_empty() {
            self.study.put(self.number, changes)?;
        }
        Ok(params)
    }

    /// Reports a value at a step; NaN and infinities may be reported.
    ///
    /// # Errors
    ///
    /// If the trial is finished, the study has several objectives (their trials are measured
    /// whole, as in Optuna) or the storage cannot be written.
    pub fn report(&self, step: u64, value: f64) -> Result<()> {
        self.study.only_direction("a trial cannot report or be stopped early")?;
        self.study.put(self.number, vec![Change::Report { step, value }])
    }

    /// Whether the pruner would stop it after what it has reported.
    ///
    /// # Errors
    ///
    /// If the study has several objectives or the storage cannot be used.
    pub fn should_prune(&self) -> Result<bool> {
        let direction = self.study.only_direction("a trial cannot report or be stopped early")?;
        // Of a remote storage, what came with the last answer: it is never waited for.
        let trials = self.study.as_here(self.study.recent_trials()?);
        let own = trials.iter().find(|trial| trial.number == self.number);
        let fault = |message: &str| Error::Trial { number: self.number, message: message.into() };
        let trial = own.ok_or_else(|| fault("expected a trial of the study, found none"))?;
        if trial.state.is_finished() {
            return Err(fault("expected an unfinished trial, but it is finished"));
        }
        let view = PrunerView { study: &self.study.name, direction, trials: &trials, trial };
        let verdict = self.study.pruner.judge(&view);
        for (key, value) in verdict.attrs {
            self.study.put(self.number, vec![Change::SystemAttr { key, value }])?;
        }
        Ok(verdict.prune)
    }

    /// Sets an attribute of the trial.
    ///
    /// # Errors
    ///
    /// If the trial is finished or the storage cannot be written.
    pub fn set_user_attr(&self, key: &str, value: Value) -> Result<()> {
        self.study.put(self.number, vec![Change::UserAttr { key: key.into(), value }])
    }

    /// Notes that its worker is alive. [`Study::optimize`] does it by itself.
    ///
    /// # Errors
    ///
    /// If the storage cannot be written.
    pub fn heartbeat(&self) -> Result<()> {
        self.study.storage.heartbeat(self.study.id, self.number)
    }
}

fn mismatch(name: &str, expected: &str, found: &ParamValue) -> Error {
    Error::Space { name: name.into(), message: format!("expected {expected}, found {found:?}") }
}
