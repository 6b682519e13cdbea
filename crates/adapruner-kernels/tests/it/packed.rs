//! Products with packed bf16 weights, against sums in f64 and the scalar twin.

use adapruner_kernels::{
    Head, linear, linear_cross_entropy,
    packed::{Arithmetic, Entering, Packed, PackedWeight, Parts},
    sublayer::Affine,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::twin::numbers;

fn weight(outputs: usize, inputs: usize, seed: u64) -> Tensor {
    numbers(&[outputs, inputs], seed).to_dtype(DType::BF16).unwrap()
}

fn rows(t: &Tensor) -> Vec<Vec<f32>> {
    t.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Holds a product to the bound of its arithmetic.
fn within_the_bound(y: &Tensor, x: &Tensor, weight: &Tensor, arithmetic: Arithmetic) {
    let exact = weight.dtype() == DType::BF16;
    let (y, x, weight) = (rows(y), rows(x), rows(weight));
    for (y, x) in y.iter().zip(&x) {
        for (y, weight) in y.iter().zip(&weight) {
            let terms = x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let sum: f64 = terms.sum();
            let bound = arithmetic.error(x, weight, exact);
            let error = (f64::from(*y) - sum).abs();
            assert!(
                error <= bound,
                "{arithmetic:?}: {y} for {sum}, off by {error:e}, not {bound:e}"
            );
        }
    }
}

/// Those that run here; the unit of tiles in software is slow, so only where it is worth it.
fn here(products: usize) -> impl Iterator<Item = Arithmetic> {
    let slow = |arithmetic: &Arithmetic| matches!(arithmetic, Arithmetic::Emulated(_));
    let all = Arithmetic::ALL.into_iter().filter(|a| a.runs_here());
    all.filter(move |arithmetic| products < 2_000_000 || !slow(arithmetic))
}

/// How many parts of f32 weights an arithmetic reads.
fn parts(arithmetic: Arithmetic) -> Option<Parts> {
    match arithmetic {
        Arithmetic::Tiles(parts) | Arithmetic::Emulated(parts) => Some(parts),
        Arithmetic::Dot | Arithmetic::Widen | Arithmetic::Int16 | Arithmetic::Scalar => None,
    }
}

/// Numbers of a row or column: of about one, some of which are massive, denormal, or close to
/// the largest there are.
fn odd_numbers(count: usize, kind: u8, seed: u64) -> Vec<f32> {
    let plain: Vec<f32> = numbers(&[count], seed).to_vec1().unwrap();
    let of = |(at, value): (usize, f32)| match kind % 4 {
        0 => value,
        // As rows of the first token of many models are.
        1 if at % 97 == 5 => value * 3000.0,
        1 => value * 0.1,
        2 => value * 1e-39,
        _ => value * 1e18,
    };
    plain.into_iter().enumerate().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_stay_within_their_bounds(
        // Around the sides of strips, panels, slabs and parts.
        tokens in prop_oneof![1..4_usize, 10..27_usize, 90..200_usize],
        inputs in prop_oneof![1..40_usize, 250..262_usize, 500..600_usize],
        outputs in prop_oneof![1..70_usize, 180..260_usize],
        strided: bool,
        seed: u64,
    ) {
        let x = numbers(&[inputs, tokens], seed).t().unwrap();
        let x = if strided { x } else { x.contiguous().unwrap() };
        let weight = weight(inputs, outputs, !seed).t().unwrap();
        let packed = PackedWeight::pack(&weight).unwrap();
        for arithmetic in here(tokens * inputs * outputs) {
            let y = packed.multiply(&x, arithmetic).unwrap();
            prop_assert_eq!(y.dims(), [tokens, outputs]);
            within_the_bound(&y, &x, &weight, arithmetic);
            let twin = match arithmetic {
                Arithmetic::Widen => Arithmetic::Scalar,
                Arithmetic::Tiles(parts) if tokens * inputs * outputs < 2_000_000 => {
                    Arithmetic::Emulated(parts)
                }
                Arithmetic::Tiles(_)
                | Arithmetic::Dot
                | Arithmetic::Int16
                | Arithmetic::Scalar
                | Arithmetic::Emulated(_) => continue,
            };
            prop_assert_eq!(bits(&y), bits(&packed.multiply(&x, twin).unwrap()));
        }
    }

    #[test]
    fn products_of_parts_stay_within_their_bounds(
        tokens in 1..40_usize,
        inputs in prop_oneof![1..40_usize, 150..170_usize, 500..600_usize],
        outputs in 1..70_usize,
        kinds: [u8; 2],
        seed: u64,
    ) {
        let matrix = |rows: usize, kind: u8, seed: u64| {
            let values: Vec<f32> =
                (0..rows as u64).flat_map(|row| odd_numbers(inputs, kind, seed ^ row)).collect();
            Tensor::from_vec(values, (rows, inputs), &Device::Cpu).unwrap()
        };
        let (x, weight) = (matrix(tokens, kinds[0], seed), matrix(outputs, kinds[1], !seed));
        for arithmetic in here(tokens * inputs * outputs) {
            let Some(parts) = parts(arithmetic) else { continue };
            let packed = PackedWeight::split(&weight, parts).unwrap();
            let y = packed.multiply(&x, arithmetic).unwrap();
            within_the_bound(&y, &x, &weight, arithmetic);
            if let Arithmetic::Tiles(parts) = arithmetic {
                let twin = packed.multiply(&x, Arithmetic::Emulated(parts)).unwrap();
                prop_assert_eq!(bits(&y), bits(&twin));
                // Fewer parts than are held, to the same bits as if no more were held.
                let more = PackedWeight::split(&weight, Parts::Three).unwrap();
                prop_assert_eq!(bits(&more.multiply(&x, arithmetic).unwrap()), bits(&y));
            }
        }
    }

    #[test]
    fn packing_loses_nothing(outputs in 0..100_usize, inputs in 0..300_usize, seed: u64) {
        let weight = weight(outputs, inputs, seed);
        let packed = PackedWeight::pack(&weight).unwrap();
        prop_assert_eq!(rows(&packed.unpack().unwrap()), rows(&weight));
        let lines = outputs.next_multiple_of(32) * inputs.next_multiple_of(32);
        prop_assert_eq!(packed.bytes(), 2 * lines);
    }
}

/// Rounding the activations is all that sets the dot products apart.
#[test]
fn dot_products_equal_the_rounded_activations() {
    if !Arithmetic::Dot.runs_here() {
        adapruner_testing::unsupported("Dot: not on this processor");
        return;
    }
    let (x, weight) = (numbers(&[40, 700], 1), weight(65, 700, 2));
    let packed = PackedWeight::pack(&weight).unwrap();
    let y = packed.multiply(&x, Arithmetic::Dot).unwrap();
    let rounded = x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    within_the_bound(&y, &rounded, &weight, Arithmetic::Widen);
}

/// Packed or not, many rows or one, any number of threads: the same bits.
#[test]
fn neither_threads_nor_rows_nor_packing_change_a_bit() {
    let (x, weight) = (numbers(&[260, 601], 1), weight(65, 601, 2));
    let packed = PackedWeight::pack(&weight).unwrap();
    let on = |threads, op: &(dyn Fn() -> Tensor + Sync)| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(&op()))
    };
    for arithmetic in here(0) {
        let product = || packed.multiply(&x, arithmetic).unwrap();
        let one = on(1, &product);
        for threads in [2, 3, 5] {
            assert!(on(threads, &product) == one, "{arithmetic:?} on {threads} threads");
        }
        for row in [0, 11, 259] {
            let y = packed.multiply(&x.narrow(0, row, 1).unwrap(), arithmetic).unwrap();
            assert!(bits(&y) == one[row * 65..][..65], "{arithmetic:?}: row {row} alone");
        }
    }
    let preferred = Arithmetic::of(DType::BF16, usize::MAX, Entering::Activations);
    let Some(preferred) = preferred else { return };
    let expected = bits(&packed.multiply(&x, preferred).unwrap());
    assert!(bits(&linear(&x, &weight, None).unwrap()) == expected, "unpacked");
    let mut map = Affine {
        weight,
        bias: None,
        packed: Packed::default(),
        adapter: None,
        mask: None,
        tap: None,
    };
    for pass in 0..2 {
        assert!(bits(&map.apply(&x).unwrap()) == expected, "pass {pass}");
    }
    let many = Tensor::cat(&[&x, &x], 0).unwrap();
    assert!(bits(&map.apply(&many).unwrap())[..expected.len()] == expected, "more rows");
    // What was packed is not taken for another weight.
    map.weight = map.weight.neg().unwrap();
    let negated: Vec<u32> = expected.iter().map(|v| v ^ (1 << 31)).collect();
    assert!(bits(&map.apply(&x).unwrap()) == negated, "another weight");
}

#[test]
fn losses_do_not_depend_on_threads() {
    let (x, weight) = (numbers(&[600, 33], 1), weight(1111, 33, 2));
    let ids: Vec<u32> = (0..600).map(|i| i * 7 % 1111).collect();
    let ids = Tensor::from_vec(ids, 600, &Device::Cpu).unwrap();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(&linear_cross_entropy(&x, &Head::from(&weight), &ids).unwrap()))
    };
    let one = on(1);
    assert!(on(2) == one && on(5) == one);
    // Nor on other rows, however few there are.
    if Arithmetic::Widen.runs_here() {
        let x = numbers(&[600, 601], 3);
        for weight in [numbers(&[1111, 601], 4), self::weight(1111, 601, 4)] {
            let head = Head::from(&weight);
            let all = bits(&linear_cross_entropy(&x, &head, &ids).unwrap());
            for count in [1, 4, 5, 20] {
                let part = |t: &Tensor| t.narrow(0, 300, count).unwrap();
                let few = bits(&linear_cross_entropy(&part(&x), &head, &part(&ids)).unwrap());
                assert!(few == all[300..300 + count], "{count} rows of {:?}", weight.dtype());
            }
        }
    }
}

/// What is not a number reaches its own row or column and no other.
#[test]
fn numbers_that_are_not_finite_stay_visible() {
    let (tokens, inputs, outputs) = (30, 301, 45);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = rows(&numbers(&[tokens, inputs], 1));
        // The last one shares its pair with the filling.
        x[7][300] = bad;
        let mut values = rows(&weight(outputs, inputs, 2));
        values[41][2] = bad;
        let x = Tensor::new(x, &Device::Cpu).unwrap();
        let weight = Tensor::new(values, &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
        let packed = PackedWeight::pack(&weight).unwrap();
        for arithmetic in here(0) {
            let y = rows(&packed.multiply(&x, arithmetic).unwrap());
            for (row, y) in y.iter().enumerate() {
                for (col, y) in y.iter().enumerate() {
                    let finite = row != 7 && col != 41;
                    assert_eq!(y.is_finite(), finite, "{arithmetic:?} {bad}: {row}, {col} is {y}");
                    // Integers have no infinities, and an infinite weight meets all parts of
                    // a number, of which some are zero.
                    let of_parts = parts(arithmetic).is_some_and(|parts| parts != Parts::One);
                    let nan = bad.is_nan() || arithmetic == Arithmetic::Int16;
                    let either = (row, col) == (7, 41) || of_parts && col == 41;
                    assert!(finite || nan == y.is_nan() || either, "{arithmetic:?} {bad}: {y}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    assert!(PackedWeight::pack(&numbers(&[3, 4], 1)).is_err());
    let packed = PackedWeight::pack(&weight(3, 4, 1)).unwrap();
    assert!(packed.multiply(&numbers(&[2, 5], 1), Arithmetic::Scalar).is_err());
    let none = packed.multiply(&numbers(&[0, 4], 1), Arithmetic::Scalar).unwrap();
    assert_eq!(none.dims(), [0, 3]);
    let empty = PackedWeight::pack(&weight(3, 0, 1)).unwrap();
    let y = empty.multiply(&numbers(&[2, 0], 1), Arithmetic::Scalar).unwrap();
    assert_eq!(rows(&y), [[0.0; 3]; 2]);
    // A part of a number is read as one by products of as many parts alone.
    let one = PackedWeight::split(&numbers(&[3, 4], 1), Parts::One).unwrap();
    assert!(one.multiply(&numbers(&[2, 4], 1), Arithmetic::Scalar).is_err());
    let two = PackedWeight::split(&numbers(&[3, 4], 1), Parts::Two).unwrap();
    assert!(two.unpack().is_err());
    assert!(two.multiply(&numbers(&[2, 4], 1), Arithmetic::Emulated(Parts::Three)).is_err());
    let found = two.multiply(&numbers(&[2, 4], 1), Arithmetic::Emulated(Parts::Two)).unwrap();
    within_the_bound(
        &found,
        &numbers(&[2, 4], 1),
        &numbers(&[3, 4], 1),
        Arithmetic::Emulated(Parts::Two),
    );
}
