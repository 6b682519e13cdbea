//! Chooses trials and ratios to measure.

use crate::search::{Configuration, StoredStudy, outcome::BestTrial};

use crate::error::{Context, Result, ensure};

/// A model to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Number of the trial.
    pub trial: u64,
    /// Its loss in the search; of one that was stopped early that of the chunks
    /// it got to.
    pub search_loss: f64,
    /// Its configuration.
    pub configuration: Configuration,
    /// Share of all parameters to remove.
    pub ratio: f64,
}

/// Chooses a number of trials, spread over the study's losses, or all of them if there are no
/// more. Trials that were stopped early are included, because they are the worse half.
///
/// The best trial and the first one (of a joint search the hand setting) always
/// are. Then, again and again, the trial that is farthest from all chosen ones
/// is taken, by its rank among the trials plus its log-loss, each from 0 to 1
/// over the study: by loss alone most would be outliers, by rank alone most would
/// be nearly alike.
///
/// # Errors
/// A study without a trial that has a loss; fewer than two trials wanted.
pub fn spread(study: &StoredStudy, count: usize) -> Result<Vec<BestTrial>> {
    ensure!(count >= 2, "trials: at least 2 expected, {count} found");
    let finished = study.trials.iter().filter(|trial| trial.state.is_finished());
    let mut losses: Vec<(f64, u64)> = finished
        .filter_map(|trial| Some((trial.value().filter(|loss| loss.is_finite())?, trial.number)))
        .collect();
    losses.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (Some(least), Some(largest)) = (losses.first(), losses.last()) else {
        let all = study.trials.len();
        return Err(crate::advice::advised(
            format!("study {}: none of {all} trials has a loss", study.name),
            "search first",
        ));
    };
    let span = (largest.0 / least.0).ln();
    let last = losses.len().saturating_sub(1).max(1) as f64;
    let place = |at: usize| {
        let excess = if span > 0.0 { (losses[at].0 / least.0).ln() / span } else { 0.0 };
        at as f64 / last + excess
    };
    let best = study.best().map(|best| best.number);
    let best = best.ok().and_then(|best| losses.iter().position(|(_, number)| *number == best));
    let first = (0..losses.len()).min_by_key(|&at| losses[at].1).context("no trial")?;
    let mut chosen = vec![best.unwrap_or(0)];
    if first != chosen[0] {
        chosen.push(first);
    }
    while chosen.len() < count.min(losses.len()) {
        let distance = |at: usize| {
            let nearest = chosen.iter().map(|&other| (place(at) - place(other)).abs());
            nearest.fold(f64::INFINITY, f64::min)
        };
        let free = (0..losses.len()).filter(|at| !chosen.contains(at));
        // The better of two that are as far.
        let next = free.max_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(b.cmp(&a)));
        chosen.push(next.context("no trial is left")?);
    }
    chosen.into_iter().map(|at| study.trial(losses[at].1)).collect()
}

/// The trials at every ratio, ratio by ratio within a trial.
pub fn wanted(trials: &[BestTrial], ratios: &[f64]) -> Vec<Wanted> {
    let at = |trial: &BestTrial, ratio| Wanted {
        trial: trial.number,
        search_loss: trial.loss,
        configuration: trial.configuration.clone(),
        ratio,
    };
    trials.iter().flat_map(|trial| ratios.iter().map(move |&ratio| at(trial, ratio))).collect()
}
