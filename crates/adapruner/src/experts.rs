//! Which experts of a mixture are removed whole.
//!
//! The same number goes from every layer, because configurations and GGUF files have one number;
//! each layer chooses its own, by the metrics of [`adapruner_prune::experts`]. A token still takes
//! as many experts as before, of those that stay.

use std::{fmt, str::FromStr};

use adapruner_checkpoint::{Checkpoint, Experts, ModelConfig, text::TokenSet};
use adapruner_model::{Decoder, PassCuts, Placement, Residency};
use adapruner_prune::{
    ExpertMetric, LayerChoice, Routing, Terms, expert_taylor, random_experts, reconstruction,
};
use serde::{Deserialize, Serialize};

use crate::{
    advice::advised,
    error::{Context, Result},
    memory,
    pipeline::{self, TokensRecord},
    progress::Progress,
    settings::CalibrationSettings,
    statistics::{Wanted, cut, streamed},
};

/// Most tokens by whose outputs experts are chosen together.
pub const RECONSTRUCTED: usize = 4096;

/// How many experts go from each layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Removal {
    /// So many.
    Count(usize),
    /// A share of them, rounded down.
    Share(f64),
}

impl Removal {
    /// How many of `count` experts that is.
    fn of(self, count: usize) -> usize {
        match self {
            Self::Count(removed) => removed,
            // 30 % of 10 is 3, whatever its last bits.
            Self::Share(share) => (share * count as f64 + 1e-9).floor() as usize,
        }
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Share(share) => write!(f, "{}%", 100.0 * share),
        }
    }
}

impl FromStr for Removal {
    type Err = String;

    /// `16` is a number of experts; `50%` and `0.5` are a share of them.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "expected a number of experts or a share below 100%, such as 16 or 50%, found \
                 {text:?}"
            )
        };
        let trimmed = text.trim();
        if let Ok(count) = trimmed.parse() {
            return Ok(Self::Count(count));
        }
        let (number, whole) = match trimmed.strip_suffix('%') {
            Some(percent) => (percent.trim_end(), 100.0),
            None => (trimmed, 1.0),
        };
        let share = number.parse::<f64>().map_err(|_| refused())? / whole;
        if (0.0..1.0).contains(&share) { Ok(Self::Share(share)) } else { Err(refused()) }
    }
}

/// What is asked of a model's experts.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ExpertSettings {
    /// How many go from each layer.
    #[serde(serialize_with = "display")]
    pub removed: Removal,
    /// What they are chosen by.
    pub metric: ExpertMetric,
    /// Seed of [`ExpertMetric::Random`].
    pub seed: u64,
}

fn display<T: fmt::Display, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// What one layer's experts scored, and which of them stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerExperts {
    /// Layer index, of a model without the layers that were removed.
    pub layer: usize,
    /// Those that stay, ascending.
    pub kept: Vec<usize>,
    /// The score of every expert.
    pub scores: Vec<f64>,
}

/// A model's experts before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpertRecord {
    /// Experts of each layer before.
    pub before: usize,
    /// Experts of each layer after.
    pub after: usize,
    /// Experts that each token takes, before as after.
    pub chosen: usize,
    /// What they were chosen by.
    pub metric: ExpertMetric,
    /// The samples that it was measured on; none where nothing was measured.
    pub samples: Option<TokensRecord>,
    /// First layer first.
    pub layers: Vec<LayerExperts>,
}

impl fmt::Display for ExpertRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after, chosen, metric, samples, .. } = self;
        write!(f, "{before} → {after} in each layer, {chosen} for each token (by {metric}")?;
        match samples {
            Some(of) => write!(f, " on {} samples of {})", of.windows, of.text),
            None => f.write_str(")"),
        }
    }
}

/// A model less some experts.
pub struct Chosen {
    /// The model with the experts that stay.
    pub model: Checkpoint,
    /// Those of each layer, ascending, by their indices in the model before.
    pub kept: Vec<Vec<usize>>,
    /// How they were chosen.
    pub record: ExpertRecord,
}

impl ExpertSettings {
    /// Whether samples are needed to choose.
    pub fn is_measured(&self) -> bool {
        match self.metric {
            ExpertMetric::Reap
            | ExpertMetric::ReapSum
            | ExpertMetric::Frequency
            | ExpertMetric::Taylor
            | ExpertMetric::Reconstruction => true,
            ExpertMetric::Random => false,
        }
    }

    /// How many experts go from each layer of a model.
    ///
    /// # Errors
    /// A model without experts; none of them, all of them, or so many that fewer are left than a
    /// token takes.
    pub fn check(&self, config: &ModelConfig) -> Result<usize> {
        let Some(Experts { count, chosen, .. }) = config.experts else {
            return Err(advised(
                format!(
                    "drop-experts: the model has no experts: {} is not a mixture of experts",
                    config.family().title
                ),
                "remove layers (--drop-layers), tokens (--vocab) or channels (--ratio)",
            ));
        };
        let (most, removed) = (count.saturating_sub(chosen), self.removed.of(count));
        let wrong = if removed == 0 {
            format!("{} of {count} experts is none", self.removed)
        } else if removed >= count {
            format!("{} of {count} experts leaves none", self.removed)
        } else if removed > most {
            let left = count - removed;
            format!("{removed} of {count} experts leave {left}, and each token takes {chosen}")
        } else {
            return Ok(removed);
        };
        let reach = match most {
            0 => "each token takes all of them, so all must stay".to_owned(),
            most => format!("from 1 to {most} of each layer can go"),
        };
        Err(advised(
            format!("drop-experts: {wrong}: {reach}"),
            "how many experts a token takes is never lowered; remove channels of each (--ratio) or \
             layers (--drop-layers) beside experts",
        ))
    }
}

/// Removes experts of a model, chosen by `samples` where the metric needs some.
///
/// # Errors
/// Those of [`ExpertSettings::check`]; no samples where some are needed; too little memory, a
/// loss that is not finite, damaged weights.
pub fn choose(
    checkpoint: &Checkpoint,
    settings: &ExpertSettings,
    samples: Option<(&TokenSet, &CalibrationSettings)>,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Chosen> {
    let removed = settings.check(&checkpoint.config)?;
    let samples = samples.filter(|_| settings.is_measured());
    let few = samples.and_then(|(tokens, of)| {
        let most = most_tokens(settings.metric, &checkpoint.config, of)?;
        let window = tokens.windows.iter().map(Vec::len).max().unwrap_or(0);
        Some(tokens.few((most / window.max(1)).max(1)))
    });
    let samples = samples.map(|(all, of)| (few.as_ref().unwrap_or(all), of));
    let needed = || samples.context("drop-experts: no samples to choose experts by");
    let routing = || routing(checkpoint, needed()?, placement, progress);
    let scored = |scores: Vec<Vec<f64>>| -> Vec<LayerChoice> {
        scores.into_iter().map(|scores| LayerChoice::by_scores(scores, removed)).collect()
    };
    let choices = match settings.metric {
        ExpertMetric::Reap => scored(routing()?.reap()),
        ExpertMetric::ReapSum => scored(routing()?.reap_sum()),
        ExpertMetric::Frequency => scored(routing()?.frequency()),
        ExpertMetric::Taylor => {
            let (tokens, of) = needed()?;
            let terms = (Terms::Coarse, false);
            let (bank, _) =
                pipeline::collect_statistics(checkpoint, tokens, of, terms, placement, progress)?;
            scored(expert_taylor(&bank, &checkpoint.config)?)
        }
        ExpertMetric::Reconstruction => {
            reconstructed(checkpoint, needed()?, removed, placement, progress)?
        }
        ExpertMetric::Random => scored(random_experts(&checkpoint.config, settings.seed)),
    };
    let kept: Vec<Vec<usize>> = choices.iter().map(|layer| layer.kept.clone()).collect();
    let model = checkpoint.with_experts(&kept)?;
    let layers = choices.into_iter().enumerate();
    let layers =
        layers.map(|(layer, LayerChoice { kept, scores })| LayerExperts { layer, kept, scores });
    let record = ExpertRecord {
        before: checkpoint.config.expert_count(),
        after: model.config.expert_count(),
        chosen: checkpoint.config.experts.map_or(0, |experts| experts.chosen),
        metric: settings.metric,
        samples: samples.map(|(tokens, _)| TokensRecord::of(tokens)),
        layers: layers.collect(),
    };
    Ok(Chosen { model, kept, record })
}

/// How samples are routed, by a pass that reads the model block by block.
fn routing(
    checkpoint: &Checkpoint,
    (tokens, of): (&TokenSet, &CalibrationSettings),
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Routing> {
    let (decoder, cuts) = prepared(checkpoint, (tokens, of), memory::budget(of.memory), placement)?;
    Ok(Routing::of(&decoder, &tokens.windows, &cuts, &|done, all| {
        progress.at("experts", done as u64, all as u64);
    })?)
}

/// Most tokens that a metric takes, where it does not take all: as many as are enough, and as the
/// outputs of a layer's experts fit a quarter of the memory.
fn most_tokens(
    metric: ExpertMetric,
    config: &ModelConfig,
    of: &CalibrationSettings,
) -> Option<usize> {
    match metric {
        ExpertMetric::Reap
        | ExpertMetric::ReapSum
        | ExpertMetric::Frequency
        | ExpertMetric::Taylor
        | ExpertMetric::Random => None,
        ExpertMetric::Reconstruction => {
            // As they are computed and as they are kept, in f32.
            let of_token =
                (2 * size_of::<f32>() * config.expert_count() * config.hidden_size) as u64;
            let fits = memory::budget(of.memory) / 4 / of_token.max(1);
            Some(RECONSTRUCTED.min(usize::try_from(fits).unwrap_or(usize::MAX)))
        }
    }
}

/// Experts chosen by what their layers give, on samples that are few enough.
fn reconstructed(
    checkpoint: &Checkpoint,
    (tokens, of): (&TokenSet, &CalibrationSettings),
    removed: usize,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Vec<LayerChoice>> {
    let memory = memory::budget(of.memory) / 4 * 3;
    let (decoder, cuts) = prepared(checkpoint, (tokens, of), memory, placement)?;
    Ok(reconstruction(&decoder, &tokens.windows, (&cuts, removed), &|done, all| {
        progress.at("experts", done as u64, all as u64);
    })?)
}

/// A decoder that reads the model block by block, and how a forward pass is cut for it.
fn prepared(
    checkpoint: &Checkpoint,
    (tokens, of): (&TokenSet, &CalibrationSettings),
    memory: u64,
    placement: &Placement,
) -> Result<(Decoder, PassCuts)> {
    let wanted = Wanted {
        samples: &tokens.windows,
        terms: Terms::Activations,
        batch: false,
        batch_tokens: of.batch_tokens,
        calibration_digest: tokens.digest,
        seed: of.seed,
    };
    let cuts = cut(checkpoint, &wanted, streamed(checkpoint, placement), memory)?.cuts;
    Ok((Decoder::load(checkpoint, placement, Residency::Streamed)?, cuts))
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Architecture, LayerWidths};

    use super::*;

    #[test]
    fn removals_are_a_number_or_a_share() {
        let parse = |text: &str| text.parse::<Removal>();
        assert_eq!(parse("16"), Ok(Removal::Count(16)));
        assert_eq!(parse("50%"), Ok(Removal::Share(0.5)));
        assert_eq!(parse(" 12.5 % "), Ok(Removal::Share(0.125)));
        assert_eq!(parse("0.5"), Ok(Removal::Share(0.5)));
        for odd in ["", "half", "-1", "100%", "1.5", "%", "nan", "-3%", "inf"] {
            assert!(parse(odd).is_err(), "{odd}");
        }
        for removal in [Removal::Count(3), Removal::Share(0.25)] {
            assert_eq!(removal.to_string().parse(), Ok(removal));
        }
        for (share, count, removed) in [(0.5, 7, 3), (0.3, 10, 3), (0.1, 8, 0), (0.7, 10, 7)] {
            assert_eq!(Removal::Share(share).of(count), removed, "{share} of {count}");
        }
    }

    #[test]
    fn no_more_go_than_leaves_what_a_token_takes() {
        let widths = LayerWidths { query_heads: 2, kv_heads: 2, ffn: 24 };
        let plain = ModelConfig::new(Architecture::Mixtral, 8, 4, 30, vec![widths; 2]);
        let of = |count, chosen| ModelConfig {
            experts: Some(Experts { count, chosen, normalised: true }),
            ..plain.clone()
        };
        let settings = |removed: &str| ExpertSettings {
            removed: removed.parse().unwrap(),
            metric: ExpertMetric::Reap,
            seed: 0,
        };
        let check = |removed: &str, config: &ModelConfig| settings(removed).check(config);
        assert_eq!(check("6", &of(8, 2)).unwrap(), 6);
        assert_eq!(check("50%", &of(8, 2)).unwrap(), 4);
        for (removed, config, said) in [
            ("0", of(8, 2), "0 of 8 experts is none: from 1 to 6 of each layer can go"),
            ("10%", of(8, 2), "10% of 8 experts is none"),
            ("8", of(8, 2), "8 of 8 experts leaves none: from 1 to 6"),
            ("9", of(8, 2), "9 of 8 experts leaves none"),
            ("7", of(8, 2), "7 of 8 experts leave 1, and each token takes 2: from 1 to 6"),
            ("1", of(2, 2), "and each token takes 2: each token takes all of them"),
            (
                "1",
                ModelConfig::new(Architecture::Llama, 8, 4, 30, vec![widths; 2]),
                "the model has no experts",
            ),
        ] {
            let error = check(removed, &config).unwrap_err().to_string();
            assert!(error.contains(said), "{removed}: {error}");
        }
    }
}
