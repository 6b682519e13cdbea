//! Any bytes as a pruning plan: read or refused, never a panic; what is read is
//! written back the same and judged against a model without a panic.
//!
//! A corpus to start from: the JSON of any plan (`adapruner prune --dry-run`).

#![no_main]

use adapruner_checkpoint::{Activation, Architecture, LayerWidths, ModelConfig, Rope, RopeScaling};
use adapruner_prune::PrunePlan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(plan) = PrunePlan::from_json(json) else { return };
    let written = plan.to_json().expect("a plan that was read can be written");
    let read = PrunePlan::from_json(written.as_bytes()).expect("and read again");
    assert_eq!(read, plan);
    let config = config(&plan);
    if plan.validate(&config).is_ok() {
        let table = plan.table(&config).expect("a valid plan has a table");
        assert_eq!(table.rows.len(), plan.layers.len());
        let _ = table.to_string();
    }
});

/// A model that is wide enough for most of the plan's indices.
fn config(plan: &PrunePlan) -> ModelConfig {
    let width = |kept: &[usize]| kept.last().map_or(0, |&last| last.min(1 << 16) + 1);
    let layers = plan.layers.iter().map(|kept| {
        let kv_heads = width(&kept.kv_heads);
        let query_heads = width(&kept.query_heads).next_multiple_of(kv_heads.max(1));
        LayerWidths { query_heads, kv_heads, ffn: width(&kept.ffn) }
    });
    ModelConfig {
        architecture: Architecture::Llama,
        hidden_size: 8,
        head_dim: 2,
        vocab_size: 16,
        layers: layers.collect(),
        activation: Activation::Silu,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 1e4, scaling: RopeScaling::None },
        attention_bias: true,
        mlp_bias: true,
        tie_word_embeddings: false,
        max_position_embeddings: 32,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
    }
}
