//! `Checkpoint::open`: whole models, and what is wrong with bad ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use adapruner_checkpoint::{
    Checkpoint, Error,
    gguf::Value,
    names,
    text::{self, TextOptions},
};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use tempfile::TempDir;

use super::{
    fixture,
    gguf_bytes::GgufBytes,
    gguf_model::{config, metadata, model, widths},
};

fn refusal(path: &Path) -> Error {
    Checkpoint::open(path).expect_err("a refused model")
}

/// A copy of a fixture, to be damaged.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("models").join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn change_json(folder: &TempDir, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.path().join(name);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Rewrites `model.safetensors` with other tensors.
fn change_weights(
    folder: &TempDir,
    change: impl FnOnce(&mut std::collections::HashMap<String, Tensor>),
) {
    let path = folder.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    fs::remove_file(&path).unwrap();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn every_fixture_opens_whole() {
    for name in ["biases", "mistral_no_window", "per_layer", "sharded_bf16", "tiny"] {
        let folder = fixture("models").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        assert_eq!(checkpoint.origin, folder);
        assert!(checkpoint.generation_config.is_some(), "{name}");
        assert!(checkpoint.tokenizer.vocab_size() <= checkpoint.config.vocab_size);
        for tensor in names::expected_tensors(&checkpoint.config) {
            let loaded = checkpoint.tensors.load(&tensor.name, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(loaded.dims(), tensor.shape);
        }
        let again = Checkpoint::open(&folder).unwrap();
        assert_eq!(checkpoint.digest().unwrap(), again.digest().unwrap());
    }
}

#[test]
fn the_digest_changes_with_each_part_of_a_folder() {
    let digest = |folder: &TempDir| Checkpoint::open(folder.path()).unwrap().digest().unwrap();
    let plain = digest(&copy("mha_tied"));
    let folder = copy("mha_tied");
    assert_eq!(plain, digest(&folder));
    change_json(&folder, "config.json", |json| json["rope_theta"] = json!(12345.0));
    let settings = digest(&folder);
    change_weights(&folder, |tensors| {
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        *norm = zeros(norm.dims());
    });
    assert!(plain != settings && settings != digest(&folder));
}

#[test]
fn surplus_tensors_are_ignored_and_unknown_ones_refused() {
    let folder = copy("mha_tied");
    change_weights(&folder, |tensors| {
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), zeros(&[4]));
        tensors.insert("lm_head.weight".into(), zeros(&[266, 24]));
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(checkpoint.tensors.meta("lm_head.weight").is_none());

    change_weights(&folder, |tensors| {
        tensors.insert("model.layers.0.self_attn.q_norm.weight".into(), zeros(&[8]));
        tensors.insert("model.layers.1.self_attn.q_norm.weight".into(), zeros(&[8]));
    });
    let text = refusal(folder.path()).to_string();
    let expected = "tensor model.layers.0.self_attn.q_norm.weight: not part of the model that the configuration describes (nor are 1 others)";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn tensors_that_are_missing_or_misshapen_are_named() {
    let folder = copy("mha_tied");
    change_weights(&folder, |tensors| {
        tensors.insert("model.layers.1.mlp.up_proj.weight".into(), zeros(&[35, 24]));
    });
    let text = refusal(folder.path()).to_string();
    let place = folder.path().display();
    assert_eq!(
        text,
        format!(
            "{place}: tensor model.layers.1.mlp.up_proj.weight: shape [36, 24] expected, [35, 24] found"
        )
    );
    change_weights(&folder, |tensors| drop(tensors.remove("model.layers.0.mlp.up_proj.weight")));
    let text = refusal(folder.path()).to_string();
    assert_eq!(
        text,
        format!(
            "{place}: tensor model.layers.0.mlp.up_proj.weight: missing, shape [36, 24] expected"
        )
    );
    // The head of an untied model.
    let folder = copy("mha_tied");
    change_json(&folder, "config.json", |json| json["tie_word_embeddings"] = json!(false));
    let text = refusal(folder.path()).to_string();
    assert!(text.ends_with("tensor lm_head.weight: missing, shape [266, 24] expected"), "{text}");
}

#[test]
fn absurd_sizes_are_refused() {
    for (key, value, expected) in [
        ("num_attention_heads", json!(1 << 30), "at most 1048576 heads expected, 1073741824 found"),
        (
            "num_key_value_heads",
            json!(2),
            "query heads must be a multiple of key-value heads, 3 and 2",
        ),
        (
            "num_key_value_heads",
            json!(0),
            "query heads must be a multiple of key-value heads, 3 and 0",
        ),
        ("hidden_size", json!(3u64 << 40), "hidden size: 1 to 1048576 expected"),
        ("intermediate_size", json!(0), "feed-forward width: 1 to 1048576 expected, 0 found"),
        ("vocab_size", json!(0), "vocabulary size: 1 to 16777216 expected, 0 found"),
        ("vocab_size", json!(2), "pad token id 2 is outside the vocabulary of 2"),
        ("head_dim", json!(7), "head width: an even number expected, 7 found"),
        ("head_dim", json!(0), "head width: 1 to 8192 expected, 0 found"),
        ("rms_norm_eps", json!(0.0), "epsilon of the norms: above 0 and below 1 expected, 0 found"),
        ("rope_theta", json!(-1.0), "theta above 0 expected, -1 found"),
        ("max_position_embeddings", json!(0), "context length: 1 to"),
        ("rope_scaling", json!({"type": "linear", "factor": 0.0}), "factor above 0 expected"),
    ] {
        let folder = copy("mha_tied");
        change_json(&folder, "config.json", |json| {
            if key == "num_attention_heads" {
                json["head_dim"] = json!(8);
            }
            json[key] = value;
        });
        let text = refusal(folder.path()).to_string();
        assert!(text.contains("config.json: ") && text.contains(expected), "{text}");
    }
}

#[test]
fn folders_without_what_they_need_say_so() {
    let folder = copy("mha_tied");
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let text = refusal(folder.path()).to_string();
    assert!(text.contains("tokenizer"), "{text}");

    let weights = folder.path().join("model.safetensors");
    fs::rename(weights, folder.path().join("pytorch_model.bin")).unwrap();
    let error = refusal(folder.path());
    assert!(
        error.to_string().ends_with("weights only as pytorch_model.bin, which is not supported")
    );
    assert!(error.hint().unwrap().contains("safetensors"));

    fs::remove_file(folder.path().join("pytorch_model.bin")).unwrap();
    let text = refusal(folder.path()).to_string();
    assert!(text.ends_with("neither model.safetensors nor model.safetensors.index.json"), "{text}");

    fs::write(folder.path().join("config.json"), "{\"a\":").unwrap();
    let text = refusal(folder.path()).to_string();
    assert!(text.contains("config.json: not valid JSON"), "{text}");

    fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = refusal(folder.path());
    assert!(error.to_string().ends_with("no config.json in this folder"));
    assert_eq!(error.hint(), None);
    fs::write(folder.path().join("x.GGUF"), "").unwrap();
    assert_eq!(refusal(folder.path()).hint(), Some("give the GGUF file itself, not its folder"));
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_refused() {
    let folder = copy("mha_tied");
    change_json(&folder, "config.json", |json| {
        json["vocab_size"] = json!(200);
        for role in ["bos", "eos", "pad"] {
            json[format!("{role}_token_id")] = serde_json::Value::Null;
        }
    });
    change_weights(&folder, |tensors| {
        let embedding = tensors.get_mut("model.embed_tokens.weight").unwrap();
        *embedding = embedding.narrow(0, 0, 200).unwrap();
    });
    let text = refusal(folder.path()).to_string();
    let expected = "tokenizer: it has ids up to 265, but the model's vocabulary has only 200";
    assert!(text.ends_with(expected), "{text}");
}

/// transformers opens such a model; a text that holds the token fails there, in the
/// embedding.
#[test]
fn an_added_token_beyond_the_embedding_is_refused_where_a_text_holds_it() {
    let folder = copy("mha_tied");
    change_json(&folder, "tokenizer.json", |json| {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": 266, "content": "[PAD]", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }));
    });
    change_json(&folder, "tokenizer_config.json", |json| json["pad_token"] = json!("[PAD]"));
    let rows = Checkpoint::open(&fixture("models/mha_tied")).unwrap().config.vocab_size;
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let tokenizer = &checkpoint.tokenizer;
    assert_eq!((rows, tokenizer.vocab_size(), tokenizer.pad_id()), (266, 266, None));
    let text = "a text";
    let dense = Checkpoint::open(&fixture("models/mha_tied")).unwrap();
    assert_eq!(tokenizer.encode(text).unwrap(), dense.tokenizer.encode(text).unwrap());
    let expected = "token \"[PAD]\" has id 266, beyond the model's vocabulary of 266";
    for error in [
        tokenizer.encode("a [PAD]").unwrap_err(),
        tokenizer.encode_with_offsets("a [PAD]").unwrap_err(),
    ] {
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    assert!(tokenizer.decode(&[266], false).is_err());
    assert_eq!(tokenizer.unassigned_ids(270), [267, 268, 269]);
    // The token is left out where a file holds one for each row.
    let tokens = tokenizer.gguf_metadata(266).unwrap();
    assert_eq!(tokens["tokenizer.ggml.tokens"].as_array().unwrap().len(), 266);
}

#[test]
fn pointers_of_git_lfs_say_what_they_are() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let says = |error: Error, name: &str| {
        let text = error.to_string();
        assert!(text.ends_with(&format!("{name}: a Git LFS pointer, not the file itself")));
        assert!(error.hint().unwrap().contains("git lfs pull"));
    };
    for name in ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"] {
        let folder = copy("mha_tied");
        fs::remove_file(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name), pointer).unwrap();
        says(refusal(folder.path()), name);
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["m.gguf", "model"] {
        let path = folder.path().join(name);
        fs::write(&path, pointer).unwrap();
        says(refusal(&path), name);
    }
    for name in ["a.txt", "a.parquet", "a.jsonl", "a.txt.gz", "a.json.zst"] {
        let path = folder.path().join(name);
        fs::write(&path, pointer).unwrap();
        let text = text::read(path.to_str().unwrap(), &TextOptions::default());
        says(text.expect_err("a pointer"), name);
    }
}

#[test]
fn prefixes_of_wrappers_are_taken_off_all_names_or_refused() {
    for prefix in ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."] {
        let folder = copy("mha_tied");
        let renamed = |tensors: &mut std::collections::HashMap<String, Tensor>, only: &str| {
            let all = std::mem::take(tensors);
            tensors.extend(all.into_iter().map(|(name, tensor)| {
                let name = if name.contains(only) { format!("{prefix}{name}") } else { name };
                (name, tensor)
            }));
        };
        change_weights(&folder, |tensors| renamed(tensors, ""));
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let whole = Checkpoint::open(&fixture("models/mha_tied")).unwrap();
        assert_eq!(checkpoint.tensors.names(), whole.tensors.names());
        for name in whole.tensors.names() {
            let load = |c: &Checkpoint| {
                let tensor = c.tensors.load(&name, DType::F32, &Device::Cpu).unwrap();
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(load(&checkpoint), load(&whole), "{prefix}{name}");
        }
        let folder = copy("mha_tied");
        change_weights(&folder, |tensors| renamed(tensors, "mlp"));
        let error = refusal(folder.path());
        let text = error.to_string();
        assert!(text.contains("tensor names begin with") && error.hint().is_some(), "{text}");
    }
}

#[test]
fn paths_that_are_no_model_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = refusal(&path("absent")).to_string();
    assert_eq!(text, format!("{}: no such file or folder", path("absent").display()));
    let text = refusal(&PathBuf::from("absent.gguf")).to_string();
    assert_eq!(text, "absent.gguf: no such file or folder");

    fs::write(path("notes.txt"), "hello").unwrap();
    let error = refusal(&path("notes.txt"));
    assert!(error.to_string().ends_with("neither a model folder nor a GGUF file"));
    assert!(error.hint().unwrap().contains("config.json"));

    fs::write(path("m.gguf"), "hello").unwrap();
    let text = refusal(&path("m.gguf")).to_string();
    assert!(text.ends_with("not a GGUF file: magic \"GGUF\" expected, \"hell\" found"), "{text}");
    fs::write(path("e.gguf"), "").unwrap();
    assert!(refusal(&path("e.gguf")).to_string().ends_with("e.gguf: empty file"));
}

/// A file of this model in a folder of its own.
fn file_of(gguf: &GgufBytes) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    // Without an extension: the magic tells.
    let path = folder.path().join("model");
    fs::write(&path, gguf.build()).unwrap();
    (folder, path)
}

/// Tokens of a byte-level BPE without merges.
fn with_tokenizer(file: GgufBytes, tokens: &[&str]) -> GgufBytes {
    let text = |text: &str| Value::String(text.into());
    let kinds = tokens.iter().map(|_| Value::I32(1)).collect();
    file.entry("tokenizer.ggml.model", text("gpt2"))
        .entry("tokenizer.ggml.pre", text("smollm"))
        .entry("tokenizer.ggml.tokens", Value::Array(tokens.iter().map(|t| text(t)).collect()))
        .entry("tokenizer.ggml.token_type", Value::Array(kinds))
        .entry("tokenizer.ggml.merges", Value::Array(vec![text("a b")]))
}

const TOKENS: [&str; 11] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "ab", "j"];

#[test]
fn a_gguf_file_opens_whole() {
    let layers = [widths(2, 1, 6), widths(0, 0, 5), widths(2, 2, 4)];
    let (file, values) = model(metadata("deci", &layers), &config(&layers));
    let (_folder, path) = file_of(&with_tokenizer(file, &TOKENS));
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.config, config(&layers));
    for (name, expected) in values {
        let loaded = checkpoint.tensors.load(&name, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(loaded.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    }
    assert_eq!(checkpoint.digest().unwrap(), adapruner_checkpoint::Digest::of_file(&path).unwrap());
}

#[test]
fn gguf_files_that_are_no_whole_model_are_refused() {
    let layers = [widths(2, 1, 6); 2];
    let good = || with_tokenizer(model(metadata("llama", &layers), &config(&layers)).0, &TOKENS);
    let text = |file: GgufBytes| {
        let (_folder, path) = file_of(&file);
        refusal(&path).to_string()
    };
    let without = |name: &str| {
        let mut file = good();
        file.tensors.retain(|t| t.name != name);
        text(file)
    };
    assert!(without("token_embd.weight").ends_with("no tensor token_embd.weight"));
    let expected = "tensor model.layers.1.mlp.down_proj.weight: missing, shape [8, 6] expected";
    assert!(without("blk.1.ffn_down.weight").ends_with(expected));

    let mut misshapen = good();
    let tensor = misshapen.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_up.weight").unwrap();
    tensor.dims.reverse();
    let expected = "tensor model.layers.0.mlp.up_proj.weight: shape [6, 8] expected, [8, 6] found";
    assert!(text(misshapen).ends_with(expected));

    let surplus = good().f32("blk.2.ffn_norm.weight", &[8], &[1.0; 8]);
    assert!(text(surplus).contains("not part of the Llama model that the metadata describes"));

    let split = good().entry("split.count", Value::U16(3));
    let (_folder, path) = file_of(&split);
    let error = refusal(&path);
    assert!(error.to_string().ends_with("one of 3 parts; split GGUF files are not supported"));
    assert!(error.hint().is_some());

    let mut large: Vec<&str> = TOKENS.to_vec();
    large.push("k");
    let expected = "it has ids up to 11, but the model's vocabulary has only 11";
    assert!(text(with_tokenizer(good(), &large)).ends_with(expected));

    let (folder, path) = file_of(&good());
    let bytes = fs::read(&path).unwrap();
    let cut = folder.path().join("cut");
    fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let text = refusal(&cut).to_string();
    assert!(text.contains("cut: truncated: tensor output_norm.weight reaches to byte"), "{text}");
}
