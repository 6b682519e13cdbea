//! Task definitions as files contain them.

use std::path::PathBuf;

use adapruner_checkpoint::dataset::HubData;
use serde::Deserialize;

use super::{
    Clean, Hub, Task, Template,
    form::{Form, List, Parts},
};
use crate::metrics::Metric;

/// A definition.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Definition {
    name: String,
    #[serde(default)]
    version: f64,
    #[serde(default)]
    files: Vec<PathBuf>,
    #[serde(default)]
    label_files: Vec<PathBuf>,
    context: Option<Template>,
    choices: Option<List>,
    contexts: Option<List>,
    continuation: Option<Template>,
    clean: Option<Clean>,
    #[serde(default = "space")]
    delimiter: String,
    gold: Template,
    gold_labels: Option<List>,
    metrics: Vec<Metric>,
    hub: Option<OnHub>,
}

/// The data set on the hub, and what its records have otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OnHub {
    dataset: String,
    #[serde(default = "converted")]
    revision: String,
    #[serde(default = "default_config")]
    config: String,
    split: String,
    #[serde(default = "first_file")]
    files: Vec<String>,
    context: Option<Template>,
    choices: Option<List>,
    contexts: Option<List>,
    continuation: Option<Template>,
    gold: Option<Template>,
    gold_labels: Option<List>,
}

fn space() -> String {
    " ".to_owned()
}

/// Where the hub keeps every data set as parquet.
fn converted() -> String {
    "refs/convert/parquet".to_owned()
}

/// What it calls the configuration of a set that has only one.
fn default_config() -> String {
    "default".to_owned()
}

/// The first file of a split there; a second one begins at half a gigabyte.
fn first_file() -> Vec<String> {
    vec!["{config}/{split}/0000.parquet".to_owned()]
}

/// Reads a definition.
pub(super) fn parse(text: &str) -> Result<Task, String> {
    let definition: Definition =
        toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
    let parts = Parts {
        context: definition.context,
        choices: definition.choices,
        contexts: definition.contexts,
        continuation: definition.continuation,
        gold: Some(definition.gold),
        gold_labels: definition.gold_labels,
    };
    let form = Form::new(parts.clone())?;
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c));
    if definition.name.is_empty() || definition.name.contains(odd) {
        return Err(format!(
            "name: expected letters, digits, _, - and ., found {:?}",
            definition.name
        ));
    }
    if definition.files.is_empty() && definition.hub.is_none() {
        return Err("files: expected at least one, or a hub table".into());
    }
    if definition.metrics.is_empty() {
        return Err("metrics: expected at least one of acc, acc_norm and acc_bytes".into());
    }
    let hub = definition.hub.map(|hub| hub.resolve(parts)).transpose();
    Ok(Task {
        name: definition.name,
        version: definition.version,
        metrics: definition.metrics,
        files: definition.files,
        label_files: definition.label_files,
        form,
        clean: definition.clean,
        delimiter: definition.delimiter,
        hub: hub.map_err(|message| format!("hub: {message}"))?,
        folder: None,
    })
}

impl OnHub {
    /// With the task's own templates where there are no others.
    fn resolve(self, task: Parts) -> Result<Hub, String> {
        let fill =
            |file: &String| file.replace("{config}", &self.config).replace("{split}", &self.split);
        let files: Vec<String> = self.files.iter().map(fill).collect();
        let data = HubData::new(&self.dataset, &self.revision, &files)?;
        let own = Parts {
            context: self.context,
            choices: self.choices,
            contexts: self.contexts,
            continuation: self.continuation,
            gold: self.gold,
            gold_labels: self.gold_labels,
        };
        Ok(Hub { data, form: Form::new(own.or(task))? })
    }
}
