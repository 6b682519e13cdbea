//! What the experts of a mixture are worth, and which of them stay.
//!
//! `X_e` are the tokens of the calibration samples that take expert `e` of a layer, `T` is how
//! many tokens there are; `f_e` is what the expert gives of a token and `g_e` what the mixture
//! multiplies that by: the router's probability, where the mixture says so divided by the sum of
//! the chosen ones. `L_s` is the loss of sample `s`, in nats per predicted token.
//!
//! | metric | score of an expert | source |
//! |---|---|---|
//! | `reap` | `1/\|X_e\| · Σ_{X_e} g_e · ‖f_e‖₂` | REAP, Lasby et al., arXiv 2510.13999 |
//! | `reap-sum` | `Σ_{X_e} g_e · ‖f_e‖₂` | the same, rare experts counted as rare |
//! | `frequency` | `\|X_e\| / T` | |
//! | `taylor` | `Σ_s \|Σ_{X_e in s} g_e · ∂L_s/∂g_e\|` | first order of the loss in a factor on the expert, 1 → 0 |
//! | `reconstruction` | `Σ_t ‖y_t − y_t(without e)‖²`, sets of experts measured together ([`reconstruction`]) | Lu et al., arXiv 2402.14800 |
//! | `random` | drawn from a seed | the control |
//!
//! An expert that no token takes scores 0. The first order follows from a [`StatsBank`]: with `y`
//! the mixture's output, `g_e · ∂L/∂g_e = g_e · ⟨f_e, ∂L/∂y⟩` of a token, which is `w · ∂L/∂w`
//! summed over the weights of the expert's down projection. It knows nothing of where tokens go
//! once an expert is gone.
//!
//! Axes: `E` experts.

mod reconstruction;

use std::sync::{Mutex, PoisonError};

use adapruner_checkpoint::{ModelConfig, names::Projection};
use adapruner_kernels::sublayer::Expertise;
use adapruner_model::{
    Decoder, InputObserver, PassCuts, ProjectionInput, observe_inputs, wide::in_f64,
};
use candle_core::Result as CandleResult;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use self::reconstruction::reconstruction;
use crate::{
    bank::{StatsBank, Term},
    error::Result,
};

/// What experts are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpertMetric {
    /// The mean size of what an expert adds to a token that takes it.
    Reap,
    /// The size of what an expert adds to all tokens.
    #[default]
    ReapSum,
    /// The share of tokens that take an expert.
    Frequency,
    /// The first order of the loss.
    Taylor,
    /// The change of the mixture's output, of sets of experts.
    Reconstruction,
    /// Drawn from a seed.
    Random,
}

adapruner_choice::choice!(ExpertMetric, "metric of experts", {
    Reap => "reap",
    ReapSum => "reap-sum",
    Frequency => "frequency",
    Taylor => "taylor",
    Reconstruction => "reconstruction",
    Random => "random",
});

/// Which experts of a layer stay, and what each scored.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerChoice {
    /// Those that stay, ascending.
    pub kept: Vec<usize>,
    /// `E`.
    pub scores: Vec<f64>,
}

impl LayerChoice {
    /// Removes the `removed` experts of the smallest scores; of equal ones the first goes first.
    pub fn by_scores(scores: Vec<f64>, removed: usize) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        let mut kept = order.split_off(removed.min(order.len()));
        kept.sort_unstable();
        Self { kept, scores }
    }
}

/// How tokens were routed to an expert.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Routed {
    /// `|X_e|`.
    pub tokens: u64,
    /// `Σ_{X_e} g_e · ‖f_e‖₂`.
    pub added: f64,
}

/// How the tokens of some samples were routed, from a forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    /// `T`.
    pub tokens: u64,
    /// Of each layer its experts.
    pub layers: Vec<Vec<Routed>>,
}

impl Routing {
    /// Runs samples through a model of experts, the pass cut as `cuts` says.
    ///
    /// `progress` is told (steps done, steps in all).
    ///
    /// # Errors
    /// Samples of fewer than two tokens or with ids outside the vocabulary, a loss that is not
    /// finite, damaged weights, no memory.
    pub fn of(
        decoder: &Decoder,
        samples: &[Vec<u32>],
        cuts: &PassCuts,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        let config = decoder.config();
        let layers = vec![vec![Routed::default(); config.expert_count()]; config.layers.len()];
        let seen = Seen(Mutex::new(layers));
        observe_inputs(decoder, samples, cuts, &seen, progress)?;
        let layers = seen.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { tokens: samples.iter().map(|sample| sample.len() as u64).sum(), layers })
    }

    /// One number of every expert of every layer.
    fn each(&self, of: impl Fn(&Routed) -> f64) -> Vec<Vec<f64>> {
        self.layers.iter().map(|layer| layer.iter().map(&of).collect()).collect()
    }

    /// The means of what experts add to a token that takes them, `E` for each layer.
    pub fn reap(&self) -> Vec<Vec<f64>> {
        self.each(|of| if of.tokens == 0 { 0.0 } else { of.added / of.tokens as f64 })
    }

    /// The sums of it, `E` for each layer.
    pub fn reap_sum(&self) -> Vec<Vec<f64>> {
        self.each(|of| of.added)
    }

    /// The shares of tokens that take each expert, `E` for each layer.
    pub fn frequency(&self) -> Vec<Vec<f64>> {
        self.each(|of| of.tokens as f64 / self.tokens.max(1) as f64)
    }
}

/// Counts and adds.
struct Seen(Mutex<Vec<Vec<Routed>>>);

impl InputObserver for Seen {
    fn input(&self, _: &ProjectionInput<'_>) -> CandleResult<()> {
        Ok(())
    }

    fn expert(&self, layer: usize, made: &Expertise<'_>) -> CandleResult<()> {
        if made.rows.is_empty() {
            return Ok(());
        }
        let sizes = in_f64(made.given)?.sqr()?.sum(1)?.sqrt()?.to_vec1::<f64>()?;
        let weights = in_f64(made.weights)?.to_vec1::<f64>()?;
        let added: f64 = sizes.iter().zip(weights).map(|(size, weight)| size * weight).sum();
        let mut layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = layers.get_mut(layer).and_then(|experts| experts.get_mut(made.expert));
        let Some(of) = of else {
            candle_core::bail!("layer {layer}: the model has no expert {}", made.expert)
        };
        of.tokens += made.rows.len() as u64;
        of.added += added;
        Ok(())
    }
}

/// The first orders of experts from the signed sums of a bank, `E` for each layer.
///
/// # Errors
/// A bank without signed sums.
pub fn expert_taylor(bank: &StatsBank, config: &ModelConfig) -> Result<Vec<Vec<f64>>> {
    let layer = |(layer, widths)| {
        let width = config.expert_width(widths);
        let mut scores = vec![0.0; config.expert_count()];
        for sample in 0..bank.samples() {
            let columns = bank.sample(Term::Signed, sample, layer, Projection::Down)?;
            for (score, own) in scores.iter_mut().zip(columns.chunks_exact(width.max(1))) {
                *score += own.iter().map(|&term| f64::from(term)).sum::<f64>().abs();
            }
        }
        Ok(scores)
    };
    config.layers.iter().enumerate().map(layer).collect()
}

/// Numbers from 0 to 1, drawn from a seed, `E` for each layer.
pub fn random_experts(config: &ModelConfig, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || (0..config.expert_count()).map(|_| rng.random::<f64>()).collect();
    config.layers.iter().map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_scores_go_and_of_equal_ones_the_first() {
        let kept = |scores, removed| LayerChoice::by_scores(scores, removed).kept;
        assert_eq!(kept(vec![0.3, 0.1, 0.0, 0.2], 2), [0, 3]);
        assert_eq!(kept(vec![0.0; 4], 2), [2, 3]);
        assert_eq!(kept(vec![0.0; 4], 0), [0, 1, 2, 3]);
    }

    #[test]
    fn experts_that_no_token_takes_are_worth_nothing() {
        let routed = |tokens, added| Routed { tokens, added };
        let layers = vec![vec![routed(0, 0.0), routed(4, 2.0), routed(12, 3.0)]];
        let routing = Routing { tokens: 16, layers };
        assert_eq!(routing.reap(), [[0.0, 0.5, 0.25]]);
        assert_eq!(routing.reap_sum(), [[0.0, 2.0, 3.0]]);
        assert_eq!(routing.frequency(), [[0.0, 0.25, 0.75]]);
    }
}
