//! Learned masks: gradients learn which units stay, within the widths of a plan.
//!
//! Every unit has a score `s`. Forward, the output of a sublayer is `y = Σ_j m_j · W_j · h_j`
//! with `m` hard: 1 for the best units by score, exactly as many as the plan keeps, 0 for all
//! others. Backward is straight through (Bengio et al., arXiv 1308.3432): `∂L/∂s_j := ∂L/∂m_j =
//! Σ_t h_j(t) · (Wᵀ·dy)_j(t)`, for removed units too, since `h` and `W` are the dense model's.
//! Adam updates the scores with a cosine schedule. The weights are frozen, so there are no
//! weight gradients, and the backward pass ends at the first layer with a gate.
//!
//! Learning begins with a plan: the first mask is the plan, and the initial scores are the
//! static ones, standardised within a layer. Held-out samples choose the step, and the plan
//! itself is a candidate, so the result is never worse than the plan on them. The result is an
//! ordinary [`PrunePlan`](crate::PrunePlan) with the same number of parameters.
//!
//! | module | content |
//! |---|---|
//! | `options` | [`MaskOptions`]: options of mask learning |
//! | `gates` | units, their scores, masks and gradients |
//! | `project` | projection of scores onto an exact number of units |
//! | `batch` | the loss of a step: text, the dense model's tokens or hidden states |
//! | `learn` | [`MaskLearning`]: steps, measurements, the kept step |
//! | `state` | the state from which learning resumes |
//! | `memory` | [`MaskWork`]: memory, and passes that fit |

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
