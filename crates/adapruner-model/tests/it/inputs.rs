//! What columns read in a forward pass, against what the backward pass shows.

use std::{cell::RefCell, collections::BTreeMap, sync::Mutex};

use adapruner_checkpoint::names::Projection;
use adapruner_model::{
    Decoder, Error, GradientObserver, InputObserver, PassCuts, ProjectionGrad, ProjectionInput,
    Residency, inputs::forward_token_bytes, observe_gradients, observe_inputs,
};
use candle_core::{DType, Result};

use crate::common::{Expected, FIXTURES, bits, decoder, ids, with};

/// Layer, projection, expert where there is one, and sample.
type Place = (usize, Projection, Option<usize>, usize);

/// What every sample's rows held, and the weights, as bits.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<Place, [Vec<u32>; 2]>>);

impl Seen {
    fn keep(&self, seen: &ProjectionInput<'_>) -> Result<()> {
        for (at, sample) in seen.samples.clone().enumerate() {
            let rows = &seen.rows[at];
            let rows = seen.input.narrow(0, rows.start, rows.len())?;
            let weight = bits(&seen.weight.to_dtype(DType::F32)?);
            let key = (seen.layer, seen.projection, seen.expert, sample);
            let before = self.0.lock().unwrap().insert(key, [bits(&rows), weight]);
            assert!(before.is_none(), "{key:?} was shown twice");
        }
        Ok(())
    }
}

impl InputObserver for Seen {
    fn input(&self, input: &ProjectionInput<'_>) -> Result<()> {
        self.keep(input)
    }
}

impl GradientObserver for Seen {
    fn projection(&self, grad: &ProjectionGrad<'_>) -> Result<()> {
        if !grad.projection.prunes_columns() {
            return Ok(());
        }
        let ProjectionGrad { layer, projection, expert, input, weight, rows, .. } = *grad;
        let samples = grad.samples.clone();
        self.keep(&ProjectionInput { layer, projection, expert, input, weight, samples, rows })
    }

    fn block_done(&self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}

fn none(_: usize, _: usize) {}

/// Shows the same, to the bit, as the backward pass, and the same losses.
fn same(decoder: &Decoder, samples: &[Vec<u32>], cuts: &PassCuts, what: &str) {
    let (forward, back) = (Seen::default(), Seen::default());
    let losses = observe_inputs(decoder, samples, cuts, &forward, &none).unwrap();
    let with_gradients = observe_gradients(decoder, samples, cuts, &back, &none).unwrap();
    assert_eq!(losses, with_gradients, "{what}");
    let [forward, back] = [forward, back].map(|seen| seen.0.into_inner().unwrap());
    let layers = decoder.config().layers.iter();
    let experts = decoder.config().expert_count();
    let shown: usize = layers.map(|widths| experts + usize::from(widths.has_attention())).sum();
    assert_eq!(forward.len(), shown * samples.len(), "{what}");
    assert!(forward == back, "{what}");
}

#[test]
fn a_forward_pass_shows_what_the_backward_pass_does() {
    for name in FIXTURES {
        let mut samples = Expected::of(name).samples();
        samples.push(ids(6, 200, 3));
        for dtype in [DType::F32, DType::BF16] {
            for residency in [Residency::Resident, Residency::Streamed] {
                let decoder = with(name, dtype, residency);
                for (batch_tokens, group_tokens) in [(1, 1), (1 << 20, usize::MAX), (1, 1 << 20)] {
                    let cuts = PassCuts { batch_tokens, group_tokens, kept_blocks: 1 };
                    let what = format!("{name}, {dtype:?}, {residency:?}, {cuts:?}");
                    same(&decoder, &samples, &cuts, &what);
                }
            }
        }
    }
}

#[test]
fn each_group_runs_through_each_block_once() {
    let decoder = decoder("gqa3_untied");
    let samples = [ids(5, 200, 1), ids(5, 200, 2), ids(7, 200, 3)];
    let cuts = PassCuts { batch_tokens: 5, group_tokens: 10, kept_blocks: usize::MAX };
    let steps = RefCell::new(Vec::new());
    let progress = |done, all| steps.borrow_mut().push((done, all));
    observe_inputs(&decoder, &samples, &cuts, &Seen::default(), &progress).unwrap();
    assert_eq!(steps.into_inner(), [(1, 4), (2, 4), (3, 4), (4, 4)]);
}

#[test]
fn what_cannot_be_run_or_is_refused_stops_the_pass() {
    struct Refuses;
    impl InputObserver for Refuses {
        fn input(&self, input: &ProjectionInput<'_>) -> Result<()> {
            candle_core::bail!("no more of layer {}", input.layer)
        }
    }
    let decoder = decoder("gqa3_untied");
    let cuts = PassCuts::whole(64);
    let run = |samples: &[Vec<u32>], observer: &dyn InputObserver| {
        observe_inputs(&decoder, samples, &cuts, observer, &none).unwrap_err()
    };
    assert!(run(&[ids(5, 200, 1)], &Refuses).to_string().contains("no more of layer 0"));
    assert!(matches!(run(&[vec![3]], &Seen::default()), Error::Tokens(_)));
    assert!(matches!(run(&[vec![3, 1 << 30]], &Seen::default()), Error::Tokens(_)));
}

/// By hand: queries and keys twice, values and heads, or gate, up and their product.
#[test]
fn activations_are_counted_at_the_widest_point() {
    let config = decoder("gqa3_untied").config().clone();
    let (hidden, heads, kv, width, ffn) = (18, 6, 2, 6, 29);
    let attention = (3 * heads + 3 * kv) * width;
    assert!(attention > 3 * ffn);
    assert_eq!(forward_token_bytes(&config), 4 * (5 * hidden + attention));
}
