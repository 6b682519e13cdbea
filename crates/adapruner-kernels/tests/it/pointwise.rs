//! Norm, rotary embedding and gate.

use adapruner_kernels::{Gate, activated, composition, gated, layer_norm, rms_norm, rope};
use candle_core::{DType, Var};
use proptest::prelude::*;

use crate::twin::{Operand, compare, numbers};

/// Every activation.
const ACTIVATIONS: [Gate; 4] = [Gate::Silu, Gate::GeluTanh, Gate::Gelu, Gate::Relu];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rms_norm_agrees(
        (b, t, h) in (1..4_usize, 1..40_usize, 1..300_usize),
        strided: bool,
        bf16: bool,
        seed: u64,
    ) {
        let x = Operand::new(&[b, t, h], seed).strided(strided);
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let weight = Operand::new(&[h], !seed).dtype(dtype);
        compare(
            &[x, weight],
            |o| rms_norm(&o[0], &o[1], 1e-5),
            |o| composition::rms_norm(&o[0], &o[1], 1e-5),
            seed,
        );
    }

    #[test]
    fn layer_norm_agrees(
        (b, t, h) in (1..4_usize, 1..40_usize, 2..300_usize),
        strided: bool,
        bf16: bool,
        seed: u64,
    ) {
        let x = Operand::new(&[b, t, h], seed).strided(strided);
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let [weight, bias] = [!seed, seed ^ 5].map(|seed| Operand::new(&[h], seed).dtype(dtype));
        compare(
            &[x, weight, bias],
            |o| layer_norm(&o[0], &o[1], &o[2], 1e-3),
            |o| composition::layer_norm(&o[0], &o[1], &o[2], 1e-3),
            seed,
        );
    }

    #[test]
    fn activations_agree(
        (r, f) in (1..50_usize, 1..900_usize),
        kind in prop::sample::select(ACTIVATIONS.to_vec()),
        strided: bool,
        seed: u64,
    ) {
        compare(
            &[Operand::new(&[r, f], seed).strided(strided)],
            |o| activated(kind, &o[0]),
            |o| composition::activated(kind, &o[0]),
            seed,
        );
    }

    #[test]
    fn gates_agree(
        (r, f) in (1..50_usize, 1..900_usize),
        kind in prop::sample::select(ACTIVATIONS.to_vec()),
        strided: bool,
        seed: u64,
    ) {
        let gate = Operand::new(&[r, f], seed).strided(strided);
        let up = Operand::new(&[r, f], !seed);
        compare(
            &[gate, up],
            |o| gated(kind, &o[0], &o[1]),
            |o| composition::gated(kind, &o[0], &o[1]),
            seed,
        );
    }

    #[test]
    fn rope_agrees(
        (b, t, n, half) in (1..4_usize, 1..40_usize, 1..5_usize, 1..40_usize),
        // Of a head that is not turned.
        rest in prop_oneof![Just(0_usize), 1..9_usize],
        strided: bool,
        seed: u64,
    ) {
        let x = Operand::new(&[b, t, n, 2 * half + rest], seed).strided(strided);
        // A table of more positions, of which a view is handed in.
        let tables = [seed ^ 1, seed ^ 2].map(|s| numbers(&[t + 3, half], s).narrow(0, 2, t).unwrap());
        let wide = tables.clone().map(|t| t.to_dtype(DType::F64).unwrap());
        compare(
            &[x],
            |o| rope(&o[0], &tables[0], &tables[1]),
            |o| composition::rope(&o[0], &wide[0], &wide[1]),
            seed,
        );
    }
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    for constant in [0, 1] {
        let mut operands = [Operand::new(&[3, 7], 1), Operand::new(&[7], 2)];
        operands[constant] = operands[constant].clone().constant();
        compare(
            &operands,
            |o| rms_norm(&o[0], &o[1], 1e-6),
            |o| composition::rms_norm(&o[0], &o[1], 1e-6),
            3,
        );
    }
}

#[test]
fn extreme_gates_stay_finite() {
    let gate = numbers(&[64], 1).affine(1e4, 0.0).unwrap();
    for kind in [Gate::Silu, Gate::GeluTanh] {
        let gate = Var::from_tensor(&gate).unwrap();
        let y = gated(kind, gate.as_tensor(), &gate.ones_like().unwrap()).unwrap();
        let slopes = y.sum_all().unwrap().backward().unwrap().get(&gate).unwrap().clone();
        let values = [&y, gate.as_tensor(), &slopes].map(|t| t.to_vec1::<f32>().unwrap());
        for at in 0..y.elem_count() {
            let [y, g, slope] = values.each_ref().map(|values| values[at]);
            assert!((y - g.max(0.0)).abs() < 1e-3, "{kind:?} of {g} is {y}");
            let expected = if g > 0.0 { 1.0 } else { 0.0 };
            assert!((slope - expected).abs() < 1e-3, "{kind:?} of {g} has slope {slope}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let x = numbers(&[1, 3, 2, 6], 1);
    let table = numbers(&[3, 3], 2);
    assert!(rope(&x, &numbers(&[2, 3], 2), &table).is_err());
    assert!(rope(&x, &table, &numbers(&[3, 2], 2)).is_err());
    assert!(rope(&numbers(&[1, 3, 2, 5], 1), &table, &table).is_err());
    assert!(rms_norm(&x, &numbers(&[5], 1), 1e-5).is_err());
    assert!(gated(Gate::Silu, &x, &numbers(&[1, 3, 2, 5], 1)).is_err());
}
