//! `adapter_config.json`.

use std::{collections::BTreeSet, path::Path};

use adapruner_checkpoint::{ModelConfig, input, names::Projection};
use serde_json::{Map, Value, json};

use super::targets::Targets;
use crate::{
    error::{Error, Result},
    lora::{Adapter, MAX_RANK, projections, short},
};

/// Settings that make an adapter more than plain LoRA, unless they are absent,
/// null, false or empty.
const REFUSED: [&str; 16] = [
    "fan_in_fan_out",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "monteclora_config",
    "kasa_config",
    "velora_config",
    "ensure_weight_tying",
];

/// Starts of `init_lora_weights` that change the base's weights: the adapter is
/// none of the model as it was published.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];
/// Those that leave the base as it is.
const KEEPS_BASE: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What is read of the file.
#[derive(Debug)]
pub struct AdapterConfig {
    rank: usize,
    alpha: f64,
    pub use_rslora: bool,
    pub lora_dropout: f64,
    /// In the file's order: the first that fits counts.
    ranks: Vec<(String, usize)>,
    alphas: Vec<(String, f64)>,
    targets: Targets,
}

impl AdapterConfig {
    pub fn read(path: &Path) -> Result<Self> {
        let text = input::read(path, input::ADAPTER_CONFIG)?;
        let json: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|e| Error::format(path, e.to_string()))?;
        Self::of(&json).map_err(|message| {
            Error::format(path, message)
                .advise("only plain LoRA of the projections is read; merge others with PEFT itself")
        })
    }

    fn of(json: &Map<String, Value>) -> Result<Self, String> {
        match json.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            found => return Err(format!("peft_type \"LORA\" expected, {found:?} found")),
        }
        for key in REFUSED {
            let plain = match json.get(key) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(items)) => items.is_empty(),
                Some(Value::Bool(true) | Value::Number(_) | Value::String(_)) => false,
            };
            if !plain {
                return Err(format!("{key}: {} is not supported", json[key]));
            }
        }
        match json.get("bias") {
            None | Some(Value::Null) => {}
            Some(Value::String(bias)) if bias == "none" => {}
            Some(bias) => return Err(format!("bias: \"none\" expected, {bias} found")),
        }
        match json.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(way)) if KEEPS_BASE.contains(&way.as_str()) => {}
            Some(Value::String(way)) if CHANGES_BASE.iter().any(|start| way.starts_with(start)) => {
                return Err(format!(
                    "init_lora_weights: {way:?} changes the base model's weights, which is not supported"
                ));
            }
            Some(way) => return Err(format!("init_lora_weights: {way} is not supported")),
        }
        let flag = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(false);
        let rank = rank_of("r", json.get("r").unwrap_or(&Value::Null))?;
        let alpha = number_of("lora_alpha", json.get("lora_alpha").unwrap_or(&Value::Null))?;
        let lora_dropout = match json.get("lora_dropout") {
            None | Some(Value::Null) => 0.0,
            Some(value) => number_of("lora_dropout", value)?,
        };
        Ok(Self {
            rank,
            alpha,
            use_rslora: flag("use_rslora"),
            lora_dropout,
            ranks: pattern(json, "rank_pattern", rank_of)?,
            alphas: pattern(json, "alpha_pattern", number_of)?,
            targets: Targets::of(json)?,
        })
    }

    /// The modules of `model` that the adapter has updates of.
    ///
    /// # Errors
    /// In words: modules that the model does not have, patterns that fit none.
    pub fn modules(&self, model: &ModelConfig) -> Result<BTreeSet<(usize, Projection)>, String> {
        let modules = self.targets.modules(model)?;
        let names = |(key, name): (&str, &String)| {
            let fits =
                |&(layer, projection): &(usize, Projection)| fits(model, name, layer, projection);
            match modules.iter().any(fits) {
                true => Ok(()),
                false => Err(format!("{key}: {name:?} fits no module that the adapter has")),
            }
        };
        self.ranks.iter().map(|(name, _)| ("rank_pattern", name)).try_for_each(names)?;
        self.alphas.iter().map(|(name, _)| ("alpha_pattern", name)).try_for_each(names)?;
        Ok(modules)
    }

    /// The rank that a module's update has.
    pub fn rank(&self, model: &ModelConfig, layer: usize, projection: Projection) -> usize {
        matched(&self.ranks, model, layer, projection).unwrap_or(self.rank)
    }

    /// The alpha that a module's update has.
    pub fn alpha(&self, model: &ModelConfig, layer: usize, projection: Projection) -> f64 {
        matched(&self.alphas, model, layer, projection).unwrap_or(self.alpha)
    }
}

fn rank_of(key: &str, value: &Value) -> Result<usize, String> {
    let rank = value.as_u64().and_then(|r| usize::try_from(r).ok());
    rank.filter(|r| (1..=MAX_RANK).contains(r))
        .ok_or_else(|| format!("{key}: 1 to {MAX_RANK} expected, {value} found"))
}

fn number_of(key: &str, value: &Value) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| format!("{key}: a number expected, {value} found"))
}

/// A table of module names. PEFT takes them as regular expressions; here they
/// are the ends of names, which is what people write.
fn pattern<T>(
    json: &Map<String, Value>,
    key: &str,
    read: fn(&str, &Value) -> Result<T, String>,
) -> Result<Vec<(String, T)>, String> {
    let table = match json.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(table)) => table,
        Some(other) => return Err(format!("{key}: an object expected, {other} found")),
    };
    let entries = table.iter().map(|(name, value)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if !name.strip_prefix('^').unwrap_or(name).chars().all(plain) {
            return Err(format!("{key}: the end of a module's name expected, {name:?} found"));
        }
        Ok((name.clone(), read(key, value)?))
    });
    entries.collect()
}

fn matched<T: Copy>(
    table: &[(String, T)],
    model: &ModelConfig,
    layer: usize,
    projection: Projection,
) -> Option<T> {
    let fits = |(name, _): &&(String, T)| fits(model, name, layer, projection);
    table.iter().find(fits).map(|(_, value)| *value)
}

/// Whether a key of a table of module names means a module.
fn fits(model: &ModelConfig, name: &str, layer: usize, projection: Projection) -> bool {
    let module = model.module(projection, layer);
    match name.strip_prefix('^') {
        Some(whole) => module == whole,
        None => module.strip_suffix(name).is_some_and(|r| r.is_empty() || r.ends_with('.')),
    }
}

/// The most frequent of some values; the first of equals.
fn prevailing<T: Copy + PartialEq>(values: &[T]) -> Option<T> {
    let count = |value: &T| values.iter().filter(|v| *v == value).count();
    let most = values.iter().map(count).max()?;
    values.iter().find(|v| count(v) == most).copied()
}

/// A number as Python writes it: whole ones without a point.
fn plain(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

/// The modules of an adapter as `target_modules` writes them: by their short names
/// where all of `model` with these names have an update, else one by one. Inside a larger model
/// always one by one: its other parts have modules of the same short names.
fn target_modules(adapter: &Adapter, model: &ModelConfig) -> Vec<String> {
    let kinds: BTreeSet<Projection> = adapter.updates.keys().map(|(_, p)| *p).collect();
    let family = model.family();
    let named = projections(model).filter(|(_, projection)| kinds.contains(projection));
    let all = named.eq(adapter.updates.keys().copied());
    let mut targets: Vec<String> = match all && model.multimodal.is_none() {
        true => kinds.iter().map(|p| short(p.module_of(family)).to_owned()).collect(),
        false => adapter.updates.keys().map(|(layer, p)| model.module(*p, *layer)).collect(),
    };
    targets.sort_unstable();
    targets
}

/// The configuration of an adapter of a model of `model`'s widths, opened from
/// `base`.
pub fn json(adapter: &Adapter, model: &ModelConfig, base: &str) -> String {
    let ranks: Vec<usize> = adapter.updates.values().map(|u| u.rank).collect();
    let alphas: Vec<f64> = adapter.updates.values().map(|u| u.alpha).collect();
    let (rank, alpha) = (prevailing(&ranks).unwrap_or(1), prevailing(&alphas).unwrap_or(1.0));
    let (mut rank_pattern, mut alpha_pattern) = (Map::new(), Map::new());
    for ((layer, projection), update) in &adapter.updates {
        let module = model.module(*projection, *layer);
        if update.rank != rank {
            rank_pattern.insert(module.clone(), json!(update.rank));
        }
        if update.alpha != alpha {
            alpha_pattern.insert(module, plain(update.alpha));
        }
    }
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": plain(alpha),
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "target_modules": target_modules(adapter, model),
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
    });
    format!("{config:#}\n")
}
