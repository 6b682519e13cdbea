//! The metadata of a GGUF file that is written.

use adapruner_arch::family::{Cap, Factor, OrderRule, ScoreRule};

use super::{
    config::{ATTENTION_FACTOR, eps_key},
    encode::ALIGNMENT,
    kind::TensorKind,
    layout::Layout,
    mixture::GgufType,
    value::{Metadata, Value},
    write::GgufOptions,
};
use crate::{
    checkpoint::Checkpoint,
    config::{LayerWidths, ModelConfig, RopeScaling},
    error::Result,
};

/// Everything that llama.cpp wants to know beside the tensors.
///
/// Head widths are always written: without them they are taken to be the
/// hidden size divided by the number of heads.
pub(super) fn metadata(
    checkpoint: &Checkpoint,
    layout: Layout,
    kind: GgufType,
    options: &GgufOptions,
    warnings: &mut Vec<String>,
) -> Result<Metadata> {
    let config = &checkpoint.config;
    let mut metadata = checkpoint.tokenizer.gguf_metadata(config.vocab_size)?;
    let uniform = config.uniform_widths().filter(LayerWidths::has_attention);
    let (family, architecture) = (config.family(), layout.architecture);

    let mut set = |key: String, value: Value| {
        metadata.insert(key, value);
    };
    let text = |text: &str| Value::String(text.to_owned());
    let size = |size: usize| Value::U32(u32::try_from(size).unwrap_or(u32::MAX));
    let origin = checkpoint.origin.file_stem().unwrap_or_default().to_string_lossy();
    let name = options.name.as_deref().unwrap_or(&origin);
    set("general.architecture".into(), text(architecture));
    set("general.type".into(), text("model"));
    set("general.name".into(), text(name));
    if let Some(description) = &options.description {
        set("general.description".into(), text(description));
    }
    set("general.file_type".into(), Value::U32(file_type(kind)));
    set("general.quantization_version".into(), Value::U32(2));
    set("general.alignment".into(), Value::U32(ALIGNMENT as u32));

    let mut model = |key: &str, value: Value| set(format!("{architecture}.{key}"), value);
    let widths = |width: fn(&LayerWidths) -> usize| match uniform {
        Some(uniform) => size(width(&uniform)),
        None => Value::Array(config.layers.iter().map(|w| size(width(w))).collect()),
    };
    model("vocab_size", size(config.vocab_size));
    model("context_length", size(config.max_position_embeddings));
    model("embedding_length", size(config.hidden_size));
    model("block_count", size(config.layers.len()));
    match (&family.experts, config.experts, uniform) {
        (Some(rule), Some(experts), Some(uniform)) => {
            let width = config.expert_width(&uniform);
            model("feed_forward_length", size(width));
            model(rule.gguf_width, size(width));
            model("expert_count", size(experts.count));
            model("expert_used_count", size(experts.chosen));
        }
        _ => model("feed_forward_length", widths(|w| w.ffn)),
    }
    model("attention.head_count", widths(|w| w.query_heads));
    model("attention.head_count_kv", widths(|w| w.kv_heads));
    model("attention.key_length", size(config.head_dim));
    model("attention.value_length", size(config.head_dim));
    model(eps_key(family), Value::F32(config.norm_eps as f32));
    if let OrderRule::Key { gguf, .. } = family.order {
        model(gguf, Value::Bool(config.parallel));
    }
    model("rope.dimension_count", size(config.rotated()));
    model("rope.freq_base", Value::F32(config.rope.theta as f32));
    if let Some(local) = &config.local_rope {
        model("rope.freq_base_swa", Value::F32(local.theta as f32));
    }
    if let Some(window) = config.windows.iter().copied().flatten().next() {
        model("attention.sliding_window", size(window));
    }
    if let ScoreRule::Key { gguf, .. } = family.scores {
        model(gguf, Value::F32(config.score_scale.unwrap_or(0.0) as f32));
    }
    for (factor, value) in [
        (family.embedding_scale, config.embedding_scale),
        (family.residual_scale, config.residual_scale),
        (family.logit_divisor, config.logit_divisor),
    ] {
        if let Factor::Key { gguf, .. } = factor {
            model(gguf, Value::F32(value as f32));
        }
    }
    if let Some(caps) = family.caps {
        for (Cap { key, .. }, value) in
            [(caps.scores, config.score_cap), (caps.logits, config.logit_cap)]
        {
            if let Some(value) = value {
                model(key, Value::F32(value as f32));
            }
        }
    }
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => {
            model("rope.scaling.type", text("linear"));
            model("rope.scaling.factor", Value::F32(*factor as f32));
        }
        // Said by a tensor, not by metadata.
        RopeScaling::Long { attention_factor, original_max_position_embeddings, .. } => {
            let original = *original_max_position_embeddings;
            model("rope.scaling.original_context_length", size(original));
            model(ATTENTION_FACTOR, Value::F32(*attention_factor as f32));
        }
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. } => {}
    }

    let mut ends = config.eos_token_ids.iter().copied();
    let ids = [
        ("bos_token_id", config.bos_token_id),
        ("eos_token_id", ends.next()),
        ("eot_token_id", ends.next()),
        ("padding_token_id", config.pad_token_id),
    ];
    for (key, id) in ids {
        let key = format!("tokenizer.ggml.{key}");
        // The configuration knows, also that there is none.
        match id {
            Some(id) => metadata.insert(key, Value::U32(id)),
            None => metadata.remove(&key),
        };
    }
    if ends.next().is_some() {
        let count = config.eos_token_ids.len();
        warnings.push(format!(
            "the model has {count} tokens that end a text, GGUF has room for the first two"
        ));
    }
    Ok(metadata)
}

/// llama.cpp's number for a file whose matrices are of this type.
fn file_type(of: GgufType) -> u32 {
    let kind = match of {
        GgufType::Plain(kind) => kind,
        GgufType::Mixed(mixture) => return mixture.file_type(),
    };
    match kind {
        TensorKind::F32 => 0,
        TensorKind::F16 => 1,
        TensorKind::Q4_0 => 2,
        TensorKind::Q4_1 => 3,
        TensorKind::Q8_0 => 7,
        TensorKind::Q5_0 => 8,
        TensorKind::Q5_1 => 9,
        TensorKind::Q2K => 10,
        TensorKind::Q3K => 11,
        TensorKind::Q4K => 14,
        TensorKind::Q5K => 16,
        TensorKind::Q6K => 18,
        TensorKind::BF16 => 32,
    }
}

/// What llama.cpp cannot open although this program can.
pub(super) fn per_layer_warnings(config: &ModelConfig) -> Vec<String> {
    let first = config.layers.first();
    if first.is_some_and(|widths| !widths.has_attention()) {
        return vec![
            "the first layer has no attention: llama.cpp takes the width of heads from it and will not open the file".into(),
        ];
    }
    Vec::new()
}
