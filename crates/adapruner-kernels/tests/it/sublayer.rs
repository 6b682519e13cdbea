//! Whole sublayers: fused against composed in f64, with what taps see.

use std::sync::{Arc, Mutex};

use adapruner_kernels::{
    Gate, GradTap, Scores, column_dots,
    packed::Packed,
    sublayer::{Affine, FeedForward, Norm, Residual, Rotation, SelfAttention},
};
use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;

use crate::twin::{F32, Operand, compare, numbers};

/// Collects what the taps of a sublayer saw, by name.
#[derive(Default)]
struct Seen(Mutex<Vec<(&'static str, Vec<Tensor>)>>);

struct Tap(&'static str, Arc<Seen>);

impl GradTap for Tap {
    fn observe(&self, input: &Tensor, weight: &Tensor, grad_output: &Tensor) -> Result<()> {
        let seen = [input, weight, grad_output].map(Tensor::detach).to_vec();
        self.1.0.lock().unwrap().push((self.0, seen));
        Ok(())
    }

    fn mask(&self, input: &Tensor, grad: &Tensor) -> Result<()> {
        let seen = [input, grad].map(Tensor::detach).to_vec();
        self.1.0.lock().unwrap().push(("mask", seen));
        Ok(())
    }
}

/// Makes a sublayer's weights, the same numbers for each type asked for.
struct Maker {
    seed: u64,
    biased: bool,
    /// Whether what the last map reads is masked.
    masked: bool,
    /// Type the numbers are rounded to.
    stored: DType,
    /// Whether everything is then held as f64.
    wide: bool,
    shape: Shape,
    seen: Arc<Seen>,
}

/// How a family's sublayers are made beside their maps.
#[derive(Debug, Clone, Copy)]
struct Shape {
    before: bool,
    after: bool,
    /// Whether norms of the stream have biases.
    layer: bool,
    gated: bool,
    residual: f64,
    activation: Gate,
    /// Whether heads are normed, each by itself (or all together).
    head_norms: Option<bool>,
    turned: bool,
    /// Whether half of each head is turned (or all of it).
    partly: bool,
    scores: Scores,
}

/// Those that are smooth: both sides round to other sides of a step.
const ACTIVATIONS: [Gate; 3] = [Gate::Silu, Gate::GeluTanh, Gate::Gelu];

/// Llama's.
const LLAMA: Shape = Shape {
    before: true,
    after: false,
    layer: false,
    gated: true,
    residual: 1.0,
    activation: Gate::Silu,
    head_norms: None,
    turned: true,
    partly: false,
    scores: Scores { scale: None, window: None, cap: None },
};

/// Gemma 3's, with a residual of its own.
const GEMMA: Shape = Shape {
    before: true,
    after: true,
    layer: false,
    gated: true,
    residual: 0.5,
    activation: Gate::GeluTanh,
    head_norms: Some(true),
    turned: true,
    partly: true,
    scores: Scores { scale: Some(0.3), window: Some(3), cap: Some(1.5) },
};

fn shapes() -> impl Strategy<Value = Shape> {
    let scores = (
        prop::option::of(0.05..0.5_f64),
        prop::option::of(1..60_usize),
        prop::option::of(0.3..4.0_f64),
    );
    let norms = (any::<[bool; 3]>(), any::<Option<bool>>());
    let activation = prop::sample::select(ACTIVATIONS.to_vec());
    let all = (norms, activation, any::<[bool; 4]>(), scores);
    all.prop_map(|(([before, after, layer], head_norms), activation, is, scores)| {
        let [scaled, gated, turned, partly] = is;
        Shape {
            before,
            after,
            layer,
            gated,
            residual: if scaled { 0.22 } else { 1.0 },
            activation,
            head_norms,
            turned,
            partly,
            scores: Scores { scale: scores.0, window: scores.1, cap: scores.2 },
        }
    })
}

impl Maker {
    fn tensor(&self, shape: &[usize], index: u64, dtype: DType) -> Tensor {
        let values = numbers(shape, self.seed ^ (index << 32)).affine(0.3, 0.0).unwrap();
        let values = values.to_dtype(dtype).unwrap();
        if self.wide { values.to_dtype(DType::F64).unwrap() } else { values }
    }

    fn map(&self, name: &'static str, outputs: usize, inputs: usize, index: u64) -> Affine {
        Affine {
            weight: self.tensor(&[outputs, inputs], index, self.stored),
            bias: self.biased.then(|| self.tensor(&[outputs], index + 100, DType::F32)),
            packed: Packed::default(),
            adapter: None,
            mask: (self.masked && ["down", "o"].contains(&name)).then(|| self.mask(inputs)),
            tap: Some(Arc::new(Tap(name, self.seen.clone()))),
        }
    }

    /// Factors, each third of them 0.
    fn mask(&self, width: usize) -> Tensor {
        let numbers = numbers(&[width], self.seed ^ (9 << 32)).to_vec1::<f32>().unwrap();
        let factors = numbers.iter().enumerate().map(|(at, &n)| if at % 3 == 0 { 0.0 } else { n });
        let mask = Tensor::from_iter(factors, &Device::Cpu).unwrap();
        if self.wide { mask.to_dtype(DType::F64).unwrap() } else { mask }
    }

    fn norm(&self, there: bool, width: usize, index: u64) -> Option<Norm> {
        there.then(|| Norm {
            weight: self.tensor(&[width], index, DType::F32),
            bias: None,
            eps: 1e-5,
        })
    }

    /// A norm of the stream.
    fn of_stream(&self, there: bool, width: usize, index: u64) -> Option<Norm> {
        let bias = self.shape.layer.then(|| self.tensor(&[width], index + 50, DType::F32));
        self.norm(there, width, index).map(|norm| Norm { bias, ..norm })
    }

    fn residual(&self, hidden: usize) -> Residual {
        Residual { norm: self.of_stream(self.shape.after, hidden, 10), scale: self.shape.residual }
    }

    fn feed_forward(&self, hidden: usize, inner: usize) -> FeedForward {
        FeedForward {
            norm: self.of_stream(self.shape.before, hidden, 1),
            activation: self.shape.activation,
            residual: self.residual(hidden),
            gate: self.shape.gated.then(|| self.map("gate", inner, hidden, 2)),
            up: self.map("up", inner, hidden, 3),
            down: self.map("down", hidden, inner, 4),
        }
    }

    fn attention(
        &self,
        hidden: usize,
        t: usize,
        (n, k, d): (usize, usize, usize),
    ) -> SelfAttention {
        let each = self.shape.head_norms;
        let head_norm = |width, index| {
            self.norm(each.is_some(), if each == Some(true) { d } else { width }, index)
        };
        let half = if self.shape.partly { (d / 4).max(1) } else { d / 2 };
        let table = |index| self.tensor(&[t, half], index, DType::F32);
        SelfAttention {
            norm: self.of_stream(self.shape.before, hidden, 1),
            head_dim: d,
            q_norm: head_norm(n * d, 11),
            k_norm: head_norm(k * d, 12),
            lengths: None,
            scores: self.shape.scores,
            residual: self.residual(hidden),
            q: self.map("q", n * d, hidden, 2),
            k: self.map("k", k * d, hidden, 3),
            v: self.map("v", k * d, hidden, 4),
            o: self.map("o", hidden, n * d, 5),
            rotation: self.shape.turned.then(|| Rotation { cos: table(6), sin: table(7) }),
        }
    }
}

/// A maker of the fused side and one of its twin.
fn makers(seed: u64, biased: bool, masked: bool, bf16: bool, shape: Shape) -> [Maker; 2] {
    let stored = if bf16 { DType::BF16 } else { DType::F32 };
    let maker = |wide| Maker { seed, biased, masked, stored, wide, shape, seen: Arc::default() };
    [false, true].map(maker)
}

/// Both sides' taps saw the same, each once.
fn same_seen(makers: &[Maker; 2], names: &[&str], tolerance: f64) {
    let [mut found, mut expected] =
        makers.each_ref().map(|m| std::mem::take(&mut *m.seen.0.lock().unwrap()));
    for seen in [&mut found, &mut expected] {
        seen.sort_by_key(|(name, _)| *name);
        assert_eq!(seen.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    }
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.dims(), expected.dims(), "{name}");
            let [found, expected] = [found, expected].map(|t| t.to_dtype(DType::F64).unwrap());
            let most = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            let (error, scale) = (most(&(found - &expected).unwrap()), most(&expected).max(1.0));
            assert!(error <= tolerance * scale, "{name}: off by {error:e} of {scale}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn feed_forward_agrees(
        (b, t, hidden, inner) in (1..4_usize, 1..30_usize, 1..50_usize, 1..90_usize),
        biased: bool,
        masked: bool,
        bf16: bool,
        strided: bool,
        shape in shapes(),
        seed: u64,
    ) {
        let makers = makers(seed, biased, masked, bf16, shape);
        let layers = makers.each_ref().map(|m| m.feed_forward(hidden, inner));
        compare(
            &[Operand::new(&[b, t, hidden], seed).strided(strided)],
            |o| layers[0].forward(&o[0]),
            |o| layers[1].forward(&o[0]),
            seed,
        );
        let seen = [("down", true), ("gate", shape.gated), ("mask", masked), ("up", true)];
        let names: Vec<_> = seen.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        same_seen(&makers, &names, F32);
    }

    #[test]
    fn self_attention_agrees(
        (b, t, hidden) in (1..4_usize, 1..50_usize, 1..40_usize),
        (k, group, half) in (1..4_usize, 1..5_usize, 1..12_usize),
        biased: bool,
        masked: bool,
        bf16: bool,
        strided: bool,
        shape in shapes(),
        seed: u64,
    ) {
        let makers = makers(seed, biased, masked, bf16, shape);
        let layers = makers.each_ref().map(|m| m.attention(hidden, t, (k * group, k, 2 * half)));
        compare(
            &[Operand::new(&[b, t, hidden], seed).strided(strided)],
            |o| layers[0].forward(&o[0]),
            |o| layers[1].forward(&o[0]),
            seed,
        );
        let names = &["k", "mask", "o", "q", "v"][..];
        let plain = &["k", "o", "q", "v"][..];
        same_seen(&makers, if masked { names } else { plain }, F32);
    }
}

/// Makes the weight of the norm a variable.
fn tracked_norm(attention: &mut SelfAttention) -> Var {
    let norm = attention.norm.as_mut().unwrap();
    let variable = Var::from_tensor(&norm.weight).unwrap();
    norm.weight = variable.as_tensor().clone();
    variable
}

/// Packed sequences are what each is alone, forward and backward, whichever path
/// is taken.
#[test]
fn packed_sequences_attend_to_themselves() {
    let lengths = [5, 1, 9, 70];
    let rows = lengths.iter().sum();
    let [maker, _] = makers(3, true, true, false, LLAMA);
    let packed = |tracked: bool| {
        let mut layer = maker.attention(8, rows, (6, 2, 4));
        layer.lengths = Some(lengths.as_slice().into());
        if tracked {
            tracked_norm(&mut layer);
        }
        layer
    };
    let x = numbers(&[1, rows, 8], 1);
    let upstream = numbers(&[1, rows, 8], 2);
    let run = |layer: &SelfAttention, x: &Tensor, upstream: &Tensor| {
        let x = Var::from_tensor(x).unwrap();
        let y = layer.forward(x.as_tensor()).unwrap();
        let grads = (&y * upstream).unwrap().sum_all().unwrap().backward().unwrap();
        [y.detach(), grads.get(&x).unwrap().clone()]
    };
    for layer in [packed(false), packed(true)] {
        let found = run(&layer, &x, &upstream);
        let mut start = 0;
        for length in lengths {
            let part = |t: &Tensor, axis| t.narrow(axis, start, length).unwrap();
            let mut alone = packed(false);
            alone.lengths = None;
            let Rotation { cos, sin } = alone.rotation.take().unwrap();
            alone.rotation = Some(Rotation { cos: part(&cos, 0), sin: part(&sin, 0) });
            let expected = run(&alone, &part(&x, 1), &part(&upstream, 1));
            for (found, expected) in found.iter().zip(&expected) {
                let error = (part(found, 1) - expected).unwrap().abs().unwrap();
                let error = error.max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(error <= F32 as f32 * 4.0, "{length} from {start}: {error:e}");
            }
            start += length;
        }
    }
    let mut unfit = packed(false);
    unfit.lengths = Some([5, 1, 9].as_slice().into());
    assert!(unfit.forward(&x).is_err());
}

/// A tracked weight takes the composed path and gets its gradient.
#[test]
fn tracked_weights_get_gradients() {
    let [maker, _] = makers(1, true, false, false, LLAMA);
    let x = numbers(&[2, 5, 8], 2);
    let plain = maker.feed_forward(8, 12);
    let up = Var::from_tensor(&plain.up.weight).unwrap();
    let mut tracked = plain.clone();
    tracked.up.weight = up.as_tensor().clone();
    let (a, b) = (plain.forward(&x).unwrap(), tracked.forward(&x).unwrap());
    let error = (a - &b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(error <= F32 as f32 * 4.0, "{error:e}");
    assert!(b.sum_all().unwrap().backward().unwrap().get(&up).is_some());

    let mut attention = maker.attention(8, 5, (4, 2, 2));
    let norm = tracked_norm(&mut attention);
    let y = attention.forward(&x).unwrap();
    assert!(y.sum_all().unwrap().backward().unwrap().get(&norm).is_some());
}

#[test]
fn weights_that_do_not_fit_are_errors() {
    let [maker, _] = makers(1, true, false, false, LLAMA);
    let x = numbers(&[2, 5, 8], 2);
    let mut feed_forward = maker.feed_forward(8, 12);
    assert!(feed_forward.forward(&numbers(&[2, 5, 7], 2)).is_err());
    feed_forward.up = maker.map("up", 11, 8, 9);
    assert!(feed_forward.forward(&x).is_err());
    let mut feed_forward = maker.feed_forward(8, 12);
    feed_forward.down.mask = Some(numbers(&[1], 1));
    assert!(feed_forward.forward(&x).is_err());
    let wide = feed_forward.forward(&x.to_dtype(DType::F64).unwrap());
    assert!(wide.is_err(), "composed");
    let fits = maker.attention(8, 5, (4, 2, 2));
    assert!(fits.forward(&x).is_ok());
    for change in [
        |a: &mut SelfAttention| a.head_dim = 3,
        |a: &mut SelfAttention| a.head_dim = 0,
        |a: &mut SelfAttention| a.rotation.as_mut().unwrap().cos = numbers(&[4, 1], 1),
        |a: &mut SelfAttention| a.v.weight = numbers(&[6, 8], 1),
        |a: &mut SelfAttention| a.o.weight = numbers(&[8, 6], 1),
        |a: &mut SelfAttention| a.q.bias = Some(numbers(&[3], 1)),
        |a: &mut SelfAttention| a.norm.as_mut().unwrap().weight = numbers(&[3], 1),
        |a: &mut SelfAttention| {
            a.q_norm = Some(Norm { weight: numbers(&[3], 1), bias: None, eps: 1e-5 })
        },
        |a: &mut SelfAttention| {
            a.residual.norm = Some(Norm { weight: numbers(&[4], 1), bias: None, eps: 1e-5 })
        },
        |a: &mut SelfAttention| a.scores.window = Some(0),
        |a: &mut SelfAttention| a.o.mask = Some(numbers(&[1], 1)),
    ] {
        let mut attention = fits.clone();
        change(&mut attention);
        assert!(attention.forward(&x).is_err());
    }
}

/// The sums of what a mask's tap saw are its gradient, also of factors that are 0.
#[test]
fn masks_have_the_gradients_of_automatic_differentiation() {
    let [fused, wide] = makers(5, true, true, false, GEMMA);
    let (x, upstream) = (numbers(&[3, 7, 8], 1), numbers(&[3, 7, 8], 2));
    let sublayers = |maker: &Maker| (maker.feed_forward(8, 30), maker.attention(8, 7, (6, 2, 4)));
    let sums = |maker: &Maker, width| {
        let seen = std::mem::take(&mut *maker.seen.0.lock().unwrap());
        let (_, seen) = seen.into_iter().find(|(name, _)| *name == "mask").unwrap();
        let mut sums = vec![0.0; width];
        column_dots(&seen[0], &seen[1], &mut sums).unwrap();
        sums
    };
    let back = |y: &Tensor, upstream: &Tensor| {
        (y * upstream).unwrap().sum_all().unwrap().backward().unwrap()
    };
    let (feed_forward, attention) = sublayers(&fused);
    let (mut wide_feed_forward, mut wide_attention) = sublayers(&wide);
    let [wide_x, wide_upstream] = [&x, &upstream].map(|t| t.to_dtype(DType::F64).unwrap());
    let x = Var::from_tensor(&x).unwrap();

    let variable = |mask: &mut Option<Tensor>| {
        let variable = Var::from_tensor(mask.as_ref().unwrap()).unwrap();
        *mask = Some(variable.as_tensor().clone());
        variable
    };
    let of_down = variable(&mut wide_feed_forward.down.mask);
    let of_o = variable(&mut wide_attention.o.mask);
    let run = |y: Tensor, width| {
        back(&y, &upstream);
        sums(&fused, width)
    };
    let found = [
        run(feed_forward.forward(x.as_tensor()).unwrap(), 30),
        run(attention.forward(x.as_tensor()).unwrap(), 24),
    ];
    let expected = [
        (of_down, wide_feed_forward.forward(&wide_x).unwrap()),
        (of_o, wide_attention.forward(&wide_x).unwrap()),
    ];
    for (found, (variable, y)) in found.into_iter().zip(expected) {
        let grads = back(&y, &wide_upstream);
        let expected = grads.get(&variable).unwrap().to_vec1::<f64>().unwrap();
        let scale = expected.iter().fold(1.0, |most: f64, v| most.max(v.abs()));
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= F32 * scale, "{at}: {found} for {expected}");
        }
    }
}

#[test]
fn dots_of_columns_do_not_depend_on_cuts_or_threads() {
    let (a, b) = (numbers(&[50, 300], 1), numbers(&[50, 300], 2));
    let part = |t: &Tensor, from, count| t.narrow(0, from, count).unwrap();
    let run = |threads, cuts: &[usize]| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut sums, mut from) = (vec![0.0; 300], 0);
            for &count in cuts {
                column_dots(&part(&a, from, count), &part(&b, from, count), &mut sums).unwrap();
                from += count;
            }
            sums
        })
    };
    let whole = run(1, &[50]);
    for (threads, cuts) in [(3, &[50][..]), (1, &[1, 20, 0, 29]), (2, &[25, 25])] {
        assert_eq!(run(threads, cuts), whole);
    }
    let products = (&a * &b).unwrap().to_dtype(DType::F64).unwrap().sum(0).unwrap();
    for (found, expected) in whole.iter().zip(products.to_vec1::<f64>().unwrap()) {
        assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
    }
    assert!(column_dots(&a, &part(&b, 0, 49), &mut vec![0.0; 300]).is_err());
    assert!(column_dots(&a, &b, &mut [0.0; 299]).is_err());
}
