//! Models and texts as files: reads a [`Checkpoint`] or a [`TokenSet`](text::TokenSet), and
//! writes a [`Checkpoint`].
//!
//! ```
//! use adapruner_checkpoint::{Architecture, Checkpoint, LayerWidths, ModelConfig};
//! use candle_core::{DType, Device};
//!
//! // `Checkpoint::open` gives the same type for a folder, a GGUF file or a hub id.
//! let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![widths; 2]);
//! let model = Checkpoint::random(config, 1)?;
//!
//! let name = "model.layers.1.mlp.down_proj.weight";
//! assert_eq!(model.tensors.meta(name).unwrap().shape, [32, 96]);
//! let down = model.tensors.load(name, DType::F32, &Device::Cpu)?;
//! assert_eq!(down.dims(), [32, 96]);
//! # Ok::<(), adapruner_checkpoint::Error>(())
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`checkpoint`] | [`Checkpoint`] and [`TensorSource`]: lazily mapped tensors under Hugging Face names |
//! | [`input`] | the only code that opens input files; caps on sizes |
//! | [`mapped`] | files as read-only memory maps |
//! | [`open`] | selects the reader for a path or hub id |
//! | [`hf`] | Hugging Face folders, in and out |
//! | [`gguf`] | GGUF files, in and out |
//! | [`tokenizer`] | [`TextTokenizer`](tokenizer::TextTokenizer): tokenizer.json or GGUF metadata |
//! | [`text`] | text files and named sets as token windows |
//! | [`dataset`] | files of data sets on the hub, and records of parquet files |
//! | [`os_path`] | paths of any bytes in JSON |
//! | [`output`] | results of the writers: files, digests, warnings |
//! | [`fence`] | calls into libraries that panic on hostile input |
//! | [`digest`] | content digests that go into every artifact |
//! | [`atomic`] | the only code that writes outputs, whole or not at all, never over inputs |
//! | [`sealed`] | files that carry the digest of their own bytes |
//! | [`provenance`] | checks a folder's files against its manifest |

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests read what they wrote"))]

pub mod atomic;
pub mod checkpoint;
mod convert;
pub mod dataset;
pub mod digest;
pub mod error;
mod experts;
pub mod fence;
pub mod gguf;
pub mod hf;
#[cfg(feature = "hub")]
mod hub;
pub mod input;
pub mod mapped;
pub mod open;
pub mod os_path;
pub mod output;
mod parquet_file;
pub mod provenance;
mod random;
mod replaced;
mod resident;
pub mod sealed;
mod shallow;
pub mod text;
pub mod tokenizer;
mod trimmed;

pub use adapruner_arch::{
    self as arch, Activation, Architecture, AttentionBias, Experts, LayerWidths, ModelConfig, Rope,
    RopeScaling, config, names,
};
pub use checkpoint::{Checkpoint, TensorMeta, TensorSource};
pub use digest::Digest;
pub use error::{Error, Result};
pub use replaced::check_finite;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
