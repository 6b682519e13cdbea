//! The space of a search: each dimension searched over some values or fixed.

use std::{collections::BTreeMap, fmt};

use adapruner_prune::Layout;
use adapruner_study::{Choice, Distribution, ParamValue, Space, sampler::Params};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    configuration::Configuration,
    dimension::{Dimension, Kind, Part, Value},
};

use crate::error::{Context, Result, bail, ensure};

/// What a configuration file says of a dimension: a value fixes it, two numbers
/// are a range, several names a choice, `false` removes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Given {
    /// `false`: as if there were no such dimension.
    Removed(bool),
    /// One number.
    Number(f64),
    /// One name.
    Name(String),
    /// From the first to the second.
    Range([f64; 2]),
    /// One of these.
    Choices(Vec<String>),
}

/// The table `space` of a configuration file.
pub type GivenSpace = BTreeMap<Dimension, Given>;

/// The search space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// Data, metric and where the model is cut.
    #[default]
    Full,
    /// What the paper searches: data and metric; heads and channels alike are cut in all layers
    /// but those that the literature protects.
    Paper,
}

/// Which part of the space varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Varied {
    /// All of it.
    #[default]
    Joint,
    /// The calibration samples alone.
    Data,
    /// All but the calibration samples, which are drawn once.
    Metric,
    /// Ten random samples in every trial and LLM-Pruner's setting: first order
    /// over elements of the whole set, heads and channels alike.
    Baseline,
}

/// What a dimension is searched over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// One value.
    Fixed(Value),
    /// Integers from the first to the second.
    Integer(u64, u64),
    /// Numbers from the first to the second.
    Number(f64, f64),
    /// Numbers from the first to the second, their logarithm uniform.
    Log(f64, f64),
    /// One of these.
    Name(Vec<String>),
}

/// A resolved space. In a space from an earlier version, later dimensions have their value of
/// that time ([`Dimension::before`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredSpace")]
pub struct SearchSpace {
    /// Every dimension, in the order of [`Dimension::ALL`].
    pub dimensions: Vec<(Dimension, Domain)>,
    /// The samples, where they are not searched.
    pub drawn: Option<Vec<usize>>,
    /// Number of samples in the pool.
    pub pool: usize,
    /// Whether the importance is LLM-Pruner's (see [`Varied::Baseline`]).
    pub baseline: bool,
    /// Smallest and largest share of all parameters to remove, where that is searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<(f64, f64)>,
}

/// A space as it was written.
#[derive(Deserialize)]
struct StoredSpace {
    dimensions: Vec<(Dimension, Domain)>,
    drawn: Option<Vec<usize>>,
    pool: usize,
    baseline: bool,
    #[serde(default)]
    ratio: Option<(f64, f64)>,
}

impl TryFrom<StoredSpace> for SearchSpace {
    type Error = String;

    fn try_from(stored: StoredSpace) -> Result<Self, String> {
        let StoredSpace { dimensions: mut found, drawn, pool, baseline, ratio } = stored;
        let mut dimensions = Vec::with_capacity(Dimension::ALL.len());
        for dimension in Dimension::ALL {
            let domain = match found.iter().position(|(of, _)| *of == dimension) {
                Some(at) => found.remove(at).1,
                None => match dimension.before() {
                    Some(value) => Domain::Fixed(value),
                    None => return Err(format!("the space has no dimension {dimension}")),
                },
            };
            dimensions.push((dimension, domain));
        }
        match found.first() {
            Some((twice, _)) => Err(format!("the space has the dimension {twice} twice")),
            None => Ok(Self { dimensions, drawn, pool, baseline, ratio }),
        }
    }
}

/// LLM-Pruner's number of calibration samples.
const BASELINE_SAMPLES: usize = 10;

/// What a space is made for.
#[derive(Debug, Clone, Copy)]
pub struct SpaceFor {
    /// Layers of the model.
    pub layers: usize,
    /// Samples of the pool.
    pub pool: usize,
    /// Whether layers may differ.
    pub layout: Layout,
    /// Seed of the samples that are drawn once.
    pub seed: u64,
    /// Smallest and largest share of all parameters to remove, where that is searched.
    pub ratio: Option<(f64, f64)>,
}

/// The parameter of a trial that holds the share to remove.
pub(super) const RATIO: &str = "ratio";

impl SearchSpace {
    /// The space of a search.
    ///
    /// # Errors
    /// Values that a dimension cannot take; more samples than the pool has.
    pub fn new(extent: Extent, varied: Varied, given: &GivenSpace, at: &SpaceFor) -> Result<Self> {
        ensure!(at.pool > 0, "pool: at least 1 sample expected, none found");
        let mut dimensions = Vec::with_capacity(Dimension::ALL.len());
        for dimension in Dimension::ALL {
            let domain = match given.get(&dimension) {
                Some(given) => {
                    dimension.given(given, at).with_context(|| format!("space: {dimension}"))?
                }
                None => dimension.default(extent, at),
            };
            dimensions.push((dimension, dimension.restrict(domain, varied, at)));
        }
        let activation = &dimensions[Dimension::Activation as usize].1;
        let metric = Dimension::ActivationMetric;
        if *activation == Domain::Fixed(Value::Number(0.0)) && !given.contains_key(&metric) {
            // Of no effect.
            dimensions[metric as usize].1 = Domain::Fixed(metric.hand_set(at));
        }
        let mut space = Self {
            dimensions,
            drawn: None,
            pool: at.pool,
            baseline: varied == Varied::Baseline,
            ratio: at.ratio,
        };
        if varied == Varied::Metric {
            let Domain::Fixed(Value::Number(n)) = *space.domain(Dimension::Samples) else {
                bail!("space: samples: expected one number, since samples are not searched")
            };
            space.drawn = Some(drawn(at.pool, n as usize, at.seed));
        }
        Ok(space)
    }

    /// What a dimension is searched over.
    pub fn domain(&self, dimension: Dimension) -> &Domain {
        &self.dimensions[dimension as usize].1
    }

    /// The dimensions that vary.
    pub fn searched(&self) -> impl Iterator<Item = Dimension> {
        self.dimensions.iter().filter_map(|(dimension, domain)| match domain {
            Domain::Fixed(_) if *dimension == Dimension::Samples && self.drawn.is_none() => {
                Some(*dimension)
            }
            Domain::Fixed(_) => None,
            Domain::Integer(..) | Domain::Number(..) | Domain::Log(..) | Domain::Name(_) => {
                Some(*dimension)
            }
        })
    }

    /// The space as samplers take it.
    ///
    /// # Errors
    /// None that [`SearchSpace::new`] let pass.
    pub fn study_space(&self) -> Result<Space> {
        let mut builder = Space::builder();
        for (dimension, domain) in &self.dimensions {
            let distribution = match (dimension, domain) {
                (Dimension::Samples, _) if self.drawn.is_some() => continue,
                (Dimension::Samples, Domain::Integer(least, most)) => Distribution::Subset {
                    pool: self.pool,
                    least: *least as usize,
                    most: *most as usize,
                },
                (Dimension::Samples, Domain::Fixed(Value::Number(n))) => {
                    Distribution::subset(self.pool, *n as usize)
                }
                (_, Domain::Fixed(_)) => continue,
                (_, Domain::Integer(low, high)) => Distribution::int(*low as i64, *high as i64),
                (_, Domain::Number(low, high)) => Distribution::float(*low, *high),
                (_, Domain::Log(low, high)) => Distribution::float_log(*low, *high),
                (_, Domain::Name(names)) => Distribution::categorical(names.iter().cloned()),
            };
            builder = builder.param(dimension.name(), distribution);
        }
        if let Some((least, most)) = self.ratio {
            builder = builder.param(RATIO, Distribution::float(least, most));
        }
        Ok(builder.build()?)
    }

    /// The first trial (`Dimension::start`): a value for every searched dimension, with
    /// samples drawn by `seed`.
    ///
    /// # Errors
    /// As [`SearchSpace::study_space`].
    pub fn start(&self, layers: usize, seed: u64) -> Result<Params> {
        let mut values = BTreeMap::new();
        for (dimension, domain) in &self.dimensions {
            let value = match (domain, dimension.start(layers, self.pool)) {
                (Domain::Fixed(Value::Number(n)), _) if *dimension == Dimension::Samples => {
                    ParamValue::Subset(drawn(self.pool, *n as usize, seed))
                }
                (Domain::Integer(low, high), Value::Number(n)) => {
                    let n = (n as u64).clamp(*low, *high);
                    if *dimension == Dimension::Samples {
                        ParamValue::Subset(drawn(self.pool, n as usize, seed))
                    } else {
                        ParamValue::Int(n as i64)
                    }
                }
                (Domain::Number(low, high) | Domain::Log(low, high), Value::Number(x)) => {
                    ParamValue::Float(x.clamp(*low, *high))
                }
                (Domain::Name(names), start) => {
                    let is_start = |name: &String| Value::Name(name.clone()) == start;
                    ParamValue::Category(names.iter().position(is_start).unwrap_or(0))
                }
                (Domain::Fixed(_), _) => continue,
                (Domain::Integer(..) | Domain::Number(..) | Domain::Log(..), Value::Name(name)) => {
                    bail!("{dimension}: expected a number, found {name:?}")
                }
            };
            values.insert(dimension.name().to_owned(), value);
        }
        if self.drawn.is_some() {
            values.remove(Dimension::Samples.name());
        }
        if let Some((least, most)) = self.ratio {
            let middle = f64::midpoint(least, most);
            values.insert(RATIO.to_owned(), ParamValue::Float(middle));
        }
        Ok(self.study_space()?.check(&values)?)
    }

    /// Maximum number of first layers that a configuration protects, and so leaves unchanged.
    pub fn most_protected(&self) -> usize {
        match self.domain(Dimension::ProtectFirst) {
            Domain::Fixed(Value::Number(n)) => *n as usize,
            Domain::Integer(_, most) => *most as usize,
            Domain::Fixed(Value::Name(_))
            | Domain::Number(..)
            | Domain::Log(..)
            | Domain::Name(_) => 0,
        }
    }

    /// The configuration that a trial's values encode.
    ///
    /// # Errors
    /// Values that are missing or of another kind: of a study with another space.
    pub fn configuration(&self, params: &Params) -> Result<Configuration> {
        let mut values = BTreeMap::new();
        for (dimension, domain) in &self.dimensions {
            if *dimension == Dimension::Samples {
                continue;
            }
            let value = match (domain, params.get(dimension.name())) {
                (Domain::Fixed(value), _) => value.clone(),
                (_, Some((_, ParamValue::Float(number)))) => Value::Number(*number),
                (_, Some((_, ParamValue::Int(number)))) => Value::Number(*number as f64),
                (_, Some((Distribution::Categorical { choices }, ParamValue::Category(at)))) => {
                    match choices.get(*at) {
                        Some(Choice::Text(name)) => Value::Name(name.clone()),
                        other => bail!("{dimension}: expected a name, found {other:?}"),
                    }
                }
                (_, other) => bail!("{dimension}: expected a value, found {other:?}"),
            };
            values.insert(*dimension, value);
        }
        let samples = match (&self.drawn, params.get(Dimension::Samples.name())) {
            (Some(samples), _) => samples.clone(),
            (None, Some((_, ParamValue::Subset(samples)))) => samples.clone(),
            (None, other) => bail!("samples: expected a subset, found {other:?}"),
        };
        let mut configuration = Configuration::new(samples, &values, self.baseline)?;
        if self.ratio.is_some() {
            configuration.ratio = match params.get(RATIO) {
                Some((_, ParamValue::Float(ratio))) => Some(*ratio),
                other => bail!("ratio: expected a number, found {other:?}"),
            };
        }
        Ok(configuration)
    }
}

/// `n` of `pool` samples, ascending.
fn drawn(pool: usize, n: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut samples = index::sample(&mut rng, pool, n).into_vec();
    samples.sort_unstable();
    samples
}

impl Dimension {
    fn default(self, extent: Extent, at: &SpaceFor) -> Domain {
        let searched = || self.searched(at.layers, at.pool).into();
        let beside_the_paper = self == Self::Activation || self == Self::ActivationMetric;
        match (extent, self.part()) {
            (Extent::Paper, Part::Metric) if beside_the_paper => Domain::Fixed(self.hand_set(at)),
            (_, Part::Data | Part::Metric) => searched(),
            (Extent::Full, Part::Where) => match at.layout {
                Layout::PerLayer => searched(),
                // Layers that stay alike can only be cut alike.
                Layout::Uniform if self == Self::AttentionShare => searched(),
                Layout::Uniform => Domain::Fixed(self.hand_set(at)),
            },
            (Extent::Paper, Part::Where) => Domain::Fixed(self.hand_set_freely(at)),
        }
    }

    /// Its neutral value, as far as the layout allows it.
    fn hand_set(self, at: &SpaceFor) -> Value {
        let spares = self == Self::ProtectFirst || self == Self::ProtectLast;
        match at.layout {
            Layout::Uniform if spares => Value::Number(0.0),
            Layout::PerLayer | Layout::Uniform => self.neutral(at.layers, at.pool),
        }
    }

    /// The same, heads and channels cut alike: LLM-Pruner's setting.
    fn hand_set_freely(self, at: &SpaceFor) -> Value {
        if self == Self::AttentionShare { Value::Name(FREE.into()) } else { self.hand_set(at) }
    }

    /// A domain restricted to the searched part of the space.
    fn restrict(self, domain: Domain, varied: Varied, at: &SpaceFor) -> Domain {
        let as_it_stands = |domain: Domain| match domain {
            Domain::Fixed(value) => Domain::Fixed(value),
            Domain::Integer(..) | Domain::Number(..) | Domain::Log(..) | Domain::Name(_) => {
                Domain::Fixed(self.hand_set(at))
            }
        };
        match (varied, self.part()) {
            (Varied::Joint, _)
            | (Varied::Data, Part::Data)
            | (Varied::Metric, Part::Metric | Part::Where) => domain,
            (Varied::Data, Part::Metric | Part::Where) | (Varied::Metric, Part::Data) => {
                as_it_stands(domain)
            }
            (Varied::Baseline, Part::Data) => {
                Domain::Fixed(Value::Number(BASELINE_SAMPLES.min(at.pool) as f64))
            }
            (Varied::Baseline, Part::Metric | Part::Where) => {
                Domain::Fixed(self.hand_set_freely(at))
            }
        }
    }

    /// What a configuration file says, checked.
    fn given(self, given: &Given, at: &SpaceFor) -> Result<Domain> {
        let kind = self.kind(at.layers, at.pool);
        let integer = |x: f64| -> Result<u64> {
            ensure!(x >= 0.0 && x.fract() == 0.0, "expected a whole number, found {x}");
            Ok(x as u64)
        };
        let domain = match (given, &kind) {
            (Given::Removed(false), _) => {
                return Ok(Domain::Fixed(self.neutral(at.layers, at.pool)));
            }
            (Given::Removed(true), _) => {
                bail!("expected a value, a range, choices or false, found true")
            }
            (Given::Name(name), _) if self == Self::AttentionShare && name == FREE => {
                return Ok(Domain::Fixed(Value::Name(FREE.into())));
            }
            (Given::Number(x), Kind::Integer(low, high)) => {
                let n = integer(*x)?;
                ensure!((*low..=*high).contains(&n), "expected {low} to {high}, found {n}");
                Domain::Fixed(Value::Number(*x))
            }
            (Given::Number(x), Kind::Number(low, high) | Kind::Log(low, high)) => {
                ensure!((*low..=*high).contains(x), "expected {low} to {high}, found {x}");
                Domain::Fixed(Value::Number(*x))
            }
            (Given::Range([a, b]), Kind::Integer(low, high)) => {
                let (a, b) = (integer(*a)?, integer(*b)?);
                ensure!(
                    *low <= a && a <= b && b <= *high,
                    "expected a range within {low} to {high}, found {a} to {b}"
                );
                Domain::Integer(a, b)
            }
            (Given::Range([a, b]), Kind::Number(low, high)) => {
                ensure!(
                    low <= a && a <= b && b <= high,
                    "expected a range within {low} to {high}, found {a} to {b}"
                );
                Domain::Number(*a, *b)
            }
            (Given::Range([a, b]), Kind::Log(low, high)) => {
                ensure!(
                    *a > *low && a <= b && b <= high,
                    "expected a range above {low} and up to {high}, found {a} to {b}"
                );
                Domain::Log(*a, *b)
            }
            (Given::Name(name), Kind::Name(known)) => {
                ensure!(known.contains(name), "expected one of {known:?}, found {name:?}");
                Domain::Fixed(Value::Name(name.clone()))
            }
            (Given::Choices(names), Kind::Name(known)) => {
                ensure!(!names.is_empty(), "expected at least one of {known:?}, found none");
                for (at, name) in names.iter().enumerate() {
                    ensure!(known.contains(name), "expected one of {known:?}, found {name:?}");
                    ensure!(!names[..at].contains(name), "{name:?} is there twice");
                }
                Domain::Name(names.clone())
            }
            (given, Kind::Name(known)) => bail!("expected names of {known:?}, found {given:?}"),
            (given, Kind::Integer(low, high)) => {
                bail!("expected a number or range within {low} to {high}, found {given:?}")
            }
            (given, Kind::Number(low, high) | Kind::Log(low, high)) => {
                bail!("expected a number or range within {low} to {high}, found {given:?}")
            }
        };
        Ok(domain.simplified())
    }
}

/// No share: heads and channels are cut alike.
pub(super) const FREE: &str = "free";

impl Domain {
    /// A domain of one value as that value.
    fn simplified(self) -> Self {
        match self {
            Self::Integer(a, b) if a == b => Self::Fixed(Value::Number(a as f64)),
            Self::Number(a, b) | Self::Log(a, b) if a == b => Self::Fixed(Value::Number(a)),
            Self::Name(names) if names.len() == 1 => Self::Fixed(Value::Name(names[0].clone())),
            Self::Fixed(_)
            | Self::Integer(..)
            | Self::Number(..)
            | Self::Log(..)
            | Self::Name(_) => self,
        }
    }
}

impl From<Kind> for Domain {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Integer(low, high) => Self::Integer(low, high),
            Kind::Number(low, high) => Self::Number(low, high),
            Kind::Log(low, high) => Self::Log(low, high),
            Kind::Name(names) => Self::Name(names),
        }
        .simplified()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(value) => write!(f, "{value}"),
            Self::Integer(low, high) => write!(f, "{low} to {high} (whole numbers)"),
            Self::Number(low, high) => write!(f, "{low} to {high}"),
            Self::Log(low, high) => write!(f, "{low} to {high} (log)"),
            Self::Name(names) => f.write_str(&names.join(" | ")),
        }
    }
}

adapruner_choice::choice!(Extent, "space", { Full => "full", Paper => "paper" });
adapruner_choice::choice!(Varied, "arm", {
    Joint => "joint",
    Data => "data",
    Metric => "metric",
    Baseline => "baseline",
});
