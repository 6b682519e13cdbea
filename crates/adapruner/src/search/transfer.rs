//! Applies the result of a search to its own model, or to another of the family without a new
//! search (the paper's LLaMA → Vicuna).

use adapruner_checkpoint::Checkpoint;
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{PlanOptions, PrunePlan, Scores, Terms};

use super::{
    Configuration, SearchRecord, StudyFolder,
    configuration::OrderScales,
    objective::{Aim, Aimed, Basis},
    pool,
    pool::PoolSample,
};
use crate::{
    attention::most_first,
    caution::Caution,
    error::{Result, ensure},
    kv_cache::CacheRecord,
    memory, pipeline,
    progress::Progress,
    statistics::{Wanted, collect_streamed},
};

/// A configuration as a plan for a model, with the settings that could not be transferred.
pub struct Applied {
    /// The plan.
    pub plan: PrunePlan,
    /// The scores behind it.
    pub scores: Scores,
    /// Differences from the search.
    pub notes: Vec<String>,
    /// How the key-value cache was cut, where a share of it was asked for.
    pub kv_cache: Option<CacheRecord>,
}

/// The plan of a study's configuration for `checkpoint`; `options` are the
/// study's, or those at another ratio, and `aim` is what else the plan is to meet. On the study's own model and ratio it is
/// the plan of the trial; on another model, statistics of the same samples are
/// collected and the attention sublayers' costs measured on them.
///
/// # Errors
/// A study that is not prepared, a configuration that does not fit the model,
/// damaged files.
pub fn plan_for(
    checkpoint: &Checkpoint,
    folder: &StudyFolder,
    record: &SearchRecord,
    configuration: &Configuration,
    (options, aim): (&PlanOptions, &Aim<'_>),
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Applied> {
    let prepared = record.prepared.as_ref();
    let same = checkpoint.digest()? == record.model.digest;
    match prepared {
        Some(prepared) if same && !configuration.baseline => {
            let bank = pipeline::read_statistics(&folder.bank())?;
            let basis = Basis {
                bank: &bank,
                samples: &configuration.samples,
                scales: &OrderScales::of(&bank)?,
                cheapest: &prepared.cheapest(),
                options,
            };
            let aimed = basis.aimed(checkpoint, configuration, aim)?;
            // The search chose the share by what it led to.
            let unmet = aimed.unmet(&checkpoint.config).into_iter();
            let unmet = unmet.filter(|unmet| unmet.option != "attention-share");
            let notes = unmet.map(|unmet| Caution::from(unmet).to_string()).collect();
            let Aimed { plan, scores, kv_cache, .. } = aimed;
            Ok(Applied { plan, scores, notes, kv_cache })
        }
        Some(_) | None => {
            let wanted = (options, aim);
            anew(checkpoint, folder, record, configuration, wanted, placement, progress)
        }
    }
}

/// From statistics of the chosen samples, collected now.
fn anew(
    checkpoint: &Checkpoint,
    folder: &StudyFolder,
    record: &SearchRecord,
    configuration: &Configuration,
    (plan_options, aim): (&PlanOptions, &Aim<'_>),
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Applied> {
    let mut notes = Vec::new();
    let digest = checkpoint.digest()?;
    let samples = pool::read(folder, record)?;
    let chosen: Vec<&PoolSample> =
        configuration.samples.iter().filter_map(|&at| samples.get(at)).collect();
    ensure!(
        chosen.len() == configuration.samples.len(),
        "{}: expected {} samples, found {}",
        folder.pool().display(),
        configuration.samples.len(),
        samples.len()
    );
    let windows = tokens(checkpoint, &chosen, &mut notes)?;
    let wanted = Wanted {
        samples: &windows,
        terms: Terms::Full,
        batch: configuration.baseline,
        batch_tokens: None,
        calibration_digest: record.pool.tokens_digest,
        seed: record.pool_seed,
    };
    let budget = memory::budget(None);
    let (bank, _) = collect_streamed(checkpoint, placement, &wanted, budget, progress)?;
    let layers = checkpoint.config.layers.len();
    let other = digest != record.model.digest;
    let cheapest = if configuration.drop_attention == 0 && aim.kv_cache.is_none() {
        Vec::new()
    } else {
        let decoder = Decoder::load(checkpoint, placement, Residency::Streamed)?;
        let (found, _) = most_first(checkpoint, &decoder, &windows, progress)?;
        notes.push(
            "which attention sublayers are cheapest was measured on this model; how many are \
             dropped is the study's"
                .to_owned(),
        );
        found.into_iter().map(|(layer, _)| layer).collect()
    };
    if other && record.layers != layers {
        notes.push(format!(
            "the study's model has {} layers, this one {layers}: the numbers of protected \
             layers and of dropped sublayers are taken as they are",
            record.layers
        ));
    }
    let all = bank.all_samples();
    let basis = Basis {
        bank: &bank,
        samples: &all,
        scales: &OrderScales::of(&bank)?,
        cheapest: &cheapest,
        options: plan_options,
    };
    let aimed = basis.aimed(checkpoint, configuration, aim)?;
    let unmet = aimed.unmet(&checkpoint.config).into_iter();
    notes.extend(unmet.map(|unmet| Caution::from(unmet).to_string()));
    let Aimed { plan, scores, kv_cache, .. } = aimed;
    Ok(Applied { plan, scores, notes, kv_cache })
}

/// The samples in the model's own tokens, all of one length.
fn tokens(
    checkpoint: &Checkpoint,
    chosen: &[&PoolSample],
    notes: &mut Vec<String>,
) -> Result<Vec<Vec<u32>>> {
    let tokenizer = &checkpoint.tokenizer;
    let known = |sample: &&PoolSample| {
        let within = sample.ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size());
        within && tokenizer.decode(&sample.ids, false).is_ok_and(|text| text == sample.text)
    };
    if chosen.iter().all(known) {
        return Ok(chosen.iter().map(|sample| sample.ids.clone()).collect());
    }
    let mut windows = chosen
        .iter()
        .map(|sample| Ok(tokenizer.encode_plain(&sample.text)?))
        .collect::<Result<Vec<_>>>()?;
    let before = chosen.iter().map(|sample| sample.ids.len()).max().unwrap_or(0);
    let shortest = windows.iter().map(Vec::len).min().unwrap_or(0);
    ensure!(
        shortest >= 2,
        "sample {}: expected at least 2 tokens of this model's tokenizer, found {shortest}",
        chosen.iter().zip(&windows).find(|(_, w)| w.len() < 2).map_or(0, |(s, _)| s.index)
    );
    let length = shortest.min(before);
    windows.iter_mut().for_each(|window| window.truncate(length));
    notes.push(format!(
        "the samples were tokenised again by this model's tokenizer: {length} tokens each, in the \
         study {before}"
    ));
    Ok(windows)
}
