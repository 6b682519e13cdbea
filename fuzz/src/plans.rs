//! Readers of plans, statistics and learned masks.

use std::path::Path;

use adapruner::manifest::plan_of;
use adapruner_checkpoint::{
    Activation, Architecture, LayerWidths, ModelConfig, Rope, RopeScaling, names::Projection,
};
use adapruner_prune::{PrunePlan, StatsBank, bank::Term, masks::MaskState};

use crate::room::resealed;

/// A plan, or a manifest: what is read is written back the same and judged
/// against a model.
pub(crate) fn plan(json: &[u8]) {
    let json = resealed(json);
    let Ok(plan) = plan_of(Path::new("plan"), &json) else { return };
    let written = plan.to_json().expect("a plan that was read can be written");
    let read = PrunePlan::from_json(written.as_bytes()).expect("and read again");
    assert_eq!(read, plan);
    let config = config(&plan);
    if plan.validate(&config).is_ok() {
        let table = plan.table(&config).expect("a valid plan has a table");
        assert_eq!(table.rows.len(), plan.layers.len());
        let _ = table.to_string();
    }
}

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

/// A bank: what is read can be asked and is written back the same.
pub(crate) fn statistics(bytes: &[u8]) {
    let bytes = resealed(bytes);
    let Ok(bank) = StatsBank::from_bytes(&bytes) else { return };
    for term in [Term::Signed, Term::Element, Term::Fisher] {
        let _ = bank.mean(term, &bank.all_samples());
        for layer in 0..bank.layout().layers() {
            for projection in Projection::ALL {
                let _ = bank.sample(term, 0, layer, projection);
            }
        }
    }
    let written = bank.to_bytes().expect("a bank that was read can be written");
    let again = StatsBank::from_bytes(&written).expect("and read again");
    assert_eq!(again.header(), bank.header());
}

/// A state of learned masks: what is read is written back the same.
pub(crate) fn mask_state(bytes: &[u8]) {
    let bytes = resealed(bytes);
    let Ok(state) = MaskState::from_bytes(&bytes) else { return };
    let written = state.to_bytes().expect("a state that was read can be written");
    let again = MaskState::from_bytes(&written).expect("and read again");
    // As bytes, since no NaN equals itself.
    assert_eq!(again.to_bytes().expect("and written again"), written);
}
