//! Sublayers whose rows go block by block, each on one thread: as many bits as all rows
//! at once. A binary of its own, as the precision of products is the process's.

use std::sync::{Arc, Mutex};

use adapruner_kernels::{
    Dropout, Gate, GradTap, LowRank, LowRankGrad, MatmulPrecision, Scores,
    packed::Packed,
    sublayer::{Affine, FeedForward, Norm, Residual, Rotation, SelfAttention},
};
use candle_core::{Device, Result, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows: blocks of them are run on up to six threads, all at once on more.
const ROWS: usize = 300;
const HIDDEN: usize = 192;
const INNER: usize = 257;
const HEADS: usize = 6;

/// Small numbers, from a seed.
fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|_| rng.random::<f32>() * 0.4 - 0.2).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// All that was seen, in order.
#[derive(Default)]
struct Seen(Mutex<Vec<Tensor>>);

impl GradTap for Seen {
    fn observe(&self, input: &Tensor, _: &Tensor, grad_output: &Tensor) -> Result<()> {
        self.0.lock().unwrap().extend([input.detach(), grad_output.detach()]);
        Ok(())
    }

    fn low_rank(&self, LowRankGrad { a, b }: LowRankGrad) -> Result<()> {
        self.0.lock().unwrap().extend([a, b]);
        Ok(())
    }

    fn mask(&self, input: &Tensor, grad: &Tensor) -> Result<()> {
        self.0.lock().unwrap().extend([input.detach(), grad.detach()]);
        Ok(())
    }
}

/// Both sublayers, one after the other; `updated` with low-rank updates, `normed_after` with
/// norms after sublayers and of heads rather than before sublayers.
struct Sublayers {
    seen: Arc<Seen>,
    attention: SelfAttention,
    feed_forward: FeedForward,
}

impl Sublayers {
    fn new(updated: bool, normed_after: bool) -> Self {
        let seen = Arc::new(Seen::default());
        let map = |outputs: usize, inputs: usize, seed: u64| Affine {
            weight: numbers(&[outputs, inputs], seed),
            bias: Some(numbers(&[outputs], seed + 1)),
            packed: Packed::default(),
            adapter: updated.then(|| LowRank {
                a: numbers(&[8, inputs], seed + 2),
                b: numbers(&[outputs, 8], seed + 3),
                scale: 1.7,
                dropout: Some(Dropout { probability: 0.3, seed }),
            }),
            mask: None,
            tap: Some(seen.clone()),
        };
        let masked = |map: Affine, inputs: usize, seed: u64| Affine {
            mask: Some(numbers(&[inputs], seed)),
            ..map
        };
        let head_dim = HIDDEN / HEADS;
        let norm = |width: usize, seed| {
            Some(Norm { weight: numbers(&[width], seed), bias: None, eps: 1e-5 })
        };
        // Once with a norm before each sublayer, once with every other one.
        let (before, others) = (!normed_after, normed_after);
        let residual = |seed| Residual {
            norm: norm(HIDDEN, seed).filter(|_| others),
            scale: if others { 0.5 } else { 1.0 },
        };
        let attention = SelfAttention {
            norm: norm(HIDDEN, 1).filter(|_| before),
            q_norm: norm(head_dim, 11).filter(|_| others),
            k_norm: norm(HIDDEN, 12).filter(|_| others),
            scores: Scores { window: others.then_some(40), ..Scores::default() },
            residual: residual(13),
            head_dim,
            q: map(HIDDEN, HIDDEN, 10),
            k: map(HIDDEN, HIDDEN, 20),
            v: map(HIDDEN, HIDDEN, 30),
            o: masked(map(HIDDEN, HIDDEN, 40), HIDDEN, 7),
            lengths: Some([170, 130].into()),
            rotation: Some(Rotation {
                cos: numbers(&[ROWS, head_dim / 2], 2),
                sin: numbers(&[ROWS, head_dim / 2], 3),
            }),
        };
        let feed_forward = FeedForward {
            norm: norm(HIDDEN, 4).filter(|_| before),
            activation: if others { Gate::GeluTanh } else { Gate::Silu },
            residual: residual(14),
            gate: Some(map(INNER, HIDDEN, 50)),
            up: map(INNER, HIDDEN, 60),
            down: masked(map(HIDDEN, INNER, 70), INNER, 8),
        };
        Self { seen, attention, feed_forward }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.feed_forward.forward(&self.attention.forward(x).unwrap()).unwrap()
    }

    /// Outputs, gradients and what taps saw.
    fn results(&self) -> Vec<Vec<u32>> {
        let x = Var::from_tensor(&numbers(&[1, ROWS, HIDDEN], 5)).unwrap();
        let alone = self.forward(&x.as_tensor().detach());
        let y = self.forward(x.as_tensor());
        let upstream = numbers(&[1, ROWS, HIDDEN], 6);
        let grads = (&y * upstream).unwrap().sum_all().unwrap().backward().unwrap();
        let seen = std::mem::take(&mut *self.seen.0.lock().unwrap());
        let all = [&alone, &y, grads.get(x.as_tensor()).unwrap()];
        assert!(bits(&alone) == bits(&y), "tracked or not");
        all.into_iter().chain(&seen).map(bits).collect()
    }
}

#[test]
fn blocks_of_rows_give_the_bits_of_all_rows_at_once() {
    for (updated, normed_after) in [(false, false), (true, false), (false, true), (true, true)] {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let sublayers = Sublayers::new(updated, normed_after);
            MatmulPrecision::High.during(|| pool.install(|| sublayers.results()))
        };
        let all_at_once = on(7);
        assert_eq!(all_at_once.len(), 3 + 2 * 2 + 7 * if updated { 4 } else { 2 });
        for threads in [1, 2, 3, 6] {
            for (at, (found, expected)) in on(threads).iter().zip(&all_at_once).enumerate() {
                assert!(
                    found == expected,
                    "{threads} threads, {updated}, {normed_after}: result {at}"
                );
            }
        }
    }
}
