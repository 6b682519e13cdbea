//! Every reader of foreign bytes as a function of bytes: what it is given is
//! read or refused, never a panic, never memory or time out of proportion.
//!
//! Each [`Target`] has seeds in `corpus/NAME`, made by
//! `fixtures/generate/fuzz_seeds.py`. Two drivers call them:
//!
//! - `tests/mutations.rs`: some hundred mutations of every seed, always the same,
//!   in every test run;
//! - `tools/fuzz`: libFuzzer, guided by the coverage of this workspace's crates.
//!
//! A reader that is new gets a target here and a seed there.

mod models;
mod plans;
mod room;
mod settings;
mod studies;
mod texts;
mod tokenizers;
mod training;

/// A reader.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of the folder of its seeds.
    pub name: &'static str,
    /// What it reads.
    pub what: &'static str,
    /// Gives it bytes.
    ///
    /// # Panics
    /// Where the reader has a fault.
    pub run: fn(&[u8]),
}

const fn of(name: &'static str, what: &'static str, run: fn(&[u8])) -> Target {
    Target { name, what, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    of("gguf", "a GGUF file: header, configuration, tokenizer, tensors", models::gguf),
    of("safetensors", "the weights of a Hugging Face folder", models::safetensors),
    of("index", "model.safetensors.index.json", models::index),
    of("config", "config.json", models::config),
    of("tokenizer", "tokenizer.json, and texts through it", tokenizers::tokenizer),
    of("tokenizer_config", "tokenizer_config.json", tokenizers::tokenizer_config),
    of("chat_template", "chat_template.jinja, and a conversation", tokenizers::chat_template),
    of("text_plain", "a text file", texts::plain),
    of("text_jsonl", "texts in JSONL", texts::jsonl),
    of("text_ids", "token ids in JSON", texts::ids),
    of("text_gzip", "a packed text (.jsonl.gz)", texts::gzip),
    of("text_zstd", "a packed text (.jsonl.zst)", texts::zstd),
    of("text_parquet", "texts in parquet", texts::parquet),
    of("records_parquet", "records of tasks in parquet", texts::records_parquet),
    of("records_json", "records to train on, a JSON array", training::records_json),
    of("records_jsonl", "records to train on, JSONL", training::records_jsonl),
    of("adapter_config", "PEFT's adapter_config.json", training::adapter_config),
    of("adapter_weights", "PEFT's adapter_model.safetensors", training::adapter_weights),
    of("training_state", "the state of a training", training::state),
    of("teacher_cache", "a teacher's probabilities", training::teacher),
    of("plan", "a plan, or a manifest that holds one", plans::plan),
    of("statistics", "a bank of Taylor terms", plans::statistics),
    of("mask_state", "the state of learned masks", plans::mask_state),
    of("journal", "a study's journal", studies::journal),
    of("search_record", "search.json", studies::search_record),
    of("pool", "pool.jsonl", studies::pool),
    of("run_record", "run.json", studies::run_record),
    of("task", "the definition of a task", settings::task),
    of("task_records", "the records of a task", settings::task_records),
    of("space", "the table [space] of a settings file", settings::space),
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
