//! `config.json` to [`ModelConfig`], by what the architectures declare.
//!
//! Read are the folders of every [`Architecture`], and this program's own per-layer folders,
//! which have the same keys and the widths of every layer beside them. Whatever would
//! change what the model computes and is not known is refused by name.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary.

use std::path::Path;

use adapruner_arch::{
    Experts, Multimodal,
    config::all_but,
    family::{
        AttentionBiasRule, Cap, Factor, Family, Fixed, FormRule, HeadWidthRule, KvHeadRule,
        MlpBiasRule, OrderRule, ScoreRule, UnrotatedRule, WindowRule,
    },
};
use serde_json::{Map, Value};

use crate::{
    config::{Activation, Architecture, AttentionBias, LayerWidths, ModelConfig},
    error::{Error, Result},
    hf::{modeling::cache_order, nested, unknown},
    open::check,
};

/// The key that holds the widths of every layer.
pub const LAYER_WIDTHS: &str = "layer_widths";
/// Kinds of layer, as `layer_types` names them.
pub(super) const FULL: &str = "full_attention";
/// The kind of a layer with a window.
pub(super) const SLIDING: &str = "sliding_attention";

/// What a folder is: an architecture, as it is or with widths per layer, alone or as the language
/// model of a larger model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) architecture: Architecture,
    pub(super) multimodal: Option<Multimodal>,
    pub(super) per_layer: bool,
}

impl Kind {
    fn all() -> impl Iterator<Item = Self> {
        let alone = Architecture::ALL.map(|architecture| (architecture, None));
        let nested = Multimodal::ALL.into_iter().flat_map(|multimodal| {
            let languages = multimodal.composite().languages.iter();
            languages.map(move |language| (language.architecture, Some(multimodal)))
        });
        let both = |(architecture, multimodal)| {
            [false, true].map(|per_layer| Self { architecture, multimodal, per_layer })
        };
        alone.into_iter().chain(nested).flat_map(both)
    }

    pub(super) fn family(self) -> &'static Family {
        self.architecture.family()
    }

    /// `model_type`.
    pub(super) fn model_type(self) -> String {
        let own = match self.multimodal {
            None => self.family().hf.model_type,
            Some(multimodal) => multimodal.composite().model_type,
        };
        if self.per_layer { format!("adapruner_{own}") } else { own.to_owned() }
    }

    /// The entry of `architectures`.
    pub(super) fn class(self) -> String {
        let own = match self.multimodal {
            None => self.family().class(),
            Some(multimodal) => multimodal.composite().class(),
        };
        if self.per_layer { format!("Adapruner{own}") } else { own }
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
    let keys = Keys { path, object, within: "" };
    let kind = keys.kind()?;
    let Some(multimodal) = kind.multimodal else { return language(&keys, kind) };
    let composite = multimodal.composite();
    let (language_model, settings) = nested::language(&keys, composite)?;
    let keys = Keys { path, object: &settings, within: composite.text };
    language(&keys, Kind { architecture: language_model.architecture, ..kind })
}

/// Reads a language model's configuration from its keys.
fn language(keys: &Keys<'_>, kind: Kind) -> Result<ModelConfig> {
    let (path, family) = (keys.path, kind.family());
    let context = keys.optional_size("max_position_embeddings")?.unwrap_or(family.hf.context);
    keys.refuse_settings(family, context)?;

    let hidden_size = keys.size("hidden_size")?;
    let heads = keys.size("num_attention_heads")?;
    let said = match family.hf.head_width {
        HeadWidthRule::Key(default) => keys.optional_size("head_dim")?.or(default),
        HeadWidthRule::ByHidden => None,
    };
    let head_dim = match said {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let message = format!("missing, and {hidden_size} is not a multiple of {heads} heads");
            return Err(keys.error("head_dim", &message));
        }
    };
    let eps = match family.hf.eps {
        (Some(key), default) => keys.optional_float(key)?.unwrap_or(default),
        (None, always) => always,
    };
    let experts = match &family.experts {
        Some(rule) => Some(keys.experts(rule)?),
        None => None,
    };
    let layers = keys.layers(kind, heads, experts)?;
    let order = cache_order(&layers);
    let (rope, local_rope) = keys.ropes(family)?;
    let id = |key, default: Option<u32>| keys.token_ids(key, default.as_slice());
    let config = ModelConfig {
        architecture: kind.architecture,
        multimodal: kind.multimodal,
        hidden_size,
        head_dim,
        vocab_size: keys.size("vocab_size")?,
        experts,
        activation: keys.activation(family)?,
        norm_eps: eps,
        parallel: match family.order {
            OrderRule::Sequential => false,
            OrderRule::Parallel => true,
            OrderRule::Key { hf, default, .. } => keys.optional_bool(hf)?.unwrap_or(default),
        },
        rope,
        local_rope,
        rotated_dim: keys.rotated_dim(family, head_dim)?,
        unrotated: match &family.unrotated {
            Some(rule) => keys.unrotated(rule, &order)?,
            None => Vec::new(),
        },
        windows: keys.windows(family, &order, context)?,
        score_scale: keys.score_scale(&family.scores, head_dim)?,
        embedding_scale: keys.factor(family.embedding_scale, hidden_size)?,
        residual_scale: keys.factor(family.residual_scale, hidden_size)?,
        logit_divisor: keys.factor(family.logit_divisor, hidden_size)?,
        score_cap: keys.cap(family.caps.map(|caps| caps.scores))?,
        logit_cap: keys.cap(family.caps.map(|caps| caps.logits))?,
        attention_bias: keys.attention_bias(family)?,
        mlp_bias: match family.mlp_bias {
            MlpBiasRule::Never => false,
            MlpBiasRule::Always => true,
            MlpBiasRule::Key { hf, default } => keys.optional_bool(hf)?.unwrap_or(default),
        },
        tie_word_embeddings: keys.optional_bool("tie_word_embeddings")?.unwrap_or(family.hf.tied),
        max_position_embeddings: context,
        // transformers' own defaults where the key is missing.
        bos_token_id: id("bos_token_id", family.hf.bos)?.first().copied(),
        eos_token_ids: id("eos_token_id", family.hf.eos)?,
        pad_token_id: id("pad_token_id", family.hf.pad)?.first().copied(),
        layers,
    };
    check::config(path, &config)?;
    Ok(config)
}

/// An object of the file.
pub(super) struct Keys<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
    /// The key of the file that the object stands under, for messages; empty for the whole file
    /// and below that.
    pub(super) within: &'static str,
}

impl<'a> Keys<'a> {
    pub(super) fn error(&self, key: &str, message: &str) -> Error {
        Error::format(self.path, format!("{}: {message}", self.full(key)))
    }

    pub(super) fn unsupported(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::unsupported(self.path, format!("{}: {message}", self.full(key)))
    }

    /// A key with the one that it stands under.
    fn full(&self, key: &str) -> String {
        if self.within.is_empty() { key.to_owned() } else { format!("{}.{key}", self.within) }
    }

    /// A value that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = || self.error(key, &format!("{expected} expected, {} found", short(value)));
        read(value).ok_or_else(found).map(Some)
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.optional(key, "a non-negative integer", as_size)
    }

    pub(super) fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    pub(super) fn optional_float(&self, key: &str) -> Result<Option<f64>> {
        self.optional(key, "a number", Value::as_f64)
    }

    pub(super) fn float(&self, key: &str) -> Result<f64> {
        self.optional_float(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    pub(super) fn optional_bool(&self, key: &str) -> Result<Option<bool>> {
        self.optional(key, "true or false", Value::as_bool)
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'a str>> {
        self.optional(key, "a string", Value::as_str)
    }

    pub(super) fn optional_object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        let object = self.optional(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Keys { path: self.path, object, within: "" }))
    }

    fn kind(&self) -> Result<Kind> {
        let names = self.optional("architectures", "a list", Value::as_array)?;
        let name = names.and_then(|names| names.first());
        let model_type = self.optional_text("model_type")?;
        let own_code = self.get("auto_map").is_some();
        let refused = |key, found: &str| {
            let (message, hint) = unknown::refusal(&short(&found.into()), found, own_code);
            let error = self.unsupported(key, message);
            match hint {
                Some(hint) => error.advise(hint),
                None => error,
            }
        };
        if let Some(name) = name {
            let name = name.as_str().unwrap_or_default();
            let kind = self.of_form(|kind| kind.class() == name)?;
            let kind = kind.ok_or_else(|| refused("architectures", name))?;
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
        let kind = self.of_form(|kind| kind.model_type() == model_type)?;
        kind.ok_or_else(|| refused("model_type", model_type))
    }

    /// The first of these kinds whose form the folder has.
    fn of_form(&self, wanted: impl Fn(&Kind) -> bool) -> Result<Option<Kind>> {
        for kind in Kind::all().filter(wanted) {
            let of_form = match kind.family().hf.form {
                FormRule::Only => true,
                FormRule::FalconNorms(count) => self.falcon_norms()? == count,
            };
            if of_form {
                return Ok(Some(kind));
            }
        }
        Ok(None)
    }

    /// Norms that stand before Falcon's sublayers.
    fn falcon_norms(&self) -> Result<u64> {
        const KEY: &str = "num_ln_in_parallel_attn";
        if self.optional_bool("new_decoder_architecture")? != Some(true) {
            return Ok(1);
        }
        match self.optional_size(KEY)?.unwrap_or(2) {
            count @ (1 | 2) => Ok(count as u64),
            count => Err(self.error(KEY, &format!("1 or 2 expected, {count} found"))),
        }
    }

    /// Refuses settings that change what the model computes.
    fn refuse_settings(&self, family: &Family, context: usize) -> Result<()> {
        if let Some(quantization) = self.optional_object("quantization_config")? {
            let method = quantization.optional_text("quant_method")?.unwrap_or("unknown");
            let message = format!("weights quantised by {method} are not supported");
            let error = self.unsupported("quantization_config", message);
            return Err(error.advise("give the unquantised model, or a GGUF file of it"));
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            let known = family.caps.is_some_and(|caps| caps.each().iter().any(|c| c.key == key));
            if let Some(cap) = self.optional_float(key)?.filter(|_| !known) {
                return Err(self.unsupported(key, format!("a cap ({cap}) is not supported")));
            }
        }
        for Fixed { key, default, value, otherwise } in family.hf.fixed {
            if self.optional_bool(key)?.unwrap_or(*default) != *value {
                let message = format!("{otherwise}: not supported for {}", family.title);
                return Err(self.unsupported(key, message));
            }
        }
        for (key, otherwise) in family.hf.null {
            if self.get(key).is_some() {
                let message = format!("{otherwise}: not supported for {}", family.title);
                return Err(self.unsupported(key, message));
            }
        }
        if self.optional_bool("use_bidirectional_attention")? == Some(true) {
            let message = "attention in both directions is not supported, only causal";
            return Err(self.unsupported("use_bidirectional_attention", message));
        }
        let window = self.optional_size("sliding_window")?;
        if let (WindowRule::None, Some(window)) = (family.windows, window)
            && window < context
        {
            let message = format!(
                "a window of {window} tokens is not supported for {}, only null or at least the context length of {context}",
                family.title
            );
            let error = self.unsupported("sliding_window", message);
            return Err(error.advise(
                "for texts that fit the window, set \"sliding_window\": null in config.json",
            ));
        }
        Ok(())
    }

    fn activation(&self, family: &Family) -> Result<Activation> {
        let (key, default) = family.activation;
        match self.optional_text(key)? {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some("gelu") => Ok(Activation::Gelu),
            Some("relu") => Ok(Activation::Relu),
            Some(other) => {
                let message = format!(
                    "{} is not supported, only silu, gelu, gelu_pytorch_tanh and relu",
                    short(&other.into())
                );
                Err(self.unsupported(key, message))
            }
        }
    }

    fn attention_bias(&self, family: &Family) -> Result<AttentionBias> {
        Ok(match family.attention_bias {
            AttentionBiasRule::Never => AttentionBias::None,
            AttentionBiasRule::Qkv => AttentionBias::Qkv,
            AttentionBiasRule::Key { hf, default } => {
                self.optional_bool(hf)?.unwrap_or(default).into()
            }
        })
    }

    fn factor(&self, factor: Factor, hidden_size: usize) -> Result<f64> {
        match factor {
            Factor::One => Ok(1.0),
            Factor::RootHidden => Ok((hidden_size as f64).sqrt()),
            Factor::Key { hf, .. } => Ok(self.optional_float(hf)?.unwrap_or(1.0)),
        }
    }

    /// A cap: none where the key is null, its default where it is missing.
    fn cap(&self, cap: Option<Cap>) -> Result<Option<f64>> {
        let Some(Cap { key, default }) = cap else { return Ok(None) };
        if !self.object.contains_key(key) {
            return Ok(Some(default));
        }
        self.optional_float(key)
    }

    /// The factor of scores, `None` where it is `1/√D`.
    fn score_scale(&self, rule: &ScoreRule, head_dim: usize) -> Result<Option<f64>> {
        match *rule {
            ScoreRule::HeadWidth => Ok(None),
            ScoreRule::InverseRoot { hf, default, .. } => {
                let scalar = self.optional_float(hf)?.unwrap_or(default);
                if !(scalar > 0.0 && scalar.is_finite()) {
                    return Err(self.error(hf, &format!("above 0 expected, {scalar} found")));
                }
                Ok((scalar != head_dim as f64).then(|| 1.0 / scalar.sqrt()))
            }
            ScoreRule::Key { hf, default, .. } => {
                Ok(Some(self.optional_float(hf)?.unwrap_or(default)))
            }
        }
    }

    /// Which layers do not rotate; `order` is that of the list.
    fn unrotated(&self, rule: &UnrotatedRule, order: &[usize]) -> Result<Vec<usize>> {
        let layers = order.len();
        let Some(list) = self.optional(rule.list, "a list", Value::as_array)? else {
            let every = self.optional_size(rule.interval)?.unwrap_or(rule.every);
            let rotates = all_but(layers, every);
            return Ok(rotates.enumerate().filter(|(_, is)| !is).map(|(at, _)| at).collect());
        };
        if list.len() != layers {
            let message = format!("{layers} layers expected, {} found", list.len());
            return Err(self.error(rule.list, &message));
        }
        let mut unrotated = Vec::new();
        for (&layer, value) in order.iter().zip(list) {
            match value.as_u64() {
                Some(0) => unrotated.push(layer),
                Some(1) => {}
                _ => {
                    let message = format!("0 or 1 expected, {} found", short(value));
                    return Err(self.error(&format!("{}[{layer}]", rule.list), &message));
                }
            }
        }
        unrotated.sort_unstable();
        Ok(unrotated)
    }

    /// The window of each layer; empty where none has one shorter than the context.
    fn windows(
        &self,
        family: &Family,
        order: &[usize],
        context: usize,
    ) -> Result<Vec<Option<usize>>> {
        let layers = order.len();
        let said = self.object.get("sliding_window");
        let of_key = self.optional_size("sliding_window")?;
        let missing = |default| if said.is_none() { Some(default) } else { of_key };
        let (window, sliding): (_, Vec<bool>) = match family.windows {
            WindowRule::None => return Ok(Vec::new()),
            WindowRule::All { default } => {
                let window = if said.is_none() { default } else { of_key };
                (window, vec![true; layers])
            }
            WindowRule::Switched => {
                if self.optional_bool("use_sliding_window")? != Some(true) {
                    return Ok(Vec::new());
                }
                let first = self.optional_size("max_window_layers")?.unwrap_or(28);
                let by_default = (0..layers).map(|layer| layer >= first).collect();
                (missing(4096), self.layer_types(order)?.unwrap_or(by_default))
            }
            WindowRule::AllBut { every, default } => {
                let every = self.optional_size("sliding_window_pattern")?.unwrap_or(every);
                let by_default = all_but(layers, every).collect();
                (missing(default), self.layer_types(order)?.unwrap_or(by_default))
            }
        };
        let Some(window) = window.filter(|window| *window < context) else {
            return match family.local_theta {
                // Such layers rotate otherwise, window or not.
                Some(_) => Ok(windows_of(sliding, window.unwrap_or(context))),
                None => Ok(Vec::new()),
            };
        };
        if window == 0 {
            return Err(self.error("sliding_window", "at least 1 token expected, 0 found"));
        }
        Ok(windows_of(sliding, window))
    }

    /// Which layers have a window, as `layer_types` says in this order.
    fn layer_types(&self, order: &[usize]) -> Result<Option<Vec<bool>>> {
        let layers = order.len();
        let Some(list) = self.optional("layer_types", "a list", Value::as_array)? else {
            return Ok(None);
        };
        if list.len() != layers {
            let message = format!("{layers} layers expected, {} found", list.len());
            return Err(self.error("layer_types", &message));
        }
        let mut sliding = vec![false; layers];
        for (&layer, value) in order.iter().zip(list) {
            sliding[layer] = match value.as_str() {
                Some(FULL) => false,
                Some(SLIDING) => true,
                _ => {
                    let message =
                        format!("{} is not supported, only {FULL} and {SLIDING}", short(value));
                    return Err(self.unsupported(&format!("layer_types[{layer}]"), message));
                }
            };
        }
        Ok(Some(sliding))
    }

    fn layers(
        &self,
        kind: Kind,
        query_heads: usize,
        experts: Option<Experts>,
    ) -> Result<Vec<LayerWidths>> {
        let count = self.size("num_hidden_layers")?;
        if kind.per_layer {
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
        let hf = &kind.family().hf;
        let flag = |key, default| Ok::<_, Error>(self.optional_bool(key)?.unwrap_or(default));
        let said = match hf.kv_heads {
            KvHeadRule::Key => self.optional_size("num_key_value_heads")?,
            KvHeadRule::All => None,
            KvHeadRule::Falcon if flag("new_decoder_architecture", false)? => {
                self.optional_size("num_kv_heads")?
            }
            KvHeadRule::Falcon => flag("multi_query", true)?.then_some(1),
        };
        let kv_heads = said.unwrap_or(query_heads);
        let ffn = match (self.optional_size(hf.ffn.0)?, hf.ffn.1) {
            (Some(ffn), _) => ffn,
            (None, Some(multiple)) => multiple.saturating_mul(self.size("hidden_size")?),
            (None, None) => return Err(self.error(hf.ffn.0, "missing")),
        };
        let ffn = ffn.saturating_mul(experts.map_or(1, |experts| experts.count));
        if query_heads == 0 {
            return Err(self.error("num_attention_heads", "at least 1 expected, 0 found"));
        }
        Ok(vec![LayerWidths { query_heads, kv_heads, ffn }; count])
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

fn windows_of(sliding: Vec<bool>, window: usize) -> Vec<Option<usize>> {
    sliding.into_iter().map(|is| is.then_some(window)).collect()
}

fn as_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|v| usize::try_from(v).ok())
}

/// A value for one line of a message.
pub(super) fn short(value: &Value) -> String {
    const LIMIT: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= LIMIT {
        return text;
    }
    text.chars().take(LIMIT).chain(['…']).collect()
}
