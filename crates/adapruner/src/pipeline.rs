//! The stages of the pipeline. Each takes settings and the previous stage's result; none
//! prints, and only [`statistics`] writes a file (the bank, if requested).

use std::{io::Write, path::Path, time::Instant};

use adapruner_checkpoint::{
    Checkpoint, Digest, LayerWidths, ModelConfig,
    atomic::{StagedFile, Writer},
    mapped::MappedFile,
    text::{self, Text, TokenSet},
};
use adapruner_eval::{Perplexity, batch_tokens, perplexity};
use adapruner_model::{
    Decoder, Placement, Residency,
    generate::{Sampling, generate},
};
use adapruner_prune::{
    BankHeader, Error as PruneError, Evidence, LayerPlan, Origin, PlanOptions, PrunePlan, Scores,
    StatsBank, Terms, plan, plan_dropped, score,
};
use serde::{Deserialize, Serialize};

use crate::{
    advice::advised,
    allocate::{self, AllocationRecord},
    error::{Context, Error, Result, ensure},
    kv_cache::CacheRecord,
    memory,
    progress::Progress,
    sensitivity,
    settings::{
        CalibrationSettings, EvalSettings, PruneSettings, SampleSettings, ScoreSettings,
        TextSettings,
    },
    statistics::{Cut, Wanted, collect_streamed},
};

/// The source of a set of tokens, for manifests and results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensRecord {
    /// File or named set.
    pub text: String,
    /// Digest of the text.
    pub text_digest: Digest,
    /// Digest of the token ids.
    pub tokens_digest: Digest,
    /// Number of windows or samples.
    pub windows: usize,
    /// Tokens of the longest of them.
    pub window: usize,
}

impl TokensRecord {
    /// The record of a set of tokens.
    pub fn of(tokens: &TokenSet) -> Self {
        Self {
            text: tokens.name.clone(),
            text_digest: tokens.text_digest,
            tokens_digest: tokens.digest,
            windows: tokens.windows.len(),
            window: tokens.windows.iter().map(Vec::len).max().unwrap_or(0),
        }
    }
}

/// A measurement and how it was made.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// Loss and perplexity.
    #[serde(flatten)]
    pub loss: Perplexity,
    /// File or named set.
    pub text: String,
    /// Digest of the text.
    pub text_digest: Digest,
    /// Digest of the token ids.
    pub tokens_digest: Digest,
    /// Digest of the model.
    pub model_digest: Digest,
    /// Parameters of the model.
    pub parameters: u64,
    /// Type of the weights while the model ran.
    pub dtype: String,
    /// Tokens that ran together.
    pub batch_tokens: usize,
    /// Wall-clock seconds of the passes, loading not included.
    pub seconds: f64,
    /// Tokens run through the model per second, loading not included.
    pub tokens_per_second: f64,
}

impl Evaluation {
    /// The record of what was read.
    pub fn tokens(&self) -> TokensRecord {
        TokensRecord {
            text: self.text.clone(),
            text_digest: self.text_digest,
            tokens_digest: self.tokens_digest,
            windows: self.loss.windows,
            window: self.loss.window,
        }
    }
}

/// A text for cutting into windows of the model, each of which begins with BOS if the family
/// always runs with it.
fn read(checkpoint: &Checkpoint, settings: &TextSettings) -> Result<Text> {
    let text = text::read(&settings.text, &settings.options())?;
    let opens = checkpoint.config.family().opens_with_bos;
    Ok(text.opened_by(checkpoint.tokenizer.bos_id().filter(|_| opens)))
}

/// The windows of a text to measure on.
///
/// # Errors
/// A text that cannot be read or is too short for a window.
pub fn eval_tokens(checkpoint: &Checkpoint, settings: &EvalSettings) -> Result<TokenSet> {
    let text = read(checkpoint, &settings.text)?;
    Ok(TokenSet::windows(&text, &checkpoint.tokenizer, settings.window, settings.limit)?)
}

/// A number of evaluation windows, spread evenly over the text.
///
/// # Errors
/// Those of [`eval_tokens`].
pub fn spread_tokens(
    checkpoint: &Checkpoint,
    text: &TextSettings,
    window: usize,
    windows: usize,
) -> Result<TokenSet> {
    let text = read(checkpoint, text)?;
    Ok(TokenSet::spread(&text, &checkpoint.tokenizer, window, windows)?)
}

/// The windows of texts that a model will be measured on.
///
/// # Errors
/// A text that cannot be read or has too few tokens.
pub fn test_tokens(checkpoint: &Checkpoint, tests: &[EvalSettings]) -> Result<Vec<TokenSet>> {
    tests.iter().map(|test| eval_tokens(checkpoint, test)).collect()
}

/// The samples of a calibration set.
///
/// # Errors
/// A text that cannot be read or has too few tokens.
pub fn calibration_tokens(
    checkpoint: &Checkpoint,
    settings: &CalibrationSettings,
) -> Result<TokenSet> {
    let text = read(checkpoint, &settings.text)?;
    let CalibrationSettings { samples, sample_tokens, seed, .. } = *settings;
    Ok(TokenSet::samples(&text, &checkpoint.tokenizer, samples, sample_tokens, seed)?)
}

/// Share of windows that may contain a passage of another text: some sentences
/// recur in any two texts of a kind.
const TOLERATED: f64 = 0.01;

/// Refuses to measure on a text that shares passages with one on which choices are made
/// (`role`, such as "the calibration set"), unless that is allowed.
///
/// # Errors
/// The number of windows that share passages, if it exceeds one in a hundred.
pub fn check_overlap(
    measured: &TokenSet,
    (role, other): (&str, &TokenSet),
    allowed: bool,
) -> Result<()> {
    if allowed {
        return Ok(());
    }
    let (shared, all) = (measured.overlap(other), measured.windows.len());
    let said = format!(
        "{}: {shared} of {all} windows share passages with {role} {}",
        measured.name, other.name
    );
    if shared as f64 > TOLERATED * all as f64 {
        return Err(advised(said, "measure on another text, or give --allow-overlap"));
    }
    if shared > 0 {
        tracing::warn!("{said}");
    }
    Ok(())
}

/// How a model's weights are held: all in memory if they take at most half of it, otherwise
/// block by block.
pub(crate) fn residency(checkpoint: &Checkpoint, placement: &Placement) -> Residency {
    let of_one = placement.dtype.size_in_bytes() + placement.packed_bytes().forward;
    let bytes = checkpoint.config.parameters() * of_one as u64;
    if !placement.device.is_cpu() || bytes <= memory::available() / 2 {
        Residency::Resident
    } else {
        Residency::Streamed
    }
}

/// Measures a model on windows.
///
/// # Errors
/// Damaged weights, a loss that is not finite, or no memory.
pub fn evaluate(
    checkpoint: &Checkpoint,
    tokens: &TokenSet,
    placement: &Placement,
    batch: Option<usize>,
    stage: &'static str,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let model_digest = checkpoint.digest()?;
    let decoder = Decoder::load(checkpoint, placement, residency(checkpoint, placement))?;
    let window = tokens.windows.first().map_or(0, Vec::len);
    let batch_tokens =
        batch.unwrap_or_else(|| batch_tokens(&checkpoint.config, window, memory::available() / 4));
    let start = Instant::now();
    let loss = perplexity(&decoder, &tokens.windows, batch_tokens, &|done, all| {
        progress.at(stage, done, all);
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let loss = loss.with_bytes(checkpoint.tokenizer.predicted_bytes(&tokens.windows))?;
    Ok(Evaluation {
        text: tokens.name.clone(),
        text_digest: tokens.text_digest,
        tokens_digest: tokens.digest,
        model_digest,
        parameters: checkpoint.config.parameters(),
        dtype: placement.dtype.as_str().to_owned(),
        batch_tokens,
        seconds,
        tokens_per_second: (loss.windows * loss.window) as f64 / seconds,
        loss,
    })
}

/// Collects the statistics of a calibration set, block by block, the samples in
/// groups that fit the memory of `settings`.
///
/// # Errors
/// Too little memory, damaged weights, a loss that is not finite.
pub fn collect_statistics(
    checkpoint: &Checkpoint,
    tokens: &TokenSet,
    settings: &CalibrationSettings,
    (terms, batch): (Terms, bool),
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<(StatsBank, Cut)> {
    let wanted = Wanted {
        samples: &tokens.windows,
        terms,
        batch,
        batch_tokens: settings.batch_tokens,
        calibration_digest: tokens.digest,
        seed: settings.seed,
    };
    collect_streamed(checkpoint, placement, &wanted, memory::budget(settings.memory), progress)
}

/// Reads statistics from a file.
///
/// # Errors
/// A file that is missing or holds no statistics.
pub fn read_statistics(path: &Path) -> Result<StatsBank> {
    let file = MappedFile::open(path)?;
    StatsBank::from_bytes(&file).with_context(|| path.display().to_string())
}

/// Writes statistics to a file, whole or not at all.
///
/// # Errors
/// A file that exists and is not to be replaced, a full disk, no permission.
pub fn write_statistics(bank: &StatsBank, staged: StagedFile) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(staged.path())?);
        bank.write_to(&mut file)?;
        file.flush()
    };
    write().with_context(|| format!("{}: cannot write", staged.target().display()))?;
    Ok(staged.commit()?)
}

/// The terms that an importance needs.
fn needed_terms(score: &ScoreSettings) -> (Terms, bool) {
    let importance = score.importance;
    (importance.terms().unwrap_or(Terms::Activations), importance.needs_batch_terms())
}

/// Statistics for `settings`: from their file if it exists and matches, otherwise collected
/// (and written to that file).
///
/// # Errors
/// Statistics of another model or calibration set; those of
/// [`collect_statistics`].
pub fn statistics(
    checkpoint: &Checkpoint,
    tokens: &TokenSet,
    calibration: &CalibrationSettings,
    settings: &PruneSettings,
    placement: &Placement,
    (writer, progress): (&Writer, &dyn Progress),
) -> Result<StatsBank> {
    if let Some(path) = settings.statistics.as_deref().filter(|path| path.exists()) {
        let bank = read_statistics(path)?;
        let origin = Origin {
            model_digest: checkpoint.digest()?,
            calibration_digest: tokens.digest,
            seed: calibration.seed,
            dtype: placement.dtype,
        };
        bank.check_reuse(&checkpoint.config, &origin)
            .with_context(|| path.display().to_string())?;
        return Ok(bank);
    }
    let terms = needed_terms(&settings.score);
    let (bank, _) =
        collect_statistics(checkpoint, tokens, calibration, terms, placement, progress)?;
    if let Some(path) = &settings.statistics {
        write_statistics(&bank, writer.file(path)?)?;
    }
    Ok(bank)
}

/// A plan and what led to it.
pub struct Planned {
    /// Which units stay.
    pub plan: PrunePlan,
    /// The scores of all units.
    pub scores: Scores,
    /// Header of the statistics, if any were needed.
    pub statistics: Option<BankHeader>,
    /// Loss increase from cutting a layer alone, if the cut is spread by it.
    pub sensitivities: Option<Vec<Option<f64>>>,
    /// The steps by which the cut was spread over layers, where it was.
    pub allocation: Option<AllocationRecord>,
    /// The options that it was made by: those of the settings, with what goes for the key-value
    /// cache.
    pub options: PlanOptions,
    /// How the key-value cache was cut, where it was.
    pub kv_cache: Option<CacheRecord>,
}

/// The calibration set that `settings` needs, if they do; contradictions and
/// absurd options are refused before any text is read.
///
/// # Errors
/// Options that make no sense for the model; those of [`calibration_tokens`].
pub fn calibration(checkpoint: &Checkpoint, settings: &PruneSettings) -> Result<Option<TokenSet>> {
    // A ratio of 0 leaves them as they are, where something else is removed.
    let others = settings.reduces();
    let widths = settings.cuts() || !others;
    if settings.plan.ratio != 0.0 || !settings.cuts() && !others {
        settings.plan.check(&checkpoint.config)?;
    }
    let by_loss = settings.measured.is_some() || settings.sensitivity.is_some();
    let scored = settings.score.importance.terms().is_some() || by_loss;
    let measured = settings.measures_parts();
    match &settings.calibration {
        Some(calibration) if (widths && scored) || measured => {
            Ok(Some(calibration_tokens(checkpoint, calibration)?))
        }
        Some(_) | None => Ok(None),
    }
}

/// Scores the units of a model and decides which stay, from statistics of `tokens` if the
/// importance needs some, and with layer sensitivities if requested.
///
/// # Errors
/// A calibration set that is missing where the importance needs one; a ratio
/// that cannot be reached; those of [`statistics`] and [`sensitivity::measure`].
pub fn prune(
    checkpoint: &Checkpoint,
    tokens: Option<&TokenSet>,
    settings: &PruneSettings,
    placement: &Placement,
    told: (&Writer, &dyn Progress),
) -> Result<Planned> {
    let bank = match (tokens, &settings.calibration) {
        (Some(tokens), Some(calibration)) if settings.score.importance.terms().is_some() => {
            Some(statistics(checkpoint, tokens, calibration, settings, placement, told)?)
        }
        (Some(_) | None, Some(_) | None) => None,
    };
    let scores = scores(checkpoint, bank.as_ref(), &settings.score, settings.seed);
    let scores = scores.map_err(|error| lacking(error, settings))?;
    let (config, digest) = (&checkpoint.config, checkpoint.digest()?);
    let (options, kv_cache) = match &settings.kv_cache {
        Some(cache) => {
            let scored = (&scores, &settings.plan);
            let (options, record) =
                cache.choose(checkpoint, scored, tokens, (placement, told.1))?;
            if settings.target.is_none() {
                check_removed(config, &options)?;
            }
            (options, Some(record))
        }
        None => (settings.plan.clone(), None),
    };
    let decide = |options: &PlanOptions| -> Result<PrunePlan> {
        match &settings.target {
            Some(target) => {
                let plan = target.plan(checkpoint, &scores, options)?;
                plan.context("target: the model meets it as it is")
            }
            None if options.ratio == 0.0 => {
                let named = plan_dropped(&scores, config, digest, options)?;
                // What else is removed may be enough for the cache.
                let all = || config.layers.iter().map(LayerPlan::whole).collect();
                Ok(named.unwrap_or_else(|| PrunePlan::keeping(config, digest, all())))
            }
            None => Ok(plan(&scores, config, digest, options)?),
        }
    };
    let (mut sensitivities, mut allocation) = (None, None);
    let mut plan = match (settings.measured, tokens) {
        (Some(most), Some(samples)) => {
            let samples = samples.few(most);
            let run = (placement, told.1);
            let (options, record) =
                allocate::measured(checkpoint, &scores, &options, &samples, run)?;
            allocation = Some(record);
            decide(&options)?
        }
        (_, _) => decide(&options)?,
    };
    if let (Some(power), Some(tokens)) = (settings.sensitivity, tokens) {
        let (_, progress) = told;
        let gains = sensitivity::measure(checkpoint, &plan, &tokens.windows, placement, progress)?;
        let layer_weights = Some(sensitivity::weights(&gains, power));
        plan = decide(&PlanOptions { layer_weights, ..options.clone() })?;
        sensitivities = Some(gains);
    }
    let statistics = bank.map(|bank| bank.header().clone());
    Ok(Planned { plan, scores, statistics, sensitivities, allocation, options, kv_cache })
}

/// Refuses a ratio that the attention which goes for the key-value cache exceeds by itself.
fn check_removed(config: &ModelConfig, options: &PlanOptions) -> Result<()> {
    let layers = config.layers.iter().enumerate().map(|(layer, widths)| {
        let heads = options.drop_groups.get(layer).map_or(0, |&groups| groups);
        match options.drop_attention.contains(&layer) {
            true => LayerWidths { query_heads: 0, kv_heads: 0, ..*widths },
            false => LayerWidths {
                query_heads: widths.query_heads - heads * widths.group_size(),
                kv_heads: widths.kv_heads - heads,
                ..*widths
            },
        }
    });
    let before = config.parameters();
    let left = config.with_layers(layers.collect()).parameters();
    let gone = (before - left) as f64 / before as f64;
    if options.ratio > 0.0 && gone > options.ratio + 0.001 {
        return Err(advised(
            format!(
                "target-kv-cache: the attention that goes for it is {gone:.4} of the parameters, \
                 more than the ratio {:.4} that is left to remove",
                options.ratio
            ),
            "raise the ratio, or leave it out: then nothing else goes",
        ));
    }
    Ok(())
}

/// An error of scoring, with a hint if the statistics file lacks terms.
fn lacking(error: Error, settings: &PruneSettings) -> Error {
    match (error.root(), &settings.statistics) {
        (Error::Prune(PruneError::MissingTerms { .. }), Some(path)) => advised(
            format!("{}: {error}", path.display()),
            "name another file, or delete this one to collect them again: --stats FILE",
        ),
        (_, Some(_) | None) => error,
    }
}

/// Scores of every unit by all samples of the statistics.
///
/// # Errors
/// Statistics that are missing or lack what the importance needs.
pub fn scores(
    checkpoint: &Checkpoint,
    bank: Option<&StatsBank>,
    settings: &ScoreSettings,
    seed: u64,
) -> Result<Scores> {
    let evidence = Evidence {
        config: &checkpoint.config,
        bank,
        samples: None,
        checkpoint: Some(checkpoint),
        seed,
    };
    Ok(score(settings.importance, settings.reduction, &evidence)?)
}

/// Batch size when sampling from a model.
const SAMPLE_BATCH: usize = 32;

/// Samples token sequences from a model. Each begins after the beginning-of-text token (or, if
/// the model has none, an end-of-text token), which is not part of it; special tokens and rows
/// of the embedding without a token are never drawn.
///
/// # Errors
/// No sequences, a model without such a token, more tokens than its context, a
/// temperature below 0.
pub fn sample(
    checkpoint: &Checkpoint,
    settings: &SampleSettings,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let SampleSettings { samples, sample_tokens, temperature, seed } = *settings;
    ensure!(samples > 0, "samples: at least 1 expected, 0 found");
    ensure!(sample_tokens > 0, "sample-tokens: at least 1 expected, 0 found");
    ensure!(
        temperature >= 0.0 && temperature.is_finite(),
        "temperature: a number of at least 0 expected, {temperature} found"
    );
    let config = &checkpoint.config;
    let opening =
        config.bos_token_id.or(config.eos_token_ids.first().copied()).with_context(|| {
            format!("{}: the model has no beginning-of-text token", checkpoint.origin.display())
        })?;
    let mut banned = config.eos_token_ids.clone();
    banned.extend(checkpoint.tokenizer.special_ids());
    banned.extend(checkpoint.tokenizer.unassigned_ids(config.vocab_size));
    let decoder = Decoder::load(checkpoint, placement, residency(checkpoint, placement))?;
    let mut rows = Vec::with_capacity(samples);
    let all = samples as u64 * sample_tokens as u64;
    while rows.len() < samples {
        let prompts = vec![vec![opening]; SAMPLE_BATCH.min(samples - rows.len())];
        let sampling = Sampling {
            temperature,
            top_k: None,
            top_p: None,
            seed,
            first_stream: rows.len(),
            banned: banned.clone(),
        };
        let before = rows.len() as u64 * sample_tokens as u64;
        rows.extend(generate(&decoder, &prompts, sample_tokens, &sampling, &|done, _| {
            progress.at("sampling", before + (done * prompts.len()) as u64, all);
        })?);
    }
    Ok(rows)
}
