//! Configuration and weights of Hugging Face folders.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{
    Architecture, LayerWidths, ModelConfig, Result, RopeScaling, TensorSource,
    hf::{SafetensorsSource, config::model_config},
    names,
    names::Projection,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixture;

const MODELS: [&str; 9] = [
    "biases",
    "gqa3_untied",
    "linear_rope",
    "llama3_rope",
    "mha_tied",
    "mistral_no_window",
    "per_layer",
    "sharded_bf16",
    "tiny",
];

fn json_of(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn read_config(json: &Value) -> Result<ModelConfig> {
    model_config(Path::new("config.json"), json)
}

/// The smallest Llama configuration, with `changes`; null takes a key away.
fn llama(changes: Value) -> Value {
    let mut json = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7,
        "vocab_size": 20,
    });
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    json
}

fn refusal(changes: Value) -> String {
    read_config(&llama(changes)).expect_err("a refused configuration").to_string()
}

#[test]
fn every_fixture_is_read_with_the_shapes_of_its_weights() {
    for model in MODELS {
        let folder = fixture("models").join(model);
        let config = read_config(&json_of(&folder, "config.json")).unwrap();
        let source = SafetensorsSource::open(&folder, Vec::new()).unwrap();
        source.check_dtypes().unwrap();
        let expected = names::expected_tensors(&config);
        assert_eq!(source.names().len(), expected.len(), "{model}");
        for tensor in expected {
            let meta = source.meta(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
            assert_eq!(meta.shape, tensor.shape, "{model}: {}", tensor.name);
        }
    }
}

#[test]
fn settings_of_the_fixtures_are_read() {
    let config =
        |model: &str| read_config(&json_of(&fixture("models").join(model), "config.json")).unwrap();
    let biases = config("biases");
    assert!(biases.has_bias(Projection::O) && biases.mlp_bias && biases.tie_word_embeddings);
    assert_eq!(biases.head_dim, 6);
    let mistral = config("mistral_no_window");
    assert_eq!(mistral.architecture, Architecture::Mistral);
    assert!(!mistral.tie_word_embeddings);
    assert_eq!(config("linear_rope").rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let llama3 = config("llama3_rope");
    assert_eq!(llama3.rope.theta, 500.0);
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    assert_eq!(llama3.rope.scaling, expected);
    assert_eq!(llama3.eos_token_ids, [1, 2]);
    let per_layer = config("per_layer");
    assert_eq!(per_layer.uniform_widths(), None);
    assert_eq!(per_layer.layers[1], LayerWidths { query_heads: 0, kv_heads: 0, ffn: 23 });
    assert_eq!(per_layer.layers[2], LayerWidths { query_heads: 2, kv_heads: 1, ffn: 17 });
}

#[test]
fn missing_keys_have_the_defaults_of_transformers() {
    let config = read_config(&llama(json!({}))).unwrap();
    assert_eq!(config.layers, [LayerWidths { query_heads: 3, kv_heads: 3, ffn: 7 }; 2]);
    assert_eq!((config.head_dim, config.max_position_embeddings), (4, 2048));
    assert_eq!((config.norm_eps, config.rope.theta), (1e-6, 10_000.0));
    assert_eq!(config.rope.scaling, RopeScaling::None);
    assert!(!config.tie_word_embeddings && !config.has_bias(Projection::Q) && !config.mlp_bias);
    assert_eq!((config.bos_token_id, config.pad_token_id), (Some(1), None));
    assert_eq!(config.eos_token_ids, [2]);

    let none = json!({"bos_token_id": null, "eos_token_id": null, "pad_token_id": -1});
    let config = read_config(&llama(none)).unwrap();
    assert_eq!((config.bos_token_id, config.pad_token_id), (None, None));
    assert!(config.eos_token_ids.is_empty());

    let named = json!({"num_key_value_heads": 1, "head_dim": 6, "rope_scaling": null,
        "architectures": null, "sliding_window": null});
    let config = read_config(&llama(named)).unwrap();
    assert_eq!((config.layers[0].kv_heads, config.head_dim), (1, 6));
}

#[test]
fn both_spellings_of_the_rotary_embedding_are_read() {
    let llama3 = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let parameters = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let mut with_theta = parameters.clone();
    with_theta["rope_theta"] = json!(500_000.0);
    for (changes, theta, scaling) in [
        (json!({"rope_theta": 5e5, "rope_scaling": parameters}), 5e5, llama3.clone()),
        (json!({"rope_parameters": with_theta}), 5e5, llama3),
        (json!({"rope_parameters": {"rope_theta": 1e6}}), 1e6, RopeScaling::None),
        (
            json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
            1e6,
            RopeScaling::None,
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2}}),
            1e4,
            RopeScaling::Linear { factor: 2.0 },
        ),
    ] {
        let rope = read_config(&llama(changes)).unwrap().rope;
        assert_eq!((rope.theta, rope.scaling), (theta, scaling));
    }
    for (changes, expected) in [
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
            "rope_scaling: type \"yarn\" is not supported, only linear and llama3",
        ),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_scaling: type"),
        (json!({"rope_scaling": {"factor": 2.0}}), "rope_scaling: rope_type missing"),
        (json!({"rope_scaling": {"type": "linear"}}), "factor: missing"),
        (json!({"rope_scaling": 3}), "rope_scaling: an object expected, 3 found"),
        (
            json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}),
            "rope_parameters: an object for each kind of layer is not known of Llama",
        ),
        (
            json!({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
            "partial_rotary_factor: a rotary embedding of a part (0.5) is not supported",
        ),
    ] {
        let text = refusal(changes);
        assert!(text.starts_with(&format!("config.json: {expected}")), "{text}");
    }
}

/// A case of transformers' own reading.
#[derive(serde::Deserialize)]
struct RopeCase {
    config: Value,
    rope: Value,
}

#[test]
fn rotary_settings_are_those_of_transformers() {
    let cases = std::fs::read(fixture("rope_settings.json")).unwrap();
    let cases: Vec<RopeCase> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() > 10);
    for RopeCase { config, rope } in cases {
        let found = read_config(&llama(config.clone())).unwrap().rope;
        assert_eq!(rope["rope_theta"], found.theta, "{config}");
        let (kind, factor) = match found.scaling {
            RopeScaling::None => ("default", None),
            RopeScaling::Linear { factor } => ("linear", Some(factor)),
            RopeScaling::Llama3 { factor, .. } => ("llama3", Some(factor)),
            RopeScaling::Factors { .. } | RopeScaling::Long { .. } => panic!("{config}"),
        };
        assert_eq!(
            (&rope["rope_type"], rope["factor"].as_f64()),
            (&kind.into(), factor),
            "{config}"
        );
    }
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let text = refusal(json!({"rope_scaling": scaling, "original_max_position_embeddings": 32}));
    let expected =
        "original_max_position_embeddings: 32, but 64 in the rotary embedding's settings";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn forms_that_are_not_run_are_refused_by_name() {
    let opt = |key: &str, value: bool| json!({"architectures": ["OPTForCausalLM"], "model_type": "opt", "ffn_dim": 7, key: value});
    let falcon = |key: &str, value: Value| {
        json!({"architectures": ["FalconForCausalLM"], "model_type": "falcon", key: value,
            "new_decoder_architecture": key.starts_with("num_ln")})
    };
    for (changes, expected) in [
        (opt("do_layer_norm_before", false), "do_layer_norm_before: norms behind sublayers"),
        (opt("_remove_final_layer_norm", true), "_remove_final_layer_norm: no final norm"),
        (falcon("alibi", json!(true)), "alibi: ALiBi positions: not supported for Falcon"),
        (falcon("parallel_attn", json!(false)), "parallel_attn: sublayers one after the other"),
        (
            falcon("num_ln_in_parallel_attn", json!(3)),
            "num_ln_in_parallel_attn: 1 or 2 expected, 3 found",
        ),
        (falcon("activation", json!("quick_gelu")), "activation: \"quick_gelu\" is not supported"),
        (falcon("hidden_size", json!(13)), "head_dim: missing, and 13 is not a multiple of 3"),
    ] {
        let text = refusal(changes);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn other_models_and_settings_are_refused_by_name() {
    for (changes, expected) in [
        (
            json!({"architectures": ["StableLmForCausalLM"]}),
            "architectures: \"StableLmForCausalLM\" is not supported, only LlamaForCausalLM, MistralForCausalLM",
        ),
        (
            json!({"architectures": null, "model_type": "gemma4"}),
            "model_type: \"gemma4\" is known but not run yet (widths of heads by kind of layer",
        ),
        (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping: a cap (50) is not"),
        (json!({"architectures": null, "model_type": null}), "architectures: missing"),
        (json!({"architectures": "Llama"}), "architectures: a list expected, \"Llama\" found"),
        (json!({"model_type": "mistral"}), "model_type: \"mistral\" is not the type of Llama"),
        (
            json!({"hidden_act": "quick_gelu"}),
            "hidden_act: \"quick_gelu\" is not supported, only silu",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq"}}),
            "quantization_config: weights quantised by gptq are not supported",
        ),
        (json!({"partial_rotary_factor": 0.25}), "partial_rotary_factor: "),
        (json!({"hidden_size": null}), "hidden_size: missing"),
        (json!({"hidden_size": "12"}), "hidden_size: a non-negative integer expected, \"12\""),
        (json!({"hidden_size": -4}), "hidden_size: a non-negative integer expected, -4 found"),
        (json!({"hidden_size": 13}), "head_dim: missing, and 13 is not a multiple of 3 heads"),
        (json!({"num_attention_heads": 0}), "head_dim: missing"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers: 1 to 4096 expected, 0 found"),
        (json!({"num_hidden_layers": u64::MAX}), "num_hidden_layers: 1 to 4096 expected"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings: true or false expected"),
        (json!({"eos_token_id": "</s>"}), "eos_token_id: a token id expected"),
        (json!({"eos_token_id": [1, 2.5]}), "eos_token_id: a token id expected, 2.5 found"),
        (json!({"bos_token_id": 5_000_000_000_u64}), "bos_token_id: 5000000000 is out of range"),
    ] {
        let text = refusal(changes);
        assert!(text.starts_with(&format!("config.json: {expected}")), "{text}");
    }
    assert!(read_config(&json!([1])).is_err());
}

#[test]
fn windows_are_those_of_the_family() {
    let read = |changes: Value| {
        let mut json = llama(changes);
        json.as_object_mut().unwrap().retain(|_, value| value != "absent");
        read_config(&json)
    };
    let mistral = |window: Value, context: usize| {
        let config = read(json!({"architectures": ["MistralForCausalLM"],
            "model_type": "mistral", "max_position_embeddings": context, "sliding_window": window}));
        config.map(|config| (config.window(0), config.window(1)))
    };
    // One that no text reaches changes nothing.
    assert_eq!(mistral(json!(null), 100).unwrap(), (None, None));
    assert_eq!(mistral(json!(100), 100).unwrap(), (None, None));
    assert_eq!(mistral(json!(99), 100).unwrap(), (Some(99), Some(99)));
    // transformers takes 4096 where the key is missing.
    assert_eq!(mistral(json!("absent"), 100).unwrap(), (None, None));
    assert_eq!(mistral(json!("absent"), 5000).unwrap(), (Some(4096), Some(4096)));
    let text = mistral(json!(0), 100).unwrap_err().to_string();
    assert!(text.ends_with("sliding_window: at least 1 token expected, 0 found"), "{text}");

    let qwen = |changes: Value| {
        let mut all = json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
            "max_position_embeddings": 100, "sliding_window": 7, "max_window_layers": 1});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(all).map(|config| (config.window(0), config.window(1)))
    };
    assert_eq!(qwen(json!({})).unwrap(), (None, None));
    assert_eq!(qwen(json!({"use_sliding_window": true})).unwrap(), (None, Some(7)));
    let types = json!(["sliding_attention", "full_attention"]);
    let switched = json!({"use_sliding_window": true, "layer_types": types});
    assert_eq!(qwen(switched).unwrap(), (Some(7), None));
    for (types, expected) in [
        (json!(["sliding_attention"]), "layer_types: 2 layers expected, 1 found"),
        (
            json!(["sliding_attention", "linear_attention"]),
            "layer_types[1]: \"linear_attention\" is not supported, only full_attention and sliding_attention",
        ),
    ] {
        let text = qwen(json!({"use_sliding_window": true, "layer_types": types})).unwrap_err();
        assert!(text.to_string().ends_with(expected), "{text}");
    }

    let error = read(json!({"max_position_embeddings": 100, "sliding_window": 99})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.json: sliding_window: a window of 99 tokens is not supported for Llama, only null or at least the context length of 100"
    );
    assert!(error.hint().unwrap().contains("\"sliding_window\": null"));
}

#[test]
fn gemma_says_its_rotations_in_both_spellings() {
    let gemma = |changes: Value| {
        let mut all = json!({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
            "num_hidden_layers": 7, "head_dim": 4, "max_position_embeddings": 100,
            "sliding_window": 8});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read_config(&llama(all))
    };
    let linear = RopeScaling::Linear { factor: 8.0 };
    for changes in [
        json!({"rope_theta": 5e5, "rope_local_base_freq": 200.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        json!({"rope_theta": "absent", "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 200.0}}}),
    ] {
        let config = gemma(changes).unwrap();
        let ropes: Vec<_> = (0..7).map(|layer| config.rope_of(layer).unwrap()).collect();
        for (layer, rope) in ropes.iter().enumerate() {
            let expected = if layer == 5 { (5e5, &linear) } else { (200.0, &RopeScaling::None) };
            assert_eq!((rope.theta, &rope.scaling), expected, "layer {layer}");
            assert_eq!(config.window(layer), (layer != 5).then_some(8));
        }
        // 256, transformers' default, is not the head width.
        assert_eq!(config.score_scale, Some(1.0 / 16.0));
        assert_eq!(config.embedding_scale, 12_f64.sqrt());
    }
    assert_eq!(gemma(json!({"query_pre_attn_scalar": 4})).unwrap().score_scale, None);
    let text = gemma(json!({"query_pre_attn_scalar": 0})).unwrap_err().to_string();
    assert!(text.ends_with("query_pre_attn_scalar: above 0 expected, 0 found"), "{text}");
    let text = gemma(json!({"rope_parameters": {"full_attention": {}}})).unwrap_err().to_string();
    assert!(text.contains("rope_type missing"), "{text}");
}

#[test]
fn widths_per_layer_are_checked() {
    let mut json = json_of(&fixture("models/per_layer"), "config.json");
    json["layer_widths"][3] = json!({"query_heads": 2, "ffn": 3});
    let text = read_config(&json).unwrap_err().to_string();
    assert!(text.starts_with("config.json: layer_widths[3]: missing field `kv_heads`"), "{text}");
    json["layer_widths"].as_array_mut().unwrap().pop();
    let text = read_config(&json).unwrap_err().to_string();
    assert_eq!(text, "config.json: layer_widths: 4 layers expected, 3 found");
    json.as_object_mut().unwrap().remove("layer_widths");
    assert_eq!(read_config(&json).unwrap_err().to_string(), "config.json: layer_widths: missing");
}

#[test]
fn weights_are_those_of_the_files_in_every_type() {
    for (model, files) in [
        ("gqa3_untied", vec!["model.safetensors"]),
        ("tiny", vec!["model.safetensors"]),
        (
            "sharded_bf16",
            vec!["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
    ] {
        let folder = fixture("models").join(model);
        let source = SafetensorsSource::open(&folder, Vec::new()).unwrap();
        let mut seen = 0;
        for file in files {
            let tensors = candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
            for (name, expected) in tensors {
                seen += 1;
                assert_eq!(
                    source.meta(&name).unwrap().stored,
                    format!("{:?}", expected.dtype()).to_uppercase()
                );
                for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
                    let found = source.load(&name, dtype, &Device::Cpu).unwrap();
                    assert_eq!((found.dtype(), found.dims()), (dtype, expected.dims()));
                    let wide = |t: &Tensor| {
                        t.to_dtype(DType::F64)
                            .unwrap()
                            .flatten_all()
                            .unwrap()
                            .to_vec1::<f64>()
                            .unwrap()
                    };
                    assert_eq!(wide(&found), wide(&expected.to_dtype(dtype).unwrap()), "{name}");
                }
            }
        }
        assert_eq!(source.names().len(), seen, "{model}");
    }
}

/// A folder whose `model.safetensors` holds one tensor of these bytes.
fn one_tensor(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let file = safetensors::serialize([("x", view)], None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}

#[test]
fn half_precision_is_read_exactly_from_unaligned_bytes() {
    // Every finite half, in a file whose data starts at an odd byte.
    let halves: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & 0x7C00 != 0x7C00).collect();
    let bytes: Vec<u8> = halves.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let header = format!(
        r#"{{"x":{{"dtype":"F16","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        halves.len(),
        bytes.len()
    );
    let header = if header.len() % 2 == 0 { header + " " } else { header };
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(bytes);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let source = SafetensorsSource::open(folder.path(), Vec::new()).unwrap();
    let found = source.load("x", DType::F32, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
    let expected: Vec<f32> = halves.iter().map(|b| half::f16::from_bits(*b).to_f32()).collect();
    assert_eq!(found, expected);
}

#[test]
fn bad_values_and_types_are_named() {
    let nan = half::bf16::NAN.to_le_bytes();
    let bytes: Vec<u8> = [[0, 0], [1, 1], nan, [2, 2]].concat();
    let folder = one_tensor(Dtype::BF16, &[2, 2], &bytes);
    let source = SafetensorsSource::open(folder.path(), Vec::new()).unwrap();
    for dtype in [DType::BF16, DType::F32] {
        let text = source.load("x", dtype, &Device::Cpu).unwrap_err().to_string();
        let expected =
            "model.safetensors: tensor x: 1 of 4 values are NaN or infinite, the first at [1, 0]";
        assert!(text.ends_with(expected), "{text}");
    }
    let folder = one_tensor(Dtype::I8, &[4], &[1, 2, 3, 4]);
    let source = SafetensorsSource::open(folder.path(), Vec::new()).unwrap();
    let expected = "tensor x: element type I8 is not supported, only F32, F16 and BF16";
    let text = source.load("x", DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(text.ends_with(expected), "{text}");
    assert!(source.check_dtypes().unwrap_err().to_string().ends_with(expected));
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsSource> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    SafetensorsSource::open(folder.path(), Vec::new())
}

fn good_bytes() -> Vec<u8> {
    let folder = one_tensor(Dtype::F32, &[2, 3], &[0; 24]);
    std::fs::read(folder.path().join("model.safetensors")).unwrap()
}

#[test]
fn damaged_headers_say_what_is_wrong() {
    let good = good_bytes();
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let (whole, cut) = (good.len(), good.len() - 5);
    let mut longer = good.clone();
    longer.extend([0; 9]);
    for (bytes, expected) in [
        (Vec::new(), "empty file".to_owned()),
        (vec![1, 2, 3], "truncated: the header's length reaches to byte 8".to_owned()),
        (
            good[..cut].to_vec(),
            format!(
                "truncated: the last tensor reaches to byte {whole}, but the file has {cut} bytes"
            ),
        ),
        (longer, format!("{} bytes, but its tensors end at byte {whole}", whole + 9)),
        (vec![255; 64], "not a safetensors file: a header of 18446744073709551615 bytes".into()),
        (header("{", 0), "safetensors header: EOF while parsing".into()),
        (good[..20].to_vec(), "truncated: the header reaches to byte".into()),
        (
            header(r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4),
            "safetensors header: invalid shape, data type, or offset".into(),
        ),
        (
            header(
                r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                8,
            ),
            "safetensors header: invalid offset for tensor".into(),
        ),
        (
            header(
                r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
                4,
            ),
            "safetensors header: overflow".into(),
        ),
    ] {
        let text = open_bytes(&bytes).unwrap_err().to_string();
        let expected = format!("model.safetensors: {expected}");
        assert!(text.contains(&expected), "{text}\nexpected: {expected}");
    }
}

/// A copy of the sharded fixture.
fn sharded() -> (TempDir, PathBuf) {
    let (folder, from) = (tempfile::tempdir().unwrap(), fixture("models/sharded_bf16"));
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    (folder, index)
}

#[test]
fn shards_must_be_there_and_hold_what_the_index_says() {
    let open = |folder: &TempDir| SafetensorsSource::open(folder.path(), Vec::new());
    let second = "model-00002-of-00002.safetensors";
    let (folder, _) = sharded();
    assert!(open(&folder).is_ok());
    std::fs::remove_file(folder.path().join(second)).unwrap();
    let text = open(&folder).unwrap_err().to_string();
    assert!(text.ends_with(&format!("index.json: names {second}, which is not in the folder")));

    for (file, expected) in [
        ("model-00001-of-00002.safetensors", "should be in model-00001-of-00002.safetensors"),
        ("../elsewhere.safetensors", "the name of a file in the same folder expected"),
        ("/etc/passwd", "the name of a file in the same folder expected"),
        ("..", "the name of a file in the same folder expected"),
        ("", "the name of a file in the same folder expected"),
    ] {
        let (folder, index) = sharded();
        let mut json = json_of(folder.path(), "model.safetensors.index.json");
        json["weight_map"]["model.norm.weight"] = json!(file);
        std::fs::write(&index, json.to_string()).unwrap();
        let text = open(&folder).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }

    // The same tensor in two files.
    let (folder, _) = sharded();
    let first = folder.path().join("model-00001-of-00002.safetensors");
    std::fs::remove_file(folder.path().join(second)).unwrap();
    std::fs::copy(first, folder.path().join(second)).unwrap();
    let text = open(&folder).unwrap_err().to_string();
    assert!(text.contains(": also in ") || text.contains("should be in"), "{text}");

    let (folder, index) = sharded();
    std::fs::write(index, "{}").unwrap();
    let text = open(&folder).unwrap_err().to_string();
    assert!(text.ends_with("index.json: weight_map: an object expected"), "{text}");
}

#[test]
fn the_digest_covers_weights_and_settings() {
    let folder = fixture("models/sharded_bf16");
    let digest = |files: Vec<_>| SafetensorsSource::open(&folder, files).unwrap().digest().unwrap();
    let own = adapruner_checkpoint::Digest::of_bytes(b"settings");
    let plain = digest(Vec::new());
    assert_eq!(plain, digest(Vec::new()));
    assert_ne!(plain, digest(vec![("config.json".into(), own)]));
    let other = SafetensorsSource::open(&fixture("models/tiny"), Vec::new()).unwrap();
    assert_ne!(plain, other.digest().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_safetensors_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = good_bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(source) = open_bytes(bytes) {
                for name in source.names() {
                    let _ = source.load(&name, DType::F32, &Device::Cpu);
                }
            }
        }
    }

    /// Any JSON value under any key of the configuration.
    #[test]
    fn arbitrary_settings_never_panic(
        key in prop::sample::select(vec![
            "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "intermediate_size", "vocab_size", "head_dim", "rope_theta", "rope_scaling",
            "rope_parameters", "sliding_window", "eos_token_id", "architectures",
            "quantization_config", "layer_widths", "max_position_embeddings",
        ]),
        value in prop_oneof![
            Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from), any::<f64>().prop_map(Value::from),
            "[a-z]{0,9}".prop_map(Value::from), Just(json!([])), Just(json!({})), Just(json!([{}])),
            Just(json!({"type": "llama3", "factor": 0})), Just(json!(["AdaprunerLlamaForCausalLM"])),
        ],
    ) {
        let mut json = llama(json!({"architectures": null}));
        json[key] = value;
        for kind in ["llama", "mistral", "adapruner_llama"] {
            json["model_type"] = kind.into();
            let _ = read_config(&json);
        }
    }
}
