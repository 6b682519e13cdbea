//! What a program needs to open, measure, prune and write a model: `use adapruner::prelude::*`.

pub use adapruner_checkpoint::{
    Architecture, Checkpoint, Digest, LayerWidths, ModelConfig,
    text::{self, TextOptions, TokenSet},
};
pub use adapruner_eval::Perplexity;
pub use adapruner_model::{DTypeChoice, Decoder, DeviceChoice, Placement, Residency};
pub use adapruner_prune::{Form, Importance, PlanOptions, PrunePlan, Ridge, apply};

pub use crate::{
    Error, Result,
    outputs::Format,
    pipeline::{Evaluation, evaluate},
    progress::Progress,
    pruning::{Pruned, Pruning},
};
