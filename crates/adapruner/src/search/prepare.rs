//! Preparation before the first trial: texts, memory, the bank, the attention sublayers' costs,
//! the dense model's losses.

use std::time::Instant;

use adapruner_checkpoint::{Checkpoint, Digest, atomic::Writer, text::TokenSet};
use adapruner_eval::{ChunkedWindows, TOGETHER, batch::token_bytes, flops};
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{Origin, StatsBank, Terms, bank_bytes};

use super::{
    configuration::OrderScales,
    folder::{Exclusive, StudyFolder},
    objective::{Cost, Objective},
    pool,
    record::{Prepared, RECORD_VERSION, SearchRecord},
    settings::SearchSettings,
};
use crate::{
    VERSION,
    advice::advised,
    attention::{self, most_first},
    error::{Context, Error, Result, ensure},
    manifest::ModelRecord,
    memory, pipeline,
    pipeline::TokensRecord,
    progress::Progress,
    settings::TextSettings,
    speed::{Calibration, SpeedOf},
    statistics,
    statistics::{Wanted, collect_streamed},
};

/// The texts of a search.
pub struct Texts {
    /// The calibration pool.
    pub pool: TokenSet,
    /// The search-evaluation windows.
    pub eval: TokenSet,
    /// The test windows.
    pub tests: Vec<TokenSet>,
}

impl Texts {
    fn chosen_by(&self) -> (&str, &TokenSet) {
        ("the calibration pool", &self.pool)
    }

    /// Refuses test texts that share passages with the pool or the search-evaluation text,
    /// unless that is allowed.
    ///
    /// # Errors
    /// The first that does, and with what.
    pub fn check_tests(&self, allowed: bool) -> Result<()> {
        for test in &self.tests {
            pipeline::check_overlap(test, self.chosen_by(), allowed)?;
            pipeline::check_overlap(test, ("the evaluation text", &self.eval), allowed)?;
        }
        Ok(())
    }
}

/// Reads the texts, and refuses those that share passages unless that is allowed.
///
/// # Errors
/// Texts that cannot be read, are too short, or overlap.
pub fn texts(checkpoint: &Checkpoint, settings: &SearchSettings) -> Result<Texts> {
    let pool = pipeline::calibration_tokens(checkpoint, &settings.pool)?;
    let spread = |text: &TextSettings, windows: usize| -> Result<TokenSet> {
        pipeline::spread_tokens(checkpoint, text, settings.eval.window, windows)
    };
    let eval = spread(&settings.eval.text, settings.eval.limit.unwrap_or(usize::MAX))?;
    let tests = settings
        .tests
        .iter()
        .map(|text| spread(text, settings.test_windows))
        .collect::<Result<Vec<_>>>()?;
    let texts = Texts { pool, eval, tests };
    pipeline::check_overlap(&texts.eval, texts.chosen_by(), settings.allow_overlap)?;
    texts.check_tests(settings.allow_overlap)?;
    Ok(texts)
}

/// How to hold weights so that the trials of a search fit into `limit` bytes, and how many
/// bytes are left for statistics that a trial collects itself.
///
/// # Errors
/// A search that does not fit either way, with the memory it needs and the limit.
fn residency(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
    leading: usize,
    limit: u64,
) -> Result<(Residency, u64)> {
    let config = &checkpoint.config;
    let bank = bank_bytes(config, texts.pool.windows.len(), Terms::Full, false);
    let tokens = |windows: &[Vec<u32>]| windows.iter().map(Vec::len).sum::<usize>();
    let entering = |tokens: usize, layers: usize| {
        tokens * (layers + 1) * config.hidden_size * size_of::<f32>()
    };
    // The trials' leading layers stay; every layer's input on a few samples and
    // the activations of a chunk or of those samples come and go.
    let few = settings.pool.sample_tokens * attention::SAMPLES.min(texts.pool.windows.len());
    let together = TOGETHER.1.max(settings.chunk * settings.eval.window);
    let passing = few.max(together) * token_bytes(config);
    let activations = entering(tokens(&texts.eval.windows), leading)
        + entering(few, config.layers.len())
        + passing;
    let placement = settings.run.placement([checkpoint])?;
    let size = placement.dtype.size_in_bytes() as u64;
    let packed = placement.packed_bytes();
    let whole = config.parameters() * size;
    let embedding = (config.hidden_size * config.vocab_size) as u64 * size;
    let block = whole.saturating_sub(embedding) / config.layers.len().max(1) as u64;
    // The dense model and a pruned one, each with its packed form; that of few rows once.
    let packed = (2 * packed.forward + packed.few) as u64;
    let held = |weights: u64| 2 * weights + weights / size * packed;
    let needed = |weights: u64| bank + held(weights) + activations as u64;
    // A trial that collects has nothing else under way.
    let spare = |weights: u64| limit.saturating_sub(bank + held(weights));
    if needed(whole) <= limit {
        return Ok((Residency::Resident, spare(whole)));
    }
    let weights = block + embedding;
    if needed(weights) <= limit {
        return Ok((Residency::Streamed, spare(weights)));
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(Error::refused(format!(
        "memory: the search needs {:.2} GiB (bank of {} samples {:.2}, weights {:.2}, activations \
         {:.2}), the limit is {:.2} GiB: a smaller pool (--samples), fewer windows (--limit) or a \
         larger --memory",
        gib(needed(weights)),
        texts.pool.windows.len(),
        gib(bank),
        gib(held(weights)),
        gib(activations as u64),
        gib(limit),
    )))
}

/// Prepares a search: uses the folder's contents if they match and refuses them if they do not,
/// and measures the rest. Other processes wait.
///
/// # Errors
/// A folder of another search (with the difference), too little memory, damaged weights, a full
/// disk.
pub fn prepare(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
    leading: usize,
    (writer, progress): (&Writer, &dyn Progress),
) -> Result<(StudyFolder, SearchRecord, Objective)> {
    let limit = memory::budget(settings.memory);
    let (residency, spare) = residency(checkpoint, settings, texts, leading, limit)?;
    if !StudyFolder::open(&settings.folder).is_ok_and(|folder| folder.bank().exists()) {
        let weights = statistics::streamed(checkpoint, &settings.run.placement([checkpoint])?);
        statistics::cut(checkpoint, &wanted(settings, texts), weights, limit)?;
    }
    let mut folder = StudyFolder::create(writer.state(&settings.folder)?)?;
    let mut alone = folder.alone(Exclusive::Preparing)?;
    let mut record = record_of(checkpoint, settings, texts)?;
    if folder.record().exists() {
        let found = SearchRecord::read(&folder.record())?;
        let differences = found.differences(&record);
        if differences.is_empty() {
            record = found;
        } else {
            let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
            let other = format!(
                "{}: holds another search: {}",
                settings.folder.display(),
                differences.join("; ")
            );
            if !settings.anew {
                return Err(advised(
                    other,
                    "give another --study, or --anew to move this one aside and begin anew",
                ));
            }
            let (new, old) = folder.set_aside(writer)?;
            tracing::warn!("{other}; that is now {}", old.root().display());
            folder = new;
            alone = folder.alone(Exclusive::Preparing)?;
            if found.bank.is_some() && found.shares_statistics(&record) {
                folder.take_statistics(&old)?;
                record.bank = found.bank;
                record.pool_file = found.pool_file;
            }
            save(&folder, &record)?;
        }
    } else {
        ensure!(
            !folder.journal().exists(),
            "{}: a journal without search.json: not a study of this program",
            folder.journal().display()
        );
        save(&folder, &record)?;
    }
    calibrate(checkpoint, settings, (&folder, &mut record), (writer, progress))?;
    let bank = bank(checkpoint, settings, texts, (&folder, &mut record), limit, progress)?;
    // Where all was measured before, others need not wait for what follows.
    let alone = record.prepared.is_none().then_some(alone);
    let dense = match residency {
        Residency::Resident => checkpoint.resident(),
        Residency::Streamed => checkpoint.clone(),
    };
    let placement = settings.run.placement([checkpoint])?;
    let decoder = Decoder::load(&dense, &placement, residency)?;
    let start = Instant::now();
    let told = |done, all| progress.at("leading layers", done, all);
    let windows =
        ChunkedWindows::new(&decoder, &texts.eval.windows, settings.chunk, leading, &told)?;
    let prepared = match &record.prepared {
        Some(prepared) => prepared.clone(),
        None => {
            let (dense_losses, dense_cost) = dense_losses(&decoder, &windows, start)?;
            let samples = &texts.pool.windows;
            let (removable_attention, attention) = most_first(&dense, &decoder, samples, progress)?;
            let prepared =
                Prepared { removable_attention, dense_losses, attention, dense: dense_cost };
            record.prepared = Some(prepared.clone());
            save(&folder, &record)?;
            prepared
        }
    };
    drop(alone);
    let objective = Objective {
        digest: dense.digest()?,
        beside: Decoder::load(&dense, &placement, residency)?,
        dense,
        scales: OrderScales::of(&bank)?,
        bank,
        pool: texts.pool.clone(),
        cheapest: prepared.cheapest(),
        plan: settings.plan.clone(),
        windows,
        dense_losses: prepared.dense_losses,
        batch_tokens: settings.pool.batch_tokens,
        memory: spare,
        calibration: record.calibration.clone(),
    };
    Ok((folder, record, objective))
}

/// What trials share, from the folder of a study alone: its pool, its bank and
/// what was measured before its first trial. `eval` is the study's
/// search-evaluation text, of which the first `leading` layers are run once.
///
/// # Errors
/// A study that is not prepared; another model, text or type of the weights than
/// the study's (what differs); damaged files.
pub fn stored(
    checkpoint: &Checkpoint,
    (folder, record): (&StudyFolder, &SearchRecord),
    eval: &TokenSet,
    placement: &Placement,
    leading: usize,
    progress: &dyn Progress,
) -> Result<Objective> {
    let name = || folder.root().display().to_string();
    let prepared = record.prepared.as_ref();
    let prepared = prepared.with_context(|| format!("{}: the study is not prepared", name()))?;
    let digest = checkpoint.digest()?;
    for (what, then, now) in [
        ("model digest", record.model.digest.to_string(), digest.to_string()),
        (
            "evaluation text digest",
            record.evaluation.tokens_digest.to_string(),
            eval.digest.to_string(),
        ),
        ("dtype", record.dtype.clone(), placement.dtype.as_str().to_owned()),
        (
            "matmul-precision",
            record.matmul_precision.clone(),
            MatmulPrecision::current().to_string(),
        ),
    ] {
        ensure!(then == now, "{}: the {what} was {then}, now {now}", name());
    }
    let pool = pool::tokens(folder, record)?;
    let bank = pipeline::read_statistics(&folder.bank())?;
    let origin = Origin {
        model_digest: digest,
        calibration_digest: record.pool.tokens_digest,
        seed: record.pool_seed,
        dtype: placement.dtype,
    };
    bank.check_reuse(&checkpoint.config, &origin)
        .with_context(|| folder.bank().display().to_string())?;
    let residency = pipeline::residency(checkpoint, placement);
    let dense = match residency {
        Residency::Resident => checkpoint.resident(),
        Residency::Streamed => checkpoint.clone(),
    };
    let decoder = Decoder::load(&dense, placement, residency)?;
    let told = |done, all| progress.at("leading layers", done, all);
    let windows = ChunkedWindows::new(&decoder, &eval.windows, record.chunk, leading, &told)?;
    ensure!(
        windows.len() == prepared.dense_losses.len(),
        "{}: expected the dense model's losses on {} chunks, found {}",
        folder.record().display(),
        windows.len(),
        prepared.dense_losses.len()
    );
    Ok(Objective {
        digest,
        beside: Decoder::load(&dense, placement, residency)?,
        scales: OrderScales::of(&bank)?,
        bank,
        pool,
        cheapest: prepared.cheapest(),
        plan: record.plan_options(),
        windows,
        dense_losses: prepared.dense_losses.clone(),
        batch_tokens: None,
        memory: memory::budget(None),
        calibration: record.calibration.clone(),
        dense,
    })
}

/// Calibrates what predicts the seconds of trials, where they are an objective and the study has
/// no calibration yet: it keeps the one that it began with.
fn calibrate(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    (folder, record): (&StudyFolder, &mut SearchRecord),
    told: (&Writer, &dyn Progress),
) -> Result<()> {
    let Some(wanted) = settings.front.as_ref().and_then(|front| front.speed.as_ref()) else {
        return Ok(());
    };
    let speed = SpeedOf::of(&checkpoint.config, wanted.timed, wanted.context)?;
    let path = wanted.calibration.as_deref();
    match (&record.calibration, path.filter(|path| path.exists())) {
        (Some(found), Some(path)) => {
            let named = Calibration::read(path, &checkpoint.config, speed)?;
            if named == *found {
                return Ok(());
            }
            Err(advised(
                format!(
                    "{}: the study began with another calibration, which its trials are measured \
                     by",
                    path.display()
                ),
                "leave --speed-calibration out, or give another --study",
            ))
        }
        (Some(_), None) => Ok(()),
        (None, _) => {
            let placement = settings.run.placement([checkpoint])?;
            let made = Calibration::stored(path, checkpoint, speed, &placement, told)?;
            record.calibration = Some(made);
            save(folder, record)
        }
    }
}

fn save(folder: &StudyFolder, record: &SearchRecord) -> Result<()> {
    folder.write_json(&folder.record(), record)
}

fn record_of(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
) -> Result<SearchRecord> {
    let front = settings.front.as_ref().map(|front| front.record(&checkpoint.config));
    Ok(SearchRecord {
        version: RECORD_VERSION,
        adapruner: VERSION.to_owned(),
        model: ModelRecord::of(checkpoint)?,
        layers: checkpoint.config.layers.len(),
        pool: TokensRecord::of(&texts.pool),
        pool_seed: settings.pool.seed,
        evaluation: TokensRecord::of(&texts.eval),
        chunk: settings.chunk,
        dtype: settings.run.placement([checkpoint])?.dtype.as_str().to_owned(),
        matmul_precision: settings.run.matmul_precision.to_string(),
        ratio: settings.plan.ratio,
        front: front.transpose()?,
        layout: settings.plan.layout,
        multiple_of: settings.plan.multiple_of,
        kv_mode: settings.plan.kv_mode,
        pool_file: None,
        calibration: None,
        bank: None,
        prepared: None,
    })
}

/// Statistics of the pool.
fn wanted<'a>(settings: &SearchSettings, texts: &'a Texts) -> Wanted<'a> {
    Wanted {
        samples: &texts.pool.windows,
        terms: Terms::Full,
        batch: false,
        batch_tokens: settings.pool.batch_tokens,
        calibration_digest: texts.pool.digest,
        seed: settings.pool.seed,
    }
}

/// Statistics of the pool: from the folder, or collected into it in at most `limit`
/// bytes.
fn bank(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
    (folder, record): (&StudyFolder, &mut SearchRecord),
    limit: u64,
    progress: &dyn Progress,
) -> Result<StatsBank> {
    let (digest, placement) = (checkpoint.digest()?, settings.run.placement([checkpoint])?);
    if record.bank.is_some() {
        let bank = pipeline::read_statistics(&folder.bank())?;
        let origin = Origin {
            model_digest: digest,
            calibration_digest: texts.pool.digest,
            seed: settings.pool.seed,
            dtype: placement.dtype,
        };
        bank.check_reuse(&checkpoint.config, &origin)
            .with_context(|| folder.bank().display().to_string())?;
        if bank.header().has_activations() {
            return Ok(bank);
        }
        tracing::info!(
            "{}: statistics of an earlier version, without activation sums: collected again",
            folder.bank().display()
        );
    }
    let start = Instant::now();
    let wanted = wanted(settings, texts);
    let (bank, _) = collect_streamed(checkpoint, &placement, &wanted, limit, progress)?;
    let samples = bank.samples();
    let tokens = bank.header().tokens();
    record.bank = Some(Cost {
        seconds: start.elapsed().as_secs_f64(),
        tokens: tokens as u64,
        flops: flops::observed(&checkpoint.config, samples, tokens / samples, true),
    });
    pipeline::write_statistics(&bank, folder.begin(&folder.bank())?)?;
    let pool = pool::lines(checkpoint, &texts.pool)?;
    folder.write(&folder.pool(), &pool)?;
    record.pool_file = Some(Digest::of_bytes(&pool));
    save(folder, record)?;
    Ok(bank)
}

/// The dense model's loss on each chunk, in nats per predicted token. The cost
/// counts from `start`, when its leading layers began to run.
fn dense_losses(
    dense: &Decoder,
    windows: &ChunkedWindows,
    start: Instant,
) -> Result<(Vec<f64>, Cost)> {
    let config = dense.config();
    let mut losses = Vec::with_capacity(windows.len());
    while losses.len() < windows.len() {
        let group = losses.len()..losses.len() + windows.together(usize::MAX);
        losses.extend(windows.nll(dense, windows.leading(), group)?);
    }
    let cost = Cost {
        seconds: start.elapsed().as_secs_f64(),
        tokens: (windows.windows() * windows.window()) as u64,
        flops: flops::forward(config, windows.windows(), windows.window(), 0),
    };
    Ok((losses, cost))
}
