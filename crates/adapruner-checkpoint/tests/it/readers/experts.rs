//! Mixtures of experts, as folders and files hold them, the good and the bad.

use std::path::Path;

use adapruner_checkpoint::{
    Architecture, Checkpoint, Experts, LayerWidths,
    gguf::{Header, Value, config::model_config},
};
use candle_core::{Device, Tensor};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{
    fixture,
    gguf_bytes::GgufBytes,
    gguf_model::{metadata, widths},
};

/// A fixture with other keys in its configuration (null takes a key away) and other tensors.
fn changed(
    name: &str,
    keys: Json,
    tensors: impl Fn(String, Tensor) -> Option<(String, Tensor)>,
) -> TempDir {
    let (from, to) = (fixture("models").join(name), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    let path = to.path().join("config.json");
    let mut config: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        if value.is_null() {
            config.as_object_mut().unwrap().remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    std::fs::write(&path, config.to_string()).unwrap();
    let path = to.path().join("model.safetensors");
    let all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let all = all.into_iter().filter_map(|(name, tensor)| tensors(name, tensor)).collect();
    candle_core::safetensors::save(&all, &path).unwrap();
    to
}

fn refusal(
    name: &str,
    keys: Json,
    tensors: impl Fn(String, Tensor) -> Option<(String, Tensor)>,
) -> String {
    Checkpoint::open(changed(name, keys, tensors).path()).unwrap_err().to_string()
}

fn same(name: String, tensor: Tensor) -> Option<(String, Tensor)> {
    Some((name, tensor))
}

#[test]
fn folders_say_what_their_experts_are() {
    for (name, architecture, experts, ffn) in [
        (
            "qwen3_moe",
            Architecture::Qwen3Moe,
            Experts { count: 11, chosen: 2, normalised: true },
            7,
        ),
        ("olmoe", Architecture::Olmoe, Experts { count: 6, chosen: 3, normalised: false }, 9),
        ("mixtral", Architecture::Mixtral, Experts { count: 4, chosen: 2, normalised: true }, 11),
    ] {
        let config = Checkpoint::open(&fixture("models").join(name)).unwrap().config;
        assert_eq!((config.architecture, config.experts), (architecture, Some(experts)), "{name}");
        assert!(config.layers.iter().all(|w| w.ffn == ffn * experts.count), "{name}");
        assert_eq!(config.expert_width(&config.layers[0]), ffn);
        // Gate, up and down of the experts that a token does not take, in each layer.
        let idle = (experts.count - experts.chosen) * 3 * ffn * config.hidden_size;
        let idle = (config.layers.len() * idle) as u64;
        assert_eq!(config.parameters() - config.active_parameters(), idle, "{name}");
    }
}

#[test]
fn settings_that_are_not_run_are_refused_by_name() {
    for (name, keys, expected) in [
        (
            "qwen3_moe",
            json!({"num_experts_per_tok": 12}),
            "num_experts_per_tok: 1 to the 11 experts of num_experts expected, 12 found",
        ),
        (
            "mixtral",
            json!({"num_experts_per_tok": 0}),
            "num_experts_per_tok: 1 to the 4 experts of num_local_experts expected, 0 found",
        ),
        ("olmoe", json!({"num_experts": null}), "num_experts: missing"),
        ("qwen3_moe", json!({"mlp_only_layers": [0]}), "mlp_only_layers: layers without experts"),
        (
            "qwen3_moe",
            json!({"decoder_sparse_step": 2}),
            "decoder_sparse_step: 1 expected, 2 found",
        ),
        (
            "qwen3_moe",
            json!({"use_sliding_window": true}),
            "use_sliding_window: a window in every layer",
        ),
        ("olmoe", json!({"clip_qkv": 8.0}), "clip_qkv: queries, keys and values are clipped"),
        ("olmoe", json!({"num_experts": 0, "num_experts_per_tok": 0}), "1 to the 0 experts"),
    ] {
        let found = refusal(name, keys.clone(), same);
        assert!(found.contains(expected), "{found}\nexpected: {expected}");
    }
}

#[test]
fn experts_that_are_missing_and_routers_of_other_shapes_are_named() {
    let gone = "model.layers.1.mlp.experts.3.up_proj.weight";
    let found =
        refusal("qwen3_moe", json!({}), |name, tensor| (name != gone).then_some((name, tensor)));
    assert!(found.ends_with(&format!("tensor {gone}: missing, shape [7, 20] expected")), "{found}");
    let router = "model.layers.0.block_sparse_moe.gate.weight";
    let found = refusal("mixtral", json!({}), |name, tensor| {
        let tensor = if name == router { tensor.narrow(0, 0, 3).unwrap() } else { tensor };
        Some((name, tensor))
    });
    assert!(found.ends_with("gate.weight: shape [4, 18] expected, [3, 18] found"), "{found}");
    // One more than the configuration says.
    let found = refusal("olmoe", json!({"num_experts": 5}), same);
    assert!(found.contains("mlp.gate.weight: shape [5, 24] expected, [6, 24] found"), "{found}");
}

#[test]
fn stacked_experts_are_refused_with_what_to_do() {
    let folder = changed("qwen3_moe", json!({}), |name, tensor| {
        let stacked = "model.layers.0.mlp.experts.down_proj";
        let name = match name.as_str() {
            "model.layers.0.mlp.experts.0.down_proj.weight" => stacked.to_owned(),
            _ => name,
        };
        Some((name, tensor))
    });
    let error = Checkpoint::open(folder.path()).unwrap_err();
    let expected = "tensor model.layers.0.mlp.experts.down_proj: all experts in one tensor";
    assert!(error.to_string().contains(expected), "{error}");
    assert!(error.hint().unwrap().contains("save it again"), "{error}");
}

/// A file's metadata, and what is read of it.
fn of_file(file: &GgufBytes) -> adapruner_checkpoint::Result<adapruner_checkpoint::ModelConfig> {
    let bytes = file.build();
    let header = Header::parse(&bytes).unwrap();
    model_config(Path::new("m.gguf"), &header, &bytes)
}

#[test]
fn files_say_what_their_experts_are() {
    let each = [LayerWidths { ffn: 6, ..widths(2, 1, 6) }; 2];
    for (name, width, architecture, normalised) in [
        ("llama", None, Architecture::Mixtral, true),
        ("olmoe", None, Architecture::Olmoe, false),
        ("qwen3moe", Some(3_u32), Architecture::Qwen3Moe, true),
    ] {
        let key = |key: &str| format!("{name}.{key}");
        let good = || {
            let file = metadata(name, &each)
                .entry(&key("expert_count"), Value::U32(4))
                .entry(&key("expert_used_count"), Value::U32(2));
            let file = match width {
                Some(width) => file.entry(&key("expert_feed_forward_length"), Value::U32(width)),
                None => file,
            };
            // All that the configuration is read of.
            let file = file.f32("token_embd.weight", &[11, 8], &[0.5; 88]);
            let file = file.f32("output.weight", &[11, 8], &[0.5; 88]);
            file.f32("output_norm.weight", &[8], &[1.0; 8])
        };
        let found = of_file(&good()).unwrap();
        let experts = Experts { count: 4, chosen: 2, normalised };
        assert_eq!((found.architecture, found.experts), (architecture, Some(experts)));
        let ffn = 4 * width.map_or(6, |width| width as usize);
        assert!(found.layers.iter().all(|widths| widths.ffn == ffn), "{name}");
        for (of, value, expected) in [
            ("expert_used_count", Value::U32(5), "1 to the 4 experts expected, 5 found"),
            ("expert_shared_count", Value::U32(1), "0 expected, 1 found: not supported"),
            ("leading_dense_block_count", Value::U32(1), "0 expected, 1 found: not supported"),
            ("expert_gating_func", Value::U32(2), "weights of experts by function 2"),
            ("expert_weights_scale", Value::F32(2.5), "a scale of 2.5 is not supported"),
        ] {
            let found = of_file(&good().entry(&key(of), value)).unwrap_err().to_string();
            let expected = format!("m.gguf: metadata key {name}.{of}: {expected}");
            assert!(found.starts_with(&expected), "{found}\nexpected: {expected}");
        }
    }
    let dense = metadata("qwen2", &each).entry("qwen2.expert_count", Value::U32(8));
    let found = of_file(&dense).unwrap_err().to_string();
    assert!(
        found.contains("qwen2.expert_count: a mixture of 8 experts is not supported"),
        "{found}"
    );
}
