//! What comes before the first trial: texts, the memory it will take, the bank,
//! the attention sublayers' costs, the dense model's losses.

use std::time::Instant;

use adapruner_checkpoint::{Checkpoint, Digest, text::TokenSet};
use adapruner_eval::{ChunkedWindows, batch_tokens, flops};
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{
    CollectOptions, PrunePlan, StatsBank, Terms, apply, collect, layout::VectorLayout,
};
use anyhow::{Context, Result, anyhow, ensure};

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
    manifest::ModelRecord,
    memory, pipeline,
    pipeline::TokensRecord,
    progress::Progress,
    settings::{EvalSettings, TextSettings},
};

/// Most samples of the pool that attention sublayers are measured on.
const ATTENTION_SAMPLES: usize = 16;

/// The texts of a search.
pub struct Texts {
    /// The calibration pool.
    pub pool: TokenSet,
    /// The search-evaluation windows.
    pub eval: TokenSet,
    /// The test windows.
    pub tests: Vec<TokenSet>,
}

/// Reads the texts, and refuses those that share passages unless told otherwise.
///
/// # Errors
/// Texts that cannot be read, are too short, or overlap.
pub fn texts(checkpoint: &Checkpoint, settings: &SearchSettings) -> Result<Texts> {
    let pool = pipeline::calibration_tokens(checkpoint, &settings.pool)?;
    let spread = |text: &TextSettings, windows: usize| -> Result<TokenSet> {
        let whole = EvalSettings { text: text.clone(), limit: None, ..settings.eval.clone() };
        Ok(pipeline::eval_tokens(checkpoint, &whole)?.spread(windows))
    };
    let eval = spread(&settings.eval.text, settings.eval.limit.unwrap_or(usize::MAX))?;
    let tests = settings
        .tests
        .iter()
        .map(|text| spread(text, settings.test_windows))
        .collect::<Result<Vec<_>>>()?;
    for (measured, role) in
        std::iter::once((&eval, "search-evaluation")).chain(tests.iter().map(|test| (test, "test")))
    {
        pipeline::check_overlap(measured, &pool, settings.allow_overlap)
            .with_context(|| format!("{role} text"))?;
    }
    for test in &tests {
        pipeline::check_overlap(test, &eval, settings.allow_overlap).context("test text")?;
    }
    Ok(Texts { pool, eval, tests })
}

/// Bytes that a search takes at its widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// The bank.
    pub bank: u64,
    /// The dense model's weights.
    pub dense: u64,
    /// Those of a pruned one.
    pub pruned: u64,
    /// Activations that are kept and those of a chunk.
    pub activations: u64,
}

impl MemoryNeed {
    fn total(&self) -> u64 {
        self.bank + self.dense + self.pruned + self.activations
    }
}

/// What a search will need, and how weights are held so that it fits `limit`.
fn memory_need(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
    leading: usize,
    limit: u64,
) -> Result<(MemoryNeed, Residency)> {
    let placement = settings.run.placement()?;
    let config = &checkpoint.config;
    let vectors = VectorLayout::new(&config.layers, config.head_dim).map_or(0, |l| l.len());
    let size = placement.dtype.size_in_bytes() as u64;
    let weights = config.parameters() * size;
    let layers = config.layers.len().max(1) as u64;
    let eval_tokens: usize = texts.eval.windows.iter().map(Vec::len).sum();
    let kept = eval_tokens * (leading + 1) * config.hidden_size * size_of::<f32>();
    let widest = config.layers.iter().map(|w| 3 * w.ffn.max(w.query_heads * config.head_dim));
    let token = (widest.max().unwrap_or(0) + 4 * config.hidden_size) * size_of::<f32>();
    let need = |weights: u64| MemoryNeed {
        // Terms of f32 for each sample and vector.
        bank: (texts.pool.windows.len() * vectors * 3 * size_of::<f32>()) as u64,
        dense: weights,
        pruned: weights,
        activations: (kept + settings.chunk * settings.eval.window * token) as u64,
    };
    let embedding = (config.hidden_size * config.vocab_size) as u64 * size;
    for (weights, residency) in [
        (weights, Residency::Resident),
        // One block at a time, and the embedding.
        (weights.saturating_sub(embedding) / layers + embedding, Residency::Streamed),
    ] {
        if need(weights).total() <= limit {
            return Ok((need(weights), residency));
        }
    }
    let least = need(weights.saturating_sub(embedding) / layers + embedding);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(anyhow!(
        "memory: the search needs {:.2} GiB (bank of {} samples {:.2}, weights {:.2}, activations \
         {:.2}), the limit is {:.2} GiB: a smaller pool (--samples), fewer windows (--limit) or a \
         larger --memory",
        gib(least.total()),
        texts.pool.windows.len(),
        gib(least.bank),
        gib(least.dense + least.pruned),
        gib(least.activations),
        gib(limit),
    ))
}

/// Prepares a search: what is in the folder is used where it fits and refused
/// where it does not; the rest is measured now. Other processes wait.
///
/// # Errors
/// A folder of another search (what differs), too little memory, damaged
/// weights, a full disk.
pub fn prepare(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
    leading: usize,
    progress: &dyn Progress,
) -> Result<(StudyFolder, SearchRecord, Objective)> {
    let limit = settings.memory.unwrap_or_else(memory::available);
    let (_, residency) = memory_need(checkpoint, settings, texts, leading, limit)?;
    let folder = StudyFolder::create(&settings.folder)?;
    let _alone = folder.alone(Exclusive::Preparing)?;
    let mut record = record_of(checkpoint, settings, texts)?;
    if folder.record().exists() {
        let found = SearchRecord::read(&folder.record())?;
        let differences = found.differences(&record);
        ensure!(
            differences.is_empty(),
            "{}: holds another search: {}",
            settings.folder.display(),
            differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        );
        record = found;
    } else {
        ensure!(
            !folder.journal().exists(),
            "{}: a journal without search.json: not a study of this program",
            folder.journal().display()
        );
        save(&folder, &record)?;
    }
    let bank = bank(checkpoint, settings, texts, &folder, &mut record, progress)?;
    let dense = match residency {
        Residency::Resident => checkpoint.resident(),
        Residency::Streamed => checkpoint.clone(),
    };
    let placement = settings.run.placement()?;
    let decoder = Decoder::load(&dense, &placement, residency)?;
    let start = Instant::now();
    let windows = ChunkedWindows::new(
        &decoder,
        &texts.eval.windows,
        settings.chunk,
        leading,
        &|done, all| {
            progress.at("leading layers", done, all);
        },
    )?;
    let mut objective = Objective {
        digest: dense.digest()?,
        dense,
        placement,
        residency,
        scales: OrderScales::of(&bank)?,
        bank,
        pool: texts.pool.clone(),
        cheapest: Vec::new(),
        plan: settings.plan.clone(),
        windows,
        dense_losses: Vec::new(),
        batch_tokens: batch(checkpoint, settings),
    };
    let prepared = match record.prepared.take() {
        Some(prepared) => prepared,
        None => measure(&objective, &decoder, start, texts, progress)?,
    };
    objective.scales = prepared.scales;
    objective.cheapest = prepared.cheapest();
    objective.dense_losses.clone_from(&prepared.dense_losses);
    record.prepared = Some(prepared);
    save(&folder, &record)?;
    Ok((folder, record, objective))
}

fn save(folder: &StudyFolder, record: &SearchRecord) -> Result<()> {
    folder.write(&folder.record(), (serde_json::to_string_pretty(record)? + "\n").as_bytes())
}

fn record_of(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
) -> Result<SearchRecord> {
    Ok(SearchRecord {
        version: RECORD_VERSION,
        adapruner: VERSION.to_owned(),
        model: ModelRecord::of(checkpoint)?,
        layers: checkpoint.config.layers.len(),
        pool: TokensRecord::of(&texts.pool),
        pool_seed: settings.pool.seed,
        evaluation: TokensRecord::of(&texts.eval),
        chunk: settings.chunk,
        dtype: settings.run.placement()?.dtype.as_str().to_owned(),
        ratio: settings.plan.ratio,
        layout: settings.plan.layout,
        multiple_of: settings.plan.multiple_of,
        kv_mode: settings.plan.kv_mode,
        bank: None,
        prepared: None,
    })
}

/// Tokens of a backward pass: it keeps about four times what a forward pass
/// does.
fn batch(checkpoint: &Checkpoint, settings: &SearchSettings) -> usize {
    settings.pool.batch_tokens.unwrap_or_else(|| {
        batch_tokens(&checkpoint.config, settings.pool.sample_tokens, memory::available() / 16)
    })
}

/// Statistics of the pool: from the folder, or collected into it.
fn bank(
    checkpoint: &Checkpoint,
    settings: &SearchSettings,
    texts: &Texts,
    folder: &StudyFolder,
    record: &mut SearchRecord,
    progress: &dyn Progress,
) -> Result<StatsBank> {
    let digest = checkpoint.digest()?;
    if record.bank.is_some() {
        let bank = pipeline::read_statistics(&folder.bank())?;
        bank.check_reuse(&checkpoint.config, &digest, &texts.pool.digest, settings.pool.seed)
            .with_context(|| folder.bank().display().to_string())?;
        return Ok(bank);
    }
    let options = CollectOptions {
        terms: Terms::Full,
        batch: false,
        batch_tokens: batch(checkpoint, settings),
        model_digest: digest,
        calibration_digest: texts.pool.digest,
        seed: settings.pool.seed,
    };
    let start = Instant::now();
    let decoder = Decoder::load(checkpoint, &settings.run.placement()?, Residency::Streamed)?;
    let bank = collect(&decoder, &texts.pool.windows, &options, &|done, all| {
        progress.at("statistics", done as u64, all as u64);
    })?;
    let samples = bank.samples();
    let tokens = bank.header().tokens();
    record.bank = Some(Cost {
        seconds: start.elapsed().as_secs_f64(),
        tokens: tokens as u64,
        flops: flops::backward(&checkpoint.config, samples, tokens / samples, true),
    });
    folder.write(&folder.bank(), &bank.to_bytes()?)?;
    folder.write(&folder.pool(), &pool::lines(checkpoint, &texts.pool)?)?;
    save(folder, record)?;
    Ok(bank)
}

/// The dense model's losses, chunk by chunk, and what each attention sublayer is
/// worth on samples of the pool.
fn measure(
    objective: &Objective,
    dense: &Decoder,
    start: Instant,
    texts: &Texts,
    progress: &dyn Progress,
) -> Result<Prepared> {
    let config = dense.config();
    let windows = &objective.windows;
    let dense_losses = (0..windows.len())
        .map(|chunk| Ok(windows.nll(dense, config.layers.len(), chunk)?))
        .collect::<Result<Vec<f64>>>()?;
    let dense_cost = Cost {
        seconds: start.elapsed().as_secs_f64(),
        tokens: (windows.windows() * windows.window()) as u64,
        flops: flops::forward(config, windows.windows(), windows.window(), 0),
    };
    let samples = texts.pool.spread(ATTENTION_SAMPLES);
    let Objective { dense: model, digest, placement, residency, .. } = objective;
    let on = (&samples.windows[..], placement, *residency);
    let (removable_attention, attention) =
        removable_attention(model, *digest, dense, on, config.layers.len() / 2, progress)?;
    Ok(Prepared {
        scales: objective.scales,
        removable_attention,
        attention_samples: samples.windows.len(),
        dense_losses,
        attention,
        dense: dense_cost,
    })
}

/// Attention sublayers in the order in which they are best removed, each with
/// what the loss on `samples` gains when it goes after those before it, in nats
/// per predicted token; at most `most` of them.
///
/// A greedy choice. What a sublayer costs seldom falls when others are gone, so
/// only the cheapest is measured again before it is taken (lazy evaluation,
/// Minoux 1978); what is found to cost more goes back among the others.
pub(super) fn removable_attention(
    checkpoint: &Checkpoint,
    digest: Digest,
    dense: &Decoder,
    (samples, placement, residency): (&[Vec<u32>], &Placement, Residency),
    most: usize,
    progress: &dyn Progress,
) -> Result<(Vec<(usize, f64)>, Cost)> {
    let start = Instant::now();
    let config = &checkpoint.config;
    let (count, length) = (samples.len(), samples.first().map_or(0, Vec::len));
    let layers = config.layers.len();
    let all = ChunkedWindows::new(dense, samples, count, layers, &|_, _| ())?;
    let mut cost = Cost {
        flops: flops::forward(config, count, length, 0),
        tokens: (count * length) as u64,
        ..Cost::default()
    };
    let mut loss_without = |gone: &[usize]| -> Result<f64> {
        let plan = PrunePlan::without_attention(config, digest, gone);
        let decoder = Decoder::load(&apply(checkpoint, &plan)?, placement, residency)?;
        let unchanged = plan.unchanged(config);
        cost.tokens += (count * length) as u64;
        cost.flops += flops::forward(decoder.config(), count, length, unchanged);
        Ok(all.nll(&decoder, unchanged, 0)?)
    };
    let candidates = (0..layers).filter(|&layer| config.layers[layer].has_attention());
    let candidates: Vec<usize> = candidates.collect();
    let most = most.min(candidates.len());
    let work = (candidates.len() + most) as u64;
    let mut loss = all.nll(dense, layers, 0)?;
    // What each costs, and how many were gone when that was measured.
    let mut costs = Vec::with_capacity(candidates.len());
    for layer in candidates {
        costs.push((loss_without(&[layer])? - loss, layer, 0));
        progress.at("attention sublayers", costs.len() as u64, work);
    }
    let measured = costs.len() as u64;
    let mut chosen: Vec<(usize, f64)> = Vec::with_capacity(most);
    let mut gone: Vec<usize> = Vec::with_capacity(most);
    while chosen.len() < most {
        costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (cost, layer, when) = costs[0];
        if when == gone.len() {
            costs.remove(0);
            gone.push(layer);
            chosen.push((layer, cost));
            loss += cost;
            progress.at("attention sublayers", measured + chosen.len() as u64, work);
        } else {
            gone.push(layer);
            let now = loss_without(&gone)? - loss;
            gone.pop();
            costs[0] = (now, layer, gone.len());
        }
    }
    cost.seconds = start.elapsed().as_secs_f64();
    Ok((chosen, cost))
}
