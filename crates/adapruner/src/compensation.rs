//! The compensation stage: a plan applied, and the matrices that read what it
//! removed fitted anew on a text.

use std::fmt;

use adapruner_checkpoint::{Checkpoint, hf::opens_with_biases, text::TokenSet};
use adapruner_eval::batch_tokens;
use adapruner_model::Placement;
use adapruner_prune::{
    CompensateFootprint, CompensateOptions, Compensated, Form, PrunePlan, Refit, apply,
    compensated_config,
};
use anyhow::Result;
use serde::Serialize;

use crate::{
    advice::advised, memory, pipeline, pipeline::TokensRecord, progress::Progress, settings,
    statistics,
};

/// What was fitted, and on what.
#[derive(Debug, Clone, Serialize)]
pub struct CompensationRecord {
    /// The samples.
    pub samples: TokensRecord,
    /// Seed they were drawn with.
    pub seed: u64,
    /// What was fitted, and how.
    pub form: Form,
    /// Every matrix that was fitted.
    pub refits: Vec<Refit>,
}

impl CompensationRecord {
    /// What a reader of the outputs should know.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.refits.iter().filter_map(Refit::warning)
    }

    /// Share of the fitted sublayers' squared errors that the fits removed, on
    /// their own samples; the mean over all fits.
    fn removed(&self) -> f64 {
        let removed = self.refits.iter().map(|fit| match fit.error_before {
            0.0 => 0.0,
            before => 1.0 - fit.error_after / before,
        });
        removed.sum::<f64>() / self.refits.len().max(1) as f64
    }
}

impl fmt::Display for CompensationRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TokensRecord { windows, window, text, .. } = &self.samples;
        write!(
            f,
            "{} {} fitted on {windows} samples of {window} tokens of {text}, {:.0} % of their \
             squared error gone",
            self.refits.len(),
            match self.form {
                Form::Weight { .. } => "matrices",
                Form::Bias => "biases",
            },
            100.0 * self.removed()
        )
    }
}

/// The samples to fit on.
///
/// # Errors
/// A text that cannot be read or has too few tokens.
pub fn tokens(
    checkpoint: &Checkpoint,
    settings: &settings::CompensationSettings,
) -> Result<TokenSet> {
    pipeline::calibration_tokens(checkpoint, &settings.samples)
}

/// Applies `plan` and fits what remains on `tokens`.
///
/// # Errors
/// Too little memory, a plan for another model, biases where no format carries them, damaged weights,
/// activations that are not finite, or no memory.
pub fn compensate(
    dense: &Checkpoint,
    plan: &PrunePlan,
    tokens: &TokenSet,
    settings: &settings::CompensationSettings,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<(Checkpoint, CompensationRecord)> {
    let form = settings.form;
    let pruned = apply(dense, plan)?.config;
    let config = compensated_config(&dense.config, &pruned, form);
    if form == Form::Bias && !opens_with_biases(&config) {
        return Err(advised(
            format!(
                "compensate: with biases, a hidden size of {} and the query heads of this plan, \
                 transformers opens no such model",
                config.hidden_size
            ),
            "give --compensate=fit, or --layout per-layer",
        ));
    }
    let budget = memory::budget(settings.samples.memory);
    let all = tokens.windows.iter().map(Vec::len).sum();
    let stored = statistics::largest_stored(dense);
    let footprint =
        CompensateFootprint::new((&dense.config, &pruned), all, form, placement, stored);
    if footprint.total() > budget {
        return Err(advised(
            format!(
                "memory: the compensation needs about {} bytes ({footprint}), {budget} may be used",
                footprint.total()
            ),
            "a larger --memory, fewer --compensate-samples, or --compensate=bias",
        ));
    }
    let window = settings.samples.sample_tokens;
    let options = CompensateOptions {
        form,
        batch_tokens: settings
            .samples
            .batch_tokens
            .unwrap_or_else(|| batch_tokens(&dense.config, window, budget / 8)),
    };
    let Compensated { checkpoint, refits } = adapruner_prune::compensate(
        dense,
        plan,
        &tokens.windows,
        &options,
        placement,
        &|done, all| progress.at("compensation", done as u64, all as u64),
    )?;
    let record = CompensationRecord {
        samples: TokensRecord::of(tokens),
        seed: settings.samples.seed,
        form,
        refits,
    };
    Ok((checkpoint, record))
}
