//! Studies of several objectives.

use std::sync::Arc;

use adapruner_study::front::hypervolume_of;
use adapruner_study::study::StopReason;
use adapruner_study::{
    ActiveTrial, Direction, Distribution, Error, JournalStorage, MemoryStorage, Optimize, Outcome,
    ParamValue, RandomSampler, Sampler, Study, TpeSampler, TrialState, of_objective, since_best,
};

const BOTH: [Direction; 2] = [Direction::Minimize; 2];

fn study(sampler: impl Sampler + 'static) -> Study {
    Study::open_multi(Arc::new(MemoryStorage::new()), "s", &BOTH, sampler).unwrap()
}

/// ZDT1 (Zitzler, Deb and Thiele, Evolutionary Computation 8(2), 2000) in five dimensions.
fn zdt1(trial: &mut ActiveTrial<'_>) -> Result<Outcome, Error> {
    let x: Vec<f64> =
        (0..5).map(|at| trial.float(&format!("x{at}"), 0.0, 1.0)).collect::<Result<_, _>>()?;
    let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / 4.0;
    Ok(Outcome::Values(vec![x[0], g * (1.0 - (x[0] / g).sqrt())]))
}

#[test]
fn tpe_finds_a_front_and_random_search_does_not() {
    fn volume(sampler: impl Sampler + 'static) -> f64 {
        let study = study(sampler);
        study.optimize(&Optimize::new().trials(100), zdt1).unwrap();
        hypervolume_of(&study.trials().unwrap(), &BOTH, &[1.1, 11.0])
    }
    // At most 11.1 - 1/3 or so.
    let median = |mut volumes: Vec<f64>| {
        volumes.sort_by(f64::total_cmp);
        volumes[1]
    };
    let tpe = median((0..3).map(|seed| volume(TpeSampler::new(seed))).collect());
    let random = median((0..3).map(|seed| volume(RandomSampler::new(seed))).collect());
    assert!(tpe > 10.5 && random < 9.8, "{tpe} and {random}");
}

/// A subset and a number: more items cost more, and are worth more.
fn items(trial: &mut ActiveTrial<'_>) -> Result<Outcome, Error> {
    let set = trial.subset("set", 20, 1, 10)?;
    let x = trial.float("x", 0.0, 1.0)?;
    let worth: f64 = set.iter().map(|item| 1.0 / (1 + item) as f64).sum();
    Ok(Outcome::Values(vec![(x - 0.3).powi(2) - worth, set.len() as f64]))
}

#[test]
fn subsets_have_fronts_too() {
    let study = study(TpeSampler::new(1));
    study.optimize(&Optimize::new().trials(120), items).unwrap();
    let front = study.front().unwrap();
    let sizes: Vec<usize> =
        front.iter().map(|t| t.params["set"].1.as_subset().unwrap().len()).collect();
    let small = front.iter().find(|trial| trial.values[1] <= 3.0).unwrap();
    assert!(sizes.iter().any(|size| *size >= 8), "{sizes:?}");
    // The best three items are worth 1.83, three by chance 0.54.
    assert!(small.values[1] < 3.0 || small.values[0] < -1.3, "{small:?}");
}

#[test]
fn there_is_a_front_and_no_best_trial() {
    let study = study(TpeSampler::new(2));
    let tell = |outcome| study.tell(study.ask().unwrap().number(), outcome);
    for values in [[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0], [1.0, 3.0]] {
        assert_eq!(tell(Outcome::Values(values.to_vec())).unwrap(), TrialState::Complete);
    }
    tell(Outcome::Infeasible(0.5)).unwrap();
    tell(Outcome::Values(vec![0.0, f64::NAN])).unwrap();
    let front: Vec<u64> = study.front().unwrap().iter().map(|trial| trial.number).collect();
    assert_eq!(front, [0, 1, 3, 4]);
    // Trial 4 equals 0, and 5 is infeasible; 6 failed.
    let trials = study.trials().unwrap();
    assert_eq!((since_best(&trials, &BOTH), trials[6].state), (2, TrialState::Failed));
    let error = study.best_trial().unwrap_err();
    assert!(error.to_string().contains("expected one objective, found 2"), "{error}");
    // Of one objective the front is the best.
    let first = of_objective(&trials, 0);
    assert_eq!(first[1].value(), Some(2.0));
    assert_eq!(since_best(&first, &BOTH[..1]), 5);
}

#[test]
fn trials_of_several_objectives_are_measured_whole() {
    let study = study(TpeSampler::new(3));
    let trial = study.ask().unwrap();
    for error in [trial.report(0, 1.0).unwrap_err(), trial.should_prune().unwrap_err()] {
        assert!(error.to_string().contains("expected one objective, found 2"), "{error}");
    }
    for outcome in [Outcome::Complete(1.0), Outcome::PrunedAt(1.0), Outcome::Values(vec![1.0; 3])] {
        let error = study.tell(study.ask().unwrap().number(), outcome).unwrap_err();
        assert!(error.to_string().contains("each of 2 objectives, found"), "{error}");
    }
}

#[test]
fn no_improvement_is_none_of_the_front() {
    let study = study(TpeSampler::new(4));
    // A front until trial 5, then nothing new.
    let objective = |trial: &mut ActiveTrial<'_>| -> Result<Outcome, Error> {
        let at = trial.number().min(5) as f64;
        Ok(Outcome::Values(vec![at, 5.0 - at]))
    };
    let summary = study.optimize(&Optimize::new().no_improvement(4), objective).unwrap();
    assert_eq!((summary.trials, summary.reason), (10, StopReason::NoImprovement));
}

/// Trials that a dead worker left are given up, and their draws made again: what follows is
/// that of an undisturbed study.
#[test]
fn a_killed_study_goes_on_as_an_undisturbed_one() {
    let proposals = |killed: &[u64]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.log");
        let open = || {
            let storage = Arc::new(JournalStorage::file(&path).unwrap());
            Study::open_multi(storage, "s", &BOTH, TpeSampler::new(6)).unwrap()
        };
        let mut study = open();
        let mut begun = 0;
        while study.trials().unwrap().iter().filter(|t| t.state == TrialState::Complete).count()
            < 40
        {
            let mut trial = study.ask().unwrap();
            let outcome = items(&mut trial).unwrap();
            let number = trial.number();
            begun += 1;
            if killed.contains(&begun) {
                study = open();
                assert_eq!(study.give_up(&[number]).unwrap(), [number]);
                continue;
            }
            study.tell(number, outcome).unwrap();
        }
        let complete = study.trials().unwrap();
        let complete = complete.iter().filter(|trial| trial.state == TrialState::Complete);
        complete.map(|trial| (trial.params.clone(), trial.values.clone())).collect::<Vec<_>>()
    };
    let undisturbed = proposals(&[]);
    assert_eq!(proposals(&[3, 17, 18, 33]), undisturbed);
}

#[test]
fn queued_trials_come_first() {
    let study = study(TpeSampler::new(7));
    let of = Distribution::float(0.0, 1.0);
    study.enqueue([("x0".to_owned(), (of, ParamValue::Float(0.25)))].into()).unwrap();
    study.optimize(&Optimize::new().trials(1), zdt1).unwrap();
    assert_eq!(study.trials().unwrap()[0].values[0], 0.25);
}
