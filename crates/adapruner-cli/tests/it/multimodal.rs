//! A model of texts and images through the program: what is cut, what passes through, what is
//! said of it.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json as value};
use tempfile::tempdir;

use crate::program::{fail, json, model, succeed, tiny};

/// The tensors beside the language model: what their file says of them, and their bytes.
fn others(folder: &Path) -> BTreeMap<String, (Value, Vec<u8>)> {
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).unwrap();
    let other = |(name, mut info): (String, Value)| {
        let beside = !name.starts_with("language_model.") && name != "__metadata__";
        let place = info["data_offsets"].take();
        let at = |index: usize| place[index].as_u64().unwrap() as usize;
        beside.then(|| (name, (info, data[at(0)..at(1)].to_vec())))
    };
    header.into_iter().filter_map(other).collect()
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn the_language_model_is_cut_and_the_rest_passes_through() {
    let dir = tempdir().unwrap();
    let (model, text) = (model("gemma3_vision"), tiny().join("calibration.txt"));
    let out = dir.path().join("out");
    let paths = [("model", model.as_path()), ("text", text.as_path()), ("out", out.as_path())];
    let inspected = json("inspect {model}", &paths);
    let dense = inspected["parameters"].as_f64().unwrap();
    assert_eq!(inspected["passed"]["class"], "Gemma3ForConditionalGeneration");
    let parts = inspected["passed"]["parts"].as_object().unwrap();
    let sum: u64 = parts.values().map(|count| count.as_u64().unwrap()).sum();
    assert!(parts.len() == 2 && inspected["passed"]["parameters"] == sum, "{inspected}");
    let shown = succeed("inspect {model}", &paths);
    assert!(shown.contains("projector") && shown.contains("in no ratio"), "{shown}");

    let before = others(&model);
    assert!(before.len() > 30);
    let calibrated = "--calibration {text} --samples 8 --sample-tokens 16 --learn-masks 0 \
                      --out {out} --force";
    for (options, per_layer) in [
        ("--ratio 0.2 --layout uniform --format hf,gguf", false),
        ("--ratio 0.2 --attention-share 0.3 --save-dtype bf16", true),
        ("--drop-layers 2", false),
    ] {
        let report = json(&format!("prune {{model}} {options} {calibrated}"), &paths);
        let manifest = &report["manifest"];
        assert_eq!(manifest["passed"], inspected["passed"], "{options}");
        let left = manifest["parameters"].as_f64().unwrap();
        if options.contains("ratio") {
            assert!((left / dense - 0.8).abs() < 0.02, "{options}: {left} of {dense}");
        }
        assert!(others(&out) == before, "{options}");
        let written = config(&out);
        let own = if per_layer { "Adapruner" } else { "" };
        let class = format!("{own}Gemma3ForConditionalGeneration");
        assert_eq!(written["architectures"], value!([class]), "{options}");
        assert_eq!(written.get("auto_map").is_some(), per_layer, "{options}");
        assert_eq!(written["vision_config"], config(&model)["vision_config"]);
        let said = manifest["warnings"].to_string();
        let gguf = options.contains("gguf");
        assert_eq!(said.contains("vision tower and projector are not in it"), gguf, "{said}");
        let again = json("inspect {out}", &paths);
        assert_eq!(again["parameters"], manifest["parameters"]);
    }

    let line =
        format!("prune {{model}} --ratio 0.2 --attention-share 0.3 --format gguf {calibrated}");
    let error = fail(&line, &paths);
    assert!(error.contains("Gemma 3 (text) with widths per layer"), "{error}");
    assert!(error.contains("hint: give --layout uniform"), "{error}");
}

/// The image's tokens stay whatever the texts need, and their ids follow.
#[test]
fn a_trimmed_vocabulary_keeps_the_tokens_of_images() {
    let dir = tempdir().unwrap();
    let (model, text) = (model("gemma3_vision"), tiny().join("calibration.txt"));
    let out = dir.path().join("out");
    let paths = [("model", model.as_path()), ("text", text.as_path()), ("out", out.as_path())];
    let line = "prune {model} --vocab 264 --vocab-text {text} --out {out}";
    let report = json(line, &paths);
    let kept = report["manifest"]["plan"]["vocabulary"]["kept"].as_array().unwrap();
    let new = |old: u64| kept.iter().position(|id| id.as_u64() == Some(old)).unwrap() as u64;
    let written = config(&out);
    for (key, old) in
        [("boi_token_index", 266), ("eoi_token_index", 267), ("image_token_index", 268)]
    {
        assert!(new(old) < old);
        assert_eq!(written[key], new(old), "{key}");
    }
    assert_eq!(written["text_config"]["vocab_size"], 264);
    assert!(others(&out) == others(&model));
}
