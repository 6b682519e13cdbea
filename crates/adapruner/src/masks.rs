//! The stage of learned masks: draws and splits samples, fits passes into memory, and keeps a
//! state on disk.

use std::{fmt, sync::atomic::AtomicBool};

use adapruner_checkpoint::{
    Checkpoint,
    atomic::{StateDir, StateKind},
    mapped::MappedFile,
    text::TokenSet,
};
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{Decoder, Placement};
use adapruner_prune::{
    ActivationMetric, Error as PruneError, Importance, PrunePlan, Reduction, Scores, Terms,
    masks::{
        LearnedMasks, MaskEnd, MaskFootprint, MaskLearning, MaskOptions, MaskOutcome, MaskRecord,
        MaskState, MaskStep, MaskWatch, MaskWork,
    },
};
use serde::Serialize;

use crate::{
    advice::advised,
    error::{Context, Result},
    locked::Locked,
    memory,
    pipeline::{self, TokensRecord},
    progress::Progress,
    settings::{MaskSettings, ScoreSettings},
    statistics::{Wanted, collect_streamed, largest_stored},
};

/// File name of the state in its folder.
const STATE: &str = "masks.safetensors";

/// The folder of a state of learned masks.
pub static FOLDER: StateKind = StateKind { name: "masks", known_by: &[], owned: &[STATE] };

/// The samples for learning masks.
pub struct MaskSamples {
    /// Training samples.
    pub train: TokenSet,
    /// Held-out samples, which choose the step.
    pub held_out: TokenSet,
}

/// Learned masks, for the manifest.
#[derive(Debug, Clone, Serialize)]
pub struct LearnedRecord {
    /// The training samples.
    pub train: TokensRecord,
    /// The held-out samples.
    pub held_out: TokensRecord,
    /// The options: units, budget, loss, rates, seed of draws and orders.
    pub options: MaskOptions,
    /// Its outcome.
    pub outcome: MaskOutcome,
    /// The estimate of its memory.
    pub memory_estimate: MaskFootprint,
}

impl LearnedRecord {
    /// Warnings for the output.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let MaskOutcome { ended, kept_step, .. } = &self.outcome;
        let diverged = match ended {
            MaskEnd::Diverged { in_step, message } => Some(format!(
                "learned masks: step {in_step}: {message}; the mask of step {kept_step} is kept"
            )),
            MaskEnd::Finished | MaskEnd::EarlyStopped | MaskEnd::Interrupted => None,
        };
        let nothing = (*kept_step == 0).then(|| {
            "learned masks: no mask was better than the plan on the held-out samples: the plan \
             is kept"
                .to_owned()
        });
        [diverged, nothing].into_iter().flatten()
    }
}

impl fmt::Display for LearnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MaskOutcome { ended, steps, kept_step, held_out_before, held_out_after, .. } =
            &self.outcome;
        write!(
            f,
            "step {kept_step} of {steps} kept ({}), {} units exchanged; loss on {} held-out samples \
             {held_out_before:.4} → {held_out_after:.4}",
            match ended {
                MaskEnd::Finished => "finished",
                MaskEnd::EarlyStopped => "stopped early",
                MaskEnd::Diverged { .. } => "diverged",
                MaskEnd::Interrupted => "interrupted",
            },
            self.outcome.exchanged,
            self.held_out.windows
        )
    }
}

/// Draws the samples; the last ones are held out.
///
/// # Errors
/// Options out of range, fewer samples than one step and the held-out part take, a text
/// that cannot be read or is too short for them.
pub fn samples(checkpoint: &Checkpoint, settings: &MaskSettings) -> Result<MaskSamples> {
    let all = settings.samples.samples;
    let train = all.saturating_sub(settings.held_out);
    settings.options.check(all, settings.held_out)?;
    let drawn = pipeline::calibration_tokens(checkpoint, &settings.samples)
        .with_context(|| format!("learn-masks: {all} samples, {} held out", settings.held_out))?;
    let part =
        |windows: &[Vec<u32>]| TokenSet::of_rows(&drawn.name, drawn.text_digest, windows.to_vec());
    let (train, held_out) = drawn.windows.split_at(train);
    Ok(MaskSamples { train: part(train), held_out: part(held_out) })
}

/// Number of training samples for initial scores, if a plan has none.
const SCORED: usize = 64;

/// Initial scores for a plan without scores: Wanda's, from a forward pass over some of the
/// training samples.
///
/// # Errors
/// Too little memory, damaged weights, a loss that is not finite.
pub fn scores(
    checkpoint: &Checkpoint,
    samples: &MaskSamples,
    settings: &MaskSettings,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Scores> {
    let windows = &samples.train.windows;
    let wanted = Wanted {
        samples: &windows[..windows.len().min(SCORED)],
        terms: Terms::Activations,
        batch: false,
        batch_tokens: settings.samples.batch_tokens,
        calibration_digest: samples.train.digest,
        seed: settings.samples.seed,
    };
    let budget = memory::budget(settings.samples.memory);
    let (bank, _) = collect_streamed(checkpoint, placement, &wanted, budget, progress)?;
    let score = ScoreSettings {
        importance: Importance::Activation(ActivationMetric::Wanda),
        reduction: Reduction::Sum,
    };
    pipeline::scores(checkpoint, Some(&bank), &score, settings.samples.seed)
}

/// Locks a state folder.
///
/// # Errors
/// A folder that cannot be written, or that another process works in.
pub fn lock(folder: StateDir) -> Result<Locked> {
    Locked::open(
        folder,
        "learns masks in this folder",
        "wait for it, or give another --masks-state",
    )
}

/// Learns which units of `plan` stay; `None` if it was interrupted, with its state saved.
///
/// # Errors
/// Too little memory, a plan or state that does not fit the settings, damaged weights, a
/// disk that is full.
pub fn learn(
    checkpoint: &Checkpoint,
    (plan, scores): (&PrunePlan, &Scores),
    samples: &MaskSamples,
    settings: &MaskSettings,
    (placement, state, stop): (&Placement, Option<&Locked>, &AtomicBool),
    progress: &dyn Progress,
) -> Result<Option<(PrunePlan, LearnedRecord)>> {
    let options = &settings.options;
    let lengths = samples.train.windows.iter().map(Vec::len);
    let longest = lengths.clone().max().unwrap_or(0);
    let step_tokens = options.batch * longest;
    let work = MaskWork {
        config: &checkpoint.config,
        placement,
        stored: largest_stored(checkpoint),
        first_layer: plan.unchanged(&checkpoint.config),
        train_tokens: lengths.sum(),
        longest,
        step_tokens: settings
            .samples
            .batch_tokens
            .map_or(step_tokens, |most| most.min(step_tokens)),
        loss: options.loss,
    };
    let pass = work.pass(memory::budget(settings.samples.memory)).map_err(refused)?;
    let footprint = work.footprint(&pass);
    tracing::debug!("learned masks: {pass:?}, at most {} bytes ({footprint})", footprint.total());
    let dense = Decoder::load(checkpoint, placement, pass.residency)?;
    let learning = MaskLearning {
        dense: &dense,
        plan,
        scores,
        train: &samples.train.windows,
        held_out: &samples.held_out.windows,
        options,
        checkpointing: pass.checkpointing,
        micro_tokens: pass.micro_tokens,
        record: MaskRecord::from([
            ("model".to_owned(), checkpoint.digest()?.to_string()),
            ("dtype".to_owned(), placement.dtype.as_str().to_owned()),
            ("matmul-precision".to_owned(), MatmulPrecision::current().to_string()),
            ("training samples".to_owned(), samples.train.digest.to_string()),
            ("held-out samples".to_owned(), samples.held_out.digest.to_string()),
        ]),
    };
    let path = state.map(|state| state.join(STATE));
    let named = || path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let earlier = match path.as_ref().filter(|path| path.exists()) {
        Some(path) => Some(MaskState::from_bytes(&MappedFile::open(path)?).with_context(named)?),
        None => None,
    };
    let mut told = Told { progress, state: state.map(Locked::folder) };
    let learned = learning.run(earlier, stop, &mut told);
    let other = matches!(learned, Err(PruneError::MaskState(_) | PruneError::OtherMasks { .. }));
    let LearnedMasks { plan, outcome } =
        if other { learned.with_context(named)? } else { learned? };
    if outcome.ended == MaskEnd::Interrupted {
        return Ok(None);
    }
    let record = LearnedRecord {
        train: TokensRecord::of(&samples.train),
        held_out: TokensRecord::of(&samples.held_out),
        options: options.clone(),
        outcome,
        memory_estimate: footprint,
    };
    Ok(Some((plan, record)))
}

fn refused(error: PruneError) -> crate::error::Error {
    if !matches!(error, PruneError::MaskMemory { .. }) {
        return error.into();
    }
    advised(
        error.to_string(),
        "a larger --memory, fewer --mask-tokens, a smaller --mask-batch, or --mask-loss text",
    )
}

/// Shows steps as progress and saves states in their folder.
struct Told<'a> {
    progress: &'a dyn Progress,
    state: Option<&'a StateDir>,
}

impl MaskWatch for Told<'_> {
    fn step(&mut self, step: &MaskStep, total: u64) {
        let MaskStep { loss, rate, exchanged, held_out, .. } = step;
        let held_out = held_out.map(|loss| format!(", held out {loss:.4}")).unwrap_or_default();
        let said = format!("loss {loss:.4}, rate {rate:.2e}, {exchanged} exchanged{held_out}");
        self.progress.note(&said);
        self.progress.at("learning masks", step.step, total);
    }

    fn measuring(&mut self, done: u64, all: u64) {
        self.progress.at("measuring masks", done, all);
    }

    fn save(&mut self, state: &dyn Fn() -> MaskState) -> adapruner_prune::Result<()> {
        let Some(folder) = self.state else { return Ok(()) };
        Ok(folder.write(STATE, &state().to_bytes()?)?)
    }
}
