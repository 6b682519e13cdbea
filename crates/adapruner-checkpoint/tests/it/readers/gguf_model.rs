//! Configuration and tensors of GGUF files.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use adapruner_checkpoint::{
    Architecture, LayerWidths, ModelConfig, Result, RopeScaling, TensorSource,
    gguf::{
        GgufSource, Header, TensorKind, Value,
        config::{llama3_divisors, model_config},
    },
    mapped::MappedFile,
    names::{self, Projection},
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{fixture, gguf_bytes::GgufBytes};

/// `H`, `D`, `V` of the models built here.
const SIZES: (usize, usize, usize) = (8, 4, 11);

fn numbers(values: &[usize]) -> Value {
    Value::Array(values.iter().map(|&v| Value::U32(v as u32)).collect())
}

/// Metadata of a model with these layers.
pub fn metadata(architecture: &str, layers: &[LayerWidths]) -> GgufBytes {
    let key = |name: &str| format!("{architecture}.{name}");
    let column = |f: fn(&LayerWidths) -> usize| {
        let values: Vec<usize> = layers.iter().map(f).collect();
        numbers(&values)
    };
    GgufBytes::default()
        .entry("general.architecture", Value::String(architecture.into()))
        .entry(&key("block_count"), Value::U32(layers.len() as u32))
        .entry(&key("context_length"), Value::U32(64))
        .entry(&key("embedding_length"), Value::U32(SIZES.0 as u32))
        .entry(&key("feed_forward_length"), column(|w| w.ffn))
        .entry(&key("attention.head_count"), column(|w| w.query_heads))
        .entry(&key("attention.head_count_kv"), column(|w| w.kv_heads))
        .entry(&key("attention.key_length"), Value::U32(SIZES.1 as u32))
        .entry(&key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5))
}

fn gguf_name(canonical: &str) -> String {
    let fixed = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    fixed.iter().fold(canonical.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Rows as llama.cpp's converter writes them: `reshape(heads, 2, D/2, …)`,
/// axes 1 and 2 exchanged.
fn interleave(values: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..rows / head_dim {
        for index in 0..head_dim / 2 {
            for half in 0..2 {
                let row = head * head_dim + half * (head_dim / 2) + index;
                out.extend(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

/// A GGUF file of `config` whose value number `i` (over all tensors in the
/// order of the forward pass) is `i`, and those values by canonical name.
pub fn model(file: GgufBytes, config: &ModelConfig) -> (GgufBytes, BTreeMap<String, Vec<f32>>) {
    let mut file = file;
    let mut all = BTreeMap::new();
    let mut next = 0u32;
    for expected in names::expected_tensors(config) {
        let count = expected.shape.iter().product::<usize>() as u32;
        let values: Vec<f32> = (next..next + count).map(|v| v as f32).collect();
        next += count;
        let moved = expected.name.contains("q_proj") || expected.name.contains("k_proj");
        let stored = match moved {
            true => interleave(&values, expected.shape[0], config.head_dim),
            false => values.clone(),
        };
        file = file.f32(&gguf_name(&expected.name), &expected.shape, &stored);
        all.insert(expected.name, values);
    }
    (file, all)
}

pub fn widths(query_heads: usize, kv_heads: usize, ffn: usize) -> LayerWidths {
    LayerWidths { query_heads, kv_heads, ffn }
}

/// The configuration that [`metadata`] describes.
pub fn config(layers: &[LayerWidths]) -> ModelConfig {
    ModelConfig {
        norm_eps: 1e-5,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        ..ModelConfig::new(Architecture::Llama, SIZES.0, SIZES.1, SIZES.2, layers.to_vec())
    }
}

fn read_config(file: &GgufBytes) -> Result<ModelConfig> {
    let bytes = file.build();
    let header = Header::parse(&bytes).expect("a good header");
    model_config(Path::new("m.gguf"), &header, &bytes)
}

fn refusal(file: &GgufBytes) -> String {
    read_config(file).expect_err("a refused file").to_string()
}

fn source(file: &GgufBytes, config: &ModelConfig) -> Result<GgufSource> {
    let bytes = file.build();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let header = Header::parse(&bytes).expect("a good header");
    GgufSource::new(Arc::new(MappedFile::open(&path)?), &header, config)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn widths_per_layer_biases_and_head_come_back() {
    let layers = [widths(4, 2, 6), widths(0, 0, 3), widths(3, 1, 5)];
    for (attention_bias, mlp_bias, tied) in
        [(false, false, true), (true, false, false), (true, true, true), (false, true, false)]
    {
        let expected = ModelConfig {
            attention_bias: attention_bias.into(),
            mlp_bias,
            tie_word_embeddings: tied,
            bos_token_id: Some(3),
            eos_token_ids: vec![4, 7],
            pad_token_id: Some(0),
            ..config(&layers)
        };
        let file = metadata("deci", &layers)
            .entry("tokenizer.ggml.bos_token_id", Value::U32(3))
            .entry("tokenizer.ggml.eos_token_id", Value::U32(4))
            .entry("tokenizer.ggml.eot_token_id", Value::U32(7))
            .entry("tokenizer.ggml.padding_token_id", Value::U32(0));
        let (file, values) = model(file, &expected);
        assert_eq!(read_config(&file).unwrap(), expected);

        let source = source(&file, &expected).unwrap();
        let mut sorted: Vec<_> = values.keys().cloned().collect();
        sorted.sort();
        assert_eq!(source.names(), sorted);
        for tensor in names::expected_tensors(&expected) {
            let meta = source.meta(&tensor.name).unwrap();
            assert_eq!((meta.shape.as_slice(), meta.stored.as_str()), (&tensor.shape[..], "F32"));
            let loaded = source.load(&tensor.name, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(loaded.dims(), tensor.shape, "{}", tensor.name);
            assert!(loaded.is_contiguous());
            assert_eq!(flat(&loaded), values[&tensor.name], "{}", tensor.name);
        }
    }
}

#[test]
fn scalars_stand_for_every_layer_and_defaults_hold() {
    let layers = [widths(2, 2, 6); 3];
    let (file, _) = model(metadata("llama", &layers), &config(&layers));
    let mut plain = file.entry("llama.feed_forward_length", Value::U64(6));
    plain = plain.entry("llama.attention.head_count", Value::I32(2));
    plain.entries.retain(|(key, _)| {
        !matches!(key.as_str(), "llama.attention.head_count_kv" | "llama.attention.key_length")
    });
    // Without a length of its own a head is H / N wide, here 4.
    assert_eq!(read_config(&plain).unwrap(), config(&layers));
}

#[test]
fn other_models_and_settings_are_refused_by_name() {
    let layers = [widths(2, 1, 6); 2];
    let good = || model(metadata("llama", &layers), &config(&layers)).0;
    assert!(read_config(&good()).is_ok());

    for name in ["gemma4", "starcoder2", "mistral3"] {
        let text = refusal(&good().entry("general.architecture", Value::String(name.into())));
        let expected = format!(
            "m.gguf: architecture {name} is not supported, only llama, qwen2, qwen3, gemma2, gemma3, smollm3, olmo2, granite, phi3, gptneox, falcon, qwen3moe, olmoe and deci"
        );
        assert_eq!(text, expected);
    }
    let text = |value: &str| Value::String(value.into());
    for (key, value, expected) in [
        ("attention.sliding_window", Value::U32(32), "a sliding window of 32 tokens"),
        ("attention.causal", Value::Bool(false), "only causal attention"),
        ("logit_scale", Value::F32(0.5), "a scale of 0.5 is not supported"),
        ("attention.value_length", Value::U32(6), "6 differs from the head width 4"),
        ("rope.dimension_count", Value::U32(2), "2 differs from the head width 4"),
        ("rope.scaling.type", text("yarn"), "rotary scaling yarn is not supported"),
        ("block_count", Value::U32(0), "0 layers, but"),
        ("block_count", Value::U32(4_000_000_000), "4000000000 layers, but"),
        ("block_count", text("two"), "not a non-negative integer"),
        ("attention.head_count", numbers(&[2, 2, 2]), "2 values expected, 3 found"),
        ("attention.head_count_kv", numbers(&[1, 0]), "linear attention (layer 1)"),
        ("feed_forward_length", Value::F32(6.0), "not a non-negative integer"),
        ("attention.layer_norm_rms_epsilon", text("x"), "not a float"),
    ] {
        let found = refusal(&good().entry(&format!("llama.{key}"), value));
        let expected = format!("m.gguf: metadata key llama.{key}: {expected}");
        assert!(found.starts_with(&expected), "{found}\nexpected: {expected}");
    }
    for key in ["context_length", "embedding_length", "block_count", "feed_forward_length"] {
        let mut file = good();
        file.entries.retain(|(k, _)| k != &format!("llama.{key}"));
        assert_eq!(refusal(&file), format!("m.gguf: metadata key llama.{key}: missing"));
    }
    // A window as long as the context changes nothing.
    assert!(read_config(&good().entry("llama.attention.sliding_window", Value::U32(64))).is_ok());
}

#[test]
fn biases_on_some_projections_only_are_refused() {
    let layers = [widths(2, 1, 6); 2];
    let (file, _) = model(metadata("llama", &layers), &config(&layers));
    let text = refusal(&file.f32("blk.1.attn_q.bias", &[8], &[0.0; 8]));
    assert_eq!(
        text,
        "m.gguf: biases on some projections only: blk.1.attn_q.bias is there, blk.0.attn_q.bias is not"
    );
}

#[test]
fn rotary_scalings_are_recovered() {
    let layers = [widths(2, 1, 6)];
    let scaling = |file: &GgufBytes| read_config(file).unwrap().rope.scaling;
    let good = || model(metadata("llama", &layers), &config(&layers)).0;
    assert_eq!(scaling(&good()), RopeScaling::None);
    let linear = good()
        .entry("llama.rope.scaling.type", Value::String("linear".into()))
        .entry("llama.rope.scaling.factor", Value::F32(2.5));
    assert_eq!(scaling(&linear), RopeScaling::Linear { factor: 2.5 });
    let none = linear.entry("llama.rope.scaling.type", Value::String("none".into()));
    assert_eq!(scaling(&none), RopeScaling::None);

    // The published scalings of Llama 3.1 and 3.2, and that of a tiny model.
    for (head_dim, theta, factor, original) in
        [(128, 500_000.0, 8.0, 8192), (64, 500_000.0, 32.0, 8192), (12, 500.0, 8.0, 32)]
    {
        let divisors = llama3_divisors(theta, head_dim, factor, 1.0, 4.0, original);
        let wide = |length: usize| Value::U32(length as u32);
        let file = good()
            .entry("llama.attention.key_length", wide(head_dim))
            .entry("llama.rope.freq_base", Value::F32(theta as f32))
            .f32("rope_freqs.weight", &[head_dim / 2], &divisors);
        let expected = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        };
        assert_eq!(scaling(&file), expected);
    }
    let own = |values: &[f32]| good().f32("rope_freqs.weight", &[values.len()], values);
    assert_eq!(scaling(&own(&[1.0, 1.0])), RopeScaling::None);
    assert_eq!(scaling(&own(&[3.0, 5.0])), RopeScaling::Factors { divisors: vec![3.0, 5.0] });
    assert!(refusal(&own(&[3.0])).contains("tensor rope_freqs.weight: [2] of F32 expected"));
    assert!(refusal(&own(&[3.0, 0.0])).contains("divisors above 0 expected, 0 found"));
    assert!(refusal(&own(&[3.0, f32::NAN])).contains("1 of 2 values are NaN or infinite"));
}

#[test]
fn tensors_that_no_llama_has_are_refused() {
    let model = config(&[widths(1, 1, 6); 2]);
    for name in [
        "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_norm.bias",
        "blk.00.attn_q.weight",
        "blk.2.attn_q.weight",
        "blk.0.attn_q_norm.weight",
        "blk.0",
    ] {
        let file = GgufBytes::default().f32(name, &[4], &[0.0; 4]);
        let text = source(&file, &model).unwrap_err().to_string();
        let expected =
            format!("tensor {name} is not part of the Llama model that the metadata describes");
        assert!(text.ends_with(&expected), "{text}");
    }
    let file = GgufBytes::default().f32("blk.1.ffn_gate.weight", &[4], &[0.0; 4]);
    let names = source(&file, &model).unwrap().names();
    assert_eq!(names, ["model.layers.1.mlp.gate_proj.weight"]);
}

#[test]
fn bad_values_are_counted_and_placed() {
    let mut values = vec![0.5f32; 6 * 4];
    (values[9], values[22]) = (f32::NAN, f32::NEG_INFINITY);
    let file = GgufBytes::default()
        .f32("blk.0.ffn_up.weight", &[6, 4], &values)
        .f32("blk.0.ffn_norm.weight", &[2], &[1.0, 1e38])
        .f32("blk.0.attn_q.weight", &[6, 1], &[0.0; 6]);
    let source = source(&file, &config(&[widths(1, 1, 6)])).unwrap();
    let load = |name: &str, dtype| source.load(name, dtype, &Device::Cpu);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let text = load("model.layers.0.mlp.up_proj.weight", dtype).unwrap_err().to_string();
        let expected = "m.gguf: tensor model.layers.0.mlp.up_proj.weight: 2 of 24 values are NaN or infinite, the first at [2, 1]";
        assert!(text.ends_with(expected), "{text}");
    }
    // A value that the wanted type cannot hold is infinite in it.
    let norm = "model.layers.0.post_attention_layernorm.weight";
    assert!(load(norm, DType::F32).is_ok() && load(norm, DType::BF16).is_ok());
    let text = load(norm, DType::F16).unwrap_err().to_string();
    assert!(text.ends_with("1 of 2 values are NaN or infinite, the first at [1]"), "{text}");
    let text = load(norm, DType::U8).unwrap_err().to_string();
    assert!(text.ends_with("cannot be read as U8, only as F32, F16, BF16 or F64"), "{text}");
    // Rows that are no whole heads.
    let text = load("model.layers.0.self_attn.q_proj.weight", DType::F32).unwrap_err().to_string();
    assert!(text.ends_with("6 rows are not whole heads of an even width 4"), "{text}");
    let text = load("model.norm.weight", DType::F32).unwrap_err().to_string();
    assert!(text.ends_with("tensor model.norm.weight: not in the file"), "{text}");
}

/// Scales and quants are exact in f32; products and sums are rounded once or
/// twice, and the reference may round where this does not.
const DEQUANTISED_TOLERANCE: f32 = 1e-6;

/// A model with a layer for each type.
fn every_type() -> ModelConfig {
    config(&[widths(1, 1, 512)].repeat(TensorKind::ALL.len()))
}

#[test]
fn every_type_is_dequantised_as_the_reference_does() {
    let path = fixture("gguf_types/types.gguf");
    let expected =
        candle_core::safetensors::load(fixture("gguf_types/expected.safetensors"), &Device::Cpu)
            .unwrap();
    let file = Arc::new(MappedFile::open(&path).unwrap());
    let header = Header::parse(&file).unwrap();
    let source = GgufSource::new(file, &header, &every_type()).unwrap();
    assert_eq!(source.names().len(), TensorKind::ALL.len());
    for (layer, kind) in TensorKind::ALL.into_iter().enumerate() {
        let name = Projection::Down.weight(Architecture::Llama.family(), layer);
        let meta = source.meta(&name).unwrap();
        assert_eq!((meta.stored.as_str(), &meta.shape[..]), (kind.name(), &[3, 512][..]));
        let found = source.load(&name, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(found.dims(), [3, 512]);
        let expected = &expected[kind.name()];
        let largest = flat(expected).into_iter().fold(0f32, |a, v| a.max(v.abs()));
        for (a, b) in flat(&found).into_iter().zip(flat(expected)) {
            assert!((a - b).abs() <= DEQUANTISED_TOLERANCE * largest, "{kind:?}: {a} {b}");
        }
        // Narrower types are the rounded f32 values.
        for dtype in [DType::BF16, DType::F16, DType::F64] {
            let narrow = source.load(&name, dtype, &Device::Cpu).unwrap();
            let rounded = found.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
            assert_eq!(narrow.dtype(), dtype);
            assert_eq!(flat(&narrow.to_dtype(DType::F32).unwrap()), flat(&rounded), "{kind:?}");
        }
    }
}

#[test]
fn the_digest_is_that_of_the_file() {
    let path = fixture("gguf_types/types.gguf");
    let file = Arc::new(MappedFile::open(&path).unwrap());
    let header = Header::parse(&file).unwrap();
    let source = GgufSource::new(file, &header, &every_type()).unwrap();
    let expected = adapruner_checkpoint::Digest::of_file(&path).unwrap();
    assert_eq!(source.digest().unwrap(), expected);
    assert_eq!(source.digest().unwrap(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What llama.cpp's converter interleaves comes back, for weights larger
    /// than a chunk as well, and for biases.
    #[test]
    fn interleaved_rows_come_back(
        heads in 1usize..5,
        half in 1usize..5,
        columns in prop_oneof![1usize..7, Just(20_000usize)],
    ) {
        let head_dim = 2 * half;
        let rows = heads * head_dim;
        let values: Vec<f32> = (0..rows * columns).map(|v| v as f32).collect();
        let bias: Vec<f32> = (0..rows).map(|v| v as f32).collect();
        let file = GgufBytes::default()
            .f32("blk.0.attn_k.weight", &[rows, columns], &interleave(&values, rows, head_dim))
            .f32("blk.0.attn_k.bias", &[rows], &interleave(&bias, rows, head_dim));
        let layers = [widths(heads, heads, 6)];
        let model = ModelConfig { head_dim, attention_bias: true.into(), ..config(&layers) };
        let source = source(&file, &model).unwrap();
        let load = |name: String| flat(&source.load(&name, DType::F32, &Device::Cpu).unwrap());
        prop_assert_eq!(load(Projection::K.weight(Architecture::Llama.family(), 0)), values);
        prop_assert_eq!(load(Projection::K.bias(Architecture::Llama.family(), 0)), bias);
    }

    /// A mutated file is read or refused, never a panic.
    #[test]
    fn mutated_models_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let layers = [widths(2, 1, 6); 2];
        let mut bytes = model(metadata("llama", &layers), &config(&layers)).0.build();
        // The metadata is at the front: mutate there, not in the weights.
        let front = 900.min(bytes.len());
        for (at, value) in changes {
            bytes[at.index(front)] = value;
        }
        if let Ok(header) = Header::parse(&bytes) {
            let _ = model_config(Path::new("m.gguf"), &header, &bytes);
        }
    }
}
