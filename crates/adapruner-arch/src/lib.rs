//! Decoder architectures as data.
//!
//! A [`Family`] declares once what its models are made of: which tensors a layer has and what
//! they are called in Hugging Face folders and in GGUF files, what a layer computes, and which
//! keys of `config.json` and of GGUF's metadata say so. Readers, writers, the decoder and
//! pruning derive everything else from it and from a [`ModelConfig`], which is one model's sizes.
//!
//! To add an architecture made of known parts: a file in `families` that says what differs from
//! Llama's, its name in
//! [`Architecture`] and its line in [`Architecture::family`].
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width, `F` feed-forward
//! width, `V` vocabulary. `N`, `K` and `F` belong to a layer, so that a pruned model has the same
//! type as a dense one.
//!
//! ```
//! use adapruner_arch::{Architecture, LayerWidths, ModelConfig, names};
//!
//! let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! let model = ModelConfig::new(Architecture::Qwen3, 32, 16, 100, vec![widths; 2]);
//! let tensors = names::expected_tensors(&model);
//! assert!(tensors.iter().any(|t| t.name == "model.layers.1.self_attn.q_norm.weight"));
//! assert_eq!(model.family().class(), "Qwen3ForCausalLM");
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | [`ModelConfig`]: the sizes of one model and of each of its layers |
//! | [`family`] | [`Family`]: what an architecture declares |
//! | [`multimodal`] | [`Multimodal`]: larger models that hold a language model beside other parts |
//! | [`names`] | the tensors that a configuration demands |

pub mod config;
mod experts;
mod families;
pub mod family;
mod formats;
pub mod multimodal;
pub mod names;
mod stored;

pub use config::{
    Activation, Architecture, AttentionBias, LayerWidths, ModelConfig, Rope, RopeScaling,
};
pub use experts::Experts;
pub use family::Family;
pub use multimodal::Multimodal;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
