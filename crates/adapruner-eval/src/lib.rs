//! Measuring models: perplexity on text, accuracy on tasks.
//!
//! Axes: `B` windows of a batch, `T` tokens of a window, `H` hidden, `F`
//! feed-forward width, `N` query heads, `D` head width, `V` vocabulary. Losses
//! are in nats per predicted token.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mod@perplexity`] | the literature's perplexity over windows of fixed length |
//! | [`chunked`] | the same windows again and again, in chunks, for searches |
//! | [`flops`] | floating-point operations of a pass |
//! | [`batch`] | how many tokens run together, from the memory at hand |
//! | [`tasks`] | multiple-choice tasks: definitions, records, questions |
//! | [`requests`] | questions as token ids |
//! | [`score`] | log-likelihoods of what follows shared contexts |
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
