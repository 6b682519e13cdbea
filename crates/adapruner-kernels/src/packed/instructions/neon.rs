//! NEON, by the kernels of the `gemm` crate: no product of our own.

use super::Set;

pub(super) const SET: Set = Set {
    name: "NEON",
    flag: "neon",
    purpose: "f32 products, by the gemm crate",
    found: || std::arch::is_aarch64_feature_detected!("neon"),
    ..Set::PLAIN
};
