//! Terms of a set of samples that do not follow from per-sample terms.

use super::importance::Importance;
use crate::{
    bank::{StatsBank, Term},
    error::{Error, Result},
};

/// `Σ |w·ḡ|` for the samples, where the bank can tell it.
///
/// # Shapes
/// `[U]`.
///
/// # Errors
/// Terms that were not collected; several samples that are not all of the bank's.
pub(super) fn batch_first(
    bank: &StatsBank,
    samples: &[usize],
    importance: Importance,
) -> Result<Vec<f64>> {
    if samples.len() == 1 {
        // With one sample, ḡ is its gradient.
        if let Ok(values) = bank.mean(Term::Element, samples) {
            return Ok(values);
        }
    }
    whole_set(bank, samples, importance)?;
    Ok(bank.arrays().batch_first.iter().map(|&v| v.into()).collect())
}

/// `Σ |w·ḡ − ½·w²·F̄|` for the samples, where the bank can tell it.
///
/// # Shapes
/// `[U]`.
///
/// # Errors
/// Terms that were not collected; samples that are not all of the bank's.
pub(super) fn batch_mix(
    bank: &StatsBank,
    samples: &[usize],
    importance: Importance,
) -> Result<Vec<f64>> {
    whole_set(bank, samples, importance)?;
    Ok(bank.arrays().batch_mix.iter().map(|&v| v.into()).collect())
}

/// Refuses what does not separate by sample for less than the whole set.
fn whole_set(bank: &StatsBank, samples: &[usize], importance: Importance) -> Result<()> {
    if !bank.header().batch {
        return Err(Error::MissingTerms {
            importance: importance.to_string(),
            needed: "the terms of the whole sample set",
        });
    }
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    if sorted != bank.all_samples() {
        return Err(Error::Importance {
            importance: importance.to_string(),
            message: format!(
                "does not separate by sample: expected all {} samples of the statistics, found a \
                 choice of {} (sample_first, and a blend with fine=per-sample, take any choice)",
                bank.samples(),
                samples.len()
            ),
        });
    }
    Ok(())
}
