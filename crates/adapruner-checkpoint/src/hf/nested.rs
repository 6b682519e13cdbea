//! The configuration of a language model inside that of a larger model.
//!
//! Its settings are an object of their own. What transformers reads from the whole file (the ids
//! that open and end a text, the quantisation) counts more where both say it.

use adapruner_arch::multimodal::{Composite, Language};
use serde_json::{Map, Value};

use super::config::{Keys, short};
use crate::error::Result;

/// Keys of the whole file that count more than those of the language model.
const OUTER: [&str; 5] =
    ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config"];

/// What stands before the type of a language model whose layers have widths of their own.
pub(super) const OWN: &str = "adapruner_";

/// Which language model a file has, and its settings, as a file of it alone would have them but
/// for its type.
///
/// # Errors
/// Settings that are missing, or of another kind of model.
pub(super) fn language(
    keys: &Keys<'_>,
    composite: &Composite,
) -> Result<(&'static Language, Map<String, Value>)> {
    let Some(settings) = keys.optional_object(composite.text)? else {
        let message = format!("missing, the settings of the language model of {}", composite.title);
        return Err(keys.error(composite.text, &message));
    };
    let settings = Keys { within: composite.text, ..settings };
    let languages = composite.multimodal.composite().languages;
    let found = settings.optional_text("model_type")?;
    let is = |language: &&Language| match found {
        None => true,
        Some(found) => found.strip_prefix(OWN).unwrap_or(found) == language.model_type,
    };
    let Some(language) = languages.iter().find(is) else {
        let known: Vec<&str> = languages.iter().map(|language| language.model_type).collect();
        let message = format!(
            "{} is not run as the language model of {}, only {}",
            short(&found.into()),
            composite.title,
            known.join(", ")
        );
        return Err(settings.unsupported("model_type", message));
    };
    let mut object = settings.object.clone();
    for (key, size) in language.sizes {
        object.entry(*key).or_insert_with(|| Value::from(*size));
    }
    for key in OUTER {
        if let Some(value) = keys.get(key) {
            object.insert(key.to_owned(), value.clone());
        }
    }
    Ok((language, object))
}
