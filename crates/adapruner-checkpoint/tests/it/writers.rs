//! Writing models: what is written is read again by this crate's own readers.

mod atomic;
mod gguf_file;
mod gguf_quantised;
mod hf_folder;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use adapruner_checkpoint::{
    Architecture, Checkpoint, Digest, Experts, LayerWidths, ModelConfig, Result, Rope, RopeScaling,
    TensorMeta, TensorSource,
    arch::family::{KvHeadRule, NormalisedRule},
    names,
    output::Written,
    tokenizer::TextTokenizer,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};

use crate::readers::fixture;

/// The fixtures of models.
pub const MODELS: [&str; 21] = [
    "biases",
    "falcon",
    "falcon_40b",
    "gpt_neox",
    "gqa3_untied",
    "granite",
    "linear_rope",
    "llama3_rope",
    "mha_tied",
    "mistral_no_window",
    "olmo2",
    "olmoe",
    "per_layer",
    "phi3",
    "phi3_long",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "sharded_bf16",
    "smollm3",
    "tiny",
];
/// Those that llama.cpp runs otherwise, with what is said of them.
pub const FOLDERS_ONLY: [(&str, &str); 10] = [
    ("falcon_11b", "runs Falcon (one norm: 7B, 11B) without these biases"),
    ("gemma2", "runs Gemma 2 with another scale of attention scores"),
    ("gemma3", "runs Gemma 3 (text) with another scale of attention scores"),
    ("gpt_neox_sequential", "runs GPT-NeoX and Pythia with biases on all maps"),
    ("mistral_windows", "runs Mistral without windows"),
    ("mixtral", "runs Mixtral without windows"),
    ("opt", "has no architecture for OPT"),
    ("opt_untied", "has no architecture for OPT"),
    ("phi3_windows", "runs Phi 3 and 4 without windows"),
    ("qwen2_windows", "runs Qwen 2 and 2.5 without windows"),
];

/// A model of an architecture whose layers have `widths`, where it has experts each of three,
/// short windows and all else as its family has it.
pub fn family(architecture: Architecture, widths: &[LayerWidths]) -> ModelConfig {
    let mut widths = widths.to_vec();
    let grouped = architecture.family().gguf.is_none_or(|gguf| gguf.grouped);
    if architecture.family().hf.kv_heads == KvHeadRule::All || !grouped {
        widths.iter_mut().for_each(|widths| widths.kv_heads = widths.query_heads);
    }
    // As llama.cpp runs them.
    let experts = architecture.family().experts.map(|rule| Experts {
        count: 3,
        chosen: 2,
        normalised: match rule.normalised {
            NormalisedRule::Always => true,
            NormalisedRule::Key { gguf, .. } => gguf,
        },
    });
    let each = experts.map_or(1, |experts| experts.count);
    widths.iter_mut().for_each(|widths| widths.ffn *= each);
    let plain = ModelConfig { experts, ..ModelConfig::new(architecture, 24, 4, VOCAB, widths) };
    let windows = plain.windows.iter().map(|window| window.map(|_| 5)).collect();
    ModelConfig {
        windows,
        rotated_dim: plain.rotated_dim.map(|_| 2),
        max_position_embeddings: 64,
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
        ..plain
    }
}

pub fn open_fixture(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture("models").join(name)).unwrap()
}

/// Ids of the tokenizer that models made here have.
pub const VOCAB: usize = 266;

/// Tensors in memory, of one stored type.
pub struct Memory {
    pub tensors: BTreeMap<String, Tensor>,
}

impl TensorSource for Memory {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.tensors.get(name).map(|tensor| TensorMeta {
            shape: tensor.dims().to_vec(),
            stored: format!("{:?}", tensor.dtype()).to_uppercase(),
            bytes: (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
        })
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.tensors[name].to_dtype(dtype)?.to_device(device)?;
        let sum = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()?;
        if sum.is_finite() {
            return Ok(tensor);
        }
        Err(adapruner_checkpoint::Error::tensor("memory", name, "values are NaN or infinite"))
    }

    fn digest(&self) -> Result<Digest> {
        Ok(Digest::of_bytes(b"memory"))
    }
}

pub fn widths(query_heads: usize, kv_heads: usize, ffn: usize) -> LayerWidths {
    LayerWidths { query_heads, kv_heads, ffn }
}

/// A small configuration with these layers; `H` = 24, `D` = 4.
pub fn config(layers: &[LayerWidths]) -> ModelConfig {
    ModelConfig {
        norm_eps: 1e-5,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
        ..ModelConfig::new(Architecture::Llama, 24, 4, VOCAB, layers.to_vec())
    }
}

/// A model of `config` with random weights of type `dtype`.
pub fn random_model(config: ModelConfig, dtype: DType, seed: u64) -> Checkpoint {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let tensors = names::expected_tensors(&config).into_iter().map(|expected| {
        let count = expected.shape.iter().product();
        // The sum of four uniform numbers is nearly normal, as weights are.
        let value = |_| (0..4).map(|_| random.random_range(-0.5f32..0.5)).sum::<f32>() * 0.1;
        let values: Vec<f32> = (0..count).map(value).collect();
        let tensor = Tensor::from_vec(values, expected.shape, &Device::Cpu).unwrap();
        (expected.name, tensor.to_dtype(dtype).unwrap())
    });
    Checkpoint {
        tensors: Arc::new(Memory { tensors: tensors.collect() }),
        tokenizer: Arc::new(TextTokenizer::from_hf_folder(&fixture("models/per_layer")).unwrap()),
        generation_config: None,
        pass_through: None,
        origin: PathBuf::from("memory"),
        config,
    }
}

/// The same model with one value of a tensor changed.
pub fn with_value(model: &Checkpoint, name: &str, value: f32) -> Checkpoint {
    let mut tensors = BTreeMap::new();
    for expected in names::expected_tensors(&model.config) {
        let tensor = model.tensors.load(&expected.name, DType::F32, &Device::Cpu).unwrap();
        tensors.insert(expected.name, tensor);
    }
    let changed = &tensors[name];
    let mut values: Vec<f32> = changed.flatten_all().unwrap().to_vec1().unwrap();
    values[1] = value;
    let changed = Tensor::from_vec(values, changed.dims(), &Device::Cpu).unwrap();
    tensors.insert(name.to_owned(), changed);
    Checkpoint { tensors: Arc::new(Memory { tensors }), ..model.clone() }
}

pub fn values(model: &Checkpoint, name: &str, dtype: DType) -> Vec<f32> {
    let tensor = model.tensors.load(name, dtype, &Device::Cpu).unwrap();
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Both have the same tensors, bit for bit, after `dtype` (F32: as they are).
pub fn assert_same_tensors(found: &Checkpoint, expected: &Checkpoint, dtype: DType) {
    assert_eq!(found.tensors.names().len(), names::expected_tensors(&expected.config).len());
    for tensor in names::expected_tensors(&expected.config) {
        let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let (a, b) =
            (values(found, &tensor.name, DType::F32), values(expected, &tensor.name, dtype));
        assert_eq!(bits(a), bits(b), "{}", tensor.name);
    }
}

/// What was reported of the files is what stands in `folder`.
pub fn assert_reported(written: &Written, folder: &std::path::Path) {
    for file in &written.files {
        let path = folder.join(&file.name);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file.bytes, "{}", file.name);
        assert_eq!(Digest::of_file(&path).unwrap(), file.digest, "{}", file.name);
    }
    let present = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(present, written.files.len(), "files that were not reported");
}

/// A progress callback that holds what it is told to be sound.
#[derive(Default)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

impl Progress {
    pub fn update(&mut self, done: u64, total: u64) {
        assert!(done > self.done && done <= total && (self.total == 0 || self.total == total));
        (self.done, self.total) = (done, total);
    }
}

/// Any small model: widths of every layer, biases, head, rotary scaling.
pub fn any_config() -> impl Strategy<Value = ModelConfig> {
    let layer = prop_oneof![
        1 => (1usize..40).prop_map(|ffn| widths(0, 0, ffn)),
        4 => (1usize..4, 1usize..4, 1usize..70).prop_map(|(k, group, ffn)| widths(k * group, k, ffn)),
    ];
    let layers = prop_oneof![
        prop::collection::vec(layer.clone(), 1..5),
        (layer, 1usize..4).prop_map(|(layer, count)| vec![layer; count]),
    ];
    let scaling = prop_oneof![
        Just(RopeScaling::None),
        Just(RopeScaling::Linear { factor: 2.5 }),
        Just(RopeScaling::Factors { divisors: vec![1.25, 3.5] }),
        Just(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        }),
    ];
    let ids = prop::collection::vec(3u32..VOCAB as u32, 0..3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (layers, scaling, flags, prop::option::of(0u32..9), ids, 1usize..9).prop_map(
        |(layers, scaling, (attention_bias, mlp_bias, tied), token, mut ids, hidden)| {
            ids.dedup();
            ModelConfig {
                hidden_size: hidden * 3,
                rope: Rope { theta: 500.0, scaling },
                attention_bias: attention_bias.into(),
                mlp_bias,
                tie_word_embeddings: tied,
                bos_token_id: token,
                pad_token_id: token.map(|id| id + 1),
                eos_token_ids: ids,
                ..config(&layers)
            }
        },
    )
}
