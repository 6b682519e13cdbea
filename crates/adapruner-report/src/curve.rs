//! Best-so-far of groups of runs, and the order statistics that need it.
//!
//! A run's best-so-far is the least loss among its complete trials up to a
//! trial or a second. Of a group it is the median over its runs, with the least
//! and the largest beside it; a run that has ended keeps its best. A group
//! begins where each of its runs has a value.

use crate::page::{Run, State};

/// What a curve runs along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Trials that ended.
    Trials,
    /// Seconds since the run began.
    Seconds,
}

/// Best-so-far of one group.
#[derive(Debug)]
pub(crate) struct Curve {
    /// The group.
    pub(crate) group: String,
    /// Of how many runs.
    pub(crate) runs: usize,
    /// How many runs of the group had no value at all.
    pub(crate) without: usize,
    /// Where anything changed, in order; at least one.
    pub(crate) steps: Vec<Step>,
    /// Where the last run ended.
    pub(crate) end: f64,
}

/// The values of a group from one place on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    /// Trials or seconds.
    pub(crate) at: f64,
    /// Best of the best run.
    pub(crate) low: f64,
    /// Median of the runs' bests.
    pub(crate) median: f64,
    /// Best of the worst run.
    pub(crate) high: f64,
}

/// The curves of all groups that have a value, in the order in which the
/// groups appear.
pub(crate) fn curves(runs: &[Run], clock: Clock) -> Vec<Curve> {
    groups(runs).into_iter().filter_map(|group| curve(runs, group, clock)).collect()
}

/// The groups, each once, in the order in which they appear.
pub(crate) fn groups(runs: &[Run]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.group.as_str()) {
            names.push(&run.group);
        }
    }
    names
}

/// The value below which a share of sorted values lies, between neighbours in
/// proportion. NaN of no values.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    let part = place - below as f64;
    sorted[below] * (1.0 - part) + sorted[above] * part
}

/// Whether a number can be placed on an axis. Beyond these sizes differences
/// overflow.
pub(crate) fn drawable(value: f64) -> bool {
    value.is_finite() && value.abs() < 1e150
}

/// Where a run's best changed, with the new best; and where it ended.
struct Improvements {
    steps: Vec<(f64, f64)>,
    end: f64,
}

fn improvements(run: &Run, clock: Clock) -> Improvements {
    let mut ended: Vec<(f64, Option<f64>)> = match clock {
        Clock::Trials => {
            let mut trials: Vec<_> =
                run.trials.iter().filter(|trial| trial.state != State::Running).collect();
            trials.sort_by_key(|trial| trial.number);
            let places = (1..).map(f64::from as fn(u32) -> f64);
            places.zip(trials).map(|(place, trial)| (place, complete(trial))).collect()
        }
        Clock::Seconds => run
            .trials
            .iter()
            .filter(|trial| trial.state != State::Running && drawable(trial.seconds))
            .map(|trial| (trial.seconds.max(0.0), complete(trial)))
            .collect(),
    };
    ended.sort_by(|left, right| left.0.total_cmp(&right.0));
    let end = ended.last().map_or(0.0, |last| last.0);
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (at, value) in ended {
        let Some(value) = value else { continue };
        if steps.last().is_none_or(|best| value < best.1) {
            steps.push((at, value));
        }
    }
    Improvements { steps, end }
}

fn complete(trial: &crate::page::TrialPoint) -> Option<f64> {
    trial.value.filter(|value| trial.state == State::Complete && drawable(*value))
}

fn curve(runs: &[Run], group: &str, clock: Clock) -> Option<Curve> {
    let all: Vec<Improvements> =
        runs.iter().filter(|run| run.group == group).map(|run| improvements(run, clock)).collect();
    let valued: Vec<&Improvements> = all.iter().filter(|run| !run.steps.is_empty()).collect();
    let start = valued.iter().map(|run| run.steps[0].0).max_by(f64::total_cmp)?;
    let mut places: Vec<f64> =
        valued.iter().flat_map(|run| run.steps.iter().map(|step| step.0)).collect();
    places.retain(|place| *place >= start);
    places.sort_by(f64::total_cmp);
    places.dedup();

    let mut next = vec![0; valued.len()];
    let mut bests = vec![f64::INFINITY; valued.len()];
    let mut steps = Vec::with_capacity(places.len());
    for at in places {
        for (run, (next, best)) in valued.iter().zip(next.iter_mut().zip(&mut bests)) {
            while let Some(step) = run.steps.get(*next).filter(|step| step.0 <= at) {
                *best = step.1;
                *next += 1;
            }
        }
        let mut sorted = bests.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[0], sorted[sorted.len() - 1]);
        steps.push(Step { at, low, median: quantile(&sorted, 0.5), high });
    }
    Some(Curve {
        group: group.to_owned(),
        runs: valued.len(),
        without: all.len() - valued.len(),
        steps,
        end: all.iter().map(|run| run.end).fold(start, f64::max),
    })
}

#[cfg(test)]
mod tests {
    use super::{Clock, Step, curves, quantile};
    use crate::page::{Run, State, TrialPoint};

    fn run(group: &str, values: &[(State, Option<f64>)]) -> Run {
        let trials = values.iter().zip(0u32..).map(|(&(state, value), number)| TrialPoint {
            number: u64::from(number),
            state,
            value,
            seconds: f64::from(number) * 10.0 + 10.0,
            values: Vec::new(),
        });
        Run { label: group.to_owned(), group: group.to_owned(), trials: trials.collect() }
    }

    #[test]
    fn median_and_band_are_over_the_runs_of_a_group() {
        let done = |value| (State::Complete, Some(value));
        let runs = [
            run("a", &[done(5.0), done(4.0), done(4.5), done(3.0)]),
            run("a", &[(State::Failed, None), done(6.0), (State::Pruned, Some(1.0))]),
            run("b", &[(State::Complete, Some(f64::NAN)), (State::Running, None)]),
        ];
        let curves = curves(&runs, Clock::Trials);
        assert_eq!(curves.len(), 1, "a group without values has no curve");
        let expected = [
            Step { at: 2.0, low: 4.0, median: 5.0, high: 6.0 },
            Step { at: 4.0, low: 3.0, median: 4.5, high: 6.0 },
        ];
        assert_eq!(curves[0].steps, expected);
        assert_eq!((curves[0].runs, curves[0].without, curves[0].end), (2, 0, 4.0));
    }

    #[test]
    fn seconds_may_come_in_any_order() {
        let mut run = run("a", &[(State::Complete, Some(2.0)), (State::Complete, Some(3.0))]);
        run.trials[0].seconds = 30.0;
        run.trials[1].seconds = 20.0;
        let curves = curves(&[run], Clock::Seconds);
        let medians: Vec<_> = curves[0].steps.iter().map(|step| (step.at, step.median)).collect();
        assert_eq!(medians, [(20.0, 3.0), (30.0, 2.0)]);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[7.0], 0.1), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
