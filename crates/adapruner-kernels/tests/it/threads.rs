//! Results do not depend on the number of threads, bit for bit.

use adapruner_kernels::{
    Gate, Head, Scores, attention, gated, linear, linear_cross_entropy, rms_norm, rope,
};
use candle_core::{Device, Result, Tensor, Var};

use crate::twin::numbers;

/// A little of everything, large enough to be cut into parts; returns the
/// bits of the losses and of all gradients.
fn pass(scores: Scores) -> Result<Vec<Vec<u32>>> {
    let (b, t, n, k, d, f, v) = (3, 150, 6, 2, 32, 512, 1100);
    let h = n * d;
    let of = |shape: &[usize], seed| Var::from_tensor(&numbers(shape, seed).affine(0.1, 0.0)?);
    let x = of(&[b, t, h], 1)?;
    let norm = of(&[h], 2)?;
    let weights =
        [(h, h, 3), (k * d, h, 4), (k * d, h, 5), (f, h, 6), (f, h, 7), (h, f, 8), (v, h, 9)];
    let weights = weights.map(|(out, inputs, seed)| of(&[out, inputs], seed).unwrap());
    let [q, key, value, gate, up, down, head] = weights.each_ref().map(|w| w.as_tensor());
    let (cos, sin) = (numbers(&[t, d / 2], 10), numbers(&[t, d / 2], 11));
    let y = rms_norm(x.as_tensor(), norm.as_tensor(), 1e-5)?;
    let heads = |y: Tensor| y.reshape((b, t, (), d));
    let q = rope(&heads(linear(&y, q, None)?)?, &cos, &sin)?;
    let key = rope(&heads(linear(&y, key, None)?)?, &cos, &sin)?;
    let value = heads(linear(&y, value, None)?)?;
    let y = attention(&q, &key, &value, scores)?.reshape((b, t, h))?;
    let y = gated(Gate::Silu, &linear(&y, gate, None)?, &linear(&y, up, None)?)?;
    let y = linear(&y, down, None)?.reshape((b * t, h))?;
    let ids: Vec<u32> = (0..(b * t) as u32).map(|i| i * 7 % v as u32).collect();
    let loss =
        linear_cross_entropy(&y, &Head::from(head), &Tensor::from_vec(ids, b * t, &Device::Cpu)?)?;
    let grads = loss.sum_all()?.backward()?;
    let mut out = vec![loss];
    for variable in [&x, &norm].into_iter().chain(&weights) {
        out.push(grads.get(variable).expect("every variable has a gradient").clone());
    }
    let bits = |t: &Tensor| -> Result<Vec<u32>> {
        Ok(t.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    out.iter().map(bits).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for window in [None, Some(50)] {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| pass(Scores { window, ..Scores::default() }).unwrap())
        };
        let one = on(1);
        for threads in [2, 3, 5] {
            for (at, (found, expected)) in on(threads).iter().zip(&one).enumerate() {
                assert!(found == expected, "tensor {at} differs on {threads} threads, {window:?}");
            }
        }
    }
}
