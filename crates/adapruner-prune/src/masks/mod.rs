//! Learned masks: which units stay is learned by gradient, within the widths of a plan.
//!
//! Every unit has a score `s`. Forward, the output of a sublayer is
//! `y = Σ_j m_j · W_j · h_j` with `m` hard: 1 for the best units by score, exactly as
//! many as the plan keeps, 0 for all others. Backward is straight through
//! (Bengio et al., arXiv 1308.3432): `∂L/∂s_j := ∂L/∂m_j = Σ_t h_j(t) · (Wᵀ·dy)_j(t)`, for
//! removed units too, since `h` and `W` are the dense model's. Adam moves the scores at
//! a rate that falls along half a cosine; the weights are frozen, so no weight gradient is
//! made, and backward ends at the first layer with a gate.
//!
//! A learning begins with a plan: its first mask is the plan, its scores are the static
//! ones, standardised within a layer. Samples that are held out choose the step, the plan
//! being one of the choices, so the result is never worse than the plan on these. What
//! comes out is an ordinary [`PrunePlan`](crate::PrunePlan) of as many parameters.
//!
//! | module | what it holds |
//! |---|---|
//! | `options` | [`MaskOptions`]: what a learning is told |
//! | `gates` | units, their scores, masks and gradients |
//! | `project` | scores projected on an exact number of units |
//! | `batch` | the loss of a step: text, the dense model's tokens or hidden states |
//! | `learn` | [`MaskLearning`]: steps, measurements, the step that is kept |
//! | `state` | what a learning goes on from |
//! | `memory` | [`MaskWork`]: what it takes, and how its passes fit |

mod batch;
mod gates;
mod learn;
mod memory;
mod options;
mod project;
mod state;
#[cfg(test)]
mod tests;

pub use self::{
    learn::{
        LearnedMasks, MaskEnd, MaskLearning, MaskOutcome, MaskStep, MaskWatch, Measured, mean_loss,
    },
    memory::{MaskFootprint, MaskPass, MaskWork},
    options::{GatedUnit, MaskBudget, MaskLoss, MaskOptions, TOP_LOGITS},
    state::{MaskRecord, MaskState},
};
