//! Cuts that fit memory, and what they take.

use adapruner_checkpoint::ModelConfig;
use adapruner_model::{
    PassCuts, Placement, gradient::backward_token_bytes, inputs::forward_token_bytes,
};
use adapruner_prune::{
    Collection, CompensateFootprint, Error, Form, LayerPlan, PrunePlan, Ridge, Terms,
    layout::VectorLayout, streamed_weights,
};
use proptest::prelude::*;

use crate::common::{any_config, config, digest, widths};

/// LLaMA-7B's shape.
fn llama_7b() -> ModelConfig {
    ModelConfig {
        hidden_size: 4096,
        head_dim: 128,
        vocab_size: 32_000,
        tie_word_embeddings: false,
        max_position_embeddings: 2048,
        ..config(vec![widths(32, 32, 11_008); 32])
    }
}

fn of<'a>(config: &'a ModelConfig, lengths: &'a [usize], batch: bool) -> Collection<'a> {
    Collection { config, weights: 0, lengths, terms: Terms::Full, batch, batch_tokens: None }
}

const GB: f64 = 1e9;

/// The figures that the README gives: the pool of a search, 128 samples of 64 tokens.
#[test]
fn a_7b_shape_takes_what_the_readme_says() {
    let (config, lengths) = (llama_7b(), [64; 128]);
    // One block and the head in f32 (0.8 and 0.5 GB), and the pages of a bf16 matrix.
    let weights = streamed_weights(&config, &Placement::cpu(), 2 * 32_000 * 4096);
    assert!((1.59..1.61).contains(&(weights as f64 / GB)), "{weights}");
    let pool = Collection { weights, ..of(&config, &lengths, false) };
    let all = pool.footprint(&PassCuts::whole(2048));
    let vectors = VectorLayout::new(&config.layers, config.head_dim, config.family().feed_forward())
        .unwrap()
        .len() as u64;
    assert_eq!(vectors, 32 * (4 * 4096 + 3 * 11_008));
    let columns = VectorLayout::columns(&config.layers, config.head_dim).unwrap().len() as u64;
    assert_eq!(columns, 32 * (4096 + 11_008));
    assert_eq!(all.bank, 128 * vectors * 12 + 128 * columns * 8 + columns * 8);
    assert_eq!(all.states, 33 * (8192 * 4096 * 4 + 4 * 65_536) + 8 * 8192);
    assert_eq!(all.activations, 2048 * backward_token_bytes(&config));
    assert_eq!(all.elements, 0);
    assert!((4.4..4.5).contains(&(all.states as f64 / GB)), "{all:?}");
    assert!((2.9..3.0).contains(&(all.bank as f64 / GB)), "{all:?}");
    assert!((10.2..10.3).contains(&(all.total() as f64 / GB)), "{all:?}");
    // The least that it fits: one sample at a time, the inputs of one block.
    let least = pool.cut(1).err().unwrap();
    let Error::Memory { samples: 128, footprint, limit: 1 } = &least else { panic!("{least:?}") };
    let one = pool.footprint(&PassCuts { batch_tokens: 64, group_tokens: 64, kept_blocks: 1 });
    assert_eq!(*footprint, one);
    assert!((4.55..4.6).contains(&(footprint.total() as f64 / GB)), "{footprint:?}");
    let text = least.to_string();
    assert!(text.contains(&footprint.total().to_string()) && text.contains("1 may be"), "{text}");
    assert!(least.hint().is_some());
    assert!(pool.cut(footprint.total() - 1).is_err());
    assert_eq!(pool.footprint(&pool.cut(footprint.total()).unwrap()), one);
    // In 6 GB the inputs of all blocks are kept, of some samples at a time.
    let cuts = pool.cut(6_000_000_000).unwrap();
    let groups = cuts.groups(&[64; 128]).len();
    assert!((2..8).contains(&groups) && cuts.kept_blocks == 32, "{cuts:?}");
}

/// Terms of the whole set: fewer kept blocks rather than two numbers for every weight.
#[test]
fn terms_of_the_whole_set_keep_the_inputs_of_fewer_blocks() {
    let (config, lengths) = (llama_7b(), [64; 128]);
    let whole = of(&config, &lengths, true);
    let all = whole.footprint(&PassCuts::whole(2048));
    let block = 4 * 4096 * 4096 + 3 * 11_008 * 4096 + 2 * 4096_u64;
    assert_eq!(all.elements, 8 * block);
    let grouped = whole.footprint(&PassCuts { group_tokens: 64, ..PassCuts::whole(64) });
    assert_eq!(grouped.elements, 32 * 8 * block);
    let one = whole.footprint(&PassCuts::whole(usize::MAX));
    assert_eq!(one.elements, 0, "all samples run together");
    let cuts = whole.cut(7_000_000_000).unwrap();
    assert!((1..32).contains(&cuts.kept_blocks) && cuts.group_tokens == usize::MAX, "{cuts:?}");
}

/// A forward pass holds one block state and no gradient: by hand, of 128 samples of 128
/// tokens.
#[test]
fn a_forward_pass_holds_one_block_state() {
    let (config, lengths) = (llama_7b(), [128; 128]);
    let forward = Collection { terms: Terms::Activations, ..of(&config, &lengths, false) };
    let all = forward.footprint(&PassCuts::whole(2048));
    let columns = 32 * (4096 + 11_008);
    assert_eq!(all.bank, 8 * columns * 128 + 8 * columns);
    assert_eq!(all.states, 16_384 * 4096 * 4 + 8 * 65_536 + 8 * 16_384);
    assert_eq!(all.activations, 2048 * 4 * (5 * 4096 + 3 * 11_008));
    assert_eq!((all.activations, all.elements), (2048 * forward_token_bytes(&config), 0));
    // How many blocks are kept makes no difference.
    let one = forward.footprint(&PassCuts { kept_blocks: 1, ..PassCuts::whole(2048) });
    assert_eq!(one, all);
    assert_eq!(forward.cut(u64::MAX).unwrap().groups(&[2048; 8]).len(), 1);
    // In less, several groups, and never more than there is.
    let less = forward.cut(all.total() - (1 << 27)).unwrap();
    assert!(forward.footprint(&less).total() <= all.total() - (1 << 27), "{less:?}");
    let full = of(&config, &lengths, false).footprint(&PassCuts::whole(2048));
    assert!(4 * all.total() < full.total(), "{all:?} {full:?}");
}

/// One sample that does not fit with the inputs of all blocks keeps those of fewer.
#[test]
fn a_long_sample_keeps_the_inputs_of_fewer_blocks() {
    let (config, lengths) = (llama_7b(), [2048]);
    let one = of(&config, &lengths, false);
    let all = one.footprint(&PassCuts::whole(2048)).total();
    let cuts = one.cut(all - 1).unwrap();
    assert_eq!(cuts.kept_blocks, 31, "{cuts:?}");
    let least = PassCuts { kept_blocks: 1, ..PassCuts::whole(2048) };
    let least = one.footprint(&least).total();
    assert_eq!(one.cut(least).unwrap().kept_blocks, 1);
    assert!(matches!(one.cut(least - 1), Err(Error::Memory { .. })));
}

#[test]
fn micro_batches_that_were_asked_for_are_kept() {
    let (config, lengths) = (llama_7b(), [64; 32]);
    let asked = Collection { batch_tokens: Some(256), ..of(&config, &lengths, false) };
    assert_eq!(asked.cut(u64::MAX).unwrap().batch_tokens, 256);
    let least = PassCuts { batch_tokens: 256, group_tokens: 1, kept_blocks: 1 };
    let least = asked.footprint(&least).total();
    assert_eq!(asked.cut(least).unwrap().batch_tokens, 256);
    assert!(asked.cut(least - 1).is_err());
}

proptest! {
    /// What is chosen never takes more than there is by the formula, what is refused does in
    /// its cheapest form, and a group ends only where its next micro-batch does not fit.
    #[test]
    fn the_chosen_cut_fits(
        config in any_config(),
        lengths in proptest::collection::vec(1_usize..40, 1..30),
        equal in any::<bool>(),
        terms in prop_oneof![Just(Terms::Activations), Just(Terms::Coarse), Just(Terms::Full)],
        batch in any::<bool>(),
        given in proptest::option::of(1_usize..200),
        share in 0.0_f64..1.2,
        weights in 0_u64..100_000,
    ) {
        let lengths = if equal { vec![lengths[0]; lengths.len()] } else { lengths };
        let collection = Collection {
            config: &config,
            weights,
            lengths: &lengths,
            terms,
            batch: batch && terms == Terms::Full,
            batch_tokens: given,
        };
        let layers = config.layers.len();
        let micro = given.unwrap_or(1);
        let least = [(1, 1), (usize::MAX, 1)].map(|(group_tokens, kept_blocks)| {
            collection.footprint(&PassCuts { batch_tokens: micro, group_tokens, kept_blocks }).total()
        });
        let least = least[0].min(least[1]);
        let most = collection.footprint(&PassCuts::whole(given.unwrap_or(2048))).total();
        let memory = (most as f64 * share) as u64;
        match collection.cut(memory) {
            Ok(cuts) => {
                let found = collection.footprint(&cuts);
                prop_assert!(found.total() <= memory, "{:?}: {:?} in {}", cuts, found, memory);
                prop_assert!(given.is_none_or(|given| cuts.batch_tokens == given));
                let batches: Vec<usize> = cuts
                    .micro_batches(&lengths)
                    .into_iter()
                    .map(|range| range.map(|at| lengths[at]).sum())
                    .collect();
                let groups = cuts.groups(&batches);
                if groups.len() > 1 {
                    // One token more than a group may have takes more than there is, with
                    // the slice of the smallest micro-batch.
                    let kept = match terms {
                        Terms::Activations => 1,
                        Terms::Coarse | Terms::Full => cuts.kept_blocks.min(layers) as u64 + 1,
                    };
                    let least = *batches.iter().min().unwrap() as u64;
                    let of_token = kept * 4 * config.hidden_size as u64
                        + (kept * 65_536).div_ceil(least);
                    let ids = 8 * lengths.iter().sum::<usize>() as u64;
                    let beside = found.total() - found.states + ids;
                    prop_assert!(beside + (cuts.group_tokens as u64 + 1) * of_token > memory);
                }
            }
            Err(Error::Memory { footprint, limit, .. }) => {
                prop_assert_eq!(limit, memory);
                prop_assert!(footprint.total() > memory);
                prop_assert!(least > memory, "{} would fit {}", least, memory);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

/// A fit of LLaMA-7B's feed-forward channels at three quarters of the width: the figures by
/// hand.
#[test]
fn a_compensation_counts_its_streams_sums_and_fits() {
    let dense = llama_7b();
    let cut = LayerPlan { ffn: (0..8256).collect(), ..LayerPlan::whole(&dense.layers[0]) };
    let plan = PrunePlan::keeping(&dense, digest(), vec![cut; 32]);
    let of = |form| CompensateFootprint::new((&dense, &plan), 16_384, form, &Placement::cpu(), 0);
    let fit = of(Form::Weight { ridge: Ridge::HeldOut });
    assert_eq!(fit.streams, 4 * 16_384 * (3 * 4096 + 8256));
    assert_eq!(fit.sums, 28 * 8256 * 8256 + 44 * 8256 * 4096);
    assert_eq!(fit.fitted, 4 * 32 * 8256 * 4096);
    assert_eq!(fit.weights, 2 * streamed_weights(&dense, &Placement::cpu(), 0));
    assert_eq!(fit.total(), fit.streams + fit.sums + fit.fitted + fit.weights);
    assert!(fit.to_string().contains(&fit.fitted.to_string()));
    let bias = of(Form::Bias);
    assert_eq!((bias.fitted, bias.streams), (4 * 32 * 4096, fit.streams));
    // Nothing is fitted where nothing went.
    let layers = dense.layers.iter().map(LayerPlan::whole).collect();
    let whole = PrunePlan::keeping(&dense, digest(), layers);
    let whole =
        CompensateFootprint::new((&dense, &whole), 16_384, Form::Bias, &Placement::cpu(), 0);
    assert_eq!((whole.fitted, whole.streams), (0, 4 * 16_384 * 3 * 4096));
}
