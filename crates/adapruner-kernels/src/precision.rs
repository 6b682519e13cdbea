//! How exactly products are made, for the whole process.
//!
//! The words are those of PyTorch's `set_float32_matmul_precision`, and what they promise is
//! the same on every processor; how they are kept, and how fast that is, is the processor's
//! ([`Arithmetic`](crate::packed::Arithmetic)). Products of up to 12 rows are f32 in every
//! precision.

use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::DType;

use crate::packed::{Arithmetic, Entering};

static CURRENT: AtomicU8 = AtomicU8::new(MatmulPrecision::Highest as u8);

/// What products with weights are made of, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Products {
    /// With f32 weights.
    pub of_f32: String,
    /// With bf16 weights.
    pub of_bf16: String,
}

/// How exactly products are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// With the error of f32: in f32, or of three bf16 parts of every number, which are all of
    /// it, on processors that multiply tiles of bf16 (AMX).
    #[default]
    Highest,
    /// With about 16 bits of every number: two bf16 parts on processors that multiply tiles of
    /// bf16, elsewhere 16-bit integers that have a scale for each row and 512 inputs, with
    /// exact sums of their products. Closer than TF32. Where the processor has instructions
    /// for neither, as [`MatmulPrecision::Highest`].
    High,
    /// With numbers rounded to bf16 where that is faster: products of tiles, and dot products
    /// of bf16 weights (AVX512-BF16) where the processor makes them fast. Elsewhere as
    /// [`MatmulPrecision::High`].
    Medium,
}

impl MatmulPrecision {
    /// The setting.
    pub fn current() -> Self {
        Self::of(CURRENT.load(Ordering::Relaxed))
    }

    /// Makes this the setting of products that begin from now on, and returns what it was.
    pub fn set(self) -> Self {
        Self::of(CURRENT.swap(self as u8, Ordering::Relaxed))
    }

    /// Runs some work with this setting.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
        let before = self.set();
        let done = work();
        before.set();
        done
    }

    /// What products of many rows are made of here.
    pub fn products(self) -> Products {
        let of = |dtype| {
            let chosen = self.during(|| Arithmetic::of(dtype, usize::MAX, Entering::Activations));
            chosen.map_or_else(|| "f32, by the gemm crate".to_owned(), |a| a.to_string())
        };
        Products { of_f32: of(DType::F32), of_bf16: of(DType::BF16) }
    }

    /// What [`CURRENT`] holds.
    fn of(held: u8) -> Self {
        const HIGH: u8 = MatmulPrecision::High as u8;
        const MEDIUM: u8 = MatmulPrecision::Medium as u8;
        match held {
            HIGH => Self::High,
            MEDIUM => Self::Medium,
            _ => Self::Highest,
        }
    }
}

adapruner_choice::choice!(MatmulPrecision, "precision", {
    Highest => "highest",
    High => "high",
    Medium => "medium",
});
