//! Adapters that PEFT wrote, and adapters that are no good.

use std::path::Path;

use adapruner_checkpoint::names::Projection;
use adapruner_recover::{
    lora::{Adapter, LoraOptions, Target, scale},
    merge::merge,
    peft,
};
use candle_core::{DType, Device};
use serde_json::{Value, json};

use crate::common::{Expected, F32, MODELS, adapter_folder, checkpoint, decoder, near, said};

#[test]
fn a_merged_adapter_gives_the_logits_of_peft() {
    for model in MODELS {
        let (checkpoint, expected) = (checkpoint(model), Expected::of(model));
        let adapter = peft::read(&adapter_folder(model, "trained"), &checkpoint.config).unwrap();
        let merged = decoder(&merge(&checkpoint, &adapter).unwrap());
        let base = decoder(&checkpoint);
        for sequence in 0..3 {
            let ids = expected.ids(&format!("batch.{sequence}"));
            let logits = |decoder: &adapruner_model::Decoder| {
                decoder.logits(&decoder.tokens(&[&ids]).unwrap()).unwrap().squeeze(0).unwrap()
            };
            let right = expected.get(&format!("logits.{sequence}"));
            near(&logits(&merged), right, F32, &format!("{model}, sequence {sequence}"));
            // The adapter does something.
            let apart = (logits(&base) - right).unwrap().abs().unwrap().max_all().unwrap();
            assert!(apart.to_scalar::<f32>().unwrap() > 1e-3);
        }
    }
}

#[test]
fn patterns_of_ranks_and_alphas_are_read_and_written() {
    for (model, rslora) in [("gqa3_untied", false), ("biases", true)] {
        let checkpoint = checkpoint(model);
        let folder = adapter_folder(model, "start");
        let adapter = peft::read(&folder, &checkpoint.config).unwrap();
        assert_eq!(adapter.rslora, rslora);
        let update = |layer, projection| &adapter.updates[&(layer, projection)];
        assert_eq!(update(0, Projection::K).rank, 2);
        assert_eq!(update(1, Projection::Up).rank, 3);
        assert_eq!(update(0, Projection::Up).rank, 4);
        assert_eq!(update(1, Projection::O).alpha, 10.0);
        assert_eq!(update(1, Projection::Q).alpha, 6.0);
        assert_eq!(adapter.scale(update(0, Projection::O)), scale(10.0, 4, rslora));
        let out = tempfile::tempdir().unwrap();
        let files = peft::write(&adapter, &checkpoint.config, "some/base", out.path()).unwrap();
        assert_eq!(files.len(), 2);
        let text = std::fs::read_to_string(out.path().join(peft::CONFIG)).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["base_model_name_or_path"], "some/base");
        assert_eq!(peft::read(out.path(), &checkpoint.config).unwrap(), adapter);
        // The tensors are those of PEFT, name by name.
        let load = |path: &Path| {
            candle_core::safetensors::load(path.join(peft::WEIGHTS), &Device::Cpu).unwrap()
        };
        let (ours, theirs) = (load(out.path()), load(&folder));
        assert_eq!(ours.len(), theirs.len());
        for (name, tensor) in theirs {
            near(&ours[&name], &tensor, 0.0, &name);
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_is_the_same_for_a_seed() {
    let checkpoint = checkpoint("per_layer");
    let options = LoraOptions {
        rank: 3,
        alpha: 6.0,
        dropout: 0.0,
        targets: Projection::ALL.map(Target).to_vec(),
        rslora: false,
    };
    let adapter = Adapter::new(&checkpoint.config, &options, 1).unwrap();
    assert_eq!(adapter, Adapter::new(&checkpoint.config, &options, 1).unwrap());
    assert_ne!(adapter, Adapter::new(&checkpoint.config, &options, 2).unwrap());
    for ((layer, projection), update) in &adapter.updates {
        let inputs = update.a.len() / 3;
        let bound = 1.0 / (inputs as f32).sqrt();
        assert!(update.a.iter().all(|v| v.abs() <= bound), "layer {layer}, {projection}");
        assert!(update.a.iter().any(|v| v.abs() > bound / 2.0), "layer {layer}, {projection}");
    }
    let merged = merge(&checkpoint, &adapter).unwrap();
    assert_ne!(merged.digest().unwrap(), checkpoint.digest().unwrap());
    for name in checkpoint.tensors.names() {
        let load = |c: &adapruner_checkpoint::Checkpoint| {
            c.tensors.load(&name, DType::F32, &Device::Cpu).unwrap()
        };
        near(&load(&merged), &load(&checkpoint), 0.0, &name);
    }
    // A layer without attention has no updates there.
    let widths = &checkpoint.config.layers;
    for (layer, widths) in widths.iter().enumerate() {
        let has = adapter.updates.contains_key(&(layer, Projection::Q));
        assert_eq!(has, widths.has_attention(), "layer {layer}");
    }
}

/// A copy of a fixture's adapter with one change to its configuration.
fn changed(key: &str, value: Value) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let from = adapter_folder("gqa3_untied", "start");
    let text = std::fs::read_to_string(from.join(peft::CONFIG)).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config[key] = value;
    std::fs::write(out.path().join(peft::CONFIG), config.to_string()).unwrap();
    std::fs::copy(from.join(peft::WEIGHTS), out.path().join(peft::WEIGHTS)).unwrap();
    out
}

#[test]
fn what_is_more_than_plain_lora_is_refused_by_name() {
    let config = checkpoint("gqa3_untied").config;
    for (key, value) in [
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 1]])),
        ("lora_bias", json!(true)),
        ("peft_type", json!("IA3")),
        ("rank_pattern", json!({"(q|k)_proj": 2})),
        ("r", json!(0)),
        ("r", json!(1_000_000_000)),
        ("lora_alpha", json!("much")),
    ] {
        let folder = changed(key, value);
        let message = said(peft::read(folder.path(), &config));
        assert!(message.contains(key), "{key}: {message}");
        assert!(message.contains("adapter_config.json"), "{key}: {message}");
    }
}

#[test]
fn adapters_that_change_their_base_are_refused_by_name() {
    let config = checkpoint("gqa3_untied").config;
    for way in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "mica", "new"] {
        let folder = changed("init_lora_weights", json!(way));
        let message = said(peft::read(folder.path(), &config));
        assert!(message.contains("init_lora_weights") && message.contains(way), "{message}");
    }
    for way in [json!("gaussian"), json!("eva"), json!("orthogonal"), json!(false), Value::Null] {
        peft::read(changed("init_lora_weights", way).path(), &config).unwrap();
    }
}

#[test]
fn settings_that_do_not_fit_the_tensors_are_named() {
    let config = checkpoint("gqa3_untied").config;
    let missing = "lora_A.weight: missing, though adapter_config.json gives its module an update";
    for (key, value, expected) in [
        ("target_modules", json!([]), "target_modules: at least one module expected, [] found"),
        ("target_modules", json!(["q_proj", "lm_head"]), "lm_head is not supported"),
        ("target_modules", json!(["query_key_value"]), "they fit no projection of the model"),
        ("target_modules", json!(["q_proj"]), "rank_pattern: \"k_proj\" fits no module"),
        ("target_modules", json!("(?=x)"), "target_modules: the regular expression"),
        ("exclude_modules", json!(["k_proj"]), "rank_pattern: \"k_proj\" fits no module"),
        ("exclude_modules", json!(["v_proj"]), "v_proj.lora_A.weight: adapter_config.json gives"),
        ("layers_to_transform", json!([99]), "layers_to_transform: the model has "),
        ("layers_to_transform", json!(["a"]), "layers_to_transform: a layer expected"),
        (
            "layers_to_transform",
            json!([0]),
            "rank_pattern: \"layers.1.mlp.up_proj\" fits no module",
        ),
        ("rank_pattern", json!({"c_attn": 2}), "rank_pattern: \"c_attn\" fits no module"),
        ("alpha_pattern", json!({"lm_head": 2}), "alpha_pattern: \"lm_head\" fits no module"),
    ] {
        let folder = changed(key, value);
        let message = said(peft::read(folder.path(), &config));
        assert!(message.contains(expected), "{key}: {message}");
    }
    // Half of the tensors.
    let folder = changed("lora_dropout", json!(0.0));
    let path = folder.path().join(peft::WEIGHTS);
    let all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let some: std::collections::HashMap<_, _> =
        all.into_iter().filter(|(name, _)| name.contains("layers.0.")).collect();
    candle_core::safetensors::save(&some, &path).unwrap();
    let message = said(peft::read(folder.path(), &config));
    assert!(message.contains("layers.1.") && message.contains(missing), "{message}");
}

/// Other parts of a larger model have modules of the same short names.
#[test]
fn an_adapter_inside_a_larger_model_names_the_modules_of_the_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../../fixtures/models/gemma3_vision");
    let config = adapruner_checkpoint::Checkpoint::open(&path).unwrap().config;
    let options = LoraOptions {
        rank: 2,
        alpha: 4.0,
        dropout: 0.0,
        targets: vec![Target(Projection::Q), Target(Projection::Down)],
        rslora: false,
    };
    let adapter = Adapter::new(&config, &options, 1).unwrap();
    let out = tempfile::tempdir().unwrap();
    peft::write(&adapter, &config, "base", out.path()).unwrap();
    assert_eq!(peft::read(out.path(), &config).unwrap(), adapter);
    let weights = out.path().join(peft::WEIGHTS);
    let tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let whole = "base_model.model.model.language_model.layers.";
    assert!(tensors.len() == 2 * 2 * 7 && tensors.keys().all(|name| name.starts_with(whole)));
    let text = std::fs::read_to_string(out.path().join(peft::CONFIG)).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let targets = json["target_modules"].as_array().unwrap();
    let first = json!("model.language_model.layers.0.mlp.down_proj");
    assert!(targets.len() == 2 * 7 && targets[0] == first, "{targets:?}");

    // As PEFT wrote it with transformers before 4.52.
    let earlier = |name: &str| name.replace("model.language_model.", "language_model.model.");
    let renamed = tensors.into_iter().map(|(name, tensor)| (earlier(&name), tensor));
    let renamed: std::collections::HashMap<_, _> = renamed.collect();
    candle_core::safetensors::save(&renamed, &weights).unwrap();
    assert_eq!(peft::read(out.path(), &config).unwrap(), adapter);
    // Of the vision tower.
    let other = |name: String| name.replace("language_model.model", "vision_tower.encoder");
    let renamed = renamed.into_iter().map(|(name, tensor)| (other(name), tensor));
    candle_core::safetensors::save(&renamed.collect(), &weights).unwrap();
    let message = said(peft::read(out.path(), &config));
    assert!(message.contains("no low-rank update of one of the projections"), "{message}");
}

#[test]
fn an_adapter_of_some_modules_is_written_with_their_names() {
    let config = checkpoint("gqa3_untied").config;
    let mut adapter = peft::read(&adapter_folder("gqa3_untied", "start"), &config).unwrap();
    adapter.updates.retain(|(layer, projection), _| (*layer == 0) == projection.is_attention());
    let out = tempfile::tempdir().unwrap();
    peft::write(&adapter, &config, "base", out.path()).unwrap();
    assert_eq!(peft::read(out.path(), &config).unwrap(), adapter);
}

#[test]
fn wrong_shapes_name_the_tensor_and_both_shapes() {
    let folder = changed("r", json!(5));
    let message = said(peft::read(folder.path(), &checkpoint("gqa3_untied").config));
    for part in ["lora_A.weight", "shape [5, ", "[4, ", "this very model"] {
        assert!(message.contains(part), "{message}");
    }
    let other = checkpoint("mha_tied").config;
    let message = said(peft::read(&adapter_folder("gqa3_untied", "start"), &other));
    assert!(message.contains("expected"), "{message}");
}

#[test]
fn damaged_tensors_are_errors() {
    let config = checkpoint("gqa3_untied").config;
    let folder = changed("r", json!(4));
    let path = folder.path().join(peft::WEIGHTS);
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 1, 7, 8, 9, 200, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(peft::read(folder.path(), &config).is_err(), "cut at {cut}");
    }
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        // Numbers may be others; nothing panics.
        let _ = peft::read(folder.path(), &config);
    }
    let mut bytes = whole.clone();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert!(said(peft::read(folder.path(), &config)).contains("finite"));
}
