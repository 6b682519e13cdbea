//! The pipeline behind the command line: open a model, measure it, collect
//! statistics, score, plan, apply, write.
//!
//! | module | what it holds |
//! |---|---|
//! | [`settings`] | resolved, validated settings, as they are written into manifests |
//! | [`pipeline`] | the stages, each from settings and what the stage before made |
//! | [`room`] | how many samples a text gives |
//! | [`statistics`] | statistics collected within the memory there is |
//! | [`target`] | a size that a pruned model must fit |
//! | [`vocabulary`] | which tokens stay, by texts of the kind at hand |
//! | [`depth`] | which layers are removed whole |
//! | [`greedy`] | the order in which parts are best removed, by measured losses |
//! | [`allocate`] | where a model is cut, by what each cut costs |
//! | [`sensitivity`] | what cutting each layer alone costs, and how a cut is spread by it |
//! | [`compensation`] | what remains fitted to make up for what was removed |
//! | [`masks`] | which units stay, learned by gradient |
//! | [`held_out`] | calibration samples that nothing was chosen by |
//! | [`footprint`] | how much a model takes, stored, written and in its cache |
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
pub mod allocate;
pub mod caution;
pub mod compare_models;
pub mod compensation;
pub mod depth;
pub mod footprint;
pub mod generate;
pub mod greedy;
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
pub mod target;
pub mod vocabulary;
pub mod whole;
pub mod zero_shot;

/// The program's version, written into every artifact.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
