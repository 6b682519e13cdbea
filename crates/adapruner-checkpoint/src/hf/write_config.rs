//! [`ModelConfig`] to `config.json`, by what the architectures declare.

use adapruner_arch::{
    config::long_attention_factor,
    family::{
        AttentionBiasRule, Factor, Fixed, FormRule, HeadWidthRule, KvHeadRule, MlpBiasRule,
        NormalisedRule, OrderRule, Positions, ScoreRule, WindowRule,
    },
};
use serde_json::{Map, Value, json};

use super::{
    config::{FULL, Kind, LAYER_WIDTHS, SLIDING},
    modeling::{MODELING_FILE, cache_order},
    nested,
};
use crate::{
    checkpoint::Checkpoint,
    config::{
        Activation, Architecture, AttentionBias, LayerWidths, ModelConfig, Rope, RopeScaling,
    },
    output::FloatType,
};

/// Whether transformers opens a folder of this model: from 5.6 on it refuses a Llama whose
/// hidden size is no multiple of its query heads, and what that is written as else has no
/// biases; the classes of most families have no room for biases that they were made without.
pub fn opens_elsewhere(config: &ModelConfig) -> bool {
    form(config).1.is_empty()
}

/// Whether the class of an architecture in transformers holds the model.
fn holds(architecture: Architecture, config: &ModelConfig) -> bool {
    let family = architecture.family();
    let biased = match (family.attention_bias, config.attention_bias) {
        (AttentionBiasRule::Never, bias) => bias == AttentionBias::None,
        (AttentionBiasRule::Qkv, bias) => bias == AttentionBias::Qkv,
        (AttentionBiasRule::Key { .. }, bias) => bias != AttentionBias::Qkv,
    };
    let mlp_biased = match (family.mlp_bias, family.attention_bias) {
        (MlpBiasRule::Never, _) => !config.mlp_bias,
        (MlpBiasRule::Always, _) => config.mlp_bias,
        // One key says it of all maps.
        (MlpBiasRule::Key { hf, .. }, AttentionBiasRule::Key { hf: other, .. }) if hf == other => {
            config.mlp_bias == (config.attention_bias == AttentionBias::All)
        }
        (MlpBiasRule::Key { .. }, _) => true,
    };
    let same = architecture == config.architecture || {
        // What the class computes; its windows are those of all layers, or none.
        match architecture {
            Architecture::Llama | Architecture::Qwen2 => config.is_llama_like(),
            Architecture::Mistral => config.is_mistral_like(),
            Architecture::Qwen3
            | Architecture::Gemma2
            | Architecture::Gemma3
            | Architecture::SmolLm3
            | Architecture::Olmo2
            | Architecture::Granite
            | Architecture::Phi3
            | Architecture::Opt
            | Architecture::GptNeoX
            | Architecture::Falcon
            | Architecture::FalconTwoNorms
            | Architecture::Qwen3Moe
            | Architecture::Olmoe
            | Architecture::Mixtral => false,
        }
    };
    same && biased && mlp_biased
}

/// As what a model is written, and what the user should know of it.
///
/// transformers from 5.6 on refuses a Llama whose hidden size is no multiple
/// of the number of query heads, whatever their width; the same weights are
/// then a Mistral, which is not held to that but has no biases.
pub(super) fn form(config: &ModelConfig) -> (Kind, Vec<String>) {
    let uniform = config.uniform_widths().filter(LayerWidths::has_attention);
    let uniform = uniform.filter(|_| config.heads_fit_class());
    let whole = |architecture| match uniform {
        Some(widths) if architecture == Architecture::Llama => {
            config.hidden_size.is_multiple_of(widths.query_heads)
        }
        Some(_) | None => true,
    };
    // What is like Llama may be written as each of these.
    let per_layer = uniform.is_none();
    let multimodal = config.multimodal;
    let kind = |architecture| Kind { architecture, multimodal, per_layer };
    // The class of a larger model holds its own language model.
    let alike: &[Architecture] = match multimodal {
        None => &[Architecture::Llama, Architecture::Mistral, Architecture::Qwen2],
        Some(_) => &[],
    };
    let as_llama = multimodal.is_none() && per_layer && config.is_llama_like();
    let own = Some(config.architecture).filter(|_| !as_llama);
    let mut candidates = own.into_iter().chain(alike.iter().copied()).filter(|&a| holds(a, config));
    if let Some(architecture) = candidates.clone().find(|&architecture| whole(architecture)) {
        return (kind(architecture), Vec::new());
    }
    if let Some(architecture) = candidates.next() {
        let heads = uniform.map_or(0, |widths| widths.query_heads);
        let warning = format!(
            "the hidden size {} is not a multiple of {heads} heads: transformers 5.6 and later refuse to open such a Llama, and with biases it cannot be written as Mistral",
            config.hidden_size
        );
        return (kind(architecture), vec![warning]);
    }
    let own = kind(config.architecture);
    let class = Kind { per_layer: false, ..own }.class();
    let warning = format!(
        "{class} has no room for these biases in transformers, which does not open the folder"
    );
    (own, vec![warning])
}

/// The content of `config.json`.
pub(super) fn config_json(checkpoint: &Checkpoint, kind: Kind, dtype: FloatType) -> Value {
    let config = &checkpoint.config;
    let (Some(passed), Some(multimodal)) = (&checkpoint.pass_through, kind.multimodal) else {
        return Value::Object(language_json(config, kind, dtype));
    };
    let composite = multimodal.composite();
    let mut text = language_json(config, Kind { multimodal: None, ..kind }, dtype);
    let dtype = text.remove("torch_dtype");
    text.remove("architectures");
    text.remove("auto_map");
    let languages = composite.languages.iter();
    for language in languages.filter(|language| language.architecture == kind.architecture) {
        let own = if kind.per_layer { nested::OWN } else { "" };
        text.insert("model_type".into(), format!("{own}{}", language.model_type).into());
    }
    let mut own = Map::new();
    own.insert("architectures".into(), json!([kind.class()]));
    own.insert("model_type".into(), json!(kind.model_type()));
    if kind.per_layer {
        let whole = class_of(composite.prefix, "ForConditionalGeneration");
        own.insert(
            "auto_map".into(),
            json!({
                "AutoConfig": class_of(composite.prefix, "Config"),
                "AutoModelForImageTextToText": whole,
                "AutoModelForCausalLM": whole,
            }),
        );
    }
    let dtype = dtype.as_ref().and_then(Value::as_str).unwrap_or_default();
    passed.config_json(Value::Object(text), own, dtype)
}

/// A class of the folder's own code, as `auto_map` names it.
fn class_of(stem: &str, class: &str) -> String {
    format!("{}.Adapruner{stem}{class}", MODELING_FILE.trim_end_matches(".py"))
}

/// The settings of a language model.
fn language_json(config: &ModelConfig, kind: Kind, dtype: FloatType) -> Map<String, Value> {
    let family = kind.family();
    let largest = |width: fn(&LayerWidths) -> usize| config.layers.iter().map(width).max();
    // Without any attention: the classes divide by the number of heads.
    let query_heads = largest(|w| w.query_heads).unwrap_or(0).max(1);
    let kv_heads = largest(|w| w.kv_heads).unwrap_or(0).max(1);
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
    };
    let ends = match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        all => json!(all),
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
    set("architectures", json!([kind.class()]));
    set("model_type", json!(kind.model_type()));
    set(family.activation.0, json!(activation));
    set("hidden_size", json!(config.hidden_size));
    set("num_hidden_layers", json!(config.layers.len()));
    match family.hf.head_width {
        HeadWidthRule::Key(_) => {
            set("num_attention_heads", json!(query_heads));
            set("head_dim", json!(config.head_dim));
        }
        // What the width of heads follows from.
        HeadWidthRule::ByHidden => {
            set("num_attention_heads", json!(config.hidden_size / config.head_dim));
        }
    }
    match family.hf.kv_heads {
        KvHeadRule::Key => set("num_key_value_heads", json!(kv_heads)),
        KvHeadRule::All => {}
        KvHeadRule::Falcon => {
            let norms = match family.hf.form {
                FormRule::Only => None,
                FormRule::FalconNorms(norms) => Some(norms),
            };
            // The older form has one key-value head.
            let newer = norms == Some(2) || config.layers.iter().any(|w| w.kv_heads > 1);
            set("new_decoder_architecture", json!(newer));
            set("num_ln_in_parallel_attn", json!(norms.filter(|_| newer)));
            set("multi_query", json!(true));
            set("num_kv_heads", json!(kv_heads));
        }
    }
    for Fixed { key, value, .. } in family.hf.fixed {
        set(key, json!(value));
    }
    if let OrderRule::Key { hf, .. } = family.order {
        set(hf, json!(config.parallel));
    }
    let widest = config.layers.iter().map(|widths| config.expert_width(widths)).max();
    set(family.hf.ffn.0, json!(widest));
    if let (Some(rule), Some(experts)) = (&family.experts, config.experts) {
        set(rule.count, json!(experts.count));
        set(rule.chosen, json!(experts.chosen));
        match rule.normalised {
            NormalisedRule::Always => {}
            NormalisedRule::Key { hf, .. } => set(hf, json!(experts.normalised)),
        }
        if let Some((step, list)) = rule.dense_layers {
            set(step, json!(1));
            set(list, json!([]));
        }
    }
    for (key, _) in family.hf.null {
        set(key, Value::Null);
    }
    set("vocab_size", json!(config.vocab_size));
    set("max_position_embeddings", json!(config.max_position_embeddings));
    if let (Some(key), _) = family.hf.eps {
        set(key, json!(config.norm_eps));
    }
    match family.positions {
        Positions::Rotary => {
            set(family.hf.theta.0, json!(config.rope.theta));
            set("rope_scaling", rope_scaling(config, &config.rope));
        }
        Positions::Learned { .. } => {}
    }
    if let RopeScaling::Long { original_max_position_embeddings: original, .. } =
        config.rope.scaling
    {
        set("original_max_position_embeddings", json!(original));
    }
    if let Some((key, default)) = family.rotated_share
        && (config.rotated_dim.is_some() || default != 1.0)
    {
        set(key, json!(config.rotated() as f64 / config.head_dim as f64));
    }
    if let (Some((key, _)), Some(local)) = (family.local_theta, &config.local_rope) {
        set(key, json!(local.theta));
    }
    if let AttentionBiasRule::Key { hf, .. } = family.attention_bias {
        set(hf, json!(config.attention_bias == AttentionBias::All));
    }
    if let MlpBiasRule::Key { hf, .. } = family.mlp_bias {
        set(hf, json!(config.mlp_bias));
    }
    match family.scores {
        ScoreRule::HeadWidth => {}
        ScoreRule::InverseRoot { hf, .. } => {
            let scalar = config.score_scale.map_or(config.head_dim as f64, |s| 1.0 / (s * s));
            // What was read as a whole number is written as one.
            let whole = scalar.round();
            let near = (scalar - whole).abs() < 1e-9 * whole;
            set(hf, if near { json!(whole as u64) } else { json!(scalar) });
        }
        ScoreRule::Key { hf, default, .. } => {
            set(hf, json!(config.score_scale.unwrap_or(default)));
        }
    }
    for (factor, value) in [
        (family.embedding_scale, config.embedding_scale),
        (family.residual_scale, config.residual_scale),
        (family.logit_divisor, config.logit_divisor),
    ] {
        if let Factor::Key { hf, .. } = factor {
            set(hf, json!(value));
        }
    }
    if let Some(caps) = family.caps {
        set(caps.scores.key, json!(config.score_cap));
        set(caps.logits.key, json!(config.logit_cap));
    }
    let window = config.windows.iter().copied().flatten().next();
    let sliding = |layer| config.window(layer).is_some();
    let order = cache_order(&config.layers);
    let types: Vec<&str> =
        order.iter().map(|&layer| if sliding(layer) { SLIDING } else { FULL }).collect();
    match family.windows {
        WindowRule::None => {}
        // A missing key is a window of 4096 tokens.
        WindowRule::All { .. } => set("sliding_window", json!(window)),
        WindowRule::Switched => {
            set("use_sliding_window", json!(window.is_some()));
            set("sliding_window", json!(window));
            set("layer_types", json!(types));
            if window.is_some() {
                let first = config.windows.iter().position(Option::is_some);
                set("max_window_layers", json!(first));
            }
        }
        WindowRule::AllBut { default, .. } => {
            set("sliding_window", json!(window.unwrap_or(default)));
            set("layer_types", json!(types));
        }
    }
    if let Some(rule) = family.unrotated {
        let rotates = order.iter().map(|layer| u8::from(!config.unrotated.contains(layer)));
        let rotates: Vec<u8> = rotates.collect();
        set(rule.list, json!(rotates));
    }
    set("tie_word_embeddings", json!(config.tie_word_embeddings));
    // A missing key is an id in some families.
    set("bos_token_id", json!(config.bos_token_id));
    set("eos_token_id", ends);
    set("pad_token_id", json!(config.pad_token_id));
    set("initializer_range", json!(0.02));
    set("use_cache", json!(true));
    set("torch_dtype", json!(dtype));
    if kind.per_layer {
        set(LAYER_WIDTHS, json!(config.layers));
        set(
            "auto_map",
            json!({
                "AutoConfig": class_of(family.hf.stem, "Config"),
                "AutoModel": class_of(family.hf.stem, "Model"),
                "AutoModelForCausalLM": class_of(family.hf.prefix, "ForCausalLM"),
            }),
        );
    }
    json
}

fn rope_scaling(config: &ModelConfig, rope: &Rope) -> Value {
    match &rope.scaling {
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
        // Phi's configuration takes these three keys and no other; the factor of attention is
        // what follows from the context lengths, and said where it does not.
        RopeScaling::Long { short, long, attention_factor, original_max_position_embeddings } => {
            let original = *original_max_position_embeddings as f64;
            let by_default = long_attention_factor(config.max_position_embeddings as f64, original);
            let mut scaling =
                json!({"type": "longrope", "short_factor": short, "long_factor": long});
            if (attention_factor - by_default).abs() > 1e-12 {
                scaling["attention_factor"] = json!(attention_factor);
            }
            scaling
        }
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
