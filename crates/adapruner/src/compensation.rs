//! The compensation stage: applies a plan and refits the matrices that read removed units on a
//! text, if that lowers the loss on held-out samples.

use std::fmt;

use adapruner_checkpoint::{Checkpoint, hf::opens_elsewhere, text::TokenSet};
use adapruner_eval::{batch_tokens, perplexity};
use adapruner_model::{Decoder, Placement};
use adapruner_prune::{
    CompensateFootprint, CompensateOptions, Compensated, Form, PrunePlan, Refit, apply,
    compensated_config, held_out,
};
use serde::Serialize;

use crate::{
    advice::advised, error::Result, memory, pipeline, pipeline::TokensRecord, progress::Progress,
    settings, statistics,
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
    /// The loss that decides whether it helps.
    pub loss: HeldOutLoss,
}

/// Mean loss of the held-out samples, in nats per predicted token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeldOutLoss {
    /// Number of samples.
    pub samples: usize,
    /// Of the sliced model.
    pub without: f64,
    /// Of the compensated one.
    pub with: f64,
}

impl HeldOutLoss {
    /// Whether compensation lowers it; if not, the sliced model is the result.
    pub fn helps(&self) -> bool {
        self.with < self.without
    }
}

impl CompensationRecord {
    /// Warnings for the output.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let HeldOutLoss { samples, without, with } = self.loss;
        let useless = (!self.loss.helps()).then(|| {
            format!(
                "compensation was left out: on {samples} held-out samples it changes the loss from \
                 {without:.4} to {with:.4} nats per predicted token"
            )
        });
        self.refits.iter().filter_map(Refit::warning).chain(useless)
    }

    /// Mean over all fits of the share of squared error that a fit removes on the held-out
    /// samples.
    fn removed(&self) -> f64 {
        let removed = self.refits.iter().map(|fit| match fit.held_out_before {
            0.0 => 0.0,
            before => 1.0 - fit.held_out_after / before,
        });
        removed.sum::<f64>() / self.refits.len().max(1) as f64
    }
}

impl fmt::Display for CompensationRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TokensRecord { windows, window, text, .. } = &self.samples;
        let HeldOutLoss { samples: held_out, without, with } = self.loss;
        let kept = self.refits.iter().filter(|fit| fit.kept).count();
        write!(
            f,
            "{kept} of {} {} fitted on {} samples of {window} tokens of {text}; on {held_out} \
             held-out samples {:.0} % less squared error, loss {without:.4} → {with:.4} nats{}",
            self.refits.len(),
            match self.form {
                Form::Weight { .. } => "matrices",
                Form::Bias => "biases",
            },
            windows - held_out,
            100.0 * self.removed(),
            if self.loss.helps() { "" } else { ", so none is used" }
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

/// Applies `plan` and refits the remaining weights on `tokens` without the held-out samples. If
/// that does not lower their loss, the result is the sliced model.
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
    let sliced = apply(dense, plan)?;
    let config = compensated_config(&dense.config, plan, form);
    if form == Form::Bias && !opens_elsewhere(&config) {
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
    let footprint = CompensateFootprint::new((&dense.config, plan), all, form, placement, stored);
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
    let held_out = &tokens.windows[tokens.windows.len() - held_out(tokens.windows.len())..];
    let measure = |model: &Checkpoint, stage| -> Result<f64> {
        let decoder = Decoder::load(model, placement, pipeline::residency(model, placement))?;
        let told = |done, all| progress.at(stage, done, all);
        Ok(perplexity(&decoder, held_out, options.batch_tokens, &told)?.nll)
    };
    let loss = HeldOutLoss {
        samples: held_out.len(),
        without: measure(&sliced, "held-out loss without")?,
        with: measure(&checkpoint, "held-out loss with")?,
    };
    let record = CompensationRecord {
        samples: TokensRecord::of(tokens),
        seed: settings.samples.seed,
        form,
        refits,
        loss,
    };
    Ok((if loss.helps() { checkpoint } else { sliced }, record))
}
