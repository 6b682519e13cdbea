//! Fine-tuning of pruned models: LoRA or all parameters, on instructions, conversations or
//! text, with or without a teacher; adapters in PEFT's format.
//!
//! ```
//! use adapruner_checkpoint::{
//!     Architecture, Checkpoint, LayerWidths, ModelConfig, names::Projection,
//! };
//! use adapruner_model::{Decoder, Placement, Residency};
//! use adapruner_recover::{
//!     lora::{Adapter, LoraOptions, Target},
//!     merge::merge,
//!     train::trainer::Trainer,
//! };
//!
//! let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![widths; 2]);
//! let model = Checkpoint::random(config, 1)?;
//!
//! let options = LoraOptions {
//!     rank: 4,
//!     alpha: 8.0,
//!     dropout: 0.0,
//!     targets: vec![Target(Projection::Q), Target(Projection::V)],
//!     rslora: false,
//! };
//! let adapter = Adapter::new(&model.config, &options, 7)?;
//! let decoder = Decoder::load(&model, &Placement::cpu(), Residency::Resident)?;
//! let trainer = Trainer::lora(&decoder, adapter.clone());
//! // Two layers, each with an update of 32 → 32 (queries) and of 32 → 16 (values).
//! assert_eq!(trainer.learned_parameters(), 2 * (4 * (32 + 32) + 4 * (32 + 16)));
//!
//! let merged = merge(&model, &adapter)?;
//! assert_eq!(merged.config, model.config);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Losses are in nats per target token. Axes, here and in every module: `T` tokens, `H` hidden,
//! `V` vocabulary, `r` rank, `in` inputs and `out` outputs of a projection.
//!
//! | module | content |
//! |---|---|
//! | [`data`] | records → tokens with a loss mask; which form a step |
//! | [`lora`] | [`Adapter`](lora::Adapter): low-rank updates of a model's projections |
//! | [`peft`] | adapters as files |
//! | [`mod@merge`] | base and adapter merged into one model, lazily |
//! | [`distill`] | a teacher's top-k logits, cached on disk |
//! | [`train`] | steps, validations, states |
//! | [`memory`] | memory estimate of a training |

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests read what they wrote"))]

pub mod data;
pub mod distill;
pub mod error;
pub mod lora;
pub mod memory;
pub mod merge;
pub mod peft;
pub mod train;

pub use error::{Error, Result};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
