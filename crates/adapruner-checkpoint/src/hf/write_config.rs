//! [`ModelConfig`] to `config.json`.

use serde_json::{Map, Value, json};

use super::{
    config::{LAYER_WIDTHS, PER_LAYER_ARCHITECTURE, PER_LAYER_MODEL_TYPE},
    write::MODELING_FILE,
};
use crate::{
    config::{Activation, Architecture, LayerWidths, ModelConfig, RopeScaling},
    output::FloatType,
};

/// As what a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM` without a window.
    Mistral,
    /// This program's own, with widths per layer.
    PerLayer,
}

/// Whether transformers opens a folder of this model with its biases: from 5.6 on it
/// refuses a Llama whose hidden size is no multiple of its query heads, and what that
/// is written as else has no biases.
pub fn opens_with_biases(config: &ModelConfig) -> bool {
    let biased = ModelConfig { attention_bias: true, ..config.clone() };
    form(&biased).1.is_empty()
}

/// As what a model is written, and what the user should know of it.
///
/// transformers from 5.6 on refuses a Llama whose hidden size is no multiple
/// of the number of query heads, whatever their width; the same weights are
/// then a Mistral, which is not held to that but has no biases.
pub(super) fn form(config: &ModelConfig) -> (Form, Vec<String>) {
    let heads = match config.uniform_widths() {
        Some(widths) if widths.has_attention() => widths.query_heads,
        Some(_) | None => return (Form::PerLayer, Vec::new()),
    };
    let biased = config.attention_bias || config.mlp_bias;
    let whole = config.hidden_size.is_multiple_of(heads);
    match (config.architecture, whole, biased) {
        (Architecture::Mistral, _, false) | (Architecture::Llama, false, false) => {
            (Form::Mistral, Vec::new())
        }
        (Architecture::Llama, true, _) | (Architecture::Mistral, true, true) => {
            (Form::Llama, Vec::new())
        }
        (Architecture::Llama | Architecture::Mistral, false, true) => {
            let warning = format!(
                "the hidden size {} is not a multiple of {heads} heads: transformers 5.6 and later refuse to open such a Llama, and with biases it cannot be written as Mistral",
                config.hidden_size
            );
            (Form::Llama, vec![warning])
        }
    }
}

/// The content of `config.json`.
pub(super) fn config_json(config: &ModelConfig, form: Form, dtype: FloatType) -> Value {
    let (architecture, model_type) = match form {
        Form::Llama => ("LlamaForCausalLM", "llama"),
        Form::Mistral => ("MistralForCausalLM", "mistral"),
        Form::PerLayer => (PER_LAYER_ARCHITECTURE, PER_LAYER_MODEL_TYPE),
    };
    let largest = |width: fn(&LayerWidths) -> usize| config.layers.iter().map(width).max();
    // Without any attention: Llama's classes divide by the number of heads.
    let query_heads = largest(|w| w.query_heads).unwrap_or(0).max(1);
    let kv_heads = largest(|w| w.kv_heads).unwrap_or(0).max(1);
    let activation = match config.activation {
        Activation::Silu => "silu",
    };
    let ends = match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let dtype = match dtype {
        FloatType::F32 => "float32",
        FloatType::F16 => "float16",
        FloatType::Bf16 => "bfloat16",
    };
    let mut json = Map::new();
    let mut set = |key: &str, value: Value| {
        json.insert(key.to_owned(), value);
    };
    set("architectures", json!([architecture]));
    set("model_type", json!(model_type));
    set("hidden_act", json!(activation));
    set("hidden_size", json!(config.hidden_size));
    set("num_hidden_layers", json!(config.layers.len()));
    set("num_attention_heads", json!(query_heads));
    set("num_key_value_heads", json!(kv_heads));
    set("head_dim", json!(config.head_dim));
    set("intermediate_size", json!(largest(|w| w.ffn)));
    set("vocab_size", json!(config.vocab_size));
    set("max_position_embeddings", json!(config.max_position_embeddings));
    set("rms_norm_eps", json!(config.rms_norm_eps));
    set("rope_theta", json!(config.rope.theta));
    set("rope_scaling", rope_scaling(config));
    match form {
        Form::Llama | Form::PerLayer => {
            set("attention_bias", json!(config.attention_bias));
            set("mlp_bias", json!(config.mlp_bias));
        }
        // A missing key is a window of 4096 tokens.
        Form::Mistral => set("sliding_window", Value::Null),
    }
    set("tie_word_embeddings", json!(config.tie_word_embeddings));
    // A missing key is id 1 or 2.
    set("bos_token_id", json!(config.bos_token_id));
    set("eos_token_id", ends);
    set("pad_token_id", json!(config.pad_token_id));
    set("initializer_range", json!(0.02));
    set("use_cache", json!(true));
    set("torch_dtype", json!(dtype));
    if form == Form::PerLayer {
        set(LAYER_WIDTHS, json!(config.layers));
        let module = MODELING_FILE.trim_end_matches(".py");
        let class = |kind: &str| format!("{module}.AdaprunerLlama{kind}");
        set(
            "auto_map",
            json!({
                "AutoConfig": class("Config"),
                "AutoModel": class("Model"),
                "AutoModelForCausalLM": class("ForCausalLM"),
            }),
        );
    }
    Value::Object(json)
}

fn rope_scaling(config: &ModelConfig) -> Value {
    match &config.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        // The one type of transformers that takes numbers for each frequency;
        // the same for short and long texts, and attention left as it is.
        RopeScaling::Factors { divisors } => json!({
            "rope_type": "longrope",
            "factor": 1.0,
            "attention_factor": 1.0,
            "short_factor": divisors,
            "long_factor": divisors,
            "original_max_position_embeddings": config.max_position_embeddings,
        }),
    }
}
