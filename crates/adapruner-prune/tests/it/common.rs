//! Small models, banks and scores.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use adapruner_checkpoint::{
    Architecture, Checkpoint, Digest, Experts, LayerWidths, ModelConfig, TensorMeta, TensorSource,
    arch::family::{HeadNorm, KvHeadRule},
    names,
    tokenizer::TextTokenizer,
};
use adapruner_kernels::packed::Arithmetic;
use adapruner_prune::{
    Error, PlanOptions, PrunePlan, Scores, StatsBank, Terms,
    bank::{BANK_VERSION, BankArrays, BankHeader},
    layout::VectorLayout,
    plan,
    scores::LayerScores,
};
use candle_core::{DType, Device, Tensor};
use proptest::{prelude::*, test_runner::TestRunner};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn widths(query_heads: usize, kv_heads: usize, ffn: usize) -> LayerWidths {
    LayerWidths { query_heads, kv_heads, ffn }
}

/// A small Llama without biases, its head tied.
pub fn config(layers: Vec<LayerWidths>) -> ModelConfig {
    ModelConfig {
        norm_eps: 1e-5,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        ..ModelConfig::new(Architecture::Llama, 24, 4, 50, layers)
    }
}

pub fn digest() -> Digest {
    Digest::of_bytes(b"a model")
}

/// Positive scores, drawn from a seed.
pub fn random_scores(config: &ModelConfig, seed: u64) -> Scores {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |n: usize| (0..n).map(|_| rng.random_range(0.01..1.0)).collect::<Vec<f64>>();
    let layers = config.layers.iter().map(|w| LayerScores {
        kv_groups: draw(w.kv_heads),
        query_heads: draw(w.query_heads),
        ffn: draw(w.ffn),
    });
    Scores { layers: layers.collect() }
}

/// A bank of random numbers.
pub fn random_bank(config: &ModelConfig, samples: usize, seed: u64) -> StatsBank {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let vectors =
        VectorLayout::new(&config.layers, config.head_dim, config.family().feed_forward())
            .unwrap()
            .len();
    let columns = VectorLayout::columns(&config.layers, config.head_dim).unwrap().len();
    let mut draw =
        |n: usize, from: f32| -> Vec<f32> { (0..n).map(|_| rng.random_range(from..1.0)).collect() };
    let arrays = BankArrays {
        signed: draw(samples * vectors, -1.0),
        element: draw(samples * vectors, 0.0),
        fisher: draw(samples * vectors, 0.0),
        batch_first: draw(vectors, 0.0),
        batch_mix: draw(vectors, 0.0),
        input_sum: draw(samples * columns, -1.0),
        // Of 64 numbers whose sum is at most 1.
        input_square: draw(samples * columns, 0.5),
        column_abs: draw(columns, 0.0),
        column_square: draw(columns, 0.0),
    };
    StatsBank::new(header(config, samples), arrays).unwrap()
}

pub fn header(config: &ModelConfig, samples: usize) -> BankHeader {
    BankHeader {
        version: BANK_VERSION,
        model_digest: digest(),
        calibration_digest: Digest::of_bytes(b"a text"),
        seed: 42,
        sample_tokens: vec![64; samples],
        losses: (0..samples).map(|s| 3.0 + 0.1 * s as f64).collect(),
        hidden_size: config.hidden_size,
        head_dim: config.head_dim,
        layers: config.layers.clone(),
        feed_forward: config.family().feed_forward(),
        terms: Terms::Full,
        batch: true,
        dtype: Some("f32".into()),
        matmul_precision: None,
    }
}

/// Models of every architecture with 1 to 6 layers, group sizes 1 to 3, some layers without
/// attention, short windows where the family has windows, up to four experts where it has
/// experts, biased or not.
pub fn any_config() -> impl Strategy<Value = ModelConfig> {
    let layer =
        (1_usize..4, 1_usize..4, 1_usize..40, 0_usize..6).prop_map(|(kv, group, ffn, a)| {
            if a == 0 { widths(0, 0, ffn) } else { widths(kv * group, kv, ffn) }
        });
    let architecture = proptest::sample::select(Architecture::ALL.to_vec());
    let layers = proptest::collection::vec(layer, 1..7);
    let experts = (1_usize..5, 0_usize..4);
    (architecture, layers, any::<[bool; 3]>(), experts).prop_map(
        |(architecture, layers, [attention_bias, mlp_bias, tie_word_embeddings], experts)| {
            let mut layers = layers;
            if architecture.family().hf.kv_heads == KvHeadRule::All {
                layers.iter_mut().for_each(|widths| widths.kv_heads = widths.query_heads);
            }
            let plain = ModelConfig::new(architecture, 24, 4, 50, layers);
            let (count, chosen) = (experts.0, 1 + experts.1 % experts.0);
            let experts = plain.experts.map(|of| Experts { count, chosen, ..of });
            let each = experts.map_or(1, |experts| experts.count);
            let layers = plain.layers.iter().map(|w| LayerWidths { ffn: w.ffn * each, ..*w });
            let all_heads = plain.family().head_norm == Some(HeadNorm::All);
            ModelConfig {
                layers: layers.collect(),
                experts,
                rotated_dim: plain.rotated_dim.map(|_| 2),
                windows: plain.windows.iter().map(|window| window.map(|_| 3)).collect(),
                // Where heads are normed together, the masked model's mean is over more.
                norm_eps: if all_heads { 1e-12 } else { 1e-5 },
                residual_scale: if architecture == Architecture::Granite { 0.4 } else { 1.0 },
                attention_bias: attention_bias.into(),
                mlp_bias: mlp_bias && experts.is_none(),
                tie_word_embeddings,
                max_position_embeddings: 64,
                ..plain
            }
        },
    )
}

/// Holds `property` to `cases` values of `strategy`, and says of how many it found that
/// there was something to try.
pub fn tried<S: Strategy>(
    cases: u32,
    strategy: S,
    property: impl Fn(S::Value) -> Result<bool, TestCaseError>,
) -> u32 {
    let count = Cell::new(0);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let found = TestRunner::new(config).run(&strategy, |value| {
        count.set(count.get() + u32::from(property(value)?));
        Ok(())
    });
    if let Err(failure) = found {
        panic!("{failure}");
    }
    count.get()
}

/// A plan for `options`, or for the largest ratio below that the error offers; none only
/// where nothing can be removed at all, or what is dropped by name is more than was asked.
pub fn plan_or_largest(
    config: &ModelConfig,
    seed: u64,
    options: &PlanOptions,
) -> Result<Option<PrunePlan>, TestCaseError> {
    let scores = random_scores(config, seed);
    match plan(&scores, config, digest(), options) {
        Ok(plan) => Ok(Some(plan)),
        Err(Error::Unreachable { ratio, largest, .. }) => {
            prop_assert_eq!(ratio, options.ratio);
            prop_assert!((0.0..ratio).contains(&largest), "{} of {}", largest, ratio);
            if largest == 0.0 {
                return Ok(None);
            }
            let options = PlanOptions { ratio: largest, ..options.clone() };
            match plan(&scores, config, digest(), &options) {
                Ok(plan) => Ok(Some(plan)),
                Err(error) => Err(TestCaseError::fail(format!("{largest} was offered: {error}"))),
            }
        }
        Err(Error::Option { option: "drop-attention", .. })
            if !options.drop_attention.is_empty() =>
        {
            Ok(None)
        }
        Err(error) => Err(TestCaseError::fail(error.to_string())),
    }
}

/// Tensors held in memory.
pub struct MemorySource(pub BTreeMap<String, Tensor>);

impl TensorSource for MemorySource {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        let tensor = self.0.get(name)?;
        let bytes = 4 * tensor.elem_count() as u64;
        Some(TensorMeta { shape: tensor.dims().to_vec(), stored: "F32".into(), bytes })
    }

    fn load(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> adapruner_checkpoint::Result<Tensor> {
        let tensor = self.0.get(name).ok_or_else(|| adapruner_checkpoint::Error::NotFound {
            name: name.to_owned(),
            message: "not in memory".into(),
        })?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    fn digest(&self) -> adapruner_checkpoint::Result<Digest> {
        Ok(digest())
    }
}

/// A checkpoint of random weights, of a size that keeps activations near 1.
pub fn random_checkpoint(config: &ModelConfig, seed: u64) -> Checkpoint {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let tensors = names::expected_tensors(config).into_iter().map(|expected| {
        let count: usize = expected.shape.iter().product();
        let values: Vec<f32> = if expected.name.ends_with("norm.weight") {
            (0..count).map(|_| rng.random_range(0.5..1.5)).collect()
        } else {
            let fan_in = expected.shape.last().copied().unwrap_or(1).max(1) as f32;
            let bound = 1.7 / fan_in.sqrt();
            (0..count).map(|_| rng.random_range(-bound..bound)).collect()
        };
        (expected.name, Tensor::from_vec(values, expected.shape, &Device::Cpu).unwrap())
    });
    Checkpoint {
        config: config.clone(),
        tokenizer: tokenizer(),
        generation_config: None,
        pass_through: None,
        tensors: Arc::new(MemorySource(tensors.collect())),
        origin: "memory".into(),
    }
}

/// A tokenizer of one word; these tests make their own token ids.
fn tokenizer() -> Arc<TextTokenizer> {
    static TOKENIZER: OnceLock<Arc<TextTokenizer>> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let json = r#"{
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"word": 0}, "unk_token": "word"}
        }"#;
        std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
        Arc::new(TextTokenizer::from_hf_folder(dir.path()).unwrap())
    };
    TOKENIZER.get_or_init(make).clone()
}

/// Random token ids, `sequences` of `tokens` each.
pub fn random_ids(
    config: &ModelConfig,
    sequences: usize,
    tokens: usize,
    seed: u64,
) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sequence =
        || (0..tokens).map(|_| rng.random_range(0..config.vocab_size as u32)).collect();
    (0..sequences).map(|_| sequence()).collect()
}

/// Whether products of many rows are made by our own kernels, whose rows do not depend on those
/// beside them; it is said where they are not.
pub fn products_are_our_own() -> bool {
    let own = Arithmetic::Widen.runs_here();
    if !own {
        adapruner_testing::unsupported("products are the gemm crate's without AVX2 and AVX-512");
    }
    own
}
