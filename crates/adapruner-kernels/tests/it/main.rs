//! The fused kernels against compositions of candle's operations in f64, forward
//! and backward, over odd shapes and strides.

mod attention;
mod cross_entropy;
mod experts;
mod linear;
mod low_rank;
mod matmul;
mod packed;
mod pointwise;
mod sublayer;
mod threads;
mod twin;
