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
//! | module | what it holds |
//! |---|---|
//! | [`settings`] | resolved, validated settings, as they are written into manifests |
//! | [`pipeline`] | the stages, each from settings and what the stage before made |
//! | [`room`] | how many samples a text gives |
//! | [`statistics`] | statistics collected within the memory there is |
//! | [`vocabulary`] | which tokens stay, by texts of the kind at hand |
//! | [`sensitivity`] | what cutting each layer alone costs, and how a cut is spread by it |
//! | [`compensation`] | what remains fitted to make up for what was removed |
//! | [`masks`] | which units stay, learned by gradient |
//! | [`held_out`] | calibration samples that nothing was chosen by |
//! | [`outputs`] | a model folder: Hugging Face files, `model.gguf`, manifest |
//! | [`manifest`] | `manifest.json`: what an output was made from |
//! | [`locked`] | folders of state that one process at a time works in |
//! | [`memory`] | memory at hand and memory used |
//! | [`recover`] | training after pruning |
//! | [`recovered`] | a training that is over, as a page shows it |
//! | [`search`] | the search for samples, metric and cut |
//! | [`advice`] | errors with advice |
//! | [`caution`] | what to be wary of in a result, and a next step |
//! | [`progress`] | how stages tell how far they are |
//! | [`generate`] | text that continues a prompt |
//! | [`latency`] | how fast models read and write |
//! | [`compare_models`] | models side by side |
//! | [`zero_shot`] | tasks asked of a model |
//! | [`whole`] | everything after one another, as `run` does |

pub mod advice;
pub mod caution;
pub mod compare_models;
pub mod compensation;
pub mod generate;
pub mod held_out;
pub mod latency;
pub mod locked;
pub mod manifest;
pub mod masks;
pub mod memory;
pub mod outputs;
pub mod pipeline;
pub mod progress;
pub mod recover;
pub mod recovered;
pub mod room;
pub mod search;
pub mod sensitivity;
pub mod settings;
pub mod statistics;
pub mod vocabulary;
pub mod whole;
pub mod zero_shot;

/// The program's version, written into every artifact.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
