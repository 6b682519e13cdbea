//! Hugging Face folders that are written.

use adapruner_checkpoint::{
    Architecture, Checkpoint, ModelConfig, Rope, RopeScaling,
    hf::{self, HfOptions, StoreType},
    names,
    names::Projection,
    output::Written,
};
use candle_core::DType;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    FOLDERS_ONLY, MODELS, Progress, any_config, assert_reported, assert_same_tensors, config,
    family, open_fixture, random_model, widths, with_value,
};

fn write(model: &Checkpoint, options: &HfOptions) -> (TempDir, Written) {
    let folder = tempfile::tempdir().unwrap();
    let mut progress = Progress::default();
    let written =
        hf::write(model, folder.path(), options, &mut |done, total| progress.update(done, total))
            .unwrap();
    assert!(progress.total > 0 && progress.done == progress.total);
    assert_reported(&written, folder.path());
    (folder, written)
}

fn read_json(folder: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path().join(name)).unwrap()).unwrap()
}

#[test]
fn every_fixture_comes_back() {
    for name in MODELS.into_iter().chain(FOLDERS_ONLY.map(|(name, _)| name)) {
        let model = open_fixture(name);
        let (folder, written) = write(&model, &HfOptions::default());
        let again = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(again.config, model.config, "{name}");
        assert_eq!(again.generation_config, model.generation_config, "{name}");
        assert_same_tensors(&again, &model, DType::F32);
        for tensor in model.tensors.names() {
            assert_eq!(again.tensors.meta(&tensor), model.tensors.meta(&tensor), "{name}");
        }
        let tokenizer =
            |folder: &std::path::Path| std::fs::read(folder.join("tokenizer.json")).unwrap();
        assert_eq!(tokenizer(folder.path()), tokenizer(&model.origin), "{name}");
        let expected = if matches!(name, "tiny" | "sharded_bf16") { "BF16" } else { "F32" };
        assert_eq!(written.dtype, expected, "{name}");
        assert_eq!(written.warnings.is_empty(), name != "per_layer", "{name}");
        let names: Vec<_> = written.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names.contains(&"modeling_adapruner.py"), name == "per_layer", "{name}");
        let config = read_json(&folder, "config.json");
        assert_eq!(config.get("auto_map").is_some(), name == "per_layer", "{name}");
    }
}

#[test]
fn weights_are_stored_in_the_type_asked_for() {
    for (store, dtype, name) in [
        (StoreType::F32, DType::F32, "F32"),
        (StoreType::F16, DType::F16, "F16"),
        (StoreType::Bf16, DType::BF16, "BF16"),
    ] {
        for fixture in ["biases", "tiny", "per_layer"] {
            let model = open_fixture(fixture);
            let (folder, written) = write(&model, &HfOptions { store, ..HfOptions::default() });
            let again = Checkpoint::open(folder.path()).unwrap();
            assert_same_tensors(&again, &model, dtype);
            assert_eq!(written.dtype, name);
            for tensor in again.tensors.names() {
                assert_eq!(again.tensors.meta(&tensor).unwrap().stored, name);
            }
        }
    }
}

#[test]
fn shards_are_of_the_size_asked_for_and_indexed() {
    let model = open_fixture("gqa3_untied");
    let options = HfOptions { max_shard_bytes: 10_000, ..HfOptions::default() };
    let (folder, written) = write(&model, &options);
    assert_same_tensors(&Checkpoint::open(folder.path()).unwrap(), &model, DType::F32);

    let index = read_json(&folder, "model.safetensors.index.json");
    let bytes = |name: &str| model.tensors.meta(name).unwrap().bytes;
    let total: u64 = model.tensors.names().iter().map(|n| bytes(n)).sum();
    assert_eq!(index["metadata"]["total_size"], json!(total));
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), model.tensors.names().len());
    let mut shards = 0;
    for file in written.files.iter().filter(|f| f.name.ends_with(".safetensors")) {
        shards += 1;
        let path = folder.path().join(&file.name);
        let own = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        let mut named: Vec<_> = map.iter().filter(|(_, f)| **f == json!(file.name)).collect();
        named.sort_by_key(|(name, _)| name.to_string());
        let mut present: Vec<_> = own.keys().cloned().collect();
        present.sort();
        assert_eq!(named.iter().map(|(n, _)| n.to_string()).collect::<Vec<_>>(), present);
        let sum: u64 = present.iter().map(|n| bytes(n)).sum();
        assert!(sum <= 10_000 || present.len() == 1, "{}: {sum}", file.name);
    }
    assert!(shards > 3, "{shards}");
    assert!(
        written.files.iter().any(|f| f.name == format!("model-00001-of-{shards:05}.safetensors"))
    );
}

/// Readers in other languages view the file's bytes as they lie.
#[test]
fn mixed_types_lie_at_multiples_of_their_size() {
    let model = random_model(config(&[widths(2, 1, 3)]), DType::BF16, 1);
    let mixed = with_value(&model, "model.norm.weight", 0.5);
    let mut tensors = std::collections::BTreeMap::new();
    for tensor in names::expected_tensors(&model.config) {
        let from = if tensor.shape.len() == 1 { &mixed } else { &model };
        let dtype = if tensor.shape.len() == 1 { DType::F32 } else { DType::BF16 };
        let loaded = from.tensors.load(&tensor.name, dtype, &candle_core::Device::Cpu).unwrap();
        tensors.insert(tensor.name, loaded);
    }
    let model = Checkpoint { tensors: std::sync::Arc::new(super::Memory { tensors }), ..model };
    let (folder, written) = write(&model, &HfOptions::default());
    assert_eq!(written.dtype, "BF16");
    assert_same_tensors(&Checkpoint::open(folder.path()).unwrap(), &model, DType::F32);
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let (length, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    for (name, info) in metadata.tensors() {
        let at = 8 + length + info.data_offsets.0;
        assert!(at.is_multiple_of(info.dtype.bitsize() / 8), "{name} at {at}");
    }
}

#[test]
fn values_that_f16_cannot_hold_are_named() {
    let model = random_model(config(&[widths(2, 1, 3)]), DType::F32, 2);
    let name = "model.layers.0.mlp.up_proj.weight";
    let large = with_value(&model, name, 70_000.0);
    let folder = tempfile::tempdir().unwrap();
    let write = |model: &Checkpoint, store| {
        let options = HfOptions { store, ..HfOptions::default() };
        hf::write(model, folder.path(), &options, &mut |_, _| {})
    };
    let error = write(&large, StoreType::F16).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("memory: tensor {name}: has values beyond ±65504, which F16 cannot hold")
    );
    assert_eq!(error.hint(), Some("store the weights as bf16 or f32"));
    assert!(write(&large, StoreType::Bf16).is_ok() && write(&large, StoreType::Keep).is_ok());
    let error = write(&with_value(&model, name, f32::NAN), StoreType::F16).unwrap_err();
    assert!(error.to_string().ends_with("values are NaN or infinite"), "{error}");
}

/// transformers from 5.6 on refuses a Llama whose `H` is no multiple of `N`.
#[test]
fn models_are_written_as_what_opens_everywhere() {
    let uniform = |heads| config(&[widths(heads, 1, 9); 2]);
    let mistral = ModelConfig { architecture: Architecture::Mistral, ..uniform(6) };
    let biased = ModelConfig { attention_bias: true.into(), ..uniform(5) };
    for (config, expected, warned) in [
        (uniform(6), "LlamaForCausalLM", false),
        (uniform(5), "MistralForCausalLM", false),
        (mistral, "MistralForCausalLM", false),
        (ModelConfig { attention_bias: true.into(), ..uniform(6) }, "LlamaForCausalLM", false),
        (biased, "LlamaForCausalLM", true),
        (config(&[widths(2, 1, 9), widths(2, 1, 8)]), "AdaprunerLlamaForCausalLM", true),
        (config(&[widths(0, 0, 9); 2]), "AdaprunerLlamaForCausalLM", true),
    ] {
        let model = random_model(config.clone(), DType::F32, 3);
        let (folder, written) = write(&model, &HfOptions::default());
        let json = read_json(&folder, "config.json");
        assert_eq!(json["architectures"], json!([expected]));
        assert_eq!(!written.warnings.is_empty(), warned, "{:?}", written.warnings);
        assert_eq!(json["head_dim"], json!(4));
        if expected.starts_with("Mistral") {
            // Named, since a missing key is a window of 4096 tokens.
            assert_eq!(json.get("sliding_window"), Some(&Value::Null));
        }
        let mut again = Checkpoint::open(folder.path()).unwrap();
        again.config.architecture = config.architecture;
        assert_eq!(again.config, config);
    }
}

/// Every family, uniform and with widths per layer; lists with an entry for each layer are
/// then in the order of the cache.
#[test]
fn every_family_comes_back() {
    for architecture in Architecture::ALL {
        let per_layer = [
            widths(0, 0, 5),
            widths(4, 2, 9),
            widths(3, 3, 7),
            widths(0, 0, 6),
            widths(4, 1, 9),
            widths(4, 2, 8),
            widths(2, 1, 3),
        ];
        for layers in [[widths(6, 2, 9); 7], per_layer] {
            let config = family(architecture, &layers);
            let model = random_model(config.clone(), DType::F32, 3);
            let (folder, written) = write(&model, &HfOptions::default());
            let mut again = Checkpoint::open(folder.path()).unwrap();
            if config.is_llama_like() && again.config.architecture == Architecture::Llama {
                again.config.architecture = architecture;
            }
            assert_eq!(again.config, config);
            assert_same_tensors(&again, &model, DType::F32);
            let named = |name: &str| written.files.iter().any(|file| file.name == name);
            assert_eq!(named("modeling_adapruner.py"), layers == per_layer);
            let json = read_json(&folder, "config.json");
            let family = architecture.family();
            if architecture == Architecture::Gemma3 {
                // The sixth layer sees all, and is the fourth with attention.
                let full = if layers == per_layer { 3 } else { 5 };
                let types = json["layer_types"].as_array().unwrap();
                for (at, kind) in types.iter().enumerate() {
                    let expected = if at == full { "full_attention" } else { "sliding_attention" };
                    assert_eq!(kind, expected, "{at}");
                }
                assert_eq!(json["query_pre_attn_scalar"], json!(4));
            }
            assert!(json.get(family.activation.0).is_some());
        }
    }
}

/// Biases that were fitted to Qwen 2 make it a Llama, with zeros for those it lacks; other
/// families have no room for them.
#[test]
fn fitted_biases_are_written_where_a_class_holds_them() {
    let biased = |architecture, projection| {
        let mut config = family(architecture, &[widths(4, 2, 9); 2]);
        config.add_bias(projection);
        config
    };
    assert!(hf::opens_elsewhere(&family(Architecture::Qwen2, &[widths(4, 2, 9); 2])));
    let output = biased(Architecture::Qwen2, Projection::O);
    assert!(hf::opens_elsewhere(&output));
    let (folder, _) = write(&random_model(output, DType::F32, 1), &HfOptions::default());
    let again = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(again.config.architecture, Architecture::Llama);
    assert!(hf::opens_elsewhere(&biased(Architecture::Qwen2, Projection::Down)));
    assert!(hf::opens_elsewhere(&biased(Architecture::SmolLm3, Projection::Down)));
    for (architecture, projection) in [
        (Architecture::Qwen3, Projection::Down),
        (Architecture::Gemma3, Projection::Down),
        (Architecture::Olmo2, Projection::Up),
    ] {
        assert!(!hf::opens_elsewhere(&biased(architecture, projection)), "{architecture:?}");
    }
}

#[test]
fn absurd_configurations_are_not_written() {
    let model = random_model(config(&[widths(2, 1, 3)]), DType::F32, 4);
    let folder = tempfile::tempdir().unwrap();
    let bad = ModelConfig { layers: vec![widths(3, 2, 3)], ..model.config.clone() };
    let wide = ModelConfig { layers: vec![widths(2, 1, 4)], ..model.config.clone() };
    for (config, expected) in [
        (bad, "query heads must be a multiple of key-value heads, 3 and 2 found"),
        (wide, "tensor model.layers.0.mlp.gate_proj.weight: shape [4, 24] expected, [3, 24] found"),
    ] {
        let model = Checkpoint { config, ..model.clone() };
        let error = hf::write(&model, folder.path(), &HfOptions::default(), &mut |_, _| {});
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with(expected), "{text}");
    }
}

#[test]
fn longrope_is_plain_divisors_or_those_of_short_and_long_texts() {
    let scaling = RopeScaling::Factors { divisors: vec![1.5, 2.0] };
    let rope = Rope { theta: 10_000.0, scaling };
    let model = ModelConfig { rope, ..config(&[widths(2, 1, 3)]) };
    let (folder, _) = write(&random_model(model, DType::F32, 5), &HfOptions::default());
    let path = folder.path().join("config.json");
    let good = read_json(&folder, "config.json");
    let read = |json: &Value| hf::config::model_config(&path, json);
    assert!(read(&good).is_ok());
    let long = |json: &Value| {
        let config = read(json).unwrap();
        let longest = config.longest();
        let RopeScaling::Long { short, long, attention_factor, .. } = config.rope.scaling else {
            panic!("{json}");
        };
        (short, long, attention_factor, longest)
    };
    let mut changed = good.clone();
    changed["rope_scaling"]["long_factor"] = json!([1.5, 2.5]);
    assert_eq!(long(&changed), (vec![1.5, 2.0], vec![1.5, 2.5], 1.0, 64));
    // What transformers takes for a missing factor follows from the context lengths.
    changed["rope_scaling"]["attention_factor"] = Value::Null;
    changed["original_max_position_embeddings"] = json!(16);
    let expected = (1.0 + 4_f64.ln() / 16_f64.ln()).sqrt();
    assert_eq!(long(&changed), (vec![1.5, 2.0], vec![1.5, 2.5], expected, 16));
    for (key, value, expected) in [
        ("long_factor", json!([1.5]), "2 divisors expected, 1 found"),
        ("long_factor", json!([1.5, 0.0]), "divisors above 0 expected, 0 found"),
        ("attention_factor", json!(-1.0), "attention_factor above 0 expected, -1 found"),
        ("short_factor", json!([1.5, "x"]), "short_factor: numbers expected"),
        ("short_factor", Value::Null, "short_factor: missing"),
    ] {
        let mut json = good.clone();
        json["rope_scaling"][key] = value;
        let text = read(&json).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_model_comes_back(
        config in any_config(),
        dtype in prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]),
        shard in 100u64..40_000,
        seed in any::<u64>(),
    ) {
        let model = random_model(config.clone(), dtype, seed);
        let options = HfOptions { max_shard_bytes: shard, ..HfOptions::default() };
        let (folder, _) = write(&model, &options);
        let mut again = Checkpoint::open(folder.path()).unwrap();
        again.config.architecture = config.architecture;
        prop_assert_eq!(&again.config, &config);
        assert_same_tensors(&again, &model, DType::F32);
    }
}
