//! Masks that are learned: gradients, sliced models, plans, states.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use adapruner_checkpoint::{Checkpoint, Digest, ModelConfig, names::Projection};
use adapruner_model::{
    Decoder, Masks, PassCuts, Placement, Residency,
    generate::{Sampling, generate},
    train::{Batch, MaskGradients, PassOptions, Term, mask_gradients},
};
use adapruner_prune::{
    CollectOptions, Error, LayerPlan, PrunePlan, Result, Scores, Terms, apply, bank, collect,
    masks::{
        GatedUnit, LearnedMasks, MaskBudget, MaskEnd, MaskLearning, MaskLoss, MaskOptions,
        MaskRecord, MaskState, MaskStep, MaskWatch, MaskWork, mean_loss,
    },
    scores::LayerScores,
};
use candle_core::{DType, Device, Tensor};

use crate::common::{
    MemorySource, config, digest, random_checkpoint, random_ids, random_scores, widths,
};

fn decoder(checkpoint: &Checkpoint) -> Decoder {
    Decoder::load(checkpoint, &Placement::cpu(), Residency::Resident).unwrap()
}

/// For a mask of ones, `∂L/∂m_j = Σ_i w_ij · g_ij`: what the bank has as signed sums of the
/// columns of the last matrices.
#[test]
fn gradients_of_whole_masks_are_the_banks_signed_sums() {
    let config = ModelConfig {
        attention_bias: true.into(),
        mlp_bias: true,
        ..config(vec![widths(6, 2, 13), widths(0, 0, 9), widths(3, 3, 40)])
    };
    let dense = decoder(&random_checkpoint(&config, 1));
    let samples = random_ids(&config, 5, 8, 1);
    let options = CollectOptions {
        terms: Terms::Full,
        batch: false,
        cuts: PassCuts::whole(16),
        model_digest: digest(),
        calibration_digest: Digest::of_bytes(b"a text"),
        seed: 1,
    };
    let bank = collect(&dense, &samples, &options, &|_, _| {}).unwrap();
    let mut masks = Masks::new();
    for (layer, widths) in config.layers.iter().enumerate() {
        let ones = |width: usize| Tensor::ones(width, DType::F32, &Device::Cpu).unwrap();
        masks.insert((layer, Projection::Down), ones(widths.ffn));
        if widths.has_attention() {
            masks.insert((layer, Projection::O), ones(widths.query_heads * config.head_dim));
        }
    }
    let masked = dense.with_masks(&masks).unwrap();
    let terms = vec![Term::cross_entropy(&samples, |_, _| 1.0 / 7.0)];
    let batch = Batch { sequences: &samples, terms, hidden: None };
    let mut found = MaskGradients::new();
    let pass = PassOptions { checkpointing: false };
    mask_gradients(&masked, &batch, &pass, &mut found).unwrap();
    assert_eq!(found.len(), 5);
    for ((layer, projection), found) in found {
        let mut expected = vec![0.0; found.len()];
        let mut scale = 0.0_f64;
        for sample in 0..samples.len() {
            let of = |term| bank.sample(term, sample, layer, projection).unwrap();
            let pairs = expected.iter_mut().zip(of(bank::Term::Signed));
            pairs.for_each(|(sum, &value)| *sum += f64::from(value));
            let absolute = of(bank::Term::Element).iter();
            scale = absolute.fold(scale, |most, &value| most.max(value.into()));
        }
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Sums of f32 products in another order.
            let error = (found - expected).abs();
            assert!(
                error < 1e-5 * scale,
                "layer {layer}, {projection} {at}: {found} for {expected}"
            );
        }
    }
}

/// A model half of whose channels give nothing, samples drawn from it, and a plan that
/// keeps half of those that give something and as many of the others.
struct Wasteful {
    dense: Checkpoint,
    plan: PrunePlan,
    scores: Scores,
    train: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

const LAYERS: usize = 3;
/// Channels of a layer, of which the first half give something.
const CHANNELS: usize = 16;
const KEPT: usize = CHANNELS / 2;

fn with_tensors(checkpoint: &Checkpoint, change: impl Fn(&str, Tensor) -> Tensor) -> Checkpoint {
    let names = checkpoint.tensors.names().into_iter();
    let tensors: BTreeMap<String, Tensor> = names
        .map(|name| {
            let tensor = checkpoint.tensors.load(&name, DType::F32, &Device::Cpu).unwrap();
            let changed = change(&name, tensor);
            (name, changed)
        })
        .collect();
    Checkpoint { tensors: Arc::new(MemorySource(tensors)), ..checkpoint.clone() }
}

fn wasteful() -> Wasteful {
    let config = config(vec![widths(4, 2, CHANNELS); LAYERS]);
    let gives = (0..CHANNELS).map(|at| if at < KEPT { 2.0_f32 } else { 0.0 });
    let gives = Tensor::from_iter(gives, &Device::Cpu).unwrap();
    let dense = with_tensors(&random_checkpoint(&config, 7), |name, tensor| {
        if name.contains("down_proj") { tensor.broadcast_mul(&gives).unwrap() } else { tensor }
    });
    let kept: Vec<usize> = (KEPT / 2..KEPT + KEPT / 2).collect();
    let layer = |widths| LayerPlan { ffn: kept.clone(), ..LayerPlan::whole(widths) };
    let plan = PrunePlan::keeping(&config, digest(), config.layers.iter().map(layer).collect());
    let score = |at: usize| if kept.contains(&at) { 2.0 } else { 1.0 } + 0.01 * at as f64;
    let scores = config.layers.iter().map(|widths| LayerScores {
        kv_groups: vec![1.0; widths.kv_heads],
        query_heads: vec![1.0; widths.query_heads],
        ffn: (0..CHANNELS).map(score).collect(),
    });
    let scores = Scores { layers: scores.collect() };
    let prompts: Vec<Vec<u32>> = (0..72).map(|at| vec![at as u32 % 50]).collect();
    let sampling = Sampling {
        temperature: 0.7,
        top_k: None,
        top_p: None,
        seed: 3,
        first_stream: 0,
        banned: Vec::new(),
    };
    let mut train = generate(&decoder(&dense), &prompts, 24, &sampling, &|_, _| {}).unwrap();
    let held_out = train.split_off(48);
    Wasteful { dense, plan, scores, train, held_out }
}

fn options() -> MaskOptions {
    MaskOptions {
        steps: 40,
        units: [GatedUnit::Ffn].into(),
        budget: MaskBudget::PerLayer,
        loss: MaskLoss::Text,
        batch: 12,
        rate: 0.1,
        rate_end: 0.01,
        spread: 0.5,
        measure_every: 5,
        patience: None,
        seed: 1,
    }
}

impl Wasteful {
    fn learning<'a>(&'a self, dense: &'a Decoder, options: &'a MaskOptions) -> MaskLearning<'a> {
        MaskLearning {
            dense,
            plan: &self.plan,
            scores: &self.scores,
            train: &self.train,
            held_out: &self.held_out,
            options,
            checkpointing: false,
            micro_tokens: 1 << 20,
            record: MaskRecord::from([("model".into(), "wasteful".into())]),
        }
    }

    fn learn(&self, options: &MaskOptions) -> LearnedMasks {
        let dense = decoder(&self.dense);
        let never = AtomicBool::new(false);
        self.learning(&dense, options).run(None, &never, &mut ()).unwrap()
    }

    /// Loss of a plan's sliced model on the held-out samples.
    fn sliced(&self, plan: &PrunePlan) -> f64 {
        let sliced = decoder(&apply(&self.dense, plan).unwrap());
        mean_loss(&sliced, &self.held_out, 100, &mut |_, _| {}).unwrap()
    }

    /// Channels that a plan keeps and that give something.
    fn giving(plan: &PrunePlan) -> usize {
        plan.layers.iter().flat_map(|kept| &kept.ffn).filter(|&&at| at < KEPT).count()
    }
}

#[test]
fn channels_that_matter_are_found_by_every_loss_and_budget() {
    let model = wasteful();
    let before = Wasteful::giving(&model.plan);
    assert_eq!(before, LAYERS * KEPT / 2);
    let dense = mean_loss(&decoder(&model.dense), &model.held_out, 100, &mut |_, _| {}).unwrap();
    for loss in [MaskLoss::Text, MaskLoss::Logits, MaskLoss::Hidden] {
        for budget in [MaskBudget::PerLayer, MaskBudget::Free] {
            let LearnedMasks { plan, outcome } =
                model.learn(&MaskOptions { loss, budget, ..options() });
            assert_eq!((&outcome.ended, outcome.steps), (&MaskEnd::Finished, 40));
            assert_eq!(plan.parameters_after, model.plan.parameters_after);
            let giving = Wasteful::giving(&plan);
            // Text is the noisiest of the three.
            let least = match loss {
                MaskLoss::Text => LAYERS * KEPT * 5 / 6,
                MaskLoss::Logits | MaskLoss::Hidden => LAYERS * KEPT * 7 / 8,
            };
            assert!(giving >= least, "{loss}, {budget}: {giving} of {}", LAYERS * KEPT);
            let (was, is) = (outcome.held_out_before, outcome.held_out_after);
            assert!(
                is - dense < 0.35 * (was - dense),
                "{loss}, {budget}: {was} {is}, dense {dense}"
            );
            // What was measured by masks is what the sliced models give.
            for (loss, of) in [(was, &model.plan), (is, &plan)] {
                assert!((model.sliced(of) / loss - 1.0).abs() < 1e-5);
            }
            assert!(outcome.exchanged >= giving - before);
            assert_eq!(outcome.measured.len(), 1 + 40 / 5);
            let best = outcome.measured.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
            assert_eq!((best.step, best.loss), (outcome.kept_step, is));
        }
    }
}

/// Held-out text that the training samples say nothing about: the plan is one of the
/// choices.
#[test]
fn nothing_worse_than_the_plan_is_kept() {
    let model = wasteful();
    let held_out = random_ids(&model.dense.config, 8, 24, 99);
    let dense = decoder(&model.dense);
    let never = AtomicBool::new(false);
    for (seed, patience) in [(1, None), (2, None), (3, Some(2))] {
        let options = MaskOptions { seed, patience, spread: 0.05, measure_every: 2, ..options() };
        let learning = MaskLearning { held_out: &held_out, ..model.learning(&dense, &options) };
        let LearnedMasks { plan, outcome } = learning.run(None, &never, &mut ()).unwrap();
        assert!(outcome.held_out_after <= outcome.held_out_before);
        if outcome.kept_step == 0 {
            assert_eq!(plan, model.plan);
            assert_eq!(outcome.exchanged, 0);
        }
        if let Some(patience) = patience {
            let after = outcome.measured.iter().filter(|m| m.step > outcome.kept_step).count();
            assert_eq!((&outcome.ended, after as u64), (&MaskEnd::EarlyStopped, patience));
        }
    }
}

/// To the bit, where our own kernels make the products.
#[test]
fn threads_parts_and_recomputing_change_nothing() {
    let model = wasteful();
    let dense = decoder(&model.dense);
    let streamed = Decoder::load(&model.dense, &Placement::cpu(), Residency::Streamed).unwrap();
    let never = AtomicBool::new(false);
    for loss in [MaskLoss::Text, MaskLoss::Logits, MaskLoss::Hidden] {
        let options = MaskOptions { loss, steps: 12, ..options() };
        let right = model.learn(&options);
        let run = |learning: MaskLearning<'_>, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| learning.run(None, &never, &mut ()).unwrap())
        };
        let learning = || model.learning(&dense, &options);
        assert_eq!(run(learning(), 1), right, "{loss}");
        assert_eq!(run(learning(), 3), right, "{loss}");
        assert_eq!(run(MaskLearning { checkpointing: true, ..learning() }, 2), right, "{loss}");
        let streamed = MaskLearning { dense: &streamed, checkpointing: true, ..learning() };
        assert_eq!(run(streamed, 2), right, "{loss}");
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let parts = run(MaskLearning { micro_tokens: 60, ..learning() }, 2);
            assert_eq!(parts.plan, right.plan, "{loss}");
            assert_eq!(parts.outcome.measured, right.outcome.measured, "{loss}");
        }
    }
}

/// Keeps states, and tells to stop or fails at a step.
#[derive(Default)]
struct Keeping<'a> {
    states: Vec<MaskState>,
    steps: Vec<MaskStep>,
    stop_at: Option<(u64, &'a AtomicBool)>,
    full_at: Option<usize>,
}

impl MaskWatch for Keeping<'_> {
    fn step(&mut self, step: &MaskStep, _: u64) {
        self.steps.push(*step);
        if let Some((at, stop)) = self.stop_at
            && step.step == at
        {
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn save(&mut self, state: &dyn Fn() -> MaskState) -> Result<()> {
        if self.full_at == Some(self.states.len()) {
            return Err(Error::MaskState("the disk is full".into()));
        }
        self.states.push(state());
        Ok(())
    }
}

#[test]
fn a_learning_that_was_killed_or_stopped_makes_the_same_steps() {
    let model = wasteful();
    let dense = decoder(&model.dense);
    let options = MaskOptions { steps: 17, measure_every: 4, ..options() };
    let never = AtomicBool::new(false);
    let run = |earlier: Option<&MaskState>, stop: &AtomicBool, watch: &mut Keeping<'_>| {
        // On the way through its bytes.
        let earlier = earlier.map(|state| state.to_bytes().unwrap());
        let earlier = earlier.map(|bytes| MaskState::from_bytes(&bytes).unwrap());
        model.learning(&dense, &options).run(earlier, stop, watch)
    };
    let mut undisturbed = Keeping::default();
    let right = run(None, &never, &mut undisturbed).unwrap();
    assert!(right.outcome.kept_step > 0, "nothing to lose: {:?}", right.outcome);
    // Killed: it goes on from any of the states.
    assert_eq!(undisturbed.states.len(), 5);
    for (at, state) in undisturbed.states.iter().enumerate() {
        let mut again = Keeping::default();
        assert_eq!(run(Some(state), &never, &mut again).unwrap(), right, "state {at}");
        let first = again.steps.first().map_or(18, |step| step.step);
        assert_eq!(again.steps, undisturbed.steps[first as usize - 1..]);
    }
    // Stopped between two measurements.
    let stop = AtomicBool::new(false);
    let mut stopped = Keeping { stop_at: Some((6, &stop)), ..Keeping::default() };
    let outcome = run(None, &stop, &mut stopped).unwrap().outcome;
    assert_eq!((outcome.ended, outcome.steps), (MaskEnd::Interrupted, 6));
    let last = stopped.states.pop().unwrap();
    assert_eq!(run(Some(&last), &never, &mut Keeping::default()).unwrap(), right);
    // A state that cannot be kept ends the learning.
    let mut full = Keeping { full_at: Some(1), ..Keeping::default() };
    assert!(run(None, &never, &mut full).unwrap_err().to_string().contains("full"));
}

#[test]
fn states_that_are_damaged_or_of_another_learning_are_refused() {
    let model = wasteful();
    let dense = decoder(&model.dense);
    let options = MaskOptions { steps: 4, measure_every: 4, ..options() };
    let never = AtomicBool::new(false);
    let mut keeping = Keeping::default();
    model.learning(&dense, &options).run(None, &never, &mut keeping).unwrap();
    let state = keeping.states.pop().unwrap().to_bytes().unwrap();
    let refused = |learning: MaskLearning<'_>, state: &[u8]| {
        let learned = MaskState::from_bytes(state)
            .and_then(|state| learning.run(Some(state), &never, &mut ()));
        learned.unwrap_err().to_string()
    };
    for bit in (0..state.len() * 8).step_by(811) {
        let mut flipped = state.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = refused(model.learning(&dense, &options), &flipped);
        assert!(error.starts_with("state of learned masks: "), "bit {bit}: {error}");
    }
    for cut in [0, 7, 100, state.len() / 2, state.len() - 1] {
        refused(model.learning(&dense, &options), &state[..cut]);
    }
    let other = |change: &dyn Fn(&mut MaskOptions)| {
        let mut options = options.clone();
        change(&mut options);
        refused(model.learning(&dense, &options), &state)
    };
    for (error, what) in [
        (other(&|o| o.rate = 0.2), "another mask-rate: 0.2 expected, 0.1 found"),
        (other(&|o| o.steps = 5), "another learn-masks"),
        (other(&|o| o.seed = 2), "another seed"),
        (other(&|o| o.spread = 2.0), "another first scores"),
        (other(&|o| o.loss = MaskLoss::Hidden), "another mask-loss"),
    ] {
        assert!(error.contains(what), "{error}");
    }
    let record = MaskRecord::from([("model".into(), "another".into())]);
    let error = refused(MaskLearning { record, ..model.learning(&dense, &options) }, &state);
    assert!(error.contains("another model: another expected, wasteful found"), "{error}");
}

/// A token that makes a kept channel overflow ends the learning when it comes; the best
/// mask that was measured stays.
#[test]
fn a_loss_that_is_not_finite_keeps_the_last_good_mask() {
    const POISON: u32 = 49;
    let mut model = wasteful();
    // Channel 4 of a first layer without attention: silu(x)·x of something beyond f32.
    let config = ModelConfig {
        layers: [vec![widths(0, 0, CHANNELS)], vec![widths(4, 2, CHANNELS); 2]].concat(),
        ..model.dense.config.clone()
    };
    let dense = Checkpoint { config: config.clone(), ..model.dense.clone() };
    model.dense = with_tensors(&dense, |name, tensor| {
        let (rows, columns) = tensor.dims2().unwrap_or((1, 1));
        let at = |row: usize, column: usize, value: f32| {
            let mut values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[row * columns + column] = value;
            Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
        };
        match name {
            "model.embed_tokens.weight" => {
                let mut values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (row, values) in values.chunks_mut(columns).enumerate() {
                    values[0] = if row == POISON as usize { 5.0 } else { 0.0 };
                }
                Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
            }
            "model.layers.0.mlp.gate_proj.weight" | "model.layers.0.mlp.up_proj.weight" => {
                at(4, 0, 1e25)
            }
            _ => tensor,
        }
    });
    let whole = |widths| LayerPlan { ffn: (4..12).collect(), ..LayerPlan::whole(widths) };
    model.plan = PrunePlan::keeping(&config, digest(), config.layers.iter().map(whole).collect());
    model.scores.layers[0].kv_groups.clear();
    model.scores.layers[0].query_heads.clear();
    let clean = |sample: &mut Vec<u32>| sample.iter_mut().for_each(|id| *id %= POISON);
    model.train.iter_mut().for_each(clean);
    model.held_out.iter_mut().for_each(clean);
    let options = MaskOptions { steps: 8, measure_every: 1, ..options() };
    let right = model.learn(&options);
    assert_eq!(right.outcome.ended, MaskEnd::Finished);
    // One sample of the four steps of an epoch.
    model.train[17][3] = POISON;
    let LearnedMasks { plan, outcome } = model.learn(&options);
    let MaskEnd::Diverged { in_step: step, message } = &outcome.ended else {
        panic!("{outcome:?}")
    };
    assert!((1..=4).contains(step) && outcome.steps == step - 1, "{outcome:?}");
    assert!(message.contains("the loss is NaN"), "{message}");
    let before = &right.outcome.measured[..*step as usize];
    assert_eq!(outcome.measured, before);
    let best = before.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
    assert_eq!((outcome.kept_step, outcome.held_out_after), (best.step, best.loss));
    plan.validate(&config).unwrap();
    // A plan whose own loss is not finite cannot be begun with.
    model.held_out[0][0] = POISON;
    let decoder = decoder(&model.dense);
    let never = AtomicBool::new(false);
    assert!(model.learning(&decoder, &options).run(None, &never, &mut ()).is_err());
}

/// Key-value groups and sublayers, within their own numbers.
#[test]
fn groups_and_sublayers_are_learned_too() {
    let config = config(vec![widths(6, 3, 12); 4]);
    // The groups 1 and 2 of layer 1, and the attention of layer 2, give nothing.
    let dense = with_tensors(&random_checkpoint(&config, 11), |name, tensor| {
        let factor = |column: usize| match name {
            "model.layers.1.self_attn.o_proj.weight" if column < 8 => 3.0_f32,
            "model.layers.1.self_attn.o_proj.weight" | "model.layers.2.self_attn.o_proj.weight" => {
                0.0
            }
            "model.layers.3.self_attn.o_proj.weight" => 2.0,
            _ => 1.0,
        };
        if tensor.rank() < 2 {
            return tensor;
        }
        let factors = (0..tensor.dim(1).unwrap()).map(factor);
        tensor.broadcast_mul(&Tensor::from_iter(factors, &Device::Cpu).unwrap()).unwrap()
    });
    let mut layers: Vec<LayerPlan> = config.layers.iter().map(LayerPlan::whole).collect();
    layers[1] = LayerPlan { kv_heads: vec![1], query_heads: vec![2, 3], ..layers[1].clone() };
    layers[2].ffn = (0..10).collect();
    layers[3] = LayerPlan { kv_heads: vec![], query_heads: vec![], ..layers[3].clone() };
    let plan = PrunePlan::keeping(&config, digest(), layers);
    let train = random_ids(&config, 24, 16, 1);
    let held_out = random_ids(&config, 8, 16, 2);
    let decoder = decoder(&dense);
    let options = MaskOptions {
        units: [GatedUnit::KvGroups, GatedUnit::Sublayers].into(),
        loss: MaskLoss::Hidden,
        ..options()
    };
    let learning = MaskLearning {
        dense: &decoder,
        plan: &plan,
        scores: &random_scores(&config, 1),
        train: &train,
        held_out: &held_out,
        options: &options,
        checkpointing: false,
        micro_tokens: 100,
        record: MaskRecord::new(),
    };
    let never = AtomicBool::new(false);
    let mut keeping = Keeping::default();
    let found = learning.run(None, &never, &mut keeping).unwrap();
    assert_eq!(found.plan.parameters_after, plan.parameters_after);
    // Held-out text of random ids says little; what was learned in the end does.
    assert_eq!(keeping.steps.last().unwrap().exchanged, 2, "{:?}", keeping.steps);
    if found.outcome.kept_step > 0 && found.outcome.exchanged == 2 {
        assert_eq!(found.plan.layers[1].kv_heads, [0]);
        assert_eq!(found.plan.layers[1].query_heads, [0, 1]);
        assert!(found.plan.layers[2].kv_heads.is_empty());
        assert_eq!(found.plan.layers[3].kv_heads, [0, 1, 2]);
    }
}

#[test]
fn passes_fit_the_memory_or_are_refused() {
    let config = config(vec![widths(4, 2, 300); 8]);
    let placement = Placement::cpu();
    let work = MaskWork {
        config: &config,
        placement: &placement,
        stored: 1000,
        first_layer: 2,
        train_tokens: 64 * 32,
        longest: 32,
        step_tokens: 8 * 32,
        loss: MaskLoss::Text,
    };
    let whole = work.pass(u64::MAX).unwrap();
    assert_eq!(
        (whole.residency, whole.checkpointing, whole.micro_tokens),
        (Residency::Resident, false, 256)
    );
    let mut memory = work.footprint(&whole).total();
    let mut seen = vec![whole];
    // Just too little for each leads to the next, until there is none.
    let refused = loop {
        match work.pass(memory - 1) {
            Ok(pass) => {
                let total = work.footprint(&pass).total();
                assert!(total < memory, "{pass:?}");
                memory = total;
                seen.push(pass);
            }
            Err(error) => break error,
        }
    };
    assert!(seen.iter().any(|pass| pass.checkpointing && pass.residency == Residency::Resident));
    let last = seen.last().unwrap();
    assert_eq!((last.residency, last.micro_tokens), (Residency::Streamed, 32));
    let Error::MaskMemory { footprint, limit } = &refused else { panic!("{refused}") };
    assert_eq!((footprint.total(), *limit), (memory, memory - 1));
    assert!(refused.to_string().contains("needs at least") && refused.hint().is_some());

    let of = |loss| work_of(&work, loss).footprint(&whole);
    assert_eq!(of(MaskLoss::Logits).answers, 8 * 50 * 64 * 32);
    assert!(of(MaskLoss::Hidden).states > of(MaskLoss::Text).states);
}

fn work_of<'a>(work: &MaskWork<'a>, loss: MaskLoss) -> MaskWork<'a> {
    MaskWork { loss, ..*work }
}
