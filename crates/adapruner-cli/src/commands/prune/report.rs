//! What `prune` says of its result.

use std::{f64::consts::LN_2, path::Path};

use adapruner::{
    VERSION,
    caution::{Caution, Pruned, collapse},
    compare_models,
    depth::DepthRecord,
    experts::ExpertRecord,
    footprint::Footprint,
    kv_cache::CacheRecord,
    manifest::{BeforeAfter, Manifest, StatisticsRecord},
    masks::LearnedRecord,
    passed::PassedRecord,
    pipeline::TokensRecord,
    search::page::layers,
    settings::{Chosen, PruneSettings},
    speed::SpeedRecord,
    vocabulary::VocabularyRecord,
};
use adapruner_checkpoint::{Checkpoint, ModelConfig, text::TokenSet};
use adapruner_eval::BitsPerByte;
use adapruner_prune::{BankHeader, PlanOptions, PlanTable, PrunePlan};
use adapruner_report::{ModelFacts, Page};
use adapruner_study::journal::timestamp;
use anyhow::Result;
use serde::Serialize;

use crate::{
    printer::{bytes, passed_row, table},
    search_args::command_line,
};

/// What a person or a script is told.
#[derive(Serialize)]
pub(super) struct Report {
    /// What was chosen where nothing was said.
    pub(super) recipe: Chosen,
    pub(super) plan: PlanTable,
    /// The whole plan, in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) full_plan: Option<PrunePlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vocabulary: Option<VocabularyRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) depth: Option<DepthRecord>,
    /// What the model has beside its language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) passed: Option<PassedRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) experts: Option<ExpertRecord>,
    /// What the model takes, or would.
    pub(super) footprint: Footprint,
    /// How the key-value cache was cut to its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kv_cache: Option<CacheRecord>,
    /// The speed that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) speed: Option<SpeedRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) masks: Option<LearnedRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<Manifest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evaluation: Option<BeforeAfter>,
    /// The same on held-out calibration samples, where no text to measure on was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held_out: Option<BeforeAfter>,
    /// What a reader should know, also without a manifest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
    pub(super) peak_memory_bytes: Option<u64>,
}

/// The option by which a share of all parameters is asked for.
const RATIO: &str = "ratio";

/// Says where a plan for the original misses the ratio that was asked of it.
pub(super) fn missed_ratio(
    plan: &PrunePlan,
    config: &ModelConfig,
    options: &PlanOptions,
) -> Option<Caution> {
    let unmet = plan.unmet(config, options);
    unmet.into_iter().find(|unmet| unmet.option == RATIO).map(Caution::from)
}

/// What was asked for and not reached, and whether quality collapsed.
pub(super) fn cautions(
    checkpoint: &Checkpoint,
    plan: Option<&PrunePlan>,
    settings: &PruneSettings,
    (evaluation, held_out): (Option<&BeforeAfter>, Option<&BeforeAfter>),
) -> Vec<Caution> {
    let config = &checkpoint.config;
    let unmet = plan.map(|plan| plan.unmet(config, &settings.plan)).unwrap_or_default();
    // The ratio is that of the original, of which this model may be a part.
    let unmet = unmet.into_iter().filter(|unmet| unmet.option != RATIO).map(Caution::from);
    let pruned = Pruned {
        plan: &settings.plan,
        layers: config.layers.len(),
        learned: settings.masks.is_some(),
        compensated: settings.compensation.is_some(),
    };
    let named = |found: &BeforeAfter| found.after.text.clone();
    let of_text = evaluation.map(|found| (found, named(found)));
    let unseen = held_out.map(|found| (found, format!("held-out samples of {}", named(found))));
    let collapsed = of_text.or(unseen).and_then(|(BeforeAfter { before, after }, text)| {
        // By token of the text before, where that has other ones after.
        let per_token = |after: &BitsPerByte, before: &BitsPerByte, tokens: u64| {
            (after.bits_per_byte * LN_2 * before.bytes as f64 / tokens as f64).exp()
        };
        let now = match (&after.loss.bits, &before.loss.bits) {
            (Some(now), Some(then)) if settings.vocabulary.is_some() => {
                per_token(now, then, before.loss.tokens)
            }
            (Some(_) | None, _) => after.loss.perplexity,
        };
        let pruned = plan.is_some().then_some(&pruned);
        collapse((before.loss.perplexity, now), &text, pruned)
    });
    unmet.chain(collapsed).collect()
}

/// What importances were computed from.
pub(super) fn statistics_record(
    header: Option<&BankHeader>,
    calibration: Option<&TokenSet>,
) -> Option<StatisticsRecord> {
    Some(StatisticsRecord::of(header?, TokensRecord::of(calibration?)))
}

/// The result as a page; `out` is where the model was written.
pub(super) fn page(report: &Report, original: &Checkpoint, out: Option<&Path>) -> Result<Page> {
    let (plan, footprint) = (&report.plan, &report.footprint);
    let source = original.origin.display().to_string();
    let written = out.map_or_else(|| "pruned".to_owned(), |out| out.display().to_string());
    let measured = report.evaluation.as_ref().or(report.held_out.as_ref());
    let compared = measured.zip(footprint.files.first()).map(|(measured, of)| {
        let sizes =
            [(plan.parameters_before, footprint.source_bytes), (plan.parameters_after, of.bytes)];
        let names = [source.clone(), written];
        let bytes = format!("bytes of the tensors before, of the {} files after", of.format);
        compare_models::before_after(names, (sizes, bytes), measured)
    });
    let texts = measured.iter().map(|of| compare_models::facts("measured on", &of.before.tokens()));
    Ok(Page {
        title: format!("adapruner prune: {source}"),
        version: VERSION.to_owned(),
        command: command_line(),
        created: timestamp(),
        model: ModelFacts {
            path: source,
            digest: original.digest()?.to_string(),
            parameters: plan.parameters_before,
            parameters_after: Some(plan.parameters_after),
            ratio: plan.requested_ratio,
            layout: String::new(),
        },
        texts: texts.collect(),
        models: compared.as_ref().map(compare_models::models),
        layers: layers(plan),
        warnings: report.warnings.clone(),
        peak_memory_bytes: report.peak_memory_bytes,
        ..Page::default()
    })
}

/// The result, for people.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("{}\n", report.plan);
    let mut rows = vec![("recipe", report.recipe.to_string())];
    rows.extend(report.vocabulary.as_ref().map(|of| ("vocabulary", of.to_string())));
    rows.extend(report.depth.as_ref().map(|of| ("depth", of.to_string())));
    rows.extend(report.passed.as_ref().map(passed_row));
    rows.extend(report.experts.as_ref().map(|of| ("experts", of.to_string())));
    rows.push(("size", report.footprint.to_string()));
    rows.extend(report.kv_cache.as_ref().map(|of| ("key-value cache", of.to_string())));
    rows.extend(report.speed.as_ref().map(|of| ("speedup", of.to_string())));
    let measured = [("perplexity", &report.evaluation), ("held out", &report.held_out)];
    for (name, BeforeAfter { before, after }) in
        measured.iter().filter_map(|(name, found)| Some((name, found.as_ref()?)))
    {
        rows.push((
            name,
            format!(
                "{:.3} → {:.3} ({}, {} windows of {} tokens)",
                before.loss.perplexity,
                after.loss.perplexity,
                after.text,
                after.loss.windows,
                after.loss.window
            ),
        ));
        if let (Some(before), Some(after)) = (&before.loss.bits, &after.loss.bits) {
            let (before, after) = (before.bits_per_byte, after.bits_per_byte);
            rows.push(("bits per byte", format!("{before:.4} → {after:.4}")));
        }
        rows.push((
            "speed",
            format!("{:.0} → {:.0} tokens/s", before.tokens_per_second, after.tokens_per_second),
        ));
    }
    // Only what was written is measured.
    if report.manifest.is_some() && report.evaluation.is_none() && report.held_out.is_none() {
        let why = match report.vocabulary {
            Some(_) => "not measured: no --text",
            None => {
                "not measured: no --text, and no calibration samples that nothing was chosen by"
            }
        };
        rows.push(("held out", why.to_owned()));
    }
    rows.extend(report.masks.as_ref().map(|masks| ("learned masks", masks.to_string())));
    if let Some(manifest) = &report.manifest {
        rows.extend(manifest.compensation.as_ref().map(|c| ("compensation", c.to_string())));
        for file in &manifest.files {
            rows.push(("written", format!("{} ({})", file.name, bytes(file.bytes))));
        }
    }
    for warning in &report.warnings {
        rows.push(("warning", warning.clone()));
    }
    if let Some(peak) = report.peak_memory_bytes {
        rows.push(("peak memory", bytes(peak)));
    }
    out.push_str(&table(&rows));
    out
}
