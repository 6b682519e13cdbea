//! Spaces: named parameters, some of which exist only with some choices of
//! others.

use std::collections::BTreeMap;

use crate::distribution::{Choice, Distribution, ParamValue};
use crate::error::{Error, Result};
use crate::sampler::Params;

/// Named parameters in the order in which they were added.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    params: Vec<Param>,
}

/// One parameter of a space.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// What values it can take.
    pub distribution: Distribution,
    /// When it exists; always where `None`.
    pub condition: Option<Condition>,
}

/// That a categorical parameter exists and has one of some choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Name of the categorical parameter.
    pub parent: String,
    /// Indices of the choices, ascending.
    pub choices: Vec<usize>,
}

/// A condition as it was written: a name and choices.
type Given = (String, Vec<Choice>);

/// Builds a [`Space`]; [`SpaceBuilder::build`] reports errors.
#[derive(Debug, Clone, Default)]
pub struct SpaceBuilder {
    params: Vec<(String, Distribution, Option<Given>)>,
    /// Of the parameters that are added now.
    condition: Option<Given>,
}

impl SpaceBuilder {
    /// Adds a parameter.
    #[must_use]
    pub fn param(mut self, name: &str, distribution: Distribution) -> Self {
        self.params.push((name.into(), distribution, self.condition.clone()));
        self
    }

    /// Adds a number from `low` to `high`.
    #[must_use]
    pub fn float(self, name: &str, low: f64, high: f64) -> Self {
        self.param(name, Distribution::float(low, high))
    }

    /// Adds an integer from `low` to `high`.
    #[must_use]
    pub fn int(self, name: &str, low: i64, high: i64) -> Self {
        self.param(name, Distribution::int(low, high))
    }

    /// Adds one of some choices.
    #[must_use]
    pub fn categorical<C: Into<Choice>>(
        self,
        name: &str,
        choices: impl IntoIterator<Item = C>,
    ) -> Self {
        self.param(name, Distribution::categorical(choices))
    }

    /// Adds a set of `n` of the items `0..pool`.
    #[must_use]
    pub fn subset(self, name: &str, pool: usize, n: usize) -> Self {
        self.param(name, Distribution::subset(pool, n))
    }

    /// Adds parameters that exist only where `parent`, a categorical parameter
    /// added before, exists and has one of `choices`.
    #[must_use]
    pub fn when<C: Into<Choice>>(
        mut self,
        parent: &str,
        choices: impl IntoIterator<Item = C>,
        add: impl FnOnce(Self) -> Self,
    ) -> Self {
        let choices = choices.into_iter().map(Into::into).collect();
        let outer = self.condition.replace((parent.into(), choices));
        let mut built = add(self);
        built.condition = outer;
        built
    }

    /// The space.
    ///
    /// # Errors
    ///
    /// [`Error::Space`] if a name is empty or there twice, a distribution makes
    /// no sense, or a condition is on a parameter that was not added before, is
    /// not categorical or has not that choice.
    pub fn build(self) -> Result<Space> {
        let mut space = Space { params: Vec::with_capacity(self.params.len()) };
        for (name, distribution, condition) in self.params {
            let fault = |message: String| Error::Space { name: name.clone(), message };
            if name.is_empty() {
                return Err(fault("expected a name, found none".into()));
            }
            if space.get(&name).is_some() {
                return Err(fault("expected one parameter of this name, found two".into()));
            }
            distribution.validate(&name)?;
            let condition = condition
                .map(|(parent, choices)| space.condition(parent, &choices).map_err(fault))
                .transpose()?;
            space.params.push(Param { name, distribution, condition });
        }
        Ok(space)
    }
}

impl Space {
    /// Starts a space.
    pub fn builder() -> SpaceBuilder {
        SpaceBuilder::default()
    }

    /// All parameters; parents come before what depends on them.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }

    /// Resolves a condition among the parameters so far.
    fn condition(&self, parent: String, choices: &[Choice]) -> Result<Condition, String> {
        let Some(param) = self.get(&parent) else {
            return Err(format!("expected parameter {parent} before it, found none"));
        };
        let Distribution::Categorical { choices: all } = &param.distribution else {
            return Err(format!("expected {parent} to be categorical, found a number or subset"));
        };
        let index = |choice: &Choice| {
            let found = all.iter().position(|other| other == choice);
            found.ok_or_else(|| format!("expected one of {all:?} of {parent}, found {choice:?}"))
        };
        let mut choices = choices.iter().map(index).collect::<Result<Vec<usize>, String>>()?;
        choices.sort_unstable();
        choices.dedup();
        if choices.is_empty() {
            return Err(format!("expected at least one choice of {parent}, found none"));
        }
        Ok(Condition { parent, choices })
    }

    /// Asks for a value of every parameter that exists, in order.
    ///
    /// # Errors
    ///
    /// That of `suggest`.
    pub fn walk(
        &self,
        mut suggest: impl FnMut(&str, &Distribution) -> Result<ParamValue>,
    ) -> Result<Params> {
        let mut values = Params::new();
        for Param { name, distribution, condition } in &self.params {
            if condition.as_ref().is_none_or(|condition| condition.holds(&values)) {
                let value = suggest(name, distribution)?;
                values.insert(name.clone(), (distribution.clone(), value));
            }
        }
        Ok(values)
    }

    /// Checks values, such as those of a trial to enqueue, and gives them their
    /// distributions.
    ///
    /// # Errors
    ///
    /// [`Error::Space`] if one is missing, does not exist with the others, or is
    /// not of its distribution.
    pub fn check(&self, values: &BTreeMap<String, ParamValue>) -> Result<Params> {
        let params = self.walk(|name, distribution| {
            let fault = |message: String| Error::Space { name: name.into(), message };
            let value = values.get(name).ok_or_else(|| fault("expected a value".into()))?;
            if !distribution.contains(value) {
                let message = format!("expected a value of {distribution:?}, found {value:?}");
                return Err(fault(message));
            }
            Ok(value.clone())
        })?;
        match values.keys().find(|name| !params.contains_key(*name)) {
            None => Ok(params),
            Some(name) => Err(Error::Space {
                name: name.clone(),
                message: "expected no value: it does not exist with the others".into(),
            }),
        }
    }
}

impl Condition {
    /// Whether it holds among the values so far.
    pub fn holds(&self, values: &Params) -> bool {
        match values.get(&self.parent) {
            Some((_, ParamValue::Category(index))) => self.choices.contains(index),
            Some((_, ParamValue::Float(_) | ParamValue::Int(_) | ParamValue::Subset(_))) | None => {
                false
            }
        }
    }
}
