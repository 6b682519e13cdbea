//! Checks of every reader before it returns a model: plausible sizes, every tensor present with
//! the right shape, a matching tokenizer.

use std::{collections::BTreeSet, path::Path};

use adapruner_arch::{Experts, family::KvHeadRule};

use crate::{
    checkpoint::TensorSource,
    config::{ModelConfig, Rope, RopeScaling},
    error::{Error, Result},
    names,
    tokenizer::TextTokenizer,
};

/// Largest `H`, `F` and number of heads. The largest published dense models
/// have `H` = 16 384 and `F` = 53 248.
const MAX_WIDTH: usize = 1 << 20;
/// Largest `D`.
const MAX_HEAD_DIM: usize = 1 << 13;
/// Largest number of layers.
const MAX_LAYERS: usize = 1 << 12;
/// Largest `V`.
const MAX_VOCAB: usize = 1 << 24;
/// Largest number of experts.
const MAX_EXPERTS: usize = 1 << 12;
/// Longest context.
const MAX_CONTEXT: usize = 1 << 31;

/// Refuses sizes that no model has, so that nothing further on can overflow,
/// divide by zero or allocate without bound.
///
/// # Errors
/// The first size that is out of range, by name.
pub(crate) fn config(path: &Path, config: &ModelConfig) -> Result<()> {
    let refuse = |message: String| Err(Error::unsupported(path, message));
    for (what, size, limit) in [
        ("number of layers", config.layers.len(), MAX_LAYERS),
        ("hidden size", config.hidden_size, MAX_WIDTH),
        ("head width", config.head_dim, MAX_HEAD_DIM),
        ("vocabulary size", config.vocab_size, MAX_VOCAB),
        ("context length", config.max_position_embeddings, MAX_CONTEXT),
    ] {
        if !(1..=limit).contains(&size) {
            return refuse(format!("{what}: 1 to {limit} expected, {size} found"));
        }
    }
    if !config.head_dim.is_multiple_of(2) {
        let found = config.head_dim;
        return refuse(format!("head width: an even number expected, {found} found"));
    }
    if let Some(Experts { count, chosen, .. }) = config.experts {
        if !(1..=MAX_EXPERTS).contains(&count) {
            return refuse(format!("experts: 1 to {MAX_EXPERTS} expected, {count} found"));
        }
        if !(1..=count).contains(&chosen) {
            return refuse(format!(
                "experts that a token takes: 1 to the {count} that there are expected, {chosen} found"
            ));
        }
        let uneven = config.layers.iter().position(|w| !w.ffn.is_multiple_of(count));
        if let Some(layer) = uneven {
            let found = config.layers[layer].ffn;
            return refuse(format!(
                "layer {layer}: as many channels in each of {count} experts expected, {found} in all found"
            ));
        }
    }
    for (layer, w) in config.layers.iter().enumerate() {
        let (query, kv) = (w.query_heads, w.kv_heads);
        if !(1..=MAX_WIDTH).contains(&w.ffn) {
            let found = w.ffn;
            return refuse(format!(
                "layer {layer}: feed-forward width: 1 to {MAX_WIDTH} expected, {found} found"
            ));
        }
        if query > MAX_WIDTH {
            return refuse(format!(
                "layer {layer}: at most {MAX_WIDTH} heads expected, {query} found"
            ));
        }
        if config.family().hf.kv_heads == KvHeadRule::All && query != kv {
            return refuse(format!(
                "layer {layer}: as many key-value heads as query heads expected, {query} and {kv} found"
            ));
        }
        if query != 0 && (kv == 0 || !query.is_multiple_of(kv)) || query == 0 && kv != 0 {
            return refuse(format!(
                "layer {layer}: query heads must be a multiple of key-value heads, {query} and {kv} found"
            ));
        }
    }
    let eps = config.norm_eps;
    if !(eps > 0.0 && eps < 1.0) {
        return refuse(format!("epsilon of the norms: above 0 and below 1 expected, {eps} found"));
    }
    for rope in std::iter::once(&config.rope).chain(&config.local_rope) {
        self::rope(path, rope, config.rotated())?;
    }
    let (rotated, head_dim) = (config.rotated(), config.head_dim);
    if !(2..=head_dim).contains(&rotated) || !rotated.is_multiple_of(2) {
        return refuse(format!(
            "rotated part of a head: an even number up to {head_dim} expected, {rotated} found"
        ));
    }
    let entries = config.windows.len();
    if entries != 0 && entries != config.layers.len() {
        return refuse(format!(
            "windows: {} layers expected, {entries} found",
            config.layers.len()
        ));
    }
    for (what, factor) in [
        ("scale of the embedding", config.embedding_scale),
        ("scale of what sublayers add", config.residual_scale),
        ("divisor of the logits", config.logit_divisor),
        ("scale of attention scores", config.score_scale.unwrap_or(1.0)),
        ("cap on attention scores", config.score_cap.unwrap_or(1.0)),
        ("cap on logits", config.logit_cap.unwrap_or(1.0)),
    ] {
        if !(factor.is_finite() && factor > 0.0) {
            return refuse(format!("{what}: a number above 0 expected, {factor} found"));
        }
    }
    let ids = [("bos", config.bos_token_id), ("pad", config.pad_token_id)];
    let ends = config.eos_token_ids.iter().map(|id| ("eos", Some(*id)));
    for (what, id) in ids.into_iter().chain(ends) {
        if let Some(id) = id.filter(|id| *id as usize >= config.vocab_size) {
            let vocab = config.vocab_size;
            return refuse(format!("{what} token id {id} is outside the vocabulary of {vocab}"));
        }
    }
    Ok(())
}

fn rope(path: &Path, rope: &Rope, rotated: usize) -> Result<()> {
    let positive = |what: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            return Ok(());
        }
        let message = format!("rotary embedding: {what} above 0 expected, {value} found");
        Err(Error::unsupported(path, message))
    };
    positive("theta", rope.theta)?;
    match &rope.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => positive("factor", *factor),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            positive("factor", *factor)?;
            positive("low_freq_factor", *low_freq_factor)?;
            positive("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor)?;
            positive("original_max_position_embeddings", *original_max_position_embeddings as f64)
        }
        RopeScaling::Factors { divisors: list } => divisors(path, list, rotated),
        RopeScaling::Long { short, long, attention_factor, original_max_position_embeddings } => {
            positive("attention_factor", *attention_factor)?;
            positive("original_max_position_embeddings", *original_max_position_embeddings as f64)?;
            [short, long].into_iter().try_for_each(|list| divisors(path, list, rotated))
        }
    }
}

/// Checks the divisors of frequencies, of which there is one for each pair.
fn divisors(path: &Path, divisors: &[f32], rotated: usize) -> Result<()> {
    let (expected, found) = (rotated / 2, divisors.len());
    if found != expected {
        let message = format!("rotary embedding: {expected} divisors expected, {found} found");
        return Err(Error::unsupported(path, message));
    }
    match divisors.iter().find(|d| !(d.is_finite() && **d > 0.0)) {
        None => Ok(()),
        Some(bad) => {
            let message = format!("rotary embedding: divisors above 0 expected, {bad} found");
            Err(Error::unsupported(path, message))
        }
    }
}

/// Holds the tensors against the configuration: each that it demands is there
/// and of the right shape, and there is none that it does not know.
///
/// # Errors
/// The first tensor that is missing, of another shape, or unknown.
pub(crate) fn tensors(path: &Path, config: &ModelConfig, source: &dyn TensorSource) -> Result<()> {
    let mut unknown: BTreeSet<String> = source.names().into_iter().collect();
    for expected in names::expected_tensors(config) {
        let shape = expected.shape;
        let Some(meta) = source.meta(&expected.name) else {
            let message = format!("missing, shape {shape:?} expected");
            return Err(Error::tensor(path, expected.name, message));
        };
        if meta.shape != shape {
            let message = format!("shape {shape:?} expected, {:?} found", meta.shape);
            return Err(Error::tensor(path, expected.name, message));
        }
        unknown.remove(&expected.name);
    }
    match unknown.pop_first() {
        None => Ok(()),
        Some(name) => {
            let more = match unknown.len() {
                0 => String::new(),
                n => format!(" (nor are {n} others)"),
            };
            let message = format!("not part of the model that the configuration describes{more}");
            Err(Error::tensor(path, name, message))
        }
    }
}

/// Holds the tokenizer against the vocabulary, which may be larger (padded).
///
/// # Errors
/// A tokenizer with ids beyond the vocabulary that are no added tokens.
pub(crate) fn tokenizer(path: &Path, tokenizer: &mut TextTokenizer, vocab: usize) -> Result<()> {
    tokenizer.bind(vocab).map_err(|error| error.relocate(|_| path.to_path_buf()))
}
