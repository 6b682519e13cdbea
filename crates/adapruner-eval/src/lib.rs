//! Measuring models: perplexity on text, accuracy on tasks.
//!
//! ```
//! use adapruner_checkpoint::{Architecture, Checkpoint, LayerWidths, ModelConfig};
//! use adapruner_eval::{paired, perplexity};
//! use adapruner_model::{Decoder, Placement, Residency};
//!
//! let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![widths; 2]);
//! let decoder = |seed| -> Result<Decoder, Box<dyn std::error::Error>> {
//!     let model = Checkpoint::random(config.clone(), seed)?;
//!     Ok(Decoder::load(&model, &Placement::cpu(), Residency::Resident)?)
//! };
//!
//! let window = |w: u32| (0..16).map(|t| (7 * w + t * t) % 100).collect();
//! let windows: Vec<Vec<u32>> = (0..40).map(window).collect();
//! let first = perplexity(&decoder(1)?, &windows, 512, &|_, _| {})?;
//! let other = perplexity(&decoder(2)?, &windows, 512, &|_, _| {})?;
//! assert_eq!(first.tokens, 40 * 15);
//!
//! let difference = paired::windows(&first.window_nll, &other.window_nll, 16).unwrap();
//! assert!((difference.value - (other.nll - first.nll)).abs() < 1e-9);
//! let (low, high) = difference.interval.unwrap();
//! assert!(low < difference.value && difference.value < high);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Axes: `B` windows of a batch, `T` tokens of a window, `H` hidden, `F`
//! feed-forward width, `N` query heads, `D` head width, `V` vocabulary. Losses
//! are in nats per predicted token.
//!
//! | module | content |
//! |---|---|
//! | [`mod@perplexity`] | the literature's perplexity over windows of fixed length |
//! | [`chunked`] | repeated evaluation of the same windows in chunks, for searches |
//! | [`flops`] | floating-point operations of a pass |
//! | [`batch`] | batch size by free memory |
//! | [`tasks`] | multiple-choice tasks: definitions, records, questions |
//! | [`requests`] | questions as token ids |
//! | [`score`] | log-likelihoods of continuations of shared contexts |
//! | [`metrics`] | accuracies and their standard errors |
//! | [`zero_shot`] | a model's answers, and means over tasks |
//! | [`correlation`] | how well one figure of a set of models predicts another |
//! | [`paired`] | two models on the same questions or windows: differences with intervals |
//! | [`harness`] | results in the layout of lm-evaluation-harness |

pub mod batch;
pub mod chunked;
pub mod correlation;
pub mod error;
pub mod flops;
pub mod harness;
pub mod metrics;
pub mod paired;
pub mod perplexity;
pub mod requests;
pub mod score;
pub mod stepwise;
pub mod tasks;
pub mod zero_shot;

#[cfg(test)]
mod testing;

pub use batch::batch_tokens;
pub use chunked::{ChunkedWindows, TOGETHER};
pub use error::{Error, Result};
pub use perplexity::{BitsPerByte, Perplexity, perplexity};
pub use stepwise::{Stepwise, Trial};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
