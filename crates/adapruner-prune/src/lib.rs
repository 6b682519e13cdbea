//! Structured pruning: statistics → scores → plan → apply.
//!
//! ```
//! use adapruner_checkpoint::{Architecture, Checkpoint, LayerWidths, ModelConfig};
//! use adapruner_prune::{Evidence, Importance, PlanOptions, Reduction, apply, plan, score};
//!
//! let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![widths; 2]);
//! let model = Checkpoint::random(config, 1)?;
//!
//! let evidence = Evidence {
//!     config: &model.config,
//!     bank: None,
//!     samples: None,
//!     checkpoint: Some(&model),
//!     seed: 0,
//! };
//! let scores = score(Importance::MagnitudeL1, Reduction::Sum, &evidence)?;
//! let plan = plan(&scores, &model.config, model.digest()?, &PlanOptions::new(0.2))?;
//! let pruned = apply(&model, &plan)?;
//! let left = pruned.config.parameters() as f64 / model.config.parameters() as f64;
//! assert!((left - 0.8).abs() < 0.01);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`bank`] | [`StatsBank`]: Taylor terms per calibration sample and structural vector, activation sums per sample and column |
//! | [`layout`] | the position of each vector's numbers |
//! | [`scores`] | [`Importance`] and [`Scores`]: one number per removable unit |
//! | [`mod@plan`] | [`PrunePlan`]: which units stay; data |
//! | [`experts`] | which experts of a mixture stay: [`ExpertMetric`] |
//! | [`vocabulary`] | which tokens stay |
//! | [`mod@apply`] | the pruned model as a view of the original |
//! | [`masks`] | which units stay, learned by gradient |
//! | [`mod@compensate`] | refits the matrices that read pruned units |
//!
//! Only [`bank::collect`], [`experts`], [`masks`] and [`mod@compensate`] run a model. Nothing here reads files, clocks or the
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
pub mod experts;
pub mod layout;
pub mod masks;
pub mod plan;
pub mod scores;
pub mod vocabulary;

pub use apply::{apply, mask, without_experts, without_layers, without_tokens};
pub use bank::{
    BankHeader, CollectOptions, Origin, StatsBank, Terms, collect,
    memory::{Collection, Footprint, bank_bytes, streamed_weights},
};
pub use compensate::{
    CompensateFootprint, CompensateOptions, Compensated, Form, Refit, Ridge, compensate,
    compensated_config, held_out,
};
pub use error::{Error, Result, UnitKind, refuse_experts};
pub use experts::{
    ExpertMetric, LayerChoice, Routing, expert_taylor, random_experts, reconstruction,
};
pub use plan::{
    Allocation, Curve, KvMode, LayerPlan, Layout, PlanOptions, PlanTable, PrunePlan, Unmet,
    channel_order, plan, plan_dropped,
};
pub use scores::{
    ActivationMetric, Blend, Evidence, Fine, Importance, Normalisation, Reduction, Scores, score,
};
pub use vocabulary::VocabularyPlan;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
