//! The operations a decoder is made of, each with its backward pass.
//!
//! On the CPU, with f32 activations and f32, bf16 or f16 weights, they are fused kernels; on
//! other devices, and for other types, compositions of candle's own operations
//! ([`composition`]). Results do not depend on the number of threads: sums are split by sizes
//! alone, and the parts are added in a fixed order.
//!
//! Candle's fused `rope`, `softmax_last_dim`, `rms_norm` and `sdpa` have no
//! backward and cut the graph without an error, so none of them is used.
//!
//! ```
//! use adapruner_kernels::{linear, rms_norm};
//! use candle_core::{DType, Device, Tensor, Var};
//!
//! let cpu = Device::Cpu;
//! let x = Var::new(&[[3f32, 4.0]], &cpu)?;
//! let normed = rms_norm(&x, &Tensor::ones(2, DType::F32, &cpu)?, 0.0)?;
//! let y = linear(&normed, &Tensor::new(&[[1f32, 1.0]], &cpu)?, None)?;
//! // The mean square is 12.5.
//! assert!((y.to_vec2::<f32>()?[0][0] - 7.0 / 12.5f32.sqrt()).abs() < 1e-6);
//!
//! let gradients = y.sum_all()?.backward()?;
//! assert!(gradients.get(&x).is_some());
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! Axes, here and in every module: `B` sequences, `T` tokens, `S` positions of
//! keys, `N` query heads, `K` key-value heads, `D` head width, `H` hidden, `V`
//! vocabulary, `R` rows.
//!
//! | module | content |
//! |---|---|
//! | `linear` | linear map, with a tap on its gradients |
//! | `map` | the weight of a linear map during a forward or backward pass |
//! | `low_rank` | low-rank updates beside a linear map, with dropout |
//! | `columns` | dot products of the columns of two matrices |
//! | [`packed`] | matrix multiplication, and weights packed for it |
//! | `matmul` | the product of two matrices alone |
//! | `norm` | root mean square normalisation |
//! | `layer_norm` | layer normalisation |
//! | `rope` | rotary position embedding |
//! | `attention` | causal grouped-query attention, no `T × T` matrix kept |
//! | `gate` | gated feed-forward activation |
//! | `activation` | activation without a gate |
//! | `head` | the output projection |
//! | `cross_entropy` | loss of a linear map, logits never held whole |
//! | [`sublayer`] | whole sublayers of a decoder as one operation each |
//! | `upstream` | backward passes that start from a given gradient |
//! | `threads` | work on all threads, or on one alone |
//! | [`composition`] | the same, composed of candle's operations |
//! | `precision` | precision of matrix multiplication |
//! | `peak` | peak speed of the f32 units |
//! | `allocator` | the allocator of programs that run models |

#![expect(unsafe_code, reason = "outputs are written once, products go through pointers")]

mod activation;
mod allocator;
mod attention;
mod buffer;
mod columns;
pub mod composition;
mod cross_entropy;
mod exp;
mod gate;
mod gemm;
mod head;
mod layer_norm;
mod linear;
mod low_rank;
mod map;
mod matmul;
mod norm;
pub mod packed;
mod peak;
mod precision;
mod rope;
pub mod sublayer;
mod threads;
mod upstream;
mod view;

pub use activation::activated;
pub use allocator::{Allocator, keep_freed_pages};
pub use attention::{Scores, attention, packed_attention};
pub use columns::column_dots;
pub use cross_entropy::{linear_cross_entropy, linear_soft_cross_entropy};
pub use gate::{Gate, gated};
pub use head::Head;
pub use layer_norm::layer_norm;
pub use linear::{GradTap, linear};
pub use low_rank::{Dropout, LowRank, LowRankGrad};
pub use matmul::{Columns, matmul, transposed_product};
pub use norm::rms_norm;
pub use packed::{
    InstructionSet, SWITCHED_OFF, instruction_flags, instruction_sets, switch_off, switched_off,
};
pub use peak::f32_peak;
pub use precision::{MatmulPrecision, Products};
pub use rope::rope;
pub use threads::keep_to_one_pool;
pub use upstream::with_gradient;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
