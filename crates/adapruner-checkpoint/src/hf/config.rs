//! `config.json` to [`ModelConfig`].
//!
//! Read are Llama, Mistral, and this program's own per-layer folders, which
//! have Llama's keys and the widths of every layer beside them. Whatever would
//! change what the model computes and is not known is refused by name.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    config::{Activation, Architecture, LayerWidths, ModelConfig, Rope, RopeScaling},
    error::{Error, Result},
};

/// `model_type` of a folder with widths per layer.
pub const PER_LAYER_MODEL_TYPE: &str = "adapruner_llama";
/// The entry of `architectures` in a folder with widths per layer.
pub const PER_LAYER_ARCHITECTURE: &str = "AdaprunerLlamaForCausalLM";
/// The key that holds the widths of every layer.
pub const LAYER_WIDTHS: &str = "layer_widths";

/// The kinds of model that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Llama,
    Mistral,
    PerLayer,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Llama, Self::Mistral, Self::PerLayer];

    fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::PerLayer => PER_LAYER_MODEL_TYPE,
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::PerLayer => PER_LAYER_ARCHITECTURE,
        }
    }

    /// transformers' context length where the file names none.
    fn default_context(self) -> usize {
        match self {
            Self::Llama | Self::PerLayer => 2048,
            Self::Mistral => 131_072,
        }
    }
}

/// Reads the configuration from the parsed `config.json` at `path`.
///
/// # Errors
/// An architecture or a setting that this program does not run, by name; a
/// missing or absurd value.
pub fn model_config(path: &Path, json: &Value) -> Result<ModelConfig> {
    let Some(object) = json.as_object() else {
        return Err(Error::format(path, "an object expected"));
    };
    let keys = Keys { path, object };
    let kind = keys.kind()?;
    keys.refuse_settings(kind)?;

    let hidden_size = keys.size("hidden_size")?;
    let heads = keys.size("num_attention_heads")?;
    let head_dim = match keys.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let message = format!("missing, and {hidden_size} is not a multiple of {heads} heads");
            return Err(keys.error("head_dim", &message));
        }
    };
    let max_position_embeddings =
        keys.optional_size("max_position_embeddings")?.unwrap_or(kind.default_context());
    Ok(ModelConfig {
        architecture: match kind {
            Kind::Llama | Kind::PerLayer => Architecture::Llama,
            Kind::Mistral => Architecture::Mistral,
        },
        hidden_size,
        head_dim,
        vocab_size: keys.size("vocab_size")?,
        layers: keys.layers(kind, heads)?,
        activation: keys.activation()?,
        rms_norm_eps: keys.optional_float("rms_norm_eps")?.unwrap_or(1e-6),
        rope: keys.rope()?,
        attention_bias: keys.optional_bool("attention_bias")?.unwrap_or(false),
        mlp_bias: keys.optional_bool("mlp_bias")?.unwrap_or(false),
        tie_word_embeddings: keys.optional_bool("tie_word_embeddings")?.unwrap_or(false),
        max_position_embeddings,
        // transformers' own defaults where the key is missing.
        bos_token_id: keys.token_ids("bos_token_id", &[1])?.first().copied(),
        eos_token_ids: keys.token_ids("eos_token_id", &[2])?,
        pad_token_id: keys.token_ids("pad_token_id", &[])?.first().copied(),
    })
}

/// An object of the file.
struct Keys<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn error(&self, key: &str, message: &str) -> Error {
        Error::format(self.path, format!("{key}: {message}"))
    }

    fn unsupported(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::unsupported(self.path, format!("{key}: {message}"))
    }

    /// A value that is there and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = || self.error(key, &format!("{expected} expected, {} found", short(value)));
        read(value).ok_or_else(found).map(Some)
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.optional(key, "a non-negative integer", as_size)
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f64>> {
        self.optional(key, "a number", Value::as_f64)
    }

    fn float(&self, key: &str) -> Result<f64> {
        self.optional_float(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    fn optional_bool(&self, key: &str) -> Result<Option<bool>> {
        self.optional(key, "true or false", Value::as_bool)
    }

    fn optional_text(&self, key: &str) -> Result<Option<&'a str>> {
        self.optional(key, "a string", Value::as_str)
    }

    fn optional_object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        let object = self.optional(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Keys { path: self.path, object }))
    }

    fn kind(&self) -> Result<Kind> {
        let names = self.optional("architectures", "a list", Value::as_array)?;
        let name = names.and_then(|names| names.first());
        let model_type = self.optional_text("model_type")?;
        let refused = |key, found: &str| {
            let known = Kind::ALL.map(Kind::architecture).join(", ");
            self.unsupported(key, format!("{found} is not supported, only {known}"))
        };
        if let Some(name) = name {
            let name = name.as_str().unwrap_or_default();
            let kind = Kind::ALL.into_iter().find(|kind| kind.architecture() == name);
            let kind = kind.ok_or_else(|| refused("architectures", &short(&name.into())))?;
            return match model_type {
                Some(other) if other != kind.model_type() => {
                    let message = format!(
                        "{} is not the type of {name}, {} expected",
                        short(&other.into()),
                        kind.model_type()
                    );
                    Err(self.error("model_type", &message))
                }
                _ => Ok(kind),
            };
        }
        let Some(model_type) = model_type else {
            return Err(self.error("architectures", "missing"));
        };
        let kind = Kind::ALL.into_iter().find(|kind| kind.model_type() == model_type);
        kind.ok_or_else(|| refused("model_type", &short(&model_type.into())))
    }

    /// Refuses settings that change what the model computes.
    fn refuse_settings(&self, kind: Kind) -> Result<()> {
        if let Some(quantization) = self.optional_object("quantization_config")? {
            let method = quantization.optional_text("quant_method")?.unwrap_or("unknown");
            let message = format!("weights quantised by {method} are not supported");
            let error = self.unsupported("quantization_config", message);
            return Err(error.advise("give the unquantised model, or a GGUF file of it"));
        }
        if let Some(factor) = self.optional_float("partial_rotary_factor")?.filter(|f| *f != 1.0) {
            let message = format!("a rotary embedding of a part ({factor}) is not supported");
            return Err(self.unsupported("partial_rotary_factor", message));
        }
        let window = match (kind, self.object.get("sliding_window")) {
            // transformers' default where the key is missing.
            (Kind::Mistral, None) => Some(4096),
            _ => self.optional_size("sliding_window")?,
        };
        let context = self.optional_size("max_position_embeddings")?;
        let context = context.unwrap_or(kind.default_context());
        if let Some(window) = window.filter(|w| *w < context) {
            let message = format!(
                "a window of {window} tokens is not supported, only null or at least the context length of {context}"
            );
            let error = self.unsupported("sliding_window", message);
            return Err(error.advise(
                "for texts that fit the window, set \"sliding_window\": null in config.json",
            ));
        }
        Ok(())
    }

    fn activation(&self) -> Result<Activation> {
        match self.optional_text("hidden_act")? {
            None | Some("silu" | "swish") => Ok(Activation::Silu),
            Some(other) => {
                let found = short(&other.into());
                Err(self.unsupported("hidden_act", format!("{found} is not supported, only silu")))
            }
        }
    }

    fn layers(&self, kind: Kind, query_heads: usize) -> Result<Vec<LayerWidths>> {
        let count = self.size("num_hidden_layers")?;
        if kind == Kind::PerLayer {
            let list = self.optional(LAYER_WIDTHS, "a list", Value::as_array)?;
            let list = list.ok_or_else(|| self.error(LAYER_WIDTHS, "missing"))?;
            if list.len() != count {
                let message = format!("{count} layers expected, {} found", list.len());
                return Err(self.error(LAYER_WIDTHS, &message));
            }
            let widths = |(layer, value): (usize, &'a Value)| {
                serde_json::from_value(value.clone())
                    .map_err(|e| self.error(&format!("{LAYER_WIDTHS}[{layer}]"), &e.to_string()))
            };
            return list.iter().enumerate().map(widths).collect();
        }
        const MOST: usize = 1 << 12;
        if !(1..=MOST).contains(&count) {
            let message = format!("1 to {MOST} expected, {count} found");
            return Err(self.error("num_hidden_layers", &message));
        }
        let kv_heads = self.optional_size("num_key_value_heads")?.unwrap_or(query_heads);
        let ffn = self.size("intermediate_size")?;
        if query_heads == 0 {
            return Err(self.error("num_attention_heads", "at least 1 expected, 0 found"));
        }
        Ok(vec![LayerWidths { query_heads, kv_heads, ffn }; count])
    }

    fn rope(&self) -> Result<Rope> {
        // transformers 5 writes one object for what were two keys. Where both are
        // there it takes `rope_scaling`, unless that is empty, and of the other
        // nothing.
        let object = |key| {
            let object = self.optional_object(key)?.filter(|keys| !keys.object.is_empty());
            Ok::<_, Error>(object.map(|object| (key, object)))
        };
        let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
        if let (Some((_, scaling)), Some((_, parameters))) = (&scaling, &parameters)
            && scaling.object != parameters.object
        {
            tracing::warn!(
                "{}: rope_scaling counts, rope_parameters beside it does not",
                self.path.display()
            );
        }
        let chosen = scaling.or(parameters);
        let theta = match &chosen {
            Some((_, chosen)) => chosen.optional_float("rope_theta")?,
            None => None,
        };
        let theta = match theta {
            Some(theta) => theta,
            None => self.optional_float("rope_theta")?.unwrap_or(10_000.0),
        };
        let scaling = match chosen {
            Some((key, chosen)) => chosen.rope_scaling(key)?,
            None => RopeScaling::None,
        };
        // Beside the object it wins in transformers.
        let original = "original_max_position_embeddings";
        if let (Some(beside), RopeScaling::Llama3 { original_max_position_embeddings, .. }) =
            (self.optional_size(original)?, &scaling)
            && beside != *original_max_position_embeddings
        {
            let message = format!(
                "{beside}, but {original_max_position_embeddings} in the rotary embedding's settings"
            );
            return Err(self.error(original, &message));
        }
        Ok(Rope { theta, scaling })
    }

    /// The scaling that this object, found under `key`, describes.
    fn rope_scaling(&self, key: &str) -> Result<RopeScaling> {
        if let Some(factor) = self.optional_float("partial_rotary_factor")?.filter(|f| *f != 1.0) {
            let message = format!("a rotary embedding of a part ({factor}) is not supported");
            return Err(self.unsupported("partial_rotary_factor", message));
        }
        let kind = match self.optional_text("rope_type")? {
            Some(kind) => kind,
            None => match self.optional_text("type")? {
                Some(kind) => kind,
                None if self.get("rope_theta").is_some() => "default",
                None => return Err(self.error(key, "rope_type missing")),
            },
        };
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.float("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: self.float("factor")?,
                low_freq_factor: self.float("low_freq_factor")?,
                high_freq_factor: self.float("high_freq_factor")?,
                original_max_position_embeddings: self.size("original_max_position_embeddings")?,
            }),
            "longrope" => self.longrope(key),
            other => {
                let found = short(&other.into());
                let message = format!("type {found} is not supported, only linear and llama3");
                Err(self.unsupported(key, message))
            }
        }
    }

    /// Divisors of the frequencies, as this program's own folders have them:
    /// the same for all lengths of text, and attention left as it is.
    fn longrope(&self, key: &str) -> Result<RopeScaling> {
        let (short, long) = (self.divisors("short_factor")?, self.divisors("long_factor")?);
        if short != long || self.optional_float("attention_factor")? != Some(1.0) {
            let message = "type longrope is supported only with the same factors for short and long texts and an attention_factor of 1";
            return Err(self.unsupported(key, message));
        }
        Ok(RopeScaling::Factors { divisors: short })
    }

    fn divisors(&self, key: &str) -> Result<Vec<f32>> {
        let list = self.optional(key, "a list", Value::as_array)?;
        let list = list.ok_or_else(|| self.error(key, "missing"))?;
        let number = |value: &Value| value.as_f64().map(|v| v as f32);
        let numbers: Option<Vec<f32>> = list.iter().map(number).collect();
        numbers.ok_or_else(|| self.error(key, "numbers expected"))
    }

    /// One id or a list of ids; none for null or a negative id.
    fn token_ids(&self, key: &str, default: &[u32]) -> Result<Vec<u32>> {
        let Some(value) = self.object.get(key) else { return Ok(default.to_vec()) };
        let ids = match value {
            Value::Null => return Ok(Vec::new()),
            Value::Array(ids) => ids.as_slice(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                std::slice::from_ref(value)
            }
        };
        let mut out = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(number) = id.as_i64() else {
                let message = format!("a token id expected, {} found", short(id));
                return Err(self.error(key, &message));
            };
            if number >= 0 {
                let out_of_range = |_| self.error(key, &format!("{number} is out of range"));
                out.push(u32::try_from(number).map_err(out_of_range)?);
            }
        }
        Ok(out)
    }
}

fn as_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|v| usize::try_from(v).ok())
}

/// A value for one line of a message.
fn short(value: &Value) -> String {
    const LIMIT: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= LIMIT {
        return text;
    }
    text.chars().take(LIMIT).chain(['…']).collect()
}
