//! Folders of models that hold a language model beside other parts.

use std::{collections::BTreeMap, path::Path};

use adapruner_checkpoint::{
    Architecture, Checkpoint, Error, ModelConfig, RopeScaling,
    arch::Multimodal,
    gguf::{self, GgufOptions},
    hf::{self, HfOptions, StoreType, config::model_config},
    tokenizer::vocabulary::Role,
};
use candle_core::{DType, Device};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    readers::fixture,
    writers::{assert_same_tensors, values},
};

const WEIGHTS: &str = "model.safetensors";

/// A tensor as its file holds it.
#[derive(Debug, Clone, PartialEq)]
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Tensors = BTreeMap<String, Raw>;

fn tensors(folder: &Path) -> Tensors {
    let mut all = Tensors::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".safetensors") || name == "expected.safetensors" {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
            all.insert(name.to_owned(), Raw { dtype: view.dtype(), shape, bytes });
        }
    }
    all
}

fn json_of(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn vision() -> std::path::PathBuf {
    fixture("models/gemma3_vision")
}

/// The fixture with other settings and tensors.
fn changed(config: impl FnOnce(&mut Value), change: impl FnOnce(&mut Tensors)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(vision()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut json = json_of(folder.path(), "config.json");
    config(&mut json);
    std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
    let mut all = tensors(folder.path());
    change(&mut all);
    let views = all.iter().map(|(name, raw)| {
        (name.as_str(), TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
    folder
}

fn renamed(rename: impl Fn(&str) -> String) -> TempDir {
    let all = |all: &mut Tensors| {
        let old = std::mem::take(all);
        all.extend(old.into_iter().map(|(name, raw)| (rename(&name), raw)));
    };
    changed(|_| {}, all)
}

fn refusal(folder: &TempDir) -> Error {
    Checkpoint::open(folder.path()).expect_err("a refused folder")
}

fn is_other(name: &str) -> bool {
    !name.contains("language_model") && !name.starts_with("lm_head")
}

/// As the 4B model's `config.json` has it.
fn released() -> Value {
    json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255_999, "eoi_token_index": 256_000, "eos_token_id": [1, 106],
        "image_token_index": 262_144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
        "vision_config": {
            "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
            "model_type": "siglip_vision_model", "num_attention_heads": 16,
            "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": false,
        },
    })
}

fn read(json: &Value) -> Result<ModelConfig, Error> {
    model_config(Path::new("config.json"), json)
}

#[test]
fn settings_that_are_left_out_are_those_of_transformers() {
    let config = read(&released()).unwrap();
    assert_eq!(config.architecture, Architecture::Gemma3);
    assert_eq!(config.multimodal, Some(Multimodal::Gemma3));
    assert_eq!((config.vocab_size, config.hidden_size, config.head_dim), (262_208, 2560, 256));
    assert_eq!(config.layers.len(), 34);
    let widths = config.uniform_widths().unwrap();
    assert_eq!((widths.query_heads, widths.kv_heads, widths.ffn), (8, 4, 10_240));
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 8.0 });
    let local = config.local_rope.as_ref().unwrap();
    assert_eq!((config.rope.theta, local.theta), (1e6, 1e4));
    assert_eq!(config.windows.iter().flatten().count(), 34 - 5);
    assert_eq!((config.window(0), config.window(5)), (Some(1024), None));
    assert_eq!(config.eos_token_ids, [1, 106]);
    assert_eq!((config.bos_token_id, config.pad_token_id), (Some(2), Some(0)));
    assert!(config.tie_word_embeddings && config.score_scale.is_none());
    // What transformers counts of `Gemma3ForCausalLM` with these settings.
    assert_eq!(config.parameters(), 3_880_263_168);
}

#[test]
fn both_namings_are_read_and_written_again() {
    let saved = Checkpoint::open(&vision()).unwrap();
    assert_eq!(saved.tensors.names().len(), 2 + 7 * 13);
    let modules = |name: &str| match name.strip_prefix("language_model.model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => format!("model.{name}"),
    };
    // As transformers 5 saves the tower.
    let flat = |name: &str| name.replace("vision_tower.vision_model.", "vision_tower.");
    for folder in [renamed(modules), renamed(flat), renamed(str::to_owned)] {
        let model = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(model.config, saved.config);
        assert_same_tensors(&model, &saved, DType::F32);
        let out = tempfile::tempdir().unwrap();
        hf::write(&model, out.path(), &HfOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(tensors(out.path()), tensors(folder.path()));
    }
}

#[test]
fn all_but_the_language_model_passes_through() {
    let model = Checkpoint::open(&vision()).unwrap();
    let passed = model.pass_through.as_ref().unwrap();
    let parts: Vec<_> = passed.parts().collect();
    let count = |part: &str| -> u64 {
        let own = tensors(&vision());
        let own = own.iter().filter(|(name, _)| name.starts_with(part));
        own.map(|(_, raw)| raw.shape.iter().product::<usize>() as u64).sum()
    };
    let expected =
        [("vision tower", count("vision_tower.")), ("projector", count("multi_modal_projector."))];
    assert_eq!(parts, expected);
    assert_eq!(passed.parameters(), expected[0].1 + expected[1].1);

    for max_shard_bytes in [5_000_000_000, 20_000] {
        let options = HfOptions { store: StoreType::Bf16, max_shard_bytes };
        let out = tempfile::tempdir().unwrap();
        let written = hf::write(&model, out.path(), &options, &mut |_, _| {}).unwrap();
        let size: u64 = written.files.iter().map(|file| file.bytes).sum();
        let planned = hf::planned_bytes(&model, &options).unwrap();
        // All but the digits of an index.
        let shards = written.files.iter().filter(|f| f.name.ends_with(".safetensors")).count();
        assert!(if shards == 1 { planned == size } else { planned < size }, "{planned}, {size}");
        let (before, after) = (tensors(&vision()), tensors(out.path()));
        assert!(before.keys().eq(after.keys()));
        for (name, raw) in &before {
            match is_other(name) {
                true => assert_eq!(&after[name], raw, "{name}"),
                false => assert_eq!(after[name].dtype, Dtype::BF16, "{name}"),
            }
        }
        for name in ["preprocessor_config.json", "processor_config.json", "chat_template.jinja"] {
            let [old, new] = [&vision(), out.path()].map(|dir| std::fs::read(dir.join(name)));
            assert_eq!(old.unwrap(), new.unwrap(), "{name}");
        }
        let [mut old, mut new] = [&vision(), out.path()].map(|dir| json_of(dir, "config.json"));
        assert_eq!(new["dtype"], "bfloat16");
        for json in [&mut old, &mut new] {
            let json = json.as_object_mut().unwrap();
            json.remove("text_config");
            json.remove("dtype");
        }
        assert_eq!(old, new);
        let again = Checkpoint::open(out.path()).unwrap();
        assert_eq!(again.config, model.config);
    }
}

#[test]
fn ids_follow_a_trimmed_vocabulary_wherever_they_stand() {
    // As a folder that names no ids but those of its processor.
    let folder = changed(
        |json| {
            json["eoi_token_id"] = json["eoi_token_index"].take();
            json.as_object_mut().unwrap().remove("eoi_token_index");
        },
        |_| {},
    );
    let processor = json!({"image_seq_length": 4, "nested": [{"image_token_id": 268}]});
    std::fs::write(folder.path().join("processor_config.json"), processor.to_string()).unwrap();
    let model = Checkpoint::open(folder.path()).unwrap();
    let must: Vec<u32> = model.vocabulary().unwrap().of_role(Role::Required).collect();
    for id in [266, 267, 268] {
        assert!(must.contains(&id), "{id}: {must:?}");
    }
    // Every other merge goes.
    let kept: Vec<u32> = (0..269).filter(|id| ![260, 263, 265].contains(id)).collect();
    let trimmed = model.with_vocabulary(&kept, 266).unwrap();
    let out = tempfile::tempdir().unwrap();
    hf::write(&trimmed, out.path(), &HfOptions::default(), &mut |_, _| {}).unwrap();
    let json = json_of(out.path(), "config.json");
    let id = |token: &str| json!(trimmed.tokenizer.encode(token).unwrap()[0]);
    assert_eq!(json["boi_token_index"], id("<start_of_image>"));
    assert_eq!(json["eoi_token_id"], id("<end_of_image>"));
    assert_eq!(json["image_token_index"], id("<image_soft_token>"));
    assert_eq!(json["image_token_index"], 265);
    assert_eq!(json["text_config"]["vocab_size"], 266);
    let processor = json_of(out.path(), "processor_config.json");
    assert_eq!(processor, json!({"image_seq_length": 4, "nested": [{"image_token_id": 265}]}));
    // What names no id is the same to the byte.
    let name = "preprocessor_config.json";
    let [old, new] = [folder.path(), out.path()].map(|dir| std::fs::read(dir.join(name)).unwrap());
    assert_eq!(old, new);
    assert_eq!(Checkpoint::open(out.path()).unwrap().config.vocab_size, 266);
}

#[test]
fn a_gguf_file_is_the_language_model_alone_and_says_so() {
    let model = Checkpoint::open(&vision()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("m.gguf");
    let written = gguf::write(&model, &path, &GgufOptions::default(), &mut |_, _| {}).unwrap();
    let said = written.warnings.join("\n");
    assert!(said.contains("vision tower and projector are not in it"), "{said}");
    let alone = Checkpoint::open(&path).unwrap();
    assert_eq!(alone.config, ModelConfig { multimodal: None, ..model.config.clone() });
    assert!(alone.pass_through.is_none());
    // Norms are stored with their one added, which rounds.
    for name in model.tensors.names().iter().filter(|name| !name.contains("norm")) {
        assert_eq!(values(&alone, name, DType::F32), values(&model, name, DType::F32), "{name}");
    }
    let again = tempfile::tempdir().unwrap();
    hf::write(&alone, again.path(), &HfOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(json_of(again.path(), "config.json")["architectures"], json!(["Gemma3ForCausalLM"]));
}

/// Another class, with a head of its own, whose language model is like Llama.
#[test]
fn mistral_3_is_written_as_what_it_was() {
    let folder = fixture("models/mistral3_vision");
    let model = Checkpoint::open(&folder).unwrap();
    assert_eq!(model.config.architecture, Architecture::Mistral);
    assert_eq!(model.config.multimodal, Some(Multimodal::Mistral3));
    assert!(!model.config.tie_word_embeddings && model.config.windows.is_empty());
    let out = tempfile::tempdir().unwrap();
    hf::write(&model, out.path(), &HfOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(tensors(out.path()), tensors(&folder));
    assert_eq!(Checkpoint::open(out.path()).unwrap().config, model.config);
    let shallow = model.with_layers(&[0, 2]).unwrap();
    hf::write(&shallow, out.path(), &HfOptions::default(), &mut |_, _| {}).unwrap();
    let written = json_of(out.path(), "config.json");
    assert_eq!(written["architectures"], json!(["Mistral3ForConditionalGeneration"]));
    assert_eq!(written["text_config"]["model_type"], "mistral");
    assert_eq!(written["text_config"]["num_hidden_layers"], 2);
    let path = out.path().join("m.gguf");
    gguf::write(&model, &path, &GgufOptions::default(), &mut |_, _| {}).unwrap();
    assert_same_tensors(&Checkpoint::open(&path).unwrap(), &model, DType::F32);
}

#[test]
fn folders_that_are_not_whole_are_refused_by_name() {
    let without =
        |part: &'static str| changed(|_| {}, move |all| all.retain(|name, _| !name.contains(part)));
    for (part, said) in [
        ("vision_tower", "no tensors vision_tower.…, which Gemma 3 (text and images) has"),
        ("projector", "no tensors multi_modal_projector.…, which"),
        ("encoder.layers.1.", "layer 1 of vision_tower: 16 tensors expected, 0 found"),
        ("encoder.layers.0.mlp.fc1.bias", "layer 0 of vision_tower: 16 tensors expected, 15 found"),
        ("language_model.", "no tensors of a language model, language_model.model.… or"),
        (
            "model.layers.3.mlp.up_proj",
            "tensor language_model.model.layers.3.mlp.up_proj.weight: missing",
        ),
    ] {
        let error = refusal(&without(part)).to_string();
        assert!(error.contains(said), "{part}: {error}");
    }
    let fewer = changed(|json| json["vision_config"]["num_hidden_layers"] = 1.into(), |_| {});
    let error = refusal(&fewer).to_string();
    assert!(
        error.contains("vision_config.num_hidden_layers is 1, but vision_tower has a layer 1"),
        "{error}"
    );
    let more =
        renamed(|name| name.replace("vision_tower.vision_model.post_layernorm", "audio_tower"));
    let error = refusal(&more).to_string();
    assert!(
        error.contains("audio_tower.bias: belongs to no part of Gemma 3 (text and images)"),
        "{error}"
    );
}

#[test]
fn what_is_quantised_or_damaged_is_refused_by_name() {
    let eight = |name: &'static str| {
        changed(
            |_| {},
            move |all| {
                let (_, raw) = all.iter_mut().find(|(of, _)| of.contains(name)).unwrap();
                raw.dtype = Dtype::U8;
                raw.bytes = vec![3; raw.shape.iter().product()];
            },
        )
    };
    for name in [
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight",
        "language_model.model.norm.weight",
    ] {
        let error = refusal(&eight(name)).to_string();
        assert!(error.contains(name) && error.contains("element type U8"), "{error}");
    }
    for nested in [false, true] {
        let quantised = changed(
            |json| {
                let at = if nested { &mut json["text_config"] } else { json };
                at["quantization_config"] = json!({"quant_method": "bitsandbytes"});
            },
            |_| {},
        );
        let error = refusal(&quantised);
        assert!(error.to_string().contains("weights quantised by bitsandbytes"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("unquantised")));
    }
    let damaged = changed(
        |_| {},
        |all| {
            let raw = all.get_mut("multi_modal_projector.mm_soft_emb_norm.weight").unwrap();
            raw.bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        },
    );
    let model = Checkpoint::open(damaged.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = hf::write(&model, out.path(), &HfOptions::default(), &mut |_, _| {}).unwrap_err();
    assert!(
        error.to_string().contains("mm_soft_emb_norm.weight: 1 of 12 values are NaN"),
        "{error}"
    );
}

#[test]
fn classes_and_settings_that_are_not_run_are_refused_by_name() {
    let said = |change: fn(&mut Value)| {
        let mut json = released();
        change(&mut json);
        read(&json).expect_err("a refused configuration").to_string()
    };
    for (change, expected) in [
        (
            (|json| drop(json.as_object_mut().unwrap().remove("text_config"))) as fn(&mut Value),
            "config.json: text_config: missing, the settings of the language model of Gemma 3 (text and images)",
        ),
        (|json| json["text_config"] = json!(3), "text_config: an object expected, 3 found"),
        (
            |json| json["text_config"]["model_type"] = "llama".into(),
            "text_config.model_type: \"llama\" is not run as the language model of Gemma 3 (text and images), only gemma3_text",
        ),
        (
            |json| json["text_config"]["hidden_size"] = "wide".into(),
            "text_config.hidden_size: a non-negative integer expected, \"wide\" found",
        ),
        (
            |json| json["architectures"] = json!(["Gemma3ForConditionalGenerations"]),
            "did you mean Gemma3ForConditionalGeneration?",
        ),
        (
            |json| json["architectures"] = json!(["LlavaNextForConditionalGeneration"]),
            "\"LlavaNextForConditionalGeneration\" is not supported, only",
        ),
        (
            |json| {
                json["architectures"] = json!(["Gemma3nForConditionalGeneration"]);
                json["model_type"] = "gemma3n".into();
            },
            "known but not run yet (embeddings per layer",
        ),
        (
            |json| json["model_type"] = "gemma3_text".into(),
            "is not the type of Gemma3ForConditionalGeneration, gemma3 expected",
        ),
    ] {
        let error = said(change);
        assert!(error.contains(expected), "{error}");
    }
    // By its type alone.
    let mut json = released();
    json.as_object_mut().unwrap().remove("architectures");
    assert_eq!(read(&json).unwrap(), read(&released()).unwrap());
}

/// The settings of a language model alone beside the weights of the whole.
#[test]
fn vision_tensors_without_their_settings_are_said_to_be_such() {
    let alone = changed(
        |json| {
            let mut text = json["text_config"].take();
            text["architectures"] = json!(["Gemma3ForCausalLM"]);
            *json = text;
        },
        |_| {},
    );
    let error = refusal(&alone);
    assert!(
        error.to_string().contains(
            "belongs to a part beside a language model, as Gemma3ForConditionalGeneration has it, \
             but config.json has no text_config"
        ),
        "{error}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("the same model")));
}

#[test]
fn tensors_of_the_language_model_keep_their_names_in_messages() {
    let folder = changed(
        |_| {},
        |all| {
            let raw = all.get_mut("language_model.model.layers.2.mlp.down_proj.weight").unwrap();
            raw.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        },
    );
    let model = Checkpoint::open(folder.path()).unwrap();
    let loaded =
        model.tensors.load("model.layers.2.mlp.down_proj.weight", DType::F32, &Device::Cpu);
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("tensor language_model.model.layers.2.mlp.down_proj.weight"), "{error}");
}
