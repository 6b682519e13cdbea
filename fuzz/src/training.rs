//! Readers of training data, adapters and what a training keeps.

use std::{collections::BTreeMap, sync::OnceLock};

use adapruner_checkpoint::{ModelConfig, hf, text::TextOptions, tokenizer::TextTokenizer};
use adapruner_model::train::adamw::Parameter;
use adapruner_recover::{
    data::{DataOptions, Dataset, Example, Validation, records},
    distill::TeacherCache,
    peft,
    train::{
        options::Record,
        state::{self, Part},
    },
};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::room::{file, folder, seed};

/// A JSON array of records.
pub(crate) fn records_json(bytes: &[u8]) {
    learn("records_json", "records.json", bytes);
}

/// Records, one a line.
pub(crate) fn records_jsonl(bytes: &[u8]) {
    learn("records_jsonl", "records.jsonl", bytes);
}

fn learn(target: &str, name: &str, bytes: &[u8]) {
    static TOKENIZER: OnceLock<TextTokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        let files = [
            ("tokenizer.json", seed!("tokenizer/tokenizer.json")),
            ("tokenizer_config.json", seed!("tokenizer_config/tokenizer_config.json")),
        ];
        TextTokenizer::from_hf_folder(&folder("tokens", &files)).expect("the seed")
    });
    let path = file(target, name, bytes);
    let path = path.to_str().expect("UTF-8");
    let Ok(records) = records::read(path, &TextOptions::default()) else { return };
    let options = DataOptions {
        cutoff: 24,
        train_on_prompt: false,
        validation: Validation::Count(0),
        seed: 1,
    };
    if let Ok(data) = Dataset::new(&records, tokenizer, &options) {
        assert!(data.longest() <= options.cutoff);
    }
}

/// `adapter_config.json` beside the seed's weights.
pub(crate) fn adapter_config(bytes: &[u8]) {
    let weights = seed!("adapter_weights/adapter_model.safetensors");
    adapter("adapter_config", bytes, weights);
}

/// `adapter_model.safetensors` beside the seed's configuration.
pub(crate) fn adapter_weights(bytes: &[u8]) {
    adapter("adapter_weights", seed!("adapter_config/adapter_config.json"), bytes);
}

fn adapter(target: &str, config: &[u8], weights: &[u8]) {
    static MODEL: OnceLock<ModelConfig> = OnceLock::new();
    let model = MODEL.get_or_init(|| {
        let json = serde_json::from_slice(seed!("config/config.json")).expect("the seed");
        hf::config::model_config("config.json".as_ref(), &json).expect("the seed")
    });
    let files = [(peft::CONFIG, config), (peft::WEIGHTS, weights)];
    let _ = peft::read(&folder(target, &files), model);
}

/// The state of a training.
pub(crate) fn state(bytes: &[u8]) {
    static EXPECTED: OnceLock<(Record, BTreeMap<String, Parameter>)> = OnceLock::new();
    let (record, parameters) = EXPECTED.get_or_init(|| {
        let seed = seed!("training_state/state.safetensors");
        let (_, metadata) = SafeTensors::read_metadata(seed).expect("the seed");
        let header = metadata.metadata().as_ref().expect("the seed")["adapruner"].clone();
        let header: Value = serde_json::from_str(&header).expect("the seed");
        let tensors = SafeTensors::deserialize(seed).expect("the seed");
        let parameters = tensors.iter().filter_map(|(name, view)| {
            let name = name.strip_prefix("value.")?.to_owned();
            let values = vec![0.0; view.shape().iter().product()];
            Some((name, Parameter::new(view.shape().to_vec(), values, false)))
        });
        (record_of(&header), parameters.collect())
    });
    let path = file("training_state", "state.safetensors", bytes);
    for part in [Part::All, Part::Values] {
        let mut parameters = parameters.clone();
        if matches!(state::read(&path, &mut parameters, record, part), Ok(Some(_))) {
            for parameter in parameters.values() {
                assert_eq!(parameter.values.len(), parameter.shape.iter().product::<usize>());
            }
        }
    }
}

/// A teacher's probabilities.
pub(crate) fn teacher(bytes: &[u8]) {
    static EXPECTED: OnceLock<Record> = OnceLock::new();
    let record = EXPECTED.get_or_init(|| {
        let seed = seed!("teacher_cache/teacher.bin");
        let (length, rest) = seed[8..].split_first_chunk().expect("the seed");
        let header = &rest[..u64::from_le_bytes(*length) as usize];
        record_of(&serde_json::from_slice(header).expect("the seed"))
    });
    let path = file("teacher_cache", "teacher.bin", bytes);
    // As many learned places as the seed has rows.
    let examples = [Example::new(vec![1; 5], vec![true; 5])];
    let _ = TeacherCache::open(&path, record, &examples);
}

fn record_of(header: &Value) -> Record {
    serde_json::from_value(header["record"].clone()).expect("the seed")
}
