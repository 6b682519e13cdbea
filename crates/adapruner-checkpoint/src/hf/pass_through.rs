//! What the folder of a larger model has beside its language model: settings, tensors and files
//! that no command changes.
//!
//! Only ids of tokens are rewritten, where the vocabulary is trimmed.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use adapruner_arch::multimodal::{Composite, Naming, OtherLayers, OtherPart};
use serde_json::{Map, Value};

use super::{SafetensorsSource, config::Keys};
use crate::{
    checkpoint::TensorMeta,
    error::{Error, Result},
    input,
    tokenizer::trimmed::Kept,
};

/// Files of what prepares images and sound for a model, beside those of the tokenizer.
pub(crate) const PROCESSOR_FILES: [&str; 3] =
    ["preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"];
/// Ends of keys whose values are ids of tokens.
const ID_KEYS: [&str; 4] = ["_token_id", "_token_ids", "_token_index", "_token_indices"];

/// What a folder has beside its language model.
#[derive(Debug, Clone)]
pub struct PassThrough {
    composite: &'static Composite,
    naming: &'static Naming,
    /// The whole of `config.json`, but for the settings of the language model.
    config: Map<String, Value>,
    /// Files by name, as they were read.
    files: Vec<(String, Vec<u8>)>,
    source: Arc<SafetensorsSource>,
}

impl PassThrough {
    /// Takes up what `folder` has beside the tensors of `source`, and checks it.
    ///
    /// # Errors
    /// A part, or a layer of one, without its tensors; a file that is too large.
    pub(super) fn new(
        folder: &Path,
        composite: &'static Composite,
        naming: &'static Naming,
        json: &Value,
        source: Arc<SafetensorsSource>,
    ) -> Result<Self> {
        let mut config = json.as_object().cloned().unwrap_or_default();
        config.remove(composite.text);
        let mut files = Vec::new();
        for name in PROCESSOR_FILES {
            let bytes = input::read_if_there(&folder.join(name), input::MODEL_JSON)?;
            files.extend(bytes.map(|bytes| (name.to_owned(), bytes)));
        }
        let passed = Self { composite, naming, config, files, source };
        for part in composite.parts {
            passed.check(folder, part)?;
        }
        Ok(passed)
    }

    /// The class of the whole.
    pub fn composite(&self) -> &'static Composite {
        self.composite
    }

    /// Parameters of the other parts.
    pub fn parameters(&self) -> u64 {
        self.parts().map(|(_, parameters)| parameters).sum()
    }

    /// Bytes of their tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(|(_, meta)| meta.bytes).sum()
    }

    /// The other parts, in words, and their parameters.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.composite.parts.iter().map(|part| {
            let sizes = self.tensors_of(part).map(|(_, meta)| meta.shape.iter().product::<usize>());
            (part.title, sizes.map(|size| size as u64).sum())
        })
    }

    /// The tensors of the other parts, by the names in the folder.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, TensorMeta)> {
        self.source.others()
    }

    /// Reads one of them: the stored bytes.
    ///
    /// # Errors
    /// See [`SafetensorsSource::other`].
    pub(super) fn tensor<T>(&self, name: &str, then: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        self.source.other(name, then)
    }

    /// What a tensor of the language model is called in the folder.
    pub(super) fn name_in_folder(&self, own: &str) -> String {
        self.naming.here(own)
    }

    /// The files beside configuration, weights and tokenizer.
    pub(super) fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }

    /// `config.json` with these settings of the language model; `own` are the entries of a folder
    /// with code of its own (class, type, `auto_map`) and `dtype` is the type of the weights.
    pub(super) fn config_json(&self, text: Value, own: Map<String, Value>, dtype: &str) -> Value {
        let mut json = self.config.clone();
        json.remove("auto_map");
        json.insert(self.composite.text.to_owned(), text);
        for key in ["dtype", "torch_dtype"] {
            json.entry(key).and_modify(|value| *value = dtype.into());
        }
        json.extend(own);
        Value::Object(json)
    }

    /// The ids of tokens that the settings and files name, below a vocabulary of `rows`.
    pub(crate) fn token_ids(&self, rows: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut take = |value: &mut Value| {
            let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let known = list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok());
            ids.extend(known.filter(|id| (*id as usize) < rows));
        };
        let mut config = Value::Object(self.config_with_ids(rows));
        each_id(&mut config, &mut take);
        for json in self.files.iter().filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok()) {
            let mut json: Value = json;
            each_id(&mut json, &mut take);
        }
        ids
    }

    /// The same with other ids of tokens, of a vocabulary of `rows` before.
    pub(crate) fn renumbered(&self, ids: &Kept, rows: usize) -> Self {
        let mut renumber = |value: &mut Value| match value {
            Value::Array(list) => {
                let new = list.iter().filter_map(|id| ids.json(id)).collect();
                *list = new;
            }
            Value::Number(_) => *value = ids.json(value).unwrap_or(Value::Null),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => {}
        };
        let mut config = Value::Object(self.config_with_ids(rows));
        each_id(&mut config, &mut renumber);
        let files = self.files.iter().map(|(name, bytes)| {
            let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
                return (name.clone(), bytes.clone());
            };
            let mut new = json.clone();
            each_id(&mut new, &mut renumber);
            // What names no id stays as it is, to the byte.
            let bytes = if new == json { bytes.clone() } else { format!("{new:#}\n").into_bytes() };
            (name.clone(), bytes)
        });
        let files = files.collect();
        let config = config.as_object().cloned().unwrap_or_default();
        Self { config, files, ..self.clone() }
    }

    /// The settings with the ids of tokens that are meant where they are missing.
    fn config_with_ids(&self, rows: usize) -> Map<String, Value> {
        let mut config = self.config.clone();
        for token in self.composite.tokens {
            let missing = token.keys.iter().all(|key| !config.contains_key(*key));
            if missing && (token.default as usize) < rows {
                config.extend(
                    token.keys.first().map(|key| ((*key).to_owned(), token.default.into())),
                );
            }
        }
        config
    }

    /// The tensors of a part, by the names in the folder.
    fn tensors_of(&self, part: &OtherPart) -> impl Iterator<Item = (&str, TensorMeta)> {
        let begin = format!("{}{}.", self.naming.parts, part.module);
        self.tensors().filter(move |(name, _)| name.starts_with(&begin))
    }

    /// Refuses a part without tensors, and one whose layers are not those of the configuration
    /// with as many tensors each.
    fn check(&self, folder: &Path, part: &OtherPart) -> Result<()> {
        let module = format!("{}{}", self.naming.parts, part.module);
        if self.tensors_of(part).next().is_none() {
            let message = format!("no tensors {module}.…, which {} has", self.composite.title);
            return Err(Error::format(folder, message).advise(
                "the folder must be whole; the language model alone is another class, with a config.json of its own",
            ));
        }
        let Some(OtherLayers { module: layers, count: (settings, key), default }) = part.layers
        else {
            return Ok(());
        };
        let path = folder.join("config.json");
        let keys = Keys { path: &path, object: &self.config, within: "" };
        let expected = match keys.optional_object(settings)? {
            Some(settings) => settings.optional_size(key)?.unwrap_or(default),
            None => default,
        };
        let layers = format!(".{layers}.");
        let mut found: BTreeMap<usize, usize> = BTreeMap::new();
        for (name, _) in self.tensors_of(part) {
            let layer = name.split_once(&layers).and_then(|(_, rest)| rest.split_once('.'));
            if let Some(layer) = layer.and_then(|(layer, _)| layer.parse().ok()) {
                *found.entry(layer).or_default() += 1;
            }
        }
        let most = found.values().copied().max().unwrap_or(0);
        for layer in 0..expected.max(found.last_key_value().map_or(0, |(last, _)| last + 1)) {
            let tensors = found.get(&layer).copied().unwrap_or(0);
            let message = if layer >= expected {
                format!("{settings}.{key} is {expected}, but {module} has a layer {layer}")
            } else if tensors < most || most == 0 {
                format!("layer {layer} of {module}: {most} tensors expected, {tensors} found")
            } else {
                continue;
            };
            return Err(Error::format(folder, message).advise(
                "the folder must be whole: shards that are missing in the index are not read",
            ));
        }
        Ok(())
    }
}

/// Calls `then` with every value whose key says that it is an id of a token, or several.
fn each_id(value: &mut Value, then: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries.iter_mut() {
                if ID_KEYS.iter().any(|end| key.ends_with(end)) {
                    then(value);
                } else {
                    each_id(value, then);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| each_id(value, then)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
