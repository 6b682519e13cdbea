//! Running models: one differentiable decoder for every architecture, dense or
//! pruned, whose layers may all have different widths.
//!
//! ```
//! use adapruner_checkpoint::{Architecture, Checkpoint, LayerWidths, ModelConfig};
//! use adapruner_model::{Decoder, Placement, Residency};
//!
//! // As in a pruned model, the second layer is narrower and has no attention.
//! let first = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! let second = LayerWidths { query_heads: 0, kv_heads: 0, ffn: 40 };
//! let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![first, second]);
//! let model = Checkpoint::random(config, 1)?;
//!
//! let decoder = Decoder::load(&model, &Placement::cpu(), Residency::Resident)?;
//! let ids = decoder.tokens(&[[3u32, 14, 15, 92]])?;
//! assert_eq!(decoder.logits(&ids)?.dims(), [1, 4, 100]);
//! assert_eq!(decoder.nll(&ids)?.dims(), [1, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Axes, here and in every module: `B` sequences, `T` tokens, `H` hidden, `N`
//! query heads, `K` key-value heads, `D` head width, `F` feed-forward width,
//! `V` vocabulary. Losses are in nats.
//!
//! | module | what it holds |
//! |---|---|
//! | [`placement`] | device and number type a model runs in |
//! | [`rotary`] | rotary position tables, scaled as the configuration says |
//! | [`block`] | one decoder layer: weights and forward |
//! | [`decoder`] | [`Decoder`]: the whole model, resident or streamed |
//! | [`gradient`] | the backward pass, block by block |
//! | [`inputs`] | the forward pass, block by block, with what pruned columns read |
//! | [`train`] | the pass of fine-tuning: gradients of adapters or of all parameters |
//! | [`generate`] | sampling text, batched, with a key-value cache |
//! | [`packed`] | sequences of any lengths in one pass, common beginnings run once |
//! | [`wide`] | tensors as f64, on devices that have none too |

mod backward;
pub mod block;
mod changes;
pub mod decoder;
pub mod error;
pub mod generate;
pub mod gradient;
pub mod inputs;
mod load;
pub mod packed;
pub mod placement;
pub mod rotary;
pub mod train;
pub mod wide;

pub use changes::{Adapters, Masks};
pub use decoder::{Decoder, Embedding, KvCache, Places, Residency};
pub use error::{Error, Result};
pub use gradient::{
    GradientObserver, PassCuts, ProjectionGrad, observe_gradients, parameter_gradients,
};
pub use inputs::{InputObserver, ProjectionInput, observe_inputs};
pub use packed::Branches;
pub use placement::{DTypeChoice, DeviceChoice, Placement};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
