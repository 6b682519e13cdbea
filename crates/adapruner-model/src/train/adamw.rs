//! AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) and clipping by
//! the global norm, in the order of operations of torch's: decay first, then
//! the moments, their bias corrected, then the step.
//!
//! Numbers are f32 as torch's are; the factors of a step are computed in f64
//! and rounded once.

use rayon::prelude::*;

/// Constants of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a parameter, times the learning rate, that each step takes
    /// away.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// torch's constants, and transformers' decay.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// A parameter while it is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f32>,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    /// Whether it decays.
    pub decays: bool,
}

impl Parameter {
    /// A parameter before its first step.
    pub fn new(shape: Vec<usize>, values: Vec<f32>, decays: bool) -> Self {
        let (first, second) = (vec![0.0; values.len()], vec![0.0; values.len()]);
        Self { shape, values, first, second, decays }
    }
}

/// Numbers that one thread takes at a time.
const PIECE: usize = 1 << 14;

impl AdamW {
    /// Step `step` (counted from 1) of one parameter along `gradient`, which
    /// has as many numbers, at learning rate `rate`.
    pub fn step(&self, parameter: &mut Parameter, gradient: &[f32], rate: f64, step: u64) {
        let Self { beta1, beta2, epsilon, weight_decay } = *self;
        let exponent = step as f64;
        let size = rate / (1.0 - beta1.powf(exponent));
        let root = (1.0 - beta2.powf(exponent)).sqrt();
        let decay = if parameter.decays { (1.0 - rate * weight_decay) as f32 } else { 1.0 };
        let (keep, take) = (beta2 as f32, (1.0 - beta2) as f32);
        let (toward, root) = ((1.0 - beta1) as f32, root as f32);
        let (epsilon, size) = (epsilon as f32, size as f32);
        let numbers = parameter.values.par_chunks_mut(PIECE);
        let moments =
            parameter.first.par_chunks_mut(PIECE).zip(parameter.second.par_chunks_mut(PIECE));
        numbers.zip(moments).zip(gradient.par_chunks(PIECE)).for_each(|((p, (m, v)), g)| {
            for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
                *p *= decay;
                *m += toward * (g - *m);
                *v = keep * *v + take * g * g;
                *p -= size * *m / (v.sqrt() / root + epsilon);
            }
        });
    }
}

/// The norm of some numbers, summed in f64 in a fixed order.
pub fn norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let square = |piece: &[f32]| piece.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let total = |gradient: &'a [f32]| {
        let pieces: Vec<f64> = gradient.par_chunks(PIECE).map(square).collect();
        pieces.into_iter().sum::<f64>()
    };
    gradients.into_iter().map(total).sum::<f64>().sqrt()
}

/// What gradients of norm `norm` are multiplied by to have `most` at most,
/// as torch's `clip_grad_norm_` has it.
pub fn clip(norm: f64, most: f64) -> f32 {
    (most / (norm + 1e-6)).min(1.0) as f32
}
