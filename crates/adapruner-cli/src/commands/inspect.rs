//! `inspect`: the structure of a model.

use std::collections::BTreeMap;

use adapruner::{VERSION, kv_cache::bytes_per_token, passed::PassedRecord};
use adapruner_checkpoint::{
    Checkpoint, Digest, Experts, LayerWidths, ModelConfig, atomic::Files, names,
};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{CommonArgs, Perform, Session};
use crate::printer::{bytes, grouped, passed_row, table};

/// Show a model's architecture, widths, parameters and types; weights are not read.
///
/// Example: adapruner inspect SmolLM2-135M.gguf
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Also compute the digest of the content, which reads the whole model
    #[arg(long)]
    digest: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    parameters: u64,
    /// Of those a token meets, of a model of experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_parameters: Option<u64>,
    /// What is beside the language model, whose parameters the others are.
    #[serde(skip_serializing_if = "Option::is_none")]
    passed: Option<PassedRecord>,
    /// Of the embedding and an untied head.
    embedding_parameters: u64,
    bytes: u64,
    /// Bytes by stored type.
    stored: BTreeMap<String, u64>,
    /// Of the key-value cache for each token of the model's context, in 16 bits.
    cache_bytes: u64,
    tokenizer_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    config: ModelConfig,
    version: &'static str,
}

impl Perform for InspectArgs {
    fn json(&self) -> bool {
        self.common.json
    }

    fn files(&self) -> Result<Files> {
        Ok(self.common.files())
    }

    fn run(&self, session: &Session) -> Result<()> {
        run(self, session)
    }
}

fn run(args: &InspectArgs, session: &Session) -> Result<()> {
    let checkpoint = args.common.open(session)?;
    let report = Report {
        model: args.common.model.display().to_string(),
        parameters: checkpoint.config.parameters(),
        active_parameters: checkpoint.config.experts.map(|_| checkpoint.config.active_parameters()),
        passed: PassedRecord::of(&checkpoint),
        embedding_parameters: embedding_parameters(&checkpoint.config),
        bytes: stored(&checkpoint).values().sum(),
        stored: stored(&checkpoint),
        cache_bytes: bytes_per_token(&checkpoint.config, checkpoint.config.max_position_embeddings),
        tokenizer_size: checkpoint.tokenizer.vocab_size(),
        digest: args.digest.then(|| checkpoint.digest()).transpose()?,
        config: checkpoint.config.clone(),
        version: VERSION,
    };
    args.common.printer().result(&report, text)
}

fn embedding_parameters(config: &ModelConfig) -> u64 {
    let one = config.vocab_size as u64 * config.hidden_size as u64;
    if config.tie_word_embeddings { one } else { 2 * one }
}

/// Bytes of the model's tensors by stored type.
fn stored(checkpoint: &Checkpoint) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for expected in names::expected_tensors(&checkpoint.config) {
        if let Some(meta) = checkpoint.tensors.meta(&expected.name) {
            *out.entry(meta.stored).or_insert(0) += meta.bytes;
        }
    }
    out
}

fn text(r: &Report) -> String {
    let c = &r.config;
    let types = r.stored.iter().map(|(kind, size)| format!("{kind} {}", bytes(*size)));
    let mut rows = vec![
        ("model", r.model.clone()),
        ("architecture", format!("{:?}, {} layers", c.architecture, c.layers.len()).to_lowercase()),
        (
            "parameters",
            format!(
                "{} ({} in the embedding{})",
                grouped(r.parameters),
                grouped(r.embedding_parameters),
                if c.tie_word_embeddings { ", tied" } else { " and the head" }
            ),
        ),
    ];
    rows.extend(r.passed.as_ref().map(passed_row));
    rows.extend([
        ("stored", format!("{} ({})", bytes(r.bytes), types.collect::<Vec<_>>().join(", "))),
        ("hidden size", c.hidden_size.to_string()),
        ("head width", c.head_dim.to_string()),
        (
            "vocabulary",
            format!(
                "{} (tokenizer: {})",
                grouped(c.vocab_size as u64),
                grouped(r.tokenizer_size as u64)
            ),
        ),
        ("context", format!("{} tokens", grouped(c.max_position_embeddings as u64))),
        (
            "key-value cache",
            format!("{} a token (16 bits, at the whole context)", bytes(r.cache_bytes)),
        ),
    ]);
    if let (Some(Experts { count, chosen, .. }), Some(active)) = (c.experts, r.active_parameters) {
        rows.push(("experts", format!("{count} a layer, {chosen} for each token")));
        rows.push(("active parameters", format!("{} for each token", grouped(active))));
    }
    let shown = |widths: &LayerWidths| shown(c, widths);
    match c.uniform_widths() {
        Some(widths) => rows.push(("every layer", shown(&widths))),
        None => {
            for (layer, widths) in c.layers.iter().enumerate() {
                let label = if layer == 0 { "layers" } else { "" };
                rows.push((label, format!("{layer:>3}: {}", shown(widths))));
            }
        }
    }
    if let Some(digest) = r.digest {
        rows.push(("digest", digest.to_string()));
    }
    table(&rows)
}

fn shown(config: &ModelConfig, widths: &LayerWidths) -> String {
    let LayerWidths { query_heads, kv_heads, ffn } = widths;
    let channels = match config.experts {
        None => format!("{ffn} feed-forward channels"),
        Some(experts) => {
            let each = config.expert_width(widths);
            format!("{ffn} feed-forward channels ({} experts of {each})", experts.count)
        }
    };
    if widths.has_attention() {
        format!("{query_heads} query heads, {kv_heads} key-value heads, {channels}")
    } else {
        format!("no attention, {channels}")
    }
}
