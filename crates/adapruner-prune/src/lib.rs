//! Statistics → scores → plan → apply: what makes a model smaller.
//!
//! | module | what it holds |
//! |---|---|
//! | [`bank`] | [`StatsBank`]: Taylor terms per calibration sample and structural vector, activation sums per sample and column |
//! | [`layout`] | where each vector's numbers stand |
//! | [`scores`] | [`Importance`] and [`Scores`]: one number per removable unit |
//! | [`mod@plan`] | [`PrunePlan`]: which units stay; data |
//! | [`vocabulary`] | which tokens stay |
//! | [`mod@apply`] | the pruned model as a view of the original |
//! | [`masks`] | which units stay, learned by gradient |
//! | [`mod@compensate`] | the matrices that read pruned units, fitted anew |
//!
//! Only [`bank::collect`], [`masks`] and [`mod@compensate`] run a model. Nothing here reads files, clocks or the
//! environment; banks and plans go in and out as bytes.
//!
//! Axes, here and in every module: `S` samples, `T` tokens, `H` hidden, `N` query
//! heads, `K` key-value heads, `D` head width, `F` feed-forward width, `U`
//! structural vectors.

pub mod apply;
pub mod bank;
pub mod compensate;
mod cost;
pub mod error;
pub mod layout;
pub mod masks;
pub mod plan;
pub mod scores;
pub mod vocabulary;

pub use apply::{apply, mask, without_layers, without_tokens};
pub use bank::{
    BankHeader, CollectOptions, Origin, StatsBank, Terms, collect,
    memory::{Collection, Footprint, bank_bytes, streamed_weights},
};
pub use compensate::{
    CompensateFootprint, CompensateOptions, Compensated, Form, Refit, Ridge, compensate,
    compensated_config, held_out,
};
pub use error::{Error, Result, UnitKind, refuse_experts};
pub use plan::{
    Allocation, Curve, KvMode, LayerPlan, Layout, PlanOptions, PlanTable, PrunePlan, Unmet,
    channel_order, plan,
};
pub use scores::{
    ActivationMetric, Blend, Evidence, Fine, Importance, Normalisation, Reduction, Scores, score,
};
pub use vocabulary::VocabularyPlan;
