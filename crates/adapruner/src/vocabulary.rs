//! Chooses which tokens of a model stay, by example texts.
//!
//! Counts all tokens of the texts, with every tenth stretch held out. The cost of a vocabulary
//! size is measured on the held-out stretches, with tokens ranked by the others
//! ([`adapruner_prune::vocabulary`]); the final ranking uses all of them. A cost is the share
//! of additional tokens that a text needs.

use std::{fmt, ops::ControlFlow, str::FromStr};

use adapruner_checkpoint::{Checkpoint, Digest, text, tokenizer::vocabulary::Role};
use adapruner_prune::{VocabularyPlan, vocabulary::Ranking};
use serde::{Deserialize, Serialize};

use crate::{
    caution::Caution,
    error::{Result, ensure},
    progress::Progress,
    settings::TextSettings,
};

/// Tokens of a stretch that is counted or held out.
const STRETCH: usize = 4096;
/// One of so many stretches is held out.
const HELD_OUT: usize = 10;
/// Share of additional tokens from which a text counts as a different kind.
const FOREIGN: f64 = 0.05;

/// How many tokens stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// This many.
    Count(usize),
    /// As few as the tolerance allows.
    Auto,
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(tokens) => tokens.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let refused = |_| format!("expected a number of tokens or \"auto\", found {text:?}");
        text.parse().map(Self::Count).map_err(refused)
    }
}

/// The requested vocabulary.
#[derive(Debug, Clone, Serialize)]
pub struct VocabularySettings {
    /// How many tokens stay.
    #[serde(serialize_with = "display")]
    pub tokens: Tokens,
    /// Texts whose tokens are counted.
    pub texts: Vec<TextSettings>,
    /// The embedding's rows become a multiple of this.
    pub multiple_of: usize,
    /// Share of additional tokens that held-out text may need, for [`Tokens::Auto`].
    pub tolerance: f64,
}

fn display<S: serde::Serializer>(value: &Tokens, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A text that tokens were counted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CountedText {
    /// File or named set.
    pub text: String,
    /// Digest of the text.
    pub digest: Digest,
    /// Its tokens in the whole vocabulary.
    pub tokens: u64,
}

/// A vocabulary before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VocabularyRecord {
    /// Rows of the embedding before.
    pub rows_before: usize,
    /// Rows of the embedding after, padding included.
    pub rows: usize,
    /// Tokens that stay.
    pub tokens: usize,
    /// Tokens that always stay.
    pub required: usize,
    /// Share of additional tokens that held-out text needs, with as many tokens ranked without
    /// it.
    pub held_out_growth: f64,
    /// The tolerance, if it determined the number of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// The texts.
    pub texts: Vec<CountedText>,
}

impl fmt::Display for VocabularyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} rows, {} tokens", self.rows_before, self.rows, self.tokens)?;
        let growth = 100.0 * self.held_out_growth;
        write!(f, "; held-out text takes {growth:.2} % more tokens")?;
        match self.tolerance {
            Some(tolerance) => write!(f, " (auto: at most {:.2} %)", 100.0 * tolerance),
            None => Ok(()),
        }
    }
}

/// A vocabulary that was chosen.
pub struct Chosen {
    /// The model with these tokens alone.
    pub model: Checkpoint,
    /// The tokens.
    pub plan: VocabularyPlan,
    /// How they were chosen.
    pub record: VocabularyRecord,
    ranking: Ranking,
}

/// How often each token of a model occurs in texts, by id.
struct Counts {
    /// Counts for ranking when costs are measured.
    ranked: Vec<u64>,
    /// Held-out stretches.
    held_out: Vec<u64>,
}

/// Counts the tokens of a text, in bounded memory.
fn count(
    checkpoint: &Checkpoint,
    text: &text::Text,
    counts: &mut Counts,
    progress: &dyn Progress,
) -> Result<u64> {
    let mut seen = 0_usize;
    text.all().encode(&checkpoint.tokenizer, |mut ids| -> Result<_> {
        while !ids.is_empty() {
            let left = STRETCH - seen % STRETCH;
            let (stretch, rest) = ids.split_at(left.min(ids.len()));
            let held_out = seen / STRETCH % HELD_OUT == HELD_OUT - 1;
            let of = if held_out { &mut counts.held_out } else { &mut counts.ranked };
            for id in stretch {
                let Some(slot) = of.get_mut(*id as usize) else {
                    crate::error::bail!("{}: id {id} is beyond the vocabulary", text.name);
                };
                *slot += 1;
            }
            (seen, ids) = (seen + stretch.len(), rest);
        }
        // How many there are is not known before the end.
        progress.at("counting tokens", seen as u64, seen as u64 + 1);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(seen as u64)
}

/// Chooses the tokens of a model.
///
/// # Errors
/// Texts that cannot be read; a tokenizer that cannot lose tokens, by name; fewer tokens than
/// bytes and special tokens need; nothing to remove.
pub fn choose(
    checkpoint: &Checkpoint,
    settings: &VocabularySettings,
    progress: &dyn Progress,
) -> Result<Chosen> {
    let tolerance = settings.tolerance;
    ensure!(
        (0.0..1.0).contains(&tolerance),
        "vocab-tolerance: a number from 0 to below 1 expected, {tolerance} found"
    );
    let vocabulary = checkpoint.vocabulary()?;
    let rows_before = vocabulary.rows();
    let mut counts = Counts { ranked: vec![0; rows_before], held_out: vec![0; rows_before] };
    let mut texts = Vec::with_capacity(settings.texts.len());
    for settings in &settings.texts {
        let text = text::read(&settings.text, &settings.options())?;
        let tokens = count(checkpoint, &text, &mut counts, progress)?;
        texts.push(CountedText { text: text.name.clone(), digest: text.digest, tokens });
    }
    let short = counts.held_out.iter().all(|count| *count == 0);
    // Too short to hold anything out.
    let measured = if short { &counts.ranked } else { &counts.held_out };
    let judge = Ranking::new(&vocabulary, &counts.ranked);
    let (tokens, tolerance) = match settings.tokens {
        Tokens::Count(tokens) => (tokens, None),
        Tokens::Auto => (judge.within(measured, tolerance), Some(tolerance)),
    };
    let growths = judge.growths_of(measured);
    let all: Vec<u64> = counts.ranked.iter().zip(&counts.held_out).map(|(a, b)| a + b).collect();
    let ranking = Ranking::new(&vocabulary, &all);
    let kept = ranking.keep(tokens)?;
    let plan = VocabularyPlan::new(kept, rows_before, settings.multiple_of)?;
    let gone = ranking.most().saturating_sub(plan.kept.len());
    let record = VocabularyRecord {
        rows_before,
        rows: plan.rows,
        tokens: plan.kept.len(),
        required: vocabulary.of_role(Role::Required).count(),
        held_out_growth: growths.get(gone).copied().unwrap_or(0.0),
        tolerance,
        texts,
    };
    let model = checkpoint.with_vocabulary(&plan.kept, plan.rows)?;
    Ok(Chosen { model, plan, record, ranking })
}

impl Chosen {
    /// Warns about a text that needs many more tokens in the chosen vocabulary, such as one in
    /// a language that the vocabulary's texts lack. `windows` are in the whole vocabulary.
    pub fn foreign(&self, name: &str, windows: &[Vec<u32>]) -> Option<Caution> {
        let mut counts = vec![0_u64; self.record.rows_before];
        for id in windows.iter().flatten() {
            if let Some(slot) = counts.get_mut(*id as usize) {
                *slot += 1;
            }
        }
        let gone = self.ranking.most().saturating_sub(self.plan.kept.len());
        let growth = self.ranking.growths_of(&counts).get(gone).copied().unwrap_or(0.0);
        (growth > FOREIGN).then(|| Caution {
            message: format!(
                "{name} takes {:.1} % more tokens in the vocabulary that was chosen: the texts that \
                 it was chosen by are of another language or kind",
                100.0 * growth
            ),
            hint: "give texts of all the kinds that the model is meant for: --vocab-text".into(),
        })
    }
}
