//! What this processor can do, and what of it products use.

use crate::packed::Arithmetic;

/// A set of instructions that matters for products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet {
    /// Its name.
    pub name: &'static str,
    /// Whether the processor has it.
    pub found: bool,
    /// Whether products use it here.
    pub used: bool,
    /// What it is used for, or why it is not.
    pub note: &'static str,
}

/// The sets that this program knows of on this kind of processor, from the least to the most
/// capable.
#[cfg(target_arch = "x86_64")]
pub fn instruction_sets() -> Vec<InstructionSet> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f");
    let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
    let avx_vnni = avx2 && is_x86_feature_detected!("avxvnni");
    let fast_dot = Arithmetic::fast_dot();
    let integers = "16-bit integer products, with --matmul-precision high";
    let set = |name, found, used, note| InstructionSet { name, found, used: found && used, note };
    vec![
        set("AVX2 and FMA", avx2, !avx512, "f32 products without AVX-512"),
        set("AVX-VNNI", avx_vnni, !vnni, integers),
        set("AVX-512", avx512, true, "f32 products"),
        set("AVX512-VNNI", vnni, true, integers),
        set(
            "AVX512-BF16",
            bf16,
            fast_dot,
            if fast_dot || !bf16 {
                "products with bf16 weights"
            } else {
                "slower than f32 products on this processor"
            },
        ),
        set("AMX-BF16", amx_bf16(), false, "not used yet"),
    ]
}

/// None are known elsewhere: products are the `gemm` crate's.
#[cfg(not(target_arch = "x86_64"))]
pub fn instruction_sets() -> Vec<InstructionSet> {
    Vec::new()
}

/// Whether the processor has tiles of bf16 (leaf 7, bit 22 of EDX).
#[cfg(target_arch = "x86_64")]
fn amx_bf16() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 22 & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_there() {
        for set in instruction_sets() {
            assert!(set.found || !set.used, "{set:?}");
        }
        let used = |name| instruction_sets().iter().any(|set| set.name == name && set.used);
        let exact = used("AVX-512") || used("AVX2 and FMA");
        assert_eq!(exact, Arithmetic::Widen.runs_here() && cfg!(target_arch = "x86_64"));
        let integers = used("AVX512-VNNI") || used("AVX-VNNI");
        assert_eq!(integers, Arithmetic::Int16.runs_here() && cfg!(target_arch = "x86_64"));
    }
}
