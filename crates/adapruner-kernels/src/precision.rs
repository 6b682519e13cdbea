//! How exactly products are made, for the whole process.
//!
//! The words are those of PyTorch's `set_float32_matmul_precision`. Weight gradients, Gram
//! matrices, attention, adapters and products of up to 12 rows are f32 in every precision.

use std::sync::atomic::{AtomicBool, Ordering};

static HIGH: AtomicBool = AtomicBool::new(false);

/// How exactly products are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// In f32; rows that meet bf16 weights are rounded to bf16 where the processor
    /// multiplies pairs of them faster
    /// ([`Arithmetic::Dot`](crate::packed::Arithmetic::Dot)).
    #[default]
    Highest,
    /// With both sides rounded to 16-bit integers that have a scale for each row and
    /// 512 inputs, and exact sums of their products
    /// ([`Arithmetic::Int16`](crate::packed::Arithmetic::Int16)): closer than TF32, at
    /// twice the speed of f32. Where the processor has no instructions for it, as
    /// [`MatmulPrecision::Highest`].
    High,
}

impl MatmulPrecision {
    /// The setting.
    pub fn current() -> Self {
        if HIGH.load(Ordering::Relaxed) { Self::High } else { Self::Highest }
    }

    /// Makes this the setting of products that begin from now on, and returns what it was.
    pub fn set(self) -> Self {
        let before = HIGH.swap(self == Self::High, Ordering::Relaxed);
        if before { Self::High } else { Self::Highest }
    }

    /// Runs some work with this setting.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
        let before = self.set();
        let done = work();
        before.set();
        done
    }
}

adapruner_choice::choice!(MatmulPrecision, "precision", {
    Highest => "highest",
    High => "high",
});
