//! Measuring models on text.
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

pub mod batch;
pub mod chunked;
pub mod error;
pub mod flops;
pub mod perplexity;

pub use batch::batch_tokens;
pub use chunked::ChunkedWindows;
pub use error::{Error, Result};
pub use perplexity::{Perplexity, perplexity};
