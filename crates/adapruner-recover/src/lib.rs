//! Recovering what pruning lost: LoRA or full fine-tuning on instructions,
//! conversations or text, with or without a teacher; adapters as PEFT has them.
//!
//! Losses are in nats per learned token. Axes, here and in every module: `T`
//! tokens, `H` hidden, `V` vocabulary, `r` rank, `in` inputs and `out` outputs
//! of a projection.
//!
//! | module | what it holds |
//! |---|---|
//! | [`data`] | records → tokens with a mask of what is learned; which make a step |
//! | [`lora`] | [`Adapter`](lora::Adapter): low-rank updates of a model's projections |
//! | [`peft`] | adapters as files |
//! | [`mod@merge`] | base and update as one model, lazily |
//! | [`distill`] | a teacher's probabilities, on the disk |
//! | [`train`] | steps, validations, states |
//! | [`memory`] | what a training takes |

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
