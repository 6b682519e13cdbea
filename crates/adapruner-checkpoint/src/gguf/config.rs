//! A model's configuration from the metadata and tensor shapes of a GGUF file.
//!
//! Axes: `H` hidden, `N` query heads, `K` key-value heads, `D` head width,
//! `F` feed-forward width, `V` vocabulary.

use std::{collections::BTreeSet, f64::consts::TAU, path::Path};

use adapruner_arch::{
    Experts,
    config::{all_but, long_attention_factor},
    family::{Cap, Factor, Family, NormKind, OrderRule, ScoreRule, WindowRule},
};
use candle_core::quantized::GgmlDType;

use super::{
    header::{Header, shown},
    kind::TensorKind,
    layout::{PER_LAYER, by_layers},
    source::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT},
    value::Value,
};
use crate::{
    config::{Architecture, AttentionBias, LayerWidths, ModelConfig, Rope, RopeScaling},
    convert::{self, ConvertError, Rows, Stored},
    error::{Error, Result},
    names::{Norm, Projection},
    open::check,
};

/// Factor of the rotation's cosines and sines.
pub(super) const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";

/// llama.cpp's base where a file names none.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// The architecture that a file names. Mistral's files say that they are Llama's, and so do
/// those with widths per layer.
fn architecture(path: &Path, header: &Header) -> Result<(Architecture, &'static str)> {
    let found = Keys { path, header, prefix: "general" }.text("architecture")?;
    if found == PER_LAYER {
        return Ok((Architecture::Llama, PER_LAYER));
    }
    // Of several with one name that with the most norms that the first layer has, all of its own.
    let norms = |architecture: &Architecture| {
        let family = architecture.family();
        let norms = Norm::ALL.into_iter().filter_map(|norm| norm.of(family));
        let there = norms.map(|n| header.tensor(&format!("blk.0.{}.weight", n.gguf)).is_some());
        let there: Vec<bool> = there.collect();
        if there.contains(&false) { 0 } else { there.len() }
    };
    let name = |a: &Architecture| a.family().gguf.map(|gguf| gguf.architecture);
    let known = Architecture::ALL.into_iter().filter(|a| name(a) == Some(found));
    let mut known: Vec<Architecture> = known.collect();
    // Mixtral's files say that they are Llama's too.
    let experts = Keys { path, header, prefix: found }.expert_count()?.is_some();
    if known.iter().any(|a| a.family().experts.is_some() == experts) {
        known.retain(|a| a.family().experts.is_some() == experts);
    }
    known.sort_by_key(|architecture| std::cmp::Reverse(norms(architecture)));
    if let Some((first, name)) = known.first().and_then(|first| Some((*first, name(first)?))) {
        return Ok((first, name));
    }
    let mut names: Vec<&str> = Vec::new();
    for name in Architecture::ALL.iter().filter_map(name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let message = format!(
        "architecture {} is not supported, only {} and {PER_LAYER}",
        shown(found),
        names.join(", ")
    );
    Err(Error::unsupported(path, message))
}

/// Reads the configuration from the header of `file`.
///
/// # Errors
/// An architecture or a setting that this program does not run, by name; a
/// missing or absurd value.
pub fn model_config(path: &Path, header: &Header, file: &[u8]) -> Result<ModelConfig> {
    let (architecture, prefix) = architecture(path, header)?;
    let family = architecture.family();
    let keys = Keys { path, header, prefix };
    keys.refuse_settings(family)?;

    let hidden_size = keys.size("embedding_length")?;
    let count = keys.size("block_count")?;
    let experts = match &family.experts {
        Some(rule) => Some(keys.experts(rule)?),
        None => None,
    };
    let layers = keys.layers(count, family, experts)?;
    let head_dim = keys.head_dim(hidden_size, &layers)?;
    let rotated_dim = keys.rotated_dim(family, head_dim)?;
    let Some(embedding) = header.tensor("token_embd.weight") else {
        return Err(Error::format(path, "no tensor token_embd.weight"));
    };
    let vocab_size = match embedding.dims[..] {
        [_, rows] => usize::try_from(rows).unwrap_or(usize::MAX),
        _ => return Err(Error::format(path, "tensor token_embd.weight is not a matrix")),
    };
    let theta = keys.optional_float("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA);
    let tokens = Keys { path, header, prefix: "tokenizer.ggml" };
    let mut eos_token_ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id"] {
        if let Some(id) = tokens.optional_id(key)?
            && !eos_token_ids.contains(&id)
        {
            eos_token_ids.push(id);
        }
    }
    let model = ModelConfig {
        attention_bias: keys.attention_bias(family, &layers)?,
        experts,
        mlp_bias: keys.has_biases(family, &layers, MLP)? == Some(true),
        norm_eps: keys.float(eps_key(family))?,
        parallel: match family.order {
            OrderRule::Sequential => false,
            OrderRule::Parallel => true,
            OrderRule::Key { gguf, default, .. } => keys.optional_bool(gguf)?.unwrap_or(default),
        },
        rope: Rope {
            theta,
            scaling: keys.rope_scaling(theta, rotated_dim.unwrap_or(head_dim), file)?,
        },
        rotated_dim,
        embedding_scale: keys.factor(family.embedding_scale, hidden_size)?,
        residual_scale: keys.factor(family.residual_scale, hidden_size)?,
        logit_divisor: keys.factor(family.logit_divisor, hidden_size)?,
        score_cap: keys.cap(family.caps.map(|caps| caps.scores))?,
        logit_cap: keys.cap(family.caps.map(|caps| caps.logits))?,
        tie_word_embeddings: header.tensor("output.weight").is_none(),
        max_position_embeddings: keys.size("context_length")?,
        bos_token_id: tokens.optional_id("bos_token_id")?,
        eos_token_ids,
        pad_token_id: tokens.optional_id("padding_token_id")?,
        ..ModelConfig::new(architecture, hidden_size, head_dim, vocab_size, layers)
    };
    let local_rope = match family.local_theta {
        Some((_, default)) => {
            let theta = keys.optional_float("rope.freq_base_swa")?.unwrap_or(default);
            Some(Rope { theta, scaling: RopeScaling::None })
        }
        None => None,
    };
    let score_scale = match family.scores {
        ScoreRule::HeadWidth | ScoreRule::InverseRoot { .. } => by_layers(&model),
        // 0 stands for `1/√D`.
        ScoreRule::Key { gguf, .. } => keys.optional_float(gguf)?.filter(|s| *s != 0.0),
    };
    let config = ModelConfig { windows: keys.windows(&model)?, local_rope, score_scale, ..model };
    check::config(path, &config)?;
    Ok(config)
}

/// The key for what norms add to the mean square or variance.
pub(super) fn eps_key(family: &Family) -> &'static str {
    match family.norm_kind {
        NormKind::RootMeanSquare => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    }
}

/// The projections that have biases together.
const QKV: &[Projection] = &[Projection::Q, Projection::K, Projection::V];
const OUTPUT: &[Projection] = &[Projection::O];
const MLP: &[Projection] = &[Projection::Gate, Projection::Up, Projection::Down];

/// The metadata under one prefix.
pub(super) struct Keys<'a> {
    path: &'a Path,
    header: &'a Header,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.header.metadata.get(&format!("{}.{key}", self.prefix))
    }

    pub(super) fn error(&self, key: &str, message: &str) -> Error {
        Error::format(self.path, format!("metadata key {}.{key}: {message}", self.prefix))
    }

    pub(super) fn unsupported(&self, key: &str, message: impl std::fmt::Display) -> Error {
        let message = format!("metadata key {}.{key}: {message}", self.prefix);
        Error::unsupported(self.path, message)
    }

    fn text(&self, key: &str) -> Result<&'a str> {
        let value = self.get(key).ok_or_else(|| self.error(key, "missing"))?;
        value.as_str().ok_or_else(|| self.error(key, "not a string"))
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|v| usize::try_from(v).ok());
        size.map(Some).ok_or_else(|| self.error(key, "not a non-negative integer"))
    }

    fn optional_bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.error(key, "not true or false"))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    fn optional_id(&self, key: &str) -> Result<Option<u32>> {
        let Some(id) = self.optional_size(key)? else { return Ok(None) };
        // An id of all ones stands for "none" in some files.
        let id = u32::try_from(id).map_err(|_| self.error(key, "not a token id"))?;
        Ok((id != u32::MAX).then_some(id))
    }

    /// A float; a single-precision value as the decimal number it was written
    /// from (`1e-5`, not `9.999999747378752e-6`).
    pub(super) fn optional_float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let float =
            if let Value::F32(v) = value { v.to_string().parse().ok() } else { value.as_f64() };
        float.map(Some).ok_or_else(|| self.error(key, "not a float"))
    }

    fn float(&self, key: &str) -> Result<f64> {
        self.optional_float(key)?.ok_or_else(|| self.error(key, "missing"))
    }

    /// One number for every layer: a single value, or an array of one each.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let Some(values) = self.get(key).and_then(Value::as_array) else {
            return Ok(self.optional_size(key)?.map(|size| vec![size; layers]));
        };
        if values.len() != layers {
            let message = format!("{layers} values expected, {} found", values.len());
            return Err(self.error(key, &message));
        }
        let sizes = values.iter().map(|v| v.as_u64().and_then(|v| usize::try_from(v).ok()));
        let sizes: Option<Vec<_>> = sizes.collect();
        sizes.map(Some).ok_or_else(|| self.error(key, "not non-negative integers"))
    }

    fn layers(
        &self,
        count: usize,
        family: &Family,
        experts: Option<Experts>,
    ) -> Result<Vec<LayerWidths>> {
        // Each layer has at least one tensor: no allocation beyond the file.
        if count == 0 || count > self.header.tensors.len() {
            let message = format!("{count} layers, but {} tensors", self.header.tensors.len());
            return Err(self.error("block_count", &message));
        }
        let missing = |key| self.error(key, "missing");
        let heads = "attention.head_count";
        let ffn = family.experts.map_or("feed_forward_length", |rule| rule.gguf_width);
        let of_each = experts.map_or(1, |experts| experts.count);
        let query = self.per_layer(heads, count)?.ok_or_else(|| missing(heads))?;
        let widths = self.per_layer(ffn, count)?.ok_or_else(|| missing(ffn))?;
        let kv = self.per_layer("attention.head_count_kv", count)?;
        let kv = kv.unwrap_or_else(|| query.clone());
        let mut layers = Vec::with_capacity(count);
        for (layer, ((query_heads, kv_heads), ffn)) in
            query.into_iter().zip(kv).zip(widths).enumerate()
        {
            if query_heads > 0 && kv_heads == 0 {
                let message = format!("linear attention (layer {layer}) is not supported");
                return Err(self.unsupported("attention.head_count_kv", message));
            }
            // A layer without query heads has no attention, whatever it says
            // of key-value heads.
            let kv_heads = if query_heads == 0 { 0 } else { kv_heads };
            let ffn = usize::saturating_mul(ffn, of_each);
            layers.push(LayerWidths { query_heads, kv_heads, ffn });
        }
        Ok(layers)
    }

    fn head_dim(&self, hidden: usize, layers: &[LayerWidths]) -> Result<usize> {
        let head_dim = match self.optional_size("attention.key_length")? {
            Some(length) => length,
            None => match layers.first() {
                Some(w) if w.query_heads > 0 && hidden.is_multiple_of(w.query_heads) => {
                    hidden / w.query_heads
                }
                _ => return Err(self.error("attention.key_length", "missing")),
            },
        };
        self.equals_head_dim("attention.value_length", head_dim)?;
        Ok(head_dim)
    }

    fn equals_head_dim(&self, key: &str, head_dim: usize) -> Result<()> {
        match self.optional_size(key)?.filter(|length| *length != head_dim) {
            Some(length) => {
                let message = format!("{length} differs from the head width {head_dim}");
                Err(self.unsupported(key, message))
            }
            None => Ok(()),
        }
    }

    /// How much of each head is rotated, `None` where it is all of it.
    fn rotated_dim(&self, family: &Family, head_dim: usize) -> Result<Option<usize>> {
        const KEY: &str = "rope.dimension_count";
        if family.rotated_share.is_none() {
            self.equals_head_dim(KEY, head_dim)?;
        }
        Ok(self.optional_size(KEY)?.filter(|rotated| *rotated != head_dim))
    }

    /// Refuses settings that change what the model computes.
    fn refuse_settings(&self, family: &Family) -> Result<()> {
        if let Some(experts) = self.expert_count()?.filter(|_| family.experts.is_none()) {
            let message = format!("a mixture of {experts} experts is not supported");
            return Err(self.unsupported("expert_count", message));
        }
        if let (WindowRule::None | WindowRule::Switched, Some(window)) =
            (family.windows, self.optional_size("attention.sliding_window")?.filter(|n| *n > 0))
            && window < self.size("context_length")?
        {
            let message = format!("a sliding window of {window} tokens is not supported");
            return Err(self.unsupported("attention.sliding_window", message));
        }
        if self.get("attention.causal").is_some_and(|v| v.as_bool() != Some(true)) {
            return Err(self.unsupported("attention.causal", "only causal attention is supported"));
        }
        let read = |key: &str| {
            let factors = [family.embedding_scale, family.residual_scale, family.logit_divisor];
            let by_key =
                |factor: &Factor| matches!(factor, Factor::Key { gguf, .. } if *gguf == key);
            let scores = matches!(family.scores, ScoreRule::Key { gguf, .. } if gguf == key);
            let caps = family.caps.is_some_and(|caps| caps.each().iter().any(|c| c.key == key));
            scores || caps || factors.iter().any(by_key)
        };
        for key in [
            "embedding_scale",
            "residual_scale",
            "logit_scale",
            "attention.scale",
            ATTENTION_FACTOR,
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ] {
            // The rotation's belongs to the divisors of LongRoPE.
            let long = key == ATTENTION_FACTOR && self.header.tensor(ROPE_SHORT).is_some();
            if long || read(key) {
                continue;
            }
            if let Some(scale) = self.optional_float(key)?.filter(|s| *s != 0.0 && *s != 1.0) {
                return Err(self.unsupported(key, format!("a scale of {scale} is not supported")));
            }
        }
        Ok(())
    }

    fn factor(&self, factor: Factor, hidden_size: usize) -> Result<f64> {
        match factor {
            Factor::One => Ok(1.0),
            Factor::RootHidden => Ok((hidden_size as f64).sqrt()),
            // 0 stands for none.
            Factor::Key { gguf, .. } => {
                Ok(self.optional_float(gguf)?.filter(|factor| *factor != 0.0).unwrap_or(1.0))
            }
        }
    }

    /// A cap, of which llama.cpp takes the default where the key is missing.
    fn cap(&self, cap: Option<Cap>) -> Result<Option<f64>> {
        let Some(Cap { key, default }) = cap else { return Ok(None) };
        Ok(Some(self.optional_float(key)?.unwrap_or(default)))
    }

    /// The window of each layer, where the architecture has them.
    fn windows(&self, model: &ModelConfig) -> Result<Vec<Option<usize>>> {
        let layers = model.layers.len();
        let every = match model.family().windows {
            WindowRule::AllBut { every, .. } => every,
            WindowRule::All { .. } => {
                // llama.cpp passes it over; the model was made with it.
                let window = self.optional_size("attention.sliding_window")?.filter(|n| *n > 0);
                let window = window.filter(|window| *window < model.max_position_embeddings);
                return Ok(window.map_or_else(Vec::new, |window| vec![Some(window); layers]));
            }
            WindowRule::None | WindowRule::Switched => return Ok(Vec::new()),
        };
        let window = self.size("attention.sliding_window")?;
        if window == 0 {
            return Err(self.error("attention.sliding_window", "at least 1 token expected"));
        }
        let pattern = "attention.sliding_window_pattern";
        let sliding: Vec<bool> = match self.get(pattern).and_then(Value::as_array) {
            Some(list) => {
                let list: Option<Vec<bool>> = list.iter().map(Value::as_bool).collect();
                list.filter(|list| list.len() == layers)
                    .ok_or_else(|| self.error(pattern, "true or false for each layer expected"))?
            }
            None => all_but(layers, self.optional_size(pattern)?.unwrap_or(every)).collect(),
        };
        Ok(sliding.into_iter().map(|is| is.then_some(window)).collect())
    }

    /// Which projections of attention have biases.
    fn attention_bias(&self, family: &Family, layers: &[LayerWidths]) -> Result<AttentionBias> {
        let of = |projections| self.has_biases(family, layers, projections);
        let (qkv, output) = (of(QKV)?, of(OUTPUT)?);
        match (qkv == Some(true), output == Some(true)) {
            (false, false) => Ok(AttentionBias::None),
            (true, false) => Ok(AttentionBias::Qkv),
            (true, true) => Ok(AttentionBias::All),
            (false, true) => Err(Error::unsupported(
                self.path,
                "biases on some projections only: attn_output.bias is there, attn_q.bias is not",
            )),
        }
    }

    /// Whether these projections have biases: all of them, or none; `None` where no layer
    /// has them.
    fn has_biases(
        &self,
        family: &Family,
        layers: &[LayerWidths],
        of: &[Projection],
    ) -> Result<Option<bool>> {
        let names: BTreeSet<&str> = self.header.tensors.iter().map(|t| t.name.as_str()).collect();
        let mut with: Option<String> = None;
        let mut without: Option<String> = None;
        for (layer, widths) in layers.iter().enumerate() {
            for projection in of {
                if projection.is_attention() && !widths.has_attention() {
                    continue;
                }
                let fused = family.fused.iter().find(|fused| fused.of.contains(projection));
                let name = fused.map(|fused| fused.name).or(family.maps.of(*projection));
                let Some(name) = name else { continue };
                let name = format!("blk.{layer}.{}.bias", name.gguf);
                let side = if names.contains(name.as_str()) { &mut with } else { &mut without };
                side.get_or_insert(name);
            }
        }
        match (with, without) {
            (Some(with), Some(without)) => Err(Error::unsupported(
                self.path,
                format!("biases on some projections only: {with} is there, {without} is not"),
            )),
            (None, None) => Ok(None),
            (with, _) => Ok(Some(with.is_some())),
        }
    }

    fn rope_scaling(&self, theta: f64, rotated: usize, file: &[u8]) -> Result<RopeScaling> {
        if let Some(short) = self.divisors(ROPE_SHORT, rotated, file)? {
            let Some(long) = self.divisors(ROPE_LONG, rotated, file)? else {
                return Err(Error::tensor(
                    self.path,
                    ROPE_LONG,
                    format!("missing beside {ROPE_SHORT}"),
                ));
            };
            let context = self.size("context_length")?;
            let original = self.optional_size("rope.scaling.original_context_length")?;
            let original = original.unwrap_or(context);
            // What was rounded to single precision is what it was computed as.
            let by_default = long_attention_factor(context as f64, original as f64);
            let said = self.optional_float(ATTENTION_FACTOR)?.unwrap_or(1.0);
            let same = said as f32 == by_default as f32;
            return Ok(RopeScaling::Long {
                short,
                long,
                attention_factor: if same { by_default } else { said },
                original_max_position_embeddings: original,
            });
        }
        let mut factor = self.optional_float("rope.scaling.factor")?;
        if factor.is_none() {
            factor = self.optional_float("rope.scale_linear")?;
        }
        // 0 and 1 mean no scaling.
        let factor = factor.filter(|f| *f != 0.0 && *f != 1.0);
        let kind = match self.get("rope.scaling.type") {
            Some(_) => self.text("rope.scaling.type")?,
            None => "linear",
        };
        let linear = match (kind, factor) {
            ("none", _) | ("linear", None) => RopeScaling::None,
            ("linear", Some(factor)) => RopeScaling::Linear { factor },
            (other, _) => {
                let message = format!("rotary scaling {} is not supported", shown(other));
                return Err(self.unsupported("rope.scaling.type", message));
            }
        };
        let Some(divisors) = self.divisors(ROPE_FREQS, rotated, file)? else { return Ok(linear) };
        if linear != RopeScaling::None {
            let message = format!("linear scaling together with {ROPE_FREQS} is not supported");
            return Err(self.unsupported("rope.scaling.factor", message));
        }
        if divisors.iter().all(|d| *d == 1.0) {
            return Ok(RopeScaling::None);
        }
        Ok(llama3_scaling(&divisors, theta).unwrap_or(RopeScaling::Factors { divisors }))
    }

    /// The divisors of frequencies that a tensor holds, `[R/2]`.
    fn divisors(&self, name: &str, rotated: usize, file: &[u8]) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.header.tensor(name) else { return Ok(None) };
        let error = |message: String| Error::tensor(self.path, name, message);
        let expected = rotated / 2;
        if tensor.kind != TensorKind::F32 || tensor.dims != [expected as u64] {
            let (kind, dims) = (tensor.kind.name(), &tensor.dims);
            return Err(error(format!("[{expected}] of F32 expected, {dims:?} of {kind} found")));
        }
        let bytes = self.header.data(tensor, file);
        let bytes = bytes.ok_or_else(|| error("does not lie in the file".into()))?;
        let stored = Stored { bytes, kind: GgmlDType::F32, rows: Rows::Plain };
        let values = convert::values::<f32>(stored, &[expected]).map_err(|e| match e {
            ConvertError::Values(message) => error(message),
            ConvertError::Candle(error) => error.into(),
        })?;
        match values.iter().find(|v| **v <= 0.0) {
            Some(bad) => Err(error(format!("divisors above 0 expected, {bad} found"))),
            None => Ok(Some(values)),
        }
    }
}

/// The divisors of Llama 3's scaling: what `rope_freqs.weight` holds for it.
///
/// # Shapes
/// `[D/2]`.
pub fn llama3_divisors(
    theta: f64,
    head_dim: usize,
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original: usize,
) -> Vec<f32> {
    let divisor = |i: usize| {
        let frequency = theta.powf(-2.0 * i as f64 / head_dim as f64);
        let turns = original as f64 * frequency / TAU;
        let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
        let smooth = smooth.clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    (0..head_dim / 2).map(divisor).collect()
}

/// Llama 3's scaling, if some usual parameters of it give these divisors: the
/// factors 1 and 4 of every published model, an original context that is a
/// power of two (8192 first, the published one), the factor as the largest
/// divisor shows it.
fn llama3_scaling(divisors: &[f32], theta: f64) -> Option<RopeScaling> {
    /// Relative; the divisors were computed in single precision.
    const TOLERANCE: f32 = 2e-5;
    let (low, high) = (1.0, 4.0);
    let largest = divisors.iter().copied().fold(0.0, f32::max);
    let factor: f64 = largest.to_string().parse().ok()?;
    let mut originals = [8192].into_iter().chain((3..=24).map(|power| 1usize << power));
    originals.find_map(|original| {
        let own = llama3_divisors(theta, divisors.len() * 2, factor, low, high, original);
        let same = own.iter().zip(divisors).all(|(a, b)| (a - b).abs() <= TOLERANCE * b);
        same.then_some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        })
    })
}
