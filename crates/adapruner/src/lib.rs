//! The pipeline behind the command line: open a model, measure it, collect
//! statistics, score, plan, apply, write.
//!
//! ```
//! use adapruner::pipeline;
//! use adapruner_checkpoint::{
//!     Architecture, Checkpoint, Digest, LayerWidths, ModelConfig, text::TokenSet,
//! };
//! use adapruner_model::Placement;
//!
//! // `Checkpoint::open` gives the same type for a folder, a GGUF file or a hub id.
//! let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![widths; 2]);
//! let model = Checkpoint::random(config, 1)?;
//!
//! let rows = vec![vec![3, 14, 15, 92], vec![65, 35, 89, 79]];
//! let tokens = TokenSet::of_rows("rows", Digest::of_bytes(b"rows"), rows);
//! let placement = Placement::cpu();
//! let measured = pipeline::evaluate(&model, &tokens, &placement, None, "evaluate", &())?;
//! assert_eq!((measured.loss.windows, measured.loss.tokens), (2, 6));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`settings`] | resolved, validated settings, as they are written into manifests |
//! | [`pruning`], [`prelude`] | pruning from a program, in a few lines |
//! | [`pipeline`] | the stages, each from its settings and the previous stage's result |
//! | [`room`] | how many samples a text has room for |
//! | [`statistics`] | statistics collected within a memory limit |
//! | [`target`] | a size that a pruned model must fit |
//! | [`vocabulary`] | which tokens stay, chosen by example texts |
//! | [`depth`] | which layers are removed whole |
//! | [`experts`] | which experts are removed whole |
//! | [`greedy`] | a greedy order of removing parts, by measured losses |
//! | [`allocate`] | where to cut a model, by the measured loss of each cut |
//! | [`sensitivity`] | the loss of cutting each layer alone, and a cut spread accordingly |
//! | [`compensation`] | remaining weights refitted to compensate for removed ones |
//! | [`masks`] | which units stay, learned by gradient |
//! | [`held_out`] | calibration samples on which no choice was made |
//! | [`footprint`] | the size of a model: stored, written and in its cache |
//! | [`outputs`] | a model folder: Hugging Face files, `model.gguf`, manifest |
//! | [`passed`] | what a model has beside its language model |
//! | [`manifest`] | `manifest.json`: the record of an output's inputs |
//! | [`locked`] | state folders that one process at a time may use |
//! | [`memory`] | available and used memory |
//! | [`recover`] | training after pruning |
//! | [`recovered`] | a finished training, for the report |
//! | [`search`] | the search for samples, metric and cut |
//! | [`error`], [`advice`] | errors, with hints |
//! | [`caution`] | warnings about a result, with a next step |
//! | [`progress`] | progress of stages |
//! | [`generate`] | text generation |
//! | [`latency`] | prompt and generation speed |
//! | [`compare_models`] | models side by side |
//! | [`zero_shot`] | zero-shot tasks |
//! | [`whole`] | all stages in sequence: `run` |

pub mod advice;
pub mod allocate;
pub mod attention;
pub mod caution;
pub mod compare_models;
pub mod compensation;
pub mod depth;
pub mod error;
pub mod experts;
pub mod footprint;
pub mod generate;
pub mod greedy;
pub mod held_out;
pub mod kv_cache;
pub mod latency;
pub mod locked;
pub mod manifest;
pub mod masks;
pub mod memory;
pub mod outputs;
pub mod passed;
pub mod pipeline;
pub mod prelude;
pub mod progress;
pub mod pruning;
pub mod recover;
pub mod recovered;
pub mod room;
pub mod search;
pub mod sensitivity;
pub mod settings;
pub mod speed;
pub mod statistics;
pub mod target;
pub mod vocabulary;
pub mod whole;
pub mod zero_shot;

pub use error::{Error, Result};

/// The program's version, written into every artifact.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
