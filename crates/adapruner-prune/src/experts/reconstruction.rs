//! The experts without which a mixture's output changes least ("Not All Experts are Equal", Lu et
//! al., arXiv 2402.14800).
//!
//! The error of a set of experts is `Σ_t ‖y_t − y_t(set)‖²` over tokens, with `y` what all experts
//! together give and `y(set)` what these give where the logits of the others are minus infinity.
//! Of all sets of the wanted size the best is taken where there are few; else experts go one after
//! the other, each time the one with whose removal the error is smallest. Every layer is measured
//! in the dense model.
//!
//! Axes: `T` tokens, `E` experts, `H` hidden.

use std::sync::{Mutex, PoisonError};

use adapruner_kernels::sublayer::Experts;
use adapruner_model::{Decoder, InputObserver, PassCuts, ProjectionInput, observe_inputs};
use candle_core::{DType, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::LayerChoice;
use crate::error::Result;

/// Most sets of experts that are tried one by one.
const SETS: usize = 1000;

/// What each expert of a layer gives of every token.
struct Outputs {
    /// The router's logits, `[T, E]`.
    logits: Vec<f32>,
    /// `[T, H]` of each expert.
    given: Vec<Vec<f32>>,
    /// `H`.
    hidden: usize,
    /// How many experts a token takes.
    chosen: usize,
    normalised: bool,
}

impl Outputs {
    fn of(mixture: &Experts, x: &Tensor) -> CandleResult<Self> {
        let (logits, given) = mixture.everything(&x.detach())?;
        let flat = |of: &Tensor| of.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let hidden = x.dim(candle_core::D::Minus1)?;
        let (chosen, normalised) = (mixture.chosen, mixture.normalised);
        let given = given.iter().map(flat).collect::<CandleResult<_>>()?;
        Ok(Self { logits: flat(&logits)?, given, hidden, chosen, normalised })
    }

    /// Adds the tokens of another micro-batch.
    fn extend(&mut self, more: Self) {
        self.logits.extend(more.logits);
        self.given.iter_mut().zip(more.given).for_each(|(given, more)| given.extend(more));
    }

    /// `E`.
    fn count(&self) -> usize {
        self.given.len()
    }

    /// `T`.
    fn tokens(&self) -> usize {
        self.logits.len() / self.count().max(1)
    }
}

/// The experts that a token takes, and their weights.
type Route = Vec<(usize, f64)>;

/// A layer's outputs, and what its mixture makes of them.
struct Mixed<'a> {
    of: &'a Outputs,
    /// Of each token the experts by their logits, largest first, the first of equal ones.
    orders: Vec<Vec<usize>>,
    /// Of each token the output of the mixture, `[H]`.
    whole: Vec<Vec<f64>>,
}

impl<'a> Mixed<'a> {
    fn new(of: &'a Outputs) -> Self {
        let order = |token: usize| {
            let logits = &of.logits[token * of.count()..][..of.count()];
            let mut order: Vec<usize> = (0..of.count()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            order
        };
        let orders = (0..of.tokens()).into_par_iter().map(order).collect();
        let mut mixed = Self { of, orders, whole: Vec::new() };
        let all = vec![true; of.count()];
        let output = |token| mixed.output(token, &mixed.route(token, &all));
        mixed.whole = (0..of.tokens()).into_par_iter().map(output).collect();
        mixed
    }

    /// What a token takes of the experts that stay.
    fn route(&self, token: usize, stay: &[bool]) -> Route {
        let logits = &self.of.logits[token * self.of.count()..][..self.of.count()];
        let mut left = self.orders[token].iter().copied().filter(|&expert| stay[expert]);
        let chosen: Vec<usize> = left.by_ref().take(self.of.chosen).collect();
        let Some(&first) = chosen.first() else { return Vec::new() };
        let power = |expert: usize| (f64::from(logits[expert]) - f64::from(logits[first])).exp();
        let mut sum: f64 = chosen.iter().map(|&expert| power(expert)).sum();
        if !self.of.normalised {
            sum += left.map(power).sum::<f64>();
        }
        chosen.into_iter().map(|expert| (expert, power(expert) / sum)).collect()
    }

    /// What the mixture gives of a token.
    fn output(&self, token: usize, route: &Route) -> Vec<f64> {
        let mut output = vec![0.0; self.of.hidden];
        for &(expert, weight) in route {
            let given = &self.of.given[expert][token * self.of.hidden..][..self.of.hidden];
            output.iter_mut().zip(given).for_each(|(sum, f)| *sum += weight * f64::from(*f));
        }
        output
    }

    /// What a token takes of the experts that stay, and `‖y_t − y_t(set)‖²`.
    fn token(&self, token: usize, stay: &[bool]) -> (Route, f64) {
        let route = self.route(token, stay);
        let pairs = self.whole[token].iter().zip(self.output(token, &route));
        let error = pairs.map(|(y, z)| (y - z).powi(2)).sum();
        (route, error)
    }

    /// [`Mixed::token`] of all tokens.
    fn all(&self, stay: &[bool]) -> Vec<(Route, f64)> {
        (0..self.of.tokens()).into_par_iter().map(|token| self.token(token, stay)).collect()
    }

    /// The error of a set that stays.
    fn error(&self, stay: &[bool]) -> f64 {
        self.all(stay).iter().map(|(_, error)| error).sum()
    }

    /// The error of a set that stays, less one expert more, of which `now` is known.
    fn error_without(&self, expert: usize, stay: &[bool], now: &[(Route, f64)]) -> f64 {
        let mut less = stay.to_vec();
        less[expert] = false;
        let error = |(token, (route, error)): (usize, &(Route, f64))| {
            let same = self.of.normalised && route.iter().all(|(taken, _)| *taken != expert);
            if same { *error } else { self.token(token, &less).1 }
        };
        now.par_iter().enumerate().map(error).collect::<Vec<f64>>().iter().sum()
    }

    /// The experts that stay when `removed` go, and the error of each expert's removal alone.
    fn choose(&self, removed: usize) -> LayerChoice {
        let count = self.of.count();
        let mut stay = vec![true; count];
        let mut now = self.all(&stay);
        let scores = (0..count).map(|expert| self.error_without(expert, &stay, &now)).collect();
        if let Some(sets) = sets(count, removed) {
            let without =
                |gone: &[usize]| (0..count).map(|e| !gone.contains(&e)).collect::<Vec<bool>>();
            let tried = sets.iter().map(|gone| without(gone)).map(|stay| (self.error(&stay), stay));
            stay = tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(stay, |(_, best)| best);
        } else {
            for _ in 0..removed {
                let left = (0..count).filter(|&expert| stay[expert]);
                let errors = left.map(|expert| (self.error_without(expert, &stay, &now), expert));
                let Some((_, next)) = errors.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
                stay[next] = false;
                now = self.all(&stay);
            }
        }
        LayerChoice { kept: (0..count).filter(|&expert| stay[expert]).collect(), scores }
    }
}

/// All sets of `size` of `count` numbers, in lexicographic order; `None` where they are many.
fn sets(count: usize, size: usize) -> Option<Vec<Vec<usize>>> {
    let mut all = vec![Vec::new()];
    for _ in 0..size {
        let longer = all.iter().flat_map(|set: &Vec<usize>| {
            let next = set.last().map_or(0, |last| last + 1);
            (next..count).map(|more| set.iter().copied().chain([more]).collect())
        });
        all = longer.take(SETS * count + 1).collect();
        // Each set of so many that still grows becomes at least one.
        if all.len() > SETS * count {
            return None;
        }
    }
    (all.len() <= SETS).then_some(all)
}

/// The layer that is run, and what was chosen of those before it.
#[derive(Default)]
struct State {
    done: Vec<LayerChoice>,
    open: Option<(usize, Outputs)>,
}

impl State {
    /// Chooses `removed` experts of the layer that was run.
    fn close(&mut self, removed: usize) {
        let choice = self.open.take().map(|(_, outputs)| Mixed::new(&outputs).choose(removed));
        self.done.extend(choice);
    }
}

/// Keeps what the experts of one layer give.
struct Seen {
    removed: usize,
    state: Mutex<State>,
}

impl InputObserver for Seen {
    fn input(&self, _: &ProjectionInput<'_>) -> CandleResult<()> {
        Ok(())
    }

    fn mixture(&self, layer: usize, mixture: &Experts, x: &Tensor) -> CandleResult<()> {
        let outputs = Outputs::of(mixture, x)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut state.open {
            Some((of, begun)) if *of == layer => begun.extend(outputs),
            Some(_) | None => {
                state.close(self.removed);
                state.open = Some((layer, outputs));
            }
        }
        Ok(())
    }
}

/// Chooses the experts of every layer, `removed` fewer, by what a layer gives of all tokens of
/// some samples; it is held for one layer at a time, `4·T·E·H` bytes.
///
/// `progress` is told (steps done, steps in all).
///
/// # Errors
/// Samples of fewer than two tokens or with ids outside the vocabulary, a loss that is not finite,
/// damaged weights, no memory.
pub fn reconstruction(
    decoder: &Decoder,
    samples: &[Vec<u32>],
    (cuts, removed): (&PassCuts, usize),
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<LayerChoice>> {
    let seen = Seen { removed, state: Mutex::default() };
    // One group, so that a layer is run once.
    let cuts = PassCuts { group_tokens: usize::MAX, ..*cuts };
    observe_inputs(decoder, samples, &cuts, &seen, progress)?;
    let mut state = seen.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    state.close(removed);
    Ok(state.done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sets_are_listed_and_many_are_not() {
        assert_eq!(sets(4, 2).unwrap(), [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert_eq!(sets(8, 4).map(|all| all.len()), Some(70));
        assert_eq!(sets(3, 0), Some(vec![vec![]]));
        assert!(sets(32, 16).is_none() && sets(128, 64).is_none());
    }

    /// Two tokens, three experts of which a token takes one. What the second token takes, the third
    /// expert gives as well.
    fn outputs() -> Outputs {
        Outputs {
            logits: vec![3.0, 1.0, 0.0, 0.0, 2.0, 1.0],
            given: vec![vec![5.0, 0.0], vec![1.0, 7.0], vec![2.0, 7.0]],
            hidden: 1,
            chosen: 1,
            normalised: true,
        }
    }

    #[test]
    fn the_expert_that_another_stands_in_for_goes() {
        let outputs = outputs();
        let mixed = Mixed::new(&outputs);
        let LayerChoice { kept, scores } = mixed.choose(1);
        assert_eq!((kept, scores), (vec![0, 2], vec![16.0, 0.0, 0.0]));
        // Without both the second token takes one that gives nothing of it.
        let stay = [true, false, false];
        assert_eq!(mixed.error(&stay), 49.0);
        assert_eq!(
            mixed.error_without(2, &[true, false, true], &mixed.all(&[true, false, true])),
            49.0
        );
        // The third gives least else of what the first token takes, and all of what the second does.
        assert_eq!(mixed.choose(2).kept, [2]);
    }

    /// Weights that are not divided by the sum of the chosen are by that of those that stay.
    #[test]
    fn weights_are_shares_of_the_experts_that_stay() {
        let outputs = Outputs { normalised: false, ..outputs() };
        let route = Mixed::new(&outputs).route(0, &[true, false, true]);
        let expected = 1.0 / (1.0 + (-3.0_f64).exp());
        assert!(route[0].0 == 0 && (route[0].1 - expected).abs() < 1e-12, "{route:?}");
    }

    /// One after the other, the errors are those of the whole sets.
    #[test]
    fn steps_and_sets_have_the_same_errors() {
        let value = |at: usize| ((at * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
        for normalised in [true, false] {
            let (tokens, count, hidden) = (9, 14, 3);
            let outputs = Outputs {
                logits: (0..tokens * count).map(value).collect(),
                given: (0..count)
                    .map(|e| (0..tokens * hidden).map(|at| value(at + 31 * e)).collect())
                    .collect(),
                hidden,
                chosen: 3,
                normalised,
            };
            let mixed = Mixed::new(&outputs);
            let LayerChoice { kept, scores } = mixed.choose(7);
            assert_eq!((kept.len(), scores.len()), (7, 14));
            let mut stay = vec![true; count];
            for gone in (0..count).filter(|expert| !kept.contains(expert)) {
                let step = mixed.error_without(gone, &stay, &mixed.all(&stay));
                stay[gone] = false;
                assert!((step - mixed.error(&stay)).abs() < 1e-9 * step.max(1.0));
            }
            // No single exchange of the last step makes it better.
            let error = mixed.error(&stay);
            assert!(error < mixed.error(&(0..count).map(|e| e >= 7).collect::<Vec<_>>()));
        }
    }
}
