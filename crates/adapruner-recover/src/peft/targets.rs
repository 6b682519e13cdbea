//! Which modules have an update, by PEFT's rules (`check_target_module_exists`).
//!
//! A list names the ends of modules, a text is a regular expression for the whole
//! name (or `all-linear`). `layers_to_transform` keeps those of some layers,
//! `exclude_modules` takes others out.

use std::collections::BTreeSet;

use adapruner_checkpoint::{ModelConfig, arch::family::EXPERT, names::Projection};
use regex::Regex;
use serde_json::{Map, Value};

use crate::lora::projections;

/// What PEFT takes for Llama, Mistral, OPT and others where a file names none.
const DEFAULT: [&str; 2] = ["q_proj", "v_proj"];

/// A set of modules.
#[derive(Debug)]
enum Names {
    /// Those whose name is or ends with one of these.
    Ends(Vec<String>),
    /// Those whose whole name matches.
    Matches(Regex),
    /// All projections.
    Linear,
}

impl Names {
    fn has(&self, module: &str) -> bool {
        match self {
            Self::Ends(ends) => ends.iter().any(|end| ends_with(module, end)),
            Self::Matches(regex) => regex.is_match(module),
            Self::Linear => true,
        }
    }
}

fn ends_with(module: &str, end: &str) -> bool {
    module.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What `adapter_config.json` says of the modules.
#[derive(Debug)]
pub(super) struct Targets {
    names: Names,
    excluded: Option<Names>,
    layers: Option<BTreeSet<usize>>,
    /// Whether the model's `layers` are the ones that are counted.
    counted: bool,
}

impl Targets {
    /// Reads the settings.
    pub fn of(json: &Map<String, Value>) -> Result<Self, String> {
        let get = |key: &str| json.get(key).filter(|value| !value.is_null());
        let names = match get("target_modules") {
            None => Names::Ends(DEFAULT.map(str::to_owned).to_vec()),
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => Names::Linear,
            Some(value) => names("target_modules", value)?
                .ok_or("target_modules: at least one module expected, [] found")?,
        };
        let excluded = match get("exclude_modules") {
            None => None,
            Some(value) => self::names("exclude_modules", value)?,
        };
        let index = |value: &Value| {
            let index = value.as_u64().and_then(|index| usize::try_from(index).ok());
            index.ok_or_else(|| format!("layers_to_transform: a layer expected, {value} found"))
        };
        let layers = match get("layers_to_transform") {
            None => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(Value::Array(list)) => Some(list.iter().map(index).collect::<Result<_, _>>()?),
            Some(one) => Some(BTreeSet::from([index(one)?])),
        };
        let counted = match get("layers_pattern") {
            None => true,
            Some(Value::String(pattern)) => pattern.is_empty() || pattern == "layers",
            Some(Value::Array(list)) => {
                list.is_empty() || list.iter().any(|pattern| pattern == "layers")
            }
            Some(other) => return Err(format!("layers_pattern: a text expected, {other} found")),
        };
        Ok(Self { names, excluded, layers, counted })
    }

    /// The modules of a model that have an update.
    ///
    /// # Errors
    /// A layer that the model does not have; modules beside the projections; none
    /// at all.
    pub fn modules(&self, model: &ModelConfig) -> Result<BTreeSet<(usize, Projection)>, String> {
        let count = model.layers.len();
        if let Some(layer) = self.layers.iter().flatten().find(|layer| **layer >= count) {
            return Err(format!("layers_to_transform: the model has {count} layers, no {layer}"));
        }
        // What PEFT can give an update and this program cannot.
        let outer = &model.family().hf.outer;
        let named = |other: &&str| match self.names {
            Names::Linear => false,
            Names::Ends(_) | Names::Matches(_) => self.has(other, None),
        };
        if let Some(other) = [outer.head, outer.embedding].into_iter().find(named) {
            return Err(format!("target_modules: {other} is not supported, only the projections"));
        }
        let of_expert = |p: Projection| {
            let path = model.module(p, 0).replacen(EXPERT, "0", 1);
            !p.is_attention() && self.has(&path, Some(0))
        };
        if let Some(p) =
            Projection::ALL.into_iter().find(|p| model.experts.is_some() && of_expert(*p))
        {
            return Err(format!(
                "target_modules: {} is not supported, of models of experts only the projections of \
                 attention",
                p.module_of(model.family())
            ));
        }
        let has =
            |&(layer, p): &(usize, Projection)| self.has(&model.module(p, layer), Some(layer));
        let found: BTreeSet<_> = projections(model).filter(has).collect();
        if found.is_empty() {
            return Err("target_modules: they fit no projection of the model".into());
        }
        Ok(found)
    }

    fn has(&self, module: &str, layer: Option<usize>) -> bool {
        if self.excluded.as_ref().is_some_and(|excluded| excluded.has(module)) {
            return false;
        }
        let whole = match &self.names {
            Names::Ends(ends) => ends.iter().any(|end| end == module),
            Names::Matches(_) | Names::Linear => true,
        };
        let in_layer = match (&self.layers, layer) {
            (None, _) => true,
            (Some(layers), Some(layer)) => self.counted && layers.contains(&layer),
            (Some(_), None) => false,
        };
        self.names.has(module) && (whole || in_layer)
    }
}

/// Names from a list or a regular expression; `None` for an empty one.
fn names(key: &str, value: &Value) -> Result<Option<Names>, String> {
    match value {
        Value::String(pattern) if pattern.is_empty() => Ok(None),
        Value::String(pattern) => {
            let regex = Regex::new(&format!("^(?s:{pattern})$"));
            let what =
                |e| format!("{key}: the regular expression {pattern:?} is not read here: {e}");
            regex.map(|regex| Some(Names::Matches(regex))).map_err(what)
        }
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) => {
            let text = |name: &Value| {
                let name = name.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
                name.ok_or_else(|| format!("{key}: names of modules expected, {value} found"))
            };
            list.iter().map(text).collect::<Result<_, _>>().map(|ends| Some(Names::Ends(ends)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(format!("{key}: names of modules expected, {value} found"))
        }
    }
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Checkpoint, LayerWidths};

    use super::*;

    /// A case of PEFT's own function.
    #[derive(serde::Deserialize)]
    struct Case {
        config: Map<String, Value>,
        modules: BTreeSet<String>,
    }

    #[test]
    fn modules_are_those_of_peft() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let bytes = std::fs::read(fixtures.join("lora/targets.json")).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&bytes).unwrap();
        assert!(cases.len() > 10);
        let mut model = Checkpoint::open(&fixtures.join("models/tiny")).unwrap().config;
        model.layers = vec![LayerWidths { query_heads: 2, kv_heads: 1, ffn: 8 }; 3];
        for Case { config, modules } in cases {
            let found = Targets::of(&config).unwrap().modules(&model);
            match found {
                Ok(found) => {
                    let found: BTreeSet<_> =
                        found.into_iter().map(|(l, p)| p.path(model.family(), l)).collect();
                    assert_eq!(found, modules, "{config:?}");
                }
                Err(message) => {
                    assert!(
                        modules.is_empty() && message.contains("fit no projection"),
                        "{message}"
                    );
                }
            }
        }
    }
}
