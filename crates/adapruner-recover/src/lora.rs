//! LoRA (Hu et al., arXiv 2106.09685): `y = x·Wᵀ + scale·(x·Aᵀ)·Bᵀ`, `W` frozen, `A` and `B`
//! trained.
//!
//! Axes: `r` rank, `in` inputs and `out` outputs of a projection.

use std::{collections::BTreeMap, fmt, str::FromStr};

use adapruner_checkpoint::{
    ModelConfig,
    names::{self, Projection},
};
use rand::{Rng, RngExt};

use crate::{
    data::batches::Stream,
    error::{Error, Result},
};

/// Largest supported rank: beyond it an update is not low-rank.
pub const MAX_RANK: usize = 4096;

/// A projection by PEFT's short name (`q_proj`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target(pub Projection);

impl Target {
    /// PEFT's name of the module.
    pub fn name(self) -> &'static str {
        short(self.0.module())
    }
}

/// The last part of a module's name.
pub(crate) fn short(module: &str) -> &str {
    module.rsplit_once('.').map_or(module, |(_, name)| name)
}

impl serde::Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Projection::ALL.map(Self);
        let short = |target: &Self| target.name().trim_end_matches("_proj").to_owned();
        all.into_iter().find(|t| t.name() == text || short(t) == text).ok_or_else(|| {
            let names = all.map(Self::name).join(", ");
            format!("unknown target {text:?}, expected {names}")
        })
    }
}

/// Which updates to train, and how.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LoraOptions {
    /// `r`.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of the inputs of `A` that is set to zero at a step.
    pub dropout: f64,
    /// Projections that get an update.
    pub targets: Vec<Target>,
    /// Scale by `alpha / √r` rather than `alpha / r` (rsLoRA, arXiv
    /// 2312.03732).
    pub rslora: bool,
}

impl LoraOptions {
    /// Refuses what cannot be trained.
    ///
    /// # Errors
    /// A rank of 0 or beyond [`MAX_RANK`], an alpha or dropout out of range, no
    /// targets.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 || self.rank > MAX_RANK {
            let message = format!("1 to {MAX_RANK} expected, {} found", self.rank);
            return Err(Error::option("rank", message));
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return Err(Error::option("alpha", format!("above 0 expected, {} found", self.alpha)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let message = format!("0 to below 1 expected, {} found", self.dropout);
            return Err(Error::option("dropout", message));
        }
        if self.targets.is_empty() {
            return Err(Error::option("targets", "at least one expected, none found"));
        }
        Ok(())
    }
}

/// The scale of an update.
pub fn scale(alpha: f64, rank: usize, rslora: bool) -> f64 {
    let rank = rank as f64;
    alpha / if rslora { rank.sqrt() } else { rank }
}

/// The update of one projection.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// `[r, in]`, row by row.
    pub a: Vec<f32>,
    /// `[out, r]`, row by row.
    pub b: Vec<f32>,
    /// `r`.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
}

/// Updates of a model's projections.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// By layer and projection.
    pub updates: BTreeMap<(usize, Projection), Update>,
    /// Whether scales are those of rsLoRA.
    pub rslora: bool,
    /// Dropout it was or is trained with.
    pub dropout: f64,
}

impl Adapter {
    /// An adapter that changes nothing yet: `B` zero, `A` uniform as PEFT has
    /// it (Kaiming with a = √5, so within ±1/√in).
    ///
    /// # Errors
    /// Options out of range, or targets that the model has in no layer.
    pub fn new(config: &ModelConfig, options: &LoraOptions, seed: u64) -> Result<Self> {
        options.check()?;
        // All seven stand for all that can have an update.
        let named = |p: &Projection| options.targets.contains(&Target(*p));
        if config.experts.is_some()
            && !Projection::ALL.iter().all(named)
            && let Some(map) = Projection::ALL.iter().find(|p| named(p) && !p.is_attention())
        {
            let message = format!(
                "{} is of experts in {}, of which only the projections of attention have updates",
                map.module_of(config.family()),
                config.family().title
            );
            return Err(Error::option("targets", message));
        }
        let mut generator = Stream::Init.generator(seed);
        let mut updates = BTreeMap::new();
        for (layer, projection) in projections(config) {
            if !options.targets.contains(&Target(projection)) {
                continue;
            }
            let [out, inputs] = names::projection_shape(config, layer, projection);
            let a = uniform(&mut generator, options.rank * inputs, 1.0 / (inputs as f64).sqrt());
            let b = vec![0.0; out * options.rank];
            let update = Update { a, b, rank: options.rank, alpha: options.alpha };
            updates.insert((layer, projection), update);
        }
        if updates.is_empty() {
            return Err(Error::option("targets", "the model has none of these projections"));
        }
        Ok(Self { updates, rslora: options.rslora, dropout: options.dropout })
    }

    /// Numbers that are learned.
    pub fn parameters(&self) -> u64 {
        self.updates.values().map(|u| (u.a.len() + u.b.len()) as u64).sum()
    }

    /// The scale of an update.
    pub fn scale(&self, update: &Update) -> f64 {
        scale(update.alpha, update.rank, self.rslora)
    }
}

/// The projections of a model that can have an update: all, but those of experts.
pub fn projections(config: &ModelConfig) -> impl Iterator<Item = (usize, Projection)> + '_ {
    let layers = 0..config.layers.len();
    let adapted = |p: &Projection| config.experts.is_none() || p.is_attention();
    layers.flat_map(move |layer| config.projections(layer).filter(adapted).map(move |p| (layer, p)))
}

fn uniform(generator: &mut impl Rng, count: usize, bound: f64) -> Vec<f32> {
    (0..count).map(|_| generator.random_range(-bound..bound) as f32).collect()
}
