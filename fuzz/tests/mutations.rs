//! Mutations of every seed through every target: always the same ones, in every
//! test run. What is beyond them is `tools/fuzz`'s.

#![expect(clippy::disallowed_methods, reason = "tests read what is committed")]

use std::{fs, path::PathBuf};

use adapruner_fuzz::TARGETS;
use adapruner_testing::mutations;

/// Mutations of a seed.
const EACH: usize = 100;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_target_has_seeds_and_every_seed_a_target() {
    let mut targets: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    targets.sort();
    assert_eq!(names(corpus()), targets);
    for target in &targets {
        assert!(!names(corpus().join(target)).is_empty(), "{target}");
    }
}

#[test]
fn mutated_seeds_are_read_or_refused() {
    for target in TARGETS {
        let folder = corpus().join(target.name);
        let seeds: Vec<Vec<u8>> =
            names(folder.clone()).iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
        for seed in &seeds {
            (target.run)(seed);
        }
        for (at, bytes) in mutations(&seeds, 1).take(EACH * seeds.len()).enumerate() {
            let outcome = std::panic::catch_unwind(|| (target.run)(&bytes));
            if outcome.is_err() {
                let kept = std::env::temp_dir().join(format!("{}-{at}", target.name));
                fs::write(&kept, &bytes).unwrap();
                panic!("{}: mutation {at}, kept as {}", target.name, kept.display());
            }
        }
    }
}
