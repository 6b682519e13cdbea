//! [`Scores`]: one importance per unit that can be removed.
//!
//! A unit couples vectors that are kept or removed together:
//!
//! | unit | vectors |
//! |---|---|
//! | feed-forward channel `j` | gate row `j`, up row `j`, down column `j` |
//! | key-value group `k`, at each head position `d` | key row, value row, and for each query head of the group its query row and output column |
//! | query head `h`, at each head position `d` | its query row and output column |
//!
//! The values of the vectors (see [`Importance`]) are reduced to one by a [`Reduction`]; a
//! head's score is then the sum over its `D` positions. This is LLM-Pruner's order of
//! reductions (its `consecutive_groups`), and with one query head per key-value head its
//! grouping.
//!
//! The activation metrics have values of columns alone, so they couple those: the down
//! column of a channel; the output columns of a head, or of all heads of a group. (FLAP's
//! code squares the values of heads, and standardises columns before it averages those of
//! a head; here units are standardised.)
//!
//! Axes: `N` query heads, `K` key-value heads, `D` head width, `F` feed-forward
//! width. Scores are f64 and finite.

mod activation;
mod blend;
mod importance;
mod normalisation;
mod set;

use adapruner_checkpoint::{
    Checkpoint, LayerWidths, ModelConfig,
    names::{self, Projection, Sublayer, UnitAxis},
};
use candle_core::{DType, Device};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use self::set::{batch_first, batch_mix};
pub use self::{
    activation::ActivationMetric,
    blend::{Blend, Fine},
    importance::{Importance, Reduction},
    normalisation::Normalisation,
};
use crate::{
    bank::{StatsBank, Term},
    error::{Error, Result, UnitKind},
    layout::VectorLayout,
};

/// The scores of one layer's units.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerScores {
    /// Of each key-value group, `[K]`.
    pub kv_groups: Vec<f64>,
    /// Of each query head alone, `[N]`.
    pub query_heads: Vec<f64>,
    /// Of each feed-forward channel, `[F]`.
    pub ffn: Vec<f64>,
}

/// The importance of every unit of a model; the least important go first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// First layer first.
    pub layers: Vec<LayerScores>,
}

/// The inputs of importances.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The model's widths.
    pub config: &'a ModelConfig,
    /// Statistics, for the importances that need them.
    pub bank: Option<&'a StatsBank>,
    /// Which samples of the bank to use; `None` for all.
    pub samples: Option<&'a [usize]>,
    /// The weights, for the magnitudes.
    pub checkpoint: Option<&'a Checkpoint>,
    /// Seed of the random control.
    pub seed: u64,
}

/// Scores every unit.
///
/// # Errors
/// Evidence that the importance needs and that is missing or belongs to another model; a score
/// that is not finite.
pub fn score(
    importance: Importance,
    reduction: Reduction,
    evidence: &Evidence<'_>,
) -> Result<Scores> {
    let scores = scored(importance, reduction, evidence).map_err(|error| {
        if let Error::MissingTerms { needed, .. } = error {
            Error::MissingTerms { importance: importance.to_string(), needed }
        } else {
            error
        }
    })?;
    scores.check_finite()?;
    Ok(scores)
}

fn scored(importance: Importance, reduction: Reduction, evidence: &Evidence<'_>) -> Result<Scores> {
    let bank = || {
        let bank = evidence.bank.ok_or_else(|| missing(importance, "statistics"))?;
        bank.check_config(evidence.config)?;
        let samples = evidence.samples.map_or_else(|| bank.all_samples(), <[usize]>::to_vec);
        Ok::<_, Error>((bank, samples))
    };
    let grouping = Grouping::new(evidence.config, reduction)?;
    Ok(match importance {
        Importance::ParamFirst => {
            let (bank, samples) = bank()?;
            grouping.scores(&batch_first(bank, &samples, importance)?)
        }
        Importance::ParamMix => {
            let (bank, samples) = bank()?;
            grouping.scores(&batch_mix(bank, &samples, importance)?)
        }
        Importance::Vectorize => {
            let (bank, samples) = bank()?;
            let mut values = bank.mean(Term::Signed, &samples)?;
            values.iter_mut().for_each(|v| *v = v.abs());
            grouping.scores(&values)
        }
        Importance::ParamSecond => {
            let (bank, samples) = bank()?;
            // The bank's Fisher sums carry the ½ of Taylor's series.
            let mut values = bank.mean(Term::Fisher, &samples)?;
            values.iter_mut().for_each(|v| *v *= 2.0);
            grouping.scores(&values)
        }
        Importance::SampleFirst => {
            let (bank, samples) = bank()?;
            grouping.scores(&bank.mean(Term::Element, &samples)?)
        }
        Importance::AdaPruner(blend) => {
            let (bank, samples) = bank()?;
            blend.scores(bank, &samples, &grouping)?
        }
        Importance::Activation(metric) => {
            let (bank, samples) = bank()?;
            grouping.column_scores(&metric.of_columns(bank, &samples)?)
        }
        Importance::MagnitudeL1 | Importance::MagnitudeL2 => {
            let checkpoint = evidence.checkpoint.ok_or_else(|| missing(importance, "weights"))?;
            let squared = importance == Importance::MagnitudeL2;
            grouping.scores(&magnitudes(checkpoint, evidence.config, &grouping.layout, squared)?)
        }
        Importance::Random => random(evidence.config, evidence.seed),
    })
}

fn missing(importance: Importance, what: &str) -> Error {
    Error::Importance { importance: importance.to_string(), message: format!("needs {what}") }
}

/// `Σ |w|` or `Σ w²` of every vector, one tensor in memory at a time.
fn magnitudes(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    layout: &VectorLayout,
    squared: bool,
) -> Result<Vec<f64>> {
    let mut out = vec![0.0; layout.len()];
    for layer in 0..layout.layers() {
        for projection in Projection::ALL {
            let range = layout.range(layer, projection);
            if range.is_empty() {
                continue;
            }
            // One weight, or one after the other those of the experts.
            let parts = config.weights(layer, projection);
            let [mut outputs, mut inputs] = names::projection_shape(config, layer, projection);
            match projection.prunes_columns() {
                true => inputs /= parts.len(),
                false => outputs /= parts.len(),
            }
            let width = range.len() / parts.len();
            for (part, sums) in parts.iter().zip(out[range].chunks_exact_mut(width.max(1))) {
                let name = config.name(*part);
                let weight = checkpoint.tensors.load(&name, DType::F32, &Device::Cpu)?;
                let shape = [outputs, inputs];
                if weight.dims() != shape {
                    return Err(adapruner_checkpoint::Error::tensor(
                        &checkpoint.origin,
                        name,
                        format!("expected shape {shape:?}, found {:?}", weight.dims()),
                    )
                    .into());
                }
                let rows = weight.to_vec2::<f32>()?;
                let size = |w: f32| {
                    let w = f64::from(w);
                    if squared { w * w } else { w.abs() }
                };
                for (row, weights) in rows.iter().enumerate() {
                    if projection.prunes_columns() {
                        sums.iter_mut().zip(weights).for_each(|(sum, &w)| *sum += size(w));
                    } else {
                        sums[row] = weights.iter().map(|&w| size(w)).sum();
                    }
                }
            }
        }
    }
    Ok(out)
}

/// Uniform numbers in `[0, 1)`, the same for the same seed and widths.
fn random(config: &ModelConfig, seed: u64) -> Scores {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |count: usize| (0..count).map(|_| rng.random::<f64>()).collect();
    let layers = config.layers.iter().map(|widths| LayerScores {
        kv_groups: draw(widths.kv_heads),
        query_heads: draw(widths.query_heads),
        ffn: draw(widths.ffn),
    });
    Scores { layers: layers.collect() }
}

/// How vectors form units.
struct Grouping<'a> {
    layers: &'a [LayerWidths],
    head_dim: usize,
    layout: VectorLayout,
    columns: VectorLayout,
    reduction: Reduction,
}

impl<'a> Grouping<'a> {
    fn new(config: &'a ModelConfig, reduction: Reduction) -> Result<Self> {
        let (layers, head_dim) = (config.layers.as_slice(), config.head_dim);
        let all = VectorLayout::new(layers, head_dim, config.family().feed_forward());
        let (Some(layout), Some(columns)) = (all, VectorLayout::columns(layers, head_dim)) else {
            return Err(Error::Bank("the model's widths are too large".into()));
        };
        Ok(Self { layers, head_dim, layout, columns, reduction })
    }

    /// Units without a score yet.
    fn zeros(&self) -> Scores {
        let layers = self.layers.iter().map(|widths| LayerScores {
            kv_groups: vec![0.0; widths.kv_heads],
            query_heads: vec![0.0; widths.query_heads],
            ffn: vec![0.0; widths.ffn],
        });
        Scores { layers: layers.collect() }
    }

    /// Unit scores from the values of columns alone.
    ///
    /// # Shapes
    /// `[C]` → the units of every layer.
    fn column_scores(&self, values: &[f64]) -> Scores {
        let d = self.head_dim;
        let layers = self.layers.iter().enumerate().map(|(layer, widths)| {
            let of = |projection| &values[self.columns.range(layer, projection)];
            let of_sublayer = |sublayer: Sublayer| of(sublayer.output());
            let (o, group) = (of_sublayer(Sublayer::Attention), widths.group_size());
            let kv_groups = (0..widths.kv_heads).map(|kv| {
                let heads = kv * group..(kv + 1) * group;
                (0..d).map(|at| self.reduction.of(heads.clone().map(|h| o[h * d + at]))).sum()
            });
            let query_heads = (0..widths.query_heads).map(|h| o[h * d..(h + 1) * d].iter().sum());
            LayerScores {
                kv_groups: kv_groups.collect(),
                query_heads: query_heads.collect(),
                ffn: of_sublayer(Sublayer::FeedForward).to_vec(),
            }
        });
        Scores { layers: layers.collect() }
    }

    /// Unit scores from vector values.
    ///
    /// # Shapes
    /// `[U]` → the units of every layer.
    fn scores(&self, values: &[f64]) -> Scores {
        let layers = self.layers.iter().enumerate().map(|(layer, widths)| {
            let of = |projection| &values[self.layout.range(layer, projection)];
            self.layer(widths, of)
        });
        Scores { layers: layers.collect() }
    }

    fn layer<'v>(&self, widths: &LayerWidths, of: impl Fn(Projection) -> &'v [f64]) -> LayerScores {
        // The vectors of all projections that are cut along an axis; there may be none of some.
        let along = |axis: UnitAxis| -> Vec<&'v [f64]> {
            let on = Projection::ALL.into_iter().filter(|p| p.axis() == axis);
            on.map(&of).filter(|values| !values.is_empty()).collect()
        };
        let [heads, keys, channels] =
            [UnitAxis::QueryHeads, UnitAxis::KvHeads, UnitAxis::Channels].map(along);
        let (d, group) = (self.head_dim, widths.group_size());
        let of_heads = heads;
        let kv_groups = (0..widths.kv_heads).map(|kv| {
            let heads = kv * group..(kv + 1) * group;
            let mut coupled = Vec::with_capacity(2 + 2 * group);
            (0..d)
                .map(|at| {
                    coupled.clear();
                    coupled.extend(keys.iter().map(|values| values[kv * d + at]));
                    for head in heads.clone() {
                        coupled.extend(of_heads.iter().map(|values| values[head * d + at]));
                    }
                    self.reduction.of(coupled.iter().copied())
                })
                .sum()
        });
        let query_heads = (0..widths.query_heads).map(|h| {
            let coupled = |at: usize| of_heads.iter().map(move |values| values[at]);
            (h * d..(h + 1) * d).map(|at| self.reduction.of(coupled(at))).sum()
        });
        let ffn =
            (0..widths.ffn).map(|j| self.reduction.of(channels.iter().map(|values| values[j])));
        LayerScores {
            kv_groups: kv_groups.collect(),
            query_heads: query_heads.collect(),
            ffn: ffn.collect(),
        }
    }
}

impl Scores {
    /// Scores by which no unit of a model is better than another: enough for the widths of a
    /// plan that cuts layers by their ratios.
    pub fn equal(config: &ModelConfig) -> Self {
        let layers = config.layers.iter().map(|widths| LayerScores {
            kv_groups: vec![1.0; widths.kv_heads],
            query_heads: vec![1.0; widths.query_heads],
            ffn: vec![1.0; widths.ffn],
        });
        Self { layers: layers.collect() }
    }

    /// Refuses scores that do not belong to a model of these widths or are not
    /// finite.
    ///
    /// # Errors
    /// The first mismatch, or the first score that is not finite.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        if self.layers.len() != config.layers.len() {
            return Err(Error::Bank(format!(
                "expected scores of {} layers, found {}",
                config.layers.len(),
                self.layers.len()
            )));
        }
        for (layer, (scores, widths)) in self.layers.iter().zip(&config.layers).enumerate() {
            for (kind, expected) in [
                (UnitKind::KvGroup, widths.kv_heads),
                (UnitKind::QueryHead, widths.query_heads),
                (UnitKind::FfnChannel, widths.ffn),
            ] {
                let found = scores.of(kind).len();
                if found != expected {
                    return Err(Error::Bank(format!(
                        "layer {layer}: expected a score for each of {expected} {kind}s, found \
                         {found}"
                    )));
                }
            }
        }
        self.check_finite()
    }

    fn check_finite(&self) -> Result<()> {
        for (layer, scores) in self.layers.iter().enumerate() {
            for kind in [UnitKind::KvGroup, UnitKind::QueryHead, UnitKind::FfnChannel] {
                let values = scores.of(kind);
                if let Some(unit) = values.iter().position(|v| !v.is_finite()) {
                    return Err(Error::Score { layer, kind, unit, value: values[unit] });
                }
            }
        }
        Ok(())
    }

    /// The same scores, each layer's and kind's normalised by themselves.
    pub fn normalised(mut self, normalisation: Normalisation) -> Self {
        self.for_each_kind(|values| normalisation.apply(values));
        self
    }

    fn for_each_kind(&mut self, visit: impl Fn(&mut [f64])) {
        for layer in &mut self.layers {
            visit(&mut layer.kv_groups);
            visit(&mut layer.query_heads);
            visit(&mut layer.ffn);
        }
    }

    fn add_scaled(&mut self, other: &Self, scale: f64) {
        let add = |to: &mut [f64], from: &[f64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += scale * from);
        };
        for (to, from) in self.layers.iter_mut().zip(&other.layers) {
            add(&mut to.kv_groups, &from.kv_groups);
            add(&mut to.query_heads, &from.query_heads);
            add(&mut to.ffn, &from.ffn);
        }
    }
}

impl LayerScores {
    /// The scores of one kind of unit.
    pub fn of(&self, kind: UnitKind) -> &[f64] {
        match kind {
            UnitKind::KvGroup => &self.kv_groups,
            UnitKind::QueryHead => &self.query_heads,
            UnitKind::FfnChannel => &self.ffn,
        }
    }
}
