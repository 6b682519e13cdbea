//! GGUF files that are written.

use std::path::{Path, PathBuf};

use adapruner_checkpoint::{
    Architecture, Checkpoint, ModelConfig, Rope, RopeScaling,
    gguf::{self, GgufOptions, Header, Planned, TensorKind, Value},
    names,
    names::Projection,
    output::Written,
};
use candle_core::DType;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    FOLDERS_ONLY, MODELS, Progress, any_config, assert_reported, assert_same_tensors, config,
    family, open_fixture, random_model, values, widths, with_value,
};

pub fn write(model: &Checkpoint, options: &GgufOptions) -> (TempDir, PathBuf, Written) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut progress = Progress::default();
    let written =
        gguf::write(model, &path, options, &mut |done, total| progress.update(done, total))
            .unwrap();
    assert!(progress.total > 0 && progress.done == progress.total);
    assert_reported(&written, folder.path());
    (folder, path, written)
}

pub fn of_kind(kind: TensorKind) -> GgufOptions {
    GgufOptions { kind: Some(kind.into()), ..GgufOptions::default() }
}

pub fn header(path: &Path) -> Header {
    Header::parse(&std::fs::read(path).unwrap()).unwrap()
}

const TEXT: &str = "The river's 1024 boats — naïve, \n\n  unmoored. 東京";

#[test]
fn every_fixture_comes_back() {
    for name in MODELS {
        let model = open_fixture(name);
        let (_folder, path, written) = write(&model, &GgufOptions::default());
        let again = Checkpoint::open(&path).unwrap();
        // llama.cpp knows Mistral as Llama too.
        let own = model.config.architecture;
        let mistral = own == Architecture::Mistral;
        let architecture = if mistral { Architecture::Llama } else { own };
        let expected = ModelConfig { architecture, ..model.config.clone() };
        assert_eq!(again.config, expected, "{name}");
        assert_same_tensors(&again, &model, DType::F32);
        let ids = |model: &Checkpoint| model.tokenizer.encode(TEXT).unwrap();
        assert_eq!(ids(&again), ids(&model), "{name}");
        let kind = if matches!(name, "tiny" | "sharded_bf16") { "BF16" } else { "F32" };
        assert_eq!(written.dtype, kind, "{name}");
        assert!(written.warnings.is_empty(), "{name}: {:?}", written.warnings);
        for tensor in header(&path).tensors {
            let expected = if tensor.dims.len() == 1 { "F32" } else { kind };
            assert_eq!(tensor.kind.name(), expected, "{name} {}", tensor.name);
        }
    }
}

#[test]
fn what_llama_cpp_runs_otherwise_is_refused() {
    for (name, expected) in FOLDERS_ONLY {
        let model = open_fixture(name);
        let folder = tempfile::tempdir().unwrap();
        let options = GgufOptions::default();
        let error = gguf::write(&model, &folder.path().join("m.gguf"), &options, &mut |_, _| {});
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), format!("GGUF: llama.cpp {expected}"));
        assert_eq!(error.hint(), Some("write a Hugging Face folder"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// Every family: as it is, and with widths per layer where llama.cpp has them.
#[test]
fn every_family_comes_back_or_is_refused() {
    let (mut returned, mut refused) = (0, 0);
    for architecture in Architecture::ALL {
        let uniform = family(architecture, &[widths(6, 2, 9); 7]);
        let per_layer = family(architecture, &[widths(4, 2, 9), widths(0, 0, 5), widths(3, 3, 7)]);
        for config in [uniform, per_layer] {
            let model = random_model(config.clone(), DType::BF16, 3);
            let none = architecture.family().gguf.is_none();
            if none || config.uniform_widths().is_none() && !config.is_llama_like() {
                let text = gguf::check_fits(&config, Planned::default()).unwrap_err().to_string();
                assert_eq!(text.ends_with("with widths per layer"), !none, "{text}");
                refused += 1;
                continue;
            }
            let (_folder, path, _) = write(&model, &GgufOptions::default());
            let mut again = Checkpoint::open(&path).unwrap();
            let like_llama = config.is_llama_like();
            if like_llama && again.config.architecture == Architecture::Llama {
                again.config.architecture = architecture;
            }
            assert_eq!(again.config, config);
            assert_same_tensors(&again, &model, DType::BF16);
            returned += 1;
        }
    }
    // Three layers of SmolLM3 all rotate, which makes them like Llama's.
    assert_eq!((returned, refused), (21, 13));
}

/// Biases that were fitted to Qwen 2 make it a Llama there.
#[test]
fn biases_that_an_architecture_does_not_have_make_it_another_or_are_refused() {
    let biased = |architecture| {
        let mut config = family(architecture, &[widths(4, 2, 9); 2]);
        config.add_bias(Projection::Down);
        config
    };
    let model = random_model(biased(Architecture::Qwen2), DType::F32, 3);
    let (_folder, path, _) = write(&model, &GgufOptions::default());
    let again = Checkpoint::open(&path).unwrap();
    assert_eq!(again.config.architecture, Architecture::Llama);
    assert!(again.config.has_bias(Projection::O) && again.config.mlp_bias);
    assert_same_tensors(&again, &model, DType::F32);
    let scaling = RopeScaling::Long {
        short: vec![1.0, 1.5],
        long: vec![2.0, 3.0],
        attention_factor: 1.1,
        original_max_position_embeddings: 32,
    };
    let rope = Rope { theta: 1e4, scaling };
    for (architecture, fits) in [(Architecture::Phi3, true), (Architecture::Llama, false)] {
        let config = ModelConfig { rope: rope.clone(), ..family(architecture, &[widths(4, 2, 9)]) };
        assert_eq!(gguf::check_fits(&config, Planned::default()).is_ok(), fits, "{architecture:?}");
    }
    let error = gguf::check_fits(&biased(Architecture::Qwen3), Planned::default()).unwrap_err();
    assert_eq!(error.to_string(), "GGUF: llama.cpp runs Qwen 3 without these biases");
}

/// Files hold one more than the weights of Gemma's norms, exactly where that is possible.
#[test]
fn norms_of_gemma_are_stored_with_their_one() {
    let model = random_model(family(Architecture::Gemma3, &[widths(4, 1, 9); 6]), DType::BF16, 3);
    let (_folder, path, _) = write(&model, &GgufOptions::default());
    let bytes = std::fs::read(&path).unwrap();
    let header = Header::parse(&bytes).unwrap();
    let again = Checkpoint::open(&path).unwrap();
    let mut norms = 0;
    for tensor in names::expected_tensors(&model.config) {
        let own = values(&model, &tensor.name, DType::BF16);
        assert_eq!(values(&again, &tensor.name, DType::BF16), own, "{}", tensor.name);
        if tensor.part.is_norm() {
            let name = tensor.part.gguf_name(model.config.family()).unwrap();
            let data = header.data(header.tensor(&name).unwrap(), &bytes).unwrap();
            let stored: Vec<f32> =
                data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            assert_eq!(stored, own.iter().map(|w| w + 1.0).collect::<Vec<f32>>(), "{name}");
            norms += 1;
        }
    }
    assert_eq!(norms, 6 * 6 + 1);
}

#[test]
fn metadata_is_what_llama_cpp_needs() {
    for (name, architecture) in [("gqa3_untied", "llama"), ("per_layer", "deci")] {
        let model = open_fixture(name);
        let options = GgufOptions {
            name: Some("pruned".into()),
            description: Some("20 % fewer parameters".into()),
            kind: Some(TensorKind::F16.into()),
        };
        let (_folder, path, _) = write(&model, &options);
        let header = header(&path);
        let of = |key: &str| header.metadata.get(key).unwrap_or_else(|| panic!("{name}: {key}"));
        let own = |key: &str| of(&format!("{architecture}.{key}"));
        let text = |text: &str| Value::String(text.into());
        assert_eq!(header.version, 3);
        assert_eq!(header.alignment, 32);
        assert_eq!(of("general.architecture"), &text(architecture));
        assert_eq!(of("general.name"), &text("pruned"));
        assert_eq!(of("general.description"), &text("20 % fewer parameters"));
        assert_eq!(of("general.file_type"), &Value::U32(1));
        let config = &model.config;
        let size = |size: usize| Value::U32(size as u32);
        for (key, expected) in [
            ("vocab_size", size(config.vocab_size)),
            ("context_length", size(256)),
            ("embedding_length", size(18)),
            ("block_count", size(config.layers.len())),
            ("attention.key_length", size(6)),
            ("attention.value_length", size(6)),
            ("rope.dimension_count", size(6)),
            ("rope.freq_base", Value::F32(10_000.0)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ] {
            assert_eq!(own(key), &expected, "{name}: {key}");
        }
        let arrays = |v: &[u32]| Value::Array(v.iter().map(|v| Value::U32(*v)).collect());
        let (query, kv, ffn) = match name {
            "per_layer" => {
                (arrays(&[6, 0, 2, 3]), arrays(&[2, 0, 1, 3]), arrays(&[32, 23, 17, 28]))
            }
            _ => (Value::U32(6), Value::U32(2), Value::U32(29)),
        };
        assert_eq!(own("attention.head_count"), &query);
        assert_eq!(own("attention.head_count_kv"), &kv);
        assert_eq!(own("feed_forward_length"), &ffn);
        // One token for each row of the embedding.
        let tokens = of("tokenizer.ggml.tokens").as_array().unwrap();
        assert_eq!(tokens.len(), config.vocab_size, "{name}");
        assert_eq!(of("tokenizer.ggml.bos_token_id"), &Value::U32(0));
        assert_eq!(of("tokenizer.ggml.eos_token_id"), &Value::U32(1));
        assert_eq!(of("tokenizer.ggml.padding_token_id"), &Value::U32(2));
    }
}

/// As llama.cpp's converter writes them: `reshape(heads, 2, D/2, …)`, axes 1
/// and 2 exchanged.
#[test]
fn query_and_key_rows_are_interleaved() {
    let mut config = config(&[widths(2, 1, 3)]);
    config.attention_bias = true.into();
    let model = random_model(config, DType::F32, 1);
    let (_folder, path, _) = write(&model, &GgufOptions::default());
    let bytes = std::fs::read(&path).unwrap();
    let header = header(&path);
    for (gguf, canonical, heads) in [
        ("blk.0.attn_q", "model.layers.0.self_attn.q_proj", 2),
        ("blk.0.attn_k", "model.layers.0.self_attn.k_proj", 1),
        ("blk.0.attn_v", "model.layers.0.self_attn.v_proj", 1),
    ] {
        for part in ["weight", "bias"] {
            let wanted = values(&model, &format!("{canonical}.{part}"), DType::F32);
            let info = header.tensor(&format!("{gguf}.{part}")).unwrap();
            let data = header.data(info, &bytes).unwrap();
            let found: Vec<f32> =
                data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let columns = wanted.len() / (heads * 4);
            let order = if canonical.contains("v_proj") { [0, 1, 2, 3] } else { [0, 2, 1, 3] };
            for row in 0..heads * 4 {
                let from = row / 4 * 4 + order[row % 4];
                let row_of = |v: &[f32], row: usize| v[row * columns..(row + 1) * columns].to_vec();
                assert_eq!(row_of(&found, row), row_of(&wanted, from), "{gguf}.{part} {row}");
            }
        }
    }
}

#[test]
fn what_llama_cpp_does_not_open_is_said() {
    let model = random_model(config(&[widths(0, 0, 5), widths(2, 1, 3)]), DType::F32, 2);
    let (_folder, path, written) = write(&model, &GgufOptions::default());
    let [warning] = &written.warnings[..] else { panic!("{:?}", written.warnings) };
    assert!(warning.starts_with("the first layer has no attention: llama.cpp "), "{warning}");
    assert_same_tensors(&Checkpoint::open(&path).unwrap(), &model, DType::F32);

    let many = ModelConfig { eos_token_ids: vec![1, 2, 3], ..config(&[widths(2, 1, 3)]) };
    let (_folder, _, written) = write(&random_model(many, DType::F32, 2), &GgufOptions::default());
    let expected = "the model has 3 tokens that end a text, GGUF has room for the first two";
    assert_eq!(written.warnings, [expected]);
}

#[test]
fn values_that_a_type_cannot_hold_are_named() {
    let mut config = config(&[widths(2, 1, 3)]);
    config.hidden_size = 32;
    let model = random_model(config, DType::F32, 3);
    let name = "model.layers.0.mlp.up_proj.weight";
    let large = with_value(&model, name, -70_000.0);
    let path = tempfile::tempdir().unwrap().keep().join("m.gguf");
    let write = |kind| gguf::write(&large, &path, &of_kind(kind), &mut |_, _| {});
    for (kind, expected) in [
        (TensorKind::F16, "has values beyond ±65504, which F16 cannot hold"),
        (TensorKind::Q4_0, "has values beyond ±65504, too large for Q4_0"),
    ] {
        let error = write(kind).unwrap_err();
        assert_eq!(error.to_string(), format!("memory: tensor {name}: {expected}"));
        assert_eq!(error.hint(), Some("store the weights as bf16 or f32"));
    }
    assert!(write(TensorKind::BF16).is_ok() && write(TensorKind::F32).is_ok());
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let model = open_fixture("tiny");
    let full = Path::new("/dev/full");
    let error = gguf::write(&model, full, &GgufOptions::default(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().starts_with("/dev/full: cannot write: "), "{error}");
    assert_eq!(error.hint(), Some("free some space; nothing was changed"));
}

#[test]
fn the_default_of_a_quantised_source_is_f16() {
    let mut config = config(&[widths(8, 8, 32)]);
    config.hidden_size = 32;
    let model = random_model(config, DType::F32, 4);
    let (_folder, path, _) = write(&model, &of_kind(TensorKind::Q8_0));
    let quantised = Checkpoint::open(&path).unwrap();
    assert_eq!(quantised.tensors.meta("model.embed_tokens.weight").unwrap().stored, "Q8_0");
    let (_folder, path, written) = write(&quantised, &GgufOptions::default());
    assert_eq!(written.dtype, "F16");
    let again = Checkpoint::open(&path).unwrap();
    for tensor in names::expected_tensors(&model.config) {
        // Vectors are never quantised, and stay as they are.
        let dtype = if tensor.shape.len() == 1 { DType::F32 } else { DType::F16 };
        let found = values(&again, &tensor.name, DType::F32);
        assert_eq!(found, values(&quantised, &tensor.name, dtype), "{}", tensor.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_model_comes_back(
        config in any_config(),
        dtype in prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]),
        seed in any::<u64>(),
    ) {
        let model = random_model(config.clone(), dtype, seed);
        let (_folder, path, _) = write(&model, &GgufOptions::default());
        let again = Checkpoint::open(&path).unwrap();
        // A file without any attention cannot show whether it would be biased.
        let attention = config.layers.iter().any(|w| w.has_attention());
        let attention_bias = (config.has_bias(Projection::O) && attention).into();
        prop_assert_eq!(&again.config, &ModelConfig { attention_bias, ..config });
        assert_same_tensors(&again, &model, DType::F32);
    }
}
