//! Readers of plans, statistics and learned masks.

use std::path::Path;

use adapruner::manifest::plan_of;
use adapruner_checkpoint::{
    Architecture, AttentionBias, LayerWidths, ModelConfig, names::Projection,
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
        norm_eps: 1e-5,
        attention_bias: AttentionBias::All,
        mlp_bias: true,
        max_position_embeddings: 32,
        ..ModelConfig::new(Architecture::Llama, 8, 2, 16, layers.collect())
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
    if let Ok(inputs) = bank.inputs(&bank.all_samples()) {
        let columns = bank.columns().len();
        assert_eq!(inputs.norms().len(), columns);
        assert_eq!(inputs.means().len(), columns);
        assert!(inputs.variances().iter().all(|&variance| variance >= 0.0 || variance.is_nan()));
        assert!(bank.column_sizes().is_ok_and(|sizes| sizes.iter().all(|s| s.len() == columns)));
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
